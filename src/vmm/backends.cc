// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/backends.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#ifdef HVSDK_HAVE_KVM
#include "hvsdk/backend_kvm/kvm_backend.h"
#endif
#ifdef HVSDK_HAVE_SOFTWARE
#include "hvsdk/backend_software/software_backend.h"
#endif

namespace hvsdk::vmm {
namespace {

using BackendOr = absl::StatusOr<std::unique_ptr<backend::Backend>>;

struct Engine {
  const char* name;
  BackendOr (*create)();
};

constexpr Engine kEngines[] = {
#ifdef HVSDK_HAVE_KVM
    {"kvm", [] { return backend::CreateKvmBackend({}); }},
#endif
#ifdef HVSDK_HAVE_SOFTWARE
    {"software", [] { return backend::CreateSoftwareBackend({}); }},
#endif
    {nullptr, nullptr}};

BackendOr CreateByName(absl::string_view name) {
  for (const Engine& engine : kEngines) {
    if (engine.name != nullptr && name == engine.name) return engine.create();
  }
  return absl::InvalidArgumentError(absl::StrCat("\"", name, "\" is not one of ", absl::StrJoin(BackendNames(), ", ")));
}

}  // namespace

std::vector<std::string> BackendNames() {
  std::vector<std::string> names = {"auto"};
  for (const Engine& engine : kEngines) {
    if (engine.name != nullptr) names.push_back(engine.name);
  }
  return names;
}

BackendOr CreateBackend(absl::string_view name, std::string* note) {
  if (!name.empty() && name != "auto") return CreateByName(name);
  std::string why_not = "the processor reports neither vmx nor svm";
#ifdef HVSDK_HAVE_KVM
  if (backend::ProcessorHasVirtualization()) {
    BackendOr kvm = CreateByName("kvm");
    if (kvm.ok()) return kvm;
    why_not = std::string(kvm.status().message());
    if (note != nullptr)
      *note = absl::StrCat("running on the software processor, because KVM cannot be used: ", why_not);
  }
#endif
#ifdef HVSDK_HAVE_SOFTWARE
  return CreateByName("software");
#else
  return absl::UnavailableError(
      absl::StrCat(why_not, ", and this build has no software processor (--backend=kvm tries /dev/kvm nevertheless)"));
#endif
}

}  // namespace hvsdk::vmm
