// SPDX-License-Identifier: Apache-2.0
// RingReader: the end of a VMBus ring that receives.
//
// Two ways to take a packet. Read copies it once into the caller's memory, where the peer cannot change it any more:
// right for anything that is parsed. Peek gives a view in place and Release lets it go: right for bulk data that nobody
// inspects, and then each field is to be read once. Either way room is given back to the writer by Commit, one packet
// or many at a time.
//
// Before it sleeps a reader calls Arm, which gives back room, unmasks signals and looks once more; while it runs it may
// Mask signals, which spares the peer a costly exit.
//
// Thread-compatible: one reader at a time. The writer is another thread, guest or process, and may be hostile: its
// write index and packet lengths are read once and checked; bad ones make the ring kCorrupt for good.
//
// Freestanding: no heap, no exceptions, no library calls but memcpy.
//
//   reader.Mask();
//   for (;;) {
//     alignas(8) uint8_t buffer[kMaxPacket];
//     Packet packet;
//     while (reader.Read(buffer, sizeof(buffer), packet) == RingStatus::kOk) Handle(packet);
//     const Armed armed = reader.Arm();
//     if (armed.signal == Signal::kNeeded) SignalPeer();
//     if (armed.may_sleep) return;  // the next signal brings us back
//   }

#ifndef HVSDK_VMBUS_RING_READER_H_
#define HVSDK_VMBUS_RING_READER_H_

#include <cstdint>

#include "hvsdk/hvdef/vmbus_ring.h"
#include "hvsdk/vmbus/ring/control.h"
#include "hvsdk/vmbus/ring/memory.h"
#include "hvsdk/vmbus/ring/packet.h"

namespace hvsdk::vmbus {

// A packet in place. The header fields are private copies, checked; payload and extension are the peer's to change.
template <RingMemory Memory>
class PacketView {
 public:
  hvdef::PacketType type() const { return static_cast<hvdef::PacketType>(head_ & 0xFFFF); }
  uint16_t flags() const { return static_cast<uint16_t>(head_ >> 48); }
  bool completion_requested() const { return (flags() & hvdef::kPacketFlagCompletionRequested) != 0; }
  uint64_t transaction_id() const { return transaction_id_; }
  uint32_t extension_size() const { return data_offset_ - kDescriptorSize; }
  uint32_t payload_size() const { return length_ - data_offset_; }
  uint32_t size() const { return length_ - kDescriptorSize; }  // extension and payload

  // The bytes in the ring, or nullptr if they are not one piece (never with MirroredMemory).
  const uint8_t* payload() const { return start_.Run(data_offset_, payload_size()); }
  const uint8_t* extension() const { return start_.Run(kDescriptorSize, extension_size()); }
  // Copies part of it; [at, at + size) must lie inside.
  void CopyPayload(uint32_t at, void* to, uint32_t size) const { start_.CopyOut(data_offset_ + at, to, size); }
  void CopyExtension(uint32_t at, void* to, uint32_t size) const { start_.CopyOut(kDescriptorSize + at, to, size); }
  // Copies all of it into `buffer`, aligned to 8 bytes and size() long.
  [[gnu::always_inline]] Packet Copy(void* buffer) const {
    start_.CopyOut(kDescriptorSize, buffer, size());
    // Who reads the copy reads the copy: the compiler may not take it from the ring again.
    std::atomic_signal_fence(std::memory_order_seq_cst);
    return Describe(buffer);
  }

 private:
  template <RingMemory, typename>
  friend class RingReader;
  [[gnu::always_inline]] Packet Describe(void* buffer) const {
    auto* bytes = static_cast<uint8_t*>(buffer);
    return {type(), flags(), transaction_id_, bytes, extension_size(), bytes + extension_size(), payload_size()};
  }
  static constexpr uint32_t kDescriptorSize = sizeof(hvdef::PacketDescriptor);

  typename Memory::Position start_;  // of the descriptor
  uint64_t head_ = 0;
  uint64_t transaction_id_ = 0;
  uint32_t data_offset_ = 0;  // from the descriptor
  uint32_t length_ = 0;       // descriptor, extension, payload
};

// What Arm found.
struct [[nodiscard]] Armed {
  // The ring is empty and the writer will signal; else signals are masked again and there is more to read.
  bool may_sleep;
  Signal signal;  // the writer waits for room and now has it
};

// `Order` is there for the tests that take the fence away.
template <RingMemory Memory, typename Order = FencedOrder>
class RingReader {
 public:
  using View = PacketView<Memory>;

  RingReader() = default;
  explicit RingReader(const Memory& memory) : memory_(memory) {}

  // Takes over at the indices the ring holds, which are zero in a new one. Does not touch the mask.
  RingStatus Attach() {
    fault_ = RingFault::kNone;
    available_ = 0;
    if (!internal::IsValidRingSize(memory_.size())) return Fail(RingFault::kBadSize);
    read_ = committed_ = internal::LoadIndex(memory_.control()->read_index);
    if (!internal::IsValidIndex(read_, memory_.size())) return Fail(RingFault::kBadReadIndex);
    return Refresh();
  }

  // What a reader knows besides the ring's memory, to be taken over by another one over the same bytes.
  struct State {
    uint32_t read = 0, committed = 0;
    RingFault fault = RingFault::kNone;
  };
  State state() const { return {read_, committed_, fault_}; }
  static bool IsValidState(const State& state, uint32_t size) {
    return internal::IsValidRingSize(size) && internal::IsValidIndex(state.read, size) &&
           internal::IsValidIndex(state.committed, size) && state.fault <= RingFault::kBadPacketOffset;
  }
  // In place of Attach, with a valid state. Touches no memory.
  void Resume(const State& state) {
    read_ = state.read;
    committed_ = state.committed;
    fault_ = state.fault;
    available_ = 0;
  }

  // The next packet, in place. It stays until released.
  [[gnu::always_inline]] RingStatus Peek(View& view) {
    if (available_ == 0) {
      if (const RingStatus status = Refresh(); status != RingStatus::kOk) [[unlikely]]
        return status;
      if (available_ == 0) return RingStatus::kEmpty;
    }
    const auto start = memory_.At(read_);
    // Another processor wrote what follows; it comes while this packet is dealt with.
    if (available_ > kReadAhead) start.Prefetch(kReadAhead);
    const uint64_t head = start.Load64(0);
    const auto data_offset = static_cast<uint32_t>(head >> 16 & 0xFFFF) * 8;
    const auto length = static_cast<uint32_t>(head >> 32 & 0xFFFF) * 8;
    // Available bytes are a multiple of 8, so one that is not 0 covers the word just read.
    if (length < kDescriptorSize || length + kTrailerSize > available_) [[unlikely]] {
      return Fail(RingFault::kBadPacketLength);
    }
    if (data_offset < kDescriptorSize || data_offset > length) [[unlikely]]
      return Fail(RingFault::kBadPacketOffset);
    view.start_ = start;
    view.head_ = head;
    view.transaction_id_ = start.Load64(8);
    view.data_offset_ = data_offset;
    view.length_ = length;
    return RingStatus::kOk;
  }

  // Lets go of the packet last peeked at; the view's bytes are the writer's again once Commit or Arm is called.
  [[gnu::always_inline]] void Release(const View& view) {
    const uint32_t total = view.length_ + kTrailerSize;
    if (total > available_) [[unlikely]]
      return;  // found corrupt since the view was made
    read_ = internal::Advance(read_, total, memory_.size());
    available_ -= total;
  }

  // Copies the next packet into `buffer`, aligned to 8 bytes, and releases it. kTooBig: extension and payload, whose
  // sizes are then in `packet`, need more than `capacity`; the packet stays.
  [[gnu::always_inline]] RingStatus Read(void* buffer, uint32_t capacity, Packet& packet) {
    View view;
    if (const RingStatus status = Peek(view); status != RingStatus::kOk) return status;
    const uint32_t size = view.size();
    packet = view.Describe(buffer);
    if (size > capacity) [[unlikely]]
      return RingStatus::kTooBig;
    view.start_.CopyOut(kDescriptorSize, buffer, size);
    // Who reads the copy reads the copy: the compiler may not take it from the ring again.
    std::atomic_signal_fence(std::memory_order_seq_cst);
    Release(view);
    return RingStatus::kOk;
  }

  // Gives the room of all released packets back. The writer must be signalled if it waits for room and this was what it
  // waited for.
  Signal Commit() {
    if (read_ == committed_ || Broken()) return Signal::kNotNeeded;
    Order::Publish(memory_.control()->read_index, read_);
    return SignalForRoom();
  }

  // For a stream: commits when nothing is left that we know of, or a quarter of the ring is ours to give back. Room
  // given back packet by packet costs both processors a trip of the control page's cache line each.
  Signal CommitLazily() {
    if (available_ != 0 && internal::Used(read_, committed_, memory_.size()) < memory_.size() / 4) {
      return Signal::kNotNeeded;
    }
    return Commit();
  }

  // Asks the writer not to signal, until Arm. A hint: signals may still arrive.
  void Mask() { internal::StoreHint(memory_.control()->interrupt_mask, 1); }

  // Commits, unmasks, and looks again: one fence for both decisions. A corrupt ring never has more to read.
  Armed Arm() {
    if (Broken()) return {true, Signal::kNotNeeded};
    hvdef::RingControl& control = *memory_.control();
    // Release pairs with the writer's load: our reads of the packets are over. The fence behind is the mask's.
    std::atomic_ref<uint32_t>(control.read_index).store(read_, std::memory_order_release);
    Order::Publish(control.interrupt_mask, 0);
    const Signal signal = SignalForRoom();
    if (available_ == 0) (void)Refresh();
    if (available_ == 0) return {true, signal};
    Mask();
    return {false, signal};
  }

  // Whether the end that writes this ring honours pending_send_size in the ring that we write.
  bool PeerSignalsRoom() const {
    return (internal::LoadHint(memory_.control()->feature_bits) & hvdef::kRingFeaturePendingSendSize) != 0;
  }

  // Whether a packet is there, as far as the peer's index tells.
  bool HasPacket() {
    if (available_ == 0) (void)Refresh();
    return available_ != 0;
  }

  RingFault fault() const { return fault_; }
  const Memory& memory() const { return memory_; }

 private:
  static constexpr uint32_t kDescriptorSize = sizeof(hvdef::PacketDescriptor);
  static constexpr uint32_t kTrailerSize = sizeof(hvdef::PacketTrailer);
  static constexpr uint32_t kReadAhead = 512;

  bool Broken() const { return fault_ != RingFault::kNone; }

  RingStatus Fail(RingFault fault) {
    fault_ = fault;
    available_ = 0;  // so that every Peek takes the slow path
    return RingStatus::kCorrupt;
  }

  // Learns how much the peer has written. Acquire, so that the packets are visible; sequentially consistent, because it
  // is also the look that follows unmasking.
  RingStatus Refresh() {
    if (Broken()) [[unlikely]]
      return RingStatus::kCorrupt;
    const uint32_t write = internal::LoadAfterPublish(memory_.control()->write_index);
    if (!internal::IsValidIndex(write, memory_.size())) [[unlikely]]
      return Fail(RingFault::kBadWriteIndex);
    available_ = internal::Used(write, read_, memory_.size());
    return RingStatus::kOk;
  }

  // After read_index was published with a fence behind it.
  Signal SignalForRoom() {
    const uint32_t before = committed_;
    committed_ = read_;
    hvdef::RingControl& control = *memory_.control();
    const uint32_t pending = internal::LoadAfterPublish(control.pending_send_size);
    if (pending == 0) [[likely]]
      return Signal::kNotNeeded;
    return WaitsForRoom(pending, before);
  }
  // The writer waits. Signal only on the way from too little to enough, for peers punish signals without a cause.
  [[gnu::noinline]] Signal WaitsForRoom(uint32_t pending, uint32_t before) {
    // Some peers ask for the ring's size less 1, meaning empty; room comes in multiples of 8.
    pending &= ~uint32_t{7};
    const uint32_t size = memory_.size();
    const uint32_t write = internal::LoadAfterPublish(memory_.control()->write_index);
    if (!internal::IsValidIndex(write, size)) return Signal::kNotNeeded;  // the next packet's matter
    return static_cast<Signal>(internal::Free(write, before, size) < pending &&
                               internal::Free(write, read_, size) >= pending);
  }

  Memory memory_;
  uint32_t read_ = 0;       // behind the last released packet
  uint32_t committed_ = 0;  // what read_index holds
  uint32_t available_ = 0;  // bytes behind read_ known to be written
  RingFault fault_ = RingFault::kNone;
};

}  // namespace hvsdk::vmbus

#endif  // HVSDK_VMBUS_RING_READER_H_
