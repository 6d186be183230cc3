// SPDX-License-Identifier: Apache-2.0
#include "tests/backend_software/oracle/engine_executor.h"

#include <sys/mman.h>

#include "gtest/gtest.h"
#include "hvsdk/memory/guest_memory.h"

namespace hvsdk::oracle {
namespace {

using hvdef::RegisterName;
using hvdef::RegisterValue;

// Guest physical pages.
constexpr uint64_t kPml4 = 0x1000, kUserPdpt = 0x2000, kUserPd = 0x3000, kCodePt = 0x4000, kDataPt = 0x5000,
                   kKernelPdpt = 0x6000, kKernelPd = 0x7000, kKernelPt = 0x8000, kIdt = 0x9000, kGdt = 0xA000,
                   kStubs = 0xB000, kStack = 0xC000, kTss = 0xD000, kCode = 0xE000, kData = 0x10000;
constexpr uint64_t kMemorySize = 0x20000;

// The kernel's pages lie at this linear address plus their physical one.
constexpr uint64_t kKernel = 0xFFFFFFFF80000000;
constexpr uint64_t kStackTop = kStack + 0x800;

constexpr uint64_t kPresent = 1, kWritable = 2, kUser = 4, kNoExecute = uint64_t{1} << 63;
constexpr uint8_t kFaultPort = 0x40;  // plus the vector

// The selectors a 64-bit Linux process has.
constexpr uint16_t kUserCs32 = 0x23, kUserCs = 0x33, kUserSs = 0x2B, kKernelCs = 0x08, kTssSelector = 0x40;

bool HasErrorCode(int vector) { return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17; }

class EngineExecutor : public Executor, private backend::ExitHandler {
 public:
  explicit EngineExecutor(backend::Backend& engine) : engine_(engine) {}
  ~EngineExecutor() override {
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
    return SetSystemRegisters();
  }

  void Run(const std::vector<uint8_t>& code, const UserState& state, const std::array<uint8_t, kDataSize>& data,
           Outcome& outcome) override {
    std::array<uint8_t, kCodeSize> page;
    page.fill(0xCC);
    std::memcpy(page.data(), code.data(), code.size());
    ASSERT_TRUE(memory_.Write(kCode, page.data(), page.size()));
    ASSERT_TRUE(memory_.Write(kData, data.data(), data.size()));
    Enter(state);
    vector_ = -1;
    const auto stop = vp_->Run(*this);
    ASSERT_TRUE(stop.ok()) << stop.status();
    ASSERT_EQ(*stop, backend::StopReason::kKicked) << "the guest's kernel faulted";
    ASSERT_GE(vector_, 0);
    Leave(outcome);
    ASSERT_TRUE(memory_.Read(kData, outcome.data.data(), outcome.data.size()));
  }

 private:
  void Put(uint64_t gpa, uint64_t value) { ASSERT_TRUE(memory_.WriteObject(gpa, value)); }

  void BuildTables() {
    constexpr uint64_t kTable = kPresent | kWritable | kUser;
    Put(kPml4, kUserPdpt | kTable);
    Put(kUserPdpt, kUserPd | kTable);
    Put(kUserPd + 8 * (kCodeAddress >> 21), kCodePt | kTable);
    Put(kUserPd + 8 * (kDataAddress >> 21), kDataPt | kTable);
    Put(kCodePt, kCode | kPresent | kUser);
    for (uint64_t page = 0; page < kDataSize / 4096; ++page) {
      Put(kDataPt + 8 * page, (kData + page * 4096) | kPresent | kWritable | kUser | kNoExecute);
    }
    Put(kPml4 + 8 * 511, kKernelPdpt | kTable);
    Put(kKernelPdpt + 8 * 510, kKernelPd | kTable);
    Put(kKernelPd, kKernelPt | kTable);
    for (uint64_t page = 0; page < kMemorySize / 4096; ++page)
      Put(kKernelPt + 8 * page, page * 4096 | kPresent | kWritable);

    for (uint64_t vector = 0; vector < 32; ++vector) {
      const uint8_t stub[] = {0xE6, static_cast<uint8_t>(kFaultPort + vector), 0xF4};  // out imm8, al; hlt
      ASSERT_TRUE(memory_.Write(kStubs + 16 * vector, stub, sizeof(stub)));
      const uint64_t target = kKernel + kStubs + 16 * vector;
      const uint64_t dpl = vector == 3 || vector == 4 ? 3 : 0;
      Put(kIdt + 16 * vector,
          (target & 0xFFFF) | uint64_t{kKernelCs} << 16 | (0x8E00 | dpl << 13) << 32 | (target >> 16 & 0xFFFF) << 48);
      Put(kIdt + 16 * vector + 8, target >> 32);
    }
    Put(kGdt + 0x08, 0x00AF9B000000FFFF);
    Put(kGdt + 0x20, 0x00CFFB000000FFFF);
    Put(kGdt + 0x28, 0x00CFF3000000FFFF);
    Put(kGdt + 0x30, 0x00AFFB000000FFFF);
    const uint64_t tss = kKernel + kTss;
    Put(kGdt + kTssSelector, 0x0000890000000067 | (tss & 0xFFFFFF) << 16 | (tss >> 24 & 0xFF) << 56);
    Put(kGdt + kTssSelector + 8, tss >> 32);
    Put(kTss + 4, kKernel + kStackTop);
    Put(kTss + 0x60, uint64_t{0x68} << 48);  // the I/O permission map begins behind the limit: no port for users
  }

  static RegisterValue Segment(uint64_t base, uint32_t limit, uint16_t selector, uint16_t attributes) {
    const hvdef::SegmentRegister segment{base, limit, selector, attributes};
    RegisterValue value;
    std::memcpy(&value, &segment, 16);
    return value;
  }
  static RegisterValue Table(uint64_t base, uint16_t limit) {
    const hvdef::TableRegister table{{}, limit, base};
    RegisterValue value;
    std::memcpy(&value, &table, 16);
    return value;
  }

  bool SetSystemRegisters() {
    const std::vector<RegisterName> names = {
        RegisterName::kCr0,  RegisterName::kCr3,  RegisterName::kCr4, RegisterName::kEfer, RegisterName::kIdtr,
        RegisterName::kGdtr, RegisterName::kTr,   RegisterName::kDs,  RegisterName::kEs,   RegisterName::kFs,
        RegisterName::kGs,   RegisterName::kLdtr, RegisterName::kXfem};
    const RegisterValue null_segment = Segment(0, 0, 0, 0);
    const RegisterValue data_segment = Segment(0, 0xFFFFFFFF, kUserSs, 0xC0F3);
    const std::vector<RegisterValue> values = {{0x80050033, 0},  // PG, AM, WP, NE, ET, MP, PE
                                               {kPml4, 0},
                                               {0x6A0, 0},  // OSXMMEXCPT, OSFXSR, PGE, PAE
                                               {0xD01, 0},  // NXE, LMA, LME, SCE
                                               Table(kKernel + kIdt, 0xFFF),
                                               Table(kKernel + kGdt, 0x4F),
                                               Segment(kKernel + kTss, 0x67, kTssSelector, 0x8B),
                                               data_segment,
                                               data_segment,
                                               null_segment,
                                               null_segment,
                                               null_segment,
                                               {3, 0}};
    const absl::Status status = vp_->SetRegisters(names, values);
    EXPECT_TRUE(status.ok()) << status;
    return status.ok();
  }

  static std::vector<RegisterName> StateNames() {
    std::vector<RegisterName> names;
    const auto range = [&](RegisterName first, int count) {
      for (int i = 0; i < count; ++i) names.push_back(static_cast<RegisterName>(static_cast<uint32_t>(first) + i));
    };
    range(RegisterName::kRax, 18);
    range(RegisterName::kXmm0, 16);
    range(RegisterName::kFpMmx0, 8);
    names.insert(names.end(), {RegisterName::kFpControlStatus, RegisterName::kXmmControlStatus, RegisterName::kCs,
                               RegisterName::kSs});
    return names;
  }

  void Enter(const UserState& state) {
    size_t at = 0;
    for (uint64_t gpr : state.gpr) values_[at++] = {gpr, 0};
    values_[at++] = {state.rip, 0};
    values_[at++] = {state.rflags, 0};
    for (const auto& xmm : state.xmm) std::memcpy(&values_[at++], xmm.data(), 16);
    for (const auto& st : state.st) {
      values_[at] = {};
      std::memcpy(&values_[at++], st.data(), 10);
    }
    values_[at++] = {static_cast<uint64_t>(state.x87_control) | static_cast<uint64_t>(state.x87_status) << 16 |
                         static_cast<uint64_t>(state.x87_valid) << 32,
                     0};
    values_[at++] = {0, static_cast<uint64_t>(state.mxcsr) | uint64_t{0xFFFF} << 32};
    values_[at++] =
        state.is_64bit ? Segment(0, 0xFFFFFFFF, kUserCs, 0xA0FB) : Segment(0, 0xFFFFFFFF, kUserCs32, 0xC0FB);
    values_[at++] = Segment(0, 0xFFFFFFFF, kUserSs, 0xC0F3);
    const absl::Status status = vp_->SetRegisters(names_, absl::MakeConstSpan(values_).first(at));
    ASSERT_TRUE(status.ok()) << status;
  }

  void Leave(Outcome& outcome) {
    const absl::Status status = vp_->GetRegisters(names_, absl::MakeSpan(values_).first(names_.size()));
    ASSERT_TRUE(status.ok()) << status;
    UserState& state = outcome.state;
    size_t at = 0;
    for (uint64_t& gpr : state.gpr) gpr = values_[at++].low;
    at += 2;
    for (auto& xmm : state.xmm) std::memcpy(xmm.data(), &values_[at++], 16);
    for (auto& st : state.st) std::memcpy(st.data(), &values_[at++], 10);
    state.x87_control = static_cast<uint16_t>(values_[at].low);
    state.x87_status = static_cast<uint16_t>(values_[at].low >> 16);
    state.x87_valid = static_cast<uint8_t>(values_[at++].low >> 32);
    state.mxcsr = static_cast<uint32_t>(values_[at++].high);
    // What the fault pushed: error code, RIP, CS, RFLAGS, RSP, SS.
    const bool has_error = HasErrorCode(vector_);
    uint64_t frame[6] = {};
    const uint64_t size = has_error ? 48 : 40;
    ASSERT_TRUE(memory_.Read(kStackTop - size, frame + (has_error ? 0 : 1), size));
    ASSERT_TRUE((frame[2] & 0xFFFF) == kUserCs || (frame[2] & 0xFFFF) == kUserCs32) << frame[2];
    state.rip = frame[1];
    state.rflags = frame[3];
    state.gpr[kRsp] = frame[4];
    outcome.fault = {static_cast<uint8_t>(vector_), static_cast<uint32_t>(frame[0]), 0};
    if (vector_ == 14) {
      const RegisterName name = RegisterName::kCr2;
      RegisterValue value;
      ASSERT_TRUE(vp_->GetRegisters({&name, 1}, {&value, 1}).ok());
      outcome.fault.address = value.low;
    }
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
  const std::vector<RegisterName> names_ = StateNames();
  std::array<RegisterValue, 64> values_{};
  int vector_ = -1;
};

}  // namespace

std::unique_ptr<Executor> CreateEngineExecutor(backend::Backend& engine) {
  auto executor = std::make_unique<EngineExecutor>(engine);
  if (!executor->Initialise()) return nullptr;
  return executor;
}

}  // namespace hvsdk::oracle
