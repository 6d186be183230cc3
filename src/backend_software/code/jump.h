// SPDX-License-Identifier: Apache-2.0
// How a handler goes on: to the next operation, or by the jump cache to another block.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_CODE_JUMP_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_CODE_JUMP_H_

#include <atomic>
#include <cstdint>

#include "backend_software/processor/cpu.h"

// Handlers go on by a jump where the compiler makes one of a call in tail position; else the loop in RunOps calls.
#if defined(HVSDK_SOFTWARE_TAIL_CALLS) && defined(__clang__)
#define HVSDK_NEXT(next)                                     \
  do {                                                       \
    const Op* next_op = (next);                              \
    [[clang::musttail]] return next_op->handler(c, next_op); \
  } while (false)
#elif defined(HVSDK_SOFTWARE_TAIL_CALLS)
#define HVSDK_NEXT(next)                 \
  do {                                   \
    const Op* next_op = (next);          \
    return next_op->handler(c, next_op); \
  } while (false)
#else
#define HVSDK_NEXT(next) return (next)
#endif

namespace hvsdk::software {

// Where the jump cache has nothing: looks the block up, decoding it if need be. Null to leave.
const Op* ContinueMiss(Cpu& c);

// Goes on at r[kIp], which the handler has set, by the jump cache.
inline const Op* LookUpJump(Cpu& c) {
  if (c.attention.load(std::memory_order_relaxed) != 0) [[unlikely]]
    return nullptr;
  const uint64_t linear = c.r[kIp] + c.code_base;
  const JumpEntry& entry = c.jump[JumpIndex(linear)];
  if (entry.linear == linear && entry.tag == c.code_tag) [[likely]]
    return entry.op;
  return ContinueMiss(c);
}

// The same as a handler's last act, without a stack frame.
inline const Op* GoOn(Cpu& c, [[maybe_unused]] const Op* op) {
  if (c.attention.load(std::memory_order_relaxed) != 0) [[unlikely]]
    return nullptr;
  const uint64_t linear = c.r[kIp] + c.code_base;
  const JumpEntry& entry = c.jump[JumpIndex(linear)];
  if (entry.linear == linear && entry.tag == c.code_tag) [[likely]]
    HVSDK_NEXT(entry.op);
  return ContinueMiss(c);
}

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_CODE_JUMP_H_
