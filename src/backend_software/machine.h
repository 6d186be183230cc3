// SPDX-License-Identifier: Apache-2.0
// What the VPs of one partition share: memory, interrupt controllers, time, and the ways in which one VP makes another
// do something.
//
// Requests. A VP caches translations and code, and another thread may have to make it forget them. It posts a request
// and, where it must know that it was served, waits; but only for a VP that is inside guest code. One that is outside
// (in an exit, asleep, not running) looks at its requests before it goes in. Whoever waits is outside himself, so two
// VPs may wait for each other.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_MACHINE_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_MACHINE_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/types/span.h"
#include "backend_software/cpu.h"
#include "backend_software/host_timers.h"
#include "backend_software/physical_memory.h"
#include "hvsdk/backend_software/software_backend.h"
#include "hvsdk/chipset/io_apic.h"
#include "hvsdk/chipset/local_apic.h"
#include "hvsdk/chipset/pic8259.h"
#include "hvsdk/memory/guest_memory.h"

namespace hvsdk::software {

inline constexpr uint32_t kMaxVps = 64;  // bits of PageState's masks
inline constexpr uint64_t kTscHz = 1'000'000'000;
inline constexpr uint64_t kApicHz = 100'000'000;

enum RequestKind : uint32_t {
  kRequestPurge = 1,    // turn fast write entries into slow ones
  kRequestFlush = 2,    // forget all translations
  kRequestDrop = 4,     // forget the code of pages that were posted
  kRequestDropAll = 8,  // forget all code
  kRequestPause = 16,   // stay outside while another VP is exclusive
};

class Machine final : public HostWriteObserver {
 public:
  Machine(GuestMemory& guest_memory, const backend::SoftwareOptions& options);
  // Once, before there are VPs. ResourceExhausted: the host has no thread for timers.
  absl::Status StartTimers() { return host_timers_ != nullptr ? host_timers_->Start() : absl::OkStatus(); }
  ~Machine() override;

  PhysicalMemory& memory() { return memory_; }
  bool counting() const { return instruction_time_ != nullptr; }
  bool dirty_log() const { return dirty_log_.load(std::memory_order_relaxed); }
  void SetDirtyLog(bool enable) { dirty_log_.store(enable, std::memory_order_seq_cst); }
  bool crowded() const { return crowded_; }
  size_t code_cache_bytes() const { return code_cache_bytes_; }

  // Adds a VP before the first runs; removes it when none does. It stays here to the end, for its APIC's timer fires as
  // long as there is time.
  Cpu& Attach(std::unique_ptr<Cpu> added);
  void Detach(Cpu& cpu);
  Cpu* cpu(uint32_t index) const { return index < kMaxVps ? cpus_[index].get() : nullptr; }

  chipset::LocalApic& apic(uint32_t index) { return *apics_[index]; }
  chipset::ApicBus& bus() { return bus_; }
  chipset::IoApic& io_apic() { return io_apic_; }
  chipset::Pic8259Pair& pic() { return pic_; }
  // Drives an interrupt line of the board: both controllers' inputs.
  void SetIrqLine(uint32_t irq, bool level);
  // The 8259s request an interrupt that this VP takes.
  bool HasExtInt(const Cpu& cpu) { return pic_.interrupt() && apics_[cpu.index]->accepts_extint(); }
  bool MayInterrupt(const Cpu& cpu) { return apics_[cpu.index]->PendingVector() >= 0 || HasExtInt(cpu); }

  // Nanoseconds of the guest's time; `c` counts its own instructions since. Counting, what the VP in turn reads from
  // any clock agrees with its TSC.
  uint64_t Now() const;
  uint64_t Tsc(const Cpu& c) const;
  void SetInTurn(const Cpu* cpu) { in_turn_ = cpu; }
  uint64_t Random();

  // The VP `self` (or nullptr) changed bytes of a page that some VP holds code of.
  void DropCode(Cpu* self, uint64_t gpa, PageState& state);
  void WatchHostWrites(uint64_t gpa, bool watch) { guest_memory_.SetWatched(gpa, watch); }
  void OnHostWrite(uint64_t gpa, uint64_t size_bytes) override;

  // Posts a request to the VPs of `vps` and waits until no VP inside guest code has yet to serve it.
  void RequestAndWait(Cpu* self, uint64_t vps, uint32_t kinds);
  uint64_t all_vps() const { return attached_.load(std::memory_order_acquire); }

  // No other VP is inside guest code in between: for locked accesses that no host instruction can do.
  void BeginExclusive(Cpu& self);
  void EndExclusive(Cpu& self);
  void WaitForExclusive() { std::lock_guard lock(exclusive_mutex_); }

 private:
  class ApicHost;
  class MachineClock final : public Clock {
   public:
    explicit MachineClock(const Machine& machine) : machine_(machine) {}
    uint64_t Now100ns() const override { return machine_.Now() / 100; }

   private:
    const Machine& machine_;
  };

  void Post(Cpu& cpu, uint32_t kinds);
  void OnPicInterrupt();

  GuestMemory& guest_memory_;
  backend::InstructionTime* const instruction_time_;
  const size_t code_cache_bytes_;  // of each VP
  const uint64_t started_ns_;
  const Cpu* in_turn_ = nullptr;  // counting only, so one thread
  PhysicalMemory memory_;
  std::atomic<bool> dirty_log_{false};
  bool crowded_ = false;
  MachineClock clock_{*this};
  std::unique_ptr<HostTimers> host_timers_;
  chipset::ApicBus bus_;
  chipset::IoApic io_apic_{bus_};
  chipset::Pic8259Pair pic_{[this] { OnPicInterrupt(); }};
  std::array<std::unique_ptr<Cpu>, kMaxVps> cpus_;
  std::array<std::unique_ptr<ApicHost>, kMaxVps> apic_hosts_;
  std::array<std::unique_ptr<chipset::LocalApic>, kMaxVps> apics_;
  std::atomic<uint64_t> attached_{0};
  std::mutex exclusive_mutex_;
  std::atomic<uint64_t> random_state_{0x9E3779B97F4A7C15};
};

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_MACHINE_H_
