// SPDX-License-Identifier: Apache-2.0
// Kernel images of any content: loaded or refused, and guest memory is all that is touched.

#include <cstdint>
#include <vector>

#include "base/check.h"
#include "hvsdk/boot/kernel_loader.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hvsdk;
  using namespace hvsdk::boot;
  constexpr uint64_t kMemoryBytes = 24 << 20;
  static const MemoryLayout layout = *MemoryLayout::ForSize(kMemoryBytes);
  static std::vector<uint8_t> host(kMemoryBytes);
  static GuestMemory& memory = *[] {
    auto* made = new GuestMemory;
    HVSDK_CHECK(made->AddRange(0, absl::MakeSpan(host)).ok());
    return made;
  }();
  const MemorySource kernel(absl::MakeConstSpan(data, size));
  const MemorySource initrd(absl::MakeConstSpan(data, size));
  LoadInput blame;
  const auto state = LoadKernel({.kernel = kernel, .initrd = &initrd, .command_line = "x"}, layout, memory, blame);
  if (!state.ok()) {
    HVSDK_CHECK(state.status().code() == absl::StatusCode::kInvalidArgument);
    return 0;
  }
  HVSDK_CHECK(memory.Pointer(state->rip, 1) != nullptr);
  return 0;
}
