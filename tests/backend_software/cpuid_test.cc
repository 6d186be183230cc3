// SPDX-License-Identifier: Apache-2.0
// What others conclude from the processor's CPUID, where being right is not enough: which copy a C library picks. What
// follows is glibc's way of picking, of 2.28 to 2.42 (sysdeps/x86: cpu-features.c, dl-cacheinfo.h; multiarch/ifunc-memmove.h).

#include "hvsdk/machine/cpuid.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "gtest/gtest.h"
#include "hvsdk/backend_software/software_backend.h"
#include "hvsdk/memory/guest_memory.h"

namespace hvsdk::backend {
namespace {

class Cpuid : public testing::TestWithParam<uint32_t> {
 protected:
  void SetUp() override {
    auto engine = CreateSoftwareBackend({});
    ASSERT_TRUE(engine.ok());
    GuestMemory memory;
    auto partition = (*engine)->CreatePartition(memory);
    ASSERT_TRUE(partition.ok());
    auto supported = (*partition)->SupportedCpuid();
    ASSERT_TRUE(supported.ok());
    leaves_ = machine::ComposeCpuid(*std::move(supported), {}, GetParam());
  }
  CpuidEntry Leaf(uint32_t leaf, uint32_t subleaf = 0) const {
    for (const CpuidEntry& entry : leaves_) {
      if (entry.leaf == leaf && (!entry.has_subleaves || entry.subleaf == subleaf)) return entry;
    }
    return {};
  }

  std::vector<CpuidEntry> leaves_;
};

TEST_P(Cpuid, LargeCopiesAreStringInstructions) {
  const uint32_t signature = Leaf(1).eax;
  ASSERT_EQ(signature >> 8 & 0xF, 6u);
  const uint32_t model = (signature >> 4 & 0xF) | (signature >> 12 & 0xF0);
  // "Fast unaligned copy", else with SSSE3 and without AVX it is the copy by PALIGNR.
  const uint32_t fast[] = {0x37, 0x4A, 0x4C, 0x4D, 0x57, 0x5A, 0x5C, 0x5D, 0x5F};
  EXPECT_NE(std::find(std::begin(fast), std::end(fast), model), std::end(fast)) << model;
  EXPECT_TRUE(Leaf(1).ecx >> 9 & 1) << "SSSE3";
  EXPECT_TRUE(Leaf(7).ebx >> 9 & 1) << "ERMS";
  EXPECT_EQ(Leaf(2).eax & 0xFF, 1u);
  EXPECT_TRUE(((Leaf(2).eax >> 8 & 0xFF) == 0xFF) || ((Leaf(2).eax >> 16 & 0xFF) == 0xFF)) << "sizes are in leaf 4";

  // Beyond this size copies go past the caches, 16 bytes at a time.
  uint64_t size = 0, threads = 0;
  for (uint32_t i = 0; (Leaf(4, i).eax & 0x1F) != 0; ++i) {
    const CpuidEntry cache = Leaf(4, i);
    if ((cache.eax >> 5 & 7) != 3) continue;
    size =
        ((cache.ebx >> 22) + 1) * ((cache.ebx >> 12 & 0x3FF) + 1) * ((cache.ebx & 0xFFF) + 1) * uint64_t{cache.ecx + 1};
    threads = (cache.eax >> 14 & 0xFFF) + 1;
    EXPECT_TRUE(cache.edx & 2) << "else the second level counts as well";
  }
  ASSERT_NE(size, 0u) << "no third level";
  const uint64_t until_2_37 = size / threads * 3 / 4;
  const uint64_t since_2_38 = std::max(size / 4, until_2_37);
  EXPECT_GE(until_2_37, uint64_t{GetParam() <= 8 ? 24u : 3u} << 20);
  EXPECT_GE(since_2_38, uint64_t{64} << 20);
}
INSTANTIATE_TEST_SUITE_P(Processors, Cpuid, testing::Values(1, 2, 8, 64));

}  // namespace
}  // namespace hvsdk::backend
