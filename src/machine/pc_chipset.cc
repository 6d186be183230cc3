// SPDX-License-Identifier: Apache-2.0
#include "machine/pc_chipset.h"

#include "base/status_macros.h"
#include "hvsdk/boot/acpi_tables.h"

namespace hvsdk::machine {

std::vector<state::Component*> PcChipset::components() {
  std::vector<state::Component*> all{rtc_.get(), acpi_power_.get(), &keyboard_, &system_control_, &pci_};
  if (pci_video_.has_value()) all.push_back(&*pci_video_);
  if (uart_ != nullptr) all.push_back(uart_.get());
  return all;
}

void PcChipset::Resume() {
  if (serial_ != nullptr) board_->loop().Schedule(*serial_);
}

absl::Status PcChipset::Attach(Board& board) {
  board_ = &board;
  acpi_power_ = std::make_unique<chipset::AcpiPower>(power_, board.IrqLine(boot::kSciIrq));
  rtc_ = std::make_unique<chipset::Rtc>(board.wall_clock(), board.clock(), board.timers(),
                                        [this, irq = board.IrqLine(boot::kRtcIrq)](bool level) {
                                          irq(level);
                                          if (level) acpi_power_->OnRtcAlarm();
                                        });
  RETURN_IF_ERROR(board.MapPorts(boot::kRtcPort, chipset::Rtc::kPorts, *rtc_));
  RETURN_IF_ERROR(board.MapPorts(boot::kPowerPort, chipset::AcpiPower::kPorts, *acpi_power_));
  RETURN_IF_ERROR(board.MapPorts(0x60, 1, keyboard_, chipset::KeyboardController::kData));
  RETURN_IF_ERROR(board.MapPorts(0x61, 1, nmi_status_));
  RETURN_IF_ERROR(board.MapPorts(0x64, 1, keyboard_, chipset::KeyboardController::kCommand));
  RETURN_IF_ERROR(board.MapPorts(0x92, 1, system_control_));
  if (const boot::GpaRange& video = board.layout().video; video.size_bytes != 0) {
    pci_.SetFunction(chipset::PciVideo::kDevice,
                     &pci_video_.emplace(static_cast<uint32_t>(video.gpa), static_cast<uint32_t>(video.size_bytes)));
  }
  RETURN_IF_ERROR(board.MapPorts(0xCF8, chipset::PciConfigPorts::kPorts, pci_));
  if (serial_ == nullptr) return absl::OkStatus();
  const auto look = [this, &loop = board.loop()] { loop.Schedule(*serial_); };
  uart_ = std::make_unique<chipset::Uart16550>(
      chipset::Uart16550::Hooks{.irq = board.IrqLine(boot::kSerialIrq), .output_ready = look, .input_room = look});
  RETURN_IF_ERROR(board.MapPorts(boot::kSerialPort, chipset::Uart16550::kPorts, *uart_));
  return serial_->Attach(*uart_);
}

void PcChipset::Detach() {
  if (uart_ != nullptr) serial_->Detach();
  uart_.reset();
  rtc_.reset();
  acpi_power_.reset();
}

}  // namespace hvsdk::machine
