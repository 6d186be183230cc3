// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vsp/keyboard.h"

#include <algorithm>
#include <deque>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "hvsdk/hvdef/keyboard.h"
#include "vsp/input_channel.h"
#include "vsp/why_closed.h"

namespace hvsdk::vsp {

namespace wire = hvdef::keyboard;
using vmbus::Take;

namespace {

constexpr hvdef::Guid kInstance = hvdef::MakeGuid("d34b2567-b9b6-42b9-8778-0a4ec0b955bf");

enum class Phase : uint8_t {
  kIdle,
  kVersion,  // the guest asks for one
  kReady,
  kBroken,  // it has said what makes no sense
};

// What the guest is owed before anything else of it is read.
enum class Answer : uint8_t { kNone, kAccept, kRefuse };

struct KeyboardState {
  static constexpr uint32_t kSchema = 1;
  Phase phase = Phase::kIdle;
  Answer answer = Answer::kNone;
  uint16_t leds = 0;
  // As Pack has them: what waits, and the keys that the guest has as pressed, in the order in which they were.
  std::vector<uint32_t> waiting;
  std::vector<uint32_t> pressed;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "phase", phase);
    visit(2, "answer", answer);
    visit(3, "leds", leds);
    visit(4, "waiting", waiting);
    visit(5, "pressed", pressed);
  }
};

constexpr uint32_t kUnicode = 1 << 16, kPressed = 1 << 17;

// The key, and whether it is pressed.
uint32_t KeyOf(const KeyEvent& event) { return event.code | (event.is_unicode ? kUnicode : 0); }
uint32_t Pack(const KeyEvent& event) { return KeyOf(event) | (event.is_pressed ? kPressed : 0); }
KeyEvent Unpack(uint32_t packed) {
  return {.code = static_cast<uint16_t>(packed),
          .is_pressed = (packed & kPressed) != 0,
          .is_unicode = (packed & kUnicode) != 0};
}
bool IsKey(uint32_t key) {
  if ((key & ~(kUnicode | 0xFFFF)) != 0) return false;
  return (key & kUnicode) != 0 || IsScanCode(static_cast<uint16_t>(key));
}

// The keys that are held: few, in the order in which they were pressed.
class HeldKeys {
 public:
  bool Has(uint32_t key) const { return std::find(keys_.begin(), keys_.end(), key) != keys_.end(); }
  // False: the release of a key that is not held.
  bool Apply(const KeyEvent& event) {
    const uint32_t key = KeyOf(event);
    const auto at = std::find(keys_.begin(), keys_.end(), key);
    if (event.is_pressed) {
      if (at == keys_.end()) keys_.push_back(key);
      return true;
    }
    if (at == keys_.end()) return false;
    keys_.erase(at);
    return true;
  }
  const std::vector<uint32_t>& keys() const { return keys_; }
  size_t size() const { return keys_.size(); }

 private:
  std::vector<uint32_t> keys_;
};

}  // namespace

class Keyboard::Core final : public InputChannel {
 public:
  Core(const InputResources& resources, KeyboardOptions options)
      : InputChannel(resources, wire::kMaxMessageBytes),
        options_(std::move(options)),
        late_(resources.timers, resources.clock, resources.executor, [this] { OnLate(); }) {}
  ~Core() override {
    Rescind();
    FinishAll(absl::CancelledError("the machine has ended"));
  }

  absl::Status Offer(vmbus::Server& server, Executor& executor) {
    vmbus::Offer offer;
    offer.class_id = hvdef::class_id::kKeyboard;
    offer.instance_id = kInstance;
    offer.flags = hvdef::vmbus::kOfferEnumerateDeviceInterface;
    return InputChannel::Offer(server, offer, executor);
  }

  void Type(absl::Span<const KeyEvent> events, Done done) {
    for (const KeyEvent& event : events) {
      if (!IsKey(KeyOf(event))) {
        return done(absl::InvalidArgumentError(absl::StrFormat("no key has the scan code %#x", event.code)));
      }
    }
    if (phase_ != Phase::kReady) {
      return done(absl::FailedPreconditionError(phase_ == Phase::kBroken
                                                    ? "the guest's driver for its keyboard has broken the protocol"
                                                    : "the guest has no driver for its keyboard yet"));
    }
    HeldKeys held = held_;
    std::vector<uint32_t> packed;
    for (const KeyEvent& event : events) {
      if (held.Apply(event)) packed.push_back(Pack(event));
    }
    if (waiting_.size() + packed.size() + held.size() > kMaxTyped) {
      return done(absl::ResourceExhaustedError("the guest has not taken what was typed before"));
    }
    if (packed.empty()) return done(absl::OkStatus());
    held_ = std::move(held);
    for (const uint32_t each : packed) Append(each);
    jobs_.push_back({.end = appended_, .done = std::move(done)});
  }

  void OnKey(const KeyEvent& event) {
    if (phase_ != Phase::kReady || !IsKey(KeyOf(event))) return;
    const bool is_held = held_.Has(KeyOf(event));
    if (!event.is_pressed && !is_held) return;
    // With room for its release, if it is another key.
    if (event.is_pressed && waiting_.size() + held_.size() + (is_held ? 1 : 2) > kMaxLive) return;
    (void)held_.Apply(event);
    Append(Pack(event));
  }

  void ReleaseAll() {
    while (held_.size() != 0) {
      KeyEvent release = Unpack(held_.keys().back());
      (void)held_.Apply(release);
      Append(Pack(release));
    }
  }

  KeyboardStatus status() const {
    return {.is_ready = phase_ == Phase::kReady, .leds = leds_, .waiting = waiting_.size(), .held = held_.size()};
  }

  // How long the guest has read nothing is counted anew.
  void Resume() {
    SetPaused(false);
    ArmLate();
  }

  KeyboardState state() const {
    KeyboardState state{.phase = phase_, .answer = answer_, .leds = leds_};
    state.waiting.assign(waiting_.begin(), waiting_.end());
    state.pressed = pressed_.keys();
    return state;
  }

  absl::Status Restore(state::StateReader& reader) {
    KeyboardState state;
    RETURN_IF_ERROR(reader.Read(state));
    if (state.phase > Phase::kBroken) return reader.Invalid("phase", "unknown");
    if (state.answer > Answer::kRefuse) return reader.Invalid("answer", "unknown");
    const Phase of_answer[] = {state.phase, Phase::kReady, Phase::kVersion};
    if (state.phase != of_answer[static_cast<size_t>(state.answer)]) {
      return reader.Invalid("answer", "not one that this phase has");
    }
    const bool is_ready = state.phase == Phase::kReady;
    if (!is_ready && (state.leds != 0 || !state.waiting.empty() || !state.pressed.empty())) {
      return reader.Invalid("waiting", "before the guest is ready");
    }
    HeldKeys pressed;
    for (const uint32_t key : state.pressed) {
      if (!IsKey(key) || pressed.Has(key)) return reader.Invalid("pressed", "no key, or one that is pressed already");
      (void)pressed.Apply(Unpack(key | kPressed));
    }
    HeldKeys held = pressed;
    for (const uint32_t each : state.waiting) {
      if (!IsKey(each & ~kPressed) || !held.Apply(Unpack(each))) {
        return reader.Invalid("waiting", "no key, or the release of one that is not held");
      }
    }
    if (state.waiting.size() + held.size() > kMaxTyped) return reader.Invalid("waiting", "more than ever wait");
    phase_ = state.phase;
    answer_ = state.answer;
    leds_ = state.leds;
    waiting_.assign(state.waiting.begin(), state.waiting.end());
    pressed_ = std::move(pressed);
    held_ = std::move(held);
    appended_ = waiting_.size();
    return absl::OkStatus();
  }

  void Reset() {
    Forget();
    FinishAll(absl::CancelledError("the machine was reset"));
  }

 private:
  // Somebody who waits until the event of that number, and those before, are in the ring.
  struct Job {
    uint64_t end;
    Done done;
  };

  void Append(uint32_t packed) {
    waiting_.push_back(packed);
    ++appended_;
    if (waiting_.size() == 1) ArmLate();
    Wake();
  }
  void ArmLate() {
    if (waiting_.empty()) return late_.Cancel();
    late_.ArmIn(kPatience);
  }
  // Who waits may ask for something else from within.
  void FinishTo(uint64_t taken, const absl::Status& status) {
    while (!jobs_.empty() && jobs_.front().end <= taken) {
      Done done = std::move(jobs_.front().done);
      jobs_.pop_front();
      done(status);
    }
  }
  void FinishAll(const absl::Status& status) { FinishTo(appended_, status); }

  void OnLate() {
    waiting_.clear();
    held_ = pressed_;
    const uint64_t dropped = appended_;
    ReleaseAll();
    FinishTo(dropped, absl::DeadlineExceededError(is_paused() ? "the guest does not run"
                                                              : "the guest does not read what its keyboard sends"));
  }

  // InputChannel.
  void Forget() override {
    phase_ = Phase::kIdle;
    answer_ = Answer::kNone;
    leds_ = 0;
    waiting_.clear();
    pressed_ = held_ = {};
    late_.Cancel();
  }
  void OnOpened() override { phase_ = Phase::kVersion; }
  void OnGone(const vmbus::Channel& channel) override {
    FinishAll(WhyClosed(channel, "the guest's driver for its keyboard"));
  }
  void OnBroken() override {
    Forget();
    phase_ = Phase::kBroken;
    FinishAll(absl::FailedPreconditionError("the guest's driver for its keyboard has broken the protocol"));
  }

  Take OnTurn() override {
    if (is_paused()) return Take::kNoMore;
    if (answer_ != Answer::kNone) {
      const wire::ProtocolResponse response{.header = {wire::MessageType::kProtocolResponse},
                                            .status = answer_ == Answer::kAccept ? wire::kAccepted : 0};
      if (!SendMessage(&response, sizeof(response))) return Take::kNoMore;
      answer_ = Answer::kNone;
    }
    const size_t before = waiting_.size();
    while (!waiting_.empty() && MaySend() && has_time() && SendKey(Unpack(waiting_.front()))) {
      (void)pressed_.Apply(Unpack(waiting_.front()));
      waiting_.pop_front();
      CountSent();
      AddWork(1);
    }
    if (waiting_.size() != before) {
      ArmLate();
      FinishTo(appended_ - waiting_.size(), absl::OkStatus());
    }
    return phase_ == Phase::kBroken ? Take::kNoMore : Take::kMore;
  }

  // One key is up to two messages: both, or none.
  bool SendKey(const KeyEvent& event) {
    constexpr uint32_t kBytes = sizeof(wire::Keystroke);
    constexpr uint32_t kRoomForTwo = 2 * vmbus::PacketSize(kBytes) - vmbus::PacketSize(0);
    const bool is_pause = !event.is_unicode && event.code == KeyEvent::kPause;
    if (!HasRoom(is_pause ? kRoomForTwo : kBytes)) return false;
    wire::Keystroke keystroke{.header = {wire::MessageType::kKeystroke}, .code = event.code};
    if (!event.is_pressed) keystroke.flags = wire::kIsBreak;
    if (event.is_unicode) {
      keystroke.flags |= wire::kIsUnicode;
    } else {
      keystroke.code &= 0x7F;
      if ((event.code & 0xFF00) == 0xE000) keystroke.flags |= wire::kIsE0;
      if ((event.code & 0xFF00) == 0xE100) keystroke.flags |= wire::kIsE1;
    }
    (void)SendMessage(&keystroke, kBytes);
    if (is_pause) {
      keystroke.code = 0x45;
      keystroke.flags &= ~wire::kIsE1;
      (void)SendMessage(&keystroke, kBytes);
    }
    return true;
  }

  Take OnMessage(absl::Span<const uint8_t> message) override {
    wire::Header header;
    if (phase_ == Phase::kBroken || !Read(message, header)) return Take::kMalformed;
    switch (header.type) {
      case wire::MessageType::kProtocolRequest: {
        wire::ProtocolRequest request;
        if (phase_ != Phase::kVersion || !Read(message, request)) return Take::kMalformed;
        answer_ = request.version == wire::kVersion1 ? Answer::kAccept : Answer::kRefuse;
        if (answer_ == Answer::kAccept) phase_ = Phase::kReady;
        return Take::kNoMore;
      }
      case wire::MessageType::kLedIndicators: {
        wire::LedIndicators indicators;
        if (phase_ != Phase::kReady || !Read(message, indicators)) return Take::kMalformed;
        if (std::exchange(leds_, indicators.leds) != indicators.leds && options_.on_leds) options_.on_leds(leds_);
        return Take::kMore;
      }
      default:
        return Take::kMore;  // what later versions may say
    }
  }

  const KeyboardOptions options_;
  Phase phase_ = Phase::kIdle;
  Answer answer_ = Answer::kNone;
  uint16_t leds_ = 0;
  std::deque<uint32_t> waiting_;
  HeldKeys pressed_;       // in the guest, by what is in its ring
  HeldKeys held_;          // once what waits has come
  uint64_t appended_ = 0;  // events, ever
  std::deque<Job> jobs_;   // by their ends
  ExecutorTimer late_;
};

absl::StatusOr<std::unique_ptr<Keyboard>> Keyboard::Create(vmbus::Server& server, const InputResources& resources,
                                                           const KeyboardOptions& options) {
  auto core = std::make_unique<Core>(resources, options);
  RETURN_IF_ERROR(core->Offer(server, resources.executor));
  return std::unique_ptr<Keyboard>(new Keyboard(std::move(core)));
}

Keyboard::Keyboard(std::unique_ptr<Core> core) : core_(std::move(core)) {}
Keyboard::~Keyboard() = default;

void Keyboard::Type(absl::Span<const KeyEvent> events, Done done) { core_->Type(events, std::move(done)); }
void Keyboard::OnKey(const KeyEvent& event) { core_->OnKey(event); }
KeyboardStatus Keyboard::status() const { return core_->status(); }
void Keyboard::Pause() { core_->SetPaused(true); }
void Keyboard::Resume() { core_->Resume(); }
void Keyboard::ReleaseAll() { core_->ReleaseAll(); }

absl::Status Keyboard::Save(state::StateWriter& writer) const {
  KeyboardState state = core_->state();
  writer.Write(state);
  return absl::OkStatus();
}
absl::Status Keyboard::Restore(state::StateReader& reader) { return core_->Restore(reader); }
void Keyboard::Reset() { core_->Reset(); }

}  // namespace hvsdk::vsp
