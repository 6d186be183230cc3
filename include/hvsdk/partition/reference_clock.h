// SPDX-License-Identifier: Apache-2.0
// ReferenceClock: a partition's reference time, computed in one way for everybody who asks.
//
// Time in 100 ns units is ((guest TSC * scale) >> 64) + offset. The counter MSR, the synthetic timers and the host use
// this clock; the guest uses the same scale and offset from the reference TSC page. Hence all of them agree to the
// unit, on every VP, and never go back.
//
// Thread-safe, but for Restore. Source: TLFS, chapter "Timers", "Partition Reference Time Enlightenment".
//
//   const auto clock = ReferenceClock::Create(*backend_partition, caps.tsc_frequency_hz);
//   if (!clock.ok()) return clock.status();

#ifndef HVSDK_PARTITION_REFERENCE_CLOCK_H_
#define HVSDK_PARTITION_REFERENCE_CLOCK_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hvsdk/backend/backend.h"
#include "hvsdk/base/clock.h"

namespace hvsdk::partition {

class ReferenceClock : public Clock {
 public:
  // Starts at 0 now. `backend` outlives the clock.
  // InvalidArgument: a TSC of 10 MHz or less cannot be scaled.
  static absl::StatusOr<std::unique_ptr<ReferenceClock>> Create(const backend::Partition& backend,
                                                                uint64_t tsc_frequency_hz);

  uint64_t Now100ns() const override { return FromTsc(backend_.GuestTsc()); }
  uint64_t FromTsc(uint64_t tsc) const {
    __extension__ using Wide = unsigned __int128;
    return static_cast<uint64_t>((static_cast<Wide>(tsc) * scale_) >> 64) + static_cast<uint64_t>(offset_);
  }

  // The scale for a TSC of that frequency. InvalidArgument: 10 MHz or less.
  static absl::StatusOr<uint64_t> ScaleOf(uint64_t tsc_frequency_hz);

  // Goes on as a clock that had this scale and offset, now that the guest's TSC has been made to go on from that
  // clock's and runs at `tsc_frequency_hz`. At the frequency that `scale` is for, it is that clock again, to the unit; at
  // another it has a scale and an offset of its own, such that no time is lost or comes twice. Nobody asks for the time
  // meanwhile. InvalidArgument: as Create.
  absl::Status Restore(uint64_t scale, int64_t offset, uint64_t tsc_frequency_hz);

  uint64_t scale() const { return scale_; }
  int64_t offset() const { return offset_; }
  uint64_t tsc_frequency_hz() const { return tsc_frequency_hz_; }

 private:
  ReferenceClock(const backend::Partition& backend, uint64_t tsc_frequency_hz, uint64_t scale);

  const backend::Partition& backend_;
  uint64_t tsc_frequency_hz_;
  uint64_t scale_;
  int64_t offset_;
};

}  // namespace hvsdk::partition

#endif  // HVSDK_PARTITION_REFERENCE_CLOCK_H_
