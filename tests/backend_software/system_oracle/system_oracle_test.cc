// SPDX-License-Identifier: Apache-2.0
// Random privileged work on the software processor and on KVM: how it ends, registers, system registers, memory and
// port accesses must be the same.
//
// HVSDK_ORACLE_SCENARIOS sets how many, HVSDK_ORACLE_SEED which: scenario number n is made from seed + n, so one that
// failed runs alone with the seed that the failure names and a count of 1. HVSDK_ORACLE_TRACE prints each scenario
// before it runs, for one that does not come back. The seed is the same each time if it is not set: what a random one
// finds may be the reference's fault, which is for a person to judge.

#include <cstdlib>
#include <map>

#include "absl/strings/str_format.h"
#include "gtest/gtest.h"
#include "hvsdk/backend_kvm/kvm_backend.h"
#include "hvsdk/backend_software/software_backend.h"
#include "tests/backend_software/system_oracle/differences.h"
#include "tests/backend_software/system_oracle/scenario.h"
#include "tests/backend_software/system_oracle/system_runner.h"
#include "tests/test_scale.h"

namespace hvsdk::oracle {
namespace {

using hvdef::RegisterName;

constexpr const char* kModeNames[] = {
    "real",     "protected 16", "protected",     "protected user",     "paged", "paged user", "PAE",
    "PAE user", "virtual-8086", "compatibility", "compatibility user", "long",  "long user"};

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 0) : otherwise;
}

bool HasBit(absl::Span<const backend::CpuidEntry> cpuid, uint32_t leaf, uint32_t backend::CpuidEntry::*reg, int bit) {
  for (const backend::CpuidEntry& entry : cpuid) {
    if (entry.leaf == leaf && entry.subleaf == 0) return entry.*reg >> bit & 1;
  }
  return false;
}

bool VendorIsIntel(absl::Span<const backend::CpuidEntry> cpuid) {
  return !cpuid.empty() && cpuid[0].leaf == 0 && cpuid[0].ecx == 0x6C65746E;  // "ntel"
}

SystemFeatures FeaturesOf(absl::Span<const backend::CpuidEntry> cpuid) {
  using backend::CpuidEntry;
  return {HasBit(cpuid, 7, &CpuidEntry::ebx, 7), HasBit(cpuid, 7, &CpuidEntry::ebx, 20),
          HasBit(cpuid, 7, &CpuidEntry::ebx, 0), HasBit(cpuid, 7, &CpuidEntry::ecx, 2), VendorIsIntel(cpuid)};
}

std::string Describe(const Scenario& scenario) {
  const SystemState& start = scenario.start;
  std::string text =
      absl::StrFormat("in %s mode, cr0 %x cr4 %x efer %x rflags %x\n", kModeNames[static_cast<int>(scenario.mode)],
                      start[RegisterName::kCr0].low, start[RegisterName::kCr4].low, start[RegisterName::kEfer].low,
                      start[RegisterName::kRflags].low);
  for (const std::string& line : scenario.listing) text += "  " + line + "\n";
  return text;
}

TEST(SystemOracleTest, RandomPrivilegedWorkAgreesWithKvm) {
  auto ours_engine = backend::CreateSoftwareBackend({});
  ASSERT_TRUE(ours_engine.ok()) << ours_engine.status();
  auto theirs_engine = backend::CreateKvmBackend({});
  if (!theirs_engine.ok()) GTEST_SKIP() << theirs_engine.status();
  auto ours = SystemRunner::Create(**ours_engine);
  ASSERT_TRUE(ours.ok()) << ours.status();
  auto theirs = SystemRunner::Create(**theirs_engine);
  ASSERT_TRUE(theirs.ok()) << theirs.status();
  // QEMU, as the processor below a nested KVM, ends with "invalid tss type" when a frame is pushed by a task state
  // segment that is busy from the start.
  const bool emulated = std::getenv("HVSDK_NESTED") != nullptr;
  SystemFeatures features = FeaturesOf((*ours)->cpuid());
  const SystemFeatures host = FeaturesOf((*theirs)->cpuid());
  features = {features.smep && host.smep, features.smap && host.smap,   features.fsgsbase && host.fsgsbase,
              features.umip && host.umip, features.intel && host.intel, emulated};

  const uint64_t seed = FromEnvironment("HVSDK_ORACLE_SEED", 20'000);
  const uint64_t wanted = FromEnvironment("HVSDK_ORACLE_SCENARIOS", ScaledCount(1'000));
  const bool trace = std::getenv("HVSDK_ORACLE_TRACE") != nullptr;
  Scenario scenario;
  SystemOutcome a, b;
  std::map<std::string, uint64_t> ends;
  uint64_t compared = 0, left_out = 0;
  int mismatches = 0;
  for (uint64_t n = 0; n < wanted; ++n) {
    MakeScenario(seed + n, features, scenario);
    const std::string name = absl::StrFormat("HVSDK_ORACLE_SEED=%d %s", seed + n, Describe(scenario));
    if (trace) std::fprintf(stderr, "%s", name.c_str());
    const hvdef::RegisterValue task = scenario.start[RegisterName::kTr];
    if (emulated) scenario.start[RegisterName::kTr].high ^= uint64_t{2} << 48;
    absl::Status status = (*theirs)->Run(scenario, a);
    ASSERT_TRUE(status.ok()) << status << " " << name;
    scenario.start[RegisterName::kTr] = task;
    status = (*ours)->Run(scenario, b);
    ASSERT_TRUE(status.ok()) << status << " " << name;
    if (a.how == SystemOutcome::kNoEnd || a.reached_devices || b.reached_devices ||
        (emulated && MissedDoubleFault(a, b))) {
      ++left_out;
      continue;
    }
    ++compared;
    ++ends[Show(b)];
    Excuse(scenario, emulated, b, a);
    const std::string difference = Difference(a, b);
    if (difference.empty()) continue;
    ADD_FAILURE() << name << difference << "  theirs: " << Stack(a) << "  ours:   " << Stack(b);
    if (++mismatches == 25) FAIL() << "stopped after " << compared << " scenarios";
  }
  std::printf("%llu scenarios compared, %d differences, %llu left out, seed %llu\n",
              static_cast<unsigned long long>(compared), mismatches, static_cast<unsigned long long>(left_out),
              static_cast<unsigned long long>(seed));
  for (const auto& [end, count] : ends)
    std::printf("  %s: %llu\n", end.c_str(), static_cast<unsigned long long>(count));
  EXPECT_GE(compared, wanted * 9 / 10);
}

}  // namespace
}  // namespace hvsdk::oracle
