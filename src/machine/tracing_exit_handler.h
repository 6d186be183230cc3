// SPDX-License-Identifier: Apache-2.0
// Traces every exit on its way to what answers it. A machine that is not traced does without.

#ifndef HVSDK_SRC_MACHINE_TRACING_EXIT_HANDLER_H_
#define HVSDK_SRC_MACHINE_TRACING_EXIT_HANDLER_H_

#include "hvsdk/machine/board.h"
#include "hvsdk/machine/exit_router.h"
#include "hvsdk/machine/tracer.h"

namespace hvsdk::machine {

class TracingExitHandler final : public ExitLayer {
 public:
  // Both outlive this.
  TracingExitHandler(Tracer& tracer, Board& board) : tracer_(tracer), board_(board) {}

  void OnPortRead(backend::Vp& vp, uint16_t port, absl::Span<uint8_t> data) override;
  void OnPortWrite(backend::Vp& vp, uint16_t port, absl::Span<const uint8_t> data) override;
  void OnMmioRead(backend::Vp& vp, uint64_t gpa, absl::Span<uint8_t> data) override;
  void OnMmioWrite(backend::Vp& vp, uint64_t gpa, absl::Span<const uint8_t> data) override;
  backend::MsrOutcome OnMsrRead(backend::Vp& vp, uint32_t msr, uint64_t& value) override;
  backend::MsrOutcome OnMsrWrite(backend::Vp& vp, uint32_t msr, uint64_t value) override;
  backend::HypercallOutcome OnHypercall(backend::Vp& vp) override;

 private:
  Tracer& tracer_;
  Board& board_;
};

}  // namespace hvsdk::machine

#endif  // HVSDK_SRC_MACHINE_TRACING_EXIT_HANDLER_H_
