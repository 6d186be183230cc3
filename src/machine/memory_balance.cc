// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/machine/memory_balance.h"

#include <algorithm>

namespace hvsdk::machine {
namespace {

constexpr uint64_t kUnit = uint64_t{2} << 20;
// The part of its wish that each gets is a number of these; so it takes as many steps to find it as this has bits.
constexpr uint64_t kWhole = uint64_t{1} << 20;
// Less is not worth asking a guest for; more at once keeps one from using what it gives up while another waits for it.
constexpr uint64_t kLeastMoved = uint64_t{16} << 20;
constexpr uint64_t kMostMoved = uint64_t{128} << 20;

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

std::vector<absl::optional<uint64_t>> PlanMoves(uint64_t total_bytes, uint64_t used_bytes,
                                                absl::Span<const MemoryHolder> holders) {
  std::vector<absl::optional<uint64_t>> moves(holders.size());
  uint64_t divided_bytes = total_bytes, left_bytes = total_bytes - std::min(total_bytes, used_bytes);
  const auto keep = [](uint64_t& from, uint64_t bytes) { from -= std::min(from, bytes); };
  std::vector<size_t> movable;
  std::vector<MemoryNeed> needs;
  for (size_t i = 0; i < holders.size(); ++i) {
    const MemoryHolder& holder = holders[i];
    keep(divided_bytes, holder.fixed_bytes + (holder.keeps_all ? holder.has_bytes : 0));
    keep(left_bytes, std::max(holder.wanted_bytes.value_or(0), holder.has_bytes) - holder.has_bytes);
    if (holder.keeps_all) continue;
    movable.push_back(i);
    needs.push_back(holder.need);
  }
  const std::vector<uint64_t> shares = DivideMemory(divided_bytes, needs);
  const auto may_move = [](const MemoryHolder& holder) {
    return !holder.wanted_bytes.has_value() && !holder.is_resting;
  };
  // Who has too little, first: nobody gives up what nobody wants.
  uint64_t missing_bytes = 0;
  for (size_t n = 0; n < movable.size(); ++n) {
    const MemoryHolder& holder = holders[movable[n]];
    if (!may_move(holder) || shares[n] < holder.has_bytes + kLeastMoved) continue;
    const uint64_t wants_bytes = std::min(shares[n] - holder.has_bytes, kMostMoved);
    const uint64_t gets_bytes = std::min(wants_bytes, left_bytes);
    missing_bytes += wants_bytes - gets_bytes;
    if (gets_bytes < kLeastMoved) continue;
    left_bytes -= gets_bytes;
    moves[movable[n]] = holder.has_bytes + gets_bytes;
  }
  // Also what others give up already, unless those only say so: nobody goes without for their sake.
  for (const size_t i : movable) {
    const MemoryHolder& holder = holders[i];
    const uint64_t wanted_bytes = holder.wanted_bytes.value_or(holder.has_bytes);
    if (holder.is_reliable && wanted_bytes < holder.has_bytes) keep(missing_bytes, holder.has_bytes - wanted_bytes);
  }
  // More than there may be, since a guest had back what it had given up.
  if (used_bytes > total_bytes) missing_bytes += used_bytes - total_bytes;
  for (size_t n = 0; n < movable.size() && missing_bytes != 0; ++n) {
    const MemoryHolder& holder = holders[movable[n]];
    if (!may_move(holder) || holder.has_bytes < shares[n] + kLeastMoved) continue;
    const uint64_t gives_bytes =
        std::min({holder.has_bytes - shares[n], kMostMoved, std::max(missing_bytes, kLeastMoved)});
    keep(missing_bytes, gives_bytes);
    moves[movable[n]] = holder.has_bytes - gives_bytes;
  }
  return moves;
}

}  // namespace hvsdk::machine
