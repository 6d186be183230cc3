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
#include "hvsdk/machine/runner.h"

namespace hvsdk::machine {
namespace {

class HostWallClock final : public WallClock {
 public:
  int64_t NowNs() const override {
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
  }
};

class ThreadRunner final : public Runner {
 public:
  ThreadRunner(os::EventLoop& loop, std::unique_ptr<os::LoopTimers> timers) : loop_(loop), timers_(std::move(timers)) {}
  ~ThreadRunner() override { loop_.Drain(end_); }

  TimerQueue& timers() override { return *timers_; }
  const WallClock& wall_clock() const override { return wall_clock_; }
  void AddProcessor(const Processor& processor) override { vps_.emplace_back().processor = processor; }
  void Run(ExitRouter& router, Events& events) override;
  absl::Status Start(ExitRouter& router, Events& events, absl::AnyInvocable<void()> ended) override;
  void Stop() override;
  void RequestPause() override;
  void Pause() override;
  void Resume() override;
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
    std::mutex mutex;  // guards what follows; nobody waits for it but for Quiesce and Pause
    std::condition_variable changed;
    uint64_t passes = 0;  // how often it has left the guest
    bool runs = false;
    pthread_t id{};  // while it runs
  };

  // On the loop, once no VP runs any more.
  struct End final : Task {
    explicit End(ThreadRunner& runner) : runner(runner) {}
    void Run() override { runner.JoinThreads(); }
    ThreadRunner& runner;
  };

  void RunVp(Vp& vp, ExitRouter& router, Events& events);
  void JoinThreads();
  void OnVpsEnded(size_t count);
  bool may_run() const {
    return !pausing_.load(std::memory_order_acquire) && !stopping_.load(std::memory_order_acquire);
  }
  void Kick();
  void WakeParked();

  os::EventLoop& loop_;
  const std::unique_ptr<os::LoopTimers> timers_;
  const HostWallClock wall_clock_;
  std::deque<Vp> vps_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> pausing_{false};
  std::atomic<size_t> vps_running_{0};
  absl::AnyInvocable<void()> ended_;
  End end_{*this};
};

void ThreadRunner::RunVp(Vp& vp, ExitRouter& router, Events& events) {
  const auto note = [&vp](bool runs) {
    std::lock_guard lock(vp.mutex);
    ++vp.passes;
    vp.runs = runs;
    vp.changed.notify_all();
  };
  while (!stopping_.load(std::memory_order_acquire)) {
    {
      // Pause sets its flag and then looks at `runs`, this looks at the flag and then sets `runs`, both under the lock:
      // one of the two sees the other.
      std::unique_lock lock(vp.mutex);
      vp.id = pthread_self();
      vp.changed.wait(lock, [this] { return may_run() || stopping_.load(std::memory_order_acquire); });
      vp.runs = true;
    }
    {
      // A VP that is parked has no session: what others want done on it, they do.
      partition::Vp::Session session(*vp.processor.partition);
      while (may_run()) {
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
  }
  OnVpsEnded(1);
}

// The loop serves the VPs until the last of them has ended.
void ThreadRunner::OnVpsEnded(size_t count) {
  if (vps_running_.fetch_sub(count, std::memory_order_acq_rel) == count) loop_.Schedule(end_);
}

void ThreadRunner::JoinThreads() {
  for (Vp& vp : vps_) {
    if (vp.thread.is_running()) vp.thread.Join();
  }
  absl::AnyInvocable<void()> ended = std::move(ended_);
  ended();
}

void ThreadRunner::Run(ExitRouter& router, Events& events) {
  bool has_ended = false;
  HVSDK_CHECK(Start(router, events, [&] {
                has_ended = true;
                loop_.Stop();
              }).ok());
  while (!has_ended) loop_.Run();
}

absl::Status ThreadRunner::Start(ExitRouter& router, Events& events, absl::AnyInvocable<void()> ended) {
  ended_ = std::move(ended);
  vps_running_.store(vps_.size(), std::memory_order_relaxed);
  for (size_t i = 0; i < vps_.size(); ++i) {
    const absl::Status started = vps_[i].thread.Start(absl::StrCat("vp", i).c_str(),
                                                      [this, i, &router, &events] { RunVp(vps_[i], router, events); });
    if (started.ok()) continue;
    events.OnFailure(started);
    OnVpsEnded(vps_.size() - i);
    break;
  }
  return absl::OkStatus();
}

void ThreadRunner::Kick() {
  for (Vp& vp : vps_) vp.processor.backend->Kick();
}

void ThreadRunner::WakeParked() {
  for (Vp& vp : vps_) {
    std::lock_guard lock(vp.mutex);
    vp.changed.notify_all();
  }
}

void ThreadRunner::Stop() {
  stopping_.store(true, std::memory_order_release);
  Kick();
  WakeParked();
}

void ThreadRunner::RequestPause() {
  pausing_.store(true, std::memory_order_seq_cst);
  Kick();
}

void ThreadRunner::Pause() {
  RequestPause();
  for (Vp& vp : vps_) {
    std::unique_lock lock(vp.mutex);
    vp.changed.wait(lock, [&vp] { return !vp.runs; });
  }
}

void ThreadRunner::Resume() {
  pausing_.store(false, std::memory_order_release);
  WakeParked();
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

absl::StatusOr<std::unique_ptr<Runner>> CreateThreadRunner(os::EventLoop& loop, const Clock& clock) {
  ASSIGN_OR_RETURN(std::unique_ptr<os::LoopTimers> timers, os::LoopTimers::Create(loop, clock));
  return std::make_unique<ThreadRunner>(loop, std::move(timers));
}

}  // namespace hvsdk::machine
