// SPDX-License-Identifier: Apache-2.0
#include "input/xkb_keymap.h"

#include <memory>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "hvsdk/input/keys.h"
#include "input/xkb_library.h"

namespace hvsdk::input {
namespace {

// X's codes of keys are Linux' and so much more.
constexpr xkb_keycode_t kFirstKeycode = 8;

// Names go into paths of files.
bool IsName(absl::string_view text) {
  for (const char c : text) {
    const bool is_allowed =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
    if (!is_allowed) return false;
  }
  return !text.empty() && text.size() <= 64;
}

}  // namespace

absl::StatusOr<std::vector<XkbEntry>> ReadXkbKeymap(absl::string_view layout) {
  const size_t colon = layout.find(':');
  const std::string name(layout.substr(0, colon));
  const std::string variant(colon == layout.npos ? absl::string_view() : layout.substr(colon + 1));
  const absl::Status unknown = absl::InvalidArgumentError(
      absl::StrCat("\"", absl::CHexEscape(layout), "\" is no keyboard layout of this host's"));
  if (!IsName(name) || (colon != layout.npos && !IsName(variant))) return unknown;
  ASSIGN_OR_RETURN(const XkbLibrary* const xkb, XkbLibrary::Load());

  const std::unique_ptr<xkb_context, decltype(xkb->context_unref)> context(
      xkb->context_new(XKB_CONTEXT_NO_ENVIRONMENT_NAMES), xkb->context_unref);
  if (context == nullptr) return absl::NotFoundError("XKB's files (Debian's xkb-data) are not there");
  xkb->context_set_log_level(context.get(), static_cast<xkb_log_level>(0));  // errors are told by who asks
  const xkb_rule_names names{
      .rules = "evdev", .model = "pc105", .layout = name.c_str(), .variant = variant.c_str(), .options = ""};
  const std::unique_ptr<xkb_keymap, decltype(xkb->keymap_unref)> keymap(
      xkb->keymap_new_from_names(context.get(), &names, XKB_KEYMAP_COMPILE_NO_FLAGS), xkb->keymap_unref);
  if (keymap == nullptr) return unknown;

  const auto mask_of = [&](const char* modifier) -> xkb_mod_mask_t {
    const xkb_mod_index_t index = xkb->keymap_mod_get_index(keymap.get(), modifier);
    return index == XKB_MOD_INVALID ? 0 : xkb_mod_mask_t{1} << index;
  };
  const xkb_mod_mask_t shift = mask_of(XKB_MOD_NAME_SHIFT);
  const xkb_mod_mask_t alt_gr = mask_of("Mod5");  // what AltGr is where these rules are

  std::vector<XkbEntry> entries;
  const xkb_keycode_t last = xkb->keymap_max_keycode(keymap.get());
  for (xkb_keycode_t keycode = xkb->keymap_min_keycode(keymap.get()); keycode <= last; ++keycode) {
    const Key* const key = keycode < kFirstKeycode ? nullptr : FindKeyByLinuxCode(keycode - kFirstKeycode);
    if (key == nullptr) continue;
    const xkb_level_index_t levels = xkb->keymap_num_levels_for_key(keymap.get(), keycode, /*layout=*/0);
    for (xkb_level_index_t level = 0; level < levels; ++level) {
      const xkb_keysym_t* symbols = nullptr;
      if (xkb->keymap_key_get_syms_by_level(keymap.get(), keycode, /*layout=*/0, level, &symbols) != 1) continue;
      XkbEntry entry{.code = key->scan_code,
                     .is_keypad = key->is_keypad(),
                     .level = level,
                     .is_typed = false,
                     .shift = false,
                     .alt_gr = false,
                     .keysym = symbols[0],
                     .character = xkb->keysym_to_utf32(symbols[0])};
      xkb_mod_mask_t masks[16];
      const size_t count = xkb->keymap_key_get_mods_for_level(keymap.get(), keycode, /*layout=*/0, level, masks, 16);
      for (size_t i = 0; i < count && !entry.is_typed; ++i) {
        if ((masks[i] & ~(shift | alt_gr)) != 0) continue;
        entry.is_typed = true;
        entry.shift = (masks[i] & shift) != 0;
        entry.alt_gr = (masks[i] & alt_gr) != 0;
      }
      entries.push_back(entry);
    }
  }
  return entries;
}

}  // namespace hvsdk::input
