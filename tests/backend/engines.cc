// SPDX-License-Identifier: Apache-2.0
#include "tests/backend/engines.h"

#ifdef HVSDK_HAVE_BACKEND_KVM
#include "hvsdk/backend_kvm/kvm_backend.h"
#endif

namespace hvsdk::backend {

std::vector<Engine> Engines() {
  std::vector<Engine> engines;
#ifdef HVSDK_HAVE_BACKEND_KVM
  engines.push_back({"kvm", [] { return CreateKvmBackend({}); }});
#endif
  return engines;
}

}  // namespace hvsdk::backend
