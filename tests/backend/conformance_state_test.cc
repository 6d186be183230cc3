// SPDX-License-Identifier: Apache-2.0
// Registers by name, the reset state, CPUID and page-table walks.

#include <cstring>

#include "tests/backend/conformance.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;
using hvdef::RegisterValue;
using testing::HasSubstr;

class StateTest : public ConformanceTest {
 protected:
  RegisterValue GetBoth(RegisterName name) {
    RegisterValue value{};
    const absl::Status status = machine().vp().GetRegisters({&name, 1}, {&value, 1});
    EXPECT_TRUE(status.ok()) << status;
    return value;
  }
  absl::Status Set(RegisterName name, RegisterValue value) {
    return machine().vp().SetRegisters({&name, 1}, {&value, 1});
  }
  hvdef::SegmentRegister GetSegment(RegisterName name) {
    const RegisterValue value = GetBoth(name);
    hvdef::SegmentRegister segment;
    std::memcpy(&segment, &value, sizeof(segment));
    return segment;
  }
};
HVSDK_CONFORMANCE_SUITE(StateTest);

TEST_P(StateTest, ResetState) {
  EXPECT_EQ(machine().Get(RegisterName::kRip), 0xFFF0u);
  EXPECT_EQ(machine().Get(RegisterName::kRflags), 2u);
  EXPECT_EQ(machine().Get(RegisterName::kCr0), 0x60000010u);
  EXPECT_EQ(machine().Get(RegisterName::kCr3), 0u);
  EXPECT_EQ(machine().Get(RegisterName::kCr4), 0u);
  EXPECT_EQ(machine().Get(RegisterName::kEfer), 0u);
  EXPECT_EQ(machine().Get(RegisterName::kXfem), 1u);
  EXPECT_EQ(machine().Get(RegisterName::kDr6), 0xFFFF0FF0u);
  EXPECT_EQ(machine().Get(RegisterName::kDr7), 0x400u);
  EXPECT_EQ(machine().Get(RegisterName::kApicBase), 0xFEE00900u);
  EXPECT_EQ(machine().Get(RegisterName::kPat), 0x0007040600070406u);
  EXPECT_EQ(machine().Get(RegisterName::kInitialApicId), 0u);
  EXPECT_EQ(static_cast<uint32_t>(GetBoth(RegisterName::kXmmControlStatus).high), 0x1F80u);
  EXPECT_EQ(machine().Get(RegisterName::kRax), 0u);
  const hvdef::SegmentRegister cs = GetSegment(RegisterName::kCs);
  EXPECT_EQ(cs.base, 0xFFFF0000u);
  EXPECT_EQ(cs.selector, 0xF000);
  EXPECT_EQ(cs.limit, 0xFFFFu);
  EXPECT_EQ(cs.attributes & 0x9E, 0x9A) << "readable code; engines differ in the accessed bit";
  const hvdef::SegmentRegister ds = GetSegment(RegisterName::kDs);
  EXPECT_EQ(ds.base, 0u);
  EXPECT_EQ(ds.limit, 0xFFFFu);
}

TEST_P(StateTest, EveryRegisterComesBackAsSet) {
  machine().Start(Mode::kLong, kCodeGpa);
  const std::pair<RegisterName, RegisterValue> values[] = {
      {RegisterName::kRax, {0x0102030405060708, 0}},
      {RegisterName::kRcx, {1, 0}},
      {RegisterName::kRdx, {2, 0}},
      {RegisterName::kRbx, {3, 0}},
      {RegisterName::kRsp, {4, 0}},
      {RegisterName::kRbp, {5, 0}},
      {RegisterName::kRsi, {6, 0}},
      {RegisterName::kRdi, {7, 0}},
      {RegisterName::kR8, {8, 0}},
      {RegisterName::kR9, {9, 0}},
      {RegisterName::kR10, {10, 0}},
      {RegisterName::kR11, {11, 0}},
      {RegisterName::kR12, {12, 0}},
      {RegisterName::kR13, {13, 0}},
      {RegisterName::kR14, {14, 0}},
      {RegisterName::kR15, {~uint64_t{0}, 0}},
      {RegisterName::kRip, {0xFFFF800012345678, 0}},
      {RegisterName::kRflags, {0x246, 0}},
      {RegisterName::kXmm0, {0x1111111111111111, 0x2222222222222222}},
      {RegisterName::kXmm15, {0x3333333333333333, 0x4444444444444444}},
      {RegisterName::kFpMmx0, {0x8000000000000000, 0x3FFF}},
      {RegisterName::kFpMmx7, {0xC000000000000000, 0x4000}},
      {RegisterName::kXmmControlStatus, {0, 0x1FA0}},
      {RegisterName::kCr2, {0xFFFF900000001000, 0}},
      {RegisterName::kCr3, {0x5000, 0}},
      {RegisterName::kCr4, {0x6A0, 0}},
      {RegisterName::kCr8, {9, 0}},
      {RegisterName::kDr0, {0x1000, 0}},
      {RegisterName::kDr3, {0x4000, 0}},
      {RegisterName::kDr7, {0x401, 0}},
      {RegisterName::kKernelGsBase, {0xFFFF888000000000, 0}},
      {RegisterName::kStar, {0x0023001000000000, 0}},
      {RegisterName::kLstar, {0xFFFFFFFF81000000, 0}},
      {RegisterName::kCstar, {0xFFFFFFFF81000100, 0}},
      {RegisterName::kSfmask, {0x47700, 0}},
      {RegisterName::kSysenterCs, {0x10, 0}},
      {RegisterName::kSysenterEip, {0x81000200, 0}},
      {RegisterName::kSysenterEsp, {0x88001000, 0}},  // AMD keeps 32 bits
      {RegisterName::kPat, {0x0407050600070106, 0}},
  };
  std::vector<RegisterName> names;
  std::vector<RegisterValue> wanted;
  for (const auto& [name, value] : values) {
    names.push_back(name);
    wanted.push_back(value);
  }
  const absl::Status status = machine().vp().SetRegisters(names, wanted);
  ASSERT_TRUE(status.ok()) << status;
  std::vector<RegisterValue> got(names.size());
  ASSERT_TRUE(machine().vp().GetRegisters(names, absl::MakeSpan(got)).ok());
  for (size_t i = 0; i < names.size(); ++i) {
    EXPECT_EQ(got[i].low, wanted[i].low) << "register " << std::hex << static_cast<uint32_t>(names[i]);
    // Beside MXCSR stands the mask of its bits that exist.
    if (names[i] == RegisterName::kXmmControlStatus) got[i].high &= 0xFFFFFFFF;
    EXPECT_EQ(got[i].high, wanted[i].high) << "register " << std::hex << static_cast<uint32_t>(names[i]);
  }
  EXPECT_EQ(machine().vp().GetGpr(Gpr::kRax), 0x0102030405060708u);
  machine().vp().SetGpr(Gpr::kR13, 77);
  EXPECT_EQ(machine().Get(RegisterName::kR13), 77u);
}

TEST_P(StateTest, SegmentsAndTables) {
  machine().Start(Mode::kProtected, kCodeGpa);
  const hvdef::SegmentRegister fs{0x12340000, 0xFFFFF, kData32, 0x4093};
  RegisterValue value;
  std::memcpy(&value, &fs, sizeof(value));
  ASSERT_TRUE(Set(RegisterName::kFs, value).ok());
  const hvdef::SegmentRegister back = GetSegment(RegisterName::kFs);
  EXPECT_EQ(back.base, fs.base);
  EXPECT_EQ(back.limit, fs.limit);
  EXPECT_EQ(back.selector, fs.selector);
  EXPECT_EQ(back.attributes, fs.attributes);

  hvdef::TableRegister idtr{};
  idtr.base = 0xABCDE000;
  idtr.limit = 0x7FF;
  std::memcpy(&value, &idtr, sizeof(value));
  ASSERT_TRUE(Set(RegisterName::kIdtr, value).ok());
  const RegisterValue got = GetBoth(RegisterName::kIdtr);
  EXPECT_EQ(got.high, 0xABCDE000u);
  EXPECT_EQ(got.low >> 48, 0x7FFu);
  EXPECT_EQ(GetBoth(RegisterName::kGdtr).high, kGdtGpa);
}

TEST_P(StateTest, AnUnknownRegisterChangesNothing) {
  const RegisterName names[] = {RegisterName::kRbx, RegisterName(0x0BADF00D), RegisterName(0x0BADF00E)};
  const RegisterValue values[] = {{55, 0}, {1, 0}, {1, 0}};
  const absl::Status status = machine().vp().SetRegisters(names, values);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("0xbadf00d"));
  EXPECT_EQ(machine().Get(RegisterName::kRbx), 0u);
  RegisterValue out[3];
  EXPECT_EQ(machine().vp().GetRegisters(names, out).code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(StateTest, AnImpossibleValueChangesNothing) {
  machine().Start(Mode::kLong, kCodeGpa);
  const std::pair<RegisterName, RegisterValue> impossible[] = {
      {RegisterName::kCr0, {0x80000000, 0}},                // paging without protection
      {RegisterName::kCr0, {uint64_t{1} << 40 | 1, 0}},     // a reserved bit
      {RegisterName::kCr4, {uint64_t{1} << 40 | 0x20, 0}},  // a reserved bit
      {RegisterName::kCr8, {16, 0}},
      {RegisterName::kXfem, {0, 0}},                    // without x87
      {RegisterName::kLstar, {0x0900000000000000, 0}},  // not canonical, on hosts with 57 bits neither
      {RegisterName::kPat, {0x02, 0}},                  // a reserved memory type
      {RegisterName::kInitialApicId, {9, 0}},
  };
  for (const auto& [name, value] : impossible) {
    const RegisterName names[] = {RegisterName::kRbx, RegisterName::kCr2, RegisterName::kSysenterCs, name};
    const RegisterValue before = GetBoth(name);
    const RegisterValue values[] = {{0x55, 0}, {0x66, 0}, {0x77, 0}, value};
    const absl::Status status = machine().vp().SetRegisters(names, values);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << std::hex << static_cast<uint32_t>(name);
    EXPECT_EQ(GetBoth(name).low, before.low) << std::hex << static_cast<uint32_t>(name);
    EXPECT_EQ(machine().Get(RegisterName::kRbx), 0u);
    EXPECT_EQ(machine().Get(RegisterName::kCr2), 0u);
    EXPECT_EQ(machine().Get(RegisterName::kSysenterCs), 0u);
  }
}

HVSDK_GUEST(ReadRegisters, 64, R"(
    mov [0x80000], rbx
    movups [0x80010], xmm3
    mov rax, cr2
    mov [0x80020], rax
    mov ecx, 0xC0000102
    rdmsr
    mov [0x80028], eax
    mov [0x8002C], edx
    mov rax, dr1
    mov [0x80030], rax
    mov eax, 0x1234
    mov cr2, rax
    mov rdi, 0xABCD
    movups xmm4, [0x80100]
    mov ecx, 0xC0000082
    mov eax, 0x81234000
    mov edx, 0xFFFFFFFF
    wrmsr
    out 0xF4, al
)")
TEST_P(StateTest, GuestAndHostSeeTheSameRegisters) {
  machine().Start(Mode::kLong, ReadRegisters());
  machine().Set(RegisterName::kRbx, 0xB0B0);
  ASSERT_TRUE(Set(RegisterName::kXmm3, {0xA, 0xB}).ok());
  machine().Set(RegisterName::kCr2, 0xC2C2);
  machine().Set(RegisterName::kKernelGsBase, 0xFFFF888012345678);
  machine().Set(RegisterName::kDr1, 0xD1D1);
  machine().Write<uint64_t>(0x80100, 0x44);
  machine().Write<uint64_t>(0x80108, 0x55);
  machine().Run(recorder_);
  ASSERT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint64_t>(0x80000), 0xB0B0u);
  EXPECT_EQ(machine().Read<uint64_t>(0x80010), 0xAu);
  EXPECT_EQ(machine().Read<uint64_t>(0x80018), 0xBu);
  EXPECT_EQ(machine().Read<uint64_t>(0x80020), 0xC2C2u);
  EXPECT_EQ(machine().Read<uint64_t>(0x80028), 0xFFFF888012345678u);
  EXPECT_EQ(machine().Read<uint64_t>(0x80030), 0xD1D1u);
  EXPECT_EQ(machine().Get(RegisterName::kCr2), 0x1234u);
  EXPECT_EQ(machine().Get(RegisterName::kRdi), 0xABCDu);
  EXPECT_EQ(GetBoth(RegisterName::kXmm4).low, 0x44u);
  EXPECT_EQ(GetBoth(RegisterName::kXmm4).high, 0x55u);
  EXPECT_EQ(machine().Get(RegisterName::kLstar), 0xFFFFFFFF81234000u);
}

HVSDK_GUEST(ReadCpuid, 64, R"(
    mov esi, 0x80000
    mov eax, 0x40000000
    xor ecx, ecx
    call 1f
    mov eax, 0x40000001
    call 1f
    mov eax, 1
    call 1f
    mov eax, 0x40000080
    mov ecx, 3
    call 1f
    mov eax, 0xB
    mov ecx, 1
    call 1f
    out 0xF4, al
1:  cpuid
    mov [rsi], eax
    mov [rsi+4], ebx
    mov [rsi+8], ecx
    mov [rsi+12], edx
    add esi, 16
    xor ecx, ecx
    ret
)")
TEST_P(StateTest, CpuidIsWhatWasGiven) {
  std::unique_ptr<Partition> partition;
  absl::StatusOr<std::vector<CpuidEntry>> supported = machine().partition().SupportedCpuid();
  ASSERT_TRUE(supported.ok());
  for (const CpuidEntry& entry : *supported) EXPECT_NE(entry.leaf >> 28, 4u) << std::hex << entry.leaf;
  std::vector<CpuidEntry> cpuid = *supported;
  cpuid.push_back({0x40000000, 0, false, 0x40000005, 0x7263694D, 0x666F736F, 0x76482074});
  cpuid.push_back({0x40000001, 0, false, 0x31237648, 0, 0, 0});
  cpuid.push_back({0x40000080, 0, true, 1, 2, 3, 4});
  cpuid.push_back({0x40000080, 3, true, 5, 6, 7, 8});
  MakeMachine(1, cpuid, 5);
  machine().Start(Mode::kLong, ReadCpuid());
  machine().Run(recorder_);
  EXPECT_EQ(machine().Read<uint32_t>(0x80000), 0x40000005u);
  EXPECT_EQ(machine().Read<uint32_t>(0x80004), 0x7263694Du);
  EXPECT_EQ(machine().Read<uint32_t>(0x80008), 0x666F736Fu);
  EXPECT_EQ(machine().Read<uint32_t>(0x8000C), 0x76482074u);
  EXPECT_EQ(machine().Read<uint32_t>(0x80010), 0x31237648u);
  EXPECT_EQ(machine().Read<uint32_t>(0x80024) >> 24, 5u) << "the VP's own APIC id";
  EXPECT_EQ(machine().Read<uint32_t>(0x80030), 5u);
  EXPECT_EQ(machine().Read<uint32_t>(0x8003C), 8u);
}

TEST_P(StateTest, TranslationsInLongMode) {
  machine().Start(Mode::kLong, kCodeGpa);
  machine().Set(RegisterName::kEfer, 0xD01);  // with NX
  constexpr uint64_t kPte = kFirstPageTableGpa;
  machine().Write<uint64_t>(kPte + 0x40 * 8, 0x123000 | 1);                      // read-only, supervisor
  machine().Write<uint64_t>(kPte + 0x41 * 8, 0x124000 | 7 | uint64_t{1} << 63);  // writable, user, no execute
  machine().Write<uint64_t>(kPte + 0x42 * 8, 0);                                 // not present
  machine().Write<uint64_t>(kPte + 0x43 * 8, 0x125000 | 5);                      // read-only, user
  Vp& vp = machine().vp();

  Translation t = vp.TranslateGva(0x40ABC, TranslateAccess::kRead, false);
  EXPECT_TRUE(t.present && !t.writable && !t.user && t.executable && !t.privilege_violation);
  EXPECT_EQ(t.gpa, 0x123ABCu);
  EXPECT_TRUE(vp.TranslateGva(0x40000, TranslateAccess::kWrite, false).privilege_violation) << "CR0.WP is set";
  EXPECT_TRUE(vp.TranslateGva(0x40000, TranslateAccess::kRead, true).privilege_violation);

  t = vp.TranslateGva(0x41000, TranslateAccess::kWrite, true);
  EXPECT_TRUE(t.present && t.writable && t.user && !t.executable && !t.privilege_violation);
  EXPECT_TRUE(vp.TranslateGva(0x41000, TranslateAccess::kExecute, true).privilege_violation);

  EXPECT_FALSE(vp.TranslateGva(0x42000, TranslateAccess::kRead, false).present);
  EXPECT_FALSE(vp.TranslateGva(0x42000, TranslateAccess::kRead, false).privilege_violation);
  EXPECT_FALSE(vp.TranslateGva(uint64_t{1} << 47, TranslateAccess::kRead, false).present) << "not canonical";
  EXPECT_FALSE(vp.TranslateGva(uint64_t{5} << 39, TranslateAccess::kRead, false).present);

  t = vp.TranslateGva(0x00654321, TranslateAccess::kWrite, false);  // in a 2 MiB page
  EXPECT_TRUE(t.present && t.writable);
  EXPECT_EQ(t.gpa, 0x00654321u);

  EXPECT_TRUE(vp.TranslateGva(0x43000, TranslateAccess::kWrite, true).privilege_violation);
  machine().Set(RegisterName::kCr0, 0x80000033);  // without WP
  EXPECT_FALSE(vp.TranslateGva(0x43000, TranslateAccess::kWrite, false).privilege_violation);
  EXPECT_TRUE(vp.TranslateGva(0x43000, TranslateAccess::kWrite, true).privilege_violation);
  EXPECT_EQ(machine().Read<uint64_t>(kPte + 0x40 * 8), 0x123000u | 1) << "no accessed bit";
}

TEST_P(StateTest, TranslationsThroughReservedBits) {
  constexpr uint64_t kPte = kFirstPageTableGpa, kPde = kFirstPageTableGpa - 0x1000, kNoExecute = uint64_t{1} << 63;
  const auto is_reserved = [&](uint64_t gva) {
    const Translation t = machine().vp().TranslateGva(gva, TranslateAccess::kRead, false);
    EXPECT_FALSE(t.present && t.reserved_bits);
    return t.reserved_bits;
  };
  machine().Start(Mode::kLong, kCodeGpa);
  machine().Write<uint64_t>(kPte + 0x40 * 8, 0x123000 | 7 | kNoExecute);
  EXPECT_TRUE(is_reserved(0x40000)) << "no execute without EFER.NXE";
  machine().Set(RegisterName::kEfer, 0xD01);
  EXPECT_FALSE(is_reserved(0x40000));
  machine().Write<uint64_t>(kPte + 0x40 * 8, 0x123000 | 7 | uint64_t{1} << 51);
  EXPECT_TRUE(is_reserved(0x40000)) << "above the physical address";
  machine().Write<uint64_t>(kPte + 0x40 * 8, 0x123000 | 7 | uint64_t{1} << 52);
  EXPECT_FALSE(is_reserved(0x40000)) << "the guest's own";
  machine().Write<uint64_t>(kPte + 0x40 * 8, (0x123000 | 7 | uint64_t{1} << 51) & ~uint64_t{1});
  EXPECT_FALSE(is_reserved(0x40000)) << "not present";
  const uint64_t pde = machine().Read<uint64_t>(kPde + 3 * 8);
  ASSERT_EQ(pde & 0x81, 0x81u) << "a 2 MiB page";
  EXPECT_FALSE(is_reserved(0x654321));
  machine().Write<uint64_t>(kPde + 3 * 8, pde | 1u << 12);
  EXPECT_FALSE(is_reserved(0x654321)) << "PAT";
  machine().Write<uint64_t>(kPde + 3 * 8, pde | 1u << 13);
  EXPECT_TRUE(is_reserved(0x654321)) << "inside the large page";
  machine().Write<uint64_t>(kPde + 3 * 8, pde);
  const uint64_t pml4e = machine().Read<uint64_t>(kPml4Gpa);
  machine().Write<uint64_t>(kPml4Gpa, pml4e | 0x80);
  EXPECT_TRUE(is_reserved(0x654321)) << "no page is so large";
  machine().Write<uint64_t>(kPml4Gpa, pml4e);
}

TEST_P(StateTest, TheActivityIsToldAsItWasSet) {
  machine().Start(Mode::kLong, kCodeGpa);
  Vp& vp = machine().vp();
  for (const Activity activity : {Activity::kHalted, Activity::kWaitForSipi, Activity::kRunning}) {
    ASSERT_TRUE(vp.SetActivity(activity).ok());
    const absl::StatusOr<Activity> got = vp.GetActivity();
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(*got, activity);
  }
}

TEST_P(StateTest, TranslationsOutsideLongMode) {
  machine().Start(Mode::kReal, kCodeGpa);
  Translation t = machine().vp().TranslateGva(0x12345, TranslateAccess::kWrite, false);
  EXPECT_TRUE(t.present && t.writable && t.executable);
  EXPECT_EQ(t.gpa, 0x12345u);

  // 32-bit paging: a directory with a page table for the first 4 MiB, then a 4 MiB page.
  machine().Start(Mode::kProtected, kCodeGpa);
  machine().Write<uint32_t>(0x20000, 0x21000 | 7);
  machine().Write<uint32_t>(0x20004, 0x00800000 | 0x83);
  machine().Write<uint32_t>(0x21000 + 0x55 * 4, 0x66000 | 5);
  machine().Set(RegisterName::kCr3, 0x20000);
  machine().Set(RegisterName::kCr4, 0x10);
  machine().Set(RegisterName::kCr0, 0x80010031);
  t = machine().vp().TranslateGva(0x55123, TranslateAccess::kRead, true);
  EXPECT_TRUE(t.present && !t.writable && t.user);
  EXPECT_EQ(t.gpa, 0x66123u);
  t = machine().vp().TranslateGva(0x00412345, TranslateAccess::kWrite, false);
  EXPECT_TRUE(t.present && t.writable && !t.user);
  EXPECT_EQ(t.gpa, 0x00812345u);
  machine().Write<uint32_t>(0x20004, 0x00800000 | 0x83 | 1u << 21);
  EXPECT_TRUE(machine().vp().TranslateGva(0x00412345, TranslateAccess::kRead, false).reserved_bits);
  EXPECT_FALSE(machine().vp().TranslateGva(0x56000, TranslateAccess::kRead, false).present);

  // PAE.
  machine().Start(Mode::kProtected, kCodeGpa);
  machine().Write<uint64_t>(0x22000, 0x23000 | 1);
  machine().Write<uint64_t>(0x23000 + 8, 0x00600000 | 0x87);
  machine().Set(RegisterName::kCr3, 0x22000);
  machine().Set(RegisterName::kCr4, 0x20);
  machine().Set(RegisterName::kCr0, 0x80010031);
  t = machine().vp().TranslateGva(0x00212345, TranslateAccess::kWrite, true);
  EXPECT_TRUE(t.present && t.writable && t.user && !t.privilege_violation);
  EXPECT_EQ(t.gpa, 0x00612345u);
  machine().Write<uint64_t>(0x23000 + 8, 0x00600000 | 0x87 | uint64_t{1} << 52);
  EXPECT_TRUE(machine().vp().TranslateGva(0x00212345, TranslateAccess::kRead, true).reserved_bits);
}

}  // namespace
}  // namespace hvsdk::backend
