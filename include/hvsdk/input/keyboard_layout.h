// SPDX-License-Identifier: Apache-2.0
// KeyboardLayout: which keys type a character, on the keyboard that a guest believes to have: for text that is to be typed, for keys by name, and
// for X's keysyms, by which a client of VNC says what was pressed.
//
// The layout "us" is always there. Others are those of the host's XKB, by its names: "de", "fr", "de:nodeadkeys". libxkbcommon, which reads
// them, is loaded with the first. The guest has to have the same layout: it sees keys, not characters.
//
// Limits: the first group of a layout; Shift and AltGr as modifiers. A character that needs a dead key is typed by that and a letter, or a
// space, if it is one of Latin-1's or ^ or `.
//
// Thread class: thread-compatible. Sources: XKB's keymaps; Unicode's decompositions.
//
//   const auto layout = input::KeyboardLayout::Load("us");
//   if (!layout.ok()) return layout.status();
//   const absl::StatusOr<std::vector<KeyEvent>> events = layout->Type("echo hvsdk\n");

#ifndef HVSDK_INPUT_KEYBOARD_LAYOUT_H_
#define HVSDK_INPUT_KEYBOARD_LAYOUT_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "hvsdk/resource/input_source.h"

namespace hvsdk::input {

// Whether keys go down and up again, or only the one or the other.
enum class KeyAction : uint8_t { kStroke, kPress, kRelease };

class KeyboardLayout {
 public:
  // InvalidArgument: there is no such layout. Unimplemented: neither is libxkbcommon.
  static absl::StatusOr<KeyboardLayout> Load(absl::string_view name);

  const std::string& name() const { return name_; }

  // What types a text in UTF-8; line feeds are Enter, and tabs are Tab. With `unicode`, what the layout does not have is entered as
  // characters, for guests that take such: not Linux. InvalidArgument names the first character that cannot be typed.
  absl::StatusOr<std::vector<KeyEvent>> Type(absl::string_view text, bool unicode = false) const;

  // Keys that are held together, as in "ctrl-alt-delete": names as of FindKey, or characters. They are let go of in the reverse
  // order. InvalidArgument names what is no key.
  absl::StatusOr<std::vector<KeyEvent>> Chord(absl::string_view names, KeyAction action = KeyAction::kStroke) const;

  // The key that has this symbol, with whichever modifiers: as KeyEvent::code. Nothing: none has.
  absl::optional<uint16_t> CodeOfKeysym(uint32_t keysym) const;

 private:
  // The key, and what is held meanwhile.
  struct Stroke {
    uint16_t code = 0;
    bool shift = false, alt_gr = false;
  };
  using Strokes = std::vector<Stroke>;

  void AddUnitedStates();
  absl::Status AddXkb(absl::string_view layout);
  void AddComposed(const std::map<uint32_t, Stroke>& dead_keys);
  // Null: there are none.
  const Strokes* Find(char32_t character) const;

  std::string name_;
  std::map<char32_t, Strokes> characters_;
  std::map<uint32_t, uint16_t> keysyms_;
};

}  // namespace hvsdk::input

#endif  // HVSDK_INPUT_KEYBOARD_LAYOUT_H_
