// SPDX-License-Identifier: Apache-2.0
// Messages and events to another guest, in place of the other tests, if the command line says "peer". Each of the two,
// or of any number in a ring, sends to kMessageConnection and kEventConnection, and gets on kMessageSint and kEventSint
// what another sent there. With "chatter", too, it never stops, whatever becomes of the other.

#include "console.h"
#include "hypervisor.h"
#include "tests.h"

using hvsdk::hvdef::Message;

namespace {

constexpr uint32_t kMessageConnection = 0x20000, kEventConnection = 0x20001;
constexpr uint32_t kMessageSint = 3, kEventSint = 4;
constexpr uint32_t kPort = 7;
// More than wait at the receiver: the sender has to try again.
constexpr uint32_t kMessages = 40;
constexpr uint32_t kFlags = 8;

constexpr uint32_t Size(uint32_t i) { return i * 6; }
constexpr uint8_t Byte(uint32_t i, uint32_t at) { return static_cast<uint8_t>(i + at * 3); }

// What says that the other is not there yet, or has too much to do.
constexpr bool IsTooEarly(HvStatus status) {
  return status == HvStatus::kInvalidPortId || status == HvStatus::kInvalidSynicState ||
         status == HvStatus::kInsufficientBuffers;
}

HvStatus Send(uint32_t i) {
  hvsdk::hvdef::PostMessageInput post = {kMessageConnection, 0, 0x100 + i, Size(i), {}};
  for (uint32_t at = 0; at < Size(i); ++at) post.payload[at] = Byte(i, at);
  return Call(CallCode::kPostMessage, post);
}

bool IsAsSent(const Message& message, uint32_t i) {
  bool ok = message.header.message_type == 0x100 + i && message.header.payload_size == Size(i) &&
            message.header.origin == kPort;
  for (uint32_t at = 0; at < Size(i); ++at) ok = ok && message.payload[at] == Byte(i, at);
  return ok;
}

[[noreturn]] void Chatter() {
  for (uint32_t i = 0;; ++i) {
    (void)Send(i % kMessages);
    (void)FastCall(CallCode::kSignalEvent, kEventConnection | uint64_t{i % kFlags} << 32, 0);
    Message message;
    (void)TakeMessage(kMessageSint, message);
    EventFlags(kEventSint)[0] = 0;
  }
}

}  // namespace

void TestPeer() {
  Check(StartHypercalls(), "peer: the hypercall page");
  StartSynic();
  if (CommandLineHas("chatter")) Chatter();
  uint32_t sent = 0, received = 0;
  bool sent_ok = true, received_ok = true;
  const bool all = WaitUntil(
      [&] {
        if (sent < kMessages) {
          const HvStatus status = Send(sent);
          if (status == HvStatus::kSuccess) ++sent;
          sent_ok = sent_ok && (status == HvStatus::kSuccess || IsTooEarly(status));
        }
        Message message;
        if (TakeMessage(kMessageSint, message)) received_ok = IsAsSent(message, received++) && received_ok;
        return sent == kMessages && received == kMessages;
      },
      120 * kSecond);
  Check(all && sent_ok, "peer: it takes messages");
  Check(all && received_ok, "peer: its messages come as they were sent, in their order");
  Check(InterruptCount(SintVector(kMessageSint)) != 0, "peer: its messages interrupt");

  CheckEqual(FastCall(CallCode::kSignalEvent, kEventConnection | uint64_t{kFlags} << 32, 0),
             HvStatus::kInvalidParameter, "peer: a flag that its port does not have");
  CheckEqual(FastCall(CallCode::kSignalEvent, kMessageConnection, 0), HvStatus::kInvalidPortId,
             "peer: an event to a message port");

  // Whoever has the other's last event may go: nothing comes any more.
  bool signaled = true;
  for (uint32_t flag = 0; flag < kFlags && signaled; ++flag) {
    HvStatus status;
    signaled = WaitUntil([&] {
                 status = FastCall(CallCode::kSignalEvent, kEventConnection | uint64_t{flag} << 32, 0);
                 return !IsTooEarly(status);
               }) &&
               status == HvStatus::kSuccess;
  }
  Check(signaled, "peer: it takes events");
  volatile uint64_t& word = EventFlags(kEventSint)[0];
  // Its port has them from flag 16 on.
  constexpr uint64_t kExpected = ((uint64_t{1} << kFlags) - 1) << 16;
  Check(WaitUntil([&] { return word == kExpected; }, 120 * kSecond), "peer: its events come");
  Check(InterruptCount(SintVector(kEventSint)) != 0, "peer: its events interrupt");
}
