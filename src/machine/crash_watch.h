// SPDX-License-Identifier: Apache-2.0
// What becomes of a guest that has said that it crashed. Linux says so first and then dumps itself with a crash kernel,
// restarts after a while (panic=N), or does nothing for ever, which only its silence tells.
//
// A guest is silent while it neither touches a device nor calls the hypervisor. What an idle or spinning kernel does
// all the same does not count: its clock, timers and interrupts, and the keyboard's lights, with which Linux blinks.
//
// Thread class: Report on a VP's thread, the rest on the thread that makes and runs the board.

#ifndef HVSDK_SRC_MACHINE_CRASH_WATCH_H_
#define HVSDK_SRC_MACHINE_CRASH_WATCH_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "absl/functional/any_invocable.h"
#include "absl/types/optional.h"
#include "hvsdk/base/executor.h"
#include "hvsdk/machine/board.h"
#include "hvsdk/machine/exit_router.h"
#include "hvsdk/partition/partition.h"

namespace hvsdk::machine {

class CrashWatch final : private Task, private ExitLayer {
 public:
  using Tell = std::function<void(const partition::CrashReport&)>;

  // `tell` hears of the crash, and `on_silence` that nothing has come of the guest for `silence_ms`; on the
  // board's thread.
  CrashWatch(Board& board, uint32_t silence_ms, Tell tell, absl::AnyInvocable<void()> on_silence);
  ~CrashWatch() override;

  // The guest has crashed. Its first word counts: a crash kernel may crash as well.
  void Report(const partition::CrashReport& report);

  // What it said, if it has.
  absl::optional<partition::CrashReport> report() const;

  // The guest was reset: what it said is forgotten. On the board's thread, while no VP runs.
  void Reset();

  // Tells, if that has not been done yet.
  void TellNow();

 private:
  void Run() override;  // the first look, after a crash
  void Look();
  uint64_t activity() const { return exits_.load(std::memory_order_relaxed) + board_.channel_signals(); }
  void Count() { exits_.fetch_add(1, std::memory_order_relaxed); }

  void OnPortRead(backend::Vp& vp, uint16_t port, absl::Span<uint8_t> data) override;
  void OnPortWrite(backend::Vp& vp, uint16_t port, absl::Span<const uint8_t> data) override;
  void OnMmioRead(backend::Vp& vp, uint64_t gpa, absl::Span<uint8_t> data) override;
  void OnMmioWrite(backend::Vp& vp, uint64_t gpa, absl::Span<const uint8_t> data) override;
  backend::MsrOutcome OnMsrWrite(backend::Vp& vp, uint32_t msr, uint64_t value) override;
  backend::HypercallOutcome OnHypercall(backend::Vp& vp) override;

  Board& board_;
  const uint64_t silence_100ns_;
  const Tell tell_;
  absl::AnyInvocable<void()> on_silence_;

  std::atomic<uint64_t> exits_{0};

  mutable std::mutex mutex_;  // guards report_
  absl::optional<partition::CrashReport> report_;

  bool told_ = false;
  std::unique_ptr<Timer> timer_;  // while the layer is in the board's router
  uint64_t seen_activity_ = 0;
  uint64_t seen_100ns_ = 0;
};

}  // namespace hvsdk::machine

#endif  // HVSDK_SRC_MACHINE_CRASH_WATCH_H_
