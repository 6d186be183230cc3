// SPDX-License-Identifier: Apache-2.0
#include "vsp/network_channel.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "hvsdk/hvdef/rndis.h"
#include "hvsdk/vmbus/gpa_buffer.h"
#include "resource/host_buffers.h"
#include "vsp/rndis_device.h"

namespace hvsdk::vsp {

namespace netvsp = hvdef::netvsp;
namespace rndis = hvdef::rndis;
using vmbus::Take;

namespace {

// A page list of as many pages as a large send touches, and more.
constexpr uint32_t kMaxPacketBytes = 4096;
// Frames in one transfer: one interrupt and one completion for all of them.
constexpr size_t kMaxRanges = NetworkChannel::kMaxParts;
static_assert(kMaxRanges <= netvsp::kMaxRanges);
// What a guest says about a frame beside it.
constexpr size_t kMaxInfoBytes = 512;
// Messages in one packet; we ask for RndisDevice::kMaxPackets at most.
constexpr int kMaxMessages = 64;
static_assert(kMaxMessages >= RndisDevice::kMaxPackets);

// Bytes [at, at + sizeof(T)) of the pieces, if there are so many.
template <typename T>
bool Load(absl::Span<const HostBuffer> pieces, size_t at, T& object) {
  return CopyFromBuffers(pieces, at, &object, sizeof(T)) == sizeof(T);
}

}  // namespace

NetworkChannel::NetworkChannel(NetworkChannelHost& host, uint16_t index, size_t most_frames)
    : PacketPump({.max_packet_bytes = kMaxPacketBytes}), host_(host), index_(index), most_frames_(most_frames) {}

bool NetworkChannel::OnOpen(vmbus::Channel& channel) {
  const NetworkRest rest(host_);
  restored_ = {};  // of an opening that the bus knows nothing of
  if (!PacketPump::OnOpen(channel)) return false;
  Begin();
  if (host_.OnOpen(*this)) return true;
  is_open_ = false;
  return false;
}

void NetworkChannel::Begin() {
  is_open_ = true;
  batch_ = TransmitBatch(host_.port_info(), host_.max_mtu_bytes());
  is_blocked_.store(false, std::memory_order_relaxed);
  drops_batch_.store(false, std::memory_order_relaxed);
  batch_ids_.clear();
  batch_ids_.reserve(TransmitBatch::kFrames);
  completions_.clear();
  completions_.reserve(kMaxCompletions);
  ForgetFrames();
  frames_.reserve(most_frames_);
  arrived_.reserve(most_frames_);
}

void NetworkChannel::ForgetFrames() {
  frames_.clear();
  arrived_.clear();
  queued_.store(0);
}

void NetworkChannel::OnRestored(vmbus::Channel& channel) {
  const NetworkRest rest(host_);
  PacketPump::OnRestored(channel);
  Begin();
  const NetworkChannelState state = std::exchange(restored_, {});
  for (const auto& saved : state.completions) {
    Completion& completion = completions_.emplace_back();
    completion = {saved.transaction_id, {}, static_cast<uint32_t>(saved.message.size())};
    std::copy(saved.message.begin(), saved.message.end(), reinterpret_cast<uint8_t*>(&completion.message));
  }
  QueueFrames(state.frames);
  host_.OnRestored(*this);
}

NetworkChannelState NetworkChannel::Save() const {
  if (!is_open_) return restored_;
  NetworkChannelState state;
  for (const Completion& completion : completions_) {
    const auto* const bytes = reinterpret_cast<const uint8_t*>(&completion.message);
    state.completions.push_back({completion.transaction_id, {bytes, bytes + completion.size_bytes}});
  }
  state.frames = frames_;
  state.frames.insert(state.frames.end(), arrived_.begin(), arrived_.end());
  return state;
}

bool NetworkChannel::IsPossible(const NetworkChannelState& state) {
  size_t parts = 0;
  for (const auto& frame : state.frames) {
    parts = frame.goes_on ? parts + 1 : 0;
    if (parts >= kMaxParts) return false;
  }
  return parts == 0 && state.completions.size() <= kMaxCompletions &&
         state.frames.size() <= ReceiveBuffer::kMaxSections &&
         std::all_of(state.completions.begin(), state.completions.end(),
                     [](const auto& saved) { return saved.message.size() <= sizeof(netvsp::Message); });
}

void NetworkChannel::Restore(NetworkChannelState state) { restored_ = std::move(state); }

void NetworkChannel::Reset() {
  restored_ = {};
  batch_.Clear();
  batch_ids_.clear();
  completions_.clear();
  ForgetFrames();
}

void NetworkChannel::OnClosing(vmbus::Channel&) {
  const NetworkRest rest(host_);
  if (!std::exchange(is_open_, false)) return;
  batch_.Clear();
  batch_ids_.clear();
  completions_.clear();
  DropFrames();
  host_.OnClosed(*this);
  FinishClose();
}

void NetworkChannel::OnSignal(vmbus::Channel&) {
  if (!host_.is_paused()) TakeTurn();
}

void NetworkChannel::OnGpadlTeardown(vmbus::Channel&, uint32_t gpadl_id) {
  const NetworkRest rest(host_);
  host_.OnGpadlTeardown(gpadl_id);
}

void NetworkChannel::DropFrames() {
  TakeArrived();
  if (ReceiveBuffer* const buffer = host_.receive_buffer(); buffer != nullptr) {
    for (const auto& frame : frames_) buffer->Return(frame.section);
  }
  ForgetFrames();
}

void NetworkChannel::DropBatch() {
  host_.CountTransmitErrors(*this, batch_.unsent());
  batch_.Clear();
  is_blocked_.store(false, std::memory_order_relaxed);
  for (const uint64_t id : batch_ids_) CompleteRndis(id, netvsp::Status::kSuccess);
  batch_ids_.clear();
}

Take NetworkChannel::OnTurn() {
  if (host_.is_paused()) return Take::kNoMore;
  const bool was_sent = SendBatch();
  if (drops_batch_.load(std::memory_order_relaxed) && drops_batch_.exchange(false) && !was_sent) DropBatch();
  const bool has_room = SendCompletions();
  if (has_room && (index_ != 0 || host_.SendOwn(*this))) (void)SendFrames();
  return Next();
}

Take NetworkChannel::Next() {
  const bool may_take = batch_.is_empty() && completions_.empty() && (index_ != 0 || host_.has_control_room());
  return may_take ? Take::kMore : Take::kNoMore;
}

bool NetworkChannel::SendBatch() {
  if (!batch_.is_empty()) {
    const auto queue = static_cast<uint16_t>(index_ % host_.port_info().queues);
    const auto lock = host_.LockQueue(queue);
    const bool was_sent = batch_.Send(host_.port(), queue);
    is_blocked_.store(!was_sent);
    if (!was_sent) {
      // A lane that waits for sections looks again: the completions that give them back may stand behind what the port does not take.
      host_.OnRoomForFrames();
      return false;
    }
  }
  for (const uint64_t id : batch_ids_) CompleteRndis(id, netvsp::Status::kSuccess);
  batch_ids_.clear();
  return true;
}

void NetworkChannel::CompleteRndis(uint64_t transaction_id, netvsp::Status status) {
  netvsp::Message message = {};
  message.type = netvsp::MessageType::kSendRndisPacketComplete;
  message.rndis_packet_complete.status = status;
  completions_.push_back({transaction_id, message, host_.message_bytes()});
}

bool NetworkChannel::SendCompletions() {
  size_t sent = 0;
  while (sent < completions_.size()) {
    const Completion& completion = completions_[sent];
    const auto header = vmbus::PacketHeader::Completion(completion.transaction_id);
    if (!Send(header, &completion.message, completion.size_bytes)) break;
    ++sent;
  }
  completions_.erase(completions_.begin(), completions_.begin() + static_cast<ptrdiff_t>(sent));
  return completions_.empty();
}

bool NetworkChannel::SendMessage(const void* message, uint32_t size_bytes) {
  return Send(vmbus::PacketHeader::InBand(0, false), message, size_bytes);
}

bool NetworkChannel::SendControl(uint32_t section, uint32_t size_bytes) {
  ReceiveBuffer& buffer = *host_.receive_buffer();
  const hvdef::TransferPageRange range = {size_bytes, section * buffer.section_bytes()};
  netvsp::Message message = {};
  message.type = netvsp::MessageType::kSendRndisPacket;
  message.rndis_packet = {netvsp::RndisChannel::kControl, netvsp::kNoSection, 0};
  if (!SendTransferPages(section, buffer.id(), {&range, 1}, &message, host_.message_bytes())) return false;
  buffer.Lend({&section, 1}, index_);
  return true;
}

void NetworkChannel::TakeArrived() {
  std::lock_guard lock(arrived_mutex_);
  if (frames_.empty()) return frames_.swap(arrived_);
  frames_.insert(frames_.end(), arrived_.begin(), arrived_.end());
  arrived_.clear();
}

bool NetworkChannel::SendFrames() {
  if (queued_frames() != frames_.size()) TakeArrived();
  // A channel may be restored before the primary one, which has the buffer.
  if (frames_.empty() || host_.receive_buffer() == nullptr) return true;
  ReceiveBuffer& buffer = *host_.receive_buffer();
  netvsp::Message message = {};
  message.type = netvsp::MessageType::kSendRndisPacket;
  message.rndis_packet = {netvsp::RndisChannel::kData, netvsp::kNoSection, 0};
  size_t sent = 0;
  while (sent < frames_.size()) {
    std::array<hvdef::TransferPageRange, kMaxRanges> ranges;
    std::array<uint32_t, kMaxRanges> sections;
    size_t count = std::min(kMaxRanges, frames_.size() - sent);
    while (frames_[sent + count - 1].goes_on) --count;  // a frame's parts belong into one transfer
    for (size_t i = 0; i < count; ++i) {
      const auto& frame = frames_[sent + i];
      sections[i] = frame.section;
      ranges[i] = {frame.size_bytes, frame.section * buffer.section_bytes()};
    }
    if (!SendTransferPages(sections[0], buffer.id(), absl::MakeConstSpan(ranges).first(count), &message,
                           host_.message_bytes())) {
      break;
    }
    buffer.Lend(absl::MakeConstSpan(sections).first(count), index_);
    sent += count;
    AddWork(count);
  }
  frames_.erase(frames_.begin(), frames_.begin() + static_cast<ptrdiff_t>(sent));
  queued_.fetch_sub(sent);
  if (sent != 0) host_.OnRoomForFrames();
  return frames_.empty();
}

Take NetworkChannel::OnPacket(const vmbus::Packet& packet) {
  if (packet.type == hvdef::PacketType::kCompletion) {
    // Of a buffer that is gone the guest may say what it likes.
    ReceiveBuffer* const buffer = host_.receive_buffer();
    if (buffer != nullptr && buffer->TakeBack(packet.transaction_id, index_)) host_.OnRoomForFrames();
    return Take::kMore;
  }
  const bool is_data =
      packet.type == hvdef::PacketType::kDataInBand || packet.type == hvdef::PacketType::kDataUsingGpaDirect;
  if (!is_data || packet.payload_size < sizeof(netvsp::MessageType)) return Take::kMalformed;
  netvsp::Message message = {};
  std::memcpy(&message, packet.payload, std::min<size_t>(packet.payload_size, sizeof(message)));
  if (message.type == netvsp::MessageType::kSendRndisPacket) return HandleRndis(packet, message.rndis_packet);
  if (index_ != 0) return Take::kMalformed;
  netvsp::Message reply = {};
  const Take take = host_.HandleMessage(message, reply);
  if (take == Take::kMalformed) return take;
  if (packet.completion_requested()) {
    const uint32_t size_bytes = reply.type == netvsp::MessageType::kNone ? 0 : host_.message_bytes();
    completions_.push_back({packet.transaction_id, reply, size_bytes});
  }
  (void)SendCompletions();
  return Next();
}

Take NetworkChannel::HandleRndis(const vmbus::Packet& packet, const netvsp::SendRndisPacket& body) {
  if (!Gather(packet, body)) return Take::kMalformed;
  if (body.channel != netvsp::RndisChannel::kData) {
    if (body.channel != netvsp::RndisChannel::kControl || index_ != 0) return Take::kMalformed;
    if (!host_.HandleControl(pieces_, pieces_bytes_)) return Take::kMalformed;
    if (packet.completion_requested()) CompleteRndis(packet.transaction_id, netvsp::Status::kSuccess);
    (void)SendCompletions();
    return Next();
  }
  const TransmitBatch::Mark mark = batch_.mark();
  if (!AddFrames()) {
    batch_.GoBackTo(mark);
    return Take::kMalformed;
  }
  if (packet.completion_requested()) batch_ids_.push_back(packet.transaction_id);
  if (!batch_.is_full() && batch_ids_.size() < TransmitBatch::kFrames) return Take::kMore;
  if (!SendBatch() || !SendCompletions()) return Take::kNoMore;
  return Take::kMore;
}

bool NetworkChannel::Gather(const vmbus::Packet& packet, const netvsp::SendRndisPacket& body) {
  pieces_.clear();
  pieces_bytes_ = 0;
  const auto add = [&](uint64_t, uint8_t* host, uint64_t size) { pieces_.push_back({host, size}); };
  if (body.send_section != netvsp::kNoSection) {
    if (!host_.AddSendSection(body.send_section, body.send_section_size, pieces_)) return false;
    pieces_bytes_ = body.send_section_size;
  }
  if (packet.type == hvdef::PacketType::kDataUsingGpaDirect) {
    vmbus::GpaBufferWalk walk(packet.extension, packet.extension_size);
    for (vmbus::GpaBuffer buffer; walk.Next(buffer);) {
      if (!vmbus::ForEachPiece(channel().memory(), buffer, 0, buffer.byte_count, add)) return false;
      pieces_bytes_ += buffer.byte_count;
    }
    if (!walk.valid()) return false;
  }
  return pieces_bytes_ >= sizeof(rndis::MessageHeader);
}

// The frames of all messages in the pieces, to the last byte. False: a length lies.
bool NetworkChannel::AddFrames() {
  size_t at = 0;
  for (int messages = 0; at < pieces_bytes_; ++messages) {
    rndis::MessageHeader header;
    if (messages == kMaxMessages || !Load(pieces_, at, header)) return false;
    if (header.length < sizeof(header) || header.length > pieces_bytes_ - at) return false;
    if (header.type != rndis::MessageType::kPacket || !AddFrame(at, header.length)) return false;
    at += header.length;
    AddWork(1);
  }
  return true;
}

bool NetworkChannel::AddFrame(size_t at, size_t size_bytes) {
  rndis::Packet packet;
  const size_t body_at = at + sizeof(rndis::MessageHeader);
  const size_t body_bytes = size_bytes - sizeof(rndis::MessageHeader);
  if (body_bytes < sizeof(packet) || !Load(pieces_, body_at, packet)) return false;
  if (packet.data_offset < sizeof(packet) || packet.data_offset > body_bytes ||
      packet.data_length > body_bytes - packet.data_offset) {
    return false;
  }
  TransmitRequest request;
  if (packet.per_packet_info_offset != 0 && packet.per_packet_info_length != 0) {
    const size_t info_bytes = packet.per_packet_info_length;
    if (packet.per_packet_info_offset < sizeof(packet) || packet.per_packet_info_offset > body_bytes ||
        info_bytes > body_bytes - packet.per_packet_info_offset || info_bytes > kMaxInfoBytes) {
      return false;
    }
    alignas(4) uint8_t infos[kMaxInfoBytes];
    CopyFromBuffers(pieces_, body_at + packet.per_packet_info_offset, infos, info_bytes);
    for (size_t info_at = 0; info_at < info_bytes;) {
      rndis::PerPacketInfo info;
      if (info_bytes - info_at < sizeof(info)) return false;
      std::memcpy(&info, infos + info_at, sizeof(info));
      if (info.size < sizeof(info) || info.size > info_bytes - info_at || info.offset > info.size) return false;
      uint32_t value = 0;
      const size_t value_bytes = std::min<size_t>(info.size - info.offset, sizeof(value));
      std::memcpy(&value, infos + info_at + info.offset, value_bytes);
      switch (info.type) {
        case rndis::InfoType::kChecksum:
          request.has_checksum = true;
          request.checksum = value;
          break;
        case rndis::InfoType::kLargeSend:
          request.has_large_send = true;
          request.large_send = value;
          break;
        case rndis::InfoType::kVlan:
          request.has_vlan = true;
          request.vlan = value & 0xFFFF;
          break;
        default:
          break;  // hints, and what only other ends know
      }
      info_at += info.size;
    }
  }
  if (!host_.is_initialized()) return true;
  const size_t data_at = body_at + packet.data_offset;
  MacAddress destination;
  if (!batch_.Add(pieces_, data_at, packet.data_length, request) || !Load(pieces_, data_at, destination)) {
    host_.CountTransmitErrors(*this, 1);
    return true;
  }
  host_.CountTransmit(*this, destination.data(), packet.data_length);
  return true;
}

}  // namespace hvsdk::vsp
