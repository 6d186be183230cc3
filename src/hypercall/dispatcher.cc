// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/hypercall/dispatcher.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_format.h"
#include "hvsdk/base/ids.h"
#include "hypercall/registers.h"

namespace hvsdk::hypercall {
namespace {

using hvdef::Control;
using hvdef::HvStatus;
using hvdef::MakeResult;

// The sizes of one call's lists, from its descriptor and its control word.
struct Layout {
  Layout(const Descriptor& call, Control control)
      : input_header(call.input_bytes + control.variable_words() * 8u),
        input_total(input_header + control.rep_count() * uint32_t{call.input_element_bytes}),
        output_total(call.output_bytes + control.rep_count() * uint32_t{call.output_element_bytes}),
        start(control.rep_start()),
        reps(std::min<uint32_t>(control.rep_count() - start, call.max_reps)) {}

  uint32_t input_header;
  uint32_t input_total;
  uint32_t output_total;
  uint16_t start;
  uint16_t reps;  // in this go
};

bool HasFieldsOf(const Descriptor& call, Control control) {
  if ((control.value & Control::kReserved) != 0) return false;
  if (!call.variable_header && control.variable_words() != 0) return false;
  return call.rep ? control.rep_start() < control.rep_count() : control.rep_count() == 0 && control.rep_start() == 0;
}

// Whether a parameter list lies where one may.
bool IsListAddress(const GuestMemory& memory, uint64_t gpa, uint32_t size) {
  return gpa % 8 == 0 && gpa % kPageSize + size <= kPageSize && memory.Pointer(gpa, size) != nullptr;
}

RepResult Invoke(const Descriptor& call, void* target, Caller& caller, const Block& block) {
  RepResult result = call.invoke(target, caller, block);
  result.completed = std::min(result.completed, block.reps);
  return result;
}

uint64_t ToResult(const Layout& layout, const RepResult& result) {
  return MakeResult(result.status, layout.start + result.completed);
}

}  // namespace

absl::Status Dispatcher::AddOne(const Descriptor& call, void* target) {
  if (Lookup(call.code) != nullptr) {
    return absl::AlreadyExistsError(absl::StrFormat("hypercall code %#x is taken", call.code));
  }
  if (call.input_bytes > kPageSize || call.output_bytes > kPageSize || call.max_reps == 0) {
    return absl::InvalidArgumentError(absl::StrFormat("hypercall %s: parameters do not fit a page", call.name));
  }
  entries_.push_back({call, target});
  if (call.code < kDirectCodes) direct_[call.code] = static_cast<uint16_t>(entries_.size() - 1);
  return absl::OkStatus();
}

const Dispatcher::Entry* Dispatcher::Lookup(uint16_t code) const {
  if (code < kDirectCodes) return direct_[code] == kUnknown ? nullptr : &entries_[direct_[code]];
  for (const Entry& entry : entries_) {
    if (entry.call.code == code) return &entry;
  }
  return nullptr;
}

const Descriptor* Dispatcher::Find(uint16_t code) const {
  const Entry* entry = Lookup(code);
  return entry == nullptr ? nullptr : &entry->call;
}

backend::HypercallOutcome Dispatcher::Dispatch(Caller& caller, CallRecord* record) const {
  Registers registers(caller.vp);
  if (!registers.LoadMode()) return backend::HypercallOutcome::kUndefinedOpcode;
  const Control control = registers.control();
  const Entry* entry = Lookup(control.code());
  uint64_t result;
  if (entry == nullptr) {
    result = MakeResult(HvStatus::kInvalidHypercallCode);
  } else if ((entry->call.privilege & ~caller.privileges) != 0) {
    result = MakeResult(HvStatus::kAccessDenied);
  } else if (!HasFieldsOf(entry->call, control)) {
    result = MakeResult(HvStatus::kInvalidHypercallInput);
  } else {
    result = Execute(caller, *entry, registers);
  }
  if (record != nullptr) *record = {control, entry == nullptr ? nullptr : &entry->call, result};
  if (hvdef::ResultStatus(result) == HvStatus::kSuccess && hvdef::ResultReps(result) < control.rep_count()) {
    registers.SetControl(control.WithRepStart(hvdef::ResultReps(result)));
    return backend::HypercallOutcome::kRetry;
  }
  registers.SetResult(result);
  return backend::HypercallOutcome::kDone;
}

uint64_t Dispatcher::Execute(Caller& caller, const Entry& entry, Registers& registers) const {
  return registers.control().fast() ? ExecuteFast(caller, entry, registers) : ExecuteMemory(caller, entry, registers);
}

// Input in registers, and the output in those behind it, from the next multiple of 16 on.
uint64_t Dispatcher::ExecuteFast(Caller& caller, const Entry& entry, Registers& registers) const {
  const Descriptor& call = entry.call;
  const Control control = registers.control();
  const Layout layout(call, control);
  const uint32_t output_at = (layout.input_total + 15) & ~15u;
  if (std::max(layout.input_total, output_at + layout.output_total) > hvdef::kFastBlockBytes ||
      (layout.output_total != 0 && !registers.is_64_bit())) {
    return MakeResult(HvStatus::kInvalidHypercallInput);
  }
  alignas(16) uint8_t block[hvdef::kFastBlockBytes + 16];
  if (!registers.ReadBlock(block, layout.input_total)) return MakeResult(HvStatus::kInvalidVpState);
  alignas(16) uint8_t output[hvdef::kFastBlockBytes + 16];
  // What is left of the last register is zero; what elements done in an earlier go left there stays.
  if (layout.output_total != 0) {
    if (layout.start != 0 && !registers.ReadBlock(output, output_at + layout.output_total)) {
      return MakeResult(HvStatus::kInvalidVpState);
    }
    const uint32_t keep =
        layout.start == 0 ? output_at : output_at + call.output_bytes + layout.start * call.output_element_bytes;
    std::memset(output + keep, 0, sizeof(output) - keep);
  }
  const RepResult result =
      Invoke(call, entry.target, caller,
             {.input = block,
              .variable = block + call.input_bytes,
              .input_elements = block + layout.input_header + layout.start * call.input_element_bytes,
              .output = output + output_at,
              .output_elements = output + output_at + call.output_bytes + layout.start * call.output_element_bytes,
              .variable_words = control.variable_words(),
              .reps = layout.reps});
  const bool has_output = result.status == HvStatus::kSuccess || result.completed != 0;
  if (layout.output_total != 0 && has_output) {
    const uint32_t done = call.output_bytes + (layout.start + result.completed) * uint32_t{call.output_element_bytes};
    if (!registers.WriteBlock(output, output_at, output_at + ((done + 7) & ~7u))) {
      return MakeResult(HvStatus::kInvalidVpState);
    }
  }
  return ToResult(layout, result);
}

uint64_t Dispatcher::ExecuteMemory(Caller& caller, const Entry& entry, Registers& registers) const {
  const Descriptor& call = entry.call;
  const Control control = registers.control();
  const Layout layout(call, control);
  const uint64_t input_gpa = layout.input_total == 0 ? 0 : registers.input();
  const uint64_t output_gpa = layout.output_total == 0 ? 0 : registers.output();
  if (layout.input_total != 0 && !IsListAddress(memory_, input_gpa, layout.input_total)) {
    return MakeResult(HvStatus::kInvalidAlignment, layout.start);
  }
  if (layout.output_total != 0 && !IsListAddress(memory_, output_gpa, layout.output_total)) {
    return MakeResult(HvStatus::kInvalidAlignment, layout.start);
  }

  // Private copies: the header, and the elements of this go right behind it.
  alignas(16) uint8_t input[kPageSize];
  const uint32_t elements_at = layout.start * uint32_t{call.input_element_bytes};
  const uint32_t elements_size = layout.reps * uint32_t{call.input_element_bytes};
  if (!memory_.Read(input_gpa, input, layout.input_header) ||
      !memory_.Read(input_gpa + layout.input_header + elements_at, input + layout.input_header, elements_size)) {
    return MakeResult(HvStatus::kInvalidAlignment, layout.start);
  }
  alignas(16) uint8_t output[kPageSize];
  std::memset(output, 0, call.output_bytes + layout.reps * uint32_t{call.output_element_bytes});

  const RepResult result = Invoke(call, entry.target, caller,
                                  {.input = input,
                                   .variable = input + call.input_bytes,
                                   .input_elements = input + layout.input_header,
                                   .output = output,
                                   .output_elements = output + call.output_bytes,
                                   .variable_words = control.variable_words(),
                                   .reps = layout.reps});
  if (call.output_bytes != 0 && result.status == HvStatus::kSuccess &&
      !memory_.Write(output_gpa, output, call.output_bytes)) {
    return MakeResult(HvStatus::kInvalidAlignment, layout.start);
  }
  const uint64_t output_elements = output_gpa + call.output_bytes + layout.start * uint32_t{call.output_element_bytes};
  if (!memory_.Write(output_elements, output + call.output_bytes,
                     result.completed * uint32_t{call.output_element_bytes})) {
    return MakeResult(HvStatus::kInvalidAlignment, layout.start);
  }
  return ToResult(layout, result);
}

}  // namespace hvsdk::hypercall
