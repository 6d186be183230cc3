// SPDX-License-Identifier: Apache-2.0
// What a layout of the host's XKB says of each key.

#ifndef HVSDK_SRC_INPUT_XKB_KEYMAP_H_
#define HVSDK_SRC_INPUT_XKB_KEYMAP_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hvsdk::input {

// A symbol that a key has, with what is held for it.
struct XkbEntry {
  uint16_t code;  // as KeyEvent::code
  bool is_keypad;
  uint32_t level;  // 0: nothing is held
  bool is_typed;   // with no modifiers but these
  bool shift, alt_gr;
  uint32_t keysym;
  char32_t character;  // 0: none
};

// "de", "de:nodeadkeys". Errors are KeyboardLayout::Load's.
absl::StatusOr<std::vector<XkbEntry>> ReadXkbKeymap(absl::string_view layout);

}  // namespace hvsdk::input

#endif  // HVSDK_SRC_INPUT_XKB_KEYMAP_H_
