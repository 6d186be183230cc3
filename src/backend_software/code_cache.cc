// SPDX-License-Identifier: Apache-2.0
#include "backend_software/code_cache.h"

#include <algorithm>
#include <cstring>

#include "backend_software/machine.h"
#include "backend_software/memory_access.h"

namespace hvsdk::software {
namespace {

constexpr size_t kMaxPosted = 64;
constexpr int kMaxBlockBytes = kMaxBlockInstructions * ZYDIS_MAX_INSTRUCTION_LENGTH;

// Stands behind an instruction that changed the code of its own block.
const Op* LeaveBlock(Cpu& c, const Op* op) {
  c.r[kIp] = (c.r[kIp] + op->ip) & c.IpMask();
  c.block_instructions = op->count;
  return nullptr;
}

// If `block` is under way: it ends behind the present instruction.
void Cut(Cpu& c, const Block& block) {
  if (c.op < block.ops || c.op >= block.ops + block.op_count) return;
  // The last operation looks at attention before it follows its links.
  c.attention.fetch_or(kAttentionInterrupt, std::memory_order_relaxed);
  const auto index = c.op - block.ops;
  if (index < block.op_count - 2) block.ops[index + 1].handler = &LeaveBlock;
}

}  // namespace

const TlbPage& CodeCache::CodePage() {
  c_.op = nullptr;
  const uint64_t ip = c_.r[kIp];
  if (c_.Is64() ? !IsCanonical(ip) : ip > c_.segment[kCs].limit) c_.Raise(kGeneralProtection, 0);
  return c_.Resolve(c_.CodeLinear(), kAccessExecute, c_.cpl == 3 ? kTlbUser : kTlbSupervisor);
}

const Op* CodeCache::Lookup() {
  for (;;) {
    const TlbPage& page = CodePage();
    const uint64_t linear = c_.CodeLinear();
    const uint64_t gpa = page.gpa | (linear & (kPageSize - 1));
    if (IsKnownStraddle(linear, page)) return Across(linear, page);
    if (page.host == nullptr) return LookupStep();
    auto found = blocks_.find(Key{gpa, c_.mode});
    if (found == blocks_.end()) {
      if (!Announce(page)) continue;
      if (!Build(gpa, page)) return Across(linear, page);
      found = blocks_.find(Key{gpa, c_.mode});
    }
    const Block& block = found->second;
    if (block.size_bytes > c_.CodeBytesLeft()) return LookupStep();
    c_.block_instructions = block.instructions;
    c_.jump[JumpIndex(linear)] = {linear, c_.code_tag, block.ops, block.instructions};
    return block.ops;
  }
}

bool CodeCache::Announce(const TlbPage& page) {
  if (page.state->code_vps.load(std::memory_order_relaxed) & c_.vp_bit()) return true;
  PageState* const state = page.state;
  {
    std::lock_guard lock(c_.machine.memory().code_mutex());
    c_.machine.WatchHostWrites(page.gpa, true);
    state->code_vps.fetch_or(c_.vp_bit(), std::memory_order_seq_cst);
  }
  pages_[page.gpa >> kPageShift];
  const uint64_t writers = state->write_vps.load(std::memory_order_seq_cst);
  if (writers & c_.vp_bit()) {
    c_.PurgeWrites(state);
    state->write_vps.fetch_and(~c_.vp_bit(), std::memory_order_seq_cst);
  }
  if ((writers & ~c_.vp_bit()) == 0) return true;
  c_.machine.RequestAndWait(&c_, writers & ~c_.vp_bit(), kRequestPurge);
  return false;
}

bool CodeCache::IsKnownStraddle(uint64_t linear, const TlbPage& page) const {
  const Straddle& straddle = straddles_[(linear >> kPageShift) & (kStraddles - 1)];
  if (straddle.linear != linear || straddle.mode != c_.mode || page.host == nullptr) return false;
  // Another address space may have other bytes there, of which a whole instruction is in the first page.
  const uint64_t offset = linear & (kPageSize - 1);
  uint8_t bytes[ZYDIS_MAX_INSTRUCTION_LENGTH];
  RawCopy(bytes, page.host + offset, kPageSize - offset);
  return std::memcmp(bytes, straddle.bytes, kPageSize - offset) == 0;
}

bool CodeCache::Build(uint64_t gpa, const TlbPage& page) {
  const uint64_t offset = gpa & (kPageSize - 1);
  const int available = static_cast<int>(std::min<uint64_t>(kPageSize - offset, kMaxBlockBytes));
  uint8_t bytes[kMaxBlockBytes];
  Op ops[Decoder::kMaxOps];
  for (;;) {
    RawCopy(bytes, page.host + offset, available);
    const Decoder::Result result = decoder_.DecodeBlock(bytes, available, c_.mode, kMaxBlockInstructions, ops);
    if (result.instructions == 0) return false;
    uint64_t granules = 0;
    for (uint64_t at = offset & ~uint64_t{63}; at < offset + result.size_bytes; at += 64) {
      granules |= uint64_t{1} << (at >> 6);
    }
    {
      // A granule is never withdrawn while a VP holds code of the page, hence the lock against DropPage.
      std::lock_guard lock(c_.machine.memory().code_mutex());
      page.state->granules.fetch_or(granules, std::memory_order_seq_cst);
    }
    // Pairs with the fence in Cpu::StorePiece: a writer that did not see our granules wrote before this look.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    uint8_t again[kMaxBlockBytes];
    RawCopy(again, page.host + offset, result.size_bytes);
    if (std::memcmp(bytes, again, result.size_bytes) != 0) continue;

    Op* kept = Allocate(result.ops);
    std::memcpy(kept, ops, sizeof(Op) * result.ops);
    LinksOf(&kept[result.ops - 2]).linkable = 1;
    const Key key{gpa, c_.mode};
    blocks_[key] = Block{gpa,
                         c_.mode,
                         static_cast<uint16_t>(result.size_bytes),
                         static_cast<uint8_t>(result.instructions),
                         static_cast<uint8_t>(result.ops),
                         kept};
    pages_[gpa >> kPageShift].push_back(key);
    return true;
  }
}

const Op* CodeCache::Across(uint64_t linear, const TlbPage& page) {
  uint8_t bytes[ZYDIS_MAX_INSTRUCTION_LENGTH];
  const int first = static_cast<int>(kPageSize - (linear & (kPageSize - 1)));
  // What the first page lacks is behind the limit: the limit is looked at before the page.
  const auto size = static_cast<int>(std::min<uint64_t>(sizeof(bytes), c_.CodeBytesLeft()));
  if (size <= first) c_.Raise(kGeneralProtection, 0);
  if (page.host != nullptr) {
    RawCopy(bytes, page.host + (linear & (kPageSize - 1)), first);
  } else {
    std::memset(bytes, 0xFF, first);
  }
  uint64_t next = linear + first;
  if (!c_.IsLong()) next &= 0xFFFFFFFF;
  if (!IsCanonical(next)) c_.Raise(kGeneralProtection, 0);
  const TlbPage& second = c_.Resolve(next, kAccessExecute, c_.cpl == 3 ? kTlbUser : kTlbSupervisor);
  const int rest = size - first;
  if (second.host != nullptr) {
    RawCopy(bytes + first, second.host, rest);
  } else {
    std::memset(bytes + first, 0xFF, rest);
  }
  Straddle& kept = straddles_[(linear >> kPageShift) & (kStraddles - 1)];
  c_.block_instructions = 1;
  if (kept.linear == linear && kept.mode == c_.mode && kept.size == size && std::memcmp(kept.bytes, bytes, size) == 0) {
    return kept.ops;
  }
  Op ops[Decoder::kMaxOps];
  const Decoder::Result result = decoder_.DecodeBlock(bytes, size, c_.mode, 1, ops);
  if (result.instructions == 0) c_.Raise(kGeneralProtection, 0);  // it goes on behind the limit
  kept.linear = linear;
  kept.mode = c_.mode;
  kept.size = size;
  std::memcpy(kept.bytes, bytes, size);
  std::memcpy(kept.ops, ops, sizeof(Op) * result.ops);
  return kept.ops;
}

const Op* CodeCache::LookupStep() {
  const TlbPage& page = CodePage();
  const uint64_t linear = c_.CodeLinear();
  const uint64_t offset = linear & (kPageSize - 1);
  const int available =
      static_cast<int>(std::min<uint64_t>({kPageSize - offset, ZYDIS_MAX_INSTRUCTION_LENGTH, c_.CodeBytesLeft()}));
  uint8_t bytes[ZYDIS_MAX_INSTRUCTION_LENGTH];
  if (page.host != nullptr) {
    RawCopy(bytes, page.host + offset, available);
  } else {
    std::memset(bytes, 0xFF, available);  // nothing answers the fetch
  }
  c_.block_instructions = 1;
  const Decoder::Result result = decoder_.DecodeBlock(bytes, available, c_.mode, 1, step_);
  return result.instructions == 0 ? Across(linear, page) : step_;
}

Op* CodeCache::Allocate(int ops) {
  if (chunk_used_ + ops > kChunkOps) {
    chunks_.push_back(std::make_unique_for_overwrite<Op[]>(kChunkOps));
    chunk_used_ = 0;
  }
  Op* at = chunks_.back().get() + chunk_used_;
  chunk_used_ += ops;
  used_ops_ += ops;
  return at;
}

void CodeCache::DropPage(uint64_t gpa) {
  const auto found = pages_.find(gpa >> kPageShift);
  if (found == pages_.end()) return;
  for (const Key& key : found->second) {
    const auto block = blocks_.find(key);
    Cut(c_, block->second);
    blocks_.erase(block);
  }
  pages_.erase(found);
  if (const PhysicalPage page = c_.machine.memory().Find(gpa); page.state != nullptr) {
    std::lock_guard lock(c_.machine.memory().code_mutex());
    if (page.state->code_vps.fetch_and(~c_.vp_bit(), std::memory_order_seq_cst) == c_.vp_bit()) {
      page.state->granules.store(0, std::memory_order_seq_cst);
      c_.machine.WatchHostWrites(gpa, false);
    }
  }
  c_.BumpCodeGeneration();
}

void CodeCache::DropAll() {
  while (!pages_.empty()) DropPage(pages_.begin()->first << kPageShift);
  c_.BumpCodeGeneration();
}

void CodeCache::Reset() {
  DropAll();
  chunks_.clear();
  chunk_used_ = kChunkOps;
  used_ops_ = 0;
}

void CodeCache::PostDrop(uint64_t gpa) {
  std::lock_guard lock(posted_mutex_);
  if (std::find(posted_.begin(), posted_.end(), gpa) != posted_.end()) return;
  if (posted_.size() == kMaxPosted) {
    all_posted_ = true;
  } else {
    posted_.push_back(gpa);
  }
}

void CodeCache::ServeDrops() {
  std::vector<uint64_t> pages;
  bool all;
  {
    std::lock_guard lock(posted_mutex_);
    pages.swap(posted_);
    all = std::exchange(all_posted_, false);
  }
  if (all) {
    DropAll();
    return;
  }
  for (const uint64_t gpa : pages) DropPage(gpa);
}

}  // namespace hvsdk::software
