// SPDX-License-Identifier: Apache-2.0
#include "network/slirp_library.h"

#include "base/loaded_library.h"

namespace hvsdk::network {
namespace {

absl::StatusOr<SlirpLibrary> LoadOnce() {
  absl::StatusOr<LoadedLibrary> library =
      LoadedLibrary::Load("libslirp.so.0", "libslirp", "networks in user space need");
  if (!library.ok()) return library.status();
  SlirpLibrary functions{};
  library->Find("slirp_new", functions.make);
  library->Find("slirp_cleanup", functions.cleanup);
  library->Find("slirp_add_hostfwd", functions.add_hostfwd);
  library->Find("slirp_input", functions.input);
  library->Find("slirp_pollfds_fill", functions.pollfds_fill);
  library->Find("slirp_pollfds_poll", functions.pollfds_poll);
  library->Find("slirp_handle_timer", functions.handle_timer);
  if (!library->status().ok()) return library->status();
  return functions;
}

}  // namespace

absl::StatusOr<const SlirpLibrary*> SlirpLibrary::Load() {
  static const absl::StatusOr<SlirpLibrary> library = LoadOnce();
  if (!library.ok()) return library.status();
  return &*library;
}

}  // namespace hvsdk::network
