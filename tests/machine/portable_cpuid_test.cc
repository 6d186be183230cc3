// SPDX-License-Identifier: Apache-2.0
// The processor that is the same on every engine.

#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/backend_software/software_backend.h"
#include "hvsdk/machine/cpuid.h"
#include "hvsdk/memory/guest_memory.h"

namespace hvsdk::machine {
namespace {

using backend::CpuidEntry;
using testing::HasSubstr;

std::vector<CpuidEntry> Software() {
  auto engine = backend::CreateSoftwareBackend({});
  EXPECT_TRUE(engine.ok());
  GuestMemory memory;
  auto partition = (*engine)->CreatePartition(memory);
  EXPECT_TRUE(partition.ok());
  return *(*partition)->SupportedCpuid();
}

// A processor of another maker with everything.
std::vector<CpuidEntry> Everything() {
  std::vector<CpuidEntry> leaves;
  for (const uint32_t leaf : {0u, 1u, 7u, 0xDu, 0x80000001u}) {
    leaves.push_back(
        {.leaf = leaf, .has_subleaves = leaf == 7 || leaf == 0xD, .eax = ~0u, .ebx = ~0u, .ecx = ~0u, .edx = ~0u});
  }
  leaves.push_back({.leaf = 0x80000008, .eax = 52 | 57 << 8});
  return leaves;
}

std::vector<std::tuple<uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t>> Words(
    const std::vector<CpuidEntry>& leaves) {
  std::vector<std::tuple<uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t>> words;
  for (const CpuidEntry& entry : leaves) {
    words.emplace_back(entry.leaf, entry.subleaf, entry.eax, entry.ebx, entry.ecx, entry.edx);
  }
  return words;
}

CpuidEntry Leaf(const std::vector<CpuidEntry>& leaves, uint32_t leaf) {
  for (const CpuidEntry& entry : leaves) {
    if (entry.leaf == leaf) return entry;
  }
  return {};
}

TEST(PortableCpuidTest, IsTheSameWhateverTheEngineHasBeyondIt) {
  const auto software = PortableCpuid(Software());
  ASSERT_TRUE(software.ok()) << software.status();
  const auto everything = PortableCpuid(Everything());
  ASSERT_TRUE(everything.ok()) << everything.status();
  EXPECT_EQ(Words(*software), Words(*everything));
}

TEST(PortableCpuidTest, PromisesNothingThatTheSoftwareProcessorLacks) {
  const std::vector<CpuidEntry> software = Software();
  const auto portable = PortableCpuid(software);
  ASSERT_TRUE(portable.ok()) << portable.status();
  for (const uint32_t leaf : {1u, 7u, 0x80000001u}) {
    const CpuidEntry has = Leaf(software, leaf), says = Leaf(*portable, leaf);
    EXPECT_EQ(says.ecx & ~has.ecx, 0u) << leaf;
    EXPECT_EQ(says.edx & ~has.edx, 0u) << leaf;
    if (leaf == 7) {
      EXPECT_EQ(says.ebx & ~has.ebx, 0u);
    }
  }
  // The model, and the caches by which C libraries choose how to copy.
  EXPECT_EQ(Leaf(*portable, 0).ebx, Leaf(software, 0).ebx);
  EXPECT_EQ(Leaf(*portable, 1).eax, Leaf(software, 1).eax);
  for (uint32_t i = 0; i < 4; ++i) {
    const auto cache = [i](const std::vector<CpuidEntry>& leaves) {
      for (const CpuidEntry& entry : leaves) {
        if (entry.leaf == 4 && entry.subleaf == i) return std::tuple{entry.eax, entry.ebx, entry.ecx, entry.edx};
      }
      return std::tuple{0u, 0u, 0u, 0u};
    };
    EXPECT_EQ(cache(*portable), cache(software)) << i;
  }
}

TEST(PortableCpuidTest, HasNoXsaveNorWhatNeedsIt) {
  const auto portable = PortableCpuid(Everything());
  ASSERT_TRUE(portable.ok());
  EXPECT_EQ(Leaf(*portable, 1).ecx & (1u << 26 | 1u << 27 | 1u << 28 | 1u << 12 | 1u << 29), 0u)
      << "XSAVE, AVX, FMA, F16C";
  EXPECT_EQ(Leaf(*portable, 7).ebx & (1u << 5 | 1u << 16), 0u) << "AVX2, AVX-512";
  EXPECT_LT(Leaf(*portable, 0).eax, 0xDu);
}

TEST(PortableCpuidTest, NamesWhatAnEngineLacks) {
  std::vector<CpuidEntry> leaves = Everything();
  leaves[1].ecx &= ~(1u << 20);
  leaves[2].ebx &= ~(1u << 8);
  const absl::Status status = PortableCpuid(leaves).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), testing::EndsWith(": SSE4.2, BMI2"));

  leaves = Everything();
  leaves.back().eax = 36;
  EXPECT_THAT(std::string(PortableCpuid(leaves).status().message()), HasSubstr("39 bits of physical addresses"));
  leaves.erase(leaves.begin() + 2);
  EXPECT_THAT(std::string(PortableCpuid(leaves).status().message()), HasSubstr("FSGSBASE, TSC_ADJUST"));
}

}  // namespace
}  // namespace hvsdk::machine
