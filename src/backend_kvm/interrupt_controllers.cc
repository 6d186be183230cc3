// SPDX-License-Identifier: Apache-2.0
#include "backend_kvm/interrupt_controllers.h"

#include "absl/strings/str_format.h"
#include "base/status_macros.h"

namespace hvsdk::backend::kvm {
namespace {

// Fields of a redirection table entry (82093AA, 3.2.4).
constexpr uint64_t kLevelTriggered = 1 << 15;
constexpr uint64_t kEntryBits = 0xFF0000000001FFFF;

// The input of the IOAPIC that a line drives (kvm_partition.cc, RouteLines). Line 2 drives none, nothing drives input 0.
constexpr uint32_t kCascadeLine = 2;
constexpr uint32_t InputOf(uint32_t line) { return line == 0 ? 2 : line; }
constexpr uint32_t kDrivenInputs = 0xFFFFFE;

// In the kernel 0 is no initialisation, and 1 that ICW2 comes next.
constexpr uint8_t StepOf(uint8_t init_state) { return init_state == 0 ? 0 : static_cast<uint8_t>(init_state + 1); }
constexpr uint8_t InitStateOf(uint8_t step) { return step == 0 ? 0 : static_cast<uint8_t>(step - 1); }

PicState ToPicState(const kvm_pic_state& from) {
  PicState to;
  to.request = from.irr;
  to.service = from.isr;
  to.mask = from.imr;
  to.lines = from.last_irr;
  to.vector_base = from.irq_base;
  to.lowest_priority = (from.priority_add + 7) & 7;
  to.edge_level = from.elcr;
  to.init_step = StepOf(from.init_state);
  to.icw4_expected = from.init4 != 0;
  to.auto_eoi = from.auto_eoi != 0;
  to.rotate_on_auto_eoi = from.rotate_on_auto_eoi != 0;
  to.special_mask = from.special_mask != 0;
  to.special_fully_nested = from.special_fully_nested_mode != 0;
  to.poll = from.poll != 0;
  to.read_service = from.read_reg_select != 0;
  return to;
}

absl::Status FromPicState(const PicState& from, int chip, kvm_pic_state& to) {
  const auto invalid = [chip](absl::string_view field, uint8_t value) {
    return absl::InvalidArgumentError(absl::StrFormat("pics[%d].%s: impossible value %#x", chip, field, value));
  };
  if (from.init_step == 1 || from.init_step > 4) return invalid("init_step", from.init_step);
  if (from.lowest_priority > 7) return invalid("lowest_priority", from.lowest_priority);
  if ((from.vector_base & 7) != 0) return invalid("vector_base", from.vector_base);
  if ((from.edge_level & ~to.elcr_mask) != 0) return invalid("edge_level", from.edge_level);
  to.irr = from.request;
  to.isr = from.service;
  to.imr = from.mask;
  to.last_irr = from.lines;
  to.irq_base = from.vector_base;
  to.priority_add = (from.lowest_priority + 1) & 7;
  to.elcr = from.edge_level;
  to.init_state = InitStateOf(from.init_step);
  to.init4 = from.icw4_expected;
  to.auto_eoi = from.auto_eoi;
  to.rotate_on_auto_eoi = from.rotate_on_auto_eoi;
  to.special_mask = from.special_mask;
  to.special_fully_nested_mode = from.special_fully_nested;
  to.poll = from.poll;
  to.read_reg_select = from.read_service;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<InterruptControllers> InterruptControllers::PowerOn(const Fd& vm) {
  ASSIGN_OR_RETURN(InterruptControllers state, Take(vm));
  // The kernel makes 8259s whose inputs are open and whose vectors are those of exceptions: a guest that never heard of
  // them would get the serial port's interrupt as an overflow.
  for (const uint32_t id : {KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE}) state.chips[id].chip.pic.imr = 0xFF;
  RETURN_IF_ERROR(state.Restore(vm, 0));
  return state;
}

absl::StatusOr<InterruptControllers> InterruptControllers::Take(const Fd& vm) {
  InterruptControllers state;
  for (uint32_t id = 0; id < state.chips.size(); ++id) {
    state.chips[id].chip_id = id;
    RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vm, KVM_GET_IRQCHIP, &state.chips[id]));
  }
  return state;
}

absl::Status InterruptControllers::Restore(const Fd& vm, uint32_t lines) const {
  // First, for a line that rises requests an interrupt, if only until the controllers' own state comes.
  for (uint32_t line = 0; line < KVM_IOAPIC_NUM_PINS; ++line) {
    kvm_irq_level level{};
    level.irq = line;
    level.level = lines >> line & 1;
    RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vm, KVM_IRQ_LINE, &level));
  }
  for (const kvm_irqchip& chip : chips) RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vm, KVM_SET_IRQCHIP, &chip));
  return absl::OkStatus();
}

void InterruptControllers::ToState(uint32_t lines, PartitionState& state) const {
  const kvm_ioapic_state& io_apic = chips[KVM_IRQCHIP_IOAPIC].chip.ioapic;
  state.io_apic_id = static_cast<uint8_t>(io_apic.id & 0xF);
  state.io_apic_select = static_cast<uint8_t>(io_apic.ioregsel);
  for (size_t i = 0; i < state.redirection.size(); ++i) state.redirection[i] = io_apic.redirtbl[i].bits;
  state.io_apic_lines = 0;
  for (uint32_t line = 0; line < KVM_IOAPIC_NUM_PINS; ++line) {
    if (line != kCascadeLine && (lines >> line & 1) != 0) state.io_apic_lines |= 1u << InputOf(line);
  }
  state.pics[0] = ToPicState(chips[KVM_IRQCHIP_PIC_MASTER].chip.pic);
  state.pics[1] = ToPicState(chips[KVM_IRQCHIP_PIC_SLAVE].chip.pic);
}

absl::Status InterruptControllers::FromState(const PartitionState& state, uint32_t& lines) {
  InterruptControllers made = *this;
  if (state.io_apic_id > 0xF) {
    return absl::InvalidArgumentError(absl::StrFormat("io_apic_id: impossible value %#x", state.io_apic_id));
  }
  if ((state.io_apic_lines & ~kDrivenInputs) != 0) {
    return absl::InvalidArgumentError(absl::StrFormat("io_apic_lines: no line drives all of %#x", state.io_apic_lines));
  }
  kvm_ioapic_state& io_apic = made.chips[KVM_IRQCHIP_IOAPIC].chip.ioapic;
  io_apic.id = state.io_apic_id;
  io_apic.ioregsel = state.io_apic_select;
  io_apic.irr = 0;
  for (uint32_t i = 0; i < KVM_IOAPIC_NUM_PINS; ++i) {
    const uint64_t entry = state.redirection[i];
    if ((entry & ~kEntryBits) != 0) {
      return absl::InvalidArgumentError(absl::StrFormat("redirection[%u]: impossible value %#x", i, entry));
    }
    io_apic.redirtbl[i].bits = entry;
    // What an edge asked for was delivered or lost by the time of the save; a level that was not, or was masked, asks on.
    if ((entry & kLevelTriggered) != 0) io_apic.irr |= state.io_apic_lines & 1u << i;
  }
  RETURN_IF_ERROR(FromPicState(state.pics[0], 0, made.chips[KVM_IRQCHIP_PIC_MASTER].chip.pic));
  RETURN_IF_ERROR(FromPicState(state.pics[1], 1, made.chips[KVM_IRQCHIP_PIC_SLAVE].chip.pic));
  lines = 0;
  for (uint32_t line = 0; line < KVM_IOAPIC_NUM_PINS; ++line) {
    if (line != kCascadeLine && (state.io_apic_lines >> InputOf(line) & 1) != 0) lines |= 1u << line;
  }
  *this = made;
  return absl::OkStatus();
}

}  // namespace hvsdk::backend::kvm
