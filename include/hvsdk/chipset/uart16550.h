// SPDX-License-Identifier: Apache-2.0
// A serial port: the PC16550D UART with its FIFOs, interrupts and loopback.
//
// The line is as fast as the host: a byte leaves the transmitter at once into a queue of 64 KiB, and the transmitter
// says that it is busy only while that queue is full. So a guest that prints faster than the host reads is slowed down
// and nothing grows; one that writes without looking loses bytes, as on a real line. Baud rate and framing are
// remembered and mean nothing. Yet an interrupt handler that serves the port until nothing is left to do sees an end
// after some 256 bytes, and has another interrupt.
//
// Thread-safe. Callbacks run on the calling thread with no lock held.
// Source: National Semiconductor PC16550D datasheet (1995), section 8 "Registers".
//
//   Uart16550 uart({.irq = [&](bool level) { partition.SetIrqLine(4, level); },
//                   .output_ready = [&] { executor.Schedule(copy_to_terminal); }});
//   const absl::Status status = ports.Map(0x3F8, Uart16550::kPorts, &uart);

#ifndef HVSDK_CHIPSET_UART16550_H_
#define HVSDK_CHIPSET_UART16550_H_

#include <array>
#include <cstdint>
#include <mutex>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/types/span.h"
#include "hvsdk/base/device.h"
#include "hvsdk/interrupt/irq_line.h"
#include "hvsdk/state/component.h"

namespace hvsdk::chipset {

class Uart16550 final : public ByteDevice, public state::Component {
 public:
  static constexpr uint64_t kPorts = 8;
  static constexpr size_t kFifoSize = 16;
  static constexpr size_t kOutputSize = 65536;
  // What an interrupt handler moves before it sees an end, but for what it moves without asking (Linux reads 256 bytes).
  static constexpr size_t kMostAtOnce = 256;

  struct Hooks {
    absl::AnyInvocable<void(bool level)> irq;
    // TakeOutput has something, after it had nothing.
    absl::AnyInvocable<void()> output_ready;
    // PutInput has room, after it refused a byte.
    absl::AnyInvocable<void()> input_room;
  };

  explicit Uart16550(Hooks hooks);

  absl::string_view Name() const override { return "serial port"; }
  // What the guest sent and nobody has taken yet is of the state, and outlives a reset: it was said.
  std::string StateName() const override { return "uart/0"; }
  absl::Status Save(state::StateWriter& writer) const override;
  absl::Status Restore(state::StateReader& reader) override;
  void Reset() override;

  // Takes up to data.size() bytes that the guest sent; returns how many.
  size_t TakeOutput(absl::Span<uint8_t> data);

  // Puts bytes into the receiver; returns how many it had room for.
  size_t PutInput(absl::Span<const uint8_t> data);

  bool has_output() const;

 protected:
  uint8_t ReadByte(uint64_t offset) override;
  void WriteByte(uint64_t offset, uint8_t value) override;

 private:
  // What to do once the lock is released.
  struct Actions {
    bool drive_irq = false;
    bool output_ready = false;
    bool input_room = false;
  };
  void Act(const Actions& actions);

  size_t output_count() const { return output_head_ - output_tail_; }
  size_t receive_capacity() const { return fifo_enabled_ ? kFifoSize : 1; }
  uint8_t InterruptId() const;
  uint8_t ReadInterruptId(Actions& actions);
  uint8_t ModemStatus() const;
  uint8_t LineStatus() const;
  uint8_t ReadReceiver(Actions& actions);
  void Transmit(uint8_t value, Actions& actions);
  void Receive(uint8_t value);
  void WriteFifoControl(uint8_t value, Actions& actions);
  void SetModemControl(uint8_t value);
  void UpdateIrq(Actions& actions);

  Hooks hooks_;
  interrupt::IrqLine irq_;

  mutable std::mutex mutex_;  // guards what follows
  uint8_t interrupt_enable_ = 0;
  uint8_t line_control_ = 0;
  uint8_t modem_control_ = 0;
  uint8_t modem_delta_ = 0;
  uint8_t line_errors_ = 0;
  uint8_t scratch_ = 0;
  uint8_t divisor_low_ = 12, divisor_high_ = 0;  // 9600 baud
  bool fifo_enabled_ = false;
  uint8_t receive_trigger_ = 1;
  bool transmitter_empty_interrupt_ = false;
  bool input_refused_ = false;
  bool serving_ = false;  // the guest was told of data, and not yet that there is no more
  size_t moved_ = 0;      // bytes that it has sent and taken since

  std::array<uint8_t, kFifoSize> receive_;
  size_t receive_count_ = 0, receive_at_ = 0;

  std::vector<uint8_t> output_;  // a ring; made at the first byte
  size_t output_head_ = 0, output_tail_ = 0;
};

}  // namespace hvsdk::chipset

#endif  // HVSDK_CHIPSET_UART16550_H_
