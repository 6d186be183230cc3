// SPDX-License-Identifier: Apache-2.0
#include "network/slirp_library.h"

#include <dlfcn.h>

#include <type_traits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace hvsdk::network {
namespace {

absl::StatusOr<SlirpLibrary> LoadOnce() {
  void* const library = dlopen("libslirp.so.0", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return absl::UnimplementedError(absl::StrCat("networks in user space need libslirp: ", dlerror()));
  }
  SlirpLibrary functions{};
  absl::Status status;
  const auto find = [&](const char* name, auto& function) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
    if (function == nullptr) status.Update(absl::UnimplementedError(absl::StrCat("this libslirp has no ", name)));
  };
  find("slirp_new", functions.make);
  find("slirp_cleanup", functions.cleanup);
  find("slirp_add_hostfwd", functions.add_hostfwd);
  find("slirp_input", functions.input);
  find("slirp_pollfds_fill", functions.pollfds_fill);
  find("slirp_pollfds_poll", functions.pollfds_poll);
  find("slirp_handle_timer", functions.handle_timer);
  if (!status.ok()) return status;
  return functions;
}

}  // namespace

absl::StatusOr<const SlirpLibrary*> SlirpLibrary::Load() {
  static const absl::StatusOr<SlirpLibrary> library = LoadOnce();
  if (!library.ok()) return library.status();
  return &*library;
}

}  // namespace hvsdk::network
