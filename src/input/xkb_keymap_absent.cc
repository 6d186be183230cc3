// SPDX-License-Identifier: Apache-2.0
#include "input/xkb_keymap.h"

namespace hvsdk::input {

absl::StatusOr<std::vector<XkbEntry>> ReadXkbKeymap(absl::string_view) {
  return absl::UnimplementedError("this program was built without libxkbcommon, which layouts but \"us\" need");
}

}  // namespace hvsdk::input
