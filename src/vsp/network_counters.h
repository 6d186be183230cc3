// SPDX-License-Identifier: Apache-2.0
// Counters of frames with one writer at a time, and any number of readers.

#ifndef HVSDK_SRC_VSP_NETWORK_COUNTERS_H_
#define HVSDK_SRC_VSP_NETWORK_COUNTERS_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "hvsdk/vsp/network.h"

namespace hvsdk::vsp {

class NetworkCounter {
 public:
  void Add(uint64_t value) { value_.store(value_.load(std::memory_order_relaxed) + value, std::memory_order_relaxed); }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

class DirectionCounters {
 public:
  void Count(const uint8_t* destination, size_t size_bytes) {
    const bool is_group = (destination[0] & 1) != 0;
    const bool is_broadcast =
        is_group && std::all_of(destination, destination + 6, [](uint8_t b) { return b == 0xFF; });
    const size_t kind = is_broadcast ? 2 : is_group ? 1 : 0;
    frames_[kind].Add(1);
    bytes_[kind].Add(size_bytes);
  }
  void AddTo(NetworkCounts::Direction& sum) const {
    sum.unicast_frames += frames_[0].value();
    sum.unicast_bytes += bytes_[0].value();
    sum.multicast_frames += frames_[1].value();
    sum.multicast_bytes += bytes_[1].value();
    sum.broadcast_frames += frames_[2].value();
    sum.broadcast_bytes += bytes_[2].value();
  }

 private:
  std::array<NetworkCounter, 3> frames_, bytes_;
};

// What one lane has carried.
struct NetworkCounters {
  DirectionCounters transmitted, received;
  NetworkCounter transmit_errors, receive_errors;

  void AddTo(NetworkCounts& sum) const {
    transmitted.AddTo(sum.transmitted);
    received.AddTo(sum.received);
    sum.transmit_errors += transmit_errors.value();
    sum.receive_errors += receive_errors.value();
  }
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_SRC_VSP_NETWORK_COUNTERS_H_
