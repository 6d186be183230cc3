// SPDX-License-Identifier: Apache-2.0
#include "backend_software/code/code_cache.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "backend_software/processor/memory_access.h"

namespace hvsdk::software {
namespace {

constexpr int kMaxBlockBytes = kMaxBlockInstructions * ZYDIS_MAX_INSTRUCTION_LENGTH;

// Stands behind an instruction that changed the code of its own block.
const Op* LeaveBlock(Cpu& c, const Op* op) {
  c.r[kIp] = (c.r[kIp] + op->ip) & c.IpMask();
  c.block_instructions = op->count;
  return nullptr;
}

// If `block` is under way: it ends behind the present instruction.
void Cut(Cpu& c, Block& block) {
  if (c.op < block.ops() || c.op >= block.ops() + block.op_count) return;
  // The last operation looks at attention before it follows its links.
  c.attention.fetch_or(kAttentionInterrupt, std::memory_order_relaxed);
  const auto index = c.op - block.ops();
  if (index < block.op_count - 2) block.ops()[index + 1].handler = &LeaveBlock;
}

}  // namespace

// A block has seldom fewer than four slots, and a page seldom fewer than four blocks: with one chain for 16 to 32 slots,
// and a quarter as many for pages, chains are short and take a fiftieth of the memory. Blocks and pages take the rest.
CodeCache::CodeCache(Cpu& cpu, size_t size_bytes)
    : c_(cpu),
      decoder_(cpu.features),
      size_(size_bytes / sizeof(Op) / 64 * 62),
      arena_(MakeZeroedArray<Op>(size_bytes / sizeof(Op))),
      block_chain_count_(std::bit_floor(size_bytes / sizeof(Op) / 16)),
      page_chain_count_(block_chain_count_ / 4),
      block_chains_(arena_ == nullptr ? nullptr : reinterpret_cast<uint32_t*>(arena_.get() + size_)),
      page_chains_(arena_ == nullptr ? nullptr : block_chains_ + block_chain_count_),
      straddles_(MakeZeroedArray<Straddle>(kStraddles)) {}

const Op* ContinueMiss(Cpu& c) {
  if (c.code->full()) return nullptr;
  return c.code->Lookup();
}

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
    Block* block = FindBlock(gpa, c_.mode);
    if (block == nullptr) {
      if (full()) return LookupStep();  // having looked again too often
      if (!Announce(page)) continue;
      block = Build(gpa, page);
      if (block == nullptr) return Across(linear, page);
    }
    if (block->size_bytes > c_.CodeBytesLeft()) return LookupStep();
    c_.block_instructions = block->instructions;
    c_.jump[JumpIndex(linear)] = {linear, c_.code_tag, block->ops(), block->instructions};
    return block->ops();
  }
}

bool CodeCache::Announce(const TlbPage& page) {
  if (page.state->code_vps.load(std::memory_order_relaxed) & c_.vp_bit()) return true;
  PageState* const state = page.state;
  {
    std::lock_guard lock(c_.memory.code_mutex());
    c_.host.WatchHostWrites(page.gpa, true);
    state->code_vps.fetch_or(c_.vp_bit(), std::memory_order_seq_cst);
  }
  const uint64_t number = page.gpa >> kPageShift;
  const uint32_t place = Allocate(1);
  uint32_t& chain = PageChain(number);
  PageAt(place) = {number, std::exchange(chain, place), 0, {}};
  const uint64_t writers = state->write_vps.load(std::memory_order_seq_cst);
  if (writers & c_.vp_bit()) {
    c_.PurgeWrites(state);
    state->write_vps.fetch_and(~c_.vp_bit(), std::memory_order_seq_cst);
  }
  if ((writers & ~c_.vp_bit()) == 0) return true;
  c_.host.RequestAndWait(&c_, writers & ~c_.vp_bit(), kRequestPurge);
  return false;
}

bool CodeCache::IsKnownStraddle(uint64_t linear, const TlbPage& page) const {
  const Straddle& straddle = straddles_[(linear >> kPageShift) & (kStraddles - 1)];
  if (straddle.linear != linear || straddle.mode != c_.mode || straddle.size == 0 || page.host == nullptr) return false;
  // Another address space may have other bytes there, of which a whole instruction is in the first page.
  const uint64_t offset = linear & (kPageSize - 1);
  uint8_t bytes[ZYDIS_MAX_INSTRUCTION_LENGTH];
  RawCopy(bytes, page.host + offset, kPageSize - offset);
  return std::memcmp(bytes, straddle.bytes, kPageSize - offset) == 0;
}

Block* CodeCache::Build(uint64_t gpa, const TlbPage& page) {
  const uint64_t offset = gpa & (kPageSize - 1);
  const int available = static_cast<int>(std::min<uint64_t>(kPageSize - offset, kMaxBlockBytes));
  uint8_t bytes[kMaxBlockBytes];
  Op ops[Decoder::kMaxOps];
  for (;;) {
    RawCopy(bytes, page.host + offset, available);
    const Decoder::Result result = decoder_.DecodeBlock(bytes, available, c_.mode, kMaxBlockInstructions, ops);
    if (result.instructions == 0) return nullptr;
    uint64_t granules = 0;
    for (uint64_t at = offset & ~uint64_t{63}; at < offset + result.size_bytes; at += 64) {
      granules |= uint64_t{1} << (at >> 6);
    }
    {
      // A granule is never withdrawn while a VP holds code of the page, hence the lock against DropPage.
      std::lock_guard lock(c_.memory.code_mutex());
      page.state->granules.fetch_or(granules, std::memory_order_seq_cst);
    }
    // Pairs with the fence in Cpu::StorePiece: a writer that did not see our granules wrote before this look.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    uint8_t again[kMaxBlockBytes];
    RawCopy(again, page.host + offset, result.size_bytes);
    if (std::memcmp(bytes, again, result.size_bytes) != 0) continue;

    const uint32_t place = Allocate(1 + result.ops);
    Block& block = BlockAt(place);
    block = {gpa,
             std::exchange(BlockChain(gpa, c_.mode), place),
             std::exchange(FindPage(gpa >> kPageShift)->first_block, place),
             c_.mode,
             static_cast<uint16_t>(result.size_bytes),
             static_cast<uint8_t>(result.instructions),
             static_cast<uint8_t>(result.ops),
             0};
    std::memcpy(block.ops(), ops, sizeof(Op) * result.ops);
    LinksOf(&block.ops()[result.ops - 2]).linkable = 1;
    return &block;
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

Block* CodeCache::FindBlock(uint64_t gpa, uint32_t mode) {
  for (uint32_t place = BlockChain(gpa, mode); place != 0;) {
    Block& block = BlockAt(place);
    if (block.gpa == gpa && block.mode == mode) return &block;
    place = block.next;
  }
  return nullptr;
}

CodeCache::Page* CodeCache::FindPage(uint64_t number) {
  for (uint32_t place = PageChain(number); place != 0;) {
    Page& page = PageAt(place);
    if (page.number == number) return &page;
    place = page.next;
  }
  return nullptr;
}

void CodeCache::Unlink(const Block& block) {
  uint32_t* link = &BlockChain(block.gpa, block.mode);
  while (&BlockAt(*link) != &block) link = &BlockAt(*link).next;
  *link = block.next;
}

void CodeCache::DropPage(uint64_t gpa) {
  const uint64_t number = gpa >> kPageShift;
  uint32_t* link = &PageChain(number);
  while (*link != 0 && PageAt(*link).number != number) link = &PageAt(*link).next;
  if (*link == 0) return;
  Page& dropped = PageAt(*link);
  for (uint32_t place = dropped.first_block; place != 0; place = BlockAt(place).next_in_page) {
    Cut(c_, BlockAt(place));
    Unlink(BlockAt(place));
  }
  *link = dropped.next;
  Withdraw(dropped);
  c_.BumpCodeGeneration();
}

void CodeCache::DropAll() {
  // What has never decoded anything is restored: its chains have no memory yet, and need none.
  if (used_ == 1) return c_.BumpCodeGeneration();
  for (size_t i = 0; i < page_chain_count_; ++i) {
    for (uint32_t at = std::exchange(page_chains_[i], 0); at != 0; at = PageAt(at).next) {
      for (uint32_t place = PageAt(at).first_block; place != 0; place = BlockAt(place).next_in_page) {
        Cut(c_, BlockAt(place));
      }
      Withdraw(PageAt(at));
    }
  }
  std::fill_n(block_chains_, block_chain_count_, 0);
  c_.BumpCodeGeneration();
}

void CodeCache::Withdraw(const Page& page) {
  const uint64_t gpa = page.number << kPageShift;
  const PhysicalPage found = c_.memory.Find(gpa);
  if (found.state == nullptr) return;
  std::lock_guard lock(c_.memory.code_mutex());
  if (found.state->code_vps.fetch_and(~c_.vp_bit(), std::memory_order_seq_cst) == c_.vp_bit()) {
    found.state->granules.store(0, std::memory_order_seq_cst);
    c_.host.WatchHostWrites(gpa, false);
  }
}

void CodeCache::Reset() {
  DropAll();
  used_ = 1;
}

void CodeCache::PostDrop(uint64_t gpa) {
  std::lock_guard lock(posted_mutex_);
  if (posted_count_ > kMaxPosted || std::find(posted_, posted_ + posted_count_, gpa) != posted_ + posted_count_) return;
  if (posted_count_ < kMaxPosted) posted_[posted_count_] = gpa;
  ++posted_count_;
}

void CodeCache::ServeDrops() {
  uint64_t pages[kMaxPosted];
  size_t count;
  {
    std::lock_guard lock(posted_mutex_);
    count = std::exchange(posted_count_, 0);
    std::copy_n(posted_, std::min(count, kMaxPosted), pages);
  }
  if (count > kMaxPosted) {
    DropAll();
    return;
  }
  for (size_t i = 0; i < count; ++i) DropPage(pages[i]);
}

}  // namespace hvsdk::software
