// SPDX-License-Identifier: Apache-2.0
// How memory is divided among machines that together want more than there is: each gets what it needs and a fifth on top, or, where that
// is too much for all of them together, the same part of it, but never less than its least or more than its most. And which of them is asked
// next to come nearer to that.
//
// Pure functions: how a machine comes to what is due to it is its caller's (machine/host.h).
//
// Limits: sizes in bytes, below 2^60 in all; what is not whole 2 MiB is rounded down, but for bounds. Thread-safe.
//
//   const std::vector<uint64_t> shares = DivideMemory(uint64_t{3} << 30, {{.min_bytes = kGib, .max_bytes = 4 * kGib, .needed_bytes = 2 * kGib},
//                                                                         {.min_bytes = kGib, .max_bytes = 2 * kGib, .needed_bytes = kGib}});

#ifndef HVSDK_MACHINE_MEMORY_BALANCE_H_
#define HVSDK_MACHINE_MEMORY_BALANCE_H_

#include <cstdint>
#include <vector>

#include "absl/types/optional.h"
#include "absl/types/span.h"

namespace hvsdk::machine {

struct MemoryNeed {
  uint64_t min_bytes = 0, max_bytes = 0;  // min_bytes <= max_bytes
  uint64_t needed_bytes = 0;              // by the guest's own word (vsp::BalloonStatus::demand)
};

// What is due to each of them. Together that is `total_bytes` at most, unless their least is more already; then each gets its least.
std::vector<uint64_t> DivideMemory(uint64_t total_bytes, absl::Span<const MemoryNeed> needs);

// A machine as its host sees it.
struct MemoryHolder {
  MemoryNeed need;
  uint64_t fixed_bytes = 0;               // that never move
  uint64_t has_bytes = 0;                 // besides
  bool keeps_all = false;                 // what it needs is not known, or it stands still
  bool is_resting = false;                // it is not asked now
  bool is_reliable = true;                // it did what it was asked to the last time
  absl::optional<uint64_t> wanted_bytes;  // what it is on its way to
};

// To how much each is to come now; nothing: it goes on as it is. `used_bytes` is what all have, and others besides. Who has too little gets
// what is left; the rest is taken from those that have too much, as far as others do not give it up already. Of each 16 MiB at least, and 128 MiB
// at most.
std::vector<absl::optional<uint64_t>> PlanMoves(uint64_t total_bytes, uint64_t used_bytes,
                                                absl::Span<const MemoryHolder> holders);

}  // namespace hvsdk::machine

#endif  // HVSDK_MACHINE_MEMORY_BALANCE_H_
