// SPDX-License-Identifier: Apache-2.0
// Features that a VP's CPUID hides, as far as only this engine can refuse them: a KVM leaves them to a processor that has them.

#include <vector>

#include "gtest/gtest.h"
#include "hvsdk/backend_software/software_backend.h"
#include "tests/backend/guest_code.h"
#include "tests/backend/test_machine.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;

class HiddenFeatures : public testing::Test {
 protected:
  void SetUp() override {
    auto backend = CreateSoftwareBackend({});
    ASSERT_TRUE(backend.ok());
    backend_ = *std::move(backend);
  }
  // `change` edits the leaves that the guest sees.
  template <typename Change>
  void Make(Change change) {
    machine_.reset();
    GuestMemory memory;
    auto partition = backend_->CreatePartition(memory);
    ASSERT_TRUE(partition.ok());
    auto cpuid = (*partition)->SupportedCpuid();
    ASSERT_TRUE(cpuid.ok());
    for (CpuidEntry& entry : *cpuid) change(entry);
    partition->reset();
    auto machine = TestMachine::Create(*backend_, 1, *cpuid);
    ASSERT_TRUE(machine.ok()) << machine.status();
    machine_ = *std::move(machine);
  }
  // The vector of the exception that `code` ends with, or -1.
  int Run(absl::Span<const uint8_t> code) {
    Recorder recorder;
    machine_->Start(Mode::kLong, code);
    machine_->Run(recorder);
    return recorder.fault;
  }
  int Run(std::vector<uint8_t> code) {
    code.insert(code.end(), {0xE6, kDonePort});
    return Run(absl::Span<const uint8_t>(code));
  }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<TestMachine> machine_;
};

TEST_F(HiddenFeatures, AreUndefinedInstructions) {
  const struct {
    const char* name;
    uint32_t leaf;
    uint32_t CpuidEntry::*word;
    int bit;
    std::vector<uint8_t> code;
  } cases[] = {
      {"SSE3", 1, &CpuidEntry::ecx, 0, {0xF2, 0x0F, 0xD0, 0xC1}},
      {"PCLMULQDQ", 1, &CpuidEntry::ecx, 1, {0x66, 0x0F, 0x3A, 0x44, 0xC1, 0}},
      {"SSSE3", 1, &CpuidEntry::ecx, 9, {0x66, 0x0F, 0x38, 0x00, 0xC1}},
      {"CMPXCHG16B", 1, &CpuidEntry::ecx, 13, {0x48, 0x0F, 0xC7, 0x0C, 0x25, 0, 0, 8, 0}},
      {"SSE4.1", 1, &CpuidEntry::ecx, 19, {0x66, 0x0F, 0x38, 0x17, 0xC1}},
      {"SSE4.2", 1, &CpuidEntry::ecx, 20, {0xF2, 0x0F, 0x38, 0xF1, 0xC1}},
      {"MOVBE", 1, &CpuidEntry::ecx, 22, {0x0F, 0x38, 0xF0, 0x04, 0x25, 0, 0, 8, 0}},
      {"POPCNT", 1, &CpuidEntry::ecx, 23, {0xF3, 0x0F, 0xB8, 0xC1}},
      {"AES", 1, &CpuidEntry::ecx, 25, {0x66, 0x0F, 0x38, 0xDC, 0xC1}},
      {"RDRAND", 1, &CpuidEntry::ecx, 30, {0x0F, 0xC7, 0xF0}},
      {"BMI1", 7, &CpuidEntry::ebx, 3, {0xC4, 0xE2, 0x70, 0xF2, 0xC1}},
      {"BMI2", 7, &CpuidEntry::ebx, 8, {0xC4, 0xE2, 0x70, 0xF5, 0xC1}},
      {"RDSEED", 7, &CpuidEntry::ebx, 18, {0x0F, 0xC7, 0xF8}},
      {"ADX", 7, &CpuidEntry::ebx, 19, {0x66, 0x0F, 0x38, 0xF6, 0xC1}},
      {"SMAP", 7, &CpuidEntry::ebx, 20, {0x0F, 0x01, 0xCB}},
      {"CLFLUSHOPT", 7, &CpuidEntry::ebx, 23, {0x66, 0x0F, 0xAE, 0x3C, 0x25, 0, 0, 8, 0}},
      {"CLWB", 7, &CpuidEntry::ebx, 24, {0x66, 0x0F, 0xAE, 0x34, 0x25, 0, 0, 8, 0}},
      {"SHA", 7, &CpuidEntry::ebx, 29, {0x0F, 0x38, 0xC8, 0xC1}},
      {"RDPID", 7, &CpuidEntry::ecx, 22, {0xF3, 0x0F, 0xC7, 0xF8}},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    bool had = false;
    Make([&](CpuidEntry& entry) {
      if (entry.leaf == c.leaf) had |= entry.*c.word >> c.bit & 1;
    });
    EXPECT_EQ(Run(c.code), had ? -1 : 6);
    Make([&](CpuidEntry& entry) {
      if (entry.leaf == c.leaf) entry.*c.word &= ~(1u << c.bit);
    });
    EXPECT_EQ(Run(c.code), 6);
  }
}

HVSDK_GUEST(CountZeros, 64, R"(
    mov ecx, 0x100
    lzcnt eax, ecx
    mov [0x80000], eax
    tzcnt eax, ecx
    mov [0x80004], eax
    out 0xF4, al
)")
TEST_F(HiddenFeatures, AreTheInstructionsOfBefore) {
  Make([](CpuidEntry&) {});
  EXPECT_EQ(Run(CountZeros()), -1);
  EXPECT_EQ(machine_->Read<uint32_t>(0x80000), 23u);
  EXPECT_EQ(machine_->Read<uint32_t>(0x80004), 8u);
  Make([](CpuidEntry& entry) {
    if (entry.leaf == 7) entry.ebx &= ~(1u << 3);
    if (entry.leaf == 0x80000001) entry.ecx &= ~(1u << 5);
  });
  EXPECT_EQ(Run(CountZeros()), -1);
  EXPECT_EQ(machine_->Read<uint32_t>(0x80000), 8u) << "BSR";
  EXPECT_EQ(machine_->Read<uint32_t>(0x80004), 8u) << "BSF";
}

HVSDK_GUEST(TouchHighPage, 64, R"(
    mov rax, 0x4000000000
    mov rbx, [rax]
    out 0xF4, al
)")
HVSDK_GUEST(SetHighCr3, 64, R"(
    mov rax, 0x2000004000
    mov cr3, rax
    out 0xF4, al
)")
TEST_F(HiddenFeatures, AreReservedBitsOfPaging) {
  const auto map = [&](uint64_t entry) {
    machine_->Write<uint64_t>(0x5000 + 256 * 8, entry);  // 0x4000000000
    return Run(TouchHighPage());
  };
  Make([](CpuidEntry&) {});
  EXPECT_EQ(map(0x83), -1) << "1 GiB";
  Make([](CpuidEntry& entry) {
    if (entry.leaf == 0x80000001) entry.edx &= ~(1u << 26);
  });
  EXPECT_EQ(map(0x83), 14);
  EXPECT_EQ(machine_->ReadFrame(14).error_code, 9u) << "reserved";
  EXPECT_EQ(map(0x6007), -1);

  Make([](CpuidEntry&) {});
  EXPECT_EQ(map(0x2000000083), -1) << "bit 37 of an address of 40";
  Make([](CpuidEntry& entry) {
    if (entry.leaf == 0x80000008) entry.eax = (entry.eax & ~0xFFu) | 36;
  });
  EXPECT_EQ(map(0x2000000083), 14);
  EXPECT_EQ(machine_->ReadFrame(14).error_code, 9u);
  EXPECT_EQ(Run(SetHighCr3()), 13);
  const RegisterName name = RegisterName::kCr3;
  const hvdef::RegisterValue value{0x2000004000, 0};
  EXPECT_FALSE(machine_->vp().SetRegisters({&name, 1}, {&value, 1}).ok());
}

HVSDK_GUEST(ReadMsrEcx, 64, R"(
    rdmsr
    out 0xF4, al
)")
HVSDK_GUEST(WriteMsrEcx, 64, R"(
    xor eax, eax
    xor edx, edx
    wrmsr
    out 0xF4, al
)")
TEST_F(HiddenFeatures, AreMissingMsrs) {
  const auto access = [&](absl::Span<const uint8_t> code, uint32_t msr) {
    Recorder recorder;
    machine_->Start(Mode::kLong, code);
    machine_->Set(RegisterName::kRcx, msr);
    machine_->Run(recorder);
    return recorder.fault;
  };
  for (const bool hidden : {false, true}) {
    Make([&](CpuidEntry& entry) {
      if (!hidden) return;
      if (entry.leaf == 7) entry.ebx &= ~(1u << 1);
      if (entry.leaf == 1) entry.ecx &= ~(1u << 24);
    });
    for (const uint32_t msr : {0x3Bu, 0x6E0u}) {
      EXPECT_EQ(access(ReadMsrEcx(), msr), hidden ? 13 : -1) << msr;
      EXPECT_EQ(access(WriteMsrEcx(), msr), hidden ? 13 : -1) << msr;
    }
  }
}

HVSDK_GUEST(WriteThenReadMsr, 64, R"(
    wrmsr
    rdmsr
    shl rdx, 32
    or rax, rdx
    mov [0x80000], rax
    out 0xF4, al
)")
// Intel SDM volume 4, table 2-2, and what Intel documents of speculation control: reserved bits fault, as does reading
// IA32_PRED_CMD; the bit of STIBP does not where only IBRS is there.
TEST_F(HiddenFeatures, SpeculationControlHasTheBitsThatCpuidShows) {
  enum Shown { kAll, kNoBhi, kNone };
  constexpr uint32_t kSpecCtrl = 0x48, kPredCmd = 0x49;
  const auto make = [&](Shown shown) {
    Make([&](CpuidEntry& entry) {
      if (entry.leaf != 7) return;
      if (shown != kAll && entry.subleaf == 2) entry.edx &= ~(1u << 4);
      if (shown == kNone && entry.subleaf == 0) entry.edx &= ~(1u << 26);
    });
  };
  const auto access = [&](absl::Span<const uint8_t> code, uint32_t msr, uint64_t value) {
    Recorder recorder;
    machine_->Start(Mode::kLong, code);
    machine_->Set(RegisterName::kRcx, msr);
    machine_->Set(RegisterName::kRax, value & 0xFFFFFFFF);
    machine_->Set(RegisterName::kRdx, value >> 32);
    machine_->Run(recorder);
    return recorder.fault;
  };
  const struct {
    Shown shown;
    uint64_t value;
    int fault;
    uint64_t read;
  } cases[] = {
      {kAll, 0, -1, 0},   {kAll, 1, -1, 1},       {kAll, 3, -1, 1},          {kAll, 0x401, -1, 0x401},
      {kAll, 4, 13, 0},   {kAll, 1 << 6, 13, 0},  {kAll, 1ull << 32, 13, 0}, {kAll, 1 << 11, 13, 0},
      {kNoBhi, 3, -1, 1}, {kNoBhi, 0x400, 13, 0}, {kNone, 0, 13, 0},         {kNone, 1, 13, 0},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(testing::Message() << c.shown << ' ' << c.value);
    make(c.shown);
    EXPECT_EQ(access(WriteThenReadMsr(), kSpecCtrl, c.value), c.fault);
    if (c.fault < 0) {
      EXPECT_EQ(machine_->Read<uint64_t>(0x80000), c.read);
    }
  }
  for (const Shown shown : {kAll, kNone}) {
    make(shown);
    EXPECT_EQ(access(ReadMsrEcx(), kSpecCtrl, 0), shown == kNone ? 13 : -1);
    EXPECT_EQ(access(ReadMsrEcx(), kPredCmd, 0), 13);
    machine_->Write<uint64_t>(0x80000, 0);
    EXPECT_EQ(access(WriteMsrEcx(), kPredCmd, 0), shown == kNone ? 13 : -1);
    EXPECT_EQ(access(WriteThenReadMsr(), kPredCmd, 2), 13);
    ASSERT_EQ(access(ReadMsrEcx(), 0x10A, 0), -1);
    EXPECT_EQ(machine_->Get(RegisterName::kRax) >> 1 & 1, shown == kNone ? 0u : 1u) << "IBRS_ALL";
  }
}

}  // namespace
}  // namespace hvsdk::backend
