// SPDX-License-Identifier: Apache-2.0
// libxkbcommon, loaded when the first layout is wanted that needs it: a machine without one starts sooner and is smaller without it.

#ifndef HVSDK_SRC_INPUT_XKB_LIBRARY_H_
#define HVSDK_SRC_INPUT_XKB_LIBRARY_H_

#include <xkbcommon/xkbcommon.h>

#include "absl/status/statusor.h"

namespace hvsdk::input {

// Its functions, without the prefix.
struct XkbLibrary {
  // Thread-safe; the library stays loaded. Unimplemented: it is not there, or lacks one of these.
  static absl::StatusOr<const XkbLibrary*> Load();

  decltype(&::xkb_context_new) context_new;
  decltype(&::xkb_context_unref) context_unref;
  decltype(&::xkb_context_set_log_level) context_set_log_level;
  decltype(&::xkb_keymap_new_from_names) keymap_new_from_names;
  decltype(&::xkb_keymap_unref) keymap_unref;
  decltype(&::xkb_keymap_min_keycode) keymap_min_keycode;
  decltype(&::xkb_keymap_max_keycode) keymap_max_keycode;
  decltype(&::xkb_keymap_mod_get_index) keymap_mod_get_index;
  decltype(&::xkb_keymap_num_levels_for_key) keymap_num_levels_for_key;
  decltype(&::xkb_keymap_key_get_syms_by_level) keymap_key_get_syms_by_level;
  decltype(&::xkb_keymap_key_get_mods_for_level) keymap_key_get_mods_for_level;
  decltype(&::xkb_keysym_to_utf32) keysym_to_utf32;
};

}  // namespace hvsdk::input

#endif  // HVSDK_SRC_INPUT_XKB_LIBRARY_H_
