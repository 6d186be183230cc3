// SPDX-License-Identifier: Apache-2.0
#include "vsp/network_lane.h"

#include <algorithm>
#include <cstring>

#include "hvsdk/ethernet/headers.h"
#include "hvsdk/hvdef/rndis.h"
#include "resource/host_buffers.h"
#include "vsp/frame_pieces.h"

namespace hvsdk::vsp {

namespace rndis = hvdef::rndis;

namespace {

constexpr size_t kEthernetBytes = ethernet::kHeaderBytes;
// Sections that frames leave for control messages.
constexpr uint32_t kControlSections = 16;
static_assert(NetworkLane::kMostMessages <= NetworkChannel::kMaxFrames);

// A frame's headers of ours end where its room begins.
constexpr uint32_t kHeadroom = ReceiveBuffer::kHeadroomBytes;
constexpr uint32_t kInfoBytes = sizeof(rndis::PerPacketInfo) + sizeof(uint32_t);
static_assert(sizeof(rndis::MessageHeader) + sizeof(rndis::Packet) + 5 * kInfoBytes <= kHeadroom);

uint32_t ReservedSections(const ReceiveBuffer& buffer) { return std::min(kControlSections, buffer.sections() / 2); }

}  // namespace

// What stands before a frame, or a part of one, in its section.
class FrameHead {
 public:
  void AddInfo(rndis::InfoType type, uint32_t value) {
    const rndis::PerPacketInfo info = {kInfoBytes, type, sizeof(rndis::PerPacketInfo)};
    std::memcpy(&bytes_[info_end_], &info, sizeof(info));
    std::memcpy(&bytes_[info_end_ + sizeof(info)], &value, sizeof(value));
    info_end_ += kInfoBytes;
  }
  void AddPacketId(uint16_t id, uint8_t flags) {
    const rndis::PacketId packet_id = {rndis::kPacketIdVersion, flags, id};
    uint32_t value;
    static_assert(sizeof(packet_id) == sizeof(value));
    std::memcpy(&value, &packet_id, sizeof(value));
    AddInfo(rndis::InfoType::kPacketId, value);
  }
  // The frame begins with these, and goes on where its room begins.
  void SetStart(const uint8_t* start, uint32_t size_bytes) {
    start_bytes_ = size_bytes;
    std::memcpy(&bytes_[kHeadroom - size_bytes], start, size_bytes);
  }
  // With so many bytes of the frame in the section; returns the message's length.
  uint32_t Write(uint32_t data_bytes, uint8_t* room) {
    constexpr auto kPacketEnd = static_cast<uint32_t>(sizeof(rndis::MessageHeader) + sizeof(rndis::Packet));
    const rndis::MessageHeader header = {rndis::MessageType::kPacket, kHeadroom + data_bytes};
    rndis::Packet packet = {};
    packet.data_offset = kHeadroom - start_bytes_ - static_cast<uint32_t>(sizeof(header));
    packet.data_length = start_bytes_ + data_bytes;
    packet.per_packet_info_length = static_cast<uint32_t>(info_end_) - kPacketEnd;
    if (packet.per_packet_info_length != 0) packet.per_packet_info_offset = sizeof(packet);
    std::memcpy(bytes_.data(), &header, sizeof(header));
    std::memcpy(bytes_.data() + sizeof(header), &packet, sizeof(packet));
    internal::GuestCopy(room, bytes_.data(), bytes_.size());
    return header.length;
  }

 private:
  std::array<uint8_t, kHeadroom> bytes_{};
  size_t info_end_ = sizeof(rndis::MessageHeader) + sizeof(rndis::Packet);
  uint32_t start_bytes_ = 0;
};

NetworkLane::NetworkLane(NetworkLaneHost& host, Executor& executor, uint16_t index, uint16_t lanes)
    : GuardedTask(executor), host_(host), index_(index), lanes_(lanes) {
  unused_.reserve(kMostMessages);
  arrived_.reserve(kMostMessages);
  for_one_.reserve(kMostMessages);
}

void NetworkLane::MakeRoomForLong(bool takes_coalesced) {
  constexpr size_t kBytes = kLongFramesAtOnce * ethernet::kMaxFrameBytes;
  rests_ = takes_coalesced ? std::make_unique_for_overwrite<uint8_t[]>(kBytes) : nullptr;
}

uint8_t* NetworkLane::rest(size_t i) const { return rests_.get() + i * ethernet::kMaxFrameBytes; }

void NetworkLane::Turn() {
  if (host_.is_paused()) return;
  const bool all = looks_at_all_.exchange(false, std::memory_order_acquire);
  if (has_room_.exchange(false, std::memory_order_acquire) || all) {
    for (uint32_t i = index_; i < host_.channels(); i += lanes_) {
      NetworkChannel& channel = host_.channel(static_cast<uint16_t>(i));
      if (all || channel.is_blocked()) LookAt(channel);
    }
  }
  ReceiveFrames();
}

// Where there is one lane its channels' turns may be taken from within ours; others' tasks are held apart from it.
void NetworkLane::LookAt(NetworkChannel& channel) { lanes_ == 1 ? channel.Look() : channel.WakeUp(); }

void NetworkLane::ReceiveFrames() {
  size_t received = 0;
  while (received < kFramesPerRun) {
    if (!host_.takes_frames()) return;
    const uint64_t waiting = frames_waiting_.load(std::memory_order_acquire);
    if (waiting == 0) return;
    if (!HasFrameRoom()) {
      is_waiting_.store(true);
      // Room that was made before that was seen is told to nobody (OnRoomForFrames).
      if (!HasFrameRoom()) return AskForSections();
      is_waiting_.store(false);
    }
    const auto queue = static_cast<uint16_t>(__builtin_ctzll(waiting));
    received += std::max<size_t>(ReceiveFrom(queue), 1);
  }
  Schedule();
}

bool NetworkLane::HasSections() {
  const ReceiveBuffer& buffer = *host_.receive_buffer();
  return buffer.free_sections() >= ReservedSections(buffer) + host_.sections_per_frame();
}

// Else sections or room come back by completions of the guest's, or because it reads its ring.
bool NetworkLane::HasFrameRoom() {
  for (uint16_t i = 0; i < host_.channels(); ++i) {
    if (host_.channel(i).queued_frames() + kMostMessages > NetworkChannel::kMaxFrames) return false;
  }
  return HasSections();
}

// Completions may stand behind frames that the port does not take, and it may wait for us.
void NetworkLane::AskForSections() {
  if (HasSections()) return;
  for (uint16_t i = 0; i < host_.channels(); ++i) {
    NetworkChannel& channel = host_.channel(i);
    if (!channel.is_blocked()) continue;
    channel.AskToDropBatch();
    lanes_ == 1 ? LookAtAll() : channel.WakeUp();
  }
}

size_t NetworkLane::ReceiveFrom(uint16_t queue) {
  ReceiveBuffer& buffer = *host_.receive_buffer();
  const bool takes_coalesced = host_.takes_coalesced();
  const uint32_t per_frame = host_.sections_per_frame();
  const uint32_t part_bytes = host_.receive_part_bytes();
  const size_t most = takes_coalesced ? kLongFramesAtOnce : kFramesAtOnce;
  sections_taken_ = buffer.Take(absl::MakeSpan(sections_).first(most * per_frame), ReservedSections(buffer));
  const size_t count = sections_taken_ / per_frame;
  next_part_ = count;
  unused_.clear();
  arrived_.clear();
  std::array<IncomingFrame, kFramesAtOnce> frames;
  pieces_.clear();
  std::array<size_t, kLongFramesAtOnce + 1> first_piece = {};
  for (size_t i = 0; i < count; ++i) {
    frames[i] = {};
    frames[i].buffers = buffer.data(sections_[i]);
    if (!takes_coalesced) continue;
    ForEachPiece(frames[i].buffers, 0, part_bytes, [&](uint8_t* data, size_t size) {
      pieces_.push_back({data, size});
    });
    pieces_.push_back({rest(i), ethernet::kMaxFrameBytes});
    first_piece[i + 1] = pieces_.size();
  }
  for (size_t i = 0; takes_coalesced && i < count; ++i) {
    frames[i].buffers = absl::MakeConstSpan(pieces_).subspan(first_piece[i], first_piece[i + 1] - first_piece[i]);
  }
  const uint64_t bit = uint64_t{1} << queue;
  frames_waiting_.fetch_and(~bit, std::memory_order_acq_rel);
  size_t got = 0;
  {
    const auto lock = host_.LockQueue(queue);
    got = host_.port().Receive(queue, absl::MakeSpan(frames).first(count));
  }
  if (got == count) frames_waiting_.fetch_or(bit, std::memory_order_relaxed);
  for (size_t i = 0; i < got; ++i) {
    if (!Deliver(i, sections_[i], frames[i])) unused_.push_back(sections_[i]);
  }
  // Frames that were dropped have been written, too: here, or by the port, to which one was too long for the memory of the next, which may be
  // shorter.
  for (size_t i = 0; i < std::min(got + 1, count); ++i) buffer.MarkWritten(sections_[i], part_bytes);
  // The first that were taken, first of all again.
  for (size_t i = sections_taken_; i-- > next_part_;) unused_.push_back(sections_[i]);
  for (size_t i = count; i-- > got;) unused_.push_back(sections_[i]);
  buffer.Return(unused_);
  GiveToChannels();
  return got;
}

void NetworkLane::GiveToChannels() {
  static_assert(NetworkAdapter::kMaxSubchannels < 64);
  uint64_t touched = 0;
  for (const Arrived& each : arrived_) touched |= uint64_t{1} << each.channel;
  for (; touched != 0; touched &= touched - 1) {
    const auto index = static_cast<uint16_t>(__builtin_ctzll(touched));
    for_one_.clear();
    for (const Arrived& each : arrived_) {
      if (each.channel == index) for_one_.push_back(each.frame);
    }
    NetworkChannel& channel = host_.channel(index);
    channel.QueueFrames(for_one_);
    LookAt(channel);
  }
}

// Writes what stands before the frame that came as number `i`, and gives it to its channel. False: the guest does not want it.
bool NetworkLane::Deliver(size_t i, uint32_t section, const IncomingFrame& frame) {
  ReceiveBuffer& buffer = *host_.receive_buffer();
  const RndisDevice& device = host_.rndis();
  const uint32_t frame_bytes = host_.receive_frame_bytes();
  const auto data = buffer.data(section);
  const bool is_long = host_.takes_coalesced() && frame.size_bytes > frame_bytes;
  std::array<uint8_t, ethernet::kMaxHeadersBytes> start;
  const size_t start_bytes = CopyFromBuffers(data, 0, start.data(), std::min(frame.size_bytes, start.size()));
  if (frame.size_bytes < kEthernetBytes || start_bytes < kEthernetBytes ||
      (is_long && frame.offload.segmentation == FrameOffload::Segmentation::kNone)) {
    counters_.receive_errors.Add(1);
    return false;
  }
  if (!device.Wants(start.data())) return false;
  bool is_valid = frame.offload.checksum_is_valid;
  const auto start_span = absl::MakeConstSpan(start).first(start_bytes);
  const ethernet::FrameHeaders headers = ethernet::ReadHeaders(start_span);
  if (is_long) {
    is_valid = true;  // its guest looks at no checksum, and its sender is this host, or has checked it
  } else if (frame.offload.needs_checksum) {
    const size_t at = size_t{frame.offload.checksum_start} + frame.offload.checksum_offset;
    if (at + sizeof(uint16_t) > frame.size_bytes) {
      counters_.receive_errors.Add(1);
      return false;
    }
    uint8_t bytes[2];
    ethernet::WriteBe16(bytes, ChecksumOf(data, frame.offload.checksum_start, frame.size_bytes));
    CopyToBuffers(data, at, bytes, sizeof(bytes));
    is_valid = true;
  }

  FrameHead head;
  const bool is_tcp = headers.protocol == ethernet::kTcp;
  if (is_valid && headers.transport_offset != 0 && !headers.is_fragment &&
      device.wants_checksum(headers.ip_version == 4, is_tcp)) {
    head.AddInfo(rndis::InfoType::kChecksum, is_tcp ? rndis::kChecksumTcpSucceeded : rndis::kChecksumUdpSucceeded);
  }
  if (frame.offload.has_vlan) {
    const uint16_t tci = frame.offload.vlan_tci;
    if (host_.takes_tags_beside()) {
      head.AddInfo(rndis::InfoType::kVlan, uint32_t{tci} >> 13 | (uint32_t{tci} >> 9 & 8) | (tci & 0xFFFu) << 4);
    } else {
      // The addresses move forward, and the tag stands behind them.
      head.SetStart(start.data(), 4);
      uint8_t moved[12];
      std::memcpy(moved, start.data() + 4, 8);
      ethernet::WriteBe16(moved + 8, ethernet::kVlan);
      ethernet::WriteBe16(moved + 10, tci);
      CopyToBuffers(data, 0, moved, sizeof(moved));
    }
  }
  const RndisDevice::FlowHash hash = device.Hash(start_span, headers);
  if (hash.type != 0) {
    head.AddInfo(rndis::InfoType::kHashValue, hash.value);
    head.AddInfo(rndis::InfoType::kHashInfo, hash.type | rndis::kHashToeplitz);
  }
  uint16_t channel = device.ChannelOf(hash);
  if (channel >= host_.channels() || !host_.channel(channel).is_open()) channel = 0;
  counters_.received.Count(start.data(), frame.size_bytes);
  if (is_long) {
    const size_t first_bytes = std::min<size_t>(frame.size_bytes, host_.receive_part_bytes());
    DeliverParts(head, section, first_bytes, absl::MakeConstSpan(rest(i), frame.size_bytes - first_bytes), channel);
  } else {
    arrived_.push_back(
        {channel, {section, head.Write(static_cast<uint32_t>(frame.size_bytes), buffer.header(section)), false}});
  }
  return true;
}

// A coalesced frame: its first part lies in a section already, and sections enough for the others have been taken.
void NetworkLane::DeliverParts(FrameHead& first, uint32_t section, size_t first_bytes, absl::Span<const uint8_t> rest,
                               uint16_t channel) {
  ReceiveBuffer& buffer = *host_.receive_buffer();
  const uint16_t id = next_packet_id_++;
  const auto add = [&](FrameHead& head, uint32_t where, size_t size, uint8_t more_flags) {
    const bool is_last = rest.empty();
    head.AddPacketId(
        id, static_cast<uint8_t>(rndis::kPacketIsPart | more_flags | (is_last ? rndis::kPacketIsLastPart : 0)));
    arrived_.push_back({channel, {where, head.Write(static_cast<uint32_t>(size), buffer.header(where)), !is_last}});
  };
  add(first, section, first_bytes, rndis::kPacketIsFirstPart);
  while (!rest.empty()) {
    const uint32_t next = sections_[next_part_++];
    const size_t size = std::min<size_t>(rest.size(), host_.receive_part_bytes());
    CopyToBuffers(buffer.data(next), 0, rest.data(), size);
    rest.remove_prefix(size);
    FrameHead head;
    add(head, next, size, 0);
    buffer.MarkWritten(next, size);
  }
}

}  // namespace hvsdk::vsp
