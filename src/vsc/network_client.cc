// SPDX-License-Identifier: Apache-2.0
// Freestanding.
#include "hvsdk/vsc/network_client.h"

namespace hvsdk::vsc {

namespace netvsp = hvdef::netvsp;
namespace rndis = hvdef::rndis;
using netvsp::MessageType;
using netvsp::Version;
using vmbus::RingStatus;

namespace {

constexpr Version kVersions[] = {Version::k61, Version::k6, Version::k5, Version::k4, Version::k2, Version::k1};
constexpr uint32_t kEthernetBytes = 14;
// The longest packet of the host's that we know: a transfer of all ranges that there may be.
constexpr uint32_t kMaxPacketBytes =
    sizeof(hvdef::TransferPageHeader) + netvsp::kMaxRanges * sizeof(hvdef::TransferPageRange) + sizeof(netvsp::Message);
constexpr uint32_t kCompletionBytes = 32 + netvsp::kMessageBytesV61;

// The newest version below `above`, or nothing we know.
bool NextVersion(uint64_t above, Version& version) {
  for (const Version candidate : kVersions) {
    if (static_cast<uint64_t>(candidate) >= above) continue;
    version = candidate;
    return true;
  }
  return false;
}

}  // namespace

NetworkClient::NetworkClient(VmbusClient& bus, Channel& channel, const ClientRings& rings)
    : bus_(bus), channel_(channel), rings_(rings) {
  if (!rings_.is_valid()) state_ = State::kFailed;
  channel.context = this;
  channel.on_signal = [](void* self, Channel&) { static_cast<NetworkClient*>(self)->OnSignal(); };
  channel.on_end = [](void* self, Channel&) { static_cast<NetworkClient*>(self)->End(State::kEnded); };
}

void NetworkClient::End(State state) {
  if (state_ == State::kEnded) return;
  state_ = state;
  is_asking_ = is_messaging_ = false;
}

bool NetworkClient::Staged(RingStatus status) {
  if (status == RingStatus::kCorrupt) End(State::kFailed);
  return status == RingStatus::kOk;
}

uint32_t NetworkClient::message_bytes() const {
  return version_ >= Version::k61 ? netvsp::kMessageBytesV61 : netvsp::kMessageBytesV1;
}

void NetworkClient::Publish() {
  if (rings_.outgoing.Publish() == vmbus::Signal::kNeeded) bus_.Signal(channel_);
}

void NetworkClient::Start(const NetworkBuffers& buffers, Version newest) {
  if (state_ != State::kIdle) return;
  buffers_ = buffers;
  state_ = State::kStarting;
  if (!NextVersion(static_cast<uint64_t>(newest) + 1, version_) || !SendVersion()) End(State::kFailed);
}

void NetworkClient::StartSubchannel(NetworkClient& primary) {
  if (state_ != State::kIdle || primary.state_ != State::kReady) return;
  primary_ = &primary;
  version_ = primary.version_;
  state_ = State::kReady;
}

bool NetworkClient::SendMessage(const netvsp::Message& message, bool wants_completion) {
  if (is_over() || channel_.state() != Channel::State::kOpen) return false;
  if (wants_completion && is_messaging_) return false;
  const auto header = vmbus::PacketHeader::InBand(kMessageId, wants_completion);
  if (!Staged(rings_.outgoing.StageInBand(header, &message, message_bytes()))) return false;
  is_messaging_ |= wants_completion;
  Publish();
  return true;
}

bool NetworkClient::SendVersion() {
  netvsp::Message message = {};
  message.type = MessageType::kInit;
  message.init = {version_, version_};
  return SendMessage(message, true);
}

bool NetworkClient::RequestSubchannels(uint32_t count) {
  if (state_ != State::kReady || version_ < Version::k5) return false;
  netvsp::Message message = {};
  message.type = MessageType::kSubchannel;
  message.subchannel_request = {netvsp::kSubchannelAllocate, count};
  return SendMessage(message, true);
}

// What the last step has brought is there.
void NetworkClient::NextStep(bool is_good) {
  if (!is_good) return End(State::kFailed);
  step_ = static_cast<Step>(static_cast<uint8_t>(step_) + 1);
  netvsp::Message message = {};
  bool sent = true;
  switch (step_) {
    case Step::kReceiveGpadl:
      if (version_ >= Version::k2) {
        message.type = MessageType::kSendNdisConfig;
        message.ndis_config.max_frame_bytes = buffers_.mtu_bytes + kEthernetBytes;
        message.ndis_config.capabilities =
            netvsp::kCapabilityVlan | (buffers_.coalesces ? netvsp::kCapabilityRscOverVmbus : 0);
        sent = SendMessage(message, false);
      }
      message = {};
      message.type = MessageType::kSendNdisVersion;
      message.ndis_version = {6, version_ <= Version::k4 ? 1u : 30u};
      sent = sent && SendMessage(message, false) && bus_.CreateGpadl(receive_gpadl_, channel_, buffers_.receive_pages);
      break;
    case Step::kReceiveBuffer:
      message.type = MessageType::kSendReceiveBuffer;
      message.send_buffer = {receive_gpadl_.id(), netvsp::kReceiveBufferId, 0};
      sent = SendMessage(message, true);
      break;
    case Step::kSendGpadl:
      sent = bus_.CreateGpadl(send_gpadl_, channel_, buffers_.send_pages);
      break;
    case Step::kSendBuffer:
      message.type = MessageType::kSendSendBuffer;
      message.send_buffer = {send_gpadl_.id(), netvsp::kSendBufferId, 0};
      sent = SendMessage(message, true);
      break;
    case Step::kInitialize: {
      const rndis::Initialize initialize = {++request_id_, rndis::kMajorVersion, rndis::kMinorVersion, 0x4000};
      const struct {
        rndis::MessageHeader header;
        rndis::Initialize body;
      } request = {{rndis::MessageType::kInitialize, sizeof(request)}, initialize};
      sent = SendRndis(netvsp::RndisChannel::kControl, &request, sizeof(request), nullptr, 0, nullptr, 0);
      asked_ = rndis::MessageType::kInitialize;
      is_asking_ = sent;
      break;
    }
    case Step::kAddress:
      sent = SendRequest(rndis::MessageType::kQuery, rndis::Oid::k8023PermanentAddress, nullptr, 0);
      break;
    case Step::kOffload: {
      rndis::OffloadParameters offload = {};
      offload.header = {rndis::kObjectDefault, 3, sizeof(offload)};
      offload.ipv4_checksum = offload.tcp_ipv4_checksum = offload.udp_ipv4_checksum = rndis::kOffloadChecksumBoth;
      offload.tcp_ipv6_checksum = offload.udp_ipv6_checksum = rndis::kOffloadChecksumBoth;
      offload.lso_v2_ipv4 = offload.lso_v2_ipv6 = rndis::kOffloadOn;
      if (buffers_.coalesces && version_ >= Version::k61) offload.rsc_ipv4 = offload.rsc_ipv6 = rndis::kOffloadOn;
      sent = SendRequest(rndis::MessageType::kSet, rndis::Oid::kTcpOffloadParameters, &offload, sizeof(offload));
      break;
    }
    case Step::kLink:
      sent = SendRequest(rndis::MessageType::kQuery, rndis::Oid::kGenMediaConnectStatus, nullptr, 0);
      break;
    case Step::kFilter: {
      const uint32_t filter = rndis::kFilterDirected | rndis::kFilterBroadcast;
      sent = SendRequest(rndis::MessageType::kSet, rndis::Oid::kGenCurrentPacketFilter, &filter, sizeof(filter));
      break;
    }
    case Step::kReady:
      state_ = State::kReady;
      break;
    default:
      break;
  }
  if (!sent) End(State::kFailed);
}

void NetworkClient::Advance() {
  if (state_ != State::kStarting) return;
  if (step_ != Step::kReceiveGpadl && step_ != Step::kSendGpadl) return;
  const Gpadl::State gpadl = (step_ == Step::kReceiveGpadl ? receive_gpadl_ : send_gpadl_).state();
  if (gpadl == Gpadl::State::kCreated) NextStep(true);
  if (gpadl == Gpadl::State::kFailed) NextStep(false);
}

bool NetworkClient::Query(rndis::Oid oid, const void* info, uint32_t size_bytes) {
  return state_ == State::kReady && SendRequest(rndis::MessageType::kQuery, oid, info, size_bytes);
}

bool NetworkClient::Set(rndis::Oid oid, const void* info, uint32_t size_bytes) {
  return state_ == State::kReady && SendRequest(rndis::MessageType::kSet, oid, info, size_bytes);
}

bool NetworkClient::SendRequest(rndis::MessageType type, rndis::Oid oid, const void* info, uint32_t size_bytes) {
  if (is_asking_ || primary_ != this || size_bytes > kMaxInfoBytes) return false;
  struct {
    rndis::MessageHeader header;
    rndis::Request body;
  } request = {};
  request.header = {type, static_cast<uint32_t>(sizeof(request)) + size_bytes};
  request.body = {++request_id_, oid, size_bytes, sizeof(request.body), 0};
  if (!SendRndis(netvsp::RndisChannel::kControl, &request, sizeof(request), static_cast<const uint8_t*>(info),
                 size_bytes, nullptr, 0)) {
    return false;
  }
  asked_ = type;
  is_asking_ = true;
  Publish();
  return true;
}

bool NetworkClient::Send(const SentFrame& frame) {
  if (state_ != State::kReady) return false;
  struct {
    rndis::MessageHeader header;
    rndis::Packet packet;
    struct {
      rndis::PerPacketInfo info;
      uint32_t value;
    } infos[3];
  } message = {};
  uint32_t count = 0;
  const auto add = [&](rndis::InfoType type, uint32_t value) {
    message.infos[count++] = {{sizeof(message.infos[0]), type, sizeof(rndis::PerPacketInfo)}, value};
  };
  if (frame.info.has_checksum) add(rndis::InfoType::kChecksum, frame.info.checksum);
  if (frame.info.has_large_send) add(rndis::InfoType::kLargeSend, frame.info.large_send);
  if (frame.info.has_vlan) add(rndis::InfoType::kVlan, frame.info.vlan);
  uint64_t data_bytes = frame.size_bytes;
  for (uint32_t i = 0; i < frame.page_buffers; ++i) data_bytes += frame.pages[i].byte_count;
  const uint32_t info_bytes = count * static_cast<uint32_t>(sizeof(message.infos[0]));
  const uint32_t header_bytes = static_cast<uint32_t>(sizeof(message.header) + sizeof(message.packet)) + info_bytes;
  if (data_bytes > 0xFFFFFFFF - header_bytes) return false;
  message.header = {rndis::MessageType::kPacket, header_bytes + static_cast<uint32_t>(data_bytes)};
  message.packet.data_offset = header_bytes - static_cast<uint32_t>(sizeof(message.header));
  message.packet.data_length = static_cast<uint32_t>(data_bytes);
  if (count != 0) message.packet.per_packet_info_offset = sizeof(message.packet);
  message.packet.per_packet_info_length = info_bytes;
  return SendRndis(netvsp::RndisChannel::kData, &message, header_bytes, frame.data, frame.size_bytes, frame.pages,
                   frame.page_buffers);
}

// Headers and data go into a section of the send buffer, pages follow.
bool NetworkClient::SendRndis(netvsp::RndisChannel channel, const void* header, uint32_t header_bytes,
                              const uint8_t* data, uint32_t size_bytes, const vmbus::GpaBuffer* pages,
                              uint32_t page_buffers) {
  if (is_over() || channel_.state() != Channel::State::kOpen) return false;
  NetworkClient& owner = *primary_;
  if (owner.free_count_ == 0 || size_bytes > owner.section_bytes_ - header_bytes) return false;
  const uint32_t section = owner.free_[owner.free_count_ - 1];
  uint8_t* const to = owner.buffers_.send + uint64_t{section} * owner.section_bytes_;
  __builtin_memcpy(to, header, header_bytes);
  if (size_bytes != 0) __builtin_memcpy(to + header_bytes, data, size_bytes);
  netvsp::Message message = {};
  message.type = MessageType::kSendRndisPacket;
  message.rndis_packet = {channel, section, header_bytes + size_bytes};
  const RingStatus status =
      page_buffers != 0
          ? rings_.outgoing.StageGpaDirect(section, true, pages, page_buffers, &message, message_bytes())
          : rings_.outgoing.StageInBand(vmbus::PacketHeader::InBand(section, true), &message, message_bytes());
  if (!Staged(status)) return false;
  --owner.free_count_;
  owner.in_use_ |= uint64_t{1} << section;
  if (channel == netvsp::RndisChannel::kControl) Publish();
  return true;
}

void NetworkClient::OnSignal() {
  if (is_over()) return;
  Advance();
  rings_.incoming.Mask();
  for (;;) {
    TakePackets();
    if (is_over()) return;
    Publish();
    const vmbus::Armed armed = rings_.incoming.Arm();
    if (armed.signal == vmbus::Signal::kNeeded) bus_.Signal(channel_);
    if (!armed.may_sleep) {
      // Without room for completions there is nothing to be taken until the host makes some, and says so.
      if (rings_.outgoing.WaitForRoom(kCompletionBytes) == RingStatus::kFull) return;
      continue;
    }
    if (rings_.incoming.fault() != vmbus::RingFault::kNone) End(State::kFailed);
    return;
  }
}

void NetworkClient::TakePackets() {
  alignas(8) uint8_t buffer[kMaxPacketBytes];
  vmbus::Packet packet;
  while (!is_over()) {
    // Each may want a completion.
    if (rings_.outgoing.free_bytes() < kCompletionBytes &&
        rings_.outgoing.WaitForRoom(kCompletionBytes) != RingStatus::kOk) {
      return;
    }
    switch (rings_.incoming.Read(buffer, sizeof(buffer), packet)) {
      case RingStatus::kOk:
        OnPacket(packet);
        break;
      case RingStatus::kTooBig:
      case RingStatus::kCorrupt:
        return End(State::kFailed);
      case RingStatus::kEmpty:
      case RingStatus::kFull:
        return;
    }
  }
}

void NetworkClient::OnPacket(const vmbus::Packet& packet) {
  netvsp::Message message = {};
  const size_t size = packet.payload_size < sizeof(message) ? packet.payload_size : sizeof(message);
  __builtin_memcpy(&message, packet.payload, size);
  switch (packet.type) {
    case hvdef::PacketType::kCompletion:
      return OnCompletion(packet.transaction_id, message);
    case hvdef::PacketType::kDataUsingTransferPages:
      return OnTransfer(packet, message);
    case hvdef::PacketType::kDataInBand: {
      if (message.type != MessageType::kSendIndirectionTable) return;
      const netvsp::SendIndirectionTable& table = message.indirection_table;
      if (table.count != netvsp::kSendTableEntries || table.offset > packet.payload_size ||
          packet.payload_size - table.offset < sizeof(send_table_)) {
        return;
      }
      __builtin_memcpy(send_table_, packet.payload + table.offset, sizeof(send_table_));
      ++send_tables_;
      return;
    }
    default:
      return;
  }
}

void NetworkClient::OnCompletion(uint64_t id, const netvsp::Message& message) {
  NetworkClient& owner = *primary_;
  if (id < kMaxSends) {
    if ((owner.in_use_ >> id & 1) == 0) return;
    owner.in_use_ &= ~(uint64_t{1} << id);
    owner.free_[owner.free_count_++] = static_cast<uint32_t>(id);
    return;
  }
  if (id != kMessageId || !is_messaging_) return;
  is_messaging_ = false;
  switch (message.type) {
    case MessageType::kInitComplete: {
      if (step_ != Step::kVersion) return End(State::kFailed);
      if (message.init_complete.status == netvsp::Status::kSuccess) return NextStep(true);
      if (!NextVersion(static_cast<uint64_t>(version_), version_) || !SendVersion()) End(State::kFailed);
      return;
    }
    case MessageType::kSendReceiveBufferComplete:
      return NextStep(step_ == Step::kReceiveBuffer &&
                      message.send_receive_buffer_complete.status == netvsp::Status::kSuccess);
    case MessageType::kSendSendBufferComplete: {
      const netvsp::SendSendBufferComplete& complete = message.send_send_buffer_complete;
      const uint64_t bytes = uint64_t{buffers_.send_pages.page_count} * hvdef::kRingPageSize;
      if (step_ != Step::kSendBuffer || complete.status != netvsp::Status::kSuccess ||
          complete.section_bytes < kMaxInfoBytes + 128 || complete.section_bytes > bytes) {
        return End(State::kFailed);
      }
      section_bytes_ = complete.section_bytes;
      sections_ = bytes / section_bytes_ < kMaxSends ? static_cast<uint32_t>(bytes / section_bytes_) : kMaxSends;
      free_count_ = 0;
      for (uint32_t i = sections_; i-- != 0;) free_[free_count_++] = i;
      return NextStep(true);
    }
    case MessageType::kSubchannel:
      subchannels_ =
          message.subchannel_complete.status == netvsp::Status::kSuccess ? message.subchannel_complete.subchannels : 0;
      return;
    default:
      return End(State::kFailed);
  }
}

void NetworkClient::OnTransfer(const vmbus::Packet& packet, const netvsp::Message& message) {
  const NetworkClient& owner = *primary_;
  hvdef::TransferPageHeader header = {};
  uint32_t ranges = 0;
  if (packet.extension_size >= sizeof(header)) {
    __builtin_memcpy(&header, packet.extension, sizeof(header));
    const uint64_t most = (packet.extension_size - sizeof(header)) / sizeof(hvdef::TransferPageRange);
    if (header.transfer_page_set_id == netvsp::kReceiveBufferId && header.range_count <= most)
      ranges = header.range_count;
  }
  const uint64_t buffer_bytes = uint64_t{owner.buffers_.receive_pages.page_count} * hvdef::kRingPageSize;
  for (uint32_t i = 0; i < ranges && message.type == MessageType::kSendRndisPacket; ++i) {
    hvdef::TransferPageRange range;
    __builtin_memcpy(&range, packet.extension + sizeof(header) + i * sizeof(range), sizeof(range));
    if (range.byte_offset > buffer_bytes || range.byte_count > buffer_bytes - range.byte_offset) {
      ++dropped_;
      continue;
    }
    const uint8_t* const bytes = owner.buffers_.receive + range.byte_offset;
    if (message.rndis_packet.channel == netvsp::RndisChannel::kControl) {
      OnControl(bytes, range.byte_count);
    } else {
      OnData(bytes, range.byte_count);
    }
    if (is_over()) return;
  }
  if (!packet.completion_requested()) return;
  netvsp::Message complete = {};
  complete.type = MessageType::kSendRndisPacketComplete;
  complete.rndis_packet_complete.status = netvsp::Status::kSuccess;
  const auto to = vmbus::PacketHeader::Completion(packet.transaction_id);
  if (rings_.outgoing.StageInBand(to, &complete, message_bytes()) != RingStatus::kOk) End(State::kFailed);
}

void NetworkClient::OnControl(const uint8_t* bytes, uint32_t size_bytes) {
  struct {
    rndis::MessageHeader header;
    union {
      rndis::InitializeComplete initialize;
      rndis::QueryComplete query;
      rndis::Complete set;
      rndis::IndicateStatus indicate;
    };
  } message = {};
  __builtin_memcpy(&message, bytes, size_bytes < sizeof(message) ? size_bytes : sizeof(message));
  if (message.header.length > size_bytes || message.header.length < sizeof(message.header) + sizeof(message.set)) {
    ++dropped_;
    return;
  }
  if (message.header.type == rndis::MessageType::kIndicateStatus) {
    const bool is_up = message.indicate.status == rndis::Status::kMediaConnect;
    if (!is_up && message.indicate.status != rndis::Status::kMediaDisconnect) return;
    link_is_up_ = is_up;
    ++link_changes_;
    return;
  }
  const auto expected = static_cast<rndis::MessageType>(static_cast<uint32_t>(asked_) | rndis::kCompletion);
  if (!is_asking_ || message.header.type != expected || message.set.request_id != request_id_) return;
  is_asking_ = false;
  answer_status_ = message.set.status;
  answer_bytes_ = 0;
  if (asked_ == rndis::MessageType::kQuery && answer_status_ == rndis::Status::kSuccess) {
    const uint32_t body_bytes = message.header.length - static_cast<uint32_t>(sizeof(message.header));
    const rndis::QueryComplete& query = message.query;
    if (query.info_offset > body_bytes || query.info_length > body_bytes - query.info_offset ||
        query.info_length > kMaxInfoBytes) {
      return End(State::kFailed);
    }
    answer_bytes_ = query.info_length;
    __builtin_memcpy(answer_, bytes + sizeof(message.header) + query.info_offset, answer_bytes_);
  }
  if (state_ != State::kStarting) return;
  bool is_good = answer_status_ == rndis::Status::kSuccess;
  if (step_ == Step::kAddress) {
    is_good = is_good && answer_bytes_ == sizeof(mac_address_);
    if (is_good) __builtin_memcpy(mac_address_, answer_, sizeof(mac_address_));
  }
  if (step_ == Step::kLink && answer_bytes_ >= sizeof(uint32_t)) {
    uint32_t connected;
    __builtin_memcpy(&connected, answer_, sizeof(connected));
    link_is_up_ = connected == rndis::kMediaConnected;
  }
  NextStep(is_good);
}

void NetworkClient::OnData(const uint8_t* bytes, uint32_t size_bytes) {
  struct {
    rndis::MessageHeader header;
    rndis::Packet packet;
  } message = {};
  const auto drop = [this] { ++dropped_; };
  if (size_bytes < sizeof(message)) return drop();
  __builtin_memcpy(&message, bytes, sizeof(message));
  const uint32_t body_bytes = size_bytes - static_cast<uint32_t>(sizeof(message.header));
  const rndis::Packet& packet = message.packet;
  if (message.header.type != rndis::MessageType::kPacket || message.header.length != size_bytes ||
      packet.data_offset > body_bytes || packet.data_length > body_bytes - packet.data_offset ||
      packet.per_packet_info_offset > body_bytes ||
      packet.per_packet_info_length > body_bytes - packet.per_packet_info_offset) {
    return drop();
  }
  const uint8_t* const body = bytes + sizeof(message.header);
  ReceivedFrame frame;
  frame.data = body + packet.data_offset;
  frame.size_bytes = packet.data_length;
  uint32_t left = packet.per_packet_info_length;
  for (const uint8_t* at = body + packet.per_packet_info_offset; left >= sizeof(rndis::PerPacketInfo);) {
    rndis::PerPacketInfo info;
    __builtin_memcpy(&info, at, sizeof(info));
    if (info.size < sizeof(info) + sizeof(uint32_t) || info.size > left || info.offset > info.size - sizeof(uint32_t)) {
      return drop();
    }
    uint32_t value;
    __builtin_memcpy(&value, at + info.offset, sizeof(value));
    if (info.type == rndis::InfoType::kChecksum) frame.info.has_checksum = true, frame.info.checksum = value;
    if (info.type == rndis::InfoType::kVlan) frame.info.has_vlan = true, frame.info.vlan = value;
    if (info.type == rndis::InfoType::kHashValue) frame.info.has_hash = true, frame.info.hash = value;
    if (info.type == rndis::InfoType::kPacketId) {
      frame.info.has_packet_id = true;
      __builtin_memcpy(&frame.info.packet_id, &value, sizeof(value));
    }
    at += info.size;
    left -= info.size;
  }
  NetworkClient& owner = *primary_;
  if (owner.on_frame != nullptr) owner.on_frame(owner.context, frame);
}

}  // namespace hvsdk::vsc
