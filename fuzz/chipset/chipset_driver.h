// SPDX-License-Identifier: Apache-2.0
// Turns bytes into accesses to all that a PC has on its ports, and to its interrupt controllers, wired as on a board;
// the host drives lines, feeds and empties the serial port, presses the power button and lets time pass.
//
// Ends the program where a promise is broken: an interrupt line that is driven to the level it has, a vector out of
// nowhere, a buffer beyond its limit, or a device that does not work when it is programmed anew, whatever was before.

#ifndef HVSDK_FUZZ_CHIPSET_CHIPSET_DRIVER_H_
#define HVSDK_FUZZ_CHIPSET_CHIPSET_DRIVER_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <iterator>
#include <memory>
#include <utility>

#include "absl/types/span.h"
#include "base/check.h"
#include "fuzz/bytes.h"
#include "hvsdk/base/fake_clock.h"
#include "hvsdk/chipset/bus.h"
#include "hvsdk/chipset/pci_config.h"
#include "hvsdk/chipset/power.h"
#include "hvsdk/chipset/rtc.h"
#include "hvsdk/chipset/uart16550.h"
#include "hvsdk/interrupt/apic_bus.h"
#include "hvsdk/interrupt/io_apic.h"
#include "hvsdk/interrupt/local_apic.h"
#include "hvsdk/interrupt/pic8259.h"

namespace hvsdk::chipset {

class ChipsetDriver : private PowerHandler, private WallClock {
 public:
  ChipsetDriver() {
    Map(interrupt::Pic8259Pair::kMasterPort, 2, pic_, interrupt::Pic8259Pair::kMaster);
    Map(interrupt::Pic8259Pair::kSlavePort, 2, pic_, interrupt::Pic8259Pair::kSlave);
    Map(interrupt::Pic8259Pair::kTriggerPort, 2, pic_, interrupt::Pic8259Pair::kTrigger);
    Map(kRtcPort, Rtc::kPorts, rtc_);
    Map(kPowerPort, AcpiPower::kPorts, power_);
    Map(0x60, 1, keyboard_, KeyboardController::kData);
    Map(0x64, 1, keyboard_, KeyboardController::kCommand);
    Map(0x92, 1, system_control_);
    Map(0xCF8, PciConfigPorts::kPorts, pci_);
    Map(kSerialPort, Uart16550::kPorts, uart_);
  }

  void Drive(absl::Span<const uint8_t> input) {
    input_ = fuzz::Bytes(input);
    while (!input_.empty()) Step();
    CheckThatItStillWorks();
  }

 private:
  static constexpr uint16_t kRtcPort = 0x70, kSerialPort = 0x3F8, kPowerPort = 0x600;
  static constexpr uint32_t kSerialIrq = 4, kRtcIrq = 8, kSciIrq = 9;
  static constexpr size_t kProcessors = 2;
  static constexpr size_t kMostTimers = 1 + kProcessors;  // the RTC's and each local APIC's

  void Map(uint16_t port, uint64_t count, Device& device, uint64_t offset = 0) {
    HVSDK_CHECK(ports_.Map(port, count, &device, offset).ok());
  }

  void Step() {
    const uint8_t op = input_.Take<uint8_t>();
    switch (op % 16) {
      default:
        PortAccess(op / 16 % 2 != 0);
        break;
      case 0:  // the index and the data of CMOS, which two writes would seldom bring together
        Out(kRtcPort, input_.Take<uint8_t>() % 16);
        Out(kRtcPort + 1, input_.Take<uint8_t>());
        break;
      case 1:
        timers_.AdvanceBy(input_.Take<uint16_t>());
        break;
      case 2: {  // timers run late, by up to a day and a quarter
        clock_.Advance(input_.Take<uint64_t>() >> 24);
        timers_.RunDue();
        break;
      }
      case 3:
        Wire(input_.Take<uint8_t>() % interrupt::IoApic::kPins, op / 16 % 2 != 0);
        break;
      case 4:
        HostSerial(op / 16 % 2 != 0);
        break;
      case 5:
        power_.PressPowerButton();
        break;
      case 6:
        Interrupt();
        break;
      case 7:
      case 8:
        LocalApicAccess(op / 16);
        break;
      case 9:
        IoApicAccess(op / 16 % 2 != 0);
        break;
    }
    HVSDK_CHECK(timers_.armed() <= kMostTimers);
  }

  // --- The guest. ---

  void Out(uint16_t port, uint8_t value) { HVSDK_CHECK(ports_.Write(port, {&value, 1})); }
  uint8_t In(uint16_t port) {
    uint8_t value = 0;
    HVSDK_CHECK(ports_.Read(port, {&value, 1}));
    return value;
  }
  void PortAccess(bool write) {
    struct Block {
      uint16_t port;
      uint8_t count;
    };
    static constexpr Block kBlocks[] = {{kSerialPort, 8},
                                        {interrupt::Pic8259Pair::kMasterPort, 2},
                                        {interrupt::Pic8259Pair::kSlavePort, 2},
                                        {kRtcPort, 2},
                                        {0x60, 1},
                                        {0x64, 1},
                                        {0x92, 1},
                                        {kPowerPort, AcpiPower::kPorts},
                                        {0xCF8, 8},
                                        {interrupt::Pic8259Pair::kTriggerPort, 2},
                                        {kSerialPort, 8}};
    const uint8_t where = input_.Take<uint8_t>();
    const Block& block = kBlocks[where % std::size(kBlocks)];
    const auto port = static_cast<uint16_t>(block.port + where / std::size(kBlocks) % block.count);
    const uint8_t shape = input_.Take<uint8_t>();
    const size_t size = shape < 0xE0 ? 1 : shape < 0xF0 ? 2 : 4;
    std::array<uint8_t, 4> data{};
    if (write) {
      for (size_t i = 0; i < size; ++i) data[i] = input_.Take<uint8_t>();
      (void)ports_.Write(port, absl::MakeConstSpan(data).first(size));
    } else {
      (void)ports_.Read(port, absl::MakeSpan(data).first(size));
    }
  }
  void IoApicAccess(bool write) {
    const uint8_t index = input_.Take<uint8_t>();
    io_apic_.WriteMmio(0, index % 0x41);
    if (write) {
      io_apic_.WriteMmio(0x10, input_.Take<uint32_t>());
    } else {
      (void)io_apic_.ReadMmio(index >= 0x80 ? 0x10 : index);
    }
  }
  void LocalApicAccess(uint8_t shape) {
    interrupt::LocalApic& apic = *processors_[shape & 1].apic;
    const uint8_t where = input_.Take<uint8_t>();
    // By MSR, or by memory where an engine leads it there.
    if ((shape & 2) != 0) {
      const uint32_t msr = where < 0x40 ? 0x800 + where : 0x6E0;
      uint64_t value = 0;
      if (where >= 0xF0) {
        (void)apic.WriteBase(apic.base() ^ (input_.Take<uint8_t>() % 4) << 10);
      } else if (where >= 0xE0) {
        apic.SetCr8(where % 16);
      } else if ((shape & 4) != 0) {
        (void)apic.WriteMsr(msr, input_.Take<uint64_t>());
      } else {
        (void)apic.ReadMsr(msr, value);
      }
    } else if (apic.enabled() && !apic.x2apic()) {
      const uint32_t offset = where % 0x40 * 16 + (where >= 0xF0 ? 4 : 0);
      if ((shape & 4) != 0) {
        apic.WriteMmio(offset, input_.Take<uint32_t>());
      } else {
        (void)apic.ReadMmio(offset);
      }
    }
  }
  // A processor takes what is due.
  void Interrupt() {
    Processor& processor = processors_[input_.Take<uint8_t>() % kProcessors];
    interrupt::LocalApic& apic = *processor.apic;
    if (const uint32_t signals = apic.TakeSignals(); (signals & interrupt::LocalApic::kInit) != 0)
      apic.Reset(/*init=*/true);
    if (pic_.interrupt() && apic.accepts_extint()) {
      (void)pic_.Acknowledge();
    } else {
      const int pending = apic.PendingVector();
      HVSDK_CHECK(apic.Acknowledge() == pending);
      HVSDK_CHECK(pending == -1 || (pending >= 16 && pending < 256));
    }
    if (input_.Take<uint8_t>() % 2 == 0) apic.Eoi();
  }

  // --- The board. ---

  // As backend::Partition::SetIrqLine.
  void Wire(uint32_t irq, bool level) {
    if (irq != 2) io_apic_.SetLine(irq == 0 ? 2 : irq, level);
    if (irq < interrupt::Pic8259Pair::kInputs && irq != interrupt::Pic8259Pair::kCascade) pic_.SetLine(irq, level);
  }
  std::function<void(bool)> Line(uint32_t irq) {
    return [this, irq](bool level) {
      HVSDK_CHECK(levels_[irq] != level);
      levels_[irq] = level;
      Wire(irq, level);
      if (irq == kRtcIrq && level) power_.OnRtcAlarm();
    };
  }
  void HostSerial(bool sends) {
    std::array<uint8_t, 256> bytes;
    const auto some = absl::MakeSpan(bytes).first(input_.Take<uint8_t>());
    if (sends) {
      bytes.fill(input_.Take<uint8_t>());
      HVSDK_CHECK(uart_.PutInput(some) <= Uart16550::kFifoSize);
    } else {
      HVSDK_CHECK(uart_.TakeOutput(some) <= some.size());
    }
  }
  void OnPowerOff() override {}
  void OnReset() override {}
  int64_t NowNs() const override { return 1'700'000'000'000'000'000 + static_cast<int64_t>(clock_.Now100ns()) * 100; }

  // --- At the end. ---

  void CheckThatItStillWorks() {
    // Whose timers would tick through the seconds that the clock is watched for.
    for (const Processor& processor : processors_) processor.apic->Reset(/*init=*/false);
    CheckPic();
    CheckUart();
    CheckRtc();
  }
  void CheckPic() {
    for (uint32_t irq = 0; irq < interrupt::Pic8259Pair::kInputs; ++irq) pic_.SetLine(irq, false);
    Out(0x4D0, 0);
    Out(0x4D1, 0);
    for (const uint16_t port : {interrupt::Pic8259Pair::kMasterPort, interrupt::Pic8259Pair::kSlavePort}) {
      const bool is_master = port == interrupt::Pic8259Pair::kMasterPort;
      Out(port, 0x11);
      Out(port + 1, is_master ? 0x20 : 0x28);
      Out(port + 1, is_master ? 4 : 2);
      Out(port + 1, 1);
      Out(port + 1, 0);
    }
    HVSDK_CHECK(!pic_.interrupt());
    for (const uint32_t irq : {5u, 12u}) {
      pic_.SetLine(irq, true);
      HVSDK_CHECK(pic_.interrupt() && pic_.Acknowledge() == 0x20 + irq && !pic_.interrupt());
      pic_.SetLine(irq, false);
      if (irq >= 8) Out(interrupt::Pic8259Pair::kSlavePort, 0x20);
      Out(interrupt::Pic8259Pair::kMasterPort, 0x20);
    }
  }
  void CheckUart() {
    Out(kSerialPort + 3, 3);     // LCR: eight bits, no DLAB
    Out(kSerialPort + 4, 0x08);  // MCR: OUT2, no loopback
    Out(kSerialPort + 2, 0x07);  // FCR: FIFOs on and empty
    Out(kSerialPort + 1, 0);
    HVSDK_CHECK(!levels_[kSerialIrq]);
    std::array<uint8_t, Uart16550::kOutputSize> bytes;
    HVSDK_CHECK(uart_.TakeOutput(absl::MakeSpan(bytes)) <= Uart16550::kOutputSize);
    HVSDK_CHECK(!uart_.has_output());
    Out(kSerialPort, 'x');
    HVSDK_CHECK(uart_.TakeOutput(absl::MakeSpan(bytes)) == 1 && bytes[0] == 'x');
    const uint8_t input = 'y';
    HVSDK_CHECK(uart_.PutInput({&input, 1}) == 1);
    Out(kSerialPort + 1, 1);
    HVSDK_CHECK(levels_[kSerialIrq]);
    HVSDK_CHECK(In(kSerialPort) == 'y' && !levels_[kSerialIrq]);
  }
  void CheckRtc() {
    const auto set = [&](uint8_t index, uint8_t value) {
      Out(kRtcPort, index);
      Out(kRtcPort + 1, value);
    };
    const auto get = [&](uint8_t index) {
      Out(kRtcPort, index);
      return In(kRtcPort + 1);
    };
    set(11, 0x82);  // SET; BCD, 24 hours
    set(10, 0x26);
    const std::pair<uint8_t, uint8_t> kDate[] = {{0, 0x58}, {2, 0x59}, {4, 0x23},   {7, 0x28},
                                                 {8, 2},    {9, 0x24}, {0x32, 0x20}};
    for (const auto& [index, value] : kDate) set(index, value);
    set(11, 0x02);
    (void)get(12);
    HVSDK_CHECK(!levels_[kRtcIrq]);
    set(11, 0x12);  // an interrupt with each update
    timers_.AdvanceBy(30'000'000);
    HVSDK_CHECK(levels_[kRtcIrq]);
    HVSDK_CHECK((get(12) & 0x90) == 0x90 && !levels_[kRtcIrq]);
    HVSDK_CHECK(get(7) == 0x29 && get(4) == 0 && get(0) <= 0x02);
  }

  struct Processor : interrupt::LocalApicHost {
    Processor(uint32_t id, ChipsetDriver& board)
        : clock(board.clock_),
          apic(std::make_unique<interrupt::LocalApic>(interrupt::LocalApic::Config{.id = id,
                                                                                   .bootstrap = id == 0,
                                                                                   .tsc_frequency_hz = 1'000'000'000,
                                                                                   .timer_frequency_hz = 100'000'000,
                                                                                   .virtual_wire = id == 0},
                                                      board.apic_bus_, *this, board.clock_, board.timers_)) {}
    void OnApicWork() override {}
    uint64_t ReadTsc() override { return clock.Now100ns() * 100; }

    FakeClock& clock;
    std::unique_ptr<interrupt::LocalApic> apic;
  };

  fuzz::Bytes input_{{}};
  FakeClock clock_;
  FakeTimerQueue timers_{clock_};
  std::array<bool, interrupt::Pic8259Pair::kInputs> levels_{};
  interrupt::ApicBus apic_bus_;
  interrupt::IoApic io_apic_{apic_bus_};
  std::array<Processor, kProcessors> processors_{Processor{0, *this}, Processor{1, *this}};
  interrupt::Pic8259Pair pic_{[] {}};
  AcpiPower power_{*this, Line(kSciIrq)};
  KeyboardController keyboard_{*this};
  SystemControlPort system_control_{*this};
  PciConfigPorts pci_;
  Rtc rtc_{*this, clock_, timers_, Line(kRtcIrq)};
  Uart16550 uart_{{.irq = Line(kSerialIrq), .output_ready = [] {}, .input_room = [] {}}};
  Bus ports_;
};

}  // namespace hvsdk::chipset

#endif  // HVSDK_FUZZ_CHIPSET_CHIPSET_DRIVER_H_
