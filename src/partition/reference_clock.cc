// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/partition/reference_clock.h"

#include "absl/strings/str_format.h"
#include "base/status_macros.h"

namespace hvsdk::partition {
namespace {

constexpr uint64_t kUnitsPerSecond = 10'000'000;

// The offset with which the clock shows `time_100ns` at `tsc`.
int64_t OffsetFor(uint64_t time_100ns, uint64_t tsc, uint64_t scale) {
  return static_cast<int64_t>(time_100ns - static_cast<uint64_t>((static_cast<unsigned __int128>(tsc) * scale) >> 64));
}

}  // namespace

absl::StatusOr<uint64_t> ReferenceClock::ScaleOf(uint64_t tsc_frequency_hz) {
  if (tsc_frequency_hz <= kUnitsPerSecond) {
    return absl::InvalidArgumentError(
        absl::StrFormat("a TSC of %d Hz is too slow for the reference TSC page", tsc_frequency_hz));
  }
  // Rounded up, so that a TSC which is a whole number of units gives just that number.
  const unsigned __int128 scaled = (static_cast<unsigned __int128>(kUnitsPerSecond) << 64) + tsc_frequency_hz - 1;
  return static_cast<uint64_t>(scaled / tsc_frequency_hz);
}

absl::StatusOr<std::unique_ptr<ReferenceClock>> ReferenceClock::Create(const backend::Partition& backend,
                                                                       uint64_t tsc_frequency_hz) {
  ASSIGN_OR_RETURN(const uint64_t scale, ScaleOf(tsc_frequency_hz));
  return std::unique_ptr<ReferenceClock>(new ReferenceClock(backend, tsc_frequency_hz, scale));
}

ReferenceClock::ReferenceClock(const backend::Partition& backend, uint64_t tsc_frequency_hz, uint64_t scale)
    : backend_(backend),
      tsc_frequency_hz_(tsc_frequency_hz),
      scale_(scale),
      offset_(OffsetFor(0, backend.GuestTsc(), scale)) {}

absl::Status ReferenceClock::Restore(uint64_t scale, int64_t offset, uint64_t tsc_frequency_hz) {
  ASSIGN_OR_RETURN(const uint64_t own_scale, ScaleOf(tsc_frequency_hz));
  scale_ = scale;
  offset_ = offset;
  tsc_frequency_hz_ = tsc_frequency_hz;
  if (own_scale == scale) return absl::OkStatus();
  const uint64_t tsc = backend_.GuestTsc();
  offset_ = OffsetFor(FromTsc(tsc), tsc, own_scale);
  scale_ = own_scale;
  return absl::OkStatus();
}

}  // namespace hvsdk::partition
