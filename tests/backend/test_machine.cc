// SPDX-License-Identifier: Apache-2.0
#include "tests/backend/test_machine.h"

#include <sys/mman.h>

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "tests/backend/register_values.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;
using hvdef::RegisterValue;

constexpr uint64_t kStubSize = 8;

uint64_t Low64(absl::Span<const uint8_t> data) {
  uint64_t value = 0;
  std::memcpy(&value, data.data(), std::min<size_t>(data.size(), sizeof(value)));
  return value;
}

void Answer(absl::Span<uint8_t> data, const std::map<uint64_t, uint64_t>& values, uint64_t address) {
  const auto found = values.find(address);
  const uint64_t value = found == values.end() ? ~uint64_t{0} : found->second;
  std::memset(data.data(), 0xFF, data.size());
  std::memcpy(data.data(), &value, std::min<size_t>(data.size(), sizeof(value)));
}

// Ends a wait of the calling thread for the guest: kicks the VP when the time is over.
class Watchdog {
 public:
  Watchdog(Vp& vp, int seconds)
      : thread_([this, &vp, seconds] {
          std::unique_lock lock(mutex_);
          while (!over_.wait_for(lock, std::chrono::seconds(seconds), [this] { return finished_; })) {
            expired_ = true;
            vp.Kick();
          }
        }) {}
  ~Watchdog() {
    {
      std::lock_guard lock(mutex_);
      finished_ = true;
    }
    over_.notify_one();
    thread_.join();
  }
  bool expired() {
    std::lock_guard lock(mutex_);
    return expired_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable over_;
  bool finished_ = false;
  bool expired_ = false;
  std::thread thread_;
};

}  // namespace

std::ostream& operator<<(std::ostream& out, const Event& event) {
  static constexpr const char* kNames[] = {"in", "out", "mmio-read", "mmio-write", "rdmsr", "wrmsr", "hypercall"};
  return out << absl::StrFormat("%s %#x/%u = %#x", kNames[event.kind], event.address, event.size, event.value);
}

void Recorder::Record(Event::Kind kind, uint64_t address, absl::Span<const uint8_t> data) {
  if (record) events.push_back({kind, address, static_cast<uint32_t>(data.size()), Low64(data)});
}

void Recorder::OnPortRead(Vp& vp, uint16_t port, absl::Span<uint8_t> data) {
  if (on_port_read) {
    on_port_read(vp, port, data);
  } else {
    Answer(data, port_values, port);
  }
  Record(Event::kPortRead, port, data);
}

void Recorder::OnPortWrite(Vp& vp, uint16_t port, absl::Span<const uint8_t> data) {
  if (port == kDonePort || port == kFaultPort) {
    done = true;
    done_value = Low64(data);
    if (port == kFaultPort) fault = static_cast<int>(done_value);
    vp.Kick();
    return;
  }
  Record(Event::kPortWrite, port, data);
  if (on_port_write) on_port_write(vp, port, data);
}

void Recorder::OnMmioRead(Vp& vp, uint64_t gpa, absl::Span<uint8_t> data) {
  if (on_mmio_read) on_mmio_read(vp, gpa);
  Answer(data, mmio_values, gpa);
  Record(Event::kMmioRead, gpa, data);
}

void Recorder::OnMmioWrite(Vp& vp, uint64_t gpa, absl::Span<const uint8_t> data) {
  Record(Event::kMmioWrite, gpa, data);
  if (on_mmio_write) on_mmio_write(vp, gpa, data);
}

MsrOutcome Recorder::OnMsrRead(Vp& vp, uint32_t msr, uint64_t& value) {
  MsrOutcome outcome = MsrOutcome::kDone;
  if (on_msr_read) {
    outcome = on_msr_read(vp, msr, value);
  } else if (const auto found = msr_values.find(msr); found != msr_values.end()) {
    value = found->second;
  } else {
    outcome = MsrOutcome::kFault;
  }
  if (record) events.push_back({Event::kMsrRead, msr, 8, outcome == MsrOutcome::kFault ? 0 : value});
  return outcome;
}

MsrOutcome Recorder::OnMsrWrite(Vp& vp, uint32_t msr, uint64_t value) {
  if (record) events.push_back({Event::kMsrWrite, msr, 8, value});
  return on_msr_write ? on_msr_write(vp, msr, value) : MsrOutcome::kDone;
}

HypercallOutcome Recorder::OnHypercall(Vp& vp) {
  if (record) events.push_back({Event::kHypercall, vp.GetGpr(Gpr::kRcx), 0, vp.GetGpr(Gpr::kRdx)});
  return on_hypercall ? on_hypercall(vp) : HypercallOutcome::kDone;
}

absl::StatusOr<std::unique_ptr<TestMachine>> TestMachine::Create(Backend& backend, uint32_t vps,
                                                                 absl::Span<const CpuidEntry> cpuid,
                                                                 uint32_t first_apic_id) {
  std::unique_ptr<TestMachine> machine(new TestMachine(backend));
  void* ram = ::mmap(nullptr, kRamSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (ram == MAP_FAILED) return absl::ResourceExhaustedError("no memory for a guest");
  machine->ram_ = static_cast<uint8_t*>(ram);
  const absl::Span<uint8_t> bytes(machine->ram_, kRamSize);
  ASSIGN_OR_RETURN(machine->partition_, backend.CreatePartition(machine->memory_));
  RETURN_IF_ERROR(machine->partition_->AddMemory(0, bytes));
  ASSIGN_OR_RETURN(const std::vector<CpuidEntry> supported, machine->partition_->SupportedCpuid());
  if (cpuid.empty()) cpuid = supported;
  for (uint32_t i = 0; i < vps; ++i) {
    ASSIGN_OR_RETURN(std::unique_ptr<Vp> vp, machine->partition_->CreateVp(VpIndex{i}, first_apic_id + i, cpuid));
    machine->vps_.push_back(std::move(vp));
  }
  machine->BuildTables();
  return machine;
}

TestMachine::~TestMachine() {
  vps_.clear();
  partition_.reset();
  if (ram_ != nullptr) ::munmap(ram_, kRamSize);
}

void TestMachine::Load(uint64_t gpa, absl::Span<const uint8_t> code) {
  ASSERT_TRUE(memory_.Write(gpa, code.data(), code.size()));
}

void TestMachine::BuildTables() {
  // GDT: null, code32, data32, code64, user data, user code64, TSS.
  const uint64_t gdt[] = {0,
                          0x00CF9B000000FFFF,
                          0x00CF93000000FFFF,
                          0x00AF9B000000FFFF,
                          0x00CFF3000000FFFF,
                          0x00AFFB000000FFFF,
                          0x0000890000000067 | (kTssGpa & 0xFFFFFF) << 16,
                          0};
  for (uint64_t i = 0; i < 8; ++i) Write(kGdtGpa + i * 8, gdt[i]);
  // TSS64: RSP0 and IST1. An I/O map beyond the limit allows no port below privilege level 0.
  Write<uint64_t>(kTssGpa + 4, kStackGpa - 0x4000);
  Write<uint64_t>(kTssGpa + 0x24, kStackGpa - 0x6000);
  Write<uint16_t>(kTssGpa + 0x66, 0x68);

  // Long mode: 4 KiB pages below 2 MiB; everything may be used by user mode, as the tests decide otherwise page
  // by page.
  constexpr uint64_t kRwUser = 7, kLarge = 0x80;
  Write<uint64_t>(kPml4Gpa, 0x5000 | kRwUser);
  Write<uint64_t>(0x5000, 0x6000 | kRwUser);
  Write<uint64_t>(0x5000 + 3 * 8, 0x8000 | kRwUser);
  Write<uint64_t>(0x6000, kFirstPageTableGpa | kRwUser);
  for (uint64_t i = 0; i < 512; ++i) {
    Write<uint64_t>(kFirstPageTableGpa + i * 8, i << 12 | kRwUser);
    if (i > 0) Write<uint64_t>(0x6000 + i * 8, i << 21 | kRwUser | kLarge);
    Write<uint64_t>(0x8000 + i * 8, (uint64_t{3} << 30) | i << 21 | kRwUser | kLarge);
  }
  // 32-bit: 4 MiB pages.
  for (uint32_t i = 0; i < 1024; ++i) Write<uint32_t>(kPageDirectory32Gpa + i * 4, i << 22 | 7 | 0x80);

  // Each exception has a stub: mov al, vector; out kFaultPort, al; hlt; jmp to hlt. The same bytes in every mode.
  for (uint64_t vector = 0; vector < 256; ++vector) {
    const uint8_t stub[kStubSize] = {0xB0, static_cast<uint8_t>(vector), 0xE6, kFaultPort, 0xF4, 0xEB, 0xFD, 0x90};
    Load(kStubsGpa + vector * kStubSize, stub);
    SetHandler(Mode::kLong, static_cast<uint8_t>(vector), kStubsGpa + vector * kStubSize);
    SetHandler(Mode::kProtected, static_cast<uint8_t>(vector), kStubsGpa + vector * kStubSize);
    SetHandler(Mode::kReal, static_cast<uint8_t>(vector), kStubsGpa + vector * kStubSize);
  }
  Load(kHypercallGpa, backend_.caps().hypercall_code);
}

void TestMachine::SetHandler(Mode mode, uint8_t vector, uint64_t gpa, uint8_t ist) {
  switch (mode) {
    case Mode::kReal:
      Write<uint16_t>(vector * 4u, static_cast<uint16_t>(gpa & 0xF));
      Write<uint16_t>(vector * 4u + 2, static_cast<uint16_t>(gpa >> 4));
      break;
    case Mode::kProtected:
      Write<uint64_t>(kIdt32Gpa + vector * 8u,
                      (gpa & 0xFFFF) | uint64_t{kCode32} << 16 | uint64_t{0x8E} << 40 | (gpa >> 16 & 0xFFFF) << 48);
      break;
    case Mode::kLong:
      Write<uint64_t>(kIdt64Gpa + vector * 16u, (gpa & 0xFFFF) | uint64_t{kCode64} << 16 | uint64_t{ist} << 32 |
                                                    uint64_t{0x8E} << 40 | (gpa >> 16 & 0xFFFF) << 48);
      Write<uint64_t>(kIdt64Gpa + vector * 16u + 8, gpa >> 32);
      break;
  }
}

void TestMachine::Start(Mode mode, uint64_t rip, uint32_t vp) {
  std::vector<std::pair<RegisterName, RegisterValue>> registers;
  const auto add = [&](RegisterName name, uint64_t value) { registers.push_back({name, {value, 0}}); };
  const RegisterName data_segments[] = {RegisterName::kDs, RegisterName::kEs, RegisterName::kSs, RegisterName::kFs,
                                        RegisterName::kGs};
  constexpr uint64_t kCr0Fixed = 0x10 | 0x20;  // ET, NE
  switch (mode) {
    case Mode::kReal:
      for (RegisterName name : data_segments) registers.push_back({name, SegmentValue(0, 0xFFFF, 0, 0x93)});
      registers.push_back(
          {RegisterName::kCs, SegmentValue(rip & ~uint64_t{0xF}, 0xFFFF, static_cast<uint16_t>(rip >> 4), 0x9B)});
      registers.push_back({RegisterName::kIdtr, TableValue(0, 0x3FF)});
      registers.push_back({RegisterName::kGdtr, TableValue(0, 0xFFFF)});
      add(RegisterName::kEfer, 0);
      add(RegisterName::kCr4, 0);
      add(RegisterName::kCr0, kCr0Fixed);
      add(RegisterName::kRip, rip & 0xF);
      add(RegisterName::kRsp, 0xFF00);
      break;
    case Mode::kProtected:
      for (RegisterName name : data_segments) registers.push_back({name, SegmentValue(0, 0xFFFFFFFF, kData32, 0xC093)});
      registers.push_back({RegisterName::kCs, SegmentValue(0, 0xFFFFFFFF, kCode32, 0xC09B)});
      registers.push_back({RegisterName::kTr, SegmentValue(kTssGpa, 0x67, kTss, 0x8B)});
      registers.push_back({RegisterName::kLdtr, SegmentValue(0, 0xFFFF, 0, 0x82)});
      registers.push_back({RegisterName::kIdtr, TableValue(kIdt32Gpa, 256 * 8 - 1)});
      registers.push_back({RegisterName::kGdtr, TableValue(kGdtGpa, 63)});
      add(RegisterName::kEfer, 0);
      add(RegisterName::kCr4, 0);
      add(RegisterName::kCr0, kCr0Fixed | 1);
      add(RegisterName::kRip, rip);
      add(RegisterName::kRsp, kStackGpa);
      break;
    case Mode::kLong:
      for (RegisterName name : data_segments) registers.push_back({name, SegmentValue(0, 0xFFFFFFFF, kData32, 0xC093)});
      registers.push_back({RegisterName::kCs, SegmentValue(0, 0xFFFFFFFF, kCode64, 0xA09B)});
      registers.push_back({RegisterName::kTr, SegmentValue(kTssGpa, 0x67, kTss, 0x8B)});
      registers.push_back({RegisterName::kLdtr, SegmentValue(0, 0xFFFF, 0, 0x82)});
      registers.push_back({RegisterName::kIdtr, TableValue(kIdt64Gpa, 256 * 16 - 1)});
      registers.push_back({RegisterName::kGdtr, TableValue(kGdtGpa, 63)});
      add(RegisterName::kEfer, 0x501);        // LMA, LME, SCE
      add(RegisterName::kCr4, 0x20 | 0x600);  // PAE, OSFXSR, OSXMMEXCPT
      add(RegisterName::kCr3, kPml4Gpa);
      add(RegisterName::kCr0, 0x80010033);  // PG, WP, NE, ET, MP, PE
      add(RegisterName::kRip, rip);
      // Each VP has a stack of its own.
      add(RegisterName::kRsp, kStackGpa - vp * 0x800);
      break;
  }
  add(RegisterName::kRflags, 2);
  std::vector<RegisterName> names;
  std::vector<RegisterValue> values;
  for (const auto& [name, value] : registers) {
    names.push_back(name);
    values.push_back(value);
  }
  const absl::Status status = this->vp(vp).SetRegisters(names, values);
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_TRUE(this->vp(vp).SetActivity(Activity::kRunning).ok());
}

void TestMachine::Start(Mode mode, absl::Span<const uint8_t> code) {
  Load(kCodeGpa, code);
  Start(mode, kCodeGpa);
}

void TestMachine::SetUserMode(uint64_t rip) {
  const RegisterName names[] = {RegisterName::kCs, RegisterName::kSs, RegisterName::kDs, RegisterName::kRip};
  const RegisterValue values[] = {SegmentValue(0, 0xFFFFFFFF, kUserCode64, 0xA0FB),
                                  SegmentValue(0, 0xFFFFFFFF, kUserData, 0xC0F3),
                                  SegmentValue(0, 0xFFFFFFFF, kUserData, 0xC0F3),
                                  {rip, 0}};
  const absl::Status status = vp().SetRegisters(names, values);
  ASSERT_TRUE(status.ok()) << status;
}

void TestMachine::Run(Recorder& recorder, uint32_t vp, int limit_seconds) {
  recorder.done = false;
  Watchdog watchdog(this->vp(vp), limit_seconds);
  while (!recorder.done) {
    const absl::StatusOr<StopReason> stop = this->vp(vp).Run(recorder);
    ASSERT_TRUE(stop.ok()) << stop.status();
    ASSERT_EQ(*stop, StopReason::kKicked);
    if (!watchdog.expired()) continue;
    FAIL() << absl::StrFormat("the guest does not end; RIP %#x, RSP %#x, %d exits so far", Get(RegisterName::kRip, vp),
                              Get(RegisterName::kRsp, vp), recorder.events.size());
  }
}

uint64_t TestMachine::Get(RegisterName name, uint32_t vp) {
  RegisterValue value{};
  const absl::Status status = this->vp(vp).GetRegisters({&name, 1}, {&value, 1});
  EXPECT_TRUE(status.ok()) << status;
  return value.low;
}

void TestMachine::Set(RegisterName name, uint64_t low, uint32_t vp) {
  const RegisterValue value{low, 0};
  const absl::Status status = this->vp(vp).SetRegisters({&name, 1}, {&value, 1});
  EXPECT_TRUE(status.ok()) << status;
}

Frame TestMachine::ReadFrame(uint8_t vector, uint32_t vp) {
  uint64_t at = Get(RegisterName::kRsp, vp);
  Frame frame;
  const bool has_error_code = vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
  if (has_error_code) {
    frame.error_code = Read<uint64_t>(at);
    at += 8;
  }
  frame.rip = Read<uint64_t>(at);
  frame.cs = Read<uint64_t>(at + 8);
  frame.rflags = Read<uint64_t>(at + 16);
  frame.rsp = Read<uint64_t>(at + 24);
  frame.ss = Read<uint64_t>(at + 32);
  return frame;
}

VpThread::VpThread(TestMachine& machine, uint32_t vp, Recorder& recorder)
    : machine_(machine), vp_(vp), thread_([this, &recorder] {
        while (!stop_.load(std::memory_order_acquire) && !recorder.done) {
          const absl::StatusOr<StopReason> stop = machine_.vp(vp_).Run(recorder);
          if (!stop.ok()) ADD_FAILURE() << stop.status();
          if (!stop.ok() || *stop != StopReason::kKicked) break;
        }
        ended_.store(true, std::memory_order_release);
      }) {}

void VpThread::WaitUntilDone(int limit_seconds) {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(limit_seconds);
  while (!ended_.load(std::memory_order_acquire) && std::chrono::steady_clock::now() < limit) {
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  const bool ended = ended_.load(std::memory_order_acquire);
  Join();
  EXPECT_TRUE(ended) << absl::StrFormat("the guest does not end; RIP %#x", machine_.Get(RegisterName::kRip, vp_));
}

void VpThread::Join() {
  if (!thread_.joinable()) return;
  stop_.store(true, std::memory_order_release);
  machine_.vp(vp_).Kick();
  thread_.join();
}

}  // namespace hvsdk::backend
