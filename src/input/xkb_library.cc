// SPDX-License-Identifier: Apache-2.0
#include "input/xkb_library.h"

#include "base/loaded_library.h"

namespace hvsdk::input {
namespace {

absl::StatusOr<XkbLibrary> LoadOnce() {
  absl::StatusOr<LoadedLibrary> library =
      LoadedLibrary::Load("libxkbcommon.so.0", "libxkbcommon", "layouts but \"us\" need");
  if (!library.ok()) return library.status();
  XkbLibrary functions{};
  library->Find("xkb_context_new", functions.context_new);
  library->Find("xkb_context_unref", functions.context_unref);
  library->Find("xkb_context_set_log_level", functions.context_set_log_level);
  library->Find("xkb_keymap_new_from_names", functions.keymap_new_from_names);
  library->Find("xkb_keymap_unref", functions.keymap_unref);
  library->Find("xkb_keymap_min_keycode", functions.keymap_min_keycode);
  library->Find("xkb_keymap_max_keycode", functions.keymap_max_keycode);
  library->Find("xkb_keymap_mod_get_index", functions.keymap_mod_get_index);
  library->Find("xkb_keymap_num_levels_for_key", functions.keymap_num_levels_for_key);
  library->Find("xkb_keymap_key_get_syms_by_level", functions.keymap_key_get_syms_by_level);
  library->Find("xkb_keymap_key_get_mods_for_level", functions.keymap_key_get_mods_for_level);
  library->Find("xkb_keysym_to_utf32", functions.keysym_to_utf32);
  if (!library->status().ok()) return library->status();
  return functions;
}

}  // namespace

absl::StatusOr<const XkbLibrary*> XkbLibrary::Load() {
  static const absl::StatusOr<XkbLibrary> library = LoadOnce();
  if (!library.ok()) return library.status();
  return &*library;
}

}  // namespace hvsdk::input
