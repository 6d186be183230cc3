// SPDX-License-Identifier: Apache-2.0
// The kernel's IOAPIC and 8259s, and their state in the terms that all engines share (hvsdk/backend/state.h).

#ifndef HVSDK_SRC_BACKEND_KVM_INTERRUPT_CONTROLLERS_H_
#define HVSDK_SRC_BACKEND_KVM_INTERRUPT_CONTROLLERS_H_

#include <linux/kvm.h>

#include <array>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend_kvm/kvm_api.h"
#include "hvsdk/backend/state.h"

namespace hvsdk::backend::kvm {

struct InterruptControllers {
  // Gives a new machine's the state in which a guest finds them.
  static absl::StatusOr<InterruptControllers> PowerOn(const Fd& vm);
  static absl::StatusOr<InterruptControllers> Take(const Fd& vm);
  // The kernel keeps the lines' levels apart from the controllers' state; it cannot be asked for them.
  absl::Status Restore(const Fd& vm, uint32_t lines) const;

  // `lines`: the levels of the lines of Partition::SetIrqLine, by number.
  void ToState(uint32_t lines, PartitionState& state) const;
  // InvalidArgument names what no controller can be; then nothing has changed, nor has `lines`.
  absl::Status FromState(const PartitionState& state, uint32_t& lines);

  std::array<kvm_irqchip, 3> chips{};  // by chip_id: master, slave, IOAPIC
};

}  // namespace hvsdk::backend::kvm

#endif  // HVSDK_SRC_BACKEND_KVM_INTERRUPT_CONTROLLERS_H_
