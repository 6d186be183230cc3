// SPDX-License-Identifier: Apache-2.0
// The deterministic mode: two VPs that race for the same words, read the time and random numbers, sleep and wake each
// other; every run ends in the same state to the last bit.
#include <bit>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "hvsdk/backend_software/software_backend.h"
#include "hvsdk/memory/guest_memory.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"

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
  backend::SoftwareTime time;
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
  const auto machine = time.CreateMachine(processors, slice);
  ASSERT_EQ(machine->Run(100'000'000), DeterministicMachine::Result::kIdle);
  outcome.instructions = machine->instructions();
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
  backend::SoftwareTime time;
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
  const auto machine = time.CreateMachine(processors, 1000);
  EXPECT_EQ(machine->Run(1'000'000), DeterministicMachine::Result::kIdle);
  EXPECT_EQ(machine->instructions(VpIndex{1}), 0u);

  ASSERT_TRUE(vps[1]->SetActivity(backend::Activity::kRunning).ok());
  EXPECT_EQ(machine->Run(1'000'000), DeterministicMachine::Result::kIdle);
  const RegisterName rip = RegisterName::kRip;
  RegisterValue value;
  ASSERT_TRUE(vps[1]->GetRegisters({&rip, 1}, {&value, 1}).ok());
  EXPECT_EQ(value.low, kHandler + 1);
}

// A machine with an interrupt every so often, by the local APIC's periodic timer with a divisor that makes a tick no whole
// number of its clock's units. Real mode; the APIC is reached with a segment whose limit is 4 GiB.
constexpr uint64_t kTimerHandler = 0x2000;
constexpr uint8_t kTimerProgram[] = {
    0x66, 0xBB, 0x00, 0x00, 0xE0, 0xFE,                                // mov ebx, 0xFEE00000
    0x67, 0x66, 0xC7, 0x83, 0xF0, 0x00, 0x00, 0x00, 0xFF, 0x01, 0, 0,  // mov dword [ebx+F0], 1FF
    0x67, 0x66, 0xC7, 0x83, 0xE0, 0x03, 0x00, 0x00, 0x0A, 0x00, 0, 0,  // mov dword [ebx+3E0], 0xA: by 128
    0x67, 0x66, 0xC7, 0x83, 0x20, 0x03, 0x00, 0x00, 0x40, 0x00, 2, 0,  // mov dword [ebx+320], 20040
    0x67, 0x66, 0xC7, 0x83, 0x80, 0x03, 0x00, 0x00, 0xDF, 0x00, 0, 0,  // mov dword [ebx+380], 223
    0xDB, 0xE3,                                                        // fninit
    0xFB,                                                              // sti
    // 1: what kProgram does, and the timer's count
    0xF0, 0x66, 0xFF, 0x06, 0x00, 0x30,                          // lock inc dword [0x3000]
    0x0F, 0x31,                                                  // rdtsc
    0x66, 0x01, 0x06, 0x04, 0x30,                                // add [0x3004], eax
    0x66, 0x0F, 0xC7, 0xF3,                                      // rdrand ebx
    0x66, 0x31, 0x1E, 0x08, 0x30,                                // xor [0x3008], ebx
    0x66, 0xBB, 0x00, 0x00, 0xE0, 0xFE,                          // mov ebx, 0xFEE00000
    0x67, 0x66, 0x8B, 0x83, 0x90, 0x03, 0x00, 0x00,              // mov eax, [ebx+390]
    0x66, 0x31, 0x06, 0x0C, 0x30,                                // xor [0x300C], eax
    0x66, 0xC1, 0x06, 0x0C, 0x30, 0x03,                          // rol dword [0x300C], 3
    0xD9, 0x06, 0x04, 0x30, 0xD9, 0xFA, 0xD9, 0x1E, 0x10, 0x30,  // fld [3004]; fsqrt; fstp [3010]
    0xEB, 0xC5,                                                  // jmp 1b
};
constexpr uint8_t kTimerHandlerCode[] = {
    0x66, 0x50, 0x66, 0x53, 0x0F, 0x31,                    // push eax, ebx; rdtsc
    0x66, 0x31, 0x06, 0x14, 0x30,                          // xor [0x3014], eax
    0x66, 0xC1, 0x06, 0x14, 0x30, 0x05,                    // rol dword [0x3014], 5
    0x66, 0xFF, 0x06, 0x18, 0x30,                          // inc dword [0x3018]
    0x66, 0xBB, 0x00, 0x00, 0xE0, 0xFE,                    // mov ebx, 0xFEE00000
    0x67, 0x66, 0xC7, 0x83, 0xB0, 0,    0, 0, 0, 0, 0, 0,  // mov dword [ebx+B0], 0
    0x66, 0x5B, 0x66, 0x58, 0xCF,                          // pop ebx, eax; iret
};

struct TimedMachine {
  TimedMachine() { Make(); }
  void Make() {
    auto made = backend::CreateSoftwareBackend({.instruction_time = &time});
    ASSERT_TRUE(made.ok()) << made.status();
    engine = *std::move(made);
    auto created = engine->CreatePartition(memory);
    ASSERT_TRUE(created.ok());
    partition = *std::move(created);
    ASSERT_TRUE(partition->AddMemory(0, host).ok());
    std::vector<DeterministicMachine::Processor> processors;
    for (uint32_t i = 0; i < 2; ++i) {
      ASSERT_NO_FATAL_FAILURE(AddVp(*partition, vps));
      ASSERT_TRUE(vps[i]->SetActivity(backend::Activity::kRunning).ok());
      const RegisterName names[] = {RegisterName::kDs, RegisterName::kRsp};
      const RegisterValue values[] = {std::bit_cast<RegisterValue>(hvdef::SegmentRegister{0, 0xFFFFFFFF, 0, 0x93}),
                                      {0x8000 + i * 0x1000, 0}};
      ASSERT_TRUE(vps[i]->SetRegisters(names, values).ok());
      processors.push_back({vps[i].get(), &handler});
    }
    machine = time.CreateMachine(processors, 1000);
  }
  void Load() { Load(kTimerProgram); }
  void Load(absl::Span<const uint8_t> program) {
    std::memcpy(host + kCode, program.data(), program.size());
    std::memcpy(host + kTimerHandler, kTimerHandlerCode, sizeof(kTimerHandlerCode));
    host[0x40 * 4] = kTimerHandler & 0xFF;
    host[0x40 * 4 + 1] = kTimerHandler >> 8;
  }
  void GoOnFrom(TimedMachine& from) {
    backend::DeterministicState state;
    from.machine->SaveState(state);
    ASSERT_TRUE(machine->RestoreState(state).ok());
    backend::PartitionState shared;
    ASSERT_TRUE(from.partition->SaveState(shared).ok());
    ASSERT_TRUE(partition->RestoreState(shared).ok());
    std::memcpy(host, from.host, sizeof(host));
    for (size_t i = 0; i < vps.size(); ++i) {
      backend::VpState vp;
      ASSERT_TRUE(from.vps[i]->SaveState(vp).ok());
      const absl::Status status = vps[i]->RestoreState(vp);
      ASSERT_TRUE(status.ok()) << status;
    }
  }
  uint64_t HashOf() {
    uint64_t hash = Hash(0xCBF29CE484222325, host, sizeof(host));
    backend::DeterministicState state;
    machine->SaveState(state);
    hash = Hash(hash, &state.now_ns, 8);
    hash = Hash(hash, state.instructions.data(), 16);
    for (const auto& vp : vps) {
      backend::VpState registers;
      EXPECT_TRUE(vp->SaveState(registers).ok());
      hash = Hash(hash, registers.gpr.data(), sizeof(registers.gpr));
      hash = Hash(hash, &registers.rip, 8);
      hash = Hash(hash, &registers.rflags, 8);
      hash = Hash(hash, registers.fxsave.data(), sizeof(registers.fxsave));
      hash = Hash(hash, registers.apic.data(), sizeof(registers.apic));
    }
    return hash;
  }

  alignas(4096) uint8_t host[kMemorySize] = {};
  GuestMemory memory;
  backend::SoftwareTime time;
  Handler handler;
  std::unique_ptr<backend::Backend> engine;
  std::unique_ptr<backend::Partition> partition;
  std::vector<std::unique_ptr<backend::Vp>> vps;
  std::unique_ptr<DeterministicMachine> machine;
};

// Wherever it is saved, and however often.
TEST(DeterminismTest, AMachineThatWasSavedEndsAsOneThatWasNot) {
  constexpr uint64_t kRounds = 40;
  for (const uint64_t budget : {1ull, 997ull, 12'345ull}) {
    SCOPED_TRACE(budget);
    auto whole = std::make_unique<TimedMachine>();
    auto moved = std::make_unique<TimedMachine>();
    whole->Load();
    moved->Load();
    // Beyond the first interrupts.
    ASSERT_EQ(whole->machine->Run(1'000'000), DeterministicMachine::Result::kBudget);
    ASSERT_EQ(moved->machine->Run(1'000'000), DeterministicMachine::Result::kBudget);
    for (uint64_t round = 0; round < kRounds; ++round) {
      ASSERT_EQ(whole->machine->Run(budget * (round + 1)), DeterministicMachine::Result::kBudget);
      ASSERT_EQ(moved->machine->Run(budget * (round + 1)), DeterministicMachine::Result::kBudget);
      auto fresh = std::make_unique<TimedMachine>();
      ASSERT_NO_FATAL_FAILURE(fresh->GoOnFrom(*moved));
      moved = std::move(fresh);
      ASSERT_EQ(whole->HashOf(), moved->HashOf()) << "after round " << round;
    }
    ASSERT_EQ(whole->machine->Run(1'000'000), DeterministicMachine::Result::kBudget);
    ASSERT_EQ(moved->machine->Run(1'000'000), DeterministicMachine::Result::kBudget);
    EXPECT_EQ(whole->HashOf(), moved->HashOf());
    uint32_t interrupts;
    std::memcpy(&interrupts, whole->host + 0x3018, sizeof(interrupts));
    EXPECT_GT(interrupts, 5u);
  }
}

// A restored machine has neither what was decoded nor what was looked up: where its blocks end, and in which pieces its repeated
// instructions are done, must not be seen.
TEST(DeterminismTest, WhatAMachineRemembersOfItsGuestIsNotSeen) {
  constexpr uint8_t kProgram[] = {
      0xFC,              // 1000: cld
      0xE8, 0xFC, 0x3F,  // 1001: call 5000, once
      0xBF, 0x00, 0x58,  // 1004: mov di, 5800
      0xB9, 0xB8, 0x0B,  // 1007: mov cx, 3000
      0xF3, 0xAB,        // 100A: rep stosw, into the page of 5000 and the next
      0xBE, 0x00, 0x60,  // 100C: mov si, 6000
      0xBF, 0x00, 0x59,  // 100F: mov di, 5900
      0xB9, 0x20, 0x00,  // 1012: mov cx, 32
      0xF3, 0xA4,        // 1015: rep movsb
      0x40, 0x43, 0x40,  // 1017: inc ax; inc bx; inc ax
      0xEB, 0xE8,        // 101A: jmp 1004
  };
  constexpr uint8_t kReturn = 0xC3;
  const uint32_t seed = TestSeed();
  std::mt19937 random(seed);
  for (uint32_t i = 0; i < ScaledCount(50); ++i) {
    SCOPED_TRACE(testing::Message() << "seed " << seed << ", machine " << i);
    auto whole = std::make_unique<TimedMachine>();
    auto moved = std::make_unique<TimedMachine>();
    for (TimedMachine* const machine : {whole.get(), moved.get()}) {
      machine->Load(kProgram);
      machine->host[0x5000] = kReturn;
    }
    for (uint32_t saves = 1 + random() % 8; saves > 0; --saves) {
      const uint64_t budget = random() % 3000;
      ASSERT_EQ(whole->machine->Run(budget), DeterministicMachine::Result::kBudget);
      ASSERT_EQ(moved->machine->Run(budget), DeterministicMachine::Result::kBudget);
      ASSERT_EQ(whole->HashOf(), moved->HashOf());
      auto fresh = std::make_unique<TimedMachine>();
      ASSERT_NO_FATAL_FAILURE(fresh->GoOnFrom(*moved));
      moved = std::move(fresh);
    }
    ASSERT_EQ(whole->machine->Run(10'000), DeterministicMachine::Result::kBudget);
    ASSERT_EQ(moved->machine->Run(10'000), DeterministicMachine::Result::kBudget);
    ASSERT_EQ(whole->HashOf(), moved->HashOf());
  }
}

// At random moments of random runs.
TEST(DeterminismTest, AMachineThatIsSavedAtRandomEndsAsOneThatWasNot) {
  const uint32_t seed = TestSeed();
  std::mt19937 random(seed);
  for (uint32_t i = 0; i < ScaledCount(20); ++i) {
    SCOPED_TRACE(testing::Message() << "seed " << seed << ", machine " << i);
    auto whole = std::make_unique<TimedMachine>();
    auto moved = std::make_unique<TimedMachine>();
    whole->Load();
    moved->Load();
    for (uint32_t saves = 1 + random() % 5; saves > 0; --saves) {
      const uint64_t budget = random() % 300'000;
      ASSERT_EQ(whole->machine->Run(budget), DeterministicMachine::Result::kBudget);
      ASSERT_EQ(moved->machine->Run(budget), DeterministicMachine::Result::kBudget);
      auto fresh = std::make_unique<TimedMachine>();
      ASSERT_NO_FATAL_FAILURE(fresh->GoOnFrom(*moved));
      moved = std::move(fresh);
    }
    ASSERT_EQ(whole->machine->Run(100'000), DeterministicMachine::Result::kBudget);
    ASSERT_EQ(moved->machine->Run(100'000), DeterministicMachine::Result::kBudget);
    ASSERT_EQ(whole->HashOf(), moved->HashOf());
  }
}

TEST(DeterminismTest, AStateOfAnotherMachineIsRefused) {
  auto machine = std::make_unique<TimedMachine>();
  backend::DeterministicState state;
  machine->machine->SaveState(state);
  state.instructions.push_back(0);
  EXPECT_TRUE(absl::IsInvalidArgument(machine->machine->RestoreState(state)));
  state.instructions.pop_back();
  state.now_ns = ~uint64_t{0};
  EXPECT_TRUE(absl::IsInvalidArgument(machine->machine->RestoreState(state)));
  EXPECT_EQ(machine->time.now_ns(), 0u);
}

}  // namespace
}  // namespace hvsdk
