// SPDX-License-Identifier: Apache-2.0
#include "partition/synic.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>

#include "absl/strings/str_format.h"
#include "memory/guest_copy.h"

namespace hvsdk::partition {

namespace msr = hvdef::msr;
using backend::MsrOutcome;
using hvdef::HvStatus;
using hvdef::Message;
using hvdef::MessageHeader;

namespace {

// The words of a slot that both sides use to synchronise.
std::atomic_ref<uint32_t> TypeOf(uint8_t* slot) { return std::atomic_ref(*reinterpret_cast<uint32_t*>(slot)); }
std::atomic_ref<uint8_t> FlagsOf(uint8_t* slot) { return std::atomic_ref(slot[offsetof(MessageHeader, flags)]); }

bool IsSintValue(uint64_t value, bool auto_eoi_works) {
  if ((value & msr::kSintAutoEoi) != 0 && !auto_eoi_works) return false;
  // A source that raises no interrupt needs no vector; the value after reset has none.
  const bool quiet = (value & (msr::kSintMasked | msr::kSintPolling)) != 0;
  return quiet || (value & msr::kSintVectorMask) >= msr::kFirstValidVector;
}

}  // namespace

void Synic::Interrupts::Add(uint64_t sint) {
  if ((sint & (msr::kSintMasked | msr::kSintPolling)) == 0) sints[count++] = sint;
}

Synic::Synic(backend::Partition& backend, backend::Vp& vp, OverlayPages& overlays, const Clock& clock,
             bool auto_eoi_works)
    : backend_(backend),
      backend_vp_(vp),
      overlays_(overlays),
      clock_(clock),
      vp_(vp.index()),
      auto_eoi_works_(auto_eoi_works) {
  sints_.fill(msr::kSintDefault);
}

MsrOutcome Synic::ReadMsr(uint32_t msr, uint64_t& value) const {
  std::lock_guard lock(mutex_);
  switch (msr) {
    case msr::kScontrol:
      value = scontrol_;
      return MsrOutcome::kDone;
    case msr::kSversion:
      value = msr::kSynicVersion;
      return MsrOutcome::kDone;
    case msr::kSiefp:
      value = siefp_;
      return MsrOutcome::kDone;
    case msr::kSimp:
      value = simp_;
      return MsrOutcome::kDone;
    case msr::kEom:
      value = 0;
      return MsrOutcome::kDone;
    default:
      break;
  }
  if (msr < msr::kSint0 || msr > msr::kSint15) return MsrOutcome::kFault;
  value = sints_[msr - msr::kSint0];
  return MsrOutcome::kDone;
}

// The mask does not count: an interrupt that was requested before the SINT was masked may still be on its way.
bool Synic::TellEngine(uint32_t sint, uint64_t value, bool anew) {
  uint8_t vector = (value & msr::kSintAutoEoi) != 0 ? value & msr::kSintVectorMask : 0;
  if (vector < msr::kFirstValidVector) vector = 0;
  if (vector == auto_eoi_vectors_[sint] && (!anew || vector == 0)) return true;
  if (!backend_vp_.SetAutoEoiVector(Sint{static_cast<uint8_t>(sint)}, vector).ok()) return false;
  auto_eoi_vectors_[sint] = vector;
  return true;
}

MsrOutcome Synic::WriteMsr(uint32_t msr, uint64_t value, uint16_t& room) {
  Interrupts interrupts;
  // Before anybody can request an interrupt with the new value. A value without the flag comes to the engine no later: one that
  // was requested by the old value arrives as what the SINT says when it arrives.
  if (msr >= msr::kSint0 && msr <= msr::kSint15 &&
      (!IsSintValue(value, auto_eoi_works_) || !TellEngine(msr - msr::kSint0, value))) {
    return MsrOutcome::kFault;
  }
  {
    std::lock_guard lock(mutex_);
    const auto place = [&](Overlay& page) {
      if ((value & msr::kPageEnable) != 0) {
        overlays_.Place(page, value & msr::kPageAddressMask);
      } else {
        overlays_.Remove(page);
      }
    };
    switch (msr) {
      case msr::kScontrol:
        scontrol_ = value;
        break;
      case msr::kSiefp:
        siefp_ = value;
        place(flags_page_);
        return MsrOutcome::kDone;
      case msr::kSimp:
        simp_ = value;
        place(message_page_);
        break;
      case msr::kEom:
        break;
      default:
        if (msr < msr::kSint0 || msr > msr::kSint15) return MsrOutcome::kFault;
        sints_[msr - msr::kSint0] = value;
        return MsrOutcome::kDone;
    }
    room = DeliverAll(interrupts);
  }
  Request(interrupts);
  return MsrOutcome::kDone;
}

bool Synic::messages_enabled() const {
  return (scontrol_ & msr::kScontrolEnable) != 0 && (simp_ & msr::kPageEnable) != 0;
}

bool Synic::HasMessage(uint32_t sint) const {
  for (const TimerMessage& timer : timer_messages_) {
    if (timer.waits && timer.sint == sint) return true;
  }
  return queues_[sint] != nullptr && queues_[sint]->size != 0;
}

bool Synic::IsSlotEmpty(uint32_t sint) const {
  // Acquire pairs with the guest's store of kNone: our writes to the slot come after its reads.
  return TypeOf(message_page_.bytes() + sint * sizeof(Message)).load(std::memory_order_acquire) == 0;
}

// If it is not empty, the guest has been told to write EOM when it is.
bool Synic::IsSlotEmptyOrFlagged(uint32_t sint) {
  if (IsSlotEmpty(sint)) return true;
  uint8_t* slot = message_page_.bytes() + sint * sizeof(Message);
  if ((FlagsOf(slot).fetch_or(hvdef::kMessagePending, std::memory_order_seq_cst) & hvdef::kMessagePending) == 0) {
    overlays_.Written(message_page_, sint * sizeof(Message), sizeof(MessageHeader));
  }
  // Pairs with the guest's fence between emptying the slot and reading the flag.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return IsSlotEmpty(sint);
}

void Synic::Fill(uint32_t sint, Message message, Interrupts& interrupts) {
  message.header.flags = HasMessage(sint) ? hvdef::kMessagePending : 0;
  uint8_t* slot = message_page_.bytes() + sint * sizeof(Message);
  const uint32_t size = sizeof(MessageHeader) + message.header.payload_size;
  constexpr size_t kAfterType = sizeof(message.header.message_type);
  internal::GuestCopy(slot + kAfterType, reinterpret_cast<const uint8_t*>(&message) + kAfterType, size - kAfterType);
  // Release: a guest that sees the type sees the rest.
  TypeOf(slot).store(message.header.message_type, std::memory_order_release);
  overlays_.Written(message_page_, sint * sizeof(Message), size);
  ++messages_;
  interrupts.Add(sints_[sint]);
}

bool Synic::DeliverTimerMessage(uint32_t sint, Interrupts& interrupts) {
  for (uint32_t index = 0; index < timer_messages_.size(); ++index) {
    TimerMessage& timer = timer_messages_[index];
    if (!timer.waits || timer.sint != sint) continue;
    timer.waits = false;
    const hvdef::TimerMessagePayload payload{.timer_index = index,
                                             .expiration_time_100ns = timer.expiration_100ns,
                                             .delivery_time_100ns = clock_.Now100ns()};
    Message message{.header = {.message_type = static_cast<uint32_t>(hvdef::MessageType::kTimerExpired),
                               .payload_size = sizeof(payload)}};
    std::memcpy(message.payload, &payload, sizeof(payload));
    Fill(sint, message, interrupts);
    return true;
  }
  return false;
}

void Synic::Deliver(uint32_t sint, Interrupts& interrupts, uint16_t& room) {
  if (!HasMessage(sint) || !IsSlotEmptyOrFlagged(sint) || DeliverTimerMessage(sint, interrupts)) return;
  Queue& queue = *queues_[sint];
  const Message& message = queue.messages[queue.first];
  queue.first = (queue.first + 1) % kQueueLength;
  --queue.size;
  Fill(sint, message, interrupts);
  if (queue.found_full) room |= 1u << sint;
  queue.found_full = false;
}

uint16_t Synic::DeliverAll(Interrupts& interrupts) {
  uint16_t room = 0;
  if (!messages_enabled()) return room;
  for (uint32_t sint = 0; sint < hvdef::kSintCount; ++sint) Deliver(sint, interrupts, room);
  return room;
}

void Synic::Request(const Interrupts& interrupts) {
  for (uint32_t i = 0; i < interrupts.count; ++i) {
    const uint64_t sint = interrupts.sints[i];
    backend_.RequestInterrupt(vp_, sint & msr::kSintVectorMask, (sint & msr::kSintAutoEoi) != 0);
  }
}

HvStatus Synic::PostMessage(Sint sint, uint32_t message_type, absl::Span<const uint8_t> payload, uint64_t origin) {
  const uint32_t index = ToInt(sint);
  if (index >= hvdef::kSintCount || message_type == 0 || payload.size() > hvdef::kMessageMaxPayloadBytes) {
    return HvStatus::kInvalidParameter;
  }
  Interrupts interrupts;
  {
    std::lock_guard lock(mutex_);
    if (!messages_enabled()) return HvStatus::kInvalidSynicState;
    Message message;
    message.header = {
        .message_type = message_type, .payload_size = static_cast<uint8_t>(payload.size()), .origin = origin};
    if (!payload.empty()) std::memcpy(message.payload, payload.data(), payload.size());
    if (!HasMessage(index) && IsSlotEmpty(index)) {
      Fill(index, message, interrupts);
    } else {
      if (queues_[index] == nullptr) queues_[index] = std::make_unique<Queue>();
      Queue& queue = *queues_[index];
      if (queue.size == kQueueLength) {
        queue.found_full = true;
        return HvStatus::kInsufficientBuffers;
      }
      queue.messages[(queue.first + queue.size++) % kQueueLength] = message;
      uint16_t room = 0;
      Deliver(index, interrupts, room);
    }
  }
  Request(interrupts);
  return HvStatus::kSuccess;
}

HvStatus Synic::SignalEvent(Sint sint, uint16_t flag) {
  const uint32_t index = ToInt(sint);
  if (index >= hvdef::kSintCount || flag >= hvdef::kEventFlagsPerSint) return HvStatus::kInvalidParameter;
  uint64_t value;
  {
    std::lock_guard lock(mutex_);
    value = sints_[index];
    if ((scontrol_ & msr::kScontrolEnable) == 0 || (siefp_ & msr::kPageEnable) == 0 ||
        (value & msr::kSintMasked) != 0) {
      return HvStatus::kInvalidSynicState;
    }
    const uint32_t offset = index * hvdef::kEventFlagsBytesPerSint + flag / 64 * 8;
    std::atomic_ref word(*reinterpret_cast<uint64_t*>(flags_page_.bytes() + offset));
    const uint64_t bit = uint64_t{1} << flag % 64;
    // Release: what was done before the signal is visible to a guest that sees the flag. It pairs with the guest's
    // locked clear.
    if ((word.fetch_or(bit, std::memory_order_acq_rel) & bit) != 0) return HvStatus::kSuccess;
    overlays_.Written(flags_page_, offset, sizeof(uint64_t));
    ++events_;
  }
  if ((value & msr::kSintPolling) == 0) {
    backend_.RequestInterrupt(vp_, value & msr::kSintVectorMask, (value & msr::kSintAutoEoi) != 0);
  }
  return HvStatus::kSuccess;
}

HvStatus Synic::Assert(Sint sint) {
  if (ToInt(sint) >= hvdef::kSintCount) return HvStatus::kInvalidParameter;
  Interrupts interrupts;
  {
    std::lock_guard lock(mutex_);
    if ((scontrol_ & msr::kScontrolEnable) != 0) interrupts.Add(sints_[ToInt(sint)]);
  }
  Request(interrupts);
  return interrupts.count != 0 ? HvStatus::kSuccess : HvStatus::kInvalidSynicState;
}

void Synic::PostTimerMessage(uint32_t index, Sint sint, uint64_t expiration_100ns) {
  Interrupts interrupts;
  {
    std::lock_guard lock(mutex_);
    TimerMessage& timer = timer_messages_[index];
    if (timer.waits) return;
    timer = {.waits = true, .sint = ToInt(sint), .expiration_100ns = expiration_100ns};
    uint16_t room = 0;
    if (messages_enabled()) Deliver(ToInt(sint), interrupts, room);
  }
  Request(interrupts);
}

void Synic::CancelTimerMessage(uint32_t index) {
  std::lock_guard lock(mutex_);
  timer_messages_[index].waits = false;
}

void Synic::Reset() {
  for (uint32_t sint = 0; sint < hvdef::kSintCount; ++sint) TellEngine(sint, msr::kSintDefault);
  std::lock_guard lock(mutex_);
  scontrol_ = siefp_ = simp_ = 0;
  sints_.fill(msr::kSintDefault);
  for (Overlay* page : {&message_page_, &flags_page_}) overlays_.Clear(*page);
  for (auto& queue : queues_) queue.reset();
  timer_messages_.fill({});
}

SynicState Synic::Save() const {
  std::lock_guard lock(mutex_);
  SynicState state;
  state.scontrol = scontrol_;
  state.siefp = siefp_;
  state.simp = simp_;
  for (uint32_t sint = 0; sint < hvdef::kSintCount; ++sint) {
    SintState& saved = state.sints[sint];
    saved.value = sints_[sint];
    if (queues_[sint] == nullptr) continue;
    const Queue& queue = *queues_[sint];
    saved.found_full = queue.found_full;
    for (uint32_t i = 0; i < queue.size; ++i) {
      const Message& message = queue.messages[(queue.first + i) % kQueueLength];
      saved.messages.push_back({.type = message.header.message_type,
                                .payload = {message.payload, message.payload + message.header.payload_size},
                                .origin = message.header.origin});
    }
  }
  for (size_t index = 0; index < timer_messages_.size(); ++index) {
    const TimerMessage& timer = timer_messages_[index];
    if (!timer.waits) continue;  // what it was about last has no meaning
    state.timer_messages[index] = {.waits = true, .sint = timer.sint, .expiration_100ns = timer.expiration_100ns};
  }
  return state;
}

absl::Status Synic::Check(const SynicState& state, const state::StateReader& reader) const {
  if (!message_page_.IsWhere(state.simp)) return reader.Invalid("synic.simp", "its overlay page is elsewhere");
  if (!flags_page_.IsWhere(state.siefp)) return reader.Invalid("synic.siefp", "its overlay page is elsewhere");
  for (const SintState& sint : state.sints) {
    if ((sint.value & msr::kSintAutoEoi) != 0 && !auto_eoi_works_) {
      return reader.Invalid("synic.sints.value", "AutoEOI, which this engine does not have");
    }
    if (!IsSintValue(sint.value, auto_eoi_works_))
      return reader.Invalid("synic.sints.value", "not an interrupt's vector");
    if (sint.messages.size() > kQueueLength) return reader.Invalid("synic.sints.messages", "more than 16");
    for (const MessageState& message : sint.messages) {
      if (message.type == 0) return reader.Invalid("synic.sints.messages.type", "zero");
      if (message.payload.size() > hvdef::kMessageMaxPayloadBytes) {
        return reader.Invalid("synic.sints.messages.payload", "more than 240 bytes");
      }
    }
    if (sint.found_full && sint.messages.size() != kQueueLength) {
      return reader.Invalid("synic.sints.found_full", "there is room");
    }
  }
  for (const TimerMessageState& timer : state.timer_messages) {
    if (timer.sint >= hvdef::kSintCount) return reader.Invalid("synic.timer_messages.sint", "more than 15");
    if (timer.waits ? timer.sint == 0 : timer.sint != 0 || timer.expiration_100ns != 0) {
      return reader.Invalid("synic.timer_messages.waits",
                            "a message without a timer's SINT, or a SINT without a message");
    }
  }
  return absl::OkStatus();
}

absl::Status Synic::Restore(const SynicState& state) {
  for (uint32_t sint = 0; sint < hvdef::kSintCount; ++sint) {
    // Also what it has been told already: it may have been restored to a time when it was not.
    if (TellEngine(sint, state.sints[sint].value, /*anew=*/true)) continue;
    for (uint32_t told = 0; told < sint; ++told) TellEngine(told, sints_[told]);
    return absl::InternalError(absl::StrFormat("VP %d: the engine refuses AutoEOI of SINT %d", ToInt(vp_), sint));
  }
  std::lock_guard lock(mutex_);
  scontrol_ = state.scontrol;
  siefp_ = state.siefp;
  simp_ = state.simp;
  for (uint32_t sint = 0; sint < hvdef::kSintCount; ++sint) {
    const SintState& saved = state.sints[sint];
    sints_[sint] = saved.value;
    queues_[sint].reset();
    if (saved.messages.empty()) continue;
    queues_[sint] = std::make_unique<Queue>();
    Queue& queue = *queues_[sint];
    queue.found_full = saved.found_full;
    for (const MessageState& message : saved.messages) {
      Message& queued = queue.messages[queue.size++];
      queued.header = {.message_type = message.type,
                       .payload_size = static_cast<uint8_t>(message.payload.size()),
                       .origin = message.origin};
      std::copy(message.payload.begin(), message.payload.end(), queued.payload);
    }
  }
  for (size_t index = 0; index < timer_messages_.size(); ++index) {
    const TimerMessageState& saved = state.timer_messages[index];
    timer_messages_[index] = {.waits = saved.waits, .sint = saved.sint, .expiration_100ns = saved.expiration_100ns};
  }
  return absl::OkStatus();
}

}  // namespace hvsdk::partition
