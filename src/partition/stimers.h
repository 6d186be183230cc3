// SPDX-License-Identifier: Apache-2.0
// Stimers: one VP's four synthetic timers.
//
// A one-shot timer fires at its count or, if that has passed, while the register is written. A
// periodic timer has a nominal series of deadlines. Where the host is late:
//   lazy      the signal is skipped if the next one is near, and missed ones are never made up for
//   not lazy  up to kMaxCatchUp missed signals are made up for, half a period apart; more than that
//   are skipped
// and in any case signals keep kMinSpacing100ns between them, so that a period of 100 ns costs the
// host a bounded share.
//
// Thread-safe. Source: TLFS, chapter "Timers", "Synthetic Timers".

#ifndef HVSDK_SRC_PARTITION_STIMERS_H_
#define HVSDK_SRC_PARTITION_STIMERS_H_

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>

#include "hvsdk/backend/backend.h"
#include "hvsdk/base/clock.h"
#include "hvsdk/hvdef/message.h"
#include "hvsdk/state/reader.h"
#include "partition/state.h"
#include "partition/synic.h"

namespace hvsdk::partition {

class Stimers {
 public:
  static constexpr uint64_t kMaxCatchUp = 8;
  static constexpr uint64_t kMinSpacing100ns = 500;

  Stimers(backend::Partition& backend, Synic& synic, const Clock& clock, TimerQueue& timers, VpIndex vp);

  // STIMER0_CONFIG to STIMER3_COUNT.
  backend::MsrOutcome ReadMsr(uint32_t msr, uint64_t& value) const;
  backend::MsrOutcome WriteMsr(uint32_t msr, uint64_t value);

  void Reset();

  // That were signalled since the VP was made. Thread-safe.
  uint64_t expirations() const { return std::lock_guard(mutex_), expirations_; }

  using State = std::array<StimerState, hvdef::kStimerCount>;
  State Save() const;
  // Whether Restore may be given this. InvalidArgument.
  static absl::Status Check(const State& state, const state::StateReader& reader);
  // A timer that should have fired by now fires as soon as possible.
  void Restore(const State& state);

 private:
  static constexpr uint64_t kNever = ~uint64_t{0};

  struct Stimer {
    uint64_t config = 0;
    uint64_t count = 0;
    uint64_t deadline_100ns = 0;   // nominal
    uint64_t fire_100ns = kNever;  // when it fires; later than nominal where missed signals are made up for
    std::unique_ptr<Timer> timer;
  };
  void OnTimer(uint32_t index);
  void Start(Stimer& stimer);
  void ExpireIfDue(uint32_t index);
  bool ScheduleNextPeriod(Stimer& stimer, uint64_t now_100ns);

  backend::Partition& backend_;
  Synic& synic_;
  const Clock& clock_;
  const VpIndex vp_;

  mutable std::mutex mutex_;
  uint64_t expirations_ = 0;
  std::array<Stimer, hvdef::kStimerCount> stimers_;
};

}  // namespace hvsdk::partition

#endif  // HVSDK_SRC_PARTITION_STIMERS_H_
