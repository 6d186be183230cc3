// SPDX-License-Identifier: Apache-2.0
#include "machine/tracing_exit_handler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"

namespace hvsdk::machine {
namespace {

uint64_t FirstBytes(absl::Span<const uint8_t> data) {
  uint64_t value = 0;
  for (size_t i = 0; i < std::min<size_t>(data.size(), 8); ++i) value |= uint64_t{data[i]} << (8 * i);
  return value;
}

std::string Access(uint64_t address, absl::Span<const uint8_t> data) {
  return absl::StrFormat(R"("address":"%#x","bytes":%d,"value":"%#x")", address, data.size(), FirstBytes(data));
}

std::string Msr(uint32_t msr, uint64_t value, backend::MsrOutcome outcome) {
  return absl::StrFormat(R"("msr":"%#x","value":"%#x","fault":%s)", msr, value,
                         outcome == backend::MsrOutcome::kFault ? "true" : "false");
}

}  // namespace

void TracingExitHandler::OnPortRead(backend::Vp& vp, uint16_t port, absl::Span<uint8_t> data) {
  const uint64_t start = tracer_.NowNs();
  next().OnPortRead(vp, port, data);
  tracer_.Span(ToInt(vp.index()), "exit", "port read", start, Access(port, data));
}

void TracingExitHandler::OnPortWrite(backend::Vp& vp, uint16_t port, absl::Span<const uint8_t> data) {
  const uint64_t start = tracer_.NowNs();
  next().OnPortWrite(vp, port, data);
  tracer_.Span(ToInt(vp.index()), "exit", "port write", start, Access(port, data));
}

void TracingExitHandler::OnMmioRead(backend::Vp& vp, uint64_t gpa, absl::Span<uint8_t> data) {
  const uint64_t start = tracer_.NowNs();
  next().OnMmioRead(vp, gpa, data);
  tracer_.Span(ToInt(vp.index()), "exit", "MMIO read", start, Access(gpa, data));
}

void TracingExitHandler::OnMmioWrite(backend::Vp& vp, uint64_t gpa, absl::Span<const uint8_t> data) {
  const uint64_t start = tracer_.NowNs();
  next().OnMmioWrite(vp, gpa, data);
  tracer_.Span(ToInt(vp.index()), "exit", "MMIO write", start, Access(gpa, data));
}

backend::MsrOutcome TracingExitHandler::OnMsrRead(backend::Vp& vp, uint32_t msr, uint64_t& value) {
  const uint64_t start = tracer_.NowNs();
  const backend::MsrOutcome outcome = next().OnMsrRead(vp, msr, value);
  tracer_.Span(ToInt(vp.index()), "exit", "MSR read", start, Msr(msr, value, outcome));
  return outcome;
}

backend::MsrOutcome TracingExitHandler::OnMsrWrite(backend::Vp& vp, uint32_t msr, uint64_t value) {
  const uint64_t start = tracer_.NowNs();
  const backend::MsrOutcome outcome = next().OnMsrWrite(vp, msr, value);
  tracer_.Span(ToInt(vp.index()), "exit", "MSR write", start, Msr(msr, value, outcome));
  return outcome;
}

backend::HypercallOutcome TracingExitHandler::OnHypercall(backend::Vp& vp) {
  const uint64_t start = tracer_.NowNs();
  // A call that a layer below answers leaves it as it is.
  hypercall::CallRecord& record = board_.last_call(vp.index());
  record = {};
  const backend::HypercallOutcome outcome = next().OnHypercall(vp);
  const hvdef::Control control = record.control;
  tracer_.Span(
      ToInt(vp.index()), "hypercall", record.call != nullptr ? record.call->name : "unknown hypercall", start,
      absl::StrFormat(R"("code":"%#x","fast":%s,"reps":%d,"status":"%#x","undefined_opcode":%s)", control.code(),
                      control.fast() ? "true" : "false", control.rep_count(), record.result & 0xFFFF,
                      outcome == backend::HypercallOutcome::kUndefinedOpcode ? "true" : "false"));
  return outcome;
}

}  // namespace hvsdk::machine
