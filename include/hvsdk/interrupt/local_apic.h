// SPDX-License-Identifier: Apache-2.0
// A local APIC: xAPIC and x2APIC, for engines that have none of their own.
//
// Fixed interrupts wait in the IRR, a bitmap that any thread may set; everything that decides about them happens on the
// VP's thread. So a delivery is one atomic OR and a wake-up, and no lock is taken.
//
// Thread class: Accept is thread-safe; what is marked so is *VP thread only*.
// Guest errors: an access the SDM forbids returns false, which is #GP(0) for the MSR forms; the MMIO forms never fault.
// Source: Intel SDM volume 3, chapter 11.

#ifndef HVSDK_INTERRUPT_LOCAL_APIC_H_
#define HVSDK_INTERRUPT_LOCAL_APIC_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>

#include "absl/status/status.h"
#include "hvsdk/base/clock.h"
#include "hvsdk/interrupt/apic_bus.h"

namespace hvsdk::interrupt {

// What a local APIC needs of its processor. Thread-safe.
class LocalApicHost {
 public:
  virtual ~LocalApicHost() = default;

  // PendingVector or TakeSignals may have something new. Wakes the VP if it is halted. Called on any thread.
  virtual void OnApicWork() = 0;

  // The VP's time-stamp counter, for the timer's deadline mode.
  virtual uint64_t ReadTsc() = 0;
};

// All that a local APIC keeps, but for its configuration. Plain data.
struct LocalApicState {
  // The registers at their xAPIC offsets, as in x2APIC mode, but for the id there (all 32 bits at 0x20) and the ICR (0x300 and 0x310). What is
  // reserved is zero.
  std::array<uint8_t, 1024> page{};
  uint64_t base = 0;          // IA32_APIC_BASE
  uint64_t tsc_deadline = 0;  // 0: not armed
  std::array<uint64_t, 4> auto_eoi{};
  uint32_t signals = 0;  // LocalApic::Signal that the processor has yet to take
  uint8_t sipi_vector = 0;
  uint32_t errors = 0;  // not yet in the ESR
  // The timer's count within a tick: it began at `start_count` so long ago, and fires so long from now, both in 100 ns.
  uint32_t start_count = 0;
  uint64_t elapsed_100ns = 0;
  uint64_t wait_100ns = 0;
};

class LocalApic {
 public:
  struct Config {
    uint32_t id = 0;
    bool bootstrap = false;
    uint64_t tsc_frequency_hz = 0;
    uint64_t timer_frequency_hz = 0;  // with divisor 1
    // What the processor has of it. Without x2APIC its mode cannot be entered; without the deadline mode its bit and MSR do not exist.
    bool x2apic = true;
    bool tsc_deadline = true;
    int physical_address_bits = 52;
    // LINT0 leads interrupts of 8259s in from reset on, as a PC's firmware leaves its first processor ("virtual wire
    // mode", MultiProcessor specification 1.4, 3.6.2.2). Else it is masked, as a processor comes out of reset.
    bool virtual_wire = false;
  };

  // All outlive the APIC. Attaches itself to the bus.
  LocalApic(const Config& config, ApicBus& bus, LocalApicHost& host, const Clock& clock, TimerQueue& timers);
  LocalApic(const LocalApic&) = delete;
  LocalApic& operator=(const LocalApic&) = delete;

  uint32_t id() const { return config_.id; }

  // Takes a message that addresses this APIC. Thread-safe.
  // False: it does not take such a message now.
  bool Accept(const InterruptMessage& message);
  // Whether a message's destination includes this APIC. Thread-safe.
  bool IsAddressed(uint32_t destination, bool logical, bool narrow) const;
  uint8_t processor_priority() const { return ppr_.load(std::memory_order_relaxed); }
  bool accepts_fixed() const;

  // Whether the processor takes interrupts from 8259s: LINT0 is ExtINT and not masked, or the APIC is disabled and its
  // pin is INTR again (SDM volume 3, 11.4.3). Thread-safe.
  bool accepts_extint() const;

  // The vector of the most urgent interrupt that may be delivered now, or -1. VP thread only.
  int PendingVector() const;
  // Takes PendingVector into service and returns it, or -1. VP thread only.
  int Acknowledge();

  // INIT, NMI and SIPI that arrived since the last call. VP thread only.
  enum Signal : uint32_t { kNmi = 1, kInit = 2, kSipi = 4 };
  uint32_t TakeSignals() { return signals_.exchange(0, std::memory_order_acquire); }
  bool HasSignals() const { return signals_.load(std::memory_order_relaxed) != 0; }
  uint8_t sipi_vector() const { return sipi_vector_.load(std::memory_order_relaxed); }

  // The processor was reset (`init` false) or got INIT, which keeps the id and the base. VP thread only.
  void Reset(bool init);

  // Save and restore: no VP runs. A timer's count, or its deadline, goes on from now; one that is due fires at once.
  // Check names a field that this APIC cannot have; Restore is for what has passed it.
  LocalApicState Save();
  absl::Status Check(const LocalApicState& state) const;
  void Restore(const LocalApicState& state);
  // The TSC has another rate than the configuration says, from now on. No VP runs.
  void SetTscFrequency(uint64_t hz);

  // The task priority's class, as CR8 has it. VP thread only.
  uint64_t cr8() const { return tpr_.load(std::memory_order_relaxed) >> 4; }
  void SetCr8(uint64_t value) { SetTpr(static_cast<uint8_t>(value << 4)); }
  void SetTpr(uint8_t value);
  uint8_t tpr() const { return tpr_.load(std::memory_order_relaxed); }
  void Eoi();
  // Writes the interrupt command register (x2APIC layout: destination in the high half). VP thread only.
  bool WriteIcr(uint64_t value);
  uint64_t icr() const { return icr_; }

  // IA32_APIC_BASE. VP thread only.
  uint64_t base() const { return base_; }
  bool WriteBase(uint64_t value);
  bool x2apic() const { return (base_ & kBaseX2apic) != 0; }
  bool enabled() const { return (base_ & kBaseEnable) != 0; }
  // Where the registers stand while in xAPIC mode.
  uint64_t mmio_gpa() const { return base_ & ~uint64_t{0xFFF}; }

  // Registers by page offset, xAPIC mode. Accesses that are not aligned double words read as zero and are ignored.
  uint32_t ReadMmio(uint32_t offset);
  void WriteMmio(uint32_t offset, uint32_t value);

  // MSRs 0x800 to 0x83F, IA32_TSC_DEADLINE (0x6E0). VP thread only.
  bool ReadMsr(uint32_t msr, uint64_t& value);
  bool WriteMsr(uint32_t msr, uint64_t value);
  // The VP's TSC jumped. VP thread only.
  void OnTscChanged();

  static constexpr uint64_t kBaseBootstrap = 1 << 8;
  static constexpr uint64_t kBaseX2apic = 1 << 10;
  static constexpr uint64_t kBaseEnable = 1 << 11;

 private:
  enum LvtIndex { kLvtTimer, kLvtThermal, kLvtPerformance, kLvtLint0, kLvtLint1, kLvtError, kLvtCount };
  using Bits = std::array<std::atomic<uint64_t>, 4>;

  static bool TestBit(const Bits& bits, int vector);
  static void SetBit(Bits& bits, int vector);
  static void ClearBit(Bits& bits, int vector);
  static int HighestBit(const Bits& bits);
  static uint32_t Word(const Bits& bits, uint32_t index);

  void UpdatePpr();
  void RaiseError(uint32_t bit);
  void TriggerLvt(LvtIndex index) { Trigger(index, lvt_[index].load(std::memory_order_relaxed)); }
  void Trigger(LvtIndex index, uint32_t entry);
  uint32_t ReadRegister(uint32_t reg, bool& known);
  bool WriteRegister(uint32_t reg, uint32_t value);
  static int LvtOf(uint32_t reg);

  // The timer, whose callback runs on another thread, and may run late: whoever looks at the timer or changes it first sees to what is due.
  // These are called under timer_mutex_, but for OnTimer.
  void OnTimer();
  bool ExpireTimer();  // true: it expired, and the interrupt is the caller's to raise, without the lock
  void RearmTimer();
  uint32_t CountNow() const;
  uint64_t TicksTo100ns(uint64_t ticks) const;
  uint32_t divisor() const;
  uint64_t DeadlineFor(uint64_t tsc_deadline);

  const Config config_;
  ApicBus& bus_;
  LocalApicHost& host_;
  const Clock& clock_;

  // Any thread.
  Bits irr_{}, tmr_{}, auto_eoi_{};
  std::atomic<uint32_t> signals_{0};
  std::atomic<uint8_t> sipi_vector_{0};
  std::atomic<uint32_t> spurious_{0xFF};
  std::atomic<uint32_t> ldr_{0};
  std::atomic<uint32_t> dfr_{0xFFFFFFFF};
  std::atomic<uint8_t> tpr_{0};
  std::atomic<uint8_t> ppr_{0};
  std::atomic<uint64_t> base_;
  std::array<std::atomic<uint32_t>, kLvtCount> lvt_;
  std::atomic<uint32_t> errors_{0};

  // VP thread only.
  Bits isr_{};
  uint64_t icr_ = 0;
  uint32_t esr_ = 0;

  std::mutex timer_mutex_;  // guards what follows; no call-out is made under it
  uint32_t divide_ = 0;
  uint32_t initial_count_ = 0;
  bool counting_ = false;  // between a write of the initial count and a one-shot's end
  uint64_t count_start_100ns_ = 0;
  uint32_t start_count_ = 0;  // the count at that time
  uint64_t next_100ns_ = 0;   // when the timer fires; 0 if it does not
  uint64_t tsc_deadline_ = 0;
  uint64_t tsc_frequency_hz_;

  std::unique_ptr<Timer> timer_;  // last: its destructor waits for a running callback
};

}  // namespace hvsdk::interrupt

#endif  // HVSDK_INTERRUPT_LOCAL_APIC_H_
