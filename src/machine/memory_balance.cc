// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/machine/memory_balance.h"

#include <algorithm>

namespace hvsdk::machine {
namespace {

constexpr uint64_t kUnit = uint64_t{2} << 20;
// The part of its wish that each gets is a number of these; so it takes as many steps to find it as this has bits.
constexpr uint64_t kWhole = uint64_t{1} << 20;

uint64_t WishOf(const MemoryNeed& need) { return std::min(need.needed_bytes, need.max_bytes) / 5 * 6; }

uint64_t ShareOf(const MemoryNeed& need, uint64_t part) {
  // In units, for which 64 bits are enough.
  const uint64_t share = WishOf(need) / kUnit * part / kWhole * kUnit;
  return std::clamp(share, need.min_bytes, need.max_bytes);
}

}  // namespace

std::vector<uint64_t> DivideMemory(uint64_t total_bytes, absl::Span<const MemoryNeed> needs) {
  const auto sum_of = [&](uint64_t part) {
    uint64_t sum = 0;
    for (const MemoryNeed& need : needs) sum += ShareOf(need, part);
    return sum;
  };
  // The largest part of which all have enough. Shares grow with it.
  uint64_t part = 0;
  if (sum_of(kWhole) <= total_bytes) {
    part = kWhole;
  } else {
    for (uint64_t bit = kWhole / 2; bit != 0; bit /= 2) {
      if (sum_of(part + bit) <= total_bytes) part += bit;
    }
  }
  std::vector<uint64_t> shares;
  for (const MemoryNeed& need : needs) shares.push_back(ShareOf(need, part));
  return shares;
}

}  // namespace hvsdk::machine
