// SPDX-License-Identifier: Apache-2.0
// PciVideo: the PCI function by which a generation 1 VM shows where its frame buffer is: Microsoft's 1414:5353, with one base address
// register. It has nothing else, not even interrupts: what is drawn there, the guest says by VMBus (vsp/video.h).
//
// The memory behind the register is where the firmware has put it, and stays there: a guest that writes another address reads that, and
// finds no memory there. Linux has no reason to, for the bus hands out no address but this one.
//
// Thread-safe. Source: PCI Local Bus Specification 3.0, 6.1 and 6.2.5; Linux drivers/video/fbdev/hyperv_fb.c.
//
//   PciVideo video(/*gpa=*/0xF8000000, /*size_bytes=*/8 << 20);
//   pci.SetFunction(PciVideo::kDevice, &video);

#ifndef HVSDK_CHIPSET_PCI_VIDEO_H_
#define HVSDK_CHIPSET_PCI_VIDEO_H_

#include <cstdint>
#include <mutex>
#include <string>

#include "hvsdk/chipset/pci_config.h"
#include "hvsdk/state/component.h"

namespace hvsdk::chipset {

class PciVideo final : public PciFunction, public state::Component {
 public:
  static constexpr uint8_t kDevice = 8;  // on bus 0, as Hyper-V has it

  // `size_bytes` is a power of two, at least 1 MiB, and `gpa` a multiple of it below 4 GiB.
  PciVideo(uint32_t gpa, uint32_t size_bytes);

  // PciFunction
  uint8_t ReadConfig(uint8_t at) override;
  void WriteConfig(uint8_t at, uint8_t value) override;

  std::string StateName() const override { return "pci-video"; }
  absl::Status Save(state::StateWriter& writer) const override;
  absl::Status Restore(state::StateReader& reader) override;
  void Reset() override;

 private:
  const uint32_t gpa_, address_mask_;
  mutable std::mutex mutex_;  // guards what follows
  uint16_t command_;
  uint32_t base_;
};

}  // namespace hvsdk::chipset

#endif  // HVSDK_CHIPSET_PCI_VIDEO_H_
