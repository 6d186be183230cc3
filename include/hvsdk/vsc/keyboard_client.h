// SPDX-License-Identifier: Apache-2.0
// KeyboardClient: the child side of the synthetic keyboard on one open channel. It asks for the version, hands out keystrokes, and
// tells the host which lights are on.
//
// Freestanding: no heap, no exceptions, no RTTI, no library but memcpy and memset. Nothing here waits: OnSignal, which the channel's
// signal calls, takes what has come.
//
// Thread-compatible: the caller keeps interrupts and everything else apart.
//
// The host is not trusted to be right: what is no message, or comes before its time, and a broken ring, make the client fail. A client
// serves one opening of its channel.
//
// Source: hvdef/keyboard.h.
//
//   vsc::KeyboardClient keyboard(bus, channel, rings);
//   keyboard.on_key = [](void*, uint16_t code, uint32_t flags) { OnScanCode(code, flags); };
//   keyboard.Start();  // when the channel is open

#ifndef HVSDK_VSC_KEYBOARD_CLIENT_H_
#define HVSDK_VSC_KEYBOARD_CLIENT_H_

#include <cstdint>

#include "hvsdk/hvdef/keyboard.h"
#include "hvsdk/vmbus/ring/packet.h"
#include "hvsdk/vsc/client_rings.h"
#include "hvsdk/vsc/vmbus_client.h"

namespace hvsdk::vsc {

class KeyboardClient {
 public:
  enum class State : uint8_t {
    kStarting,  // until the host has accepted the version
    kReady,
    kRefused,  // the host does not speak it
    kFailed,   // the host broke the protocol or a ring; close the channel
    kEnded,    // the channel is no more
  };

  // Takes the channel's signals and its end.
  KeyboardClient(VmbusClient& bus, Channel& channel, const ClientRings& rings);
  KeyboardClient(const KeyboardClient&) = delete;
  KeyboardClient& operator=(const KeyboardClient&) = delete;

  State state() const { return state_; }

  void* context = nullptr;
  // A scan code of set 1 and hvdef::keyboard::kIs... flags.
  void (*on_key)(void* context, uint16_t code, uint32_t flags) = nullptr;

  // Asks for the version: once, when the channel is open.
  void Start();
  // hvdef::keyboard::k...Led. False: there is no room for it now, or the client is not ready.
  bool SetLeds(uint16_t leds);

  void OnSignal();

 private:
  bool is_over() const { return state_ >= State::kRefused; }
  bool Send(const void* message, uint32_t size_bytes);
  void OnMessage(const uint8_t* message, uint32_t size_bytes);
  void Fail() { state_ = State::kFailed; }

  VmbusClient& bus_;
  Channel& channel_;
  ClientRings rings_;
  State state_ = State::kStarting;
  bool is_asking_ = false;
  alignas(8) uint8_t buffer_[hvdef::keyboard::kMaxMessageBytes];
};

}  // namespace hvsdk::vsc

#endif  // HVSDK_VSC_KEYBOARD_CLIENT_H_
