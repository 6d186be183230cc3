// SPDX-License-Identifier: Apache-2.0
// A VP's decoded blocks.
//
// Blocks are found by physical address and mode. Above that stands the jump cache (Cpu::jump), by linear address, which
// a change of the memory map empties. Blocks of one page are dropped together; their memory stays until the arena is
// reset between two blocks, so that the block under way may drop itself. It then ends behind the instruction under way,
// so an instruction sees what the one before it wrote, as the processor promises (Intel SDM volume 3, 11.6 and 8.1.3).
//
// An instruction that lies in two pages is not cached under a page: its block is kept beside the bytes it was decoded
// from and used as long as they are still the same, first those that are in the first page, which alone tell whether
// there is a second.
//
// VP thread only, but for PostDrop.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_CODE_CACHE_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_CODE_CACHE_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "backend_software/cpu.h"
#include "backend_software/decoder.h"

namespace hvsdk::software {

class CodeCache {
 public:
  explicit CodeCache(Cpu& cpu) : c_(cpu), decoder_(cpu.features) {}

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

  bool full() const { return used_ops_ > kMaxOps; }
  // Between blocks: frees memory if too much is in use.
  void Trim() {
    if (full()) [[unlikely]]
      Reset();
  }

 private:
  static constexpr size_t kMaxOps = size_t{1} << 20;  // 32 MiB
  static constexpr size_t kChunkOps = size_t{1} << 14;
  static constexpr int kStraddles = 1024;

  struct Key {
    uint64_t gpa;
    uint32_t mode;
    bool operator==(const Key&) const = default;
    template <typename H>
    friend H AbslHashValue(H h, const Key& key) {
      return H::combine(std::move(h), key.gpa, key.mode);
    }
  };
  struct Straddle {
    uint64_t linear = ~uint64_t{0};
    uint32_t mode = 0;
    int size = 0;  // of what was decoded: less than all if CS.limit came before
    uint8_t bytes[ZYDIS_MAX_INSTRUCTION_LENGTH] = {};
    Op ops[4] = {};
  };

  // The page that r[kIp] is in; checks the instruction pointer.
  const TlbPage& CodePage();
  bool IsKnownStraddle(uint64_t linear, const TlbPage& page) const;
  // False: the first instruction goes on in the next page.
  bool Build(uint64_t gpa, const TlbPage& page);
  const Op* Across(uint64_t linear, const TlbPage& page);
  // Tells all VPs that we hold code of the page; false: the world may have changed meanwhile, look again.
  bool Announce(const TlbPage& page);
  Op* Allocate(int ops);
  void Reset();

  Cpu& c_;
  Decoder decoder_;
  absl::flat_hash_map<Key, Block> blocks_;
  absl::flat_hash_map<uint64_t, std::vector<Key>> pages_;  // by gpa >> 12
  std::vector<std::unique_ptr<Op[]>> chunks_;
  size_t chunk_used_ = kChunkOps;
  size_t used_ops_ = 0;
  Straddle straddles_[kStraddles];
  Op step_[Decoder::kMaxOps];
  std::mutex posted_mutex_;
  std::vector<uint64_t> posted_;  // at most kMaxPosted, then all_posted_
  bool all_posted_ = false;
};

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_CODE_CACHE_H_
