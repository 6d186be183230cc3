// SPDX-License-Identifier: Apache-2.0
// The decoded block: straight-line guest code after decoding, and the interface behind which it is run.
//
// A block is the instructions from one entry point up to and including the first one that may change the flow, the mode
// or the memory map, at most to the end of the page. It belongs to one VP, is found by physical address and mode
// (CodeCache), and is never changed after it was built, but for the links of its last operation, and for a cut: when the
// code of a block under way is changed, the operation behind the present one becomes an end (CodeCache::DropPage), so
// that what follows is looked up anew.
//
// Every instruction is one Op (a compare and the branch after it may share one): a handler specialised by operation,
// operand size and operand form, and what the handler needs, already extracted. Running a block means calling
// ops[0].handler; a handler does its work and goes on to the next operation, either by calling that one's handler as
// its last act or by returning it to the loop in RunOps. nullptr ends the run, with Cpu::r[kIp] at the next
// instruction.
//
// A translator to host code may stand behind the same interface: it gives the first Op of a block a handler that runs
// the whole block. What it owes is what the handlers here owe: (1) registers and flags are those before the instruction
// when it faults; (2) a fault says which Op it came from (Cpu::op); (3) attention is looked at on every way out of a
// block; (4) the number of instructions done can be told from the Op at any exit; (5) a block that is dropped while it
// runs is left behind the instruction under way.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_CODE_DECODED_BLOCK_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_CODE_DECODED_BLOCK_H_

#include <cstdint>

#include "backend_software/processor/operation.h"

namespace hvsdk::software {

// What follows the Op of a direct branch or of a block's end: the first Op of the block at the target, once known.
// Within the page a link holds as long as the block does; out of it, only while the target's linear address and
// Cpu::link_tag are those it was made with.
struct Links {
  union {
    const Op* taken;
    const Op* far;
  };
  union {
    const Op* next;
    uint64_t far_linear;
  };
  uint64_t linkable;
  uint64_t far_tag;
};
static_assert(sizeof(Links) == sizeof(Op));

inline Links& LinksOf(const Op* op) { return *reinterpret_cast<Links*>(const_cast<Op*>(op + 1)); }

inline constexpr int kMaxBlockInstructions = 64;

// What stands before a block's first Op.
struct Block {
  uint64_t gpa;
  uint32_t next;          // place of the next block with the same hash; 0: none
  uint32_t next_in_page;  // place of the next block of the page; 0: none
  uint32_t mode;
  uint16_t size_bytes;
  uint8_t instructions;
  uint8_t op_count;  // with the links
  uint64_t reserved;

  Op* ops() { return reinterpret_cast<Op*>(this + 1); }
  const Op* ops() const { return reinterpret_cast<const Op*>(this + 1); }
};
static_assert(sizeof(Block) == sizeof(Op));

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_CODE_DECODED_BLOCK_H_
