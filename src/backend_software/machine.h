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
#include "backend_software/host_timers.h"
#include "backend_software/processor/cpu.h"
#include "backend_software/processor/physical_memory.h"
#include "backend_software/processor/processor_host.h"
#include "hvsdk/backend_software/software_backend.h"
#include "hvsdk/base/lost_memory.h"
#include "hvsdk/interrupt/io_apic.h"
#include "hvsdk/interrupt/local_apic.h"
#include "hvsdk/interrupt/pic8259.h"
#include "hvsdk/memory/guest_memory.h"

namespace hvsdk::software {

inline constexpr uint32_t kMaxVps = 64;            // bits of PageState's masks
inline constexpr uint64_t kTscHz = 1'000'000'000;  // unless a restored state says otherwise
inline constexpr uint64_t kApicHz =
    1'000'000'000;  // as KVM's: guests that go on from one to the other have measured it

class CodeCache;

class Machine final : public ProcessorHost, public HostWriteObserver, public LostMemoryObserver {
 public:
  Machine(GuestMemory& guest_memory, const backend::SoftwareOptions& options);
  // Once, before there are VPs. ResourceExhausted: the host has no thread for timers.
  absl::Status StartTimers() { return host_timers_ != nullptr ? host_timers_->Start() : absl::OkStatus(); }
  ~Machine() override;

  PhysicalMemory& memory() { return memory_; }
  bool counting() const { return instruction_time_ != nullptr; }
  bool crowded() const override { return crowded_; }
  size_t code_cache_bytes() const { return code_cache_bytes_; }

  // Adds a VP before the first runs; removes it when none does. It stays here to the end, for its APIC's timer fires as
  // long as there is time.
  Cpu& Attach(std::unique_ptr<Cpu> added, std::unique_ptr<CodeCache> code);
  void Detach(Cpu& cpu);
  Cpu* cpu(uint32_t index) const { return index < kMaxVps ? cpus_[index].get() : nullptr; }

  interrupt::LocalApic& apic(uint32_t index) { return *apics_[index]; }
  interrupt::ApicBus& bus() { return bus_; }
  interrupt::IoApic& io_apic() override { return io_apic_; }
  interrupt::Pic8259Pair& pic() override { return pic_; }
  // Drives an interrupt line of the board: both controllers' inputs.
  void SetIrqLine(uint32_t irq, bool level);

  // Nanoseconds of the guest's time; `c` counts its own instructions since. Counting, what the VP in turn reads from
  // any clock agrees with its TSC.
  uint64_t Now() const;
  uint64_t Tsc(const Cpu& c) const override { return ToTsc(NowFor(c)); }
  uint64_t Tsc() const { return ToTsc(Now()); }
  uint64_t tsc_frequency_hz() const { return tsc_hz_; }
  // The TSC goes on from `tsc` at that rate. No VP runs.
  void SetTsc(uint64_t tsc, uint64_t hz);
  void SetInTurn(Cpu* cpu) { in_turn_ = cpu; }
  // Which VP the calling thread runs; null: none any more.
  static void SetRunning(Cpu* cpu);

  void OnLostPage(const uint8_t* page) override;
  void TellOthers(const Cpu& self) override;
  uint64_t Random() override;
  // Where the deterministic random numbers are.
  uint64_t random_state() const { return random_state_.load(std::memory_order_relaxed); }
  void SetRandomState(uint64_t state) { random_state_.store(state, std::memory_order_relaxed); }

  void DropCode(Cpu* self, uint64_t gpa, PageState& state) override;
  void WatchHostWrites(uint64_t gpa, bool watch) override { guest_memory_.SetWatched(gpa, watch); }
  void OnHostWrite(uint64_t gpa, uint64_t size_bytes) override;

  void RequestAndWait(Cpu* self, uint64_t vps, uint32_t kinds) override;
  uint64_t all_vps() const { return attached_.load(std::memory_order_acquire); }

  void BeginExclusive(Cpu& self) override;
  void EndExclusive(Cpu& self) override;
  void WaitForExclusive() override { std::lock_guard lock(exclusive_mutex_); }

 private:
  class ApicHost;
  class MachineClock final : public Clock {
   public:
    explicit MachineClock(const Machine& machine) : machine_(machine) {}
    uint64_t Now100ns() const override { return machine_.Now() / 100; }

   private:
    const Machine& machine_;
  };

  uint64_t NowFor(const Cpu& c) const;
  uint64_t ToTsc(uint64_t ns) const {
    if (tsc_hz_ == kTscHz) [[likely]]
      return ns + tsc_base_;
    return static_cast<uint64_t>(static_cast<unsigned __int128>(ns) * tsc_hz_ / 1'000'000'000) + tsc_base_;
  }

  void Post(Cpu& cpu, uint32_t kinds);
  void OnPicInterrupt();

  GuestMemory& guest_memory_;
  backend::InstructionTime* const instruction_time_;
  const size_t code_cache_bytes_;  // of each VP
  const uint64_t started_ns_;
  uint64_t tsc_hz_ = kTscHz, tsc_base_ = 0;  // the TSC at time 0
  Cpu* in_turn_ = nullptr;                   // counting only, so one thread
  PhysicalMemory memory_;
  bool crowded_ = false;
  MachineClock clock_{*this};
  std::unique_ptr<HostTimers> host_timers_;
  interrupt::ApicBus bus_;
  interrupt::IoApic io_apic_{bus_};
  interrupt::Pic8259Pair pic_{[this] { OnPicInterrupt(); }};
  std::array<std::unique_ptr<Cpu>, kMaxVps> cpus_;
  std::array<std::unique_ptr<CodeCache>, kMaxVps> code_caches_;
  std::array<std::unique_ptr<ApicHost>, kMaxVps> apic_hosts_;
  std::array<std::unique_ptr<interrupt::LocalApic>, kMaxVps> apics_;
  std::atomic<uint64_t> attached_{0};
  std::mutex exclusive_mutex_;
  std::atomic<uint64_t> random_state_{0x9E3779B97F4A7C15};
};

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_MACHINE_H_
