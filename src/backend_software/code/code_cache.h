// SPDX-License-Identifier: Apache-2.0
// A VP's decoded blocks.
//
// Blocks are found by physical address and mode. Above that stands the jump cache (Cpu::jump), by linear address, which
// a change of the memory map empties. Blocks of one page are dropped together; their memory stays until the arena is
// reset between two blocks, so that the block under way may drop itself. It then ends behind the instruction under way,
// so an instruction sees what the one before it wrote, as the processor promises (Intel SDM volume 3, 11.6 and 8.1.3).
//
// All memory is reserved when the VP is made and taken as code comes; a guest can make nothing else grow, and nothing
// fail. Blocks and pages lie one behind the other in the arena, each found by a place in it, through chains by hash.
// What was dropped leaves a hole. When the arena is full, it is emptied before the next block: then everything the guest
// still runs is decoded anew, which costs what it cost the first time.
//
// An instruction that lies in two pages is not cached under a page: its block is kept beside the bytes it was decoded
// from and used as long as they are still the same, first those that are in the first page, which alone tell whether
// there is a second.
//
// VP thread only, but for PostDrop.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_CODE_CODE_CACHE_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_CODE_CODE_CACHE_H_

#include <cstdint>
#include <mutex>
#include <utility>

#include "absl/hash/hash.h"
#include "backend_software/code/decoder.h"
#include "backend_software/code/jump.h"
#include "backend_software/processor/cpu.h"
#include "hvsdk/base/zeroed_array.h"

namespace hvsdk::software {

class CodeCache {
 public:
  CodeCache(Cpu& cpu, size_t size_bytes);

  // False: the host refused the memory, and the cache must not be used.
  bool has_memory() const { return arena_ != nullptr && straddles_ != nullptr; }

  // The block at r[kIp], decoding it if need be. Faults as the fetch does.
  const Op* Lookup();
  // One instruction at r[kIp] alone, in a buffer that the next look-up reuses.
  const Op* LookupStep();

  // Forgets the blocks of a page, or all.
  void DropPage(uint64_t gpa);
  void DropAll();

  // Thread-safe: has the VP drop the page before it runs on.
  void PostDrop(uint64_t gpa);
  void ServeDrops();

  // No room for one more page and block.
  bool full() const { return size_ - used_ < 2 + Decoder::kMaxOps; }
  // Between blocks: makes room if there is none.
  void Trim() {
    if (full()) [[unlikely]]
      Reset();
  }

 private:
  static constexpr int kStraddles = 1024;
  static constexpr size_t kMaxPosted = 64;

  // A page that other VPs know we hold code of.
  struct Page {
    uint64_t number;       // gpa >> kPageShift
    uint32_t next;         // place of the next page with the same hash; 0: none
    uint32_t first_block;  // place; 0: none
    uint64_t reserved[2];
  };
  static_assert(sizeof(Page) == sizeof(Op));
  // Begins as zero bytes.
  struct Straddle {
    uint64_t linear;
    uint32_t mode;
    int size;  // of what was decoded: less than all if CS.limit came before; 0: nothing
    uint8_t bytes[ZYDIS_MAX_INSTRUCTION_LENGTH];
    Op ops[4];
  };

  // The page that r[kIp] is in; checks the instruction pointer.
  const TlbPage& CodePage();
  bool IsKnownStraddle(uint64_t linear, const TlbPage& page) const;
  // Null: the first instruction goes on in the next page.
  Block* Build(uint64_t gpa, const TlbPage& page);
  const Op* Across(uint64_t linear, const TlbPage& page);
  // Tells all VPs that we hold code of the page; false: the world may have changed meanwhile, look again.
  bool Announce(const TlbPage& page);
  uint32_t Allocate(size_t slots) { return static_cast<uint32_t>(std::exchange(used_, used_ + slots)); }
  void Reset();

  Block& BlockAt(uint32_t place) { return reinterpret_cast<Block&>(arena_[place]); }
  Page& PageAt(uint32_t place) { return reinterpret_cast<Page&>(arena_[place]); }
  // Absl's hash differs from process to process: no guest can know which addresses share a chain.
  uint32_t& BlockChain(uint64_t gpa, uint32_t mode) {
    return block_chains_[absl::HashOf(gpa, mode) & (block_chain_count_ - 1)];
  }
  uint32_t& PageChain(uint64_t number) { return page_chains_[absl::HashOf(number) & (page_chain_count_ - 1)]; }
  Block* FindBlock(uint64_t gpa, uint32_t mode);
  Page* FindPage(uint64_t number);
  void Unlink(const Block& block);
  // Tells all VPs that we hold no code of the page any more.
  void Withdraw(const Page& page);

  Cpu& c_;
  Decoder decoder_;
  const size_t size_;  // slots of the arena
  size_t used_ = 1;    // place 0 is none
  // Of Block, each with its Ops behind it, and Page; behind the slots the chains.
  const ZeroedArray<Op> arena_;
  // Places of first blocks and pages, by hash.
  const size_t block_chain_count_, page_chain_count_;
  uint32_t* const block_chains_;
  uint32_t* const page_chains_;
  const ZeroedArray<Straddle> straddles_;
  Op step_[Decoder::kMaxOps];
  std::mutex posted_mutex_;
  size_t posted_count_ = 0;  // beyond kMaxPosted: all
  uint64_t posted_[kMaxPosted];
};

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_CODE_CODE_CACHE_H_
