// SPDX-License-Identifier: Apache-2.0
// How memory is divided among machines that together want more than there is: each gets what it needs and a fifth on top, or, where that
// is too much for all of them together, the same part of it, but never less than its least or more than its most.
//
// A pure function: who has how much, and how it gets what is due to it, is its caller's (machine/host.h).
//
// Limits: sizes in bytes, below 2^60 in all; what is not whole 2 MiB is rounded down, but for bounds. Thread-safe.
//
//   const std::vector<uint64_t> shares = DivideMemory(uint64_t{3} << 30, {{.min_bytes = kGib, .max_bytes = 4 * kGib, .needed_bytes = 2 * kGib},
//                                                                         {.min_bytes = kGib, .max_bytes = 2 * kGib, .needed_bytes = kGib}});

#ifndef HVSDK_MACHINE_MEMORY_BALANCE_H_
#define HVSDK_MACHINE_MEMORY_BALANCE_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace hvsdk::machine {

struct MemoryNeed {
  uint64_t min_bytes = 0, max_bytes = 0;  // min_bytes <= max_bytes
  uint64_t needed_bytes = 0;              // by the guest's own word (vsp::BalloonStatus::demand)
};

// What is due to each of them. Together that is `total_bytes` at most, unless their least is more already; then each gets its least.
std::vector<uint64_t> DivideMemory(uint64_t total_bytes, absl::Span<const MemoryNeed> needs);

}  // namespace hvsdk::machine

#endif  // HVSDK_MACHINE_MEMORY_BALANCE_H_
