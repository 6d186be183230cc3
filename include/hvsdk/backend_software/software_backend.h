// SPDX-License-Identifier: Apache-2.0
// The engine that is a processor in software: x86-64 in C++, without privilege, device or kernel feature.
//
// It decodes guest code once into blocks and interprets them (docs/software-cpu.md says what is implemented). Needs an
// x86-64 host with SSE4.2.
//
// Two modes. Usually each VP runs on the thread that calls Vp::Run, the guest's TSC is the host's monotonic clock at
// 1 GHz (in a partition whose state was restored, at the frequency that it had), and locked instructions are host
// atomics. With a SoftwareTime the partition is deterministic (backend/deterministic.h): time is a count of
// instructions, and all VPs run in turn on one thread.
//
// Thread class: as backend.h says.
//
//   const absl::StatusOr<std::unique_ptr<backend::Backend>> engine = backend::CreateSoftwareBackend({});
//   if (!engine.ok()) return engine.status();

#ifndef HVSDK_BACKEND_SOFTWARE_SOFTWARE_BACKEND_H_
#define HVSDK_BACKEND_SOFTWARE_SOFTWARE_BACKEND_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "hvsdk/backend/backend.h"
#include "hvsdk/backend/deterministic.h"
#include "hvsdk/base/clock.h"

namespace hvsdk::backend {

// The deterministic mode's time (backend/deterministic.h).
class SoftwareTime final : public InstructionTime {
 public:
  SoftwareTime();
  ~SoftwareTime() override;

  uint64_t now_ns() const override { return now_ns_; }
  const Clock& clock() const override;
  TimerQueue& timers() override;
  std::unique_ptr<DeterministicMachine> CreateMachine(absl::Span<const DeterministicMachine::Processor> processors,
                                                      uint64_t slice_instructions = 20'000) override;

 private:
  class Impl;
  class Machine;
  uint64_t now_ns_ = 0;
  std::unique_ptr<Impl> impl_;
};

inline constexpr size_t kMinCodeCacheBytes = 4 << 10;
inline constexpr size_t kDefaultCodeCacheBytes = 8 << 20;  // 64 VPs: 512 MiB
inline constexpr size_t kMaxCodeCacheBytes = 1 << 30;

struct SoftwareOptions {
  // Not null: the deterministic mode, on this time, which outlives the backend's partitions. Vp::Run must not
  // be called.
  SoftwareTime* instruction_time = nullptr;

  // Host memory for the decoded code of each VP, in bytes. It is reserved when the VP is made (CreateVp: ResourceExhausted),
  // taken as the guest runs new code, and never grows: a VP that comes to its end forgets all of it and decodes anew
  // what it still runs. Beside it a VP takes 1.2 MiB. Limits: kMinCodeCacheBytes to kMaxCodeCacheBytes.
  size_t code_cache_bytes = kDefaultCodeCacheBytes;
};

// Unavailable: the host's processor lacks SSE4.2. InvalidArgument: an option is beyond its limits.
absl::StatusOr<std::unique_ptr<Backend>> CreateSoftwareBackend(const SoftwareOptions& options);

}  // namespace hvsdk::backend

#endif  // HVSDK_BACKEND_SOFTWARE_SOFTWARE_BACKEND_H_
