// SPDX-License-Identifier: Apache-2.0
// Runs scenarios on a backend, one after the other on one virtual processor.

#ifndef HVSDK_TESTS_BACKEND_SOFTWARE_SYSTEM_ORACLE_SYSTEM_RUNNER_H_
#define HVSDK_TESTS_BACKEND_SOFTWARE_SYSTEM_ORACLE_SYSTEM_RUNNER_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "hvsdk/backend/backend.h"
#include "hvsdk/memory/guest_memory.h"
#include "tests/backend_software/system_oracle/scenario.h"

namespace hvsdk::oracle {

// How a scenario ended, and what it left.
struct SystemOutcome {
  enum How { kPort, kTripleFault, kNoEnd } how = kNoEnd;
  uint16_t port = 0;             // of kPort
  bool reached_devices = false;  // it touched what is not memory, where engines may do as they like
  SystemState state;             // at the port write; of kPort only
  std::vector<uint8_t> memory;
  std::vector<uint64_t> accesses;  // ports in order: number, size, direction, value
};

class SystemRunner : private backend::ExitHandler {
 public:
  static absl::StatusOr<std::unique_ptr<SystemRunner>> Create(backend::Backend& engine);
  ~SystemRunner() override;

  absl::Status Run(const Scenario& scenario, SystemOutcome& outcome);
  absl::Span<const backend::CpuidEntry> cpuid() const { return cpuid_; }

 private:
  SystemRunner() = default;
  absl::Status TouchMemory();
  absl::Status Load(const Scenario& scenario);
  void Watch();

  void OnPortRead(backend::Vp& vp, uint16_t port, absl::Span<uint8_t> data) override;
  void OnPortWrite(backend::Vp& vp, uint16_t port, absl::Span<const uint8_t> data) override;
  void OnMmioRead(backend::Vp& vp, uint64_t gpa, absl::Span<uint8_t> data) override;
  void OnMmioWrite(backend::Vp& vp, uint64_t gpa, absl::Span<const uint8_t> data) override;
  backend::MsrOutcome OnMsrRead(backend::Vp&, uint32_t, uint64_t&) override { return backend::MsrOutcome::kFault; }
  backend::MsrOutcome OnMsrWrite(backend::Vp&, uint32_t, uint64_t) override { return backend::MsrOutcome::kFault; }
  backend::HypercallOutcome OnHypercall(backend::Vp&) override { return backend::HypercallOutcome::kUndefinedOpcode; }

  uint8_t* host_ = nullptr;
  GuestMemory memory_;
  std::unique_ptr<backend::Partition> partition_;
  std::vector<backend::CpuidEntry> cpuid_;
  std::unique_ptr<backend::Vp> vp_;
  SystemOutcome* outcome_ = nullptr;
  absl::Status failure_;
  // The watchdog kicks a scenario that does not end: its code may have come to go in a circle.
  std::atomic<uint64_t> running_{0};  // counts up at each begin and end, so it is odd while one runs
  std::atomic<bool> expired_{false};
  std::atomic<bool> finished_{false};
  std::thread watchdog_;
};

}  // namespace hvsdk::oracle

#endif  // HVSDK_TESTS_BACKEND_SOFTWARE_SYSTEM_ORACLE_SYSTEM_RUNNER_H_
