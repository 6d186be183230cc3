// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/chipset/bus.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_format.h"

namespace hvsdk::chipset {

Bus::Bus() { Publish(std::make_unique<const Table>()); }
Bus::~Bus() = default;

// Readers go on with the table they have.
void Bus::Publish(std::unique_ptr<const Table> table) {
  table_.store(table.get(), std::memory_order_release);  // pairs with the acquire in Read and Write
  tables_.push_back(std::move(table));
}

void Bus::Reclaim(uint64_t mark) {
  std::lock_guard lock(mutex_);
  for (; reclaimed_ < mark && tables_.size() > 1; ++reclaimed_) tables_.pop_front();
}

uint64_t Bus::Unmap(const Device* device) {
  std::lock_guard lock(mutex_);
  auto table = std::make_unique<Table>(*tables_.back());
  const auto end =
      std::remove_if(table->begin(), table->end(), [&](const Mapping& mapping) { return mapping.device == device; });
  table->erase(end, table->end());
  Publish(std::move(table));
  return reclaimed_ + tables_.size() - 1;  // all before the one just published
}

absl::Status Bus::Map(uint64_t base, uint64_t size_bytes, Device* device, uint64_t offset) {
  if (size_bytes == 0 || base + (size_bytes - 1) < base) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: %#x+%#x is not an address range", device->Name(), base, size_bytes));
  }
  std::lock_guard lock(mutex_);
  auto table = std::make_unique<Table>(*tables_.back());
  const auto next =
      std::find_if(table->begin(), table->end(), [&](const Mapping& mapping) { return mapping.base >= base; });
  const Mapping* clash = nullptr;
  if (next != table->end() && next->base - base < size_bytes) clash = &*next;
  if (next != table->begin() && base - std::prev(next)->base < std::prev(next)->size_bytes) {
    clash = &*std::prev(next);
  }
  if (clash != nullptr) {
    return absl::InvalidArgumentError(absl::StrFormat("%s at %#x+%#x overlaps %s at %#x+%#x", device->Name(), base,
                                                      size_bytes, clash->device->Name(), clash->base,
                                                      clash->size_bytes));
  }
  table->insert(next, Mapping{base, size_bytes, offset, device});
  Publish(std::move(table));
  return absl::OkStatus();
}

const Bus::Mapping* Bus::Find(const Table& table, uint64_t address) {
  const auto after = std::upper_bound(table.begin(), table.end(), address,
                                      [](uint64_t wanted, const Mapping& mapping) { return wanted < mapping.base; });
  if (after == table.begin()) return nullptr;
  const Mapping& mapping = *std::prev(after);
  return address - mapping.base < mapping.size_bytes ? &mapping : nullptr;
}

bool Bus::Read(uint64_t address, absl::Span<uint8_t> data) const {
  const Table& table = *table_.load(std::memory_order_acquire);
  const Mapping* mapping = Find(table, address);
  if (mapping != nullptr && data.size() <= mapping->size_bytes - (address - mapping->base)) {
    mapping->device->Read(address - mapping->base + mapping->offset, data);
    return true;
  }
  bool answered = true;
  for (size_t i = 0; i < data.size(); ++i) {
    mapping = Find(table, address + i);
    if (mapping != nullptr) {
      mapping->device->Read(address + i - mapping->base + mapping->offset, data.subspan(i, 1));
    } else {
      data[i] = 0xFF;
      answered = false;
    }
  }
  return answered;
}

bool Bus::Write(uint64_t address, absl::Span<const uint8_t> data) const {
  const Table& table = *table_.load(std::memory_order_acquire);
  const Mapping* mapping = Find(table, address);
  if (mapping != nullptr && data.size() <= mapping->size_bytes - (address - mapping->base)) {
    mapping->device->Write(address - mapping->base + mapping->offset, data);
    return true;
  }
  bool answered = true;
  for (size_t i = 0; i < data.size(); ++i) {
    mapping = Find(table, address + i);
    if (mapping != nullptr) {
      mapping->device->Write(address + i - mapping->base + mapping->offset, data.subspan(i, 1));
    } else {
      answered = false;
    }
  }
  return answered;
}

}  // namespace hvsdk::chipset
