// SPDX-License-Identifier: Apache-2.0
// Freestanding.
#include "hvsdk/vsc/keyboard_client.h"

#include "vsc/client_messages.h"

namespace hvsdk::vsc {

namespace wire = hvdef::keyboard;
using vmbus::RingStatus;
using wire::MessageType;

KeyboardClient::KeyboardClient(VmbusClient& bus, Channel& channel, const ClientRings& rings)
    : bus_(bus), channel_(channel), rings_(rings) {
  if (!rings_.is_valid()) Fail();
  channel.context = this;
  channel.on_signal = [](void* self, Channel&) { static_cast<KeyboardClient*>(self)->OnSignal(); };
  channel.on_end = [](void* self, Channel&) { static_cast<KeyboardClient*>(self)->state_ = State::kEnded; };
}

bool KeyboardClient::Send(const void* message, uint32_t size_bytes) {
  const RingStatus status = rings_.outgoing.StageInBand(vmbus::PacketHeader::InBand(0, false), message, size_bytes);
  if (status != RingStatus::kOk) {
    if (status != RingStatus::kFull) Fail();
    return false;
  }
  if (rings_.outgoing.Publish() == vmbus::Signal::kNeeded) bus_.Signal(channel_);
  return true;
}

void KeyboardClient::Start() {
  if (is_over() || is_asking_) return;
  const wire::ProtocolRequest request{.header = {MessageType::kProtocolRequest}, .version = wire::kVersion1};
  is_asking_ = Send(&request, sizeof(request));
}

bool KeyboardClient::SetLeds(uint16_t leds) {
  if (state_ != State::kReady) return false;
  const wire::LedIndicators indicators{.header = {MessageType::kLedIndicators}, .leds = leds, .reserved = 0};
  return Send(&indicators, sizeof(indicators));
}

void KeyboardClient::OnSignal() {
  const bool is_good = ReadInBand(
      bus_, channel_, rings_, buffer_, sizeof(buffer_), [this] { return !is_over(); },
      [this](const vmbus::Packet& packet) { OnMessage(packet.payload, packet.payload_size); });
  if (!is_good) Fail();
}

void KeyboardClient::OnMessage(const uint8_t* message, uint32_t size_bytes) {
  wire::Header header;
  if (!ReadMessage(message, size_bytes, header)) return Fail();
  if (header.type == MessageType::kProtocolResponse) {
    wire::ProtocolResponse response;
    if (!is_asking_ || !ReadMessage(message, size_bytes, response)) return Fail();
    is_asking_ = false;
    state_ = (response.status & wire::kAccepted) != 0 ? State::kReady : State::kRefused;
  } else if (header.type == MessageType::kKeystroke) {
    wire::Keystroke keystroke;
    if (state_ != State::kReady || !ReadMessage(message, size_bytes, keystroke)) return Fail();
    if (on_key != nullptr) on_key(context, keystroke.code, keystroke.flags);
  }
}

}  // namespace hvsdk::vsc
