// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/input/keyboard_layout.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "base/utf16.h"
#include "hvsdk/input/keys.h"
#include "input/xkb_keymap.h"

namespace hvsdk::input {
namespace {

constexpr uint16_t kShift = 0x2A, kAltGr = 0xE038, kEnter = 0x1C, kTab = 0x0F, kSpace = 0x39, kLeftOfZ = 0x56;
constexpr size_t kMostKeysOfChord = 16;

// What a dead key (X's keysym) makes of the letter that follows: pairs of that and the result.
struct DeadKey {
  uint32_t keysym;
  std::u32string_view composed;
};
constexpr DeadKey kDeadKeys[] = {
    {0xFE50, U" `aàeèiìoòuùAÀEÈIÌOÒUÙ"},      // grave
    {0xFE51, U" ´aáeéiíoóuúyýAÁEÉIÍOÓUÚYÝ"},  // acute
    {0xFE52, U" ^aâeêiîoôuûAÂEÊIÎOÔUÛ"},      // circumflex
    {0xFE53, U" ~aãnñoõAÃNÑOÕ"},              // tilde
    {0xFE57, U"aäeëiïoöuüyÿAÄEËIÏOÖUÜ"},      // diaeresis
    {0xFE58, U"aåAÅ"},                        // ring above
    {0xFE5B, U"cçCÇ"},                        // cedilla
};

// Keys without a character that X knows by a second keysym: those of the keypad without NumLock, and modifiers.
constexpr std::pair<uint32_t, const char*> kOtherKeysyms[] = {
    {0xFE03, "AltRight"}, {0xFE20, "Tab"},     {0xFFE7, "MetaLeft"}, {0xFFE8, "MetaRight"},
    {0xFF7E, "AltRight"}, {0xFF95, "Numpad7"}, {0xFF96, "Numpad4"},  {0xFF97, "Numpad8"},
    {0xFF98, "Numpad6"},  {0xFF99, "Numpad2"}, {0xFF9A, "Numpad9"},  {0xFF9B, "Numpad3"},
    {0xFF9C, "Numpad1"},  {0xFF9D, "Numpad5"}, {0xFF9E, "Numpad0"},  {0xFF9F, "NumpadDecimal"},
};

std::string Utf8Of(char32_t character) {
  std::string text;
  internal::AppendUtf8(character, text);
  return text;
}

// As a line shows it: none that moves the cursor.
std::string Shown(char32_t character) {
  const bool is_plain = character > ' ' && character != 0x7F && !(character >= 0x80 && character < 0xA1) &&
                        !(character >= 0x2000 && character < 0x2070 && character != 0x2026) && character < 0xE000;
  const std::string number = absl::StrFormat("U+%04X", static_cast<uint32_t>(character));
  return is_plain ? absl::StrCat("\"", Utf8Of(character), "\" (", number, ")") : number;
}

void Unicode(char32_t character, std::vector<KeyEvent>& events) {
  const auto put = [&](uint32_t unit) {
    events.push_back({.code = static_cast<uint16_t>(unit), .is_pressed = true, .is_unicode = true});
    events.push_back({.code = static_cast<uint16_t>(unit), .is_pressed = false, .is_unicode = true});
  };
  if (character < 0x10000) return put(character);
  put(0xD800 + ((character - 0x10000) >> 10));
  put(0xDC00 + ((character - 0x10000) & 0x3FF));
}

}  // namespace

absl::StatusOr<KeyboardLayout> KeyboardLayout::Load(absl::string_view name) {
  KeyboardLayout layout;
  layout.name_ = std::string(name);
  for (const Key& key : Keys()) {
    if (key.keysym != 0) layout.keysyms_.emplace(key.keysym, key.scan_code);
  }
  for (const auto& [keysym, code] : kOtherKeysyms) layout.keysyms_.emplace(keysym, FindKey(code)->scan_code);
  if (name == "us") {
    layout.AddUnitedStates();
  } else {
    RETURN_IF_ERROR(layout.AddXkb(name));
  }
  // Whatever stands on them elsewhere.
  layout.characters_['\n'] = {{.code = kEnter}};
  layout.characters_['\t'] = {{.code = kTab}};
  layout.characters_[' '] = {{.code = kSpace}};
  return layout;
}

void KeyboardLayout::AddUnitedStates() {
  for (const Key& key : Keys()) {
    if (key.plain == 0) continue;
    characters_.emplace(key.plain, Strokes{{.code = key.scan_code}});
    characters_.emplace(key.shifted, Strokes{{.code = key.scan_code, .shift = true}});
    // Of these characters a keysym is the same number.
    keysyms_.emplace(key.plain, key.scan_code);
    keysyms_.emplace(key.shifted, key.scan_code);
  }
}

absl::Status KeyboardLayout::AddXkb(absl::string_view layout) {
  ASSIGN_OR_RETURN(std::vector<XkbEntry> entries, ReadXkbKeymap(layout));
  // What needs least is taken, on keys that every keyboard has: American ones lack the one left of Z.
  const auto costs = [](const XkbEntry& entry) {
    return std::tuple(entry.is_keypad, entry.code == kLeftOfZ, entry.level);
  };
  std::stable_sort(entries.begin(), entries.end(),
                   [&](const XkbEntry& a, const XkbEntry& b) { return costs(a) < costs(b); });
  std::map<uint32_t, Stroke> dead_keys;
  for (const XkbEntry& entry : entries) {
    keysyms_.emplace(entry.keysym, entry.code);
    if (entry.character >= 0x80) keysyms_.emplace(0x0100'0000 | entry.character, entry.code);
    if (!entry.is_typed || entry.is_keypad) continue;
    const Stroke stroke{.code = entry.code, .shift = entry.shift, .alt_gr = entry.alt_gr};
    if (entry.character > ' ' && entry.character != 0x7F) characters_.emplace(entry.character, Strokes{stroke});
    if (entry.keysym >= 0xFE50 && entry.keysym < 0xFE90) dead_keys.emplace(entry.keysym, stroke);
  }
  AddComposed(dead_keys);
  return absl::OkStatus();
}

void KeyboardLayout::AddComposed(const std::map<uint32_t, Stroke>& dead_keys) {
  for (const DeadKey& dead_key : kDeadKeys) {
    const auto first = dead_keys.find(dead_key.keysym);
    if (first == dead_keys.end()) continue;
    for (size_t i = 0; i + 1 < dead_key.composed.size(); i += 2) {
      Strokes strokes = {first->second, {.code = kSpace}};
      if (dead_key.composed[i] != U' ') {
        const Strokes* const letter = Find(dead_key.composed[i]);
        if (letter == nullptr) continue;
        strokes.back() = letter->front();
      }
      characters_.emplace(dead_key.composed[i + 1], std::move(strokes));
    }
  }
}

const KeyboardLayout::Strokes* KeyboardLayout::Find(char32_t character) const {
  const auto found = characters_.find(character);
  return found == characters_.end() ? nullptr : &found->second;
}

absl::optional<uint16_t> KeyboardLayout::CodeOfKeysym(uint32_t keysym) const {
  auto found = keysyms_.find(keysym);
  // Latin-1 is the same number, or Unicode's with a mark.
  if (found == keysyms_.end() && keysym >> 24 == 1 && (keysym & 0xFFFFFF) < 0x100) {
    found = keysyms_.find(keysym & 0xFFFFFF);
  }
  if (found == keysyms_.end()) return absl::nullopt;
  return found->second;
}

absl::StatusOr<std::vector<KeyEvent>> KeyboardLayout::Type(absl::string_view text, bool unicode) const {
  std::vector<KeyEvent> events;
  while (!text.empty()) {
    char32_t character = 0;
    if (!internal::TakeUtf8(text, character)) {
      return absl::InvalidArgumentError(absl::StrFormat("the text is not UTF-8: there is no character before \\x%02x",
                                                        static_cast<uint8_t>(text[0])));
    }
    const Strokes* const strokes = Find(character);
    if (strokes == nullptr && unicode && character >= ' ') {
      Unicode(character, events);
      continue;
    }
    if (strokes == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("the keyboard layout \"", name_, "\" has no keys for ", Shown(character)));
    }
    for (const Stroke& stroke : *strokes) {
      // A modifier is pressed before the key that it modifies, and let go of after it.
      if (stroke.shift) events.push_back({.code = kShift, .is_pressed = true});
      if (stroke.alt_gr) events.push_back({.code = kAltGr, .is_pressed = true});
      events.push_back({.code = stroke.code, .is_pressed = true});
      events.push_back({.code = stroke.code});
      if (stroke.alt_gr) events.push_back({.code = kAltGr});
      if (stroke.shift) events.push_back({.code = kShift});
    }
  }
  return events;
}

absl::StatusOr<std::vector<KeyEvent>> KeyboardLayout::Chord(absl::string_view names, KeyAction action) const {
  std::vector<uint16_t> codes;
  const auto add = [&](uint16_t code) {
    if (std::find(codes.begin(), codes.end(), code) == codes.end()) codes.push_back(code);
  };
  for (absl::string_view rest = names; !rest.empty();) {
    // A hyphen at the end, or in place of a name, is the character.
    const size_t end = rest[0] == '-' ? 1 : std::min(rest.find('-'), rest.size());
    const absl::string_view name = rest.substr(0, end);
    rest.remove_prefix(end);
    if (!rest.empty()) {
      rest.remove_prefix(1);
      if (rest.empty())
        return absl::InvalidArgumentError(absl::StrCat("\"", absl::CHexEscape(names), "\" lacks a key at its end"));
    }
    absl::string_view one = name;
    char32_t character = 0;
    if (const Key* const key = FindKey(name); key != nullptr) {
      add(key->scan_code);
    } else if (const Strokes* const strokes =
                   internal::TakeUtf8(one, character) && one.empty()
                       ? Find(character < 0x80
                                  ? static_cast<char32_t>(absl::ascii_tolower(static_cast<uint8_t>(character)))
                                  : character)
                       : nullptr;
               strokes != nullptr && strokes->size() == 1) {
      const Stroke& stroke = strokes->front();
      if (stroke.shift) add(kShift);
      if (stroke.alt_gr) add(kAltGr);
      add(stroke.code);
    } else {
      return absl::InvalidArgumentError(absl::StrCat("\"", absl::CHexEscape(name),
                                                     "\" is no key of the keyboard layout \"", name_,
                                                     "\"; those are named as in ctrl-alt-delete"));
    }
    if (codes.size() > kMostKeysOfChord) return absl::InvalidArgumentError("more keys at once than hands have fingers");
  }
  if (codes.empty()) return absl::InvalidArgumentError("a key is needed, as in ctrl-alt-delete");
  std::vector<KeyEvent> events;
  if (action != KeyAction::kRelease) {
    for (const uint16_t code : codes) events.push_back({.code = code, .is_pressed = true});
  }
  if (action != KeyAction::kPress) {
    for (auto code = codes.rbegin(); code != codes.rend(); ++code) events.push_back({.code = *code});
  }
  return events;
}

}  // namespace hvsdk::input
