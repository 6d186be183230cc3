// SPDX-License-Identifier: Apache-2.0
#include "tests/backend_software/code_oracle/engine_world.h"

#include <sys/mman.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "gtest/gtest.h"
#include "hvsdk/memory/guest_memory.h"

namespace hvsdk::code_oracle {
namespace {

using hvdef::RegisterName;
using hvdef::RegisterValue;

// Guest physical pages. Each address space has four tables of its own, from the root to the window's.
constexpr uint64_t kTables = 0x1000, kTablesPerSpace = 0x4000, kStackTable = 0xD000, kKernelPdpt = 0xE000,
                   kKernelPd = 0xF000, kKernelPt = 0x10000, kIdt = 0x11000, kGdt = 0x12000, kLdt = 0x13000,
                   kStubs = 0x14000, kKernelStack = 0x15000, kTss = 0x16000, kCode = 0x18000, kStack = 0x1C000;
constexpr uint64_t kMemorySize = 0x20000;
static_assert(kTables + kSpaces * kTablesPerSpace <= kStackTable && kCode + kFrames * kPage <= kStack);

// The kernel's pages lie at this linear address plus their physical one.
constexpr uint64_t kKernel = 0xFFFFFFFF80000000;
constexpr uint64_t kStackTop = kKernelStack + 0x800;
constexpr uint64_t kEnterSpace = kStubs + 0x400, kStay = kEnterSpace + 3, kForgetPage = kStubs + 0x480;

constexpr uint64_t kHandler = kStubs + 0x500, kEnableApic = kStubs + 0x580;
constexpr uint64_t kCount = kTss + 0x800;  // of interrupts
constexpr uint64_t kApic = 0x1FF000;       // where the kernel sees its local APIC
constexpr uint8_t kInterrupt = 0x50;

constexpr uint64_t kPresent = 1, kWritable = 2, kUser = 4;
constexpr uint8_t kFaultPort = 0x40;  // plus the vector
constexpr uint16_t kUserCs = 0x33, kUserSs = 0x2B, kKernelCs = 0x08, kKernelSs = 0x10, kTssSelector = 0x40;

bool HasErrorCode(int vector) { return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17; }

RegisterValue SegmentValue(uint64_t base, uint32_t limit, uint16_t selector, uint16_t attributes) {
  const hvdef::SegmentRegister segment{base, limit, selector, attributes};
  RegisterValue value;
  std::memcpy(&value, &segment, sizeof(value));
  return value;
}
RegisterValue TableValue(uint64_t base, uint16_t limit) {
  const hvdef::TableRegister table{{}, limit, base};
  RegisterValue value;
  std::memcpy(&value, &table, sizeof(value));
  return value;
}

class GuestWorld final : public EngineWorld, private backend::ExitHandler {
 public:
  explicit GuestWorld(backend::Backend& engine) : engine_(engine) {}
  ~GuestWorld() override {
    stop_.store(true, std::memory_order_relaxed);
    if (sender_.joinable()) sender_.join();
    vp_.reset();
    partition_.reset();
    if (host_ != MAP_FAILED) munmap(host_, kMemorySize);
  }

  bool Initialise() {
    host_ = mmap(nullptr, kMemorySize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (host_ == MAP_FAILED) return false;
    const auto bytes = absl::MakeSpan(static_cast<uint8_t*>(host_), kMemorySize);
    if (!memory_.AddRange(0, bytes).ok()) return false;
    BuildTables();
    auto partition = engine_.CreatePartition(memory_);
    EXPECT_TRUE(partition.ok()) << partition.status();
    if (!partition.ok()) return false;
    partition_ = *std::move(partition);
    EXPECT_TRUE(partition_->MapMemory(0, bytes, backend::MapAccess::kReadWriteExecute).ok());
    const auto cpuid = partition_->SupportedCpuid();
    EXPECT_TRUE(cpuid.ok());
    auto vp = partition_->CreateVp(VpIndex{0}, 0, *cpuid);
    EXPECT_TRUE(vp.ok()) << vp.status();
    if (!vp.ok()) return false;
    vp_ = *std::move(vp);
    const RegisterValue data = SegmentValue(0, 0xFFFFFFFF, kUserSs, 0xC0F3), null = SegmentValue(0, 0, 0, 0);
    return Set({{RegisterName::kCr0, {0x80010033, 0}},  // PG, WP, NE, ET, MP, PE
                {RegisterName::kCr3, {kTables, 0}},
                {RegisterName::kCr4, {0x6A0, 0}},   // OSXMMEXCPT, OSFXSR, PGE, PAE
                {RegisterName::kEfer, {0xD01, 0}},  // NXE, LMA, LME, SCE
                {RegisterName::kIdtr, TableValue(kKernel + kIdt, 0xFFF)},
                {RegisterName::kGdtr, TableValue(kKernel + kGdt, 0x4F)},
                {RegisterName::kLdtr, SegmentValue(kKernel + kLdt, 8 * kSegments - 1, 0x48, 0x82)},
                {RegisterName::kTr, SegmentValue(kKernel + kTss, 0x67, kTssSelector, 0x8B)},
                {RegisterName::kDs, data},
                {RegisterName::kEs, data},
                {RegisterName::kFs, null},
                {RegisterName::kGs, null}});
  }

  void SendInterrupts() override {
    ASSERT_TRUE(Set({{RegisterName::kRip, {kKernel + kEnableApic, 0}},
                     {RegisterName::kRsp, {kKernel + kStackTop, 0}},
                     {RegisterName::kRflags, {2, 0}},
                     {RegisterName::kCs, SegmentValue(0, 0xFFFFFFFF, kKernelCs, 0xA09B)},
                     {RegisterName::kSs, SegmentValue(0, 0xFFFFFFFF, kKernelSs, 0xC093)}}));
    ASSERT_TRUE(vp_->Run(*this).ok());
    sender_ = std::thread([this] {
      for (uint32_t turns = 1; !stop_.load(std::memory_order_relaxed); turns = turns * 1103515245 + 12345) {
        partition_->RequestInterrupt(VpIndex{0}, kInterrupt, false);
        for (uint32_t i = turns >> 22; i != 0; --i) std::atomic_thread_fence(std::memory_order_seq_cst);
        if (turns >> 28 == 0) std::this_thread::yield();
      }
    });
  }
  uint64_t interrupts() const override {
    uint64_t count = 0;
    EXPECT_TRUE(memory_.Read(kCount, &count, sizeof(count)));
    return count;
  }

  void Begin(const Program& program) override {
    for (int i = 0; i < kFrames; ++i) Write(kCode + i * kPage, program.frames[i].data(), kPage);
    Write(kStack, program.stack.data(), kStackSize);
    for (int i = 0; i < kSegments; ++i) {
      const uint64_t base = program.segments[i].base, limit = program.segments[i].limit;
      // A 32-bit code segment of privilege level 3, accessed and readable, its limit in bytes.
      Put(kLdt + 8 * i, (limit & 0xFFFF) | (base & 0xFFFFFF) << 16 | uint64_t{0x40FB} << 40 | (limit >> 16 & 15) << 48 |
                            (base >> 24) << 56);
    }
  }

  void Run(const Step& step, Outcome& outcome) override {
    for (const Patch& patch : step.patches) {
      Write(kCode + patch.frame * kPage + patch.offset, patch.bytes.data(), patch.bytes.size());
    }
    const uint64_t tables = kTables + step.space * kTablesPerSpace;
    for (int page = 0; page < kWindowPages; ++page) {
      const int frame = step.mapping[page];
      Put(tables + 0x3000 + 8 * page, frame < 0 ? 0 : (kCode + frame * kPage) | kPresent | kWritable | kUser);
    }
    // What the stub pops: the register it used, then the frame that IRETQ returns to.
    const bool forgets = step.entry == Entry::kPageForgotten;
    const uint64_t cs = step.segment < 0 ? kUserCs : static_cast<uint64_t>(step.segment) << 3 | 7;
    const uint64_t frame[] = {
        step.registers[forgets ? kEdx : kEax], step.ip, cs, step.rflags, step.registers[kEsp], kUserSs};
    Write(kStackTop - sizeof(frame), frame, sizeof(frame));
    std::vector<std::pair<RegisterName, RegisterValue>> registers;
    for (int i = 0; i < kRegisters; ++i) {
      registers.push_back(
          {static_cast<RegisterName>(static_cast<uint32_t>(RegisterName::kRax) + i), {step.registers[i], 0}});
    }
    registers[kEsp].second.low = kKernel + kStackTop - sizeof(frame);
    if (forgets) {
      registers[kEdx].second.low = kWindowAddress + step.changed_page * kPage;
    } else {
      registers[kEax].second.low = tables;
    }
    const uint64_t stub = forgets ? kForgetPage : step.entry == Entry::kAnew ? kEnterSpace : kStay;
    registers.push_back({RegisterName::kRip, {kKernel + stub, 0}});
    registers.push_back({RegisterName::kRflags, {2, 0}});
    registers.push_back({RegisterName::kCs, SegmentValue(0, 0xFFFFFFFF, kKernelCs, 0xA09B)});
    registers.push_back({RegisterName::kSs, SegmentValue(0, 0xFFFFFFFF, kKernelSs, 0xC093)});
    ASSERT_TRUE(Set(registers));
    vector_ = -1;
    const auto stop = vp_->Run(*this);
    ASSERT_TRUE(stop.ok()) << stop.status();
    ASSERT_EQ(*stop, backend::StopReason::kKicked) << "the guest's kernel faulted";
    ASSERT_GE(vector_, 0);
    Leave(outcome);
  }

 private:
  void Write(uint64_t gpa, const void* from, uint64_t size) { ASSERT_TRUE(memory_.Write(gpa, from, size)); }
  void Put(uint64_t gpa, uint64_t value) { ASSERT_TRUE(memory_.WriteObject(gpa, value)); }

  void BuildTables() {
    constexpr uint64_t kTable = kPresent | kWritable | kUser;
    for (int space = 0; space < kSpaces; ++space) {
      const uint64_t tables = kTables + space * kTablesPerSpace;
      Put(tables, (tables + 0x1000) | kTable);
      Put(tables + 8 * 511, kKernelPdpt | kTable);
      Put(tables + 0x1000, (tables + 0x2000) | kTable);
      Put(tables + 0x2000 + 8 * (kWindowAddress >> 21), (tables + 0x3000) | kTable);
      Put(tables + 0x2000 + 8 * (kStackAddress >> 21), kStackTable | kTable);
    }
    for (uint64_t page = 0; page < kStackSize / kPage; ++page)
      Put(kStackTable + 8 * page, (kStack + page * kPage) | kTable);
    Put(kKernelPdpt + 8 * 510, kKernelPd | kTable);
    Put(kKernelPd, kKernelPt | kTable);
    for (uint64_t page = 0; page < kMemorySize / kPage; ++page)
      Put(kKernelPt + 8 * page, page * kPage | kPresent | kWritable);

    for (uint64_t vector = 0; vector < 32; ++vector) {
      const uint8_t stub[] = {0xE6, static_cast<uint8_t>(kFaultPort + vector), 0xF4};  // out imm8, al; hlt
      Write(kStubs + 16 * vector, stub, sizeof(stub));
      const uint64_t target = kKernel + kStubs + 16 * vector;
      Put(kIdt + 16 * vector,
          (target & 0xFFFF) | uint64_t{kKernelCs} << 16 | uint64_t{0x8E00} << 32 | (target >> 16 & 0xFFFF) << 48);
      Put(kIdt + 16 * vector + 8, target >> 32);
    }
    Put(kKernelPt + kApic / kPage * 8, uint64_t{0xFEE00000} | kPresent | kWritable);
    const uint64_t handler = kKernel + kHandler;
    Put(kIdt + 16 * kInterrupt,
        (handler & 0xFFFF) | uint64_t{kKernelCs} << 16 | uint64_t{0x8E00} << 32 | (handler >> 16 & 0xFFFF) << 48);
    Put(kIdt + 16 * kInterrupt + 8, handler >> 32);
    // push rax; inc qword [count]; mov dword [apic + 0xB0], 0; pop rax; iretq: absolute addresses are sign-extended.
    uint8_t handler_code[] = {0x50, 0x48, 0xFF, 0x04, 0x25, 0, 0, 0, 0,    0xC7, 0x04, 0x25,
                              0,    0,    0,    0,    0,    0, 0, 0, 0x58, 0x48, 0xCF};
    // mov dword [apic + 0xF0], 0x1FF; out 0x3F, al
    uint8_t enable_apic[] = {0xC7, 0x04, 0x25, 0, 0, 0, 0, 0xFF, 0x01, 0, 0, 0xE6, 0x3F};
    const auto address = [](uint8_t* at, uint64_t linear) {
      const auto low = static_cast<uint32_t>(linear);
      std::memcpy(at, &low, 4);
    };
    address(handler_code + 5, kKernel + kCount);
    address(handler_code + 12, kKernel + kApic + 0xB0);
    address(enable_apic + 3, kKernel + kApic + 0xF0);
    Write(kHandler, handler_code, sizeof(handler_code));
    Write(kEnableApic, enable_apic, sizeof(enable_apic));
    const uint8_t enter_space[] = {0x0F, 0x22, 0xD8, 0x58, 0x48, 0xCF};  // mov cr3, rax; pop rax; iretq
    const uint8_t forget_page[] = {0x0F, 0x01, 0x3A, 0x5A, 0x48, 0xCF};  // invlpg [rdx]; pop rdx; iretq
    Write(kEnterSpace, enter_space, sizeof(enter_space));
    Write(kForgetPage, forget_page, sizeof(forget_page));
    Put(kGdt + kKernelCs, 0x00AF9B000000FFFF);
    Put(kGdt + kKernelSs, 0x00CF93000000FFFF);
    Put(kGdt + 0x28, 0x00CFF3000000FFFF);
    Put(kGdt + 0x30, 0x00AFFB000000FFFF);
    Put(kTss + 4, kKernel + kStackTop);
  }

  bool Set(const std::vector<std::pair<RegisterName, RegisterValue>>& registers) {
    std::vector<RegisterName> names;
    std::vector<RegisterValue> values;
    for (const auto& [name, value] : registers) {
      names.push_back(name);
      values.push_back(value);
    }
    const absl::Status status = vp_->SetRegisters(names, values);
    EXPECT_TRUE(status.ok()) << status;
    return status.ok();
  }
  uint64_t Get(RegisterName name) {
    RegisterValue value{};
    EXPECT_TRUE(vp_->GetRegisters({&name, 1}, {&value, 1}).ok());
    return value.low;
  }

  void Leave(Outcome& outcome) {
    for (int i = 0; i < kRegisters; ++i) {
      outcome.registers[i] = Get(static_cast<RegisterName>(static_cast<uint32_t>(RegisterName::kRax) + i));
    }
    // What the fault pushed: error code, RIP, CS, RFLAGS, RSP, SS.
    bool has_error = HasErrorCode(vector_);
    uint64_t frame[6] = {};
    uint64_t size = has_error ? 48 : 40;
    if (Get(RegisterName::kRsp) != kKernel + kStackTop - size) {
      // An interrupt came where the code segment ends, and its handler cannot go back there: the same #GP(0), by IRETQ.
      ASSERT_EQ(vector_, 13);
      has_error = false;
      size = 40;
    }
    ASSERT_TRUE(memory_.Read(kStackTop - size, frame + (has_error ? 0 : 1), size));
    outcome.vector = vector_;
    outcome.error_code = static_cast<uint32_t>(frame[0]);
    outcome.ip = frame[1];
    outcome.rflags = frame[3];
    outcome.registers[kEsp] = frame[4];
    outcome.address = vector_ == 14 ? Get(RegisterName::kCr2) : 0;
    for (int i = 0; i < kFrames; ++i) {
      ASSERT_TRUE(memory_.Read(kCode + i * kPage, outcome.frames[i].data(), kPage));
    }
    ASSERT_TRUE(memory_.Read(kStack, outcome.stack.data(), kStackSize));
  }

  void OnPortRead(backend::Vp&, uint16_t, absl::Span<uint8_t> data) override {
    std::fill(data.begin(), data.end(), 0xFF);
  }
  void OnPortWrite(backend::Vp& vp, uint16_t port, absl::Span<const uint8_t>) override {
    if (port >= kFaultPort && port < kFaultPort + 32) vector_ = port - kFaultPort;
    vp.Kick();
  }
  void OnMmioRead(backend::Vp&, uint64_t, absl::Span<uint8_t> data) override {
    std::fill(data.begin(), data.end(), 0xFF);
  }
  void OnMmioWrite(backend::Vp&, uint64_t, absl::Span<const uint8_t>) override {}
  backend::MsrOutcome OnMsrRead(backend::Vp&, uint32_t, uint64_t&) override { return backend::MsrOutcome::kFault; }
  backend::MsrOutcome OnMsrWrite(backend::Vp&, uint32_t, uint64_t) override { return backend::MsrOutcome::kFault; }
  backend::HypercallOutcome OnHypercall(backend::Vp&) override { return backend::HypercallOutcome::kUndefinedOpcode; }

  backend::Backend& engine_;
  void* host_ = MAP_FAILED;
  GuestMemory memory_;
  std::unique_ptr<backend::Partition> partition_;
  std::unique_ptr<backend::Vp> vp_;
  int vector_ = -1;
  std::thread sender_;
  std::atomic<bool> stop_{false};
};

}  // namespace

std::unique_ptr<EngineWorld> CreateEngineWorld(backend::Backend& engine) {
  auto world = std::make_unique<GuestWorld>(engine);
  if (!world->Initialise()) return nullptr;
  return world;
}

}  // namespace hvsdk::code_oracle
