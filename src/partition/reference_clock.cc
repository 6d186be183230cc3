// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/partition/reference_clock.h"

#include "absl/strings/str_format.h"

namespace hvsdk::partition {
namespace {

constexpr uint64_t kUnitsPerSecond = 10'000'000;

}  // namespace

absl::StatusOr<std::unique_ptr<ReferenceClock>> ReferenceClock::Create(const backend::Partition& backend,
                                                                       uint64_t tsc_frequency_hz) {
  if (tsc_frequency_hz <= kUnitsPerSecond) {
    return absl::InvalidArgumentError(
        absl::StrFormat("a TSC of %d Hz is too slow for the reference TSC page", tsc_frequency_hz));
  }
  // Rounded up, so that a TSC which is a whole number of units gives just that number.
  const unsigned __int128 scaled = (static_cast<unsigned __int128>(kUnitsPerSecond) << 64) + tsc_frequency_hz - 1;
  const auto scale = static_cast<uint64_t>(scaled / tsc_frequency_hz);
  return std::unique_ptr<ReferenceClock>(new ReferenceClock(backend, tsc_frequency_hz, scale));
}

ReferenceClock::ReferenceClock(const backend::Partition& backend, uint64_t tsc_frequency_hz, uint64_t scale)
    : backend_(backend),
      tsc_frequency_hz_(tsc_frequency_hz),
      scale_(scale),
      offset_(-static_cast<int64_t>((static_cast<unsigned __int128>(backend.GuestTsc()) * scale) >> 64)) {}

}  // namespace hvsdk::partition
