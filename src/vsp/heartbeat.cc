// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vsp/heartbeat.h"

#include <cstring>
#include <utility>

#include "base/executor_timer.h"
#include "base/status_macros.h"
#include "vsp/integration_channel.h"

namespace hvsdk::vsp {

using hvdef::integration::GuestHealth;
using hvdef::integration::Status;

namespace {

constexpr IntegrationChannel::Protocol kProtocol = {
    .class_id = hvdef::class_id::kHeartbeat,
    .instance_id = hvdef::MakeGuid("fd149e91-82e0-4a7d-afa6-2a4166cbd7c0"),
    .type = hvdef::integration::MessageType::kHeartbeat,
    .versions = hvdef::integration::kHeartbeatVersions,
};

struct HeartbeatState {
  static constexpr uint32_t kSchema = 1;
  IntegrationChannel::State channel;
  uint64_t sequence = 0;
  GuestContact contact = GuestContact::kNone;
  GuestHealth health = GuestHealth::kUnknown;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "channel", channel);
    visit(2, "sequence", sequence);
    visit(3, "contact", contact);
    visit(4, "health", health);
  }
};

}  // namespace

absl::string_view TextOf(GuestContact contact) {
  constexpr absl::string_view kTexts[] = {"none", "ok", "lost"};
  return kTexts[static_cast<size_t>(contact)];
}

class Heartbeat::Core final : public IntegrationChannel {
 public:
  Core(const IntegrationResources& resources, HeartbeatOptions options)
      : IntegrationChannel(kProtocol),
        options_(std::move(options)),
        next_(resources.timers, resources.clock, resources.executor, [this] { Beat(); }),
        late_(resources.timers, resources.clock, resources.executor, [this] { SetContact(GuestContact::kLost); }) {}
  ~Core() override { Rescind(); }

  void Pause() {
    SetPaused(true);
    next_.Cancel();
    late_.Cancel();
  }
  void Resume() {
    SetPaused(false);
    if (!is_ready()) return;
    next_.ArmIn(options_.interval);
    if (contact_ == GuestContact::kOk) late_.ArmIn(options_.lost_after);
  }

  HeartbeatState state() const {
    return {.channel = SaveState(), .sequence = sequence_, .contact = contact_, .health = health_};
  }
  absl::Status Restore(state::StateReader& reader) {
    HeartbeatState state;
    RETURN_IF_ERROR(reader.Read(state));
    RETURN_IF_ERROR(CheckState(state.channel, reader));
    if (state.contact > GuestContact::kLost) return reader.Invalid("contact", "unknown");
    RestoreState(state.channel);
    sequence_ = state.sequence;
    contact_ = state.contact;
    health_ = state.health;
    return absl::OkStatus();
  }
  void Reset() {
    RestoreState({});
    sequence_ = 0;
    health_ = GuestHealth::kUnknown;
    Lose();
  }

  GuestContact contact_ = GuestContact::kNone;
  GuestHealth health_ = GuestHealth::kUnknown;

 private:
  void Beat() {
    Ask();
    next_.ArmIn(options_.interval);
  }
  void SetContact(GuestContact contact) {
    if (std::exchange(contact_, contact) != contact && options_.on_change) options_.on_change(contact);
  }

  void OnReady() override { Beat(); }
  uint32_t WriteRequest(absl::Span<uint8_t> body) override {
    const hvdef::integration::Heartbeat beat{.sequence = sequence_ + 1};
    std::memcpy(body.data(), &beat, sizeof(beat));
    return sizeof(beat);
  }
  void OnSent() override { ++sequence_; }
  void OnAnswer(Status, absl::Span<const uint8_t> body) override {
    hvdef::integration::Heartbeat beat{};
    if (body.size() < sizeof(beat)) return;
    std::memcpy(&beat, body.data(), sizeof(beat));
    // As Linux and Windows raise it; whoever does not has not understood.
    if (beat.sequence != sequence_ + 1) return;
    sequence_ = beat.sequence;
    health_ = beat.health;
    late_.ArmIn(options_.lost_after);
    SetContact(GuestContact::kOk);
  }
  // A driver that goes, goes in order: the guest was shut down, or took its module out.
  void OnLost(const absl::Status&) override { Lose(); }
  void Lose() {
    next_.Cancel();
    late_.Cancel();
    SetContact(GuestContact::kNone);
  }

  const HeartbeatOptions options_;
  uint64_t sequence_ = 0;
  ExecutorTimer next_, late_;
};

absl::StatusOr<std::unique_ptr<Heartbeat>> Heartbeat::Create(vmbus::Server& server,
                                                             const IntegrationResources& resources,
                                                             HeartbeatOptions options) {
  auto core = std::make_unique<Core>(resources, std::move(options));
  RETURN_IF_ERROR(core->Offer(server, resources.executor));
  return std::unique_ptr<Heartbeat>(new Heartbeat(std::move(core)));
}

Heartbeat::Heartbeat(std::unique_ptr<Core> core) : core_(std::move(core)) {}
Heartbeat::~Heartbeat() = default;

GuestContact Heartbeat::contact() const { return core_->contact_; }
GuestHealth Heartbeat::health() const { return core_->health_; }
void Heartbeat::Pause() { core_->Pause(); }
void Heartbeat::Resume() { core_->Resume(); }

absl::Status Heartbeat::Save(state::StateWriter& writer) const {
  HeartbeatState state = core_->state();
  writer.Write(state);
  return absl::OkStatus();
}
absl::Status Heartbeat::Restore(state::StateReader& reader) { return core_->Restore(reader); }
void Heartbeat::Reset() { core_->Reset(); }

}  // namespace hvsdk::vsp
