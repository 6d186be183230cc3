// SPDX-License-Identifier: Apache-2.0
#include "backend_kvm/page_walk.h"

namespace hvsdk::backend::kvm {
namespace {

constexpr uint64_t kCr0Wp = 1u << 16;
constexpr uint64_t kCr0Pg = 1u << 31;
constexpr uint64_t kCr4Pse = 1u << 4;
constexpr uint64_t kCr4Pae = 1u << 5;
constexpr uint64_t kCr4La57 = 1u << 12;
constexpr uint64_t kCr4Smep = 1u << 20;
constexpr uint64_t kCr4Smap = 1u << 21;
constexpr uint64_t kEferLma = 1u << 10;
constexpr uint64_t kEferNx = 1u << 11;
constexpr uint64_t kRflagsAc = 1u << 18;

constexpr uint64_t kPresent = 1;
constexpr uint64_t kWritable = 2;
constexpr uint64_t kUser = 4;
constexpr uint64_t kLarge = 0x80;
constexpr uint64_t kNoExecute = uint64_t{1} << 63;
constexpr uint64_t kAddress = 0x000FFFFFFFFFF000;
constexpr uint32_t kReservedPse = 1u << 21;
// Of a large page: flags, and PAT in bit 12; the rest below its size is reserved.
constexpr uint64_t kLargeFlags = 0x1FFF;

// What the entries on the way allow, all together.
struct Rights {
  bool writable = true;
  bool user = true;
  bool no_execute = false;
};

Translation Judge(const PagingState& state, uint64_t gpa, Rights rights, TranslateAccess access, bool user) {
  Translation result;
  result.present = true;
  result.gpa = gpa;
  result.user = rights.user;
  const bool smap = (state.cr4 & kCr4Smap) != 0 && rights.user && (state.rflags & kRflagsAc) == 0;
  const bool smep = (state.cr4 & kCr4Smep) != 0 && rights.user;
  const bool readable = user ? rights.user : !smap;
  result.writable = readable && (rights.writable || (!user && (state.cr0 & kCr0Wp) == 0));
  result.executable = !rights.no_execute && (user ? rights.user : !smep);
  result.privilege_violation = (access == TranslateAccess::kRead && !readable) ||
                               (access == TranslateAccess::kWrite && !result.writable) ||
                               (access == TranslateAccess::kExecute && !result.executable);
  return result;
}

// Two levels of 4-byte entries.
Translation Walk32(const GuestMemory& memory, const PagingState& state, uint32_t gva, TranslateAccess access,
                   bool user) {
  Rights rights;
  uint32_t entry;
  if (!memory.ReadObject((state.cr3 & 0xFFFFF000) + (gva >> 22) * 4, entry) || !(entry & kPresent)) return {};
  rights.writable = entry & kWritable;
  rights.user = entry & kUser;
  if ((entry & kLarge) && (state.cr4 & kCr4Pse)) {
    if (entry & kReservedPse) return {.reserved_bits = true};
    // PSE-36: bits 20:13 are bits 39:32 of the address.
    const uint64_t base = (entry & 0xFFC00000) | (uint64_t{(entry >> 13) & 0xFF} << 32);
    return Judge(state, base | (gva & 0x3FFFFF), rights, access, user);
  }
  const uint32_t table = entry & 0xFFFFF000;
  if (!memory.ReadObject(table + ((gva >> 12) & 0x3FF) * 4, entry) || !(entry & kPresent)) return {};
  rights.writable &= (entry & kWritable) != 0;
  rights.user &= (entry & kUser) != 0;
  return Judge(state, (entry & 0xFFFFF000) | (gva & 0xFFF), rights, access, user);
}

}  // namespace

Translation WalkPageTables(const GuestMemory& memory, const PagingState& state, uint64_t gva, TranslateAccess access,
                           bool user) {
  if ((state.cr0 & kCr0Pg) == 0) {
    Translation flat = Judge({}, gva & 0xFFFFFFFF, Rights{}, access, true);
    return flat;
  }
  if ((state.cr4 & kCr4Pae) == 0) return Walk32(memory, state, static_cast<uint32_t>(gva), access, user);

  const bool long_mode = (state.efer & kEferLma) != 0;
  const bool nx = (state.efer & kEferNx) != 0;
  int level = long_mode ? ((state.cr4 & kCr4La57) != 0 ? 5 : 4) : 3;
  uint64_t table = state.cr3 & kAddress;
  if (long_mode) {
    const int shift = 64 - (12 + 9 * level);
    if (static_cast<uint64_t>(static_cast<int64_t>(gva << shift) >> shift) != gva) return {};  // not canonical
  } else {
    gva &= 0xFFFFFFFF;
    table = state.cr3 & 0xFFFFFFE0;
  }
  Rights rights;
  const uint64_t above_address = ~uint64_t{0} << state.physical_bits;
  const uint64_t reserved = (above_address & (long_mode ? kAddress : ~kNoExecute)) | (nx ? 0 : kNoExecute);
  for (; level >= 1; --level) {
    const int shift = 12 + 9 * (level - 1);
    const bool pae_pointer = level == 3 && !long_mode;
    const uint64_t index = (gva >> shift) & (pae_pointer ? 3 : 511);
    uint64_t entry;
    if (!memory.ReadObject(table + index * 8, entry) || !(entry & kPresent)) return {};
    const bool large = level > 1 && !pae_pointer && (entry & kLarge) != 0;
    const uint64_t offset = (uint64_t{1} << shift) - 1;
    // A PAE directory pointer carries no rights, and the processor checked it when CR3 was loaded.
    if (!pae_pointer) {
      if ((entry & reserved) != 0 || (large && (level > 3 || (entry & offset & ~kLargeFlags) != 0))) {
        return {.reserved_bits = true};
      }
      rights.writable &= (entry & kWritable) != 0;
      rights.user &= (entry & kUser) != 0;
      rights.no_execute |= nx && (entry & kNoExecute) != 0;
    }
    if (level == 1 || large) {
      return Judge(state, (entry & kAddress & ~offset) | (gva & offset), rights, access, user);
    }
    table = entry & kAddress;
  }
  return {};
}

}  // namespace hvsdk::backend::kvm
