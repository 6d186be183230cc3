// SPDX-License-Identifier: Apache-2.0
// RingWriter: the end of a VMBus ring that sends.
//
// A packet is staged first and published later, alone or with others; the peer sees nothing before that. Publishing
// answers whether the peer must be signalled, and the caller signals: nothing here calls out.
//
// Packets: in-band, completion, GPA-direct (page list or multi-page) and transfer-page. A packet is at most 524280
// bytes without its trailer and leaves 8 bytes of the ring free.
//
// Thread-compatible: one writer at a time. The reader is another thread, guest or process, and may be hostile: its
// read index is checked at every use; a bad one makes the ring kCorrupt for good.
//
// Freestanding: no heap, no exceptions, no library calls but memcpy.
//
//   RingWriter<MirroredMemory> writer(memory);
//   if (writer.Attach() != RingStatus::kOk) return;
//   if (writer.StageInBand(PacketHeader::InBand(id, true), &request, sizeof(request)) == RingStatus::kOk &&
//       writer.Publish() == Signal::kNeeded) SignalPeer();

#ifndef HVSDK_VMBUS_RING_WRITER_H_
#define HVSDK_VMBUS_RING_WRITER_H_

#include <cstdint>

#include "hvsdk/hvdef/vmbus_ring.h"
#include "hvsdk/vmbus/ring/control.h"
#include "hvsdk/vmbus/ring/memory.h"
#include "hvsdk/vmbus/ring/packet.h"

namespace hvsdk::vmbus {

// A packet being written in place; see RingWriter::Reserve.
template <RingMemory Memory>
class PacketSlot {
 public:
  uint32_t payload_size() const { return payload_size_; }
  // The payload's bytes in the ring, or nullptr if they are not one piece (never with MirroredMemory).
  uint8_t* payload() const { return start_.Run(kDescriptorSize, payload_size_); }
  // Writes part of the payload; [at, at + size) must lie inside it.
  void Write(uint32_t at, const void* from, uint32_t size) const { start_.CopyIn(kDescriptorSize + at, from, size); }

 private:
  template <RingMemory, typename>
  friend class RingWriter;
  static constexpr uint32_t kDescriptorSize = sizeof(hvdef::PacketDescriptor);

  typename Memory::Position start_;  // of the descriptor
  uint32_t payload_size_ = 0;
  uint32_t total_ = 0;
};

// `Order` is there for the tests that take the fence away.
template <RingMemory Memory, typename Order = FencedOrder>
class RingWriter {
 public:
  using Slot = PacketSlot<Memory>;

  RingWriter() = default;
  explicit RingWriter(const Memory& memory) : memory_(memory) {}

  // Takes over at the indices the ring holds, which are zero in a new one, and announces that we use pending_send_size.
  RingStatus Attach() {
    fault_ = RingFault::kNone;
    waiting_ = false;
    if (!internal::IsValidRingSize(memory_.size())) return Fail(RingFault::kBadSize);
    hvdef::RingControl& control = *memory_.control();
    write_ = published_ = internal::LoadIndex(control.write_index);
    if (!internal::IsValidIndex(write_, memory_.size())) return Fail(RingFault::kBadWriteIndex);
    internal::StoreHint(control.pending_send_size, 0);
    internal::StoreHint(control.feature_bits, hvdef::kRingFeaturePendingSendSize);
    return Refresh();
  }

  // As RingReader::State.
  struct State {
    uint32_t write = 0, published = 0;
    RingFault fault = RingFault::kNone;
    bool waiting = false;
  };
  State state() const { return {write_, published_, fault_, waiting_}; }
  static bool IsValidState(const State& state, uint32_t size) {
    return internal::IsValidRingSize(size) && internal::IsValidIndex(state.write, size) &&
           internal::IsValidIndex(state.published, size) && state.fault <= RingFault::kBadPacketOffset;
  }
  void Resume(const State& state) {
    write_ = state.write;
    published_ = state.published;
    fault_ = state.fault;
    waiting_ = state.waiting;
    free_ = 0;  // the first packet looks
  }

  // Stages a packet that carries `size` bytes of payload; the last word is padded with zeros.
  [[gnu::always_inline]] RingStatus StageInBand(const PacketHeader& header, const void* payload, uint32_t size) {
    const uint32_t total = PacketSize(size);
    if (const RingStatus status = Claim(total); status != RingStatus::kOk) [[unlikely]]
      return status;
    // Asked once where that is: nearly all packets are in one piece.
    const auto start = memory_.At(write_);
    if (uint8_t* const piece = start.Run(0, total); piece != nullptr) [[likely]] {
      const Frame<MirroredMemory::Position> frame(MirroredMemory::Position(piece), write_, header, kDescriptorSize,
                                                  total);
      frame.WritePayload(payload, size);
    } else {
      BuildInPieces(header, total, payload, size);
    }
    Take(total);
    return RingStatus::kOk;
  }

  // Stages a GPA-direct packet with `count` guest buffers, at least one, none of them empty.
  RingStatus StageGpaDirect(uint64_t transaction_id, bool completion_requested, const GpaBuffer* buffers,
                            uint32_t count, const void* payload, uint32_t size) {
    uint64_t extension = sizeof(hvdef::GpaDirectHeader);
    for (uint32_t i = 0; i < count; ++i) extension += sizeof(hvdef::GpaRange) + uint64_t{buffers[i].pfn_count()} * 8;
    if (extension > kMaxExtension) return Broken() ? RingStatus::kCorrupt : RingStatus::kTooBig;
    const uint32_t total = PacketSize(size, static_cast<uint32_t>(extension));
    if (const RingStatus status = Claim(total); status != RingStatus::kOk) [[unlikely]]
      return status;
    const Frame<typename Memory::Position> frame(
        memory_.At(write_), write_,
        {hvdef::PacketType::kDataUsingGpaDirect, CompletionFlag(completion_requested), transaction_id},
        kDescriptorSize + static_cast<uint32_t>(extension), total);
    uint32_t at = kDescriptorSize;
    frame.Store64(at, uint64_t{count} << 32);
    for (uint32_t i = 0; i < count; ++i) {
      frame.Store64(at += 8, uint64_t{buffers[i].byte_offset} << 32 | buffers[i].byte_count);
      const uint32_t pfns = buffers[i].pfn_count();
      for (uint32_t page = 0; page < pfns; ++page) frame.Store64(at += 8, buffers[i].pfns[page]);
    }
    frame.WritePayload(payload, size);
    Take(total);
    return RingStatus::kOk;
  }

  // Stages a packet that points into a buffer the two ends agreed on before (the network provider's receive buffer).
  RingStatus StageTransferPages(uint64_t transaction_id, bool completion_requested, uint16_t page_set_id,
                                const hvdef::TransferPageRange* ranges, uint32_t count, const void* payload,
                                uint32_t size) {
    const uint64_t extension = sizeof(hvdef::TransferPageHeader) + uint64_t{count} * sizeof(hvdef::TransferPageRange);
    if (extension > kMaxExtension) return Broken() ? RingStatus::kCorrupt : RingStatus::kTooBig;
    const uint32_t total = PacketSize(size, static_cast<uint32_t>(extension));
    if (const RingStatus status = Claim(total); status != RingStatus::kOk) [[unlikely]]
      return status;
    const Frame<typename Memory::Position> frame(
        memory_.At(write_), write_,
        {hvdef::PacketType::kDataUsingTransferPages, CompletionFlag(completion_requested), transaction_id},
        kDescriptorSize + static_cast<uint32_t>(extension), total);
    uint32_t at = kDescriptorSize;
    frame.Store64(at, uint64_t{count} << 32 | page_set_id);
    for (uint32_t i = 0; i < count; ++i) {
      frame.Store64(at += 8, uint64_t{ranges[i].byte_offset} << 32 | ranges[i].byte_count);
    }
    frame.WritePayload(payload, size);
    Take(total);
    return RingStatus::kOk;
  }

  // Opens a packet to be written in place: fill the slot, then Commit it, which stages it. Nothing else may be staged
  // between the two; a slot that is not committed leaves no trace. Bytes of the payload that are not written hold what
  // was there.
  RingStatus Reserve(const PacketHeader& header, uint32_t payload_size, Slot& slot) {
    const uint32_t total = PacketSize(payload_size);
    if (const RingStatus status = Claim(total); status != RingStatus::kOk) [[unlikely]]
      return status;
    slot.start_ = memory_.At(write_);
    const Frame<typename Memory::Position> frame(slot.start_, write_, header, kDescriptorSize, total);
    frame.Pad(payload_size);
    slot.payload_size_ = payload_size;
    slot.total_ = total;
    return RingStatus::kOk;
  }
  void Commit(const Slot& slot) {
    if (slot.total_ > free_) [[unlikely]]
      return;  // WaitForRoom found since that the peer took room back
    Take(slot.total_);
  }

  // Forgets what was staged since the last publication.
  void Discard() {
    if (Broken()) return;
    free_ += internal::Used(write_, published_, memory_.size());
    write_ = published_;
  }

  // Makes all that is staged visible at once. The peer must be signalled if it had taken everything before, and does
  // not mask signals: only then may it be asleep.
  Signal Publish() {
    const uint32_t before = published_;
    if (write_ == before || Broken()) return Signal::kNotNeeded;
    hvdef::RingControl& control = *memory_.control();
    if (waiting_) StopWaiting();
    published_ = write_;
    Order::Publish(control.write_index, write_);
    if (internal::LoadAfterPublish(control.interrupt_mask) != 0) return Signal::kNotNeeded;
    const uint32_t read = internal::LoadAfterPublish(control.read_index);
    return static_cast<Signal>(read == before);  // compared only, so any value is safe
  }

  // For a stream: publishes at once when the peer has taken everything published so far, and otherwise collects until a
  // few KiB are staged, because every publication costs both processors a trip of the control page's cache line.
  // Whoever calls this must call Publish when it has nothing more to send for now.
  Signal PublishLazily() {
    const uint32_t staged = internal::Used(write_, published_, memory_.size());
    if (staged < LazyBytes() && internal::LoadHint(memory_.control()->read_index) != published_) {
      return Signal::kNotNeeded;
    }
    return Publish();
  }

  // After kFull: asks the peer to signal once `packet_size` bytes (see PacketSize) are free. kOk: they are free
  // already, try again. kFull: the caller may wait for the signal. Publish first whatever is staged, or the peer waits
  // for us. Use it only if the peer announced that it honours this (RingReader::PeerSignalsRoom on the channel's other
  // ring); else poll.
  RingStatus WaitForRoom(uint32_t packet_size) {
    if (Broken()) return RingStatus::kCorrupt;
    if (packet_size == 0 || packet_size > memory_.size() - 8) return RingStatus::kTooBig;
    waiting_ = true;
    // The peer counts from what is published.
    const uint32_t wanted = packet_size + internal::Used(write_, published_, memory_.size());
    Order::Publish(memory_.control()->pending_send_size, wanted < memory_.size() - 8 ? wanted : memory_.size() - 8);
    if (const RingStatus status = Refresh(); status != RingStatus::kOk) return status;
    if (free_ < packet_size) return RingStatus::kFull;
    StopWaiting();
    return RingStatus::kOk;
  }

  // Bytes known to be free; the peer may have freed more since.
  uint32_t free_bytes() const { return free_; }
  bool has_staged() const { return write_ != published_; }
  // Behind the last packet published: moves with each publication.
  uint32_t published_index() const { return published_; }
  RingFault fault() const { return fault_; }
  const Memory& memory() const { return memory_; }

 private:
  static constexpr uint32_t kDescriptorSize = sizeof(hvdef::PacketDescriptor);
  static constexpr uint32_t kMaxExtension = 0xFFFF * 8 - kDescriptorSize;

  // A packet under construction at write_: descriptor and trailer go straight into the ring, in the words that
  // the reader will load. Keeps what it needs in locals, because after a store to the ring the compiler must
  // reload members.
  template <typename Position>
  class Frame {
   public:
    [[gnu::always_inline]] Frame(const Position& start, uint32_t write_index, const PacketHeader& header,
                                 uint32_t data_offset, uint32_t total)
        : start_(start), data_offset_(data_offset), total_(total) {
      const uint64_t trailer = uint64_t{write_index} << 32;
      const uint64_t length8 = (total - sizeof(hvdef::PacketTrailer)) / 8;
      start_.Store64(0, static_cast<uint64_t>(header.type) | uint64_t{data_offset / 8} << 16 | length8 << 32 |
                            uint64_t{header.flags} << 48);
      start_.Store64(8, header.transaction_id);
      start_.Store64(total - 8, trailer);
    }
    [[gnu::always_inline]] void Store64(uint32_t at, uint64_t value) const { start_.Store64(at, value); }
    // The last word of the payload is not all the caller's.
    [[gnu::always_inline]] void Pad(uint32_t payload_size) const {
      if (payload_size % 8 != 0) start_.Store64(total_ - 16, 0);
    }
    [[gnu::always_inline]] void WritePayload(const void* payload, uint32_t size) const {
      Pad(size);
      start_.CopyIn(data_offset_, payload, size);
    }

   private:
    const Position start_;
    const uint32_t data_offset_;
    const uint32_t total_;
  };

  // Takes its header by value, so that a caller's stays in registers.
  [[gnu::noinline]] void BuildInPieces(PacketHeader header, uint32_t total, const void* payload, uint32_t size) const {
    const Frame<typename Memory::Position> frame(memory_.At(write_), write_, header, kDescriptorSize, total);
    frame.WritePayload(payload, size);
  }

  static constexpr uint16_t CompletionFlag(bool requested) {
    return requested ? hvdef::kPacketFlagCompletionRequested : uint16_t{0};
  }

  bool Broken() const { return fault_ != RingFault::kNone; }

  RingStatus Fail(RingFault fault) {
    fault_ = fault;
    free_ = 0;  // so that every Claim takes the slow path
    return RingStatus::kCorrupt;
  }

  // Learns how much the peer has read.
  RingStatus Refresh() {
    const uint32_t read = internal::LoadAfterPublish(memory_.control()->read_index);
    const uint32_t size = memory_.size();
    // Nobody has read what was not published yet.
    if (!internal::IsValidIndex(read, size) ||
        internal::Used(write_, read, size) < internal::Used(write_, published_, size)) {
      return Fail(RingFault::kBadReadIndex);
    }
    free_ = internal::Free(write_, read, size);
    return RingStatus::kOk;
  }

  // Makes sure that a packet of `total` bytes fits behind write_. `total` is 0 for one that no ring can hold.
  [[gnu::always_inline]] RingStatus Claim(uint32_t total) {
    if (total - 1 < free_) [[likely]]
      return RingStatus::kOk;
    return ClaimSlowly(total);
  }
  [[gnu::noinline]] RingStatus ClaimSlowly(uint32_t total) {
    if (Broken()) return RingStatus::kCorrupt;
    if (total == 0 || total > memory_.size() - 8) return RingStatus::kTooBig;
    if (const RingStatus status = Refresh(); status != RingStatus::kOk) return status;
    return total <= free_ ? RingStatus::kOk : RingStatus::kFull;
  }

  [[gnu::always_inline]] void Take(uint32_t total) {
    write_ = internal::Advance(write_, total, memory_.size());
    free_ -= total;
  }

  void StopWaiting() {
    waiting_ = false;
    internal::StoreHint(memory_.control()->pending_send_size, 0);
  }

  uint32_t LazyBytes() const { return memory_.size() / 4 < 4096 ? memory_.size() / 4 : 4096; }

  Memory memory_;
  uint32_t write_ = 0;      // behind the last staged packet
  uint32_t published_ = 0;  // what write_index holds
  uint32_t free_ = 0;       // behind write_, as far as we know
  RingFault fault_ = RingFault::kNone;
  bool waiting_ = false;  // pending_send_size is set
};

}  // namespace hvsdk::vmbus

#endif  // HVSDK_VMBUS_RING_WRITER_H_
