// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/chipset/bus.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace hvsdk::chipset {

absl::Status Bus::Map(uint64_t base, uint64_t size_bytes, Device* device) {
  if (size_bytes == 0 || base + (size_bytes - 1) < base) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: %#x+%#x is not an address range", device->Name(), base, size_bytes));
  }
  const auto next =
      std::find_if(mappings_.begin(), mappings_.end(), [&](const Mapping& mapping) { return mapping.base >= base; });
  const Mapping* clash = nullptr;
  if (next != mappings_.end() && next->base - base < size_bytes) clash = &*next;
  if (next != mappings_.begin() && base - std::prev(next)->base < std::prev(next)->size_bytes) {
    clash = &*std::prev(next);
  }
  if (clash != nullptr) {
    return absl::InvalidArgumentError(absl::StrFormat("%s at %#x+%#x overlaps %s at %#x+%#x", device->Name(), base,
                                                      size_bytes, clash->device->Name(), clash->base,
                                                      clash->size_bytes));
  }
  mappings_.insert(next, Mapping{base, size_bytes, device});
  return absl::OkStatus();
}

const Bus::Mapping* Bus::Find(uint64_t address) const {
  const auto after = std::upper_bound(mappings_.begin(), mappings_.end(), address,
                                      [](uint64_t wanted, const Mapping& mapping) { return wanted < mapping.base; });
  if (after == mappings_.begin()) return nullptr;
  const Mapping& mapping = *std::prev(after);
  return address - mapping.base < mapping.size_bytes ? &mapping : nullptr;
}

bool Bus::Read(uint64_t address, absl::Span<uint8_t> data) const {
  const Mapping* mapping = Find(address);
  if (mapping != nullptr && data.size() <= mapping->size_bytes - (address - mapping->base)) {
    mapping->device->Read(address - mapping->base, data);
    return true;
  }
  bool answered = true;
  for (size_t i = 0; i < data.size(); ++i) {
    mapping = Find(address + i);
    if (mapping != nullptr) {
      mapping->device->Read(address + i - mapping->base, data.subspan(i, 1));
    } else {
      data[i] = 0xFF;
      answered = false;
    }
  }
  return answered;
}

bool Bus::Write(uint64_t address, absl::Span<const uint8_t> data) const {
  const Mapping* mapping = Find(address);
  if (mapping != nullptr && data.size() <= mapping->size_bytes - (address - mapping->base)) {
    mapping->device->Write(address - mapping->base, data);
    return true;
  }
  bool answered = true;
  for (size_t i = 0; i < data.size(); ++i) {
    mapping = Find(address + i);
    if (mapping != nullptr) {
      mapping->device->Write(address + i - mapping->base, data.subspan(i, 1));
    } else {
      answered = false;
    }
  }
  return answered;
}

}  // namespace hvsdk::chipset
