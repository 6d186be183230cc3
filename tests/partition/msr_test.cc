// SPDX-License-Identifier: Apache-2.0
// CPUID, synthetic MSRs that need neither SynIC nor timers, privileges, and the partition's life cycle.
#include <cstring>
#include <map>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/hvdef/cpuid.h"
#include "hvsdk/hvdef/privilege.h"
#include "tests/partition/fake_machine.h"

namespace hvsdk::partition {
namespace {

namespace cpuid = hvdef::cpuid;
namespace msr = hvdef::msr;
namespace privilege = hvdef::privilege;
using backend::MsrOutcome;
using fake::FakeMachine;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::map<uint32_t, backend::CpuidEntry> CpuidOf(const FakeMachine& machine) {
  std::map<uint32_t, backend::CpuidEntry> leaves;
  for (const auto& entry : machine.partition->Cpuid()) leaves[entry.leaf] = entry;
  return leaves;
}

TEST(Cpuid, Identity) {
  FakeMachine machine;
  auto leaves = CpuidOf(machine);
  ASSERT_EQ(leaves.size(), 11u);
  EXPECT_EQ(leaves[0x40000000].eax, 0x4000000Au);
  EXPECT_EQ(leaves[0x40000000].ebx, 0x7263694Du);
  EXPECT_EQ(leaves[0x40000000].ecx, 0x666F736Fu);
  EXPECT_EQ(leaves[0x40000000].edx, 0x76482074u);
  EXPECT_EQ(leaves[0x40000001].eax, 0x31237648u);
  EXPECT_EQ(leaves[0x40000002].ebx >> 16, 10u);
  EXPECT_EQ(leaves[0x40000005].eax, 64u);
}

TEST(Cpuid, FollowsTheEngine) {
  FakeMachine::Options options;
  options.caps.auto_eoi = false;
  FakeMachine plain(options);
  auto leaves = CpuidOf(plain);
  EXPECT_EQ(leaves[0x40000003].eax, 0x00000EEFu) << "runtime to frequency registers, without APIC and statistics";
  EXPECT_EQ(leaves[0x40000003].ebx, 0x00320030u) << "post, signal, registers, extended calls, start VP";
  EXPECT_EQ(leaves[0x40000003].edx, 0x000E8530u);
  EXPECT_EQ(leaves[0x40000004].eax, cpuid::kRecommendRelaxedTiming | cpuid::kRecommendDeprecateAutoEoi |
                                        cpuid::kRecommendExProcessorMasks | cpuid::kRecommendResetMsr);
  EXPECT_EQ(leaves[0x40000003].eax & privilege::kAccessTscInvariantControls, 0u);

  options.caps.invariant_tsc = true;
  FakeMachine invariant(options);
  EXPECT_EQ(CpuidOf(invariant)[0x40000003].eax, 0x00008EEFu);
  options.caps.invariant_tsc = false;

  options.caps.auto_eoi = true;
  options.caps.cheap_auto_eoi = false;
  FakeMachine dear(options);
  EXPECT_NE(CpuidOf(dear)[0x40000004].eax & cpuid::kRecommendDeprecateAutoEoi, 0u);

  options.caps.cheap_auto_eoi = options.caps.apic_msrs = options.caps.cheap_tlb_flush = options.caps.cheap_ipi = true;
  FakeMachine rich(options);
  leaves = CpuidOf(rich);
  EXPECT_EQ(leaves[0x40000003].eax, 0x00000EFFu);
  EXPECT_EQ(leaves[0x40000004].eax, cpuid::kRecommendRelaxedTiming | cpuid::kRecommendRemoteTlbFlush |
                                        cpuid::kRecommendClusterIpi | cpuid::kRecommendExProcessorMasks |
                                        cpuid::kRecommendResetMsr);

  options.caps.apic_frequency_hz = 0;
  options.vp_runtime = false;
  FakeMachine poor(options);
  leaves = CpuidOf(poor);
  EXPECT_EQ(leaves[0x40000003].eax, 0x000006FEu);
  EXPECT_EQ(leaves[0x40000003].edx & cpuid::kFeatureFrequencyMsrs, 0u);
  EXPECT_EQ(poor.Read(msr::kTscFrequency), 0xDEADDEADDEADDEAD);
  EXPECT_EQ(poor.outcome, MsrOutcome::kFault);
}

struct MsrCase {
  uint32_t msr;
  uint64_t needs;
  bool readable, writable;
  uint64_t value;  // one that may be written
};
const std::vector<MsrCase>& MsrCases() {
  static const auto* cases = [] {
    auto* all = new std::vector<MsrCase>{
        {msr::kGuestOsId, privilege::kAccessHypercallMsrs, true, true, 1},
        {msr::kHypercall, privilege::kAccessHypercallMsrs, true, true, 0x5000},
        {msr::kVpIndex, privilege::kAccessVpIndex, true, false, 0},
        {msr::kReset, privilege::kAccessResetReg, true, true, 0},
        {msr::kVpRuntime, privilege::kAccessVpRuntimeReg, true, false, 0},
        {msr::kTimeRefCount, privilege::kAccessPartitionReferenceCounter, true, false, 0},
        {msr::kReferenceTsc, privilege::kAccessPartitionReferenceTsc, true, true, 0x5000},
        {msr::kTscFrequency, privilege::kAccessFrequencyRegs, true, false, 0},
        {msr::kApicFrequency, privilege::kAccessFrequencyRegs, true, false, 0},
        {msr::kTscInvariantControl, privilege::kAccessTscInvariantControls, true, true, msr::kExposeInvariantTsc},
        {msr::kEoi, privilege::kAccessIntrCtrlRegs, false, false, 0},
        {msr::kIcr, privilege::kAccessIntrCtrlRegs, false, false, 0},
        {msr::kTpr, privilege::kAccessIntrCtrlRegs, false, false, 0},
        {msr::kVpAssistPage, 0, true, true, 0x6000},
        {msr::kScontrol, privilege::kAccessSynicRegs, true, true, 1},
        {msr::kSversion, privilege::kAccessSynicRegs, true, false, 0},
        {msr::kSiefp, privilege::kAccessSynicRegs, true, true, 0x7000},
        {msr::kSimp, privilege::kAccessSynicRegs, true, true, 0x8000},
        {msr::kEom, privilege::kAccessSynicRegs, true, true, 0},
        {msr::kCrashCtl, 0, true, true, 0},
    };
    for (uint32_t i = 0; i < 16; ++i) all->push_back({msr::kSint0 + i, privilege::kAccessSynicRegs, true, true, 0x30});
    for (uint32_t i = 0; i < 8; ++i) {
      all->push_back({msr::kStimer0Config + i, privilege::kAccessSyntheticTimerRegs, true, true, 0x10000});
    }
    for (uint32_t i = 0; i < 5; ++i) all->push_back({msr::kCrashP0 + i, 0, true, true, 9});
    return all;
  }();
  return *cases;
}

TEST(MsrPrivileges, EveryMsrWithAndWithoutItsPrivilege) {
  for (const MsrCase& each : MsrCases()) {
    SCOPED_TRACE(::testing::Message() << std::hex << each.msr);
    FakeMachine::Options options;
    options.enable_hypercalls = false;
    options.caps.invariant_tsc = true;
    FakeMachine with(options);
    uint64_t value;
    EXPECT_EQ(with.vps[0]->OnMsrRead(each.msr, value), each.readable ? MsrOutcome::kDone : MsrOutcome::kFault);
    EXPECT_EQ(with.Write(each.msr, each.value), each.writable ? MsrOutcome::kDone : MsrOutcome::kFault);
    if (each.needs == 0) continue;
    options.privileges = ~each.needs;
    FakeMachine without(options);
    EXPECT_EQ(without.vps[0]->OnMsrRead(each.msr, value), MsrOutcome::kFault);
    EXPECT_EQ(without.Write(each.msr, each.value), MsrOutcome::kFault);
  }
}

TEST(Msr, AnInvariantTscIsAskedForOnce) {
  FakeMachine::Options options;
  options.caps.invariant_tsc = true;
  FakeMachine machine(options);
  EXPECT_EQ(machine.Read(msr::kTscInvariantControl), 0u);
  EXPECT_TRUE(machine.Allows(msr::kTscInvariantControl, 0)) << "nothing was asked for";
  EXPECT_FALSE(machine.Allows(msr::kTscInvariantControl, 2)) << "reserved";
  EXPECT_FALSE(machine.Allows(msr::kTscInvariantControl, 3));
  EXPECT_TRUE(machine.Allows(msr::kTscInvariantControl, 1));
  EXPECT_TRUE(machine.Allows(msr::kTscInvariantControl, 1));
  EXPECT_EQ(machine.Read(msr::kTscInvariantControl, 1), 1u) << "one register for all VPs";
  EXPECT_FALSE(machine.Allows(msr::kTscInvariantControl, 0)) << "the guest relies on it";
  machine.partition->Reset();
  EXPECT_EQ(machine.Read(msr::kTscInvariantControl), 0u);

  FakeMachine without;
  EXPECT_FALSE(without.Allows(msr::kTscInvariantControl, 1)) << "where the engine's TSC is not invariant";
}

TEST(MsrPrivileges, NoOtherMsrExists) {
  FakeMachine::Options options;
  options.caps.invariant_tsc = true;
  FakeMachine machine(options);
  for (uint32_t index = msr::kFirst; index <= msr::kLast + 16; ++index) {
    const bool known = index == msr::kGuestIdle || std::any_of(MsrCases().begin(), MsrCases().end(),
                                                               [&](const auto& each) { return each.msr == index; });
    if (known) continue;
    uint64_t value;
    EXPECT_EQ(machine.vps[0]->OnMsrRead(index, value), MsrOutcome::kFault) << std::hex << index;
    EXPECT_EQ(machine.Write(index, 0), MsrOutcome::kFault) << std::hex << index;
  }
}

TEST(Msr, SimpleOnes) {
  FakeMachine machine;
  EXPECT_EQ(machine.Read(msr::kVpIndex, 1), 1u);
  EXPECT_EQ(machine.Read(msr::kVpRuntime, 1), 1001u);
  EXPECT_EQ(machine.Read(msr::kTscFrequency), 2'500'000'000u);
  EXPECT_EQ(machine.Read(msr::kApicFrequency), 1'000'000'000u);
  EXPECT_EQ(machine.Read(msr::kSversion), 1u);
  EXPECT_EQ(machine.Read(msr::kGuestIdle), 0u);
  EXPECT_EQ(machine.outcome, MsrOutcome::kHalt);
  EXPECT_FALSE(machine.Allows(msr::kGuestIdle, 0));
  EXPECT_EQ(machine.Read(msr::kReset), 0u);
}

TEST(Msr, HypercallPageNeedsAnIdentity) {
  FakeMachine::Options options;
  options.enable_hypercalls = false;
  FakeMachine machine(options);
  machine.host[0x5000] = 0x77;
  EXPECT_TRUE(machine.Allows(msr::kHypercall, 0x5001));
  EXPECT_EQ(machine.Read(msr::kHypercall), 0x5000u) << "the enable bit stays zero";
  EXPECT_EQ(machine.host[0x5000], 0x77);
  machine.Write(msr::kGuestOsId, 1);
  EXPECT_TRUE(machine.Allows(msr::kHypercall, 0x5FFD)) << "preserved bits; not the lock";
  EXPECT_EQ(machine.Read(msr::kHypercall, 1), 0x5FFDu) << "partition-wide";
  EXPECT_THAT(std::vector(&machine.host[0x5000], &machine.host[0x5005]), ElementsAre(0x0F, 0x01, 0xC1, 0xC3, 0xCC));
  machine.Write(msr::kGuestOsId, 0);
  EXPECT_EQ(machine.Read(msr::kHypercall), 0x5FFCu) << "disabled with the identity";
  EXPECT_EQ(machine.host[0x5000], 0x77) << "the guest's own byte is back";
}

TEST(Msr, HypercallPageMovesAndLocks) {
  FakeMachine machine;
  machine.host[0x9000] = 0x42;
  EXPECT_TRUE(machine.Allows(msr::kHypercall, 0x9001));
  EXPECT_EQ(machine.host[0x9000], 0x0F);
  EXPECT_EQ(machine.host[FakeMachine::kHypercallPage], 0);
  EXPECT_FALSE(machine.Allows(msr::kHypercall, FakeMachine::kMemoryBytes | 1)) << "beyond memory";
  EXPECT_FALSE(machine.Allows(msr::kHypercall, ~uint64_t{0xFFF} | 1));
  EXPECT_EQ(machine.Read(msr::kHypercall), 0x9001u);
  machine.host[0x9000] = 0xF4;  // a guest may scribble over it, and gets fresh code with each enabling
  EXPECT_TRUE(machine.Allows(msr::kHypercall, 0x9000));
  EXPECT_EQ(machine.host[0x9000], 0x42);
  EXPECT_TRUE(machine.Allows(msr::kHypercall, 0x9003));
  EXPECT_EQ(machine.host[0x9000], 0x0F);
  EXPECT_FALSE(machine.Allows(msr::kHypercall, 0xA003));
  EXPECT_FALSE(machine.Allows(msr::kHypercall, 0));
  EXPECT_TRUE(machine.Allows(msr::kHypercall, 0x9003)) << "the same again changes nothing";
  machine.partition->Reset();
  EXPECT_EQ(machine.Read(msr::kHypercall), 0u);
  EXPECT_EQ(machine.host[0x9000], 0x42);
}

TEST(Msr, ReferenceTscPageAgreesWithTheCounter) {
  FakeMachine machine;
  machine.clock.Set(123'456'789);
  EXPECT_EQ(machine.Read(msr::kTimeRefCount), 123'456'789u);
  std::memset(&machine.host[0x6000], 0x99, kPageSize);
  EXPECT_TRUE(machine.Allows(msr::kReferenceTsc, 0x6001));
  hvdef::ReferenceTscPage page;
  std::memcpy(&page, &machine.host[0x6000], sizeof(page));
  EXPECT_EQ(page.sequence, 1u);
  for (uint64_t now : {uint64_t{123'456'790}, uint64_t{36'000'000'000'000}, uint64_t{31'536'000} * 100 * 10'000'000}) {
    machine.clock.Set(now);
    const uint64_t tsc = machine.backend.GuestTsc();
    const uint64_t guest =
        static_cast<uint64_t>((static_cast<unsigned __int128>(tsc) * page.scale) >> 64) + page.offset;
    EXPECT_EQ(machine.Read(msr::kTimeRefCount, 1), guest);
    // Rounding of the scale is worth a unit in some centuries.
    EXPECT_LE(guest - now, 1u);
  }
  EXPECT_FALSE(machine.Allows(msr::kTimeRefCount, 0)) << "read-only";
  EXPECT_TRUE(machine.Allows(msr::kReferenceTsc, 0));
  EXPECT_EQ(machine.host[0x6000], 0x99);
  EXPECT_TRUE(machine.Allows(msr::kReferenceTsc, FakeMachine::kMemoryBytes * 2 | 1)) << "seen by nobody, and no fault";
  EXPECT_EQ(machine.Read(msr::kReferenceTsc), FakeMachine::kMemoryBytes * 2 | 1);
}

TEST(ReferenceClock, StartsAtZeroWhereverTheTscIs) {
  FakeClock clock(1'000'000);
  fake::FakePartition backend(clock, 400);
  const auto reference = ReferenceClock::Create(backend, 4'000'000'000);
  ASSERT_TRUE(reference.ok());
  EXPECT_EQ((*reference)->Now100ns(), 0u);
  clock.Advance(77);
  EXPECT_EQ((*reference)->Now100ns(), 77u);
  EXPECT_EQ(ReferenceClock::Create(backend, 10'000'000).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Msr, VpAssistPageBelongsToItsVp) {
  FakeMachine machine;
  machine.host[0x6000] = 0x55;
  EXPECT_TRUE(machine.Allows(msr::kVpAssistPage, 0x6001, 0));
  EXPECT_TRUE(machine.Allows(msr::kVpAssistPage, 0x7001, 1));
  EXPECT_EQ(machine.Read(msr::kVpAssistPage, 0), 0x6001u);
  EXPECT_EQ(machine.Read(msr::kVpAssistPage, 1), 0x7001u);
  EXPECT_EQ(machine.host[0x6000], 0) << "no EOI is ever spared";
  EXPECT_TRUE(machine.Allows(msr::kVpAssistPage, 0, 0));
  EXPECT_EQ(machine.host[0x6000], 0x55);
}

TEST(Life, ResetRequest) {
  FakeMachine machine;
  machine.Write(msr::kReset, 0, 1);
  EXPECT_THAT(machine.resets, IsEmpty());
  machine.Write(msr::kReset, 1, 1);
  EXPECT_THAT(machine.resets, ElementsAre(1));
}

TEST(Life, CrashWithParametersAndMessage) {
  FakeMachine machine;
  EXPECT_EQ(machine.Read(msr::kCrashCtl), msr::kCrashNotify | msr::kCrashMessage);
  std::memcpy(&machine.host[0x5000], "Kernel panic", 12);
  for (uint32_t i = 0; i < 5; ++i) machine.Write(msr::kCrashP0 + i, 100 + i);
  EXPECT_EQ(machine.Read(msr::kCrashP0 + 2), 102u);
  machine.Write(msr::kCrashCtl, msr::kCrashMessage);
  EXPECT_THAT(machine.crashes, IsEmpty()) << "nothing without notify";
  machine.Write(msr::kCrashCtl, msr::kCrashNotify, 1);
  ASSERT_EQ(machine.crashes.size(), 1u);
  EXPECT_EQ(machine.crashes[0].vp, VpIndex{1});
  EXPECT_THAT(machine.crashes[0].parameters, ElementsAre(100, 101, 102, 103, 104));
  EXPECT_EQ(machine.crashes[0].message, "");
  const auto message = [&](uint64_t gpa, uint64_t size) {
    machine.Write(msr::kCrashP0 + 3, gpa);
    machine.Write(msr::kCrashP0 + 4, size);
    machine.Write(msr::kCrashCtl, msr::kCrashNotify | msr::kCrashMessage);
    return machine.crashes.back().message;
  };
  EXPECT_EQ(message(0x5000, 12), "Kernel panic");
  EXPECT_EQ(message(0x5000, ~uint64_t{0}).size(), 4096u) << "bounded";
  EXPECT_EQ(message(FakeMachine::kMemoryBytes - 4, 12), "") << "not memory";
  EXPECT_EQ(message(~uint64_t{0}, 12), "");
  EXPECT_EQ(machine.crashes.size(), 5u);
}

TEST(Life, ResetReturnsToTheBeginning) {
  FakeMachine::Options options;
  options.caps.invariant_tsc = true;
  FakeMachine machine(options);
  const std::vector<uint8_t> before = machine.host;
  machine.EnableSynic(0);
  machine.EnableSynic(1);
  machine.Write(msr::kReferenceTsc, 0x20001);
  machine.Write(msr::kVpAssistPage, 0x21001);
  machine.Write(msr::kCrashP0, 5);
  machine.Write(msr::kStimer0Config, 0x10000 | msr::kStimerPeriodic | msr::kStimerAutoEnable);
  machine.Write(msr::kStimer0Count, 10000);
  ASSERT_EQ(machine.partition->PostMessage(VpIndex{0}, Sint{2}, 1, {}), hvdef::HvStatus::kSuccess);
  ASSERT_EQ(machine.timers.armed(), 1u);
  machine.partition->Reset();
  EXPECT_EQ(machine.timers.armed(), 0u);
  // The hypercall page too; the guest has never written any of it.
  EXPECT_EQ(machine.host, std::vector<uint8_t>(FakeMachine::kMemoryBytes));
  for (const MsrCase& each : MsrCases()) {
    if (!each.readable || !each.writable || each.msr == msr::kCrashCtl) continue;
    const bool is_sint = each.msr >= msr::kSint0 && each.msr <= msr::kSint15;
    EXPECT_EQ(machine.Read(each.msr), is_sint ? 0x10000u : 0u) << std::hex << each.msr;
  }
  machine.Write(msr::kSimp, FakeMachine::MessagePage(0) | 1);
  EXPECT_EQ(machine.Slot(2).header.message_type, 0u) << "the message page is clear again";
  EXPECT_NE(before, machine.host);
}

TEST(Life, VpsAreAddedInOrder) {
  FakeMachine machine;
  fake::FakeVp wrong(VpIndex{5}, 5);
  EXPECT_EQ(machine.partition->AddVp(wrong).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(machine.partition->vp(VpIndex{2}), nullptr);
}

TEST(Life, HypercallCodeMustFit) {
  for (const size_t size : {0u, 65u}) {
    FakeMachine machine;
    backend::BackendCaps caps = FakeMachine::DefaultCaps();
    caps.hypercall_code.assign(size, 0x90);
    const Environment environment{.backend = machine.backend,
                                  .caps = caps,
                                  .memory = machine.memory,
                                  .clock = *machine.reference_clock,
                                  .timers = machine.timers,
                                  .events = machine};
    EXPECT_EQ(Partition::Create({}, environment).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace hvsdk::partition
