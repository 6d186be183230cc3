// SPDX-License-Identifier: Apache-2.0
// Freestanding.
#include "hvsdk/vsc/storage_client.h"

#include "hvsdk/hvdef/scsi_data.h"

namespace hvsdk::vsc {

namespace storvsc = hvdef::storvsc;
using storvsc::Operation;
using storvsc::Status;
using storvsc::Version;
using vmbus::RingStatus;

namespace {

constexpr Version kVersions[] = {Version::kWin10, Version::kWin81, Version::kWin8, Version::kWin7, Version::kWin6};

// The newest version below `above`, or nothing we know.
bool NextVersion(uint32_t above, Version& version) {
  for (const Version candidate : kVersions) {
    if (static_cast<uint32_t>(candidate) >= above) continue;
    version = candidate;
    return true;
  }
  return false;
}

void StoreBigEndian(uint8_t* to, uint64_t value, int bytes) {
  for (int i = bytes; i-- > 0; value >>= 8) to[i] = static_cast<uint8_t>(value);
}

void SetCommand(StorageRequest& request, hvdef::scsi::OpCode op_code, uint8_t length, uint8_t direction) {
  for (uint8_t& byte : request.cdb) byte = 0;
  request.cdb[0] = static_cast<uint8_t>(op_code);
  request.cdb_length = length;
  request.data_direction = direction;
}

}  // namespace

void StorageRequest::SetTestUnitReady() {
  SetCommand(*this, hvdef::scsi::OpCode::kTestUnitReady, 6, storvsc::kDataNone);
}

void StorageRequest::SetInquiry(uint16_t allocation_bytes) {
  SetCommand(*this, hvdef::scsi::OpCode::kInquiry, 6, storvsc::kDataIn);
  StoreBigEndian(cdb + 3, allocation_bytes, 2);
}

void StorageRequest::SetVitalProductData(uint8_t page, uint16_t allocation_bytes) {
  SetInquiry(allocation_bytes);
  cdb[1] = 1;
  cdb[2] = page;
}

void StorageRequest::SetReadCapacity16() {
  SetCommand(*this, hvdef::scsi::OpCode::kServiceActionIn16, 16, storvsc::kDataIn);
  cdb[1] = hvdef::scsi::kReadCapacity16;
  StoreBigEndian(cdb + 10, sizeof(hvdef::scsi::ReadCapacity16Data), 4);
}

void StorageRequest::SetReportLuns(uint32_t allocation_bytes) {
  SetCommand(*this, hvdef::scsi::OpCode::kReportLuns, 12, storvsc::kDataIn);
  StoreBigEndian(cdb + 6, allocation_bytes, 4);
}

void StorageRequest::SetRead(uint64_t lba, uint32_t blocks) {
  SetCommand(*this, hvdef::scsi::OpCode::kRead16, 16, storvsc::kDataIn);
  StoreBigEndian(cdb + 2, lba, 8);
  StoreBigEndian(cdb + 10, blocks, 4);
}

void StorageRequest::SetWrite(uint64_t lba, uint32_t blocks, bool force_unit_access) {
  SetCommand(*this, hvdef::scsi::OpCode::kWrite16, 16, storvsc::kDataOut);
  if (force_unit_access) cdb[1] = 0x08;
  StoreBigEndian(cdb + 2, lba, 8);
  StoreBigEndian(cdb + 10, blocks, 4);
}

void StorageRequest::SetSynchronizeCache() {
  SetCommand(*this, hvdef::scsi::OpCode::kSynchronizeCache10, 10, storvsc::kDataNone);
}

StorageClient::StorageClient(VmbusClient& bus, Channel& channel, const ClientRings& rings)
    : bus_(bus), channel_(channel), rings_(rings) {
  for (uint32_t i = 0; i < kMaxRequests; ++i) free_[i] = kMaxRequests - 1 - i;
  if (!rings_.is_valid()) state_ = State::kFailed;
  channel.context = this;
  channel.on_signal = [](void* context, Channel&) { static_cast<StorageClient*>(context)->OnSignal(); };
  channel.on_end = [](void* context, Channel&) { static_cast<StorageClient*>(context)->End(State::kEnded); };
}

// Whatever waits for the provider waits no more.
void StorageClient::End(State state) {
  if (state_ == State::kEnded) return;
  state_ = state;
  control_in_flight_ = false;
  if (subchannels_ == Subchannels::kRequested) subchannels_ = Subchannels::kRefused;
  for (uint32_t place = 0; place < kMaxRequests; ++place) {
    if (requests_[place] == nullptr) continue;
    StorageRequest& request = Take(place);
    request.lost = true;
    request.srb_status = static_cast<uint8_t>(storvsc::SrbStatus::kRequestFlushed);
    request.scsi_status = 0;
    request.transferred = 0;
    request.has_sense = false;
    request.is_done = true;
    if (request.on_done != nullptr) request.on_done(request.context, request);
  }
}

bool StorageClient::Staged(RingStatus status) {
  if (status == RingStatus::kCorrupt) End(State::kFailed);
  return status == RingStatus::kOk;
}

void StorageClient::Start(Version newest) {
  if (state_ != State::kIdle) return;
  state_ = State::kStarting;
  if (!NextVersion(static_cast<uint32_t>(newest) + 1, version_) || !SendControl(Operation::kBeginInitialization)) {
    End(State::kFailed);
  }
}

void StorageClient::StartSubchannel(const StorageClient& primary) {
  if (state_ != State::kIdle || primary.state_ != State::kReady) return;
  version_ = primary.version_;
  max_transfer_bytes_ = primary.max_transfer_bytes_;
  state_ = State::kReady;
}

// Before the version is agreed both ends take the long form.
size_t StorageClient::packet_bytes() const {
  return state_ == State::kReady && version_ < Version::kWin8 ? storvsc::kPacketBytesV1 : storvsc::kPacketBytes;
}

bool StorageClient::SendControl(Operation operation, uint16_t value) {
  if (control_in_flight_ || is_over() || channel_.state() != Channel::State::kOpen) return false;
  storvsc::Packet packet = {};
  packet.header.operation = operation;
  packet.header.flags = storvsc::kFlagRequestCompletion;
  packet.sub_channel_count = value;  // ProtocolVersion::major_minor stands in the same place
  const RingStatus status = rings_.outgoing.StageInBand(vmbus::PacketHeader::InBand(kControlId, true), &packet,
                                                        static_cast<uint32_t>(packet_bytes()));
  if (!Staged(status)) return false;
  control_in_flight_ = true;
  waits_for_ = operation;
  Publish();
  return true;
}

bool StorageClient::RequestSubchannels(uint16_t count) {
  if (state_ != State::kReady || max_subchannels_ == 0 || subchannels_ == Subchannels::kRequested) return false;
  if (!SendControl(Operation::kCreateSubChannels, count)) return false;
  subchannels_ = Subchannels::kRequested;
  return true;
}

bool StorageClient::ResetBus() {
  if (state_ != State::kReady || !SendControl(Operation::kResetBus)) return false;
  reset_done_ = false;
  return true;
}

bool StorageClient::Send(StorageRequest& request) {
  if (state_ != State::kReady || in_flight_ == kMaxRequests) return false;
  if (channel_.state() != Channel::State::kOpen) return false;
  storvsc::Packet packet = {};
  packet.header.operation = Operation::kExecuteSrb;
  packet.header.flags = storvsc::kFlagRequestCompletion;
  packet.scsi.length = static_cast<uint16_t>(packet_bytes() - sizeof(packet.header));
  packet.scsi.path_id = request.path_id;
  packet.scsi.target_id = request.target_id;
  packet.scsi.lun = request.lun;
  packet.scsi.cdb_length = request.cdb_length;
  packet.scsi.sense_info_length = storvsc::kSenseBytes;
  packet.scsi.data_in = request.data_direction;
  packet.scsi.data_transfer_length = request.data.byte_count;
  packet.scsi.srb_flags = request.srb_flags;
  __builtin_memcpy(packet.scsi.payload, request.cdb, sizeof(request.cdb));
  const uint32_t place = free_[kMaxRequests - 1 - in_flight_];
  const uint64_t id = uint64_t{place} + 1;
  const uint32_t size = static_cast<uint32_t>(packet_bytes());
  const RingStatus status = request.data.byte_count != 0
                                ? rings_.outgoing.StageGpaDirect(id, true, &request.data, 1, &packet, size)
                                : rings_.outgoing.StageInBand(vmbus::PacketHeader::InBand(id, true), &packet, size);
  if (!Staged(status)) return false;
  request.is_done = false;
  request.lost = false;
  requests_[place] = &request;
  ++in_flight_;
  return true;
}

void StorageClient::Publish() {
  if (rings_.outgoing.Publish() == vmbus::Signal::kNeeded) bus_.Signal(channel_);
}

void StorageClient::OnSignal() {
  if (is_over()) return;
  rings_.incoming.Mask();
  for (;;) {
    TakePackets();
    if (is_over()) return;
    const vmbus::Armed armed = rings_.incoming.Arm();
    if (armed.signal == vmbus::Signal::kNeeded) bus_.Signal(channel_);
    if (!armed.may_sleep) continue;
    if (rings_.incoming.fault() != vmbus::RingFault::kNone) End(State::kFailed);
    return;
  }
}

void StorageClient::TakePackets() {
  alignas(8) uint8_t buffer[128];
  vmbus::Packet packet;
  while (!is_over()) {  // a callback may end it
    switch (rings_.incoming.Read(buffer, sizeof(buffer), packet)) {
      case RingStatus::kOk:
        OnPacket(packet);
        break;
      case RingStatus::kTooBig: {
        // Nothing that we know is so long, so nobody looks inside.
        decltype(rings_.incoming)::View view;
        if (rings_.incoming.Peek(view) != RingStatus::kOk) return End(State::kFailed);
        rings_.incoming.Release(view);
        if (view.type() == hvdef::PacketType::kCompletion && WaitsFor(view.transaction_id())) End(State::kFailed);
        break;
      }
      case RingStatus::kCorrupt:
        return End(State::kFailed);
      case RingStatus::kEmpty:
      case RingStatus::kFull:
        return;
    }
  }
}

void StorageClient::OnPacket(const vmbus::Packet& packet) {
  storvsc::Packet answer = {};
  const size_t size = packet.payload_size < sizeof(answer) ? packet.payload_size : sizeof(answer);
  __builtin_memcpy(&answer, packet.payload, size);
  if (packet.type == hvdef::PacketType::kDataInBand) {
    if (answer.header.operation == Operation::kEnumerateBus) ++bus_changes_;
    return;
  }
  if (packet.type != hvdef::PacketType::kCompletion || !WaitsFor(packet.transaction_id)) return;
  const bool is_control = packet.transaction_id == kControlId;
  const size_t least = is_control ? sizeof(answer.header) : storvsc::kPacketBytesV1;
  if (size < least || answer.header.operation != Operation::kCompleteIo) return End(State::kFailed);
  if (is_control) {
    OnControl(answer);
  } else {
    OnCompletion(packet.transaction_id, answer);
  }
}

bool StorageClient::WaitsFor(uint64_t id) const {
  if (id == kControlId) return control_in_flight_;
  return id != 0 && id <= kMaxRequests && requests_[id - 1] != nullptr;
}

// BEGIN_INITIALIZATION, QUERY_PROTOCOL_VERSION until one is agreed, QUERY_PROPERTIES, END_INITIALIZATION.
void StorageClient::OnControl(const storvsc::Packet& packet) {
  control_in_flight_ = false;
  const bool ok = packet.header.status == Status::kSuccess;
  if (waits_for_ == Operation::kCreateSubChannels) {
    subchannels_ = ok ? Subchannels::kGranted : Subchannels::kRefused;
    return;
  }
  if (waits_for_ == Operation::kResetBus) {
    reset_done_ = true;
    return;
  }
  bool goes_on = false;
  switch (waits_for_) {
    case Operation::kBeginInitialization:
      goes_on = ok && SendControl(Operation::kQueryProtocolVersion, static_cast<uint16_t>(version_));
      break;
    case Operation::kQueryProtocolVersion:
      if (ok) {
        goes_on = SendControl(Operation::kQueryProperties);
      } else {
        goes_on = NextVersion(static_cast<uint32_t>(version_), version_) &&
                  SendControl(Operation::kQueryProtocolVersion, static_cast<uint16_t>(version_));
      }
      break;
    case Operation::kQueryProperties:
      max_transfer_bytes_ = packet.properties.max_transfer_bytes;
      if ((packet.properties.flags & storvsc::kChannelSupportsMultiChannel) != 0) {
        max_subchannels_ = packet.properties.maximum_sub_channel_count;
      }
      goes_on = ok && SendControl(Operation::kEndInitialization);
      break;
    case Operation::kEndInitialization:
      if (ok) state_ = State::kReady;
      goes_on = ok;
      break;
    default:
      break;
  }
  if (!goes_on) End(State::kFailed);
}

StorageRequest& StorageClient::Take(uint32_t place) {
  StorageRequest& request = *requests_[place];
  requests_[place] = nullptr;
  --in_flight_;
  free_[kMaxRequests - 1 - in_flight_] = place;
  return request;
}

void StorageClient::OnCompletion(uint64_t id, const storvsc::Packet& packet) {
  StorageRequest& request = Take(static_cast<uint32_t>(id - 1));
  request.srb_status = packet.scsi.srb_status;
  request.scsi_status = packet.scsi.scsi_status;
  request.transferred = packet.scsi.data_transfer_length < request.data.byte_count ? packet.scsi.data_transfer_length
                                                                                   : request.data.byte_count;
  request.has_sense = (packet.scsi.srb_status & storvsc::kSrbStatusAutosenseValid) != 0;
  if (request.has_sense)
    __builtin_memcpy(static_cast<void*>(&request.sense), packet.scsi.payload, sizeof(request.sense));
  request.is_done = true;
  if (request.on_done != nullptr) request.on_done(request.context, request);
}

}  // namespace hvsdk::vsc
