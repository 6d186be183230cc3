// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vsp/time_sync.h"

#include <cstring>

#include "base/executor_timer.h"
#include "base/status_macros.h"
#include "vsp/integration_channel.h"

namespace hvsdk::vsp {
namespace {

constexpr IntegrationChannel::Protocol kProtocol = {
    .class_id = hvdef::class_id::kTimeSync,
    .instance_id = hvdef::MakeGuid("2dd1ce17-079e-403c-b352-a1921ee207ee"),
    .type = hvdef::integration::MessageType::kTimeSync,
    .versions = hvdef::integration::kTimeSyncVersions,
};

struct TimeSyncState {
  static constexpr uint32_t kSchema = 1;
  IntegrationChannel::State channel;
  bool sets = false;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "channel", channel);
    visit(2, "sets", sets);
  }
};

struct Moment {
  uint64_t host_time;  // hvdef::integration's
  uint64_t reference_time;
};

// Of two clocks that are read one after the other, within 20 us unless the host is very busy.
Moment ReadClocks(const Clock& clock, const WallClock& wall_clock) {
  constexpr uint64_t kClose100ns = 200;
  Moment moment{};
  for (int i = 0; i < 4; ++i) {
    const uint64_t before = clock.Now100ns();
    moment.host_time = static_cast<uint64_t>(wall_clock.NowNs() / 100) + hvdef::integration::kUnixEpoch100ns;
    const uint64_t after = clock.Now100ns();
    moment.reference_time = before + (after - before) / 2;
    if (after - before <= kClose100ns) break;
  }
  return moment;
}

}  // namespace

class TimeSync::Core final : public IntegrationChannel {
 public:
  Core(const IntegrationResources& resources, const WallClock& wall_clock, const TimeSyncOptions& options)
      : IntegrationChannel(kProtocol),
        options_(options),
        clock_(resources.clock),
        wall_clock_(wall_clock),
        next_(resources.timers, resources.clock, resources.executor,
              [this] { Tell(/*sets=*/!options_.samples_only); }) {}
  ~Core() override { Rescind(); }

  void Pause() {
    SetPaused(true);
    next_.Cancel();
  }
  void Resume() {
    SetPaused(false);
    if (is_ready()) Tell(/*sets=*/true);
  }

  TimeSyncState state() const { return {.channel = SaveState(), .sets = sets_}; }
  absl::Status Restore(state::StateReader& reader) {
    TimeSyncState state;
    RETURN_IF_ERROR(reader.Read(state));
    RETURN_IF_ERROR(CheckState(state.channel, reader));
    RestoreState(state.channel);
    sets_ = state.sets;
    return absl::OkStatus();
  }
  void Reset() {
    RestoreState({});
    Lose();
  }

 private:
  void Tell(bool sets) {
    // A clock that is to be set stays so until the guest was told, however many samples are due meanwhile.
    sets_ |= sets;
    Ask();
    next_.ArmIn(options_.interval);
  }

  void OnReady() override { Tell(/*sets=*/true); }
  uint32_t WriteRequest(absl::Span<uint8_t> body) override {
    namespace integration = hvdef::integration;
    const auto [host_time, reference_time] = ReadClocks(clock_, wall_clock_);
    const uint8_t flags = sets_ ? integration::kTimeSyncSet : integration::kTimeSyncSample;
    if (version() >= integration::kTimeSyncReferenceVersion) {
      const integration::TimeSyncV4 message{.host_time = host_time, .reference_time = reference_time, .flags = flags};
      std::memcpy(body.data(), &message, sizeof(message));
      return sizeof(message);
    }
    const integration::TimeSync message{.host_time = host_time, .flags = flags};
    std::memcpy(body.data(), &message, sizeof(message));
    return sizeof(message);
  }
  void OnSent() override { sets_ = false; }
  void OnAnswer(hvdef::integration::Status, absl::Span<const uint8_t>) override {}
  void OnLost(const absl::Status&) override { Lose(); }
  void Lose() {
    next_.Cancel();
    sets_ = false;
  }

  const TimeSyncOptions options_;
  const Clock& clock_;
  const WallClock& wall_clock_;
  bool sets_ = false;
  ExecutorTimer next_;
};

absl::StatusOr<std::unique_ptr<TimeSync>> TimeSync::Create(vmbus::Server& server, const IntegrationResources& resources,
                                                           const WallClock& wall_clock,
                                                           const TimeSyncOptions& options) {
  auto core = std::make_unique<Core>(resources, wall_clock, options);
  RETURN_IF_ERROR(core->Offer(server, resources.executor));
  return std::unique_ptr<TimeSync>(new TimeSync(std::move(core)));
}

TimeSync::TimeSync(std::unique_ptr<Core> core) : core_(std::move(core)) {}
TimeSync::~TimeSync() = default;

void TimeSync::Pause() { core_->Pause(); }
void TimeSync::Resume() { core_->Resume(); }

absl::Status TimeSync::Save(state::StateWriter& writer) const {
  TimeSyncState state = core_->state();
  writer.Write(state);
  return absl::OkStatus();
}
absl::Status TimeSync::Restore(state::StateReader& reader) { return core_->Restore(reader); }
void TimeSync::Reset() { core_->Reset(); }

}  // namespace hvsdk::vsp
