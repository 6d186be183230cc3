// SPDX-License-Identifier: Apache-2.0
// The keys of a keyboard, by everything that they are called: W3C's codes (KeyboardEvent.code), by which a browser says which key was
// pressed, whatever stands on it; scan codes of set 1; Linux' key codes (less 8 than X's); and, for keys without a character, X's keysyms.
//
// Thread class: thread-safe. Sources: W3C "UI Events KeyboardEvent code Values"; Linux include/uapi/linux/input-event-codes.h; the X
// Window System Protocol, appendix A.
//
//   const input::Key* const key = input::FindKey("ctrl");
//   if (key != nullptr) source.Key({.code = key->scan_code, .is_pressed = true});

#ifndef HVSDK_INPUT_KEYS_H_
#define HVSDK_INPUT_KEYS_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace hvsdk::input {

struct Key {
  const char* code;     // W3C's: "KeyA"
  uint16_t scan_code;   // as KeyEvent::code
  uint16_t linux_code;  // 0: none
  uint32_t keysym;      // 0: that of its character
  char plain, shifted;  // what it types in the United States; 0: nothing
  bool is_keypad() const;
};

absl::Span<const Key> Keys();

// By W3C's code, in any case of letters, or by what it is called otherwise: "ctrl", "esc", "up". Null: there is none.
const Key* FindKey(absl::string_view name);
const Key* FindKeyByLinuxCode(uint32_t code);

}  // namespace hvsdk::input

#endif  // HVSDK_INPUT_KEYS_H_
