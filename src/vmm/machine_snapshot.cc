// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine_snapshot.h"

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "vmm/guest_requests.h"

namespace hvsdk::vmm {
namespace {

using machine::Controller;
using std::chrono::steady_clock;

constexpr uint32_t kFreezeSeconds = 60;
constexpr uint32_t kMaxFreezeSeconds = 15 * 60;  // for which Linux waits for its service

uint64_t Since(steady_clock::time_point begin) {
  return static_cast<uint64_t>(std::chrono::nanoseconds(steady_clock::now() - begin).count());
}

class Snapshot : public std::enable_shared_from_this<Snapshot> {
 public:
  Snapshot(machine::Machine& machine, DiskOwner* disks, const SnapshotRequest& request,
           absl::AnyInvocable<void()> on_taken, ControlHandler::Reply reply)
      : machine_(machine),
        disks_(disks),
        request_(request),
        on_taken_(std::move(on_taken)),
        reply_(std::move(reply)),
        backup_(request.crash_consistent() ? nullptr : machine.integration().backup) {}

  void Start() {
    if (const absl::Status ready = Check(); !ready.ok()) return Finish(ready);
    if (backup_ == nullptr) return Switch();
    const uint32_t seconds = request_.freeze_seconds() == 0 ? kFreezeSeconds : request_.freeze_seconds();
    backup_->Freeze(std::chrono::seconds(seconds), [self = shared_from_this()](const absl::Status& status) {
      if (!status.ok()) return self->Finish(status);
      self->frozen_since_ = steady_clock::now();
      self->Switch();
    });
  }

 private:
  absl::Status Check() const {
    if (disks_ == nullptr) return absl::UnimplementedError("there are no disks here");
    if (request_.directory().empty()) return absl::InvalidArgumentError("a directory is needed");
    if (request_.freeze_seconds() > kMaxFreezeSeconds) {
      return absl::InvalidArgumentError(absl::StrCat("a guest may take ", kMaxFreezeSeconds, " s at most to freeze"));
    }
    RETURN_IF_ERROR(disks_->CheckSnapshot());
    if (request_.crash_consistent()) return absl::OkStatus();
    if (backup_ == nullptr) {
      return absl::FailedPreconditionError(
          "the machine has no backup component by which its guest could be asked to freeze");
    }
    if (machine_.controller().state() == Controller::State::kPaused) {
      return absl::FailedPreconditionError("the machine is paused, and its guest freezes nothing");
    }
    return absl::OkStatus();
  }

  void Switch() {
    machine_.controller().WhilePaused([self = shared_from_this()] { return self->SwitchNow(); },
                                      [self = shared_from_this()](const absl::Status& status) {
                                        if (status.ok()) self->result_.set_stood_still_ns(Since(self->still_since_));
                                        self->OnSwitched(status);
                                      });
  }

  absl::Status SwitchNow() {
    still_since_ = steady_clock::now();
    if (!reply_.is_wanted()) return absl::CancelledError("whoever wanted the snapshot has gone");
    if (backup_ != nullptr && !backup_->is_frozen()) {
      return absl::AbortedError("the guest was reset, or its driver has gone, before there was a snapshot");
    }
    ASSIGN_OR_RETURN(std::vector<DiskSnapshot> taken, disks_->Snapshot(request_.directory()));
    for (DiskSnapshot& disk : taken) *result_.add_disks() = std::move(disk);
    return absl::OkStatus();
  }

  void OnSwitched(const absl::Status& status) {
    if (status.ok()) on_taken_();
    if (backup_ == nullptr) return Finish(status);
    backup_->Thaw([self = shared_from_this(), status](const absl::Status& thawed) {
      self->result_.set_frozen_ns(Since(self->frozen_since_));
      if (!thawed.ok() && !status.ok()) {
        return self->Finish(absl::Status(status.code(), absl::StrCat(status.message(), "; and ", thawed.message())));
      }
      self->result_.set_thaw_error(std::string(thawed.message()));
      self->Finish(status);
    });
  }

  void Finish(const absl::Status& status) {
    ControlReply done = ReplyOf(ErrorOf("snapshot", status));
    if (status.ok()) *done.mutable_snapshot() = std::move(result_);
    reply_(std::move(done));
  }

  machine::Machine& machine_;
  DiskOwner* const disks_;
  const SnapshotRequest request_;
  absl::AnyInvocable<void()> on_taken_;
  ControlHandler::Reply reply_;
  vsp::Backup* const backup_;  // null: the guest is not asked
  SnapshotResult result_;
  steady_clock::time_point frozen_since_, still_since_;
};

}  // namespace

void TakeSnapshot(machine::Machine& machine, DiskOwner* disks, const SnapshotRequest& request,
                  absl::AnyInvocable<void()> on_taken, ControlHandler::Reply reply) {
  std::make_shared<Snapshot>(machine, disks, request, std::move(on_taken), std::move(reply))->Start();
}

}  // namespace hvsdk::vmm
