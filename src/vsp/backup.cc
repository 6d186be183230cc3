// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vsp/backup.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/executor_timer.h"
#include "base/status_macros.h"
#include "hvsdk/hvdef/backup.h"
#include "vsp/integration_channel.h"

namespace hvsdk::vsp {

using hvdef::backup::Operation;
using hvdef::integration::Status;

namespace {

constexpr IntegrationChannel::Protocol kProtocol = {
    .class_id = hvdef::class_id::kBackup,
    .instance_id = hvdef::MakeGuid("2450ee40-33bf-4fbd-892e-9fb06e9214cf"),
    .type = hvdef::integration::MessageType::kBackup,
    .versions = hvdef::backup::kVersions,
};

// What a guest is owed.
enum class ThawNeed : uint8_t { kNone, kNow, kLater };

struct BackupState {
  static constexpr uint32_t kSchema = 1;
  IntegrationChannel::State channel;
  ThawNeed thaw = ThawNeed::kNone;
  Operation asked = Operation::kNone;  // whose answer the guest owes

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "channel", channel);
    visit(2, "thaw", thaw);
    visit(3, "asked", asked);
  }
};

absl::Status GuestError(Operation operation, Status status) {
  const auto number = static_cast<uint32_t>(status);
  switch (operation) {
    case Operation::kCheck:
      return absl::FailedPreconditionError(absl::StrFormat(
          "the guest has no service running that freezes its file systems, which on Linux is hv_vss_daemon (%#x)",
          number));
    case Operation::kFreeze:
      return absl::FailedPreconditionError(
          absl::StrFormat("the guest cannot freeze its file systems (%#x); its log says why", number));
    default:
      return absl::FailedPreconditionError(
          absl::StrFormat("the guest does not thaw its file systems (%#x), and is asked again and again", number));
  }
}

}  // namespace

class Backup::Core final : public IntegrationChannel {
 public:
  Core(const IntegrationResources& resources, const BackupOptions& options)
      : IntegrationChannel(kProtocol),
        options_(options),
        late_(resources.timers, resources.clock, resources.executor, [this] { OnLate(); }),
        again_(resources.timers, resources.clock, resources.executor, [this] { ThawNow(); }) {}
  ~Core() override {
    Rescind();
    Forget(absl::CancelledError("the machine has ended"));
  }

  void Freeze(std::chrono::milliseconds within, Done done) {
    if (const absl::Status ready = CheckReady(); !ready.ok()) return done(ready);
    step_ = Step::kChecking;
    freeze_done_ = std::move(done);
    late_.ArmIn(within);
    Ask();
  }

  void Thaw(Done done) {
    if (step_ == Step::kIdle) return done(absl::OkStatus());
    if (!is_ready()) {
      return done(absl::FailedPreconditionError(
          "the guest's driver has gone; its file systems, should they still be frozen, are thawed when it is back"));
    }
    if (step_ == Step::kChecking || step_ == Step::kFreezing) {
      return done(absl::FailedPreconditionError("the guest's file systems are about to be frozen"));
    }
    if (thaw_done_) return done(absl::FailedPreconditionError("the guest is being asked to thaw its file systems"));
    thaw_done_ = std::move(done);
    late_.ArmIn(options_.thaw_within);
    if (step_ != Step::kThawing) ThawNow();
  }

  bool is_frozen() const { return step_ == Step::kFrozen; }

  void Pause() {
    SetPaused(true);
    again_.Cancel();
  }
  void Resume() {
    SetPaused(false);
    if (step_ == Step::kResting && is_ready()) again_.ArmIn(options_.thaw_again_after);
  }

  BackupState state() const {
    BackupState state{.channel = SaveState(), .thaw = Need()};
    state.channel.is_wanted = false;
    if (is_waiting()) state.asked = asked_;
    return state;
  }
  absl::Status Restore(state::StateReader& reader) {
    BackupState state;
    RETURN_IF_ERROR(reader.Read(state));
    RETURN_IF_ERROR(CheckState(state.channel, reader));
    if (state.channel.is_wanted) return reader.Invalid("channel.is_wanted", "a request that nobody made");
    if (state.thaw > ThawNeed::kLater) return reader.Invalid("thaw", "unknown");
    if (state.thaw == ThawNeed::kNow && state.channel.phase != Phase::kReady) {
      return reader.Invalid("thaw", "without a driver");
    }
    const bool is_asked =
        state.asked == Operation::kCheck || state.asked == Operation::kFreeze || state.asked == Operation::kThaw;
    if (is_asked != state.channel.is_waiting || (!is_asked && state.asked != Operation::kNone)) {
      return reader.Invalid("asked", "not what is waited for");
    }
    Forget(absl::CancelledError("another state was restored"));
    RestoreState(state.channel);
    asked_ = state.asked;
    step_ = state.thaw == ThawNeed::kNone  ? Step::kIdle
            : state.thaw == ThawNeed::kNow ? Step::kThawing
                                           : Step::kResting;
    if (step_ == Step::kThawing && !IsUnderWay(Operation::kThaw)) Ask();
    return absl::OkStatus();
  }
  void Reset() { Forget(absl::CancelledError("the machine was reset")); }

 private:
  enum class Step : uint8_t {
    kIdle,
    kChecking,
    kFreezing,
    kFrozen,
    kThawing,
    kResting,  // before the guest is asked once more to thaw
  };

  absl::Status CheckReady() const {
    if (!is_ready()) return absl::FailedPreconditionError("the guest has no driver that freezes its file systems");
    if (step_ == Step::kThawing || step_ == Step::kResting) {
      return absl::FailedPreconditionError("the guest has not thawed its file systems yet, which were frozen before");
    }
    if (step_ != Step::kIdle) {
      return absl::FailedPreconditionError("the guest's file systems are frozen, or about to be, for somebody else");
    }
    if (is_waiting()) return absl::FailedPreconditionError("the guest has not answered an earlier request");
    return absl::OkStatus();
  }

  bool IsUnderWay(Operation operation) const { return is_waiting() && asked_ == operation; }

  // As of now, were whoever has frozen it gone.
  ThawNeed Need() const {
    switch (step_) {
      case Step::kIdle:
      case Step::kChecking:
        return ThawNeed::kNone;
      case Step::kFreezing:
        return IsUnderWay(Operation::kFreeze) ? ThawNeed::kNow : ThawNeed::kNone;
      case Step::kFrozen:
      case Step::kThawing:
        return ThawNeed::kNow;
      case Step::kResting:
        return ThawNeed::kLater;
    }
    return ThawNeed::kNone;
  }

  void ThawNow() {
    step_ = Step::kThawing;
    again_.Cancel();
    Ask();
  }

  // They may ask anew.
  void EndFreeze(const absl::Status& status) {
    late_.Cancel();
    if (freeze_done_) std::exchange(freeze_done_, nullptr)(status);
  }
  void EndThaw(const absl::Status& status) {
    late_.Cancel();
    if (thaw_done_) std::exchange(thaw_done_, nullptr)(status);
  }
  // Whoever is told of it is refused if he asks anew.
  void Forget(const absl::Status& status) {
    RestoreState({});
    step_ = Step::kIdle;
    asked_ = Operation::kNone;
    FailAll(status);
  }
  void FailAll(const absl::Status& status) {
    again_.Cancel();
    TakeBack();
    EndFreeze(status);
    EndThaw(status);
  }

  void OnLate() {
    if (step_ == Step::kThawing || step_ == Step::kResting) {
      return EndThaw(absl::DeadlineExceededError("the guest does not answer that it has thawed its file systems"));
    }
    if (step_ != Step::kChecking && step_ != Step::kFreezing) return;
    // A guest that freezes late is thawed when it has.
    const bool may_freeze = IsUnderWay(Operation::kFreeze);
    if (may_freeze) {
      ThawNow();
    } else {
      TakeBack();
      step_ = Step::kIdle;
    }
    EndFreeze(absl::DeadlineExceededError(may_freeze ? "the guest has not frozen its file systems in time"
                                                     : "the guest does not answer"));
  }

  // IntegrationChannel.
  uint32_t WriteRequest(absl::Span<uint8_t> body) override {
    asked_ = step_ == Step::kChecking   ? Operation::kCheck
             : step_ == Step::kFreezing ? Operation::kFreeze
                                        : Operation::kThaw;
    const hvdef::backup::Message message{.operation = asked_, .reserved = {}, .flags = 0};
    std::memcpy(body.data(), &message, sizeof(message));
    return sizeof(message);
  }
  void OnAnswer(Status status, absl::Span<const uint8_t>) override {
    const Operation asked = std::exchange(asked_, Operation::kNone);
    const absl::Status answer = status == Status::kOk ? absl::OkStatus() : GuestError(asked, status);
    if (asked == Operation::kCheck && step_ == Step::kChecking) {
      step_ = answer.ok() ? Step::kFreezing : Step::kIdle;
      if (answer.ok()) return Ask();
      EndFreeze(answer);
    } else if (asked == Operation::kFreeze && step_ == Step::kFreezing) {
      // One that fails may have frozen some.
      step_ = Step::kFrozen;
      if (!answer.ok()) ThawNow();
      EndFreeze(answer);
    } else if (asked == Operation::kThaw && step_ == Step::kThawing) {
      step_ = answer.ok() ? Step::kIdle : Step::kResting;
      if (!answer.ok()) again_.ArmIn(options_.thaw_again_after);
      EndThaw(answer);
    }
    // Any other comes too late, and is nobody's.
  }
  void OnReady() override {
    if (step_ == Step::kResting) ThawNow();
  }
  void OnLost(const absl::Status& why) override {
    const bool may_freeze = step_ == Step::kFreezing && asked_ == Operation::kFreeze;
    step_ = Need() != ThawNeed::kNone || may_freeze ? Step::kResting : Step::kIdle;
    asked_ = Operation::kNone;
    FailAll(why);
  }

  const BackupOptions options_;
  Step step_ = Step::kIdle;
  Operation asked_ = Operation::kNone;  // the last, if it waits for its answer
  Done freeze_done_, thaw_done_;
  ExecutorTimer late_, again_;
};

absl::StatusOr<std::unique_ptr<Backup>> Backup::Create(vmbus::Server& server, const IntegrationResources& resources,
                                                       const BackupOptions& options) {
  auto core = std::make_unique<Core>(resources, options);
  RETURN_IF_ERROR(core->Offer(server, resources.executor));
  return std::unique_ptr<Backup>(new Backup(std::move(core)));
}

Backup::Backup(std::unique_ptr<Core> core) : core_(std::move(core)) {}
Backup::~Backup() = default;

void Backup::Freeze(std::chrono::milliseconds within, Done done) { core_->Freeze(within, std::move(done)); }
void Backup::Thaw(Done done) { core_->Thaw(std::move(done)); }
bool Backup::is_frozen() const { return core_->is_frozen(); }

void Backup::Pause() { core_->Pause(); }
void Backup::Resume() { core_->Resume(); }

absl::Status Backup::Save(state::StateWriter& writer) const {
  BackupState state = core_->state();
  writer.Write(state);
  return absl::OkStatus();
}
absl::Status Backup::Restore(state::StateReader& reader) { return core_->Restore(reader); }
void Backup::Reset() { core_->Reset(); }

}  // namespace hvsdk::vsp
