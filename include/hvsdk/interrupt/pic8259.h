// SPDX-License-Identifier: Apache-2.0
// The pair of 8259As of a PC, for engines that have none of their own: the slave's output is the master's input 2, and
// edge/level control registers choose how each input triggers.
//
// All of the data sheet that a PC can use: nested priorities and their rotation, special mask and special fully nested
// mode, specific, non-specific and automatic end of interrupt, poll command, spurious interrupts. As in a PC's chipset
// there is no other mode than an x86 processor's and no other wiring: ICW3's contents, the buffered modes and ICW1's
// level trigger (LTIM), in whose place stand the control registers, are taken and ignored. At power-on every input is
// masked, as firmware leaves it, until ICW1 or OCW1 say otherwise.
//
// One thing is not the data sheet's: an edge stays latched until it is acknowledged, also when its input falls before,
// as in KVM's 8259s. So a device may pulse its line.
//
//   Pic8259Pair pic([&] { processor.LookForInterrupts(); });
//   absl::Status status = ports.Map(Pic8259Pair::kMasterPort, 2, &pic, Pic8259Pair::kMaster);
//   if (status.ok()) status = ports.Map(Pic8259Pair::kSlavePort, 2, &pic, Pic8259Pair::kSlave);
//   if (status.ok()) status = ports.Map(Pic8259Pair::kTriggerPort, 2, &pic, Pic8259Pair::kTrigger);
//
// Thread-safe. What a guest writes is never an error.
// Sources: Intel 8259A data sheet (order number 231468); Intel 82371AB (PIIX4) data sheet, 4.2.3, for the ELCRs.

#ifndef HVSDK_INTERRUPT_PIC8259_H_
#define HVSDK_INTERRUPT_PIC8259_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "hvsdk/base/device.h"

namespace hvsdk::interrupt {

// All that one 8259A keeps. Plain data.
struct Pic8259State {
  uint8_t request = 0, service = 0, mask = 0xFF;  // IRR, ISR, IMR
  uint8_t lines = 0;                              // the inputs' levels
  uint8_t vector_base = 0;
  uint8_t lowest_priority = 7;  // the input that has it
  uint8_t edge_level = 0;       // ELCR
  uint8_t init_step = 0;        // of ICW1 to ICW4: the next one expected, 0 for none
  bool icw4_expected = false, auto_eoi = false, rotate_on_auto_eoi = false, special_mask = false;
  bool special_fully_nested = false, poll = false, read_service = false, single = false;
};

class Pic8259Pair final : public ByteDevice {
 public:
  static constexpr uint16_t kMasterPort = 0x20, kSlavePort = 0xA0, kTriggerPort = 0x4D0;  // two each
  // The device's offsets at those ports.
  static constexpr uint64_t kMaster = 0, kSlave = 2, kTrigger = 4;
  static constexpr uint32_t kInputs = 16;
  static constexpr uint8_t kCascade = 2;  // the master's input that is the slave's output

  // The offset that `port` stands for, or -1.
  static constexpr int OffsetOf(uint16_t port) {
    switch (port & ~1) {
      case kMasterPort:
        return kMaster + (port & 1);
      case kSlavePort:
        return kSlave + (port & 1);
      case kTriggerPort:
        return kTrigger + (port & 1);
    }
    return -1;
  }

  // `on_interrupt`: the INT output rose, or may have. Called without a lock, on the thread that caused it.
  explicit Pic8259Pair(absl::AnyInvocable<void()> on_interrupt) : on_interrupt_(std::move(on_interrupt)) { Reset(); }

  absl::string_view Name() const override { return "the 8259s"; }

  // Power-on: every input masked, low and forgotten.
  void Reset();

  // Master and slave. No VP runs, and nobody drives a line meanwhile; Restore calls nobody.
  // Check: InvalidArgument names a field that cannot be so; Restore is for what has passed it.
  using State = std::array<Pic8259State, 2>;
  State Save();
  static absl::Status Check(const State& state);
  void Restore(const State& state);

  // Drives input `irq`: `level` says that it is asserted. The cascade, and inputs that do not exist, are ignored.
  void SetLine(uint32_t irq, bool level);

  // The INT output: a processor that takes interrupts from here acknowledges.
  bool interrupt() const { return output_.load(std::memory_order_acquire); }
  // The processor's INTA: takes the most urgent request into service. The vector; that of input 7 of a chip which has
  // nothing left to request (a spurious interrupt), without anything in service there.
  uint8_t Acknowledge();

 protected:
  uint8_t ReadByte(uint64_t offset) override;
  void WriteByte(uint64_t offset, uint8_t value) override;

 private:
  // What the next write to the odd port is.
  enum class Next : uint8_t { kOcw1, kIcw2, kIcw3, kIcw4 };
  struct Chip {
    bool is_master = false;
    Next next = Next::kOcw1;
    bool wants_icw4 = false;
    bool single = false;  // ICW1.SNGL: no ICW3, and no slave
    uint8_t vector = 0;   // of input 0
    uint8_t mask = 0xFF;
    uint8_t edges = 0;     // latched
    uint8_t lines = 0;     // the inputs' levels
    uint8_t triggers = 0;  // level-triggered inputs
    uint8_t in_service = 0;
    uint8_t lowest = 7;  // the input of the lowest priority
    bool auto_eoi = false;
    bool rotates = false;  // with each automatic EOI
    bool special_mask = false;
    bool fully_nested = false;  // ICW4.SFNM
    bool polls = false;         // the next read is a poll
    bool reads_in_service = false;

    bool cascades() const { return is_master && !single; }
    uint8_t requests() const { return (edges & ~triggers) | (lines & triggers); }
    // 0 is the highest.
    int PriorityOf(int input) const { return (input - lowest - 1) & 7; }
    int MostUrgent(uint8_t inputs) const;  // or -1
    int Pending() const;                   // the input that INT is for, or -1
    // Takes Pending into service, and returns it; or -1.
    int Take();
    void End(int input, bool rotate);
    void WriteEven(uint8_t value);
    void WriteOdd(uint8_t value);
  };

  // Under the lock: what the outputs are now. True: the master's rose.
  bool Update();
  int Take(Chip& chip);
  uint8_t Poll(Chip& chip);

  absl::AnyInvocable<void()> on_interrupt_;
  std::atomic<bool> output_{false};
  std::mutex mutex_;
  Chip chips_[2];  // master, slave
  bool slave_output_ = false;
};

}  // namespace hvsdk::interrupt

#endif  // HVSDK_INTERRUPT_PIC8259_H_
