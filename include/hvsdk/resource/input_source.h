// SPDX-License-Identifier: Apache-2.0
// Where key strokes and pointer movements come from, and where they go: an InputSource is one who types and points, such as a client of
// VNC, a page in a browser or a control socket; KeySink and PointerSink are what he types and points on, the machine's keyboard and mouse.
//
// A key is a scan code of set 1, as the keyboard of a PC/AT sends it: what stands on it is the guest's affair (input/keyboard_layout.h goes the
// other way). A source knows what it holds, and lets go of it when it goes: a client whose connection breaks leaves no key behind.
//
// Thread class: the sinks' executor.
//
//   InputSource client(machine_keyboard, machine_mouse);
//   client.Key({.code = 0x1D, .is_pressed = true});  // left Ctrl
//   client.Point({.x = 16384, .y = 16384, .buttons = PointerEvent::kLeft});

#ifndef HVSDK_RESOURCE_INPUT_SOURCE_H_
#define HVSDK_RESOURCE_INPUT_SOURCE_H_

#include <algorithm>
#include <cstdint>
#include <vector>

namespace hvsdk {

struct KeyEvent {
  // Bits 0 to 6: the scan code; above, 0xE0 or 0xE1 where it has that prefix: 0xE048 is the arrow up. kPause stands for both of
  // the codes that Pause has. Of is_unicode, a unit of UTF-16.
  uint16_t code = 0;
  bool is_pressed = false;
  // A character rather than a key, for guests that take such: not Linux.
  bool is_unicode = false;

  static constexpr uint16_t kPause = 0xE11D;

  friend constexpr bool operator==(const KeyEvent&, const KeyEvent&) = default;
};

// Whether a key can have this code.
constexpr bool IsScanCode(uint16_t code) {
  const uint16_t prefix = code & 0xFF00, low = code & 0xFF;
  return low != 0 && low < 0x80 && (prefix == 0 || prefix == 0xE000 || code == KeyEvent::kPause);
}

struct PointerEvent {
  static constexpr uint16_t kMax = 32767;
  static constexpr uint8_t kLeft = 1, kRight = 2, kMiddle = 4, kBack = 8, kForward = 16;

  // From 0, the left and the upper edge of the screen, to kMax, the others.
  uint16_t x = 0, y = 0;
  uint8_t buttons = 0;  // that are held
  // Detents since the last: up and right are positive.
  int8_t wheel = 0, pan = 0;

  friend constexpr bool operator==(const PointerEvent&, const PointerEvent&) = default;
};

class KeySink {
 public:
  virtual ~KeySink() = default;
  // A press of a key that is held repeats it; a release of one that is not is nothing. What a guest does not take in time is dropped, a press
  // with its release.
  virtual void OnKey(const KeyEvent& event) = 0;
};

class PointerSink {
 public:
  virtual ~PointerSink() = default;
  // What a guest does not take in time becomes one event with what follows it.
  virtual void OnPointer(const PointerEvent& event) = 0;
};

class InputSource {
 public:
  // Which outlive it, or are null: there is none.
  InputSource(KeySink* keys, PointerSink* pointer) : keys_(keys), pointer_(pointer) {}
  ~InputSource() { ReleaseAll(); }
  InputSource(const InputSource&) = delete;
  InputSource& operator=(const InputSource&) = delete;

  void Key(const KeyEvent& event) {
    if (keys_ == nullptr) return;
    const auto at = std::find(held_.begin(), held_.end(), event.code);
    if (!event.is_unicode && event.is_pressed && at == held_.end()) held_.push_back(event.code);
    if (!event.is_unicode && !event.is_pressed && at != held_.end()) held_.erase(at);
    keys_->OnKey(event);
  }
  void Point(const PointerEvent& event) {
    if (pointer_ == nullptr) return;
    last_ = event;
    pointer_->OnPointer(event);
  }

  // The keys that were pressed last are let go of first; so a modifier after what it modified.
  void ReleaseAll() {
    for (; !held_.empty(); held_.pop_back()) keys_->OnKey({.code = held_.back()});
    if (last_.buttons != 0) Point({.x = last_.x, .y = last_.y});
  }

 private:
  KeySink* const keys_;
  PointerSink* const pointer_;
  std::vector<uint16_t> held_;
  PointerEvent last_;
};

}  // namespace hvsdk

#endif  // HVSDK_RESOURCE_INPUT_SOURCE_H_
