// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vsp/shutdown.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/executor_timer.h"
#include "base/status_macros.h"
#include "vsp/integration_channel.h"

namespace hvsdk::vsp {

namespace integration = hvdef::integration;

namespace {

constexpr IntegrationChannel::Protocol kProtocol = {
    .class_id = hvdef::class_id::kShutdown,
    .instance_id = hvdef::MakeGuid("b6650ff7-33bc-4840-8048-e0676786f393"),
    .type = integration::MessageType::kShutdown,
    .versions = integration::kShutdownVersions,
};

struct ShutdownState {
  static constexpr uint32_t kSchema = 1;
  IntegrationChannel::State channel;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "channel", channel);
  }
};

integration::Version OldestVersionFor(ShutdownAction action) {
  switch (action) {
    case ShutdownAction::kPowerOff:
      return integration::kShutdownVersions[0];
    case ShutdownAction::kRestart:
      return integration::kShutdownRestartVersion;
    case ShutdownAction::kHibernate:
      return integration::kShutdownHibernateVersion;
  }
  return integration::kShutdownVersions[0];
}

uint32_t FlagsOf(const ShutdownRequest& request) {
  uint32_t flags = request.force ? integration::kShutdownForce : 0;
  if (request.action == ShutdownAction::kRestart) flags |= integration::kShutdownRestart;
  if (request.action == ShutdownAction::kHibernate) flags |= integration::kShutdownHibernate;
  return flags;
}

}  // namespace

class Shutdown::Core final : public IntegrationChannel {
 public:
  explicit Core(const IntegrationResources& resources)
      : IntegrationChannel(kProtocol),
        late_(resources.timers, resources.clock, resources.executor, [this] { OnLate(); }) {}
  ~Core() override {
    Rescind();
    Finish(absl::CancelledError("the machine has ended"));
  }

  void Request(const ShutdownRequest& request, Done done) {
    if (request.reason.size() >= integration::kShutdownTextBytes) {
      return done(absl::InvalidArgumentError(
          absl::StrCat("the reason is longer than ", integration::kShutdownTextBytes - 1, " bytes")));
    }
    if (!is_ready()) return done(absl::FailedPreconditionError("the guest has no driver that takes such requests"));
    if (done_ || is_waiting())
      return done(absl::FailedPreconditionError("the guest has not answered an earlier request"));
    if (version() < OldestVersionFor(request.action)) {
      return done(absl::UnimplementedError(absl::StrFormat(
          "the guest's driver speaks version %d.%d, which cannot do that", version().major, version().minor)));
    }
    message_ = {.reason = integration::kShutdownReasonPlanned,
                .timeout_seconds = static_cast<uint32_t>(request.guest_timeout.count()),
                .flags = FlagsOf(request)};
    std::memcpy(message_.text, request.reason.data(), request.reason.size());
    done_ = std::move(done);
    late_.ArmIn(request.answer_within);
    Ask();
  }

  void Pause() {
    SetPaused(true);
    late_.Pause();
  }
  void Resume() {
    SetPaused(false);
    late_.Resume();
  }

  // A request is its asker's, and goes with the process.
  ShutdownState state() const {
    ShutdownState state{.channel = SaveState()};
    state.channel.is_wanted = false;
    return state;
  }
  absl::Status Restore(state::StateReader& reader) {
    ShutdownState state;
    RETURN_IF_ERROR(reader.Read(state));
    RETURN_IF_ERROR(CheckState(state.channel, reader));
    if (state.channel.is_wanted) return reader.Invalid("channel.is_wanted", "a request that nobody made");
    RestoreState(state.channel);
    return absl::OkStatus();
  }
  void Reset() {
    RestoreState({});
    Finish(absl::CancelledError("the machine was reset"));
  }

 private:
  void Finish(const absl::Status& status) {
    late_.Cancel();
    if (done_) std::exchange(done_, nullptr)(status);
  }
  // What was not even sent is taken back.
  void OnLate() {
    TakeBack();
    Finish(absl::DeadlineExceededError("the guest does not answer"));
  }

  uint32_t WriteRequest(absl::Span<uint8_t> body) override {
    std::memcpy(body.data(), &message_, sizeof(message_));
    return sizeof(message_);
  }
  void OnAnswer(integration::Status status, absl::Span<const uint8_t>) override {
    Finish(status == integration::Status::kOk ? absl::OkStatus()
                                              : absl::FailedPreconditionError(absl::StrFormat(
                                                    "the guest refuses (%#x)", static_cast<uint32_t>(status))));
  }
  void OnLost(const absl::Status& why) override { Finish(why); }

  integration::Shutdown message_{};
  Done done_;
  ExecutorTimer late_;
};

absl::StatusOr<std::unique_ptr<Shutdown>> Shutdown::Create(vmbus::Server& server,
                                                           const IntegrationResources& resources) {
  auto core = std::make_unique<Core>(resources);
  RETURN_IF_ERROR(core->Offer(server, resources.executor));
  return std::unique_ptr<Shutdown>(new Shutdown(std::move(core)));
}

Shutdown::Shutdown(std::unique_ptr<Core> core) : core_(std::move(core)) {}
Shutdown::~Shutdown() = default;

void Shutdown::Request(const ShutdownRequest& request, Done done) { core_->Request(request, std::move(done)); }
void Shutdown::Pause() { core_->Pause(); }
void Shutdown::Resume() { core_->Resume(); }

absl::Status Shutdown::Save(state::StateWriter& writer) const {
  ShutdownState state = core_->state();
  writer.Write(state);
  return absl::OkStatus();
}
absl::Status Shutdown::Restore(state::StateReader& reader) { return core_->Restore(reader); }
void Shutdown::Reset() { core_->Reset(); }

}  // namespace hvsdk::vsp
