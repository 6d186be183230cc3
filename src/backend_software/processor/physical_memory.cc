// SPDX-License-Identifier: Apache-2.0
#include "backend_software/processor/physical_memory.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"

namespace hvsdk::software {
namespace {

constexpr size_t kMaxRegions = 512;
// Every change keeps a table; a guest that could cause changes without end must not grow the host without end.
constexpr size_t kMaxChanges = 1 << 16;

}  // namespace

absl::Status PhysicalMemory::Map(uint64_t gpa, absl::Span<uint8_t> host, bool writable) {
  const uint64_t size = host.size();
  if (size == 0 || size % kPageSize != 0 || gpa % kPageSize != 0 || gpa + size < gpa) {
    return absl::InvalidArgumentError(absl::StrFormat("mapping %#x+%#x is not whole pages", gpa, size));
  }
  std::lock_guard lock(mutex_);
  auto table = std::make_unique<Table>(*table_.load(std::memory_order_relaxed));
  for (const Region& region : *table) {
    if (gpa < region.gpa + region.size_bytes && region.gpa < gpa + size) {
      return absl::InvalidArgumentError(absl::StrFormat("mapping %#x+%#x overlaps another", gpa, size));
    }
  }
  if (table->size() == kMaxRegions || tables_.size() == kMaxChanges) {
    return absl::ResourceExhaustedError("no room for another memory region");
  }
  ZeroedArray<PageState>& states = page_states_[{gpa, size}];
  if (states == nullptr) states = MakeZeroedArray<PageState>(size >> kPageShift);
  if (states == nullptr) {
    return absl::ResourceExhaustedError(absl::StrFormat("no memory for the states of %d pages", size >> kPageShift));
  }
  table->push_back({gpa, size, host.data(), writable, states.get()});
  // The largest first: it answers nearly every look-up.
  std::stable_sort(table->begin(), table->end(),
                   [](const Region& a, const Region& b) { return a.size_bytes > b.size_bytes; });
  Publish(std::move(table));
  return absl::OkStatus();
}

absl::Status PhysicalMemory::Unmap(uint64_t gpa, uint64_t size_bytes) {
  std::lock_guard lock(mutex_);
  auto table = std::make_unique<Table>(*table_.load(std::memory_order_relaxed));
  const auto found = std::find_if(table->begin(), table->end(), [&](const Region& region) {
    return region.gpa == gpa && region.size_bytes == size_bytes;
  });
  if (found == table->end()) {
    return absl::NotFoundError(absl::StrFormat("nothing is mapped at exactly %#x+%#x", gpa, size_bytes));
  }
  table->erase(found);
  Publish(std::move(table));
  return absl::OkStatus();
}

const Region* PhysicalMemory::FindRegion(uint64_t gpa, uint64_t size_bytes) const {
  for (const Region& region : *table_.load(std::memory_order_acquire)) {
    const uint64_t offset = gpa - region.gpa;
    if (offset < region.size_bytes) return size_bytes <= region.size_bytes - offset ? &region : nullptr;
  }
  return nullptr;
}

void PhysicalMemory::Publish(std::unique_ptr<Table> table) {
  table_.store(table.get(), std::memory_order_release);
  tables_.push_back(std::move(table));
}

}  // namespace hvsdk::software
