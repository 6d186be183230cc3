// SPDX-License-Identifier: Apache-2.0
// What a VP's CPUID hides is not there: control bits are reserved, MSRs and instructions fault. And what CPUID says by itself.

#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "tests/backend/conformance.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;

enum Word { kEax, kEbx, kEcx, kEdx };

uint32_t& WordOf(CpuidEntry& entry, Word word) {
  return word == kEax ? entry.eax : word == kEbx ? entry.ebx : word == kEcx ? entry.ecx : entry.edx;
}

struct Bit {
  uint32_t leaf;
  Word word;
  int bit;
};

class FeatureTest : public ConformanceTest {
 protected:
  // Makes a machine without these features. False: the engine lacks the first anyway.
  bool MakeMachineWithout(const std::vector<Bit>& hidden) {
    absl::StatusOr<std::vector<CpuidEntry>> cpuid = machine().partition().SupportedCpuid();
    EXPECT_TRUE(cpuid.ok()) << cpuid.status();
    bool had = false;
    for (CpuidEntry& entry : *cpuid) {
      for (const Bit& bit : hidden) {
        if (entry.leaf != bit.leaf || (entry.has_subleaves && entry.subleaf != 0)) continue;
        uint32_t& word = WordOf(entry, bit.word);
        if (&bit == &hidden.front()) had |= word >> bit.bit & 1;
        word &= ~(1u << bit.bit);
      }
    }
    MakeMachine(1, *cpuid);
    return had;
  }
};
HVSDK_CONFORMANCE_SUITE(FeatureTest);

HVSDK_GUEST(SetCr4Bit, 64, R"(
    mov rax, cr4
    bts rax, rcx
    mov cr4, rax
    out 0xF4, al
)")
HVSDK_GUEST(WriteAnMsr, 64, R"(
    wrmsr
    out 0xF4, al
)")
HVSDK_GUEST(ReadAnMsr, 64, R"(
    rdmsr
    out 0xF4, al
)")
HVSDK_GUEST(UseInvpcid, 64, R"(
    xor eax, eax
    invpcid rax, [0x80000]
    out 0xF4, al
)")
HVSDK_GUEST(UseRdtscp, 64, R"(
    rdtscp
    out 0xF4, al
)")
HVSDK_GUEST(SetXcr0, 64, R"(
    mov rax, cr4
    bts rax, 18
    mov cr4, rax
    xor ecx, ecx
    xor edx, edx
    mov eax, 7
    xsetbv
    out 0xF4, al
)")
TEST_P(FeatureTest, WhatCpuidHidesFaults) {
  const struct {
    const char* name;
    std::vector<Bit> hidden;
    absl::Span<const uint8_t> code;
    uint64_t rcx;
    uint64_t rax;
    int fault;
  } cases[] = {
      {"PCID", {{1, kEcx, 17}}, SetCr4Bit(), 17, 0, 13},
      {"XSAVE", {{1, kEcx, 26}}, SetCr4Bit(), 18, 0, 13},
      {"SMEP", {{7, kEbx, 7}}, SetCr4Bit(), 20, 0, 13},
      {"SMAP", {{7, kEbx, 20}}, SetCr4Bit(), 21, 0, 13},
      {"FSGSBASE", {{7, kEbx, 0}}, SetCr4Bit(), 16, 0, 13},
      {"UMIP", {{7, kEcx, 2}}, SetCr4Bit(), 11, 0, 13},
      {"PKU", {{7, kEcx, 3}}, SetCr4Bit(), 22, 0, 13},
      {"LA57", {{7, kEcx, 16}}, SetCr4Bit(), 12, 0, 13},
      {"x2APIC", {{1, kEcx, 21}}, WriteAnMsr(), 0x1B, 0xFEE00D00, 13},
      {"NX", {{0x80000001, kEdx, 20}}, WriteAnMsr(), 0xC0000080, 0xD01, 13},
      {"TSC_AUX", {{0x80000001, kEdx, 27}, {7, kEcx, 22}}, ReadAnMsr(), 0xC0000103, 0, 13},
      {"ARCH_CAPABILITIES", {{7, kEdx, 29}}, ReadAnMsr(), 0x10A, 0, 13},
      {"INVPCID", {{7, kEbx, 10}}, UseInvpcid(), 0, 0, 6},
      {"RDTSCP", {{0x80000001, kEdx, 27}, {7, kEcx, 22}}, UseRdtscp(), 0, 0, 6},
      {"AVX's state", {{0xD, kEax, 2}, {1, kEcx, 28}}, SetXcr0(), 0, 0, 13},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    // QEMU, the processor below a nested KVM, does not let it intercept RDTSCP.
    if (GetParam().name == "kvm" && c.name == std::string("RDTSCP") && std::getenv("HVSDK_NESTED") != nullptr) continue;
    const bool had = MakeMachineWithout(c.hidden);
    // Without XSAVE it is the bit in CR4 that faults.
    machine().Start(Mode::kLong, c.code);
    machine().Set(RegisterName::kRcx, c.rcx);
    machine().Set(RegisterName::kRax, c.rax);
    Recorder recorder;
    machine().Run(recorder);
    EXPECT_EQ(recorder.fault, c.fault) << (had ? "hidden" : "never there");
  }
}

HVSDK_GUEST(UsePopcnt, 64, "popcnt rax, rax; out 0xF4, al")
HVSDK_GUEST(UseCrc32, 64, "crc32 eax, eax; out 0xF4, al")
HVSDK_GUEST(UseMovbe, 64, "movbe eax, [0x80000]; out 0xF4, al")
HVSDK_GUEST(UseAdcx, 64, "adcx eax, eax; out 0xF4, al")
HVSDK_GUEST(UseCmpxchg16b, 64, "cmpxchg16b [0x80000]; out 0xF4, al")
TEST_P(FeatureTest, InstructionsThatCpuidHides) {
  const struct {
    const char* name;
    Bit hidden;
    absl::Span<const uint8_t> code;
  } cases[] = {{"POPCNT", {1, kEcx, 23}, UsePopcnt()},
               {"SSE4.2", {1, kEcx, 20}, UseCrc32()},
               {"MOVBE", {1, kEcx, 22}, UseMovbe()},
               {"ADX", {7, kEbx, 19}, UseAdcx()},
               {"CMPXCHG16B", {1, kEcx, 13}, UseCmpxchg16b()}};
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    if (!MakeMachineWithout({c.hidden})) continue;  // the engine lacks it
    machine().Start(Mode::kLong, c.code);
    Recorder recorder;
    machine().Run(recorder);
    EXPECT_EQ(recorder.fault, backend().caps().hides_instructions ? 6 : -1);
  }
}

TEST_P(FeatureTest, ControlRegistersCannotBeSetToWhatIsHidden) {
  for (const auto& [bit, cr4] : std::vector<std::pair<Bit, uint64_t>>{
           {{1, kEcx, 26}, 1 << 18}, {{7, kEbx, 7}, 1 << 20}, {{7, kEbx, 20}, 1 << 21}, {{7, kEcx, 2}, 1 << 11}}) {
    MakeMachineWithout({bit});
    machine().Start(Mode::kLong, SetCr4Bit());
    const RegisterName name = RegisterName::kCr4;
    const hvdef::RegisterValue value{machine().Get(name) | cr4, 0};
    EXPECT_EQ(machine().vp().SetRegisters({&name, 1}, {&value, 1}).code(), absl::StatusCode::kInvalidArgument) << cr4;
  }
}

HVSDK_GUEST(Cpuid1, 64, R"(
    mov eax, 1
    cpuid
    mov [0x80000], ecx
    mov rax, cr4
    bts rax, 18
    mov cr4, rax
    mov eax, 1
    cpuid
    mov [0x80004], ecx
    mov rax, cr4
    btr rax, 18
    mov cr4, rax
    mov eax, 1
    cpuid
    mov [0x80008], ecx
    out 0xF4, al
)")
TEST_P(FeatureTest, CpuidShowsWhetherXsaveIsOn) {
  absl::StatusOr<std::vector<CpuidEntry>> cpuid = machine().partition().SupportedCpuid();
  ASSERT_TRUE(cpuid.ok());
  bool has_xsave = false;
  for (CpuidEntry& entry : *cpuid) {
    if (entry.leaf != 1) continue;
    has_xsave = entry.ecx >> 26 & 1;
    entry.ecx |= 1u << 27;  // is not the table's to say
  }
  if (!has_xsave) GTEST_SKIP() << "no XSAVE";
  MakeMachine(1, *cpuid);
  machine().Start(Mode::kLong, Cpuid1());
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint32_t>(0x80000) & 1u << 27, 0u);
  EXPECT_EQ(machine().Read<uint32_t>(0x80004) & 1u << 27, 1u << 27);
  EXPECT_EQ(machine().Read<uint32_t>(0x80008) & 1u << 27, 0u);
}

HVSDK_GUEST(CpuidApic, 64, R"(
    mov eax, 1
    cpuid
    mov [0x80000], edx
    mov ecx, 0x1B
    mov eax, 0xFEE00100
    xor edx, edx
    wrmsr
    mov eax, 1
    cpuid
    mov [0x80004], edx
    mov ecx, 0x1B
    mov eax, 0xFEE00900
    xor edx, edx
    wrmsr
    mov eax, 1
    cpuid
    mov [0x80008], edx
    out 0xF4, al
)")
TEST_P(FeatureTest, CpuidShowsWhetherTheApicIsEnabled) {
  machine().Start(Mode::kLong, CpuidApic());
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint32_t>(0x80000) & 1u << 9, 1u << 9);
  EXPECT_EQ(machine().Read<uint32_t>(0x80004) & 1u << 9, 0u);
  EXPECT_EQ(machine().Read<uint32_t>(0x80008) & 1u << 9, 1u << 9);
}

}  // namespace
}  // namespace hvsdk::backend
