// SPDX-License-Identifier: Apache-2.0
// Synthetic keyboard: what a guest's keyboard driver and the host say to each other. All little-endian.
//
// A packet's payload is one message, without the header of a pipe. The guest asks for a version and is told whether it may have it; from
// then on the host sends keystrokes, and the guest may say which lights are on. A key is a scan code of set 1, as the keyboard of a PC/AT
// sends it through its controller: 7 bits, with the prefixes E0 and E1 and the bit for a release apart from it, as flags.
//
// Sources: Linux drivers/input/serio/hyperv-keyboard.c, OpenVMM vm/devices/uidevices/src/keyboard.

#ifndef HVSDK_HVDEF_KEYBOARD_H_
#define HVSDK_HVDEF_KEYBOARD_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace hvsdk::hvdef::keyboard {

enum class MessageType : uint32_t {
  kProtocolRequest = 1,   // the guest's
  kProtocolResponse = 2,  // the host's
  kKeystroke = 3,         // the host's
  kLedIndicators = 4,     // the guest's; Linux sends none
};

// Major in the high half, minor in the low one.
inline constexpr uint32_t kVersion1 = 0x0001'0000;  // since Windows 8; there is no other

inline constexpr uint32_t kMaxMessageBytes = 256;  // HK_MAXIMUM_MESSAGE_SIZE

// Source: Linux, synth_kbd_msg_hdr.
struct Header {
  MessageType type;  // 0x00
};
static_assert(sizeof(Header) == 4);
static_assert(offsetof(Header, type) == 0x00);

// Source: Linux, synth_kbd_protocol_request.
struct ProtocolRequest {
  Header header;     // 0x00
  uint32_t version;  // 0x04
};
static_assert(sizeof(ProtocolRequest) == 8);
static_assert(offsetof(ProtocolRequest, header) == 0x00 && offsetof(ProtocolRequest, version) == 0x04);

inline constexpr uint32_t kAccepted = 1;

// Source: Linux, synth_kbd_protocol_response.
struct ProtocolResponse {
  Header header;    // 0x00
  uint32_t status;  // 0x04  kAccepted, or 0
};
static_assert(sizeof(ProtocolResponse) == 8);
static_assert(offsetof(ProtocolResponse, header) == 0x00 && offsetof(ProtocolResponse, status) == 0x04);

inline constexpr uint32_t kIsUnicode = 1;  // the code is a unit of UTF-16; Linux takes it for a scan code nevertheless
inline constexpr uint32_t kIsBreak = 2;    // the key is released
inline constexpr uint32_t kIsE0 = 4;
inline constexpr uint32_t kIsE1 = 8;

// Source: Linux, synth_kbd_keystroke.
struct Keystroke {
  Header header;      // 0x00
  uint16_t code;      // 0x04
  uint16_t reserved;  // 0x06
  uint32_t flags;     // 0x08
};
static_assert(sizeof(Keystroke) == 12);
static_assert(offsetof(Keystroke, header) == 0x00 && offsetof(Keystroke, code) == 0x04 &&
              offsetof(Keystroke, reserved) == 0x06 && offsetof(Keystroke, flags) == 0x08);
static_assert(std::is_trivially_copyable_v<Keystroke>);

// As a PC/AT's keyboard has them.
inline constexpr uint16_t kScrollLockLed = 1;
inline constexpr uint16_t kNumLockLed = 2;
inline constexpr uint16_t kCapsLockLed = 4;

// Source: OpenVMM, MessageLedIndicatorsState.
struct LedIndicators {
  Header header;      // 0x00
  uint16_t leds;      // 0x04
  uint16_t reserved;  // 0x06
};
static_assert(sizeof(LedIndicators) == 8);
static_assert(offsetof(LedIndicators, header) == 0x00 && offsetof(LedIndicators, leds) == 0x04 &&
              offsetof(LedIndicators, reserved) == 0x06);

}  // namespace hvsdk::hvdef::keyboard

#endif  // HVSDK_HVDEF_KEYBOARD_H_
