// SPDX-License-Identifier: Apache-2.0
// A shared library that is loaded when it is first wanted, and stays: a program that never wants it starts sooner and is smaller.

#ifndef HVSDK_SRC_BASE_LOADED_LIBRARY_H_
#define HVSDK_SRC_BASE_LOADED_LIBRARY_H_

#include <dlfcn.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace hvsdk {

class LoadedLibrary {
 public:
  // `name` without a version, as its users know it, for errors; `wanted_for` begins the one that it is not there: "pictures need".
  // Unimplemented: it is not there.
  static absl::StatusOr<LoadedLibrary> Load(const char* file, absl::string_view name, absl::string_view wanted_for) {
    void* const library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return absl::UnimplementedError(absl::StrCat(wanted_for, " ", name, ": ", dlerror()));
    return LoadedLibrary(library, name);
  }

  template <typename Function>
  void Find(const char* symbol, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library_, symbol));
    if (function == nullptr) status_.Update(absl::UnimplementedError(absl::StrCat("this ", name_, " has no ", symbol)));
  }
  // Unimplemented: names the first that was not found.
  const absl::Status& status() const { return status_; }

 private:
  LoadedLibrary(void* library, absl::string_view name) : library_(library), name_(name) {}

  void* library_;
  std::string name_;
  absl::Status status_;
};

}  // namespace hvsdk

#endif  // HVSDK_SRC_BASE_LOADED_LIBRARY_H_
