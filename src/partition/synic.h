// SPDX-License-Identifier: Apache-2.0
// Synic: one VP's synthetic interrupt controller: its MSRs, message queues and event flags.
//
// Delivery of messages, in the order of the steps that keep one from being lost:
//   the slot is empty                  fill it, interrupt
//   it is not                          queue, set the slot's pending flag, full fence, look again
//   the guest, in the meantime         empties the slot, full fence, looks at the flag, writes EOM
// so either we find the slot empty, or the guest finds the flag. Nobody polls.
//
// Thread-safe; a lock of this VP's alone, held for a few instructions, and never while an interrupt is requested or an
// observer is called.
//
// Source: TLFS, chapter "Inter-Partition Communication".

#ifndef HVSDK_SRC_PARTITION_SYNIC_H_
#define HVSDK_SRC_PARTITION_SYNIC_H_

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>

#include "absl/types/span.h"
#include "hvsdk/backend/backend.h"
#include "hvsdk/base/clock.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/hvdef/message.h"
#include "hvsdk/hvdef/msr.h"
#include "hvsdk/hvdef/status.h"
#include "hvsdk/state/reader.h"
#include "partition/overlay_pages.h"
#include "partition/state.h"

namespace hvsdk::partition {

class Synic {
 public:
  // How many messages wait behind a slot (TLFS, "Guest Message Buffers").
  static constexpr uint32_t kQueueLength = 16;

  Synic(backend::Partition& backend, backend::Vp& vp, OverlayPages& overlays, const Clock& clock, bool auto_eoi_works);

  // SCONTROL to EOM and SINT0 to SINT15. A write is the VP thread's.
  backend::MsrOutcome ReadMsr(uint32_t msr, uint64_t& value) const;
  // Bit n of `room` is set if SINT n's queue, found full before, has room now.
  backend::MsrOutcome WriteMsr(uint32_t msr, uint64_t value, uint16_t& room);

  hvdef::HvStatus PostMessage(Sint sint, uint32_t message_type, absl::Span<const uint8_t> payload, uint64_t origin);
  hvdef::HvStatus SignalEvent(Sint sint, uint16_t flag);
  hvdef::HvStatus Assert(Sint sint);

  // Timer `index` expired. A timer has one message; while it waits, further ones merge into it.
  void PostTimerMessage(uint32_t index, Sint sint, uint64_t expiration_100ns);
  // Takes back the message of a timer that has not reached its slot.
  void CancelTimerMessage(uint32_t index);

  void Reset();

  // Put into a slot, and flags set that were clear, since the VP was made. Thread-safe.
  uint64_t messages() const { return std::lock_guard(mutex_), messages_; }
  uint64_t events() const { return std::lock_guard(mutex_), events_; }

  Overlay& message_page() { return message_page_; }
  Overlay& flags_page() { return flags_page_; }

  SynicState Save() const;
  // Whether Restore may be given this; the overlay pages have been restored. InvalidArgument.
  absl::Status Check(const SynicState& state, const state::StateReader& reader) const;
  // Tells the engine the vectors with AutoEOI anew. Errors are the engine's, and change nothing.
  absl::Status Restore(const SynicState& state);

 private:
  // Interrupts to request once the lock is released.
  struct Interrupts {
    void Add(uint64_t sint);
    uint32_t count = 0;
    std::array<uint64_t, hvdef::kSintCount> sints;
  };
  struct Queue {
    uint32_t first = 0, size = 0;
    bool found_full = false;
    std::array<hvdef::Message, kQueueLength> messages;
  };
  struct TimerMessage {
    bool waits = false;
    uint8_t sint = 0;
    uint64_t expiration_100ns = 0;
  };

  bool messages_enabled() const;
  bool HasMessage(uint32_t sint) const;
  bool IsSlotEmpty(uint32_t sint) const;
  bool IsSlotEmptyOrFlagged(uint32_t sint);
  void Fill(uint32_t sint, hvdef::Message message, Interrupts& interrupts);
  bool DeliverTimerMessage(uint32_t sint, Interrupts& interrupts);
  void Deliver(uint32_t sint, Interrupts& interrupts, uint16_t& room);
  uint16_t DeliverAll(Interrupts& interrupts);
  void Request(const Interrupts& interrupts);
  bool TellEngine(uint32_t sint, uint64_t value, bool anew = false);

  backend::Partition& backend_;
  backend::Vp& backend_vp_;
  OverlayPages& overlays_;
  const Clock& clock_;
  const VpIndex vp_;
  const bool auto_eoi_works_;

  mutable std::mutex mutex_;
  uint64_t messages_ = 0;
  uint64_t events_ = 0;
  uint64_t scontrol_ = 0;
  uint64_t siefp_ = 0;
  uint64_t simp_ = 0;
  std::array<uint64_t, hvdef::kSintCount> sints_;
  std::array<uint8_t, hvdef::kSintCount> auto_eoi_vectors_{};  // what the engine knows; VP thread only
  Overlay message_page_;
  Overlay flags_page_;
  std::array<std::unique_ptr<Queue>, hvdef::kSintCount> queues_;  // made when first needed
  std::array<TimerMessage, hvdef::kStimerCount> timer_messages_;
};

}  // namespace hvsdk::partition

#endif  // HVSDK_SRC_PARTITION_SYNIC_H_
