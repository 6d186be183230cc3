// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/ethernet/flow_hash.h"

namespace hvsdk::ethernet {

FlowHasher::FlowHasher(const std::array<uint8_t, kFlowKeyBytes>& key) {
  // Bit i of the input, if it is set, adds the 32 bits of the key from bit i on.
  const auto key_from = [&key](size_t bit) {
    uint64_t window = 0;
    for (size_t i = 0; i < 5; ++i) window = window << 8 | key[bit / 8 + i];
    return static_cast<uint32_t>(window >> (8 - bit % 8));
  };
  for (size_t place = 0; place < parts_.size(); ++place) {
    for (size_t value = 0; value < 16; ++value) {
      uint32_t part = 0;
      for (size_t bit = 0; bit < 4; ++bit) {
        if ((value >> (3 - bit) & 1) != 0) part ^= key_from(4 * place + bit);
      }
      parts_[place][value] = part;
    }
  }
}

uint32_t FlowHasher::Hash(absl::Span<const uint8_t> start, const FrameHeaders& headers, FlowPorts ports) const {
  uint32_t hash = 0;
  size_t place = 0;
  const auto add = [&](size_t offset, size_t size) {
    for (const uint8_t byte : start.subspan(offset, size)) {
      hash ^= parts_[place][byte >> 4] ^ parts_[place + 1][byte & 0xF];
      place += 2;
    }
  };
  if (headers.ip_version == 4) add(headers.ip_offset + 12, 8);
  if (headers.ip_version == 6) add(headers.ip_offset + 8, 32);
  const bool with_ports = (headers.protocol == kTcp && ports.tcp) || (headers.protocol == kUdp && ports.udp);
  if (headers.ip_version != 0 && !headers.is_fragment && headers.transport_offset != 0 && with_ports) {
    add(headers.transport_offset, 4);
  }
  return hash;
}

}  // namespace hvsdk::ethernet
