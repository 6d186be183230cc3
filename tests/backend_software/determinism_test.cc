// SPDX-License-Identifier: Apache-2.0
// The deterministic mode: two VPs that race for the same words, read the time and random numbers, sleep and wake each
// other; every run ends in the same state to the last bit.
#include <bit>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "hvsdk/backend_software/software_backend.h"
#include "hvsdk/memory/guest_memory.h"

namespace hvsdk {
namespace {

using backend::DeterministicMachine;
using hvdef::RegisterName;
using hvdef::RegisterValue;

constexpr uint64_t kMemorySize = 0x10000;
constexpr uint64_t kCode = 0x1000;

// Real mode. Both VPs: 20000 times { lock inc [3000]; add [3004], eax of RDTSC; xor [3008 + ...] with RDRAND; and a
// racy increment of [300C] that loses updates depending on who was when interrupted }, then hlt.
constexpr uint8_t kProgram[] = {
    0x66, 0xB9, 0x20, 0x4E, 0x00, 0x00,  // mov ecx, 20000
    0xF0, 0x66, 0xFF, 0x06, 0x00, 0x30,  // 1: lock inc dword [0x3000]
    0x0F, 0x31,                          // rdtsc
    0x66, 0x01, 0x06, 0x04, 0x30,        // add [0x3004], eax
    0x66, 0x0F, 0xC7, 0xF3,              // rdrand ebx
    0x66, 0x31, 0x1E, 0x08, 0x30,        // xor [0x3008], ebx
    0x66, 0x8B, 0x16, 0x0C, 0x30,        // mov edx, [0x300C]
    0x66, 0x42,                          // inc edx
    0x66, 0x89, 0x16, 0x0C, 0x30,        // mov [0x300C], edx
    0x66, 0x49,                          // dec ecx
    0x75, 0xDA,                          // jnz 1b
    0xF4,                                // hlt
};

class Handler final : public backend::ExitHandler {
 public:
  void OnPortRead(backend::Vp&, uint16_t, absl::Span<uint8_t>) override {}
  void OnPortWrite(backend::Vp&, uint16_t, absl::Span<const uint8_t>) override {}
  void OnMmioRead(backend::Vp&, uint64_t, absl::Span<uint8_t>) override {}
  void OnMmioWrite(backend::Vp&, uint64_t, absl::Span<const uint8_t>) override {}
  backend::MsrOutcome OnMsrRead(backend::Vp&, uint32_t, uint64_t&) override { return backend::MsrOutcome::kFault; }
  backend::MsrOutcome OnMsrWrite(backend::Vp&, uint32_t, uint64_t) override { return backend::MsrOutcome::kFault; }
  backend::HypercallOutcome OnHypercall(backend::Vp&) override { return backend::HypercallOutcome::kUndefinedOpcode; }
};

uint64_t Hash(uint64_t hash, const void* data, size_t size) {
  for (size_t i = 0; i < size; ++i) hash = (hash ^ static_cast<const uint8_t*>(data)[i]) * 0x100000001B3;
  return hash;
}

struct Outcome {
  uint64_t hash = 0xCBF29CE484222325;
  uint64_t instructions = 0;
  uint32_t counted = 0;
  uint32_t racy = 0;
};

// The next VP, in real mode, at kCode.
void AddVp(backend::Partition& partition, std::vector<std::unique_ptr<backend::Vp>>& vps) {
  const auto cpuid = partition.SupportedCpuid();
  ASSERT_TRUE(cpuid.ok());
  const auto index = static_cast<uint32_t>(vps.size());
  auto vp = partition.CreateVp(VpIndex{index}, index, *cpuid);
  ASSERT_TRUE(vp.ok()) << vp.status();
  vps.push_back(*std::move(vp));
  const RegisterName names[] = {RegisterName::kCs, RegisterName::kRip};
  const RegisterValue values[] = {std::bit_cast<RegisterValue>(hvdef::SegmentRegister{0, 0xFFFF, 0, 0x9B}), {kCode, 0}};
  ASSERT_TRUE(vps.back()->SetRegisters(names, values).ok());
}

void RunMachine(uint64_t slice, Outcome& outcome) {
  struct Free {
    void operator()(uint8_t* p) const { std::free(p); }
  };
  const std::unique_ptr<uint8_t, Free> host(static_cast<uint8_t*>(std::aligned_alloc(4096, kMemorySize)));
  std::memset(host.get(), 0, kMemorySize);
  std::memcpy(host.get() + kCode, kProgram, sizeof(kProgram));
  GuestMemory memory;
  ASSERT_TRUE(memory.AddRange(0, {host.get(), kMemorySize}).ok());
  backend::InstructionTime time;
  auto engine = backend::CreateSoftwareBackend({.instruction_time = &time});
  ASSERT_TRUE(engine.ok()) << engine.status();
  auto partition = (*engine)->CreatePartition(memory);
  ASSERT_TRUE(partition.ok());
  ASSERT_TRUE((*partition)->MapMemory(0, {host.get(), kMemorySize}, backend::MapAccess::kReadWriteExecute).ok());
  Handler handler;
  std::vector<std::unique_ptr<backend::Vp>> vps;
  std::vector<DeterministicMachine::Processor> processors;
  for (uint32_t i = 0; i < 2; ++i) {
    ASSERT_NO_FATAL_FAILURE(AddVp(**partition, vps));
    ASSERT_TRUE(vps.back()->SetActivity(backend::Activity::kRunning).ok());
    processors.push_back({vps.back().get(), &handler});
  }
  DeterministicMachine machine(time, processors, slice);
  ASSERT_EQ(machine.Run(100'000'000), DeterministicMachine::Result::kIdle);
  outcome.instructions = machine.instructions();
  outcome.hash = Hash(outcome.hash, host.get(), kMemorySize);
  for (const auto& vp : vps) {
    for (uint32_t i = 0; i < 18; ++i) {
      const auto name = static_cast<RegisterName>(static_cast<uint32_t>(RegisterName::kRax) + i);
      RegisterValue value;
      ASSERT_TRUE(vp->GetRegisters({&name, 1}, {&value, 1}).ok());
      outcome.hash = Hash(outcome.hash, &value, sizeof(value));
    }
  }
  std::memcpy(&outcome.counted, host.get() + 0x3000, 4);
  std::memcpy(&outcome.racy, host.get() + 0x300C, 4);
}

TEST(DeterminismTest, TwoRunsEndInTheSameState) {
  Outcome first, second;
  RunMachine(1000, first);
  RunMachine(1000, second);
  EXPECT_EQ(first.counted, 40'000u);
  EXPECT_EQ(first.hash, second.hash);
  EXPECT_EQ(first.instructions, second.instructions);
  // 10 instructions a round, the first and the last.
  EXPECT_EQ(first.instructions, 2u * (20'000 * 10 + 2));
}

TEST(DeterminismTest, AnotherScheduleIsAnotherExecution) {
  // What would make the test above pass for nothing: a state that no schedule can change.
  Outcome first, second;
  RunMachine(1000, first);
  RunMachine(777, second);
  EXPECT_EQ(second.counted, 40'000u);
  EXPECT_NE(first.hash, second.hash);
}

// An event that a processor is given while it waits for its start-up message stays until it runs, and costs nothing.
TEST(DeterminismTest, AnExceptionWaitsForItsProcessor) {
  constexpr uint8_t kHalt = 0xF4;
  constexpr uint64_t kHandler = 0x2000;
  constexpr uint8_t kInvalidOpcode = 6;
  alignas(4096) static uint8_t host[kMemorySize];
  std::memset(host, 0, sizeof(host));
  host[kCode] = host[kHandler] = kHalt;
  host[kInvalidOpcode * 4] = kHandler & 0xFF;
  host[kInvalidOpcode * 4 + 1] = kHandler >> 8;
  GuestMemory memory;
  backend::InstructionTime time;
  auto engine = backend::CreateSoftwareBackend({.instruction_time = &time});
  ASSERT_TRUE(engine.ok()) << engine.status();
  auto partition = (*engine)->CreatePartition(memory);
  ASSERT_TRUE(partition.ok());
  ASSERT_TRUE((*partition)->AddMemory(0, host).ok());
  Handler handler;
  std::vector<std::unique_ptr<backend::Vp>> vps;
  std::vector<DeterministicMachine::Processor> processors;
  for (uint32_t i = 0; i < 2; ++i) {
    ASSERT_NO_FATAL_FAILURE(AddVp(**partition, vps));
    processors.push_back({vps.back().get(), &handler});
  }
  vps[1]->InjectException({kInvalidOpcode, absl::nullopt});
  DeterministicMachine machine(time, processors, 1000);
  EXPECT_EQ(machine.Run(1'000'000), DeterministicMachine::Result::kIdle);
  EXPECT_EQ(machine.instructions(VpIndex{1}), 0u);

  ASSERT_TRUE(vps[1]->SetActivity(backend::Activity::kRunning).ok());
  EXPECT_EQ(machine.Run(1'000'000), DeterministicMachine::Result::kIdle);
  const RegisterName rip = RegisterName::kRip;
  RegisterValue value;
  ASSERT_TRUE(vps[1]->GetRegisters({&rip, 1}, {&value, 1}).ok());
  EXPECT_EQ(value.low, kHandler + 1);
}

}  // namespace
}  // namespace hvsdk
