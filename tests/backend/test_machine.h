// SPDX-License-Identifier: Apache-2.0
// A partition with a little memory, tables for every processor mode, and an exit handler that writes down what comes.
//
// Memory, all identity-mapped wherever paging is on:
//   0x1000 GDT           0x2000 long-mode IDT      0x3000 TSS             0x4000 long-mode page tables
//   0x9000 32-bit page directory                   0xA000 32-bit IDT      0xB000 exception stubs
//   0xF000 hypercall page                          0x10000 code           0x80000 data           0x90000 stack top
// The first 2 MiB are mapped by 4 KiB pages, the rest of the first and all of the fourth GiB by 2 MiB pages.

#ifndef HVSDK_TESTS_BACKEND_TEST_MACHINE_H_
#define HVSDK_TESTS_BACKEND_TEST_MACHINE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <ostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "gtest/gtest.h"
#include "hvsdk/backend/backend.h"
#include "hvsdk/hvdef/register.h"
#include "hvsdk/memory/guest_memory.h"

namespace hvsdk::backend {

inline constexpr uint64_t kRamSize = 4 << 20;
inline constexpr uint64_t kGdtGpa = 0x1000;
inline constexpr uint64_t kIdt64Gpa = 0x2000;
inline constexpr uint64_t kTssGpa = 0x3000;
inline constexpr uint64_t kPml4Gpa = 0x4000;
inline constexpr uint64_t kFirstPageTableGpa = 0x7000;  // the 512 pages of the first 2 MiB
inline constexpr uint64_t kPageDirectory32Gpa = 0x9000;
inline constexpr uint64_t kIdt32Gpa = 0xA000;
inline constexpr uint64_t kStubsGpa = 0xB000;
inline constexpr uint64_t kHypercallGpa = 0xF000;
inline constexpr uint64_t kCodeGpa = 0x10000;
inline constexpr uint64_t kDataGpa = 0x80000;
inline constexpr uint64_t kStackGpa = 0x90000;
inline constexpr uint64_t kMmioGpa = 0x10000000;  // not mapped

// Selectors.
inline constexpr uint16_t kCode32 = 0x08, kData32 = 0x10, kCode64 = 0x18, kUserData = 0x20 | 3, kUserCode64 = 0x28 | 3,
                          kTss = 0x30;

// Ports with a meaning here: a guest that is done writes to the first; an unexpected exception writes its vector to
// the other.
inline constexpr uint16_t kDonePort = 0xF4;
inline constexpr uint16_t kFaultPort = 0xF6;

// One thing the guest did, as the exit handler saw it.
struct Event {
  enum Kind { kPortRead, kPortWrite, kMmioRead, kMmioWrite, kMsrRead, kMsrWrite, kHypercall } kind;
  uint64_t address;  // port, guest physical address, MSR, or the RCX of a hypercall
  uint32_t size;     // in bytes
  uint64_t value;    // written, or given back; the first 8 bytes
  bool operator==(const Event& other) const {
    return kind == other.kind && address == other.address && size == other.size && value == other.value;
  }
};
std::ostream& operator<<(std::ostream& out, const Event& event);

// Writes down every exit but those of kDonePort and kFaultPort, and answers from what a test filled in. Both ports stop
// the VP.
class Recorder : public ExitHandler {
 public:
  std::vector<Event> events;

  // Answers; a function, where there is one, wins over a table.
  std::map<uint64_t, uint64_t> port_values, mmio_values, msr_values;
  std::function<void(Vp&, uint16_t, absl::Span<uint8_t>)> on_port_read;
  std::function<void(Vp&, uint16_t, absl::Span<const uint8_t>)> on_port_write;
  std::function<void(Vp&, uint64_t)> on_mmio_read;  // besides the table
  std::function<void(Vp&, uint64_t, absl::Span<const uint8_t>)> on_mmio_write;
  std::function<MsrOutcome(Vp&, uint32_t, uint64_t&)> on_msr_read;
  std::function<MsrOutcome(Vp&, uint32_t, uint64_t)> on_msr_write;
  std::function<HypercallOutcome(Vp&)> on_hypercall;
  bool record = true;

  // Set when the guest wrote to kDonePort or kFaultPort.
  bool done = false;
  int fault = -1;  // the exception's vector
  uint64_t done_value = 0;

  void OnPortRead(Vp& vp, uint16_t port, absl::Span<uint8_t> data) override;
  void OnPortWrite(Vp& vp, uint16_t port, absl::Span<const uint8_t> data) override;
  void OnMmioRead(Vp& vp, uint64_t gpa, absl::Span<uint8_t> data) override;
  void OnMmioWrite(Vp& vp, uint64_t gpa, absl::Span<const uint8_t> data) override;
  MsrOutcome OnMsrRead(Vp& vp, uint32_t msr, uint64_t& value) override;
  MsrOutcome OnMsrWrite(Vp& vp, uint32_t msr, uint64_t value) override;
  HypercallOutcome OnHypercall(Vp& vp) override;

 private:
  void Record(Event::Kind kind, uint64_t address, absl::Span<const uint8_t> data);
};

enum class Mode { kReal, kProtected, kLong };

// What an exception pushed, as found on the stack when its stub writes to kFaultPort.
struct Frame {
  uint64_t error_code = 0, rip = 0, cs = 0, rflags = 0, rsp = 0, ss = 0;
};

class TestMachine {
 public:
  // A machine of `vps` processors with the features given, or all the engine has.
  static absl::StatusOr<std::unique_ptr<TestMachine>> Create(Backend& backend, uint32_t vps = 1,
                                                             absl::Span<const CpuidEntry> cpuid = {},
                                                             uint32_t first_apic_id = 0);
  ~TestMachine();

  Backend& backend() { return backend_; }
  Partition& partition() { return *partition_; }
  GuestMemory& memory() { return memory_; }
  absl::Span<uint8_t> ram() { return {ram_, kRamSize}; }
  Vp& vp(uint32_t index = 0) { return *vps_[index]; }

  // Copies code into memory.
  void Load(uint64_t gpa, absl::Span<const uint8_t> code);
  template <typename T>
  void Write(uint64_t gpa, T value) {
    Load(gpa, {reinterpret_cast<const uint8_t*>(&value), sizeof(value)});
  }
  template <typename T>
  T Read(uint64_t gpa) {
    T value{};
    if (!memory_.Read(gpa, &value, sizeof(value))) ADD_FAILURE() << "no memory at " << gpa;
    return value;
  }

  // Puts a VP at `rip` in a mode, with interrupts off, flat segments (in real mode, segments of base 0) and a stack.
  void Start(Mode mode, uint64_t rip, uint32_t vp = 0);
  // Loads `code` at kCodeGpa and starts VP 0 there.
  void Start(Mode mode, absl::Span<const uint8_t> code);

  // After Start in long mode: makes VP 0 run at `rip` in user mode.
  void SetUserMode(uint64_t rip);

  // Makes a handler of the guest's the target of a vector.
  void SetHandler(Mode mode, uint8_t vector, uint64_t gpa, uint8_t ist = 0);

  // Runs a VP until the guest is done, an exception came to a stub, or `limit_seconds` are over, which fails the test.
  // Whatever is not expected fails the test, with the place of the guest.
  void Run(Recorder& recorder, uint32_t vp = 0, int limit_seconds = 20);

  uint64_t Get(hvdef::RegisterName name, uint32_t vp = 0);
  void Set(hvdef::RegisterName name, uint64_t value, uint32_t vp = 0);
  // The frame of an exception that reached a stub in long mode.
  Frame ReadFrame(uint8_t vector, uint32_t vp = 0);

 private:
  explicit TestMachine(Backend& backend) : backend_(backend) {}
  void BuildTables();

  Backend& backend_;
  uint8_t* ram_ = nullptr;
  GuestMemory memory_;
  std::unique_ptr<Partition> partition_;
  std::vector<std::unique_ptr<Vp>> vps_;
};

// Runs a VP on a thread of its own until told to stop or the guest is done.
class VpThread {
 public:
  VpThread(TestMachine& machine, uint32_t vp, Recorder& recorder);
  ~VpThread() { Join(); }
  // Kicks the VP and waits for the end of its thread.
  void Join();
  // Waits for the guest to be done, which fails the test if it takes longer than the limit.
  void WaitUntilDone(int limit_seconds = 20);

 private:
  TestMachine& machine_;
  const uint32_t vp_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> ended_{false};
  std::thread thread_;
};

}  // namespace hvsdk::backend

#endif  // HVSDK_TESTS_BACKEND_TEST_MACHINE_H_
