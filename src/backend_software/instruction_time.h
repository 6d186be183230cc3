// SPDX-License-Identifier: Apache-2.0
#ifndef HVSDK_SRC_BACKEND_SOFTWARE_INSTRUCTION_TIME_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_INSTRUCTION_TIME_H_

#include "backend_software/host_timers.h"
#include "hvsdk/backend_software/software_backend.h"

namespace hvsdk::backend {

class SoftwareTime::Impl final : public Clock {
 public:
  explicit Impl(const SoftwareTime& time) : time_(time) {}
  uint64_t Now100ns() const override { return time_.now_ns() / 100; }
  software::SortedTimers timers;

 private:
  const SoftwareTime& time_;
};

}  // namespace hvsdk::backend

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_INSTRUCTION_TIME_H_
