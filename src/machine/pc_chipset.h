// SPDX-License-Identifier: Apache-2.0
// What a PC has on its ports: real-time clock, power registers, keyboard controller, PCI, and a serial port if it
// leads somewhere.

#ifndef HVSDK_SRC_MACHINE_PC_CHIPSET_H_
#define HVSDK_SRC_MACHINE_PC_CHIPSET_H_

#include <memory>
#include <vector>

#include "absl/types/optional.h"
#include "hvsdk/chipset/nmi_status.h"
#include "hvsdk/chipset/pci_config.h"
#include "hvsdk/chipset/pci_video.h"
#include "hvsdk/chipset/power.h"
#include "hvsdk/chipset/rtc.h"
#include "hvsdk/chipset/uart16550.h"
#include "hvsdk/machine/part.h"
#include "hvsdk/machine/serial_endpoint.h"

namespace hvsdk::machine {

class PcChipset final : public Part {
 public:
  // Both outlive the part; `serial` may be null.
  PcChipset(chipset::PowerHandler& power, SerialEndpoint* serial) : power_(power), serial_(serial) {}

  absl::Status Attach(Board& board) override;
  std::vector<state::Component*> components() override;
  // After a restore or a resume: the console goes on with what the port has.
  void Resume() override;
  void Detach() override;

  // Thread-safe, while it is attached.
  void PressPowerButton() { acpi_power_->PressPowerButton(); }
  void OnNewGenerationId() { acpi_power_->OnNewGenerationId(); }

 private:
  chipset::PowerHandler& power_;
  SerialEndpoint* const serial_;
  Board* board_ = nullptr;
  chipset::KeyboardController keyboard_{power_};
  chipset::NmiStatusPort nmi_status_;
  chipset::SystemControlPort system_control_{power_};
  chipset::PciConfigPorts pci_;
  absl::optional<chipset::PciVideo> pci_video_;  // of a machine with a frame buffer
  std::unique_ptr<chipset::Uart16550> uart_;
  std::unique_ptr<chipset::AcpiPower> acpi_power_;
  std::unique_ptr<chipset::Rtc> rtc_;
};

}  // namespace hvsdk::machine

#endif  // HVSDK_SRC_MACHINE_PC_CHIPSET_H_
