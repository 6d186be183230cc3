// SPDX-License-Identifier: Apache-2.0
// Messages and events on every SINT: from timers, which is all that a guest can do by itself, and from the machine's
// loopback ports (hvsdk/machine/loopback_ports.h), which send back what they get.

#include "console.h"
#include "hypervisor.h"
#include "tests.h"

using hvsdk::hvdef::Message;
using hvsdk::hvdef::MessageType;
using hvsdk::hvdef::TimerMessagePayload;

namespace {

constexpr uint32_t kFirstLoopbackConnection = 0x10000;

bool LoopMessage(uint32_t sint, uint32_t size) {
  hvsdk::hvdef::PostMessageInput post = {kFirstLoopbackConnection + sint, 0, 0x1234 + sint, size, {}};
  for (uint32_t i = 0; i < size; ++i) post.payload[i] = static_cast<uint8_t>(i + sint);
  const uint32_t before = InterruptCount(SintVector(sint));
  Message message;
  return Call(CallCode::kPostMessage, post) == HvStatus::kSuccess &&
         WaitUntil([=] { return InterruptCount(SintVector(sint)) == before + 1; }) && TakeMessage(sint, message) &&
         message.header.message_type == 0x1234 + sint && message.header.payload_size == size &&
         __builtin_memcmp(message.payload, post.payload, size) == 0;
}

bool LoopEvent(uint32_t sint, uint32_t flag) {
  const uint32_t before = InterruptCount(SintVector(sint));
  const uint64_t input = (kFirstLoopbackConnection + sint) | uint64_t{flag} << 32;
  volatile uint64_t& word = EventFlags(sint)[flag / 64];
  const uint64_t bit = uint64_t{1} << flag % 64;
  bool ok = FastCall(CallCode::kSignalEvent, input, 0) == HvStatus::kSuccess &&
            WaitUntil([=] { return InterruptCount(SintVector(sint)) == before + 1; }) && word == bit;
  // A flag that is set already does not interrupt again.
  ok = ok && FastCall(CallCode::kSignalEvent, input, 0) == HvStatus::kSuccess && word == bit &&
       InterruptCount(SintVector(sint)) == before + 1;
  word = 0;
  return ok;
}

// Makes a timer post a message at once: its time has passed when it is enabled.
void Post(uint32_t timer, uint32_t sint) {
  TryWriteMsr(msr::kStimer0Count + 2 * timer, 1);
  TryWriteMsr(msr::kStimer0Config + 2 * timer, uint64_t{sint} << msr::kStimerSintShift | msr::kStimerEnable);
}
bool HasMessage(uint32_t sint) { return *const_cast<volatile uint32_t*>(&MessageSlot(sint)->header.message_type) != 0; }
bool TakeFrom(uint32_t timer, uint32_t sint) {
  Message message;
  if (!WaitUntil([&] { return TakeMessage(sint, message); })) return false;
  TimerMessagePayload payload;
  __builtin_memcpy(&payload, message.payload, sizeof(payload));
  return message.header.message_type == static_cast<uint32_t>(MessageType::kTimerExpired) &&
         message.header.payload_size == sizeof(payload) && payload.timer_index == timer;
}

}  // namespace

void TestSynic() {
  for (uint32_t sint = 1; sint < hvsdk::hvdef::kSintCount; ++sint) {
    const uint32_t before = InterruptCount(SintVector(sint));
    Post(0, sint);
    const bool interrupted = WaitUntil([=] { return InterruptCount(SintVector(sint)) == before + 1; });
    Check(interrupted && TakeFrom(0, sint), "SynIC: a message and its interrupt on SINT", sint);
  }

  for (uint32_t sint = 0; sint < hvsdk::hvdef::kSintCount; ++sint) {
    Check(LoopMessage(sint, 240) && LoopMessage(sint, 0),
          "SynIC: the longest and the shortest message to oneself on SINT", sint);
    Check(LoopEvent(sint, 0) && LoopEvent(sint, 1) && LoopEvent(sint, 2047), "SynIC: events to oneself on SINT", sint);
  }
  CheckEqual(FastCall(CallCode::kSignalEvent, kFirstLoopbackConnection | uint64_t{2048} << 32, 0),
             HvStatus::kInvalidParameter, "HvCallSignalEvent: a flag that no SINT has");
  SetSint(4, msr::kSintMasked);
  CheckEqual(FastCall(CallCode::kSignalEvent, kFirstLoopbackConnection + 4, 0), HvStatus::kInvalidSynicState,
             "HvCallSignalEvent: to a masked SINT");
  SetSint(4);

  SetSint(5, msr::kSintMasked);
  uint32_t before = InterruptCount(SintVector(5));
  Post(1, 5);
  Check(TakeFrom(1, 5) && InterruptCount(SintVector(5)) == before,
        "SynIC: a masked SINT gets the message and no interrupt");
  SetSint(5, msr::kSintPolling);
  Post(1, 5);
  Check(TakeFrom(1, 5) && InterruptCount(SintVector(5)) == before,
        "SynIC: a polled SINT gets the message and no interrupt");
  SetSint(5);

  // Drivers of FreeBSD's set the flag on every hypervisor, and never write EOI.
  const bool has_auto_eoi = TryWriteMsr(msr::kSint0 + 8, SintVector(8) | msr::kSintAutoEoi);
  LeaveInService(true);
  bool again = has_auto_eoi;
  for (int i = 0; i < 3 && again; ++i) again = LoopMessage(8, 16) && LoopEvent(8, 5);
  LeaveInService(false);
  Check(again || !RequiresWholeApic(),
        "SynIC: an AutoEOI SINT interrupts again and again without EOI, if the APIC is whole");
  SetSint(8);
  Check(LoopMessage(8, 16) && LoopMessage(8, 16), "SynIC: a SINT that is AutoEOI no longer");

  // Two messages, one slot.
  before = InterruptCount(SintVector(6));
  Post(0, 6);
  Check(WaitUntil([] { return HasMessage(6); }), "SynIC: a full slot");
  Post(1, 6);
  Check(WaitUntil([] {
          return (*const_cast<volatile uint8_t*>(&MessageSlot(6)->header.flags) & hvsdk::hvdef::kMessagePending) != 0;
        }),
        "SynIC: a full slot says that more wait");
  Check(TakeFrom(0, 6) && TakeFrom(1, 6), "SynIC: EOM brings the next message");
  Check(WaitUntil([=] { return InterruptCount(SintVector(6)) == before + 2; }), "SynIC: each message interrupts");

  // Disabled, it keeps what comes until it is enabled.
  TryWriteMsr(msr::kScontrol, 0);
  Post(2, 7);
  Wait(kMillisecond);
  Check(!HasMessage(7), "SynIC: disabled, it delivers nothing");
  TryWriteMsr(msr::kScontrol, msr::kScontrolEnable);
  Check(TakeFrom(2, 7), "SynIC: enabled, it delivers what waited");
}
