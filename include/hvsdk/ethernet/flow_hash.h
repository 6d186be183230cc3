// SPDX-License-Identifier: Apache-2.0
// The Toeplitz hash of a frame's flow, by which receive-side scaling and multi-queue ports choose a queue. Pure;
// a FlowHasher is thread-safe once it is made.
//
// Source: Microsoft, "RSS Hashing Types" and "Verifying the RSS Hash Calculation" (NDIS).
//
//   const FlowHasher hasher(key);
//   const size_t queue = table[hasher.Hash(frame, ReadHeaders(frame)) % table.size()];

#ifndef HVSDK_ETHERNET_FLOW_HASH_H_
#define HVSDK_ETHERNET_FLOW_HASH_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "hvsdk/ethernet/headers.h"

namespace hvsdk::ethernet {

inline constexpr size_t kFlowKeyBytes = 40;

// The key of Microsoft's examples, which most adapters start with.
inline constexpr std::array<uint8_t, kFlowKeyBytes> kDefaultFlowKey = {
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
    0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
    0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa};

// Of which flows ports count; addresses always do. Fragments are hashed by addresses alone.
struct FlowPorts {
  bool tcp = true;
  bool udp = false;
};

class FlowHasher {
 public:
  explicit FlowHasher(const std::array<uint8_t, kFlowKeyBytes>& key);

  // 0 for what is not IP. `start` has the frame's headers, and `headers` is ReadHeaders of it.
  uint32_t Hash(absl::Span<const uint8_t> start, const FrameHeaders& headers, FlowPorts ports = {}) const;

 private:
  static constexpr size_t kMaxInputBytes = 36;  // two IPv6 addresses, two ports
  // What each value of half a byte at each place adds to the hash.
  std::array<std::array<uint32_t, 16>, 2 * kMaxInputBytes> parts_;
};

}  // namespace hvsdk::ethernet

#endif  // HVSDK_ETHERNET_FLOW_HASH_H_
