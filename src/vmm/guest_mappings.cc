// SPDX-License-Identifier: Apache-2.0
#include "vmm/guest_mappings.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "hvsdk/base/ids.h"

namespace hvsdk::vmm {
namespace {

constexpr uint64_t kPresent = 1, kLarge = 1 << 7;
constexpr uint64_t kAddress = 0x000F'FFFF'FFFF'F000;
constexpr size_t kMostTables = 65536;

class Walk {
 public:
  Walk(GuestMemory& memory, int bits, size_t most, std::vector<GuestMapping>& found)
      : bits_(bits), memory_(memory), most_(most), found_(found) {}

  // The table at `gpa`, whose entries each span 1 << shift bytes of the addresses from `gva` on.
  void Table(uint64_t gpa, uint64_t gva, int shift) {
    const uint8_t* const bytes = memory_.Pointer(gpa, kPageSize);
    if (bytes == nullptr || ++tables_ > kMostTables) return;
    std::array<uint64_t, 512> entries;
    std::memcpy(entries.data(), bytes, sizeof(entries));
    for (size_t i = 0; i < entries.size() && found_.size() < most_; ++i) {
      const uint64_t entry = entries[i];
      if ((entry & kPresent) == 0) continue;
      const uint64_t at = gva + (uint64_t{i} << shift);
      const bool is_leaf = shift == kPageShift || (shift <= 30 && (entry & kLarge) != 0);
      if (!is_leaf) {
        Table(entry & kAddress, at, shift - 9);
      } else {
        Leaf(at, (entry & kAddress) >> shift << shift, uint64_t{1} << shift);
      }
    }
  }

 private:
  // A large page may reach beyond memory, or over the hole in it.
  void Leaf(uint64_t gva, uint64_t gpa, uint64_t size_bytes) {
    // Addresses are sign-extended: the upper half of the root's entries is the upper end of them.
    if ((gva >> (bits_ - 1) & 1) != 0) gva |= ~uint64_t{0} << bits_;
    for (const GuestMemory::Range& range : memory_.ranges()) {
      const uint64_t first = std::max(gpa, range.gpa);
      const uint64_t end = std::min(gpa + size_bytes, range.gpa + range.size_bytes);
      if (first < end) Add({gva + (first - gpa), first, end - first});
    }
  }
  void Add(const GuestMapping& mapping) {
    if (!found_.empty()) {
      GuestMapping& last = found_.back();
      if (last.gva + last.size_bytes == mapping.gva && last.gpa + last.size_bytes == mapping.gpa) {
        last.size_bytes += mapping.size_bytes;
        return;
      }
    }
    if (found_.size() < most_) found_.push_back(mapping);
  }

  const int bits_;  // of an address
  GuestMemory& memory_;
  const size_t most_;
  std::vector<GuestMapping>& found_;
  size_t tables_ = 0;
};

}  // namespace

std::vector<GuestMapping> ReadGuestMappings(GuestMemory& memory, uint64_t root_gpa, int levels, size_t most) {
  std::vector<GuestMapping> found;
  const int bits = kPageShift + 9 * levels;
  Walk(memory, bits, most, found).Table(root_gpa & kAddress, 0, bits - 9);
  return found;
}

}  // namespace hvsdk::vmm
