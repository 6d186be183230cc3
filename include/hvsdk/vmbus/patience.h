// SPDX-License-Identifier: Apache-2.0
// Patience: learns whether it pays to wait before a ring is armed again, so that a guest which has many requests in flight adds
// more without a signal, and gets many answers with one interrupt.
//
// A guest with one request in flight waits for its answer, so nothing comes meanwhile, and a wait is lost. Which kind of guest it
// is cannot be seen from what arrives: a host thread that is woken by the first of many requests answers that before the guest
// comes to write the second. So every now and then it is tried; where that finds no more than one request, the next try is twice
// as far away. What has been found to pay goes on until several waits in a row bring nothing.
//
// Thread-compatible. Header-only; no clock, no memory.

#ifndef HVSDK_VMBUS_PATIENCE_H_
#define HVSDK_VMBUS_PATIENCE_H_

#include <algorithm>
#include <cstdint>

namespace hvsdk::vmbus {

class Patience {
 public:
  // A turn has ended which moved so many requests or answers, whichever are more; `has_waited` says that it came after a wait.
  // True: wait again.
  bool AfterTurn(uint64_t moved, bool has_waited) {
    if (moved >= 2) {
      is_patient_ = true;
      misses_ = 0;
      interval_ = kFirstInterval;
      return true;
    }
    if (has_waited) {
      if (is_patient_ && ++misses_ < kMaxMisses) return moved != 0;
      is_patient_ = false;
      until_try_ = interval_;
      interval_ = std::min(2 * interval_, kLastInterval);
      return false;
    }
    if (moved == 0) return false;
    if (is_patient_) return true;
    if (--until_try_ != 0) return false;
    until_try_ = interval_;
    return true;
  }

 private:
  static constexpr uint32_t kMaxMisses = 4;
  static constexpr uint32_t kFirstInterval = 16;   // turns
  static constexpr uint32_t kLastInterval = 1024;  // costs a guest of lone requests less than 0.1 % of them

  bool is_patient_ = false;
  uint32_t misses_ = 0;
  uint32_t interval_ = kFirstInterval;
  uint32_t until_try_ = kFirstInterval;
};

}  // namespace hvsdk::vmbus

#endif  // HVSDK_VMBUS_PATIENCE_H_
