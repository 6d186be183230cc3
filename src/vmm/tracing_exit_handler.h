// SPDX-License-Identifier: Apache-2.0
// Traces every exit on its way to the handler that answers it. A machine that is not traced does without.

#ifndef HVSDK_SRC_VMM_TRACING_EXIT_HANDLER_H_
#define HVSDK_SRC_VMM_TRACING_EXIT_HANDLER_H_

#include "absl/functional/any_invocable.h"
#include "hvsdk/backend/backend.h"
#include "hvsdk/hypercall/dispatcher.h"
#include "hvsdk/vmm/tracer.h"

namespace hvsdk::vmm {

class TracingExitHandler final : public backend::ExitHandler {
 public:
  using HypercallFunction = absl::AnyInvocable<backend::HypercallOutcome(backend::Vp&, hypercall::CallRecord&)>;

  // `hypercall` takes the place of next.OnHypercall, because it also says what the call was.
  TracingExitHandler(Tracer& tracer, backend::ExitHandler& next, HypercallFunction hypercall);

  void OnPortRead(backend::Vp& vp, uint16_t port, absl::Span<uint8_t> data) override;
  void OnPortWrite(backend::Vp& vp, uint16_t port, absl::Span<const uint8_t> data) override;
  void OnMmioRead(backend::Vp& vp, uint64_t gpa, absl::Span<uint8_t> data) override;
  void OnMmioWrite(backend::Vp& vp, uint64_t gpa, absl::Span<const uint8_t> data) override;
  backend::MsrOutcome OnMsrRead(backend::Vp& vp, uint32_t msr, uint64_t& value) override;
  backend::MsrOutcome OnMsrWrite(backend::Vp& vp, uint32_t msr, uint64_t value) override;
  backend::HypercallOutcome OnHypercall(backend::Vp& vp) override;

 private:
  Tracer& tracer_;
  backend::ExitHandler& next_;
  HypercallFunction hypercall_;
};

}  // namespace hvsdk::vmm

#endif  // HVSDK_SRC_VMM_TRACING_EXIT_HANDLER_H_
