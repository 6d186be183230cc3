// SPDX-License-Identifier: Apache-2.0
#include "backend_software/partition_state.h"

#include "absl/strings/str_format.h"
#include "base/status_macros.h"

namespace hvsdk::software {
namespace {

// Rates that a processor may have; beyond, arithmetic on times would overflow.
constexpr uint64_t kMinTscHz = 1'000'000, kMaxTscHz = 100'000'000'000;

template <typename To, typename From>
To CopyPic(const From& from) {
  To to;
  to.request = from.request;
  to.service = from.service;
  to.mask = from.mask;
  to.lines = from.lines;
  to.vector_base = from.vector_base;
  to.lowest_priority = from.lowest_priority;
  to.edge_level = from.edge_level;
  to.init_step = from.init_step;
  to.icw4_expected = from.icw4_expected;
  to.auto_eoi = from.auto_eoi;
  to.rotate_on_auto_eoi = from.rotate_on_auto_eoi;
  to.special_mask = from.special_mask;
  to.special_fully_nested = from.special_fully_nested;
  to.poll = from.poll;
  to.read_service = from.read_service;
  to.single = from.single;
  return to;
}

}  // namespace

void SavePartition(Machine& machine, backend::PartitionState& state) {
  state = {};
  state.tsc_frequency_hz = machine.tsc_frequency_hz();
  state.guest_tsc = machine.Tsc();
  const interrupt::IoApicState io_apic = machine.io_apic().Save();
  state.io_apic_id = io_apic.id;
  state.io_apic_select = io_apic.select;
  state.redirection = io_apic.redirection;
  state.io_apic_lines = io_apic.lines;
  const interrupt::Pic8259Pair::State pics = machine.pic().Save();
  for (size_t i = 0; i < pics.size(); ++i) state.pics[i] = CopyPic<backend::PicState>(pics[i]);
}

absl::Status RestorePartition(Machine& machine, const backend::PartitionState& state) {
  if (state.tsc_frequency_hz < kMinTscHz || state.tsc_frequency_hz > kMaxTscHz) {
    return absl::InvalidArgumentError(absl::StrFormat("tsc_frequency_hz: impossible value %u", state.tsc_frequency_hz));
  }
  const interrupt::IoApicState io_apic{.id = state.io_apic_id,
                                       .select = state.io_apic_select,
                                       .redirection = state.redirection,
                                       .lines = state.io_apic_lines};
  RETURN_IF_ERROR(interrupt::IoApic::Check(io_apic));
  interrupt::Pic8259Pair::State pics;
  for (size_t i = 0; i < pics.size(); ++i) pics[i] = CopyPic<interrupt::Pic8259State>(state.pics[i]);
  RETURN_IF_ERROR(interrupt::Pic8259Pair::Check(pics));
  machine.SetTsc(state.guest_tsc, state.tsc_frequency_hz);
  machine.io_apic().Restore(io_apic);
  machine.pic().Restore(pics);
  return absl::OkStatus();
}

}  // namespace hvsdk::software
