// SPDX-License-Identifier: Apache-2.0
// PageSet: a set of pages 0 to size - 1, one bit each: what a dirty log hands out and what a saved state is made of.
//
// Thread-compatible.
//
//   PageSet dirty(memory_bytes >> kPageShift);
//   dirty.Add(7);
//   dirty.ForEachRun([&](uint64_t first, uint64_t count) { return Copy(first << kPageShift, count << kPageShift); });

#ifndef HVSDK_MEMORY_PAGE_SET_H_
#define HVSDK_MEMORY_PAGE_SET_H_

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace hvsdk {

class PageSet {
 public:
  PageSet() = default;
  explicit PageSet(uint64_t size) : size_(size), words_((size + 63) / 64) {}

  uint64_t size() const { return size_; }
  // Not less than it is; the new ones are not in the set.
  void Grow(uint64_t size) {
    size_ = size;
    words_.resize((size + 63) / 64);
  }
  bool Contains(uint64_t page) const { return page < size_ && (words_[page / 64] >> page % 64 & 1) != 0; }
  void Add(uint64_t page) { words_[page / 64] |= uint64_t{1} << page % 64; }
  // Those of `bits`, least significant first, counted from page `first`.
  void AddBits(uint64_t first, absl::Span<const uint64_t> bits) {
    for (size_t i = 0; i < bits.size(); ++i) {
      for (uint64_t word = bits[i]; word != 0; word &= word - 1) Add(first + i * 64 + std::countr_zero(word));
    }
  }
  // Pages [first, first + count), which are all below size().
  void AddRun(uint64_t first, uint64_t count) {
    ForEachWord(first, count, [this](size_t word, uint64_t mask) { words_[word] |= mask; });
  }
  void RemoveRun(uint64_t first, uint64_t count) {
    ForEachWord(first, count, [this](size_t word, uint64_t mask) { words_[word] &= ~mask; });
  }
  uint64_t CountRun(uint64_t first, uint64_t count) const {
    uint64_t found = 0;
    ForEachWord(first, count, [&](size_t word, uint64_t mask) { found += std::popcount(words_[word] & mask); });
    return found;
  }
  void AddAll() {
    std::fill(words_.begin(), words_.end(), ~uint64_t{0});
    if (size_ % 64 != 0) words_.back() = ~uint64_t{0} >> (64 - size_ % 64);
  }
  // The other has the same size.
  void Add(const PageSet& other) {
    for (size_t i = 0; i < words_.size(); ++i) words_[i] |= other.words_[i];
  }
  void Clear() { std::fill(words_.begin(), words_.end(), 0); }
  // Page 0 is bit 0 of the first word.
  absl::Span<const uint64_t> words() const { return words_; }
  uint64_t Count() const {
    uint64_t count = 0;
    for (const uint64_t word : words_) count += std::popcount(word);
    return count;
  }

  // Calls visit(first, count) for each run of pages in a row, in ascending order; a visitor that returns false ends it.
  template <typename Visit>
  void ForEachRun(Visit visit) const {
    for (uint64_t page = Next(0, /*in=*/true); page < size_;) {
      const uint64_t end = Next(page, /*in=*/false);
      if (!visit(page, end - page)) return;
      page = Next(end, /*in=*/true);
    }
  }

  friend bool operator==(const PageSet&, const PageSet&) = default;

 private:
  // The words that hold [first, first + count), and which bits of each.
  template <typename Visit>
  static void ForEachWord(uint64_t first, uint64_t count, Visit visit) {
    while (count != 0) {
      const uint64_t bits = std::min(64 - first % 64, count);
      visit(first / 64, ~uint64_t{0} >> (64 - bits) << first % 64);
      first += bits;
      count -= bits;
    }
  }

  // The first page from `page` on that is in the set, or is not; else size().
  uint64_t Next(uint64_t page, bool in) const {
    while (page < size_) {
      const uint64_t word = (in ? words_[page / 64] : ~words_[page / 64]) >> page % 64;
      if (word != 0) return std::min(page + std::countr_zero(word), size_);
      page = (page / 64 + 1) * 64;
    }
    return size_;
  }

  uint64_t size_ = 0;
  std::vector<uint64_t> words_;
};

}  // namespace hvsdk

#endif  // HVSDK_MEMORY_PAGE_SET_H_
