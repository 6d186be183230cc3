// SPDX-License-Identifier: Apache-2.0
// Backup: the integration component by which the host has a guest's file systems stand still, so that what is on its disks then is whole. Linux'
// hv_vss_daemon takes it: it writes out and freezes every file system that is mounted from a device.
//
//   Step: kIdle ──Freeze──► kChecking ──► kFreezing ──► kFrozen ──Thaw──► kThawing ──► kIdle
//                               │             └── fails, or comes too late ──►│ ▲
//                               └──► kIdle                        fails ──────▼ │ a while later
//                                                                           kResting
//
// What was frozen, or may have been, is thawed: a guest that does not thaw is asked again and again, after its driver has gone and come, and
// after a restore, until it says that it has, or the machine is reset. Linux thaws nothing by itself while its daemon runs.
//
// Thread class: the executor. Source: hvdef/backup.h.
//
//   const auto backup = vsp::Backup::Create(server, {.executor = loop, .timers = timers, .clock = clock}, {});
//   if (!backup.ok()) return backup.status();
//   vsp::Backup& guest = **backup;
//   guest.Freeze(std::chrono::seconds(60), [&guest](const absl::Status& frozen) {
//     if (!frozen.ok()) return Tell(frozen);
//     CopyDisks();
//     guest.Thaw([](const absl::Status& thawed) { Tell(thawed); });
//   });

#ifndef HVSDK_VSP_BACKUP_H_
#define HVSDK_VSP_BACKUP_H_

#include <chrono>
#include <memory>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hvsdk/vmbus/server.h"
#include "hvsdk/vsp/integration.h"

namespace hvsdk::vsp {

struct BackupOptions {
  // How long Thaw waits for its answer. Linux gives up after 30 s by itself.
  std::chrono::milliseconds thaw_within{35'000};
  // After one that failed.
  std::chrono::milliseconds thaw_again_after{2'000};
};

class Backup : public IntegrationComponent {
 public:
  // As vmbus::Server::OfferChannel.
  static absl::StatusOr<std::unique_ptr<Backup>> Create(vmbus::Server& server, const IntegrationResources& resources,
                                                        const BackupOptions& options);
  // Takes it off the bus. On the executor, or on any thread once that has stopped for good.
  ~Backup() override;

  // `done` is called once, here or later on the executor, and must not destroy this. Ok: the guest's file systems stand still until Thaw.
  // FailedPrecondition: it has no driver or service for it, or cannot freeze them; they are frozen, or about to be, already; or an earlier
  // request has not been answered, or what it froze not been thawed. DeadlineExceeded: not in this time, of which Linux takes up to 15
  // minutes. Cancelled: the machine was reset or goes. After an error nothing stays frozen (above).
  using Done = absl::AnyInvocable<void(const absl::Status&)>;
  void Freeze(std::chrono::milliseconds within, Done done);

  // Ok: nothing is frozen any more, or nothing was. FailedPrecondition: it fails, its driver has gone, or another has asked already and waits; or
  // Freeze is under way. DeadlineExceeded: it did not answer. Cancelled as above. After an error the guest is asked again until it has thawed.
  void Thaw(Done done);

  // Since Freeze has succeeded, and until Thaw; or until the guest's driver has gone or the machine was reset, so that nothing stands still any
  // more for sure.
  bool is_frozen() const;

  // While the guest does not run it is asked nothing; what is asked waits, and its time goes on.
  void Pause() override;
  void Resume() override;

  // state::Component, while paused; restored before vmbus::Server. A request is not saved; that there is something to thaw is, and whoever
  // restores it thaws it.
  std::string StateName() const override { return "integration/backup"; }
  absl::Status Save(state::StateWriter& writer) const override;
  absl::Status Restore(state::StateReader& reader) override;
  void Reset() override;

 private:
  class Core;
  explicit Backup(std::unique_ptr<Core> core);
  const std::unique_ptr<Core> core_;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_VSP_BACKUP_H_
