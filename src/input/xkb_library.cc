// SPDX-License-Identifier: Apache-2.0
#include "input/xkb_library.h"

#include <dlfcn.h>

#include <type_traits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace hvsdk::input {
namespace {

absl::StatusOr<XkbLibrary> LoadOnce() {
  void* const library = dlopen("libxkbcommon.so.0", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return absl::UnimplementedError(absl::StrCat("layouts but \"us\" need libxkbcommon: ", dlerror()));
  }
  XkbLibrary functions{};
  absl::Status status;
  const auto find = [&](const char* name, auto& function) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
    if (function == nullptr) status.Update(absl::UnimplementedError(absl::StrCat("this libxkbcommon has no ", name)));
  };
  find("xkb_context_new", functions.context_new);
  find("xkb_context_unref", functions.context_unref);
  find("xkb_context_set_log_level", functions.context_set_log_level);
  find("xkb_keymap_new_from_names", functions.keymap_new_from_names);
  find("xkb_keymap_unref", functions.keymap_unref);
  find("xkb_keymap_min_keycode", functions.keymap_min_keycode);
  find("xkb_keymap_max_keycode", functions.keymap_max_keycode);
  find("xkb_keymap_mod_get_index", functions.keymap_mod_get_index);
  find("xkb_keymap_num_levels_for_key", functions.keymap_num_levels_for_key);
  find("xkb_keymap_key_get_syms_by_level", functions.keymap_key_get_syms_by_level);
  find("xkb_keymap_key_get_mods_for_level", functions.keymap_key_get_mods_for_level);
  find("xkb_keysym_to_utf32", functions.keysym_to_utf32);
  if (!status.ok()) return status;
  return functions;
}

}  // namespace

absl::StatusOr<const XkbLibrary*> XkbLibrary::Load() {
  static const absl::StatusOr<XkbLibrary> library = LoadOnce();
  if (!library.ok()) return library.status();
  return &*library;
}

}  // namespace hvsdk::input
