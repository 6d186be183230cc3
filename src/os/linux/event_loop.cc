// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/os/event_loop.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstdint>
#include <utility>

#include "base/check.h"
#include "os/linux/idle_watch.h"

namespace hvsdk::os {
namespace {

// A signal or a timer waits for so many turns of tasks, however many there are.
constexpr size_t kTasksPerLook = 16;
// What the turns after Stop may take together.
constexpr std::chrono::milliseconds kLastTurns(100);
// What waits for an idle processor waits no longer.
constexpr std::chrono::milliseconds kIdleWait(1);
constexpr std::chrono::steady_clock::time_point kNoDeadline = std::chrono::steady_clock::time_point::max();

}  // namespace

struct EventLoop::Watched {
  int fd;  // -1 once it is removed
  absl::AnyInvocable<void(uint32_t)> callback;
};

absl::StatusOr<std::unique_ptr<EventLoop>> EventLoop::Create() {
  const int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  if (epoll_fd < 0) return absl::ErrnoToStatus(errno, "epoll_create1");
  const int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_fd < 0) {
    const absl::Status status = absl::ErrnoToStatus(errno, "eventfd");
    close(epoll_fd);
    return status;
  }
  std::unique_ptr<EventLoop> loop(new EventLoop(epoll_fd, wake_fd));
  absl::Status status = loop->Watch(wake_fd, EPOLLIN, [wake_fd](uint32_t) {
    uint64_t count;
    (void)!read(wake_fd, &count, sizeof(count));
  });
  if (!status.ok()) return status;
  return loop;
}

EventLoop::EventLoop(int epoll_fd, int wake_fd) : epoll_fd_(epoll_fd), wake_fd_(wake_fd) {}

EventLoop::~EventLoop() {
  idle_watch_.reset();
  close(wake_fd_);
  close(epoll_fd_);
}

absl::Status EventLoop::Watch(int fd, uint32_t events, absl::AnyInvocable<void(uint32_t)> callback) {
  auto watched = std::make_unique<Watched>(Watched{fd, std::move(callback)});
  epoll_event event{};
  event.events = events;
  event.data.ptr = watched.get();
  if (epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event) != 0) return absl::ErrnoToStatus(errno, "epoll_ctl");
  watched_[fd] = std::move(watched);
  return absl::OkStatus();
}

void EventLoop::Unwatch(int fd) {
  const auto it = watched_.find(fd);
  if (it == watched_.end()) return;
  epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, fd, nullptr);
  it->second->fd = -1;
  removed_.push_back(std::move(it->second));
  watched_.erase(it);
}

void EventLoop::WakeUp() const {
  const uint64_t one = 1;
  (void)!write(wake_fd_, &one, sizeof(one));
}

void EventLoop::Enqueue(Task& task) {
  bool wake;
  {
    std::lock_guard lock(mutex_);
    queue_.push_back(&task);
    wake = std::exchange(sleeping_, false);
  }
  if (wake) WakeUp();
}

bool EventLoop::knows_idle() const { return is_running_.load(std::memory_order_relaxed); }

void EventLoop::EnqueueWhenIdle(Task& task) {
  internal::IdleWatch* watch;
  bool wake;
  {
    std::lock_guard lock(mutex_);
    if (idle_watch_ == nullptr && !has_no_idle_watch_) {
      idle_watch_ = std::make_unique<internal::IdleWatch>([this] { OnIdle(); });
      has_no_idle_watch_ = !idle_watch_->Start().ok();
    }
    if (idle_queue_.empty()) idle_deadline_ = std::chrono::steady_clock::now() + kIdleWait;
    idle_queue_.push_back(&task);
    wake = std::exchange(sleeping_, false);
    watch = has_no_idle_watch_ ? nullptr : idle_watch_.get();
  }
  if (watch != nullptr) watch->Ask();
  if (wake) WakeUp();
}

void EventLoop::EndIdleWait() {
  queue_.insert(queue_.end(), idle_queue_.begin(), idle_queue_.end());
  idle_queue_.clear();
}

void EventLoop::OnIdle() {
  bool wake;
  {
    std::lock_guard lock(mutex_);
    wake = !idle_queue_.empty() && std::exchange(sleeping_, false);
    EndIdleWait();
  }
  if (wake) WakeUp();
}

void EventLoop::Stop() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    sleeping_ = false;
  }
  WakeUp();
}

void EventLoop::Drain(Task& task) {
  std::unique_lock lock(mutex_);
  for (std::deque<Task*>* queue : {&queue_, &idle_queue_}) {
    const auto it = std::find(queue->begin(), queue->end(), &task);
    if (it == queue->end()) continue;
    queue->erase(it);
    Unschedule(task);
  }
  if (thread_ == std::this_thread::get_id()) return;
  task_done_.wait(lock, [&] { return running_ != &task; });
}

bool EventLoop::RunTasks(size_t count, std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  bool ran = false;
  // Only what is queued by now: tasks that schedule each other must not keep the descriptors waiting.
  for (size_t left = std::min(count, queue_.size()); left != 0 && !queue_.empty(); --left) {
    if (deadline != kNoDeadline && std::chrono::steady_clock::now() >= deadline) break;
    running_ = queue_.front();
    queue_.pop_front();
    Task* const task = running_;
    lock.unlock();
    RunTask(*task);
    lock.lock();
    running_ = nullptr;
    task_done_.notify_all();
    ran = true;
  }
  return ran;
}

void EventLoop::PollDescriptors(int timeout_ms) {
  {
    std::lock_guard lock(mutex_);
    sleeping_ = timeout_ms != 0 && queue_.empty() && !stop_;
    if (!sleeping_) timeout_ms = 0;
    if (!idle_queue_.empty() && timeout_ms != 0) timeout_ms = kIdleWait.count();
  }
  epoll_event events[32];
  const int count = epoll_wait(epoll_fd_, events, std::size(events), timeout_ms);
  HVSDK_CHECK(count >= 0 || errno == EINTR);
  {
    std::lock_guard lock(mutex_);
    sleeping_ = false;
    if (!idle_queue_.empty() && std::chrono::steady_clock::now() >= idle_deadline_) EndIdleWait();
  }
  for (int i = 0; i < count; ++i) {
    auto* const watched = static_cast<Watched*>(events[i].data.ptr);
    if (watched->fd >= 0) watched->callback(events[i].events);
  }
  removed_.clear();
}

void EventLoop::Run() { RunUntil(kNoDeadline); }

bool EventLoop::RunFor(std::chrono::milliseconds limit) { return RunUntil(std::chrono::steady_clock::now() + limit); }

bool EventLoop::RunUntil(std::chrono::steady_clock::time_point deadline) {
  {
    std::lock_guard lock(mutex_);
    thread_ = std::this_thread::get_id();
  }
  is_running_.store(true, std::memory_order_relaxed);
  bool stopped = false;
  for (;;) {
    RunTasks(kTasksPerLook, kNoDeadline);
    {
      std::lock_guard lock(mutex_);
      stopped = stop_;
    }
    if (stopped) break;
    int timeout_ms = -1;
    if (deadline != kNoDeadline) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
      if (left.count() <= 0) break;
      timeout_ms = static_cast<int>(std::min<int64_t>(left.count(), INT_MAX));
    }
    PollDescriptors(timeout_ms);
  }
  is_running_.store(false, std::memory_order_relaxed);
  if (stopped) RunTasks(SIZE_MAX, std::chrono::steady_clock::now() + kLastTurns);
  std::lock_guard lock(mutex_);
  stop_ = false;
  thread_ = {};
  return stopped;
}

void EventLoop::RunOnce(bool wait) {
  {
    std::lock_guard lock(mutex_);
    thread_ = std::this_thread::get_id();
  }
  // A task may have done what the caller waits for.
  const bool ran = RunTasks(kTasksPerLook, kNoDeadline);
  PollDescriptors(wait && !ran ? -1 : 0);
  std::lock_guard lock(mutex_);
  thread_ = {};
}

class LoopTimers::LoopTimer final : public Timer {
 public:
  LoopTimer(LoopTimers& queue, absl::AnyInvocable<void()> callback) : queue_(queue), callback_(std::move(callback)) {
    // The node is made once and then goes in and out of the queue.
    std::lock_guard lock(queue_.mutex_);
    const auto position = queue_.deadlines_.emplace(0, this);
    node_ = queue_.deadlines_.extract(position);
  }

  ~LoopTimer() override {
    std::unique_lock lock(queue_.mutex_);
    Disarm();
    if (queue_.running_thread_ == std::this_thread::get_id()) return;
    queue_.callback_done_.wait(lock, [&] { return queue_.running_ != this; });
  }

  void Arm(uint64_t deadline_100ns) override {
    std::lock_guard lock(queue_.mutex_);
    Disarm();
    node_.key() = deadline_100ns;
    position_ = queue_.deadlines_.insert(std::move(node_));
    armed_ = true;
    if (deadline_100ns < queue_.programmed_100ns_) queue_.Program(deadline_100ns);
  }

  // The descriptor may still fire for a cancelled deadline; that finds nothing due.
  void Cancel() override {
    std::lock_guard lock(queue_.mutex_);
    Disarm();
  }

 private:
  friend class LoopTimers;
  void Disarm() {
    if (!armed_) return;
    node_ = queue_.deadlines_.extract(position_);
    armed_ = false;
  }

  LoopTimers& queue_;
  absl::AnyInvocable<void()> callback_;
  // Guarded by the queue's lock.
  Deadlines::node_type node_;
  Deadlines::iterator position_;
  bool armed_ = false;
};

absl::StatusOr<std::unique_ptr<LoopTimers>> LoopTimers::Create(EventLoop& loop, const Clock& clock) {
  const int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  if (fd < 0) return absl::ErrnoToStatus(errno, "timerfd_create");
  std::unique_ptr<LoopTimers> timers(new LoopTimers(loop, clock, fd));
  // Edge-triggered, so that nobody has to read the descriptor: each expiry is an edge.
  absl::Status status = loop.Watch(fd, EPOLLIN | EPOLLET, [self = timers.get()](uint32_t) { self->OnExpired(); });
  if (!status.ok()) return status;
  return timers;
}

LoopTimers::LoopTimers(EventLoop& loop, const Clock& clock, int timer_fd)
    : loop_(loop), clock_(clock), timer_fd_(timer_fd), programmed_100ns_(UINT64_MAX) {}

LoopTimers::~LoopTimers() {
  loop_.Unwatch(timer_fd_);
  close(timer_fd_);
}

std::unique_ptr<Timer> LoopTimers::CreateTimer(absl::AnyInvocable<void()> callback) {
  return std::make_unique<LoopTimer>(*this, std::move(callback));
}

// Sets the descriptor, under the lock: two threads that arm at once must not leave the later deadline in it.
void LoopTimers::Program(uint64_t deadline_100ns) {
  programmed_100ns_ = deadline_100ns;
  const uint64_t now = clock_.Now100ns();
  // A deadline that far away (300 years) would overflow the host's time; it is looked at again by then.
  const uint64_t delta = std::min<uint64_t>(deadline_100ns > now ? deadline_100ns - now : 0, 90'000'000'000'000'000);
  itimerspec spec{};
  spec.it_value.tv_sec = static_cast<time_t>(delta / 10'000'000);
  spec.it_value.tv_nsec = static_cast<long>(delta % 10'000'000 * 100);
  if (delta == 0) spec.it_value.tv_nsec = 1;  // zero would disarm
  HVSDK_CHECK(timerfd_settime(timer_fd_, 0, &spec, nullptr) == 0);
}

void LoopTimers::OnExpired() {
  std::unique_lock lock(mutex_);
  running_thread_ = std::this_thread::get_id();
  // As many as there are now: a timer that is armed again for the past must not keep the loop here.
  for (size_t left = deadlines_.size(); left != 0 && !deadlines_.empty(); --left) {
    if (deadlines_.begin()->first > clock_.Now100ns()) break;
    running_ = deadlines_.begin()->second;
    running_->Disarm();
    LoopTimer* const timer = running_;
    lock.unlock();
    timer->callback_();
    lock.lock();
    running_ = nullptr;
    callback_done_.notify_all();
  }
  running_thread_ = {};
  // What fired is disarmed by that. A deadline that was meanwhile replaced may have left the descriptor armed for
  // nothing; that costs one look.
  programmed_100ns_ = UINT64_MAX;
  if (!deadlines_.empty()) Program(deadlines_.begin()->first);
}

}  // namespace hvsdk::os
