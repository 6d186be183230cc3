// SPDX-License-Identifier: Apache-2.0
// Tlb: what a processor keeps by linear address: translations, and above the decoded blocks the jump cache.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_TLB_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_TLB_H_

#include <cstdint>

#include "backend_software/processor/operation.h"
#include "backend_software/processor/physical_memory.h"
#include "hvsdk/base/zeroed_array.h"

namespace hvsdk::software {

// A software TLB entry. A tag is the page's linear address when an access of that kind may go straight to
// `addend + address`; with kTlbSlow when it is allowed but takes the long way (MMIO, code, a watched page); kTlbInvalid
// else. One compare tells a hit within the page: the tag against the address of the access' last byte, since an
// access that leaves the page never has its first byte's entry under its last byte's page.
//
// A tag of zero is page 0's. It hits in the first entry, which is that page's, and in the last, for an access that goes on from the end of
// the address space at its beginning. So a table of zeros is empty once these two are kTlbInvalid, and a processor that has not
// run has no memory for the rest.
struct TlbEntry {
  uint64_t read;
  uint64_t write;
  uint64_t execute;
  uint64_t addend;
};
inline constexpr uint64_t kTlbInvalid = ~uint64_t{0};
inline constexpr uint64_t kTlbSlow = 1;
inline constexpr int kTlbEntries = 2048;
inline constexpr uint32_t kTlbFilled = 2048;
inline constexpr int kPhysicalAddressBits = 40;

// What the long way needs to know of a TLB entry.
struct TlbPage {
  uint64_t gpa;
  uint8_t* host;     // nullptr: MMIO
  PageState* state;  // nullptr: MMIO, or the entry has never been filled
  bool writable;     // mapped memory that may be written
  bool global;
  bool large;
};

enum TlbMode : uint8_t { kTlbSupervisor, kTlbSupervisorUserAccess, kTlbUser, kTlbModes };

struct JumpEntry {
  uint64_t linear;
  uint64_t tag;  // 0: empty; no code_tag is
  const Op* op;
  uint64_t instructions;  // of the block
};
// One page's entries are one run of kJumpRun.
inline constexpr int kJumpEntries = 16384;
inline constexpr uint32_t kJumpRun = 128;
inline uint32_t JumpIndex(uint64_t linear) {
  const uint32_t page = static_cast<uint32_t>((linear >> 12) ^ (linear >> 19));
  const uint32_t offset = static_cast<uint32_t>(linear ^ (linear >> 5));
  return (page & (kJumpEntries / kJumpRun - 1)) * kJumpRun | (offset & (kJumpRun - 1));
}

// What is large, and of which a guest seldom touches all. Begins as zero bytes (ZeroedArray).
struct TlbTables {
  TlbEntry entries[kTlbModes][kTlbEntries];
  TlbPage pages[kTlbModes][kTlbEntries];
  uint16_t filled[kTlbFilled];
  JumpEntry jump[kJumpEntries];
};

struct Tlb {
  // Throws std::bad_alloc.
  Tlb();

  TlbEntry* tlb = nullptr;  // of the current privilege
  uint64_t code_base = 0;   // linear address of offset 0 of CS
  uint64_t code_tag = 0;    // code_generation << 32 | code_limit_epoch << 16 | mode
  uint64_t link_tag = 1;    // counts up whenever a translation or a block may have gone; never repeats
  // The linear range that entries from large pages lie in, by half of the address space; INVLPG inside looks at all.
  uint64_t large_low[2], large_high[2];
  uint32_t code_generation = 1;  // never 0
  // Blocks in the jump cache lie within CS.limit. Outside 64-bit mode and flat segments, whose epoch is 0, they do so
  // only for the end of the segment that they were looked up with; another end begins another epoch.
  uint16_t code_limit_epoch = 0;
  uint16_t last_limit_epoch = 0;
  uint64_t last_limit_end = 0;  // base + limit

  TlbEntry (*tlb_entries)[kTlbEntries];
  TlbPage (*tlb_pages)[kTlbEntries];
  // Entries filled since the last flush with what is not global, so that a flush need not look at all; a count beyond
  // the array says that it must.
  uint16_t* tlb_filled;
  uint32_t tlb_filled_count = 0;
  bool tlb_has_global = false;  // maybe
  JumpEntry* jump;

  TlbEntry& EntryFor(uint64_t linear, TlbMode as) {
    return tlb_entries[as][(linear >> kPageShift) & (kTlbEntries - 1)];
  }

 private:
  const ZeroedArray<TlbTables> tables_;
};

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_TLB_H_
