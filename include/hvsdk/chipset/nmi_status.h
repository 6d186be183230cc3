// SPDX-License-Identifier: Apache-2.0
// A PC's port 0x61, where a handler of non-maskable interrupts looks for what caused one. Here nothing does that a PC knows of: neither
// a parity error (bit 7, SERR#) nor a board's (bit 6, IOCHK#). The timer behind bit 5 is not there, and its output high, as that of one
// that has counted down, so that nobody waits for it. What is written, the speaker's gate and the two errors' masks, has no effect.
//
// Thread-safe: it has no state.
// Source: Intel I/O Controller Hub data sheets, "NMI_SC - NMI Status and Control Register".

#ifndef HVSDK_CHIPSET_NMI_STATUS_H_
#define HVSDK_CHIPSET_NMI_STATUS_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "hvsdk/base/device.h"

namespace hvsdk::chipset {

class NmiStatusPort final : public ByteDevice {
 public:
  static constexpr uint8_t kTimer2Output = 1 << 5;

  absl::string_view Name() const override { return "NMI status port"; }

 protected:
  uint8_t ReadByte(uint64_t) override { return kTimer2Output; }
  void WriteByte(uint64_t, uint8_t) override {}
};

}  // namespace hvsdk::chipset

#endif  // HVSDK_CHIPSET_NMI_STATUS_H_
