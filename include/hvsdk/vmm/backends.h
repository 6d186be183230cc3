// SPDX-License-Identifier: Apache-2.0
// The engines by name. This library is the only one that knows the concrete ones. Thread-safe.
//
//   std::string note;
//   const absl::StatusOr<std::unique_ptr<backend::Backend>> backend = CreateBackend("auto", &note);
//   if (!backend.ok()) return backend.status();
//   if (!note.empty()) std::cerr << note << '\n';

#ifndef HVSDK_VMM_BACKENDS_H_
#define HVSDK_VMM_BACKENDS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "hvsdk/backend/backend.h"

namespace hvsdk::vmm {

// The names that CreateBackend takes in this build, "auto" first.
std::vector<std::string> BackendNames();

// Makes an engine. "auto" (or an empty name) is KVM where the processor reports vmx or svm and /dev/kvm can be used,
// else the software engine; it never takes a KVM that emulates, because that runs an operating system a hundred times
// slower. `note`, if not null, gets a line for the user when "auto" had to pass over KVM on a processor that has it.
// InvalidArgument: not a name of this build. Unavailable: this host cannot; the message says why.
absl::StatusOr<std::unique_ptr<backend::Backend>> CreateBackend(absl::string_view name, std::string* note = nullptr);

}  // namespace hvsdk::vmm

#endif  // HVSDK_VMM_BACKENDS_H_
