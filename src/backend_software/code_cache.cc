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

}  // namespace

const TlbPage& CodeCache::CodePage() {
  c_.op = nullptr;
  const uint64_t ip = c_.r[kIp];
  if (c_.Is64() ? !IsCanonical(ip) : ip > c_.segment[kCs].limit) c_.Raise(kGeneralProtection, 0);
  const uint64_t linear = c_.Is64() ? ip : (ip + c_.code_base) & 0xFFFFFFFF;
  return c_.Resolve(linear, kAccessExecute, c_.cpl == 3 ? kTlbUser : kTlbSupervisor);
}

const Op* CodeCache::Lookup() {
  for (;;) {
    const TlbPage& page = CodePage();
    const uint64_t linear = c_.Is64() ? c_.r[kIp] : (c_.r[kIp] + c_.code_base) & 0xFFFFFFFF;
    const uint64_t gpa = page.gpa | (linear & (kPageSize - 1));
    // An instruction across two pages that was met before need not be tried as a block again.
    const Straddle& straddle = straddles_[(linear >> kPageShift) & (kStraddles - 1)];
    if (straddle.linear == linear && straddle.mode == c_.mode) return Across(linear, page);
    const Op* op;
    if (const auto found = blocks_.find(Key{gpa, c_.mode}); found != blocks_.end()) {
      c_.block_instructions = found->second.instructions;
      op = found->second.ops;
    } else {
      if (page.host != nullptr && !Announce(page)) continue;
      op = Build(gpa, page);
      if (op == nullptr) return Across(linear, page);
    }
    if (page.host != nullptr) c_.jump[JumpIndex(linear)] = {linear, c_.code_tag, op, c_.block_instructions};
    return op;
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

const Op* CodeCache::Build(uint64_t gpa, const TlbPage& page) {
  const uint64_t offset = gpa & (kPageSize - 1);
  const int available = static_cast<int>(std::min<uint64_t>(kPageSize - offset, kMaxBlockBytes));
  uint8_t bytes[kMaxBlockBytes];
  Op ops[Decoder::kMaxOps];
  for (;;) {
    if (page.host != nullptr) {
      RawCopy(bytes, page.host + offset, available);
    } else {
      std::memset(bytes, 0xFF, available);  // nothing answers the fetch
    }
    const Decoder::Result result = decoder_.DecodeBlock(bytes, available, c_.mode, kMaxBlockInstructions, ops);
    if (result.instructions == 0) return nullptr;
    if (page.host == nullptr) {
      std::memcpy(step_, ops, sizeof(Op) * result.ops);
      c_.block_instructions = result.instructions;
      return step_;
    }
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
    blocks_[key] =
        Block{gpa, c_.mode, static_cast<uint16_t>(result.size_bytes), static_cast<uint8_t>(result.instructions), kept};
    pages_[gpa >> kPageShift].push_back(key);
    c_.block_instructions = result.instructions;
    return kept;
  }
}

const Op* CodeCache::Across(uint64_t linear, const TlbPage& page) {
  uint8_t bytes[ZYDIS_MAX_INSTRUCTION_LENGTH];
  const int first = static_cast<int>(kPageSize - (linear & (kPageSize - 1)));
  if (page.host != nullptr) {
    RawCopy(bytes, page.host + (linear & (kPageSize - 1)), first);
  } else {
    std::memset(bytes, 0xFF, first);
  }
  uint64_t next = linear + first;
  if (!c_.IsLong()) next &= 0xFFFFFFFF;
  if (!IsCanonical(next)) c_.Raise(kGeneralProtection, 0);
  const TlbPage& second = c_.Resolve(next, kAccessExecute, c_.cpl == 3 ? kTlbUser : kTlbSupervisor);
  const int rest = ZYDIS_MAX_INSTRUCTION_LENGTH - first;
  if (second.host != nullptr) {
    RawCopy(bytes + first, second.host, rest);
  } else {
    std::memset(bytes + first, 0xFF, rest);
  }
  Straddle& kept = straddles_[(linear >> kPageShift) & (kStraddles - 1)];
  c_.block_instructions = 1;
  if (kept.linear == linear && kept.mode == c_.mode && std::memcmp(kept.bytes, bytes, sizeof(bytes)) == 0) {
    return kept.ops;
  }
  Op ops[Decoder::kMaxOps];
  const Decoder::Result result = decoder_.DecodeBlock(bytes, sizeof(bytes), c_.mode, 1, ops);
  kept.linear = linear;
  kept.mode = c_.mode;
  std::memcpy(kept.bytes, bytes, sizeof(bytes));
  std::memcpy(kept.ops, ops, sizeof(Op) * result.ops);
  return kept.ops;
}

const Op* CodeCache::LookupStep() {
  const TlbPage& page = CodePage();
  const uint64_t linear = c_.Is64() ? c_.r[kIp] : (c_.r[kIp] + c_.code_base) & 0xFFFFFFFF;
  const uint64_t offset = linear & (kPageSize - 1);
  const int available = static_cast<int>(std::min<uint64_t>(kPageSize - offset, ZYDIS_MAX_INSTRUCTION_LENGTH));
  uint8_t bytes[ZYDIS_MAX_INSTRUCTION_LENGTH];
  if (page.host != nullptr) {
    RawCopy(bytes, page.host + offset, available);
  } else {
    std::memset(bytes, 0xFF, available);
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
  for (const Key& key : found->second) blocks_.erase(key);
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
