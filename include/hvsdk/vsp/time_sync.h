// SPDX-License-Identifier: Apache-2.0
// TimeSync: the integration component that tells a guest what time it is: when its driver comes, when it goes on after a pause or a
// restore, and every few seconds.
//
// Each message has the partition's reference time of the moment beside the civil time, from version 4.0 on, so it is exact however late
// it is read. A guest that is told to set its clock does so at once (Linux hv_utils: settimeofday). Linux shows samples, and the other
// messages, too, as a PTP clock (/dev/ptp_hyperv), by which chrony disciplines the clock without steps.
//
// Thread class: the executor. Source: hvdef/integration.h.
//
//   const auto time = vsp::TimeSync::Create(server, {.executor = loop, .timers = timers, .clock = clock}, wall_clock, {});
//   if (!time.ok()) return time.status();

#ifndef HVSDK_VSP_TIME_SYNC_H_
#define HVSDK_VSP_TIME_SYNC_H_

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "hvsdk/resource/wall_clock.h"
#include "hvsdk/vmbus/server.h"
#include "hvsdk/vsp/integration.h"

namespace hvsdk::vsp {

struct TimeSyncOptions {
  std::chrono::milliseconds interval{5000};
  // The messages between are samples, for a guest that disciplines its clock by itself. Otherwise each of them sets the clock, so that
  // one which somebody has set wrong is right after `interval`.
  bool samples_only = false;
};

class TimeSync : public IntegrationComponent {
 public:
  // As vmbus::Server::OfferChannel. `wall_clock` outlives it.
  static absl::StatusOr<std::unique_ptr<TimeSync>> Create(vmbus::Server& server, const IntegrationResources& resources,
                                                          const WallClock& wall_clock, const TimeSyncOptions& options);
  // Takes it off the bus. On the executor, or on any thread once that has stopped for good.
  ~TimeSync() override;

  // While the guest does not run it is told nothing; then it is set at once.
  void Pause() override;
  void Resume() override;

  // state::Component, while paused; restored before vmbus::Server.
  std::string StateName() const override { return "integration/time-sync"; }
  absl::Status Save(state::StateWriter& writer) const override;
  absl::Status Restore(state::StateReader& reader) override;
  void Reset() override;

 private:
  class Core;
  explicit TimeSync(std::unique_ptr<Core> core);
  const std::unique_ptr<Core> core_;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_VSP_TIME_SYNC_H_
