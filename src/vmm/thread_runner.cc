// SPDX-License-Identifier: Apache-2.0
// A thread for each VP, by the host's clocks.
#include <pthread.h>
#include <time.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/host_thread.h"
#include "base/status_macros.h"
#include "hvsdk/vmm/runner.h"

namespace hvsdk::vmm {
namespace {

class HostWallClock final : public chipset::WallClock {
 public:
  int64_t NowNs() const override {
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
  }
};

class ThreadRunner final : public Runner {
 public:
  ThreadRunner(EventLoop& loop, std::unique_ptr<LoopTimers> timers) : loop_(loop), timers_(std::move(timers)) {}

  TimerQueue& timers() override { return *timers_; }
  const chipset::WallClock& wall_clock() const override { return wall_clock_; }
  void AddProcessor(const Processor& processor) override { vps_.emplace_back().processor = processor; }
  void Run(ExitRouter& router, Events& events) override;
  void Stop() override;
  void Quiesce() override;

  // What the VP's thread, which asks, has used; a halted VP's thread sleeps.
  uint64_t VpRuntime100ns(VpIndex) override {
    timespec used{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return uint64_t(used.tv_sec) * 10'000'000 + used.tv_nsec / 100;
  }

 private:
  struct Vp {
    Processor processor;
    HostThread thread;
    std::mutex mutex;  // guards what follows; nobody waits for it but for Quiesce
    std::condition_variable changed;
    uint64_t passes = 0;  // how often it has left the guest
    bool runs = false;
    pthread_t id{};  // while it runs
  };

  void RunVp(Vp& vp, ExitRouter& router, Events& events);
  void OnVpsEnded(size_t count);

  EventLoop& loop_;
  const std::unique_ptr<LoopTimers> timers_;
  const HostWallClock wall_clock_;
  std::deque<Vp> vps_;
  std::atomic<bool> stopping_{false};
  std::atomic<size_t> vps_running_{0};
};

void ThreadRunner::RunVp(Vp& vp, ExitRouter& router, Events& events) {
  const auto note = [&vp](bool runs) {
    std::lock_guard lock(vp.mutex);
    ++vp.passes;
    vp.runs = runs;
    vp.changed.notify_all();
  };
  {
    std::lock_guard lock(vp.mutex);
    vp.id = pthread_self();
    vp.runs = true;
  }
  {
    partition::Vp::Session session(*vp.processor.partition);
    while (!stopping_.load(std::memory_order_acquire)) {
      const absl::StatusOr<backend::StopReason> reason = vp.processor.backend->Run(router.top());
      note(/*runs=*/true);
      if (!reason.ok()) {
        events.OnFailure(reason.status());
      } else if (*reason == backend::StopReason::kTripleFault) {
        events.OnTripleFault(vp.processor.backend->index());
      } else {
        vp.processor.partition->RunPendingWork();
      }
    }
  }
  note(/*runs=*/false);
  OnVpsEnded(1);
}

// The loop serves the VPs until the last of them has ended.
void ThreadRunner::OnVpsEnded(size_t count) {
  if (vps_running_.fetch_sub(count, std::memory_order_acq_rel) == count) loop_.Stop();
}

void ThreadRunner::Run(ExitRouter& router, Events& events) {
  vps_running_.store(vps_.size(), std::memory_order_relaxed);
  for (size_t i = 0; i < vps_.size(); ++i) {
    const absl::Status started = vps_[i].thread.Start(absl::StrCat("vp", i).c_str(),
                                                      [this, i, &router, &events] { RunVp(vps_[i], router, events); });
    if (started.ok()) continue;
    events.OnFailure(started);
    OnVpsEnded(vps_.size() - i);
    break;
  }
  loop_.Run();
  for (Vp& vp : vps_) {
    if (vp.thread.is_running()) vp.thread.Join();
  }
}

void ThreadRunner::Stop() {
  stopping_.store(true, std::memory_order_release);
  for (Vp& vp : vps_) vp.processor.backend->Kick();
}

void ThreadRunner::Quiesce() {
  for (Vp& vp : vps_) {
    std::unique_lock lock(vp.mutex);
    if (!vp.runs) continue;
    HVSDK_CHECK(!pthread_equal(vp.id, pthread_self()));
    const uint64_t before = vp.passes;
    // Not under the lock: what a kick wakes wants it.
    lock.unlock();
    vp.processor.backend->Kick();
    lock.lock();
    vp.changed.wait(lock, [&] { return vp.passes != before || !vp.runs; });
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Runner>> CreateThreadRunner(EventLoop& loop, const Clock& clock) {
  ASSIGN_OR_RETURN(std::unique_ptr<LoopTimers> timers, LoopTimers::Create(loop, clock));
  return std::make_unique<ThreadRunner>(loop, std::move(timers));
}

}  // namespace hvsdk::vmm
