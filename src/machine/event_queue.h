// SPDX-License-Identifier: Apache-2.0
// From the threads on which things happen to the machine's loop, where they are told. A guest that makes them happen faster than they
// are told loses some of them.

#ifndef HVSDK_SRC_MACHINE_EVENT_QUEUE_H_
#define HVSDK_SRC_MACHINE_EVENT_QUEUE_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "hvsdk/base/clock.h"
#include "hvsdk/base/executor.h"
#include "hvsdk/machine/event.h"
#include "hvsdk/vmbus/server.h"

namespace hvsdk::machine {

class EventQueue final : public vmbus::ServerObserver, private Task {
 public:
  using Tell = std::function<void(const MachineEvent&)>;

  // All outlive the queue. `tell` may be null.
  EventQueue(Executor& executor, const Clock& clock, Tell tell)
      : executor_(executor), clock_(clock), tell_(std::move(tell)) {}
  ~EventQueue() override { executor_.Drain(*this); }

  // Thread-safe.
  void Put(MachineEvent event) {
    if (!tell_) return;
    event.time_100ns = clock_.Now100ns();
    {
      std::lock_guard lock(mutex_);
      if (events_.size() == kMaxEvents) {
        ++lost_;
        return;
      }
      events_.push_back(std::move(event));
    }
    executor_.Schedule(*this);
  }
  // Tells all now. On the loop's thread, or where it does not run.
  void TellAll() { Run(); }

  // vmbus::ServerObserver
  void OnConnected(hvdef::vmbus::Version version) override;
  void OnDisconnected() override { Put({.name = "disconnected"}); }
  void OnChannelOpened(const vmbus::Offer& offer, uint32_t channel_id) override {
    PutChannel("channel-opened", offer, channel_id);
  }
  void OnChannelClosed(const vmbus::Offer& offer, uint32_t channel_id) override {
    PutChannel("channel-closed", offer, channel_id);
  }

 private:
  static constexpr size_t kMaxEvents = 256;

  void Run() override;
  void PutChannel(const char* name, const vmbus::Offer& offer, uint32_t channel_id);

  Executor& executor_;
  const Clock& clock_;
  const Tell tell_;

  std::mutex mutex_;  // guards what follows
  std::deque<MachineEvent> events_;
  uint64_t lost_ = 0;
};

}  // namespace hvsdk::machine

#endif  // HVSDK_SRC_MACHINE_EVENT_QUEUE_H_
