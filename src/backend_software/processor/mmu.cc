// SPDX-License-Identifier: Apache-2.0
// Paging: the walk, the software TLB, and accesses that have no fast TLB entry (Intel SDM volume 3, chapter 4).
#include <algorithm>
#include <new>

#include "backend_software/processor/cpu.h"
#include "backend_software/processor/memory_access.h"

namespace hvsdk::software {
namespace {

enum PteBit : uint64_t {
  kPresent = 1,
  kWritable = 2,
  kUser = 4,
  kAccessed = 32,
  kDirty = 64,
  kLarge = 128,
  kGlobal = 256,
  kNoExecute = uint64_t{1} << 63,
};

constexpr uint64_t kAddressField = 0x000FFFFFFFFFF000;
constexpr uint64_t kPaeReservedMask = 0x7FF0000000000000;  // the guest's own in long mode
constexpr uint64_t kPseReservedMask = 1u << 21;

constexpr uint64_t PageOf(uint64_t linear) { return linear & ~(kPageSize - 1); }

uint64_t GranuleMask(uint64_t linear, int size) {
  const int first = static_cast<int>(linear >> 6 & 63);
  const int last = static_cast<int>((linear + size - 1) >> 6 & 63);
  uint64_t mask = uint64_t{1} << first | uint64_t{1} << last;
  for (int i = first + 1; i < last; ++i) mask |= uint64_t{1} << i;
  return mask;
}

}  // namespace

TlbMode Cpu::DataTlbMode() const {
  if (cpl == 3) return kTlbUser;
  return (cr4 & kCr4Smap) && !(rflags & kFlagAc) ? kTlbSupervisor : kTlbSupervisorUserAccess;
}

Walk Cpu::WalkPages(uint64_t linear, uint32_t access, TlbMode as, bool set_accessed_dirty) {
  Walk walk;
  if (!(cr0 & kCr0Pg)) {
    walk.allowed = walk.present = walk.user = walk.writable = walk.executable = walk.dirty = true;
    walk.gpa = PageOf(linear);
    return walk;
  }
  const bool user = as == kTlbUser;
  const bool wide = cr4 & kCr4Pae;
  const bool nx = wide && (efer & kEferNxe);
  uint32_t error = (user ? kFaultUser : 0) | (access & kAccessWrite);
  if ((access & kAccessExecute) && (nx || (cr4 & kCr4Smep))) error |= kFaultFetch;

  const auto may_be_large = [this](int now) {
    return now < 3 || (now == 3 && (!IsLong() || features.Has(Feature::kGigabytePages)));
  };
  int level = IsLong() ? 4 : wide ? 3 : 2;
  uint64_t table = IsLong() ? cr3 & address_mask : wide ? cr3 & 0xFFFFFFE0 : cr3 & 0xFFFFF000;

  for (;;) {  // again when another processor changed an entry under us
    struct Seen {
      uint64_t host;
      uint64_t entry;
      uint64_t gpa;
      PageState* state;
    } seen[4];
    int depth = 0;
    uint64_t at = table;
    uint64_t combined = kUser | kWritable;
    uint64_t leaf = 0;
    int now = level;
    walk.error = error;
    for (;; --now) {
      const int shift = wide ? 12 + 9 * (now - 1) : 12 + 10 * (now - 1);
      const uint64_t index = linear >> shift & (wide ? (now == 3 && !IsLong() ? 3 : 511) : 1023);
      const uint64_t gpa = at + index * (wide ? 8 : 4);
      const PhysicalPage page = memory.Find(gpa);
      if (page.host == nullptr) return walk;
      const uint64_t host = reinterpret_cast<uint64_t>(page.host) + (gpa & (kPageSize - 1));
      const uint64_t entry = wide ? RawLoad<uint64_t>(host) : RawLoad<uint32_t>(host);
      if (!(entry & kPresent)) return walk;
      seen[depth++] = {host, entry, gpa, page.state};
      const bool pae_pointer = now == 3 && !IsLong();
      if (wide &&
          ((entry & kAddressField & ~address_mask) || (!nx && (entry & kNoExecute) && !pae_pointer) ||
           (level == 3 && !pae_pointer && (entry & kPaeReservedMask)) || ((entry & kLarge) && !may_be_large(now)))) {
        walk.error |= kFaultPresent | kFaultReserved;
        return walk;
      }
      if (!pae_pointer) combined &= entry;
      const bool large = now > 1 && !pae_pointer && (entry & kLarge) && (wide || (cr4 & kCr4Pse));
      if (now == 1 || large) {
        leaf = entry;
        if (large) {
          if (entry & (wide ? ((uint64_t{1} << shift) - 1) & ~uint64_t{0x1FFF} : kPseReservedMask)) {
            walk.error |= kFaultPresent | kFaultReserved;
            return walk;
          }
          const uint64_t size_mask = (uint64_t{1} << shift) - 1;
          uint64_t frame = entry & address_mask & ~size_mask;
          if (!wide) frame = (entry & 0xFFC00000) | (entry >> 13 & 0xFF) << 32;
          walk.gpa = PageOf(frame | (linear & size_mask));
          walk.large = true;
        } else {
          walk.gpa = wide ? entry & address_mask : entry & 0xFFFFF000;
          walk.large = false;
        }
        break;
      }
      at = wide ? entry & address_mask : entry & 0xFFFFF000;
    }
    bool no_execute = false;
    if (wide && nx) {
      for (int i = 0; i < depth; ++i) no_execute |= seen[i].entry >> 63;
    }
    walk.present = true;
    walk.user = combined & kUser;
    walk.writable = (combined & kWritable) || (!user && !(cr0 & kCr0Wp));
    walk.executable = !no_execute && !(!user && walk.user && (cr4 & kCr4Smep));
    walk.global = (leaf & kGlobal) && (cr4 & kCr4Pge);
    walk.dirty = leaf & kDirty;
    if ((user && !walk.user) || ((access & kAccessWrite) && !walk.writable) ||
        ((access & kAccessExecute) && !walk.executable) ||
        (as == kTlbSupervisor && walk.user && !(access & kAccessExecute) && (cr4 & kCr4Smap))) {
      walk.error |= kFaultPresent;
      return walk;
    }
    walk.allowed = true;
    if (!set_accessed_dirty) return walk;
    bool stable = true;
    for (int i = 0; i < depth && stable; ++i) {
      if (wide && !IsLong() && i == 0) continue;  // PDPTEs have no accessed bit
      uint64_t want = seen[i].entry | kAccessed;
      if (i == depth - 1 && (access & kAccessWrite)) want |= kDirty;
      if (want == seen[i].entry) continue;
      if (wide) {
        uint64_t expected = seen[i].entry;
        stable = RawCompareExchange<uint64_t>(seen[i].host, expected, want);
      } else {
        auto expected = static_cast<uint32_t>(seen[i].entry);
        stable = RawCompareExchange<uint32_t>(seen[i].host, expected, static_cast<uint32_t>(want));
      }
      WroteSlow(seen[i].gpa, wide ? 8 : 4, *seen[i].state);
      if (i == depth - 1) walk.dirty = want & kDirty;
    }
    if (stable) return walk;
    walk = Walk{};
  }
}

bool Cpu::MakeWriteFast(TlbEntry& entry, TlbPage& page, uint64_t tag) {
  entry.write = tag | kTlbSlow;
  if (page.host == nullptr || !page.writable) return false;
  if (memory.dirty_log()) page.state->dirty.store(1, std::memory_order_relaxed);
  // Pairs with the announcement of code in CodeCache: either we see the code or the decoder sees our entry.
  if (!(page.state->write_vps.load(std::memory_order_relaxed) & vp_bit())) {
    page.state->write_vps.fetch_or(vp_bit(), std::memory_order_seq_cst);
  }
  if (page.state->code_vps.load(std::memory_order_seq_cst) != 0) return false;
  entry.write = tag;
  return true;
}

TlbPage& Cpu::FillTlb(uint64_t linear, uint32_t access, TlbMode as) {
  const Walk walk = WalkPages(linear, access, as, true);
  if (!walk.allowed) RaisePageFault(linear, walk.error);
  const int at = static_cast<int>(linear >> kPageShift & (kTlbEntries - 1));
  TlbEntry& entry = tlb_entries[as][at];
  TlbPage& page = tlb_pages[as][at];
  const uint64_t tag = PageOf(linear);
  // Other kinds of access to the same page keep their tags, unless the page has moved under them.
  const auto same = [&](uint64_t t) { return t != kTlbInvalid && (t & ~kTlbSlow) == tag; };
  if (!((same(entry.read) || same(entry.write) || same(entry.execute)) && page.gpa == walk.gpa)) {
    entry.read = entry.write = entry.execute = kTlbInvalid;
  }
  const PhysicalPage physical = memory.Find(walk.gpa);
  page = {walk.gpa, physical.host, physical.state, physical.writable, walk.global, walk.large};
  entry.addend = reinterpret_cast<uint64_t>(physical.host) - tag;
  if (walk.global) {
    tlb_has_global = true;
  } else if (tlb_filled_count <= kTlbFilled) {
    if (tlb_filled_count < kTlbFilled) tlb_filled[tlb_filled_count] = static_cast<uint16_t>(as * kTlbEntries + at);
    ++tlb_filled_count;
  }
  if (walk.large) {
    const int half = static_cast<int>(linear >> 63);
    large_low[half] = std::min(large_low[half], tag);
    large_high[half] = std::max(large_high[half], tag);
  }
  const uint64_t slow = physical.host == nullptr ? kTlbSlow : 0;
  if (access & kAccessExecute) {
    entry.execute = tag | slow;
    return page;
  }
  entry.read = tag | slow;
  if (access & kAccessWrite) {
    MakeWriteFast(entry, page, tag);
  } else if (walk.writable && walk.dirty && !memory.dirty_log()) {
    MakeWriteFast(entry, page, tag);
  }
  return page;
}

TlbPage& Cpu::Resolve(uint64_t linear, uint32_t access, TlbMode as) {
  const int at = static_cast<int>(linear >> kPageShift & (kTlbEntries - 1));
  const TlbEntry& entry = tlb_entries[as][at];
  const uint64_t tag = (access & kAccessWrite) ? entry.write : (access & kAccessExecute) ? entry.execute : entry.read;
  if (tag != kTlbInvalid && (tag & ~kTlbSlow) == PageOf(linear)) return tlb_pages[as][at];
  return FillTlb(linear, access, as);
}

Tlb::Tlb() : tables_(MakeZeroedArray<TlbTables>(1)) {
  if (tables_ == nullptr) throw std::bad_alloc();
  tlb_entries = tables_[0].entries;
  tlb_pages = tables_[0].pages;
  tlb_filled = tables_[0].filled;
  jump = tables_[0].jump;
  for (int as = 0; as < kTlbModes; ++as) {
    tlb_entries[as][0] = tlb_entries[as][kTlbEntries - 1] = {kTlbInvalid, kTlbInvalid, kTlbInvalid, 0};
  }
}

void Cpu::FlushTlb(bool keep_global) {
  const auto forget = [entries = &tlb_entries[0][0], pages = &tlb_pages[0][0]](int at) {
    TlbEntry& entry = entries[at];
    if (!pages[at].global) entry.read = entry.write = entry.execute = kTlbInvalid;
  };
  if (tlb_filled_count <= kTlbFilled && (keep_global || !tlb_has_global)) {
    for (uint32_t i = 0; i < tlb_filled_count; ++i) forget(tlb_filled[i]);
  } else if (keep_global) {
    for (int at = 0; at < kTlbModes * kTlbEntries; ++at) forget(at);
  } else {
    std::memset(tlb_entries, 0xFF, sizeof(TlbTables::entries));
  }
  if (!keep_global) {
    tlb_has_global = false;
    large_low[0] = large_low[1] = ~uint64_t{0};
    large_high[0] = large_high[1] = 0;
  }
  tlb_filled_count = 0;
  BumpCodeGeneration();
}

void Cpu::FlushTlbPage(uint64_t linear) {
  const int half = static_cast<int>(linear >> 63);
  const uint64_t tag = PageOf(linear);
  if (tag >= large_low[half] && tag <= large_high[half]) {
    // The page may be a piece of a large one, whose other pieces go with it.
    for (int as = 0; as < kTlbModes; ++as) {
      for (int i = 0; i < kTlbEntries; ++i) {
        if (tlb_pages[as][i].large) {
          tlb_entries[as][i].read = tlb_entries[as][i].write = tlb_entries[as][i].execute = kTlbInvalid;
        }
      }
    }
    BumpCodeGeneration();
  }
  for (int as = 0; as < kTlbModes; ++as) {
    TlbEntry& entry = EntryFor(linear, static_cast<TlbMode>(as));
    entry.read = entry.write = entry.execute = kTlbInvalid;
  }
  ++link_tag;
  JumpEntry* entries = jump + (JumpIndex(tag) & ~(kJumpRun - 1));
  for (uint32_t i = 0; i < kJumpRun; ++i) entries[i].linear = kTlbInvalid;
}

void Cpu::PurgeWrites(const PageState* only) {
  for (int as = 0; as < kTlbModes; ++as) {
    for (int i = 0; i < kTlbEntries; ++i) {
      TlbEntry& entry = tlb_entries[as][i];
      if (entry.write == kTlbInvalid || (entry.write & kTlbSlow)) continue;
      PageState* state = tlb_pages[as][i].state;
      if (state == nullptr || (only != nullptr && state != only)) continue;
      entry.write |= kTlbSlow;
      if (only == nullptr) state->write_vps.fetch_and(~vp_bit(), std::memory_order_seq_cst);
    }
  }
}

// ---- accesses ----

void Cpu::CheckLinear(const Op* at, uint64_t linear, int size) {
  op = at;
  if (!IsCanonical(linear) || !IsCanonical(linear + size - 1)) {
    Raise(at != nullptr && (at->flags & kOpStackSegment) ? kStackFault : kGeneralProtection, 0);
  }
  if (cpl == 3 && (rflags & kFlagAc) && (cr0 & kCr0Am) && size <= 8 && (linear & (size - 1))) {
    Raise(kAlignmentCheck, 0);
  }
}

uint64_t Cpu::LoadPiece(uint64_t linear, int size, uint32_t access) {
  const TlbPage& page = Resolve(linear, access, DataTlbMode());
  const uint64_t offset = linear & (kPageSize - 1);
  if (page.host != nullptr) {
    const uint64_t host = reinterpret_cast<uint64_t>(page.host) + offset;
    switch (size) {
      case 1:
        return RawLoad<uint8_t>(host);
      case 2:
        return RawLoad<uint16_t>(host);
      case 4:
        return RawLoad<uint32_t>(host);
      case 8:
        return RawLoad<uint64_t>(host);
    }
    uint64_t value = 0;
    for (int i = 0; i < size; ++i) value |= static_cast<uint64_t>(RawLoad<uint8_t>(host + i)) << (8 * i);
    return value;
  }
  uint64_t value = 0;
  PhysicalRead(page.gpa + offset, reinterpret_cast<uint8_t*>(&value), size);
  return value;
}

uint64_t Cpu::LoadSlow(const Op* at, uint64_t linear, int size) {
  CheckLinear(at, linear, size);
  if (dr7 & 0xFF) CheckWatchpoints(linear, size, false);
  const int first = static_cast<int>(kPageSize - (linear & (kPageSize - 1)));
  if (first >= size) return LoadPiece(linear, size, kAccessRead);
  uint64_t second = linear + first;
  if (!IsLong()) second &= 0xFFFFFFFF;
  Resolve(linear, kAccessRead, DataTlbMode());  // of two faults the lower page's comes first
  const uint64_t high = LoadPiece(second, size - first, kAccessRead);
  return LoadPiece(linear, first, kAccessRead) | high << (8 * first);
}

uint64_t Cpu::LoadForWriteSlow(const Op* at, uint64_t linear, int size) {
  CheckLinear(at, linear, size);
  if (dr7 & 0xFF) CheckWatchpoints(linear, size, false);
  const int first = static_cast<int>(kPageSize - (linear & (kPageSize - 1)));
  if (first >= size) return LoadPiece(linear, size, kAccessWrite);
  uint64_t second = linear + first;
  if (!IsLong()) second &= 0xFFFFFFFF;
  Resolve(linear, kAccessWrite, DataTlbMode());
  const uint64_t high = LoadPiece(second, size - first, kAccessWrite);
  return LoadPiece(linear, first, kAccessWrite) | high << (8 * first);
}

void Cpu::WroteSlow(uint64_t gpa, int size, PageState& state) {
  if (memory.dirty_log()) state.dirty.store(1, std::memory_order_relaxed);
  // Pairs with the announcement of granules in CodeCache: either the decoder read our bytes or we see its code.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (state.granules.load(std::memory_order_relaxed) & GranuleMask(gpa, size)) {
    host.DropCode(this, PageOf(gpa), state);
  }
}

void Cpu::StorePiece(uint64_t linear, uint64_t value, int size, TlbMode as) {
  TlbPage& page = Resolve(linear, kAccessWrite, as);
  const uint64_t offset = linear & (kPageSize - 1);
  if (page.host == nullptr || !page.writable) {
    PhysicalWrite(page.gpa + offset, reinterpret_cast<const uint8_t*>(&value), size);
    return;
  }
  const uint64_t host = reinterpret_cast<uint64_t>(page.host) + offset;
  // Known to have no code: write at once, the entry says that a decoder would have told us.
  const bool fast =
      !(EntryFor(linear, as).write & kTlbSlow) || MakeWriteFast(EntryFor(linear, as), page, PageOf(linear));
  switch (size) {
    case 1:
      RawStore<uint8_t>(host, static_cast<uint8_t>(value));
      break;
    case 2:
      RawStore<uint16_t>(host, static_cast<uint16_t>(value));
      break;
    case 4:
      RawStore<uint32_t>(host, static_cast<uint32_t>(value));
      break;
    case 8:
      RawStore<uint64_t>(host, value);
      break;
    default:
      for (int i = 0; i < size; ++i) RawStore<uint8_t>(host + i, static_cast<uint8_t>(value >> (8 * i)));
  }
  if (!fast) WroteSlow(page.gpa + offset, size, *page.state);
}

void Cpu::StoreSlow(const Op* at, uint64_t linear, uint64_t value, int size) {
  CheckLinear(at, linear, size);
  if (dr7 & 0xFF) CheckWatchpoints(linear, size, true);
  const int first = static_cast<int>(kPageSize - (linear & (kPageSize - 1)));
  if (first >= size) {
    StorePiece(linear, value, size, DataTlbMode());
    return;
  }
  ProbeWrite(at, linear, size);
  uint64_t second = linear + first;
  if (!IsLong()) second &= 0xFFFFFFFF;
  StorePiece(linear, value, first, DataTlbMode());
  StorePiece(second, value >> (8 * first), size - first, DataTlbMode());
}

// After this no byte of the store can fault.
void Cpu::ProbeWrite(const Op* at, uint64_t linear, int size) {
  CheckLinear(at, linear, 1);
  if (IsLong()) CheckLinear(at, linear + static_cast<uint64_t>(size) - 1, 1);
  for (uint64_t done = 0; done < static_cast<uint64_t>(size);) {
    uint64_t here = linear + done;
    if (!IsLong()) here &= 0xFFFFFFFF;
    if (!IsCanonical(here)) Raise(at != nullptr && (at->flags & kOpStackSegment) ? kStackFault : kGeneralProtection, 0);
    Resolve(here, kAccessWrite, DataTlbMode());
    done += kPageSize - (here & (kPageSize - 1));
  }
}

void Cpu::LoadBytes(const Op* at, uint64_t linear, void* to, int size) {
  auto* out = static_cast<uint8_t*>(to);
  CheckLinear(at, linear, 1);
  if (IsLong()) CheckLinear(at, linear + static_cast<uint64_t>(size) - 1, 1);
  // All of it must be readable before any is seen, for the sake of devices. It may wrap at the top of the
  // address space.
  for (uint64_t done = 0; done < static_cast<uint64_t>(size);) {
    uint64_t here = linear + done;
    if (!IsLong()) here &= 0xFFFFFFFF;
    if (!IsCanonical(here)) Raise(at != nullptr && (at->flags & kOpStackSegment) ? kStackFault : kGeneralProtection, 0);
    Resolve(here, kAccessRead, DataTlbMode());
    done += kPageSize - (here & (kPageSize - 1));
  }
  for (int done = 0; done < size;) {
    uint64_t here = linear + done;
    if (!IsLong()) here &= 0xFFFFFFFF;
    const int piece = static_cast<int>(std::min<uint64_t>(size - done, kPageSize - (here & (kPageSize - 1))));
    if (dr7 & 0xFF) CheckWatchpoints(here, piece, false);
    const TlbPage& page = Resolve(here, kAccessRead, DataTlbMode());
    if (page.host != nullptr) {
      RawCopy(out + done, page.host + (here & (kPageSize - 1)), piece);
    } else {
      for (int i = 0; i < piece; i += 8) {
        PhysicalRead(page.gpa + (here & (kPageSize - 1)) + i, out + done + i, std::min(8, piece - i));
      }
    }
    done += piece;
  }
}

void Cpu::StoreBytes(const Op* at, uint64_t linear, const void* from, int size) {
  ProbeWrite(at, linear, size);
  const auto* in = static_cast<const uint8_t*>(from);
  for (int done = 0; done < size;) {
    uint64_t here = linear + done;
    if (!IsLong()) here &= 0xFFFFFFFF;
    const int piece = static_cast<int>(
        std::min<uint64_t>({static_cast<uint64_t>(size - done), 8, kPageSize - (here & (kPageSize - 1))}));
    uint64_t value = 0;
    std::memcpy(&value, in + done, piece);
    if (dr7 & 0xFF) CheckWatchpoints(here, piece, true);
    StorePiece(here, value, piece, DataTlbMode());
    done += piece;
  }
}

uint8_t* Cpu::HostForRead(const Op* at, uint64_t linear, int size) {
  CheckLinear(at, linear, 1);
  if ((dr7 & 0xFF) || (linear & (kPageSize - 1)) + size > kPageSize) return nullptr;
  const TlbPage& page = Resolve(linear, kAccessRead, DataTlbMode());
  return page.host == nullptr ? nullptr : page.host + (linear & (kPageSize - 1));
}

uint8_t* Cpu::HostForWrite(const Op* at, uint64_t linear, int size) {
  CheckLinear(at, linear, 1);
  if ((dr7 & 0xFF) || (linear & (kPageSize - 1)) + size > kPageSize) return nullptr;
  const TlbMode as = DataTlbMode();
  TlbPage& page = Resolve(linear, kAccessWrite, as);
  TlbEntry& entry = EntryFor(linear, as);
  if ((entry.write & kTlbSlow) && !MakeWriteFast(entry, page, PageOf(linear))) return nullptr;
  return page.host + (linear & (kPageSize - 1));
}

uint8_t* Cpu::BeginLocked(const Op* at, uint64_t linear, int size) {
  CheckLinear(at, linear, size);
  ProbeWrite(at, linear, size);
  if (dr7 & 0xFF) CheckWatchpoints(linear, size, true);
  const TlbPage& page = Resolve(linear, kAccessWrite, DataTlbMode());
  const uint64_t offset = linear & (kPageSize - 1);
  if (page.host == nullptr || !page.writable) return nullptr;
  if (offset + size <= kPageSize) return page.host + offset;
  uint64_t second = PageOf(linear) + kPageSize;
  if (!IsLong()) second &= 0xFFFFFFFF;
  if (Resolve(second, kAccessWrite, DataTlbMode()).host != nullptr) host.BeginExclusive(*this);
  return nullptr;
}

void Cpu::EndLocked(uint64_t linear, int size, bool exclusive) {
  if (exclusive) {
    if (holds_exclusive) host.EndExclusive(*this);
    return;
  }
  const TlbPage& page = Resolve(linear, kAccessWrite, DataTlbMode());
  WroteSlow(page.gpa + (linear & (kPageSize - 1)), size, *page.state);
}

uint64_t Cpu::LoadSystem(uint64_t linear, int size) {
  uint64_t value = 0;
  for (int i = 0; i < size;) {
    const uint64_t here = IsLong() ? linear + i : (linear + i) & 0xFFFFFFFF;
    if (!IsCanonical(here)) Raise(kGeneralProtection, 0);
    const TlbPage& page = Resolve(here, kAccessRead, kTlbSupervisor);
    const uint64_t offset = here & (kPageSize - 1);
    if (page.host != nullptr && size == 8 && offset <= kPageSize - 8) {
      return RawLoad<uint64_t>(reinterpret_cast<uint64_t>(page.host) + offset);
    }
    uint8_t byte = 0xFF;
    if (page.host != nullptr) {
      byte = RawLoad<uint8_t>(reinterpret_cast<uint64_t>(page.host) + offset);
    } else {
      PhysicalRead(page.gpa + offset, &byte, 1);
    }
    value |= static_cast<uint64_t>(byte) << (8 * i++);
  }
  return value;
}

void Cpu::StoreSystem(uint64_t linear, uint64_t value, int size, TlbMode as) {
  for (int i = 0; i < size;) {
    const uint64_t here = IsLong() ? linear + i : (linear + i) & 0xFFFFFFFF;
    if (!IsCanonical(here)) Raise(kStackFault, 0);
    const bool whole = i == 0 && (here & (kPageSize - 1)) <= kPageSize - size;
    StorePiece(here, value >> (8 * i), whole ? size : 1, as);
    i += whole ? size : 1;
  }
}

// ---- segmentation ----

uint64_t Cpu::SegmentLinear(int segment_index, uint64_t offset, int size, bool write) {
  if (Is64()) return segment_index >= kFs ? base(segment_index) + offset : offset;
  const Segment& s = segment[segment_index];
  const uint8_t vector = segment_index == kSs ? kStackFault : kGeneralProtection;
  const uint64_t last = offset + size - 1;
  if (IsProtected() && !IsVm86()) {
    // What counts is the descriptor in the cache: a selector of 0 that real mode left there goes with a usable one.
    if (!s.present()) Raise(vector, 0);
    const int type = s.type();
    if (type & 8) {
      if (write || !(type & 2)) Raise(vector, 0);
    } else if (write && !(type & 2)) {
      Raise(vector, 0);
    }
    if (!(type & 8) && (type & 4)) {  // expand down
      const uint64_t top = s.big() ? 0xFFFFFFFF : 0xFFFF;
      if (offset <= s.limit || last > top) Raise(vector, 0);
      return (base(segment_index) + offset) & 0xFFFFFFFF;
    }
  }
  // Over the end of a segment of 4 GiB too, where the manual leaves it open (Intel SDM volume 3, 5.3) and processors
  // fault.
  if (last > s.limit) Raise(vector, 0);
  return (base(segment_index) + offset) & 0xFFFFFFFF;
}

uint64_t Cpu::LegacyOffset(const Op* at) const {
  uint64_t offset = Get<uint64_t>(at->base) + (Get<uint64_t>(at->index) << at->scale) + static_cast<int64_t>(at->disp);
  if (at->flags & kOpRipBias) offset += kRipBias;
  if (at->flags & kOpAddress32) offset &= 0xFFFFFFFF;
  if (at->flags & kOpAddress16) offset &= 0xFFFF;
  return offset;
}

uint64_t Cpu::LegacyAddress(const Op* at, int size, bool write) {
  op = at;
  const uint64_t offset = LegacyOffset(at);
  if (Is64()) return offset + Get<uint64_t>(at->segment);
  return SegmentLinear(at->segment / 8 - kSegmentBase, offset, size, write);
}

// ---- stack ----

void Cpu::Push(uint64_t value, int size) {
  const uint64_t sp = (r[kRsp] - size) & StackMask();
  // What a bad address raises goes by the memory operand of the instruction; the stack's own is always #SS.
  if (Is64() && (!IsCanonical(sp) || !IsCanonical(sp + static_cast<uint64_t>(size) - 1))) Raise(kStackFault, 0);
  const uint64_t linear = StackLinear(sp, size, true);
  switch (size) {
    case 2:
      Store<uint16_t>(*this, op, linear, static_cast<uint16_t>(value));
      break;
    case 4:
      Store<uint32_t>(*this, op, linear, static_cast<uint32_t>(value));
      break;
    default:
      Store<uint64_t>(*this, op, linear, value);
  }
  SetSp(sp);
}

uint64_t Cpu::Pop(int size) {
  const uint64_t sp = r[kRsp] & StackMask();
  if (Is64() && (!IsCanonical(sp) || !IsCanonical(sp + static_cast<uint64_t>(size) - 1))) Raise(kStackFault, 0);
  const uint64_t linear = StackLinear(sp, size, false);
  uint64_t value;
  switch (size) {
    case 2:
      value = Load<uint16_t>(*this, op, linear);
      break;
    case 4:
      value = Load<uint32_t>(*this, op, linear);
      break;
    default:
      value = Load<uint64_t>(*this, op, linear);
  }
  SetSp(sp + size);
  return value;
}

}  // namespace hvsdk::software
