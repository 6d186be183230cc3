// SPDX-License-Identifier: Apache-2.0
#include "os/linux/idle_watch.h"

#include <sched.h>

namespace hvsdk::internal {

absl::Status IdleWatch::Start() {
  return thread_.Start("idle", [this] { Run(); });
}

IdleWatch::~IdleWatch() {
  if (!thread_.is_running()) return;
  word_.store(kStop, std::memory_order_release);
  word_.WakeOne();
  thread_.Join();
}

void IdleWatch::Ask() {
  uint32_t nothing = kNothing;
  // Acq_rel pairs with the exchange in Run: what was asked for before is known to the call that follows.
  if (word_.compare_exchange_strong(nothing, kAsked, std::memory_order_acq_rel)) word_.WakeOne();
}

void IdleWatch::Run() {
  // Any thread may make itself one of these. Where it may not, every processor counts as idle.
  const sched_param none = {};
  (void)sched_setscheduler(0, SCHED_IDLE, &none);
  for (;;) {
    word_.Wait(kNothing);
    uint32_t asked = kAsked;
    if (!word_.compare_exchange_strong(asked, kNothing, std::memory_order_acq_rel)) return;
    on_idle_();
  }
}

}  // namespace hvsdk::internal
