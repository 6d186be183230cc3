// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/interrupt/io_apic.h"

#include "absl/strings/str_format.h"

namespace hvsdk::interrupt {
namespace {

// Fields of a redirection table entry (82093AA, 3.2.4).
constexpr uint64_t kVector = 0xFF;
constexpr uint64_t kLogical = 1 << 11;
constexpr uint64_t kDeliveryStatus = 1 << 12;
constexpr uint64_t kRemoteIrr = 1 << 14;
constexpr uint64_t kLevel = 1 << 15;
constexpr uint64_t kMasked = 1 << 16;
constexpr uint64_t kReadOnly = kDeliveryStatus | kRemoteIrr;
constexpr uint64_t kWritable = 0xFF00000000000000 | 0x1AFFF;

DeliveryMode ModeOf(uint64_t entry) { return static_cast<DeliveryMode>((entry >> 8) & 7); }
// The other delivery modes are edge-triggered, whatever their entry says.
bool IsLevel(uint64_t entry) {
  return (entry & kLevel) && (ModeOf(entry) == DeliveryMode::kFixed || ModeOf(entry) == DeliveryMode::kLowestPriority);
}

constexpr uint32_t kRegId = 0;
constexpr uint32_t kRegVersion = 1;
constexpr uint32_t kRegArbitration = 2;
constexpr uint32_t kRegTable = 0x10;

}  // namespace

IoApic::IoApic(ApicBus& bus, uint8_t id) : bus_(bus), first_id_(id & 0xF) {
  Reset();
  bus.Attach(this);
}

void IoApic::Reset() {
  std::lock_guard lock(mutex_);
  select_ = 0;
  id_ = first_id_;
  lines_ = 0;
  redirection_.fill(kMasked);
}

IoApicState IoApic::Save() {
  std::lock_guard lock(mutex_);
  IoApicState state{.id = id_, .select = static_cast<uint8_t>(select_), .redirection = redirection_, .lines = lines_};
  for (uint32_t pin = 0; pin < kPins; ++pin) {
    if (IsHeld(pin)) state.redirection[pin] |= kDeliveryStatus;
  }
  return state;
}

absl::Status IoApic::Check(const IoApicState& state) {
  if (state.id > 0xF) return absl::InvalidArgumentError(absl::StrFormat("io_apic_id: impossible value %#x", state.id));
  if (state.lines >> kPins != 0) {
    return absl::InvalidArgumentError(absl::StrFormat("io_apic_lines: no line drives all of %#x", state.lines));
  }
  for (uint32_t pin = 0; pin < kPins; ++pin) {
    if ((state.redirection[pin] & ~(kWritable | kReadOnly)) == 0) continue;
    return absl::InvalidArgumentError(
        absl::StrFormat("redirection[%u]: impossible value %#x", pin, state.redirection[pin]));
  }
  return absl::OkStatus();
}

void IoApic::Restore(const IoApicState& state) {
  std::lock_guard lock(mutex_);
  id_ = state.id;
  select_ = state.select;
  lines_ = state.lines;
  for (uint32_t pin = 0; pin < kPins; ++pin) {
    uint64_t entry = state.redirection[pin] & ~kDeliveryStatus;  // which IsHeld tells
    if (!IsLevel(entry)) entry &= ~kRemoteIrr;
    redirection_[pin] = entry;
  }
}

bool IoApic::Service(uint32_t pin, Cause cause, InterruptMessage& message) {
  uint64_t& entry = redirection_[pin];
  if (entry & kMasked) return false;
  if (IsLevel(entry)) {
    if (!IsHeld(pin)) return false;
    entry |= kRemoteIrr;
  } else if (cause != Cause::kEdge) {
    return false;
  }
  message = {.destination = static_cast<uint32_t>(entry >> 56),
             .logical = (entry & kLogical) != 0,
             .narrow = true,
             .mode = ModeOf(entry),
             .level = IsLevel(entry),
             .vector = static_cast<uint8_t>(entry & kVector)};
  return true;
}

bool IoApic::IsHeld(uint32_t pin) const {
  const uint64_t entry = redirection_[pin];
  return IsLevel(entry) && !(entry & (kMasked | kRemoteIrr)) && (lines_ >> pin & 1);
}

void IoApic::Deliver(uint32_t pin, InterruptMessage message) {
  for (;;) {
    const uint32_t seen = retries_.load(std::memory_order_seq_cst);
    if (bus_.Deliver(message) || !message.level) return;
    // No local APIC has it in its IRR, so it is held until one can take it. Pairs with Retry: one that was enabled behind our back has
    // counted up by now, or comes for the lock after us.
    std::lock_guard lock(mutex_);
    redirection_[pin] &= ~kRemoteIrr;
    if (retries_.load(std::memory_order_seq_cst) == seen || !Service(pin, Cause::kOther, message)) return;
  }
}

void IoApic::ServiceAndDeliver(uint32_t pin) {
  InterruptMessage message;
  {
    std::lock_guard lock(mutex_);
    if (!Service(pin, Cause::kOther, message)) return;
  }
  Deliver(pin, message);
}

void IoApic::SetLine(uint32_t pin, bool level) {
  if (pin >= kPins) return;
  InterruptMessage message;
  {
    std::lock_guard lock(mutex_);
    const uint32_t bit = 1u << pin;
    const Cause cause = level && (lines_ & bit) == 0 ? Cause::kEdge : Cause::kOther;
    lines_ = level ? lines_ | bit : lines_ & ~bit;
    if (!Service(pin, cause, message)) return;
  }
  Deliver(pin, message);
}

void IoApic::OnEoi(uint8_t vector) {
  for (uint32_t pin = 0; pin < kPins; ++pin) {
    InterruptMessage message;
    {
      std::lock_guard lock(mutex_);
      uint64_t& entry = redirection_[pin];
      if ((entry & kVector) != vector || !IsLevel(entry) || !(entry & kRemoteIrr)) continue;
      entry &= ~kRemoteIrr;
      if (!Service(pin, Cause::kOther, message)) continue;  // the line may still be up
    }
    Deliver(pin, message);
  }
}

void IoApic::Retry() {
  retries_.fetch_add(1, std::memory_order_seq_cst);
  for (uint32_t pin = 0; pin < kPins; ++pin) ServiceAndDeliver(pin);
}

uint32_t IoApic::ReadRegister() const {
  switch (select_) {
    case kRegId:
    case kRegArbitration:
      return static_cast<uint32_t>(id_) << 24;
    case kRegVersion:
      return (kPins - 1) << 16 | 0x11;
  }
  const uint32_t index = select_ - kRegTable;
  if (select_ < kRegTable || index >= 2 * kPins) return 0;
  const uint64_t status = IsHeld(index / 2) ? kDeliveryStatus : 0;  // its delivery waits for somebody who takes it
  return static_cast<uint32_t>((redirection_[index / 2] | status) >> (index % 2 * 32));
}

void IoApic::WriteRegister(uint32_t value) {
  if (select_ == kRegId) id_ = value >> 24 & 0xF;
  const uint32_t index = select_ - kRegTable;
  if (select_ < kRegTable || index >= 2 * kPins) return;
  uint64_t& entry = redirection_[index / 2];
  const uint64_t half = index % 2 == 0 ? 0xFFFFFFFF : 0xFFFFFFFF00000000;
  const uint64_t wanted = index % 2 == 0 ? value : static_cast<uint64_t>(value) << 32;
  entry = (entry & ~half) | (wanted & half & kWritable & ~kReadOnly) | (entry & half & kReadOnly);
  // Whoever makes an input edge-triggered gives up what it had sent: Linux ends a stuck interrupt that way.
  if (!IsLevel(entry)) entry &= ~kRemoteIrr;
}

uint32_t IoApic::ReadMmio(uint32_t offset) {
  std::lock_guard lock(mutex_);
  if (offset == 0) return select_;
  return offset == 0x10 ? ReadRegister() : 0;
}

void IoApic::WriteMmio(uint32_t offset, uint32_t value) {
  uint32_t pin = kPins;
  {
    std::lock_guard lock(mutex_);
    if (offset == 0) select_ = value & 0xFF;
    if (offset != 0x10) return;
    WriteRegister(value);
    if (select_ >= kRegTable) pin = (select_ - kRegTable) / 2;
  }
  if (pin < kPins) ServiceAndDeliver(pin);  // a level that was masked goes out now; an edge is lost
}

}  // namespace hvsdk::interrupt
