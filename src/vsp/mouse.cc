// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vsp/mouse.h"

#include <algorithm>
#include <array>
#include <deque>
#include <utility>
#include <vector>

#include "hvsdk/hvdef/integration.h"
#include "hvsdk/hvdef/mouse.h"
#include "vsp/input_channel.h"

namespace hvsdk::vsp {

namespace wire = hvdef::mouse;
using hvdef::integration::PipeHeader;
using vmbus::Take;

namespace {

constexpr hvdef::Guid kInstance = hvdef::MakeGuid("58f75a6d-d949-4320-99e1-a2a2576d581c");

enum class Phase : uint8_t {
  kIdle,
  kVersion,  // the guest asks for one
  kInfo,     // it is told what the device is
  kReady,
  kBroken,  // it has said what makes no sense
};

// What the guest is owed before anything else of it is read.
enum class Answer : uint8_t { kNone, kAccept, kInfo, kRefuse };

// An event, and whether it is a movement alone.
struct Waiting {
  uint16_t x = 0, y = 0;
  uint8_t buttons = 0;
  int8_t wheel = 0, pan = 0;
  bool is_movement = false;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "x", x);
    visit(2, "y", y);
    visit(3, "buttons", buttons);
    visit(4, "wheel", wheel);
    visit(5, "pan", pan);
    visit(6, "is_movement", is_movement);
  }
  bool is_valid() const {
    return x <= PointerEvent::kMax && y <= PointerEvent::kMax && buttons < 1 << wire::kButtons && wheel >= -127 &&
           pan >= -127 && !(is_movement && (wheel != 0 || pan != 0));
  }
};

struct MouseState {
  static constexpr uint32_t kSchema = 1;
  Phase phase = Phase::kIdle;
  Answer answer = Answer::kNone;
  uint32_t refused_version = 0;  // of kRefuse
  Waiting last;                  // that the guest has had, if nothing waits
  std::vector<Waiting> waiting;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "phase", phase);
    visit(2, "answer", answer);
    visit(3, "refused_version", refused_version);
    visit(4, "last", last);
    visit(5, "waiting", waiting);
  }
};

// Within what a report has room for; -128 is none of it.
int8_t Sum(int8_t a, int8_t b) { return static_cast<int8_t>(std::clamp(a + b, -127, 127)); }

}  // namespace

class Mouse::Core final : public InputChannel {
 public:
  explicit Core(const InputResources& resources) : InputChannel(resources, wire::kMaxMessageBytes) {}
  ~Core() override { Rescind(); }

  absl::Status Offer(vmbus::Server& server, Executor& executor) {
    vmbus::Offer offer;
    offer.class_id = hvdef::class_id::kMouse;
    offer.instance_id = kInstance;
    offer.flags = hvdef::vmbus::kOfferNamedPipeMode | hvdef::vmbus::kOfferEnumerateDeviceInterface;
    std::memcpy(offer.user_defined.data(), &hvdef::vmbus::kPipeModeMessage, sizeof(hvdef::vmbus::kPipeModeMessage));
    return InputChannel::Offer(server, offer, executor);
  }

  absl::Status Point(const PointerEvent& event) {
    Waiting next{
        .x = event.x, .y = event.y, .buttons = event.buttons, .wheel = Sum(event.wheel, 0), .pan = Sum(event.pan, 0)};
    if (!next.is_valid()) return absl::InvalidArgumentError("the mouse has no such place, or no such button");
    if (state_.phase != Phase::kReady) {
      return absl::FailedPreconditionError(state_.phase == Phase::kBroken
                                               ? "the guest's driver for its mouse has broken the protocol"
                                               : "the guest has no driver for its mouse yet");
    }
    next.is_movement = next.wheel == 0 && next.pan == 0 && next.buttons == last().buttons;
    if (!waiting_.empty() && waiting_.back().is_movement && next.is_movement) {
      waiting_.back() = next;
    } else if (waiting_.size() == kMaxWaiting) {
      next.wheel = Sum(next.wheel, waiting_.back().wheel);
      next.pan = Sum(next.pan, waiting_.back().pan);
      next.is_movement = false;
      waiting_.back() = next;
    } else {
      waiting_.push_back(next);
    }
    Wake();
    return absl::OkStatus();
  }

  void ReleaseAll() {
    if (last().buttons != 0) (void)Point({.x = last().x, .y = last().y});
  }

  MouseStatus status() const {
    return {.is_ready = state_.phase == Phase::kReady,
            .last = {.x = last().x, .y = last().y, .buttons = last().buttons},
            .waiting = waiting_.size()};
  }

  MouseState state() const {
    MouseState state = state_;
    state.waiting.assign(waiting_.begin(), waiting_.end());
    return state;
  }

  absl::Status Restore(state::StateReader& reader) {
    MouseState state;
    RETURN_IF_ERROR(reader.Read(state));
    if (state.phase > Phase::kBroken) return reader.Invalid("phase", "unknown");
    if (state.answer > Answer::kRefuse) return reader.Invalid("answer", "unknown");
    const Phase of_answer[] = {state.phase, Phase::kInfo, Phase::kInfo, Phase::kVersion};
    if (state.phase != of_answer[static_cast<size_t>(state.answer)]) {
      return reader.Invalid("answer", "not one that this phase has");
    }
    if (state.answer != Answer::kRefuse && state.refused_version != 0) {
      return reader.Invalid("refused_version", "while none is refused");
    }
    if (!state.last.is_valid() || state.last.wheel != 0 || state.last.pan != 0 || state.last.is_movement) {
      return reader.Invalid("last", "no place, or no such button");
    }
    if (state.phase != Phase::kReady && (!state.waiting.empty() || state.last.buttons != 0)) {
      return reader.Invalid("waiting", "before the guest is ready");
    }
    if (state.waiting.size() > kMaxWaiting) return reader.Invalid("waiting", "more than ever wait");
    for (const Waiting& each : state.waiting) {
      if (!each.is_valid()) return reader.Invalid("waiting", "no place, or no such button");
    }
    waiting_.assign(state.waiting.begin(), state.waiting.end());
    state.waiting.clear();
    state_ = std::move(state);
    return absl::OkStatus();
  }

  void Reset() { Forget(); }

 private:
  const Waiting& last() const { return waiting_.empty() ? state_.last : waiting_.back(); }

  // InputChannel.
  void Forget() override {
    state_ = {};
    waiting_.clear();
  }
  void OnOpened() override { state_.phase = Phase::kVersion; }
  void OnGone(const vmbus::Channel&) override {}
  void OnBroken() override {
    Forget();
    state_.phase = Phase::kBroken;
  }

  // A body behind its headers, with their sizes filled in.
  template <typename Message>
  bool SendPiped(wire::MessageType type, Message message, absl::Span<const uint8_t> tail = {}) {
    std::array<uint8_t, sizeof(PipeHeader) + sizeof(Message) + sizeof(wire::kReport)> bytes;
    const auto size = static_cast<uint32_t>(sizeof(message) + tail.size());
    message.header = {.type = type, .size_bytes = size - static_cast<uint32_t>(sizeof(wire::Header))};
    const PipeHeader pipe{.type = hvdef::integration::kPipeData, .size_bytes = size};
    std::memcpy(bytes.data(), &pipe, sizeof(pipe));
    std::memcpy(bytes.data() + sizeof(pipe), &message, sizeof(message));
    if (!tail.empty()) std::memcpy(bytes.data() + sizeof(pipe) + sizeof(message), tail.data(), tail.size());
    return SendMessage(bytes.data(), sizeof(pipe) + size);
  }

  bool SendAnswers() {
    if (state_.answer == Answer::kAccept || state_.answer == Answer::kRefuse) {
      const bool accepts = state_.answer == Answer::kAccept;
      if (!SendPiped(wire::MessageType::kProtocolResponse,
                     wire::ProtocolResponse{.version = accepts ? wire::kVersion2 : state_.refused_version,
                                            .is_accepted = accepts})) {
        return false;
      }
      state_.refused_version = 0;
      state_.answer = accepts ? Answer::kInfo : Answer::kNone;
    }
    if (state_.answer == Answer::kInfo) {
      const wire::DeviceInfo info{
          .attributes = {.size_bytes = sizeof(wire::DeviceAttributes),
                         .vendor = wire::kVendor,
                         .product = wire::kProduct,
                         .version = 1},
          .descriptor = {.size_bytes = sizeof(wire::HidDescriptor),
                         .type = wire::kHidDescriptor,
                         .hid_version = wire::kHidVersion,
                         .descriptors = 1,
                         .report_type = wire::kReportDescriptor,
                         .report_bytes = sizeof(wire::kReport)},
      };
      if (!SendPiped(wire::MessageType::kDeviceInfo, info, wire::kReport)) return false;
      state_.answer = Answer::kNone;
    }
    return true;
  }

  Take OnTurn() override {
    if (is_paused()) return Take::kNoMore;
    if (!SendAnswers()) return Take::kNoMore;
    while (!waiting_.empty() && MaySend() && has_time()) {
      const Waiting& next = waiting_.front();
      const wire::InputReport report{
          .report = {.buttons = next.buttons, .x = next.x, .y = next.y, .wheel = next.wheel, .pan = next.pan}};
      if (!SendPiped(wire::MessageType::kInputReport, report)) break;
      state_.last = {.x = next.x, .y = next.y, .buttons = next.buttons};
      waiting_.pop_front();
      CountSent();
      AddWork(1);
    }
    return Take::kMore;
  }

  Take OnMessage(absl::Span<const uint8_t> message) override {
    PipeHeader pipe;
    wire::Header header;
    if (state_.phase == Phase::kBroken || !Read(message, pipe)) return Take::kMalformed;
    message.remove_prefix(sizeof(pipe));
    if (pipe.type != hvdef::integration::kPipeData || pipe.size_bytes > message.size()) return Take::kMalformed;
    message = message.first(pipe.size_bytes);
    if (!Read(message, header)) return Take::kMalformed;
    switch (header.type) {
      case wire::MessageType::kProtocolRequest: {
        wire::ProtocolRequest request;
        if (state_.phase != Phase::kVersion || !Read(message, request)) return Take::kMalformed;
        if (request.version == wire::kVersion2) {
          state_.answer = Answer::kAccept;
          state_.phase = Phase::kInfo;
        } else {
          state_.answer = Answer::kRefuse;
          state_.refused_version = request.version;
        }
        return Take::kNoMore;
      }
      case wire::MessageType::kDeviceInfoAck:
        if (state_.phase != Phase::kInfo) return Take::kMalformed;
        state_.phase = Phase::kReady;
        return Take::kMore;
      default:
        return Take::kMore;  // what later versions may say
    }
  }

  MouseState state_;  // but for what waits
  std::deque<Waiting> waiting_;
};

absl::StatusOr<std::unique_ptr<Mouse>> Mouse::Create(vmbus::Server& server, const InputResources& resources) {
  auto core = std::make_unique<Core>(resources);
  RETURN_IF_ERROR(core->Offer(server, resources.executor));
  return std::unique_ptr<Mouse>(new Mouse(std::move(core)));
}

Mouse::Mouse(std::unique_ptr<Core> core) : core_(std::move(core)) {}
Mouse::~Mouse() = default;

absl::Status Mouse::Point(const PointerEvent& event) { return core_->Point(event); }
MouseStatus Mouse::status() const { return core_->status(); }
void Mouse::Pause() { core_->SetPaused(true); }
void Mouse::Resume() { core_->SetPaused(false); }
void Mouse::ReleaseAll() { core_->ReleaseAll(); }

absl::Status Mouse::Save(state::StateWriter& writer) const {
  MouseState state = core_->state();
  writer.Write(state);
  return absl::OkStatus();
}
absl::Status Mouse::Restore(state::StateReader& reader) { return core_->Restore(reader); }
void Mouse::Reset() { core_->Reset(); }

}  // namespace hvsdk::vsp
