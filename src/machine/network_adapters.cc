// SPDX-License-Identifier: Apache-2.0
#include "machine/network_adapters.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "machine/next_number.h"

namespace hvsdk::machine {
namespace {

// The same at every start, so that a guest knows its adapters again; the number is added.
constexpr hvdef::Guid kFirstInstance = {0x7D1B9E42, 0x0C5F, 0x4A36, {0xB8, 0x1D, 0x2E, 0x93, 0x44, 0xA0, 0xC7, 0x60}};

hvdef::Guid InstanceOf(uint8_t number) {
  hvdef::Guid instance = kFirstInstance;
  instance.data1 += number;
  return instance;
}

// How an adapter leaves. Linux takes note of a link's end at once, or up to two seconds behind the last time that one changed
// (LINKCHANGE_INT, drivers/net/hyperv/netvsc_drv.c).
constexpr uint64_t kLookInterval100ns = 500'000;
constexpr uint32_t kQuietLooks = 6;
constexpr uint64_t kLongestLeave100ns = 50'000'000;

// Of an adapter without a cable.
class NoPort final : public NetworkPort {
 public:
  NetworkPortInfo info() const override {
    return {.mtu_bytes = vsp::NetworkAdapter::kMaxMtuBytes, .max_frame_bytes = vsp::NetworkAdapter::kMaxMtuBytes + 14};
  }
  bool link_is_up() const override { return false; }
  absl::Status Attach(NetworkPortClient&, const NetworkPortInfo&) override { return absl::OkStatus(); }
  void ChangeAccepted(const NetworkPortInfo&) override {}
  void Detach() override {}
  size_t Send(uint16_t, absl::Span<const OutgoingFrame> frames) override { return frames.size(); }
  size_t Receive(uint16_t, absl::Span<IncomingFrame>) override { return 0; }
};

}  // namespace

absl::Status NetworkAdapters::Attach(Board& board) {
  if (board.is_deterministic()) return absl::UnimplementedError("a deterministic machine has no network");
  board_ = &board;
  look_timer_ = board.timers().CreateTimer([this] { LookAtLeaving(); });
  for (MachineNetwork& network : std::exchange(first_networks_, {})) {
    RETURN_IF_ERROR(Plug(std::move(network)).status());
  }
  return absl::OkStatus();
}

absl::StatusOr<uint8_t> NetworkAdapters::Plug(MachineNetwork network) {
  if (!network.number.has_value()) {
    ASSIGN_OR_RETURN(network.number, NextNumber("network adapters", next_number_, places_.size(),
                                                [this](uint8_t number) { return !places_[number].is_taken(); }));
  }
  const uint8_t number = *network.number;
  if (number >= places_.size()) {
    return absl::OutOfRangeError(absl::StrCat("network adapter ", number, " is not below ", places_.size()));
  }
  Place& place = places_[number];
  if (place.is_taken()) return absl::AlreadyExistsError(absl::StrCat("there is a network adapter ", number));
  if (network.port == nullptr) network.port = std::make_shared<NoPort>();
  vsp::NetworkOptions options;
  options.instance_id = InstanceOf(number);
  options.mac_address = network.mac_address;
  options.name = network.name;
  options.number = number;
  // One adapter's subchannels begin where another's do not.
  options.executors = board_->io_executors();
  if (!options.executors.empty()) {
    std::rotate(options.executors.begin(), options.executors.begin() + number % options.executors.size(),
                options.executors.end());
  }
  const uint32_t queues = network.queues == 0 ? board_->cpus() : std::min(network.queues, board_->cpus());
  options.max_subchannels = static_cast<uint16_t>(std::min<uint32_t>(queues - 1, vsp::NetworkAdapter::kMaxSubchannels));
  ASSIGN_OR_RETURN(place.adapter,
                   vsp::NetworkAdapter::Create(board_->vmbus(), board_->loop(), std::move(network.port), options));
  place.mac_address = network.mac_address;
  if (is_paused_) place.adapter->Pause([] {});
  next_number_ = static_cast<uint8_t>((number + 1) % places_.size());
  return number;
}

absl::Status NetworkAdapters::Pull(uint8_t number, absl::AnyInvocable<void()> gone) {
  if (number >= places_.size() || !places_[number].is_taken()) {
    return absl::NotFoundError(absl::StrCat("there is no network adapter ", number));
  }
  Place& place = places_[number];
  if (place.is_leaving()) {
    return absl::FailedPreconditionError(absl::StrCat("network adapter ", number, " is being pulled out already"));
  }
  place.gone = std::move(gone);
  if (place.adapter->agreement().channels == 0) {
    Drop(place);
    return absl::OkStatus();
  }
  place.adapter->Unplug();
  const uint64_t now = board_->clock().Now100ns();
  place.leave_by_100ns = now + kLongestLeave100ns;
  look_timer_->Arm(now + kLookInterval100ns);
  return absl::OkStatus();
}

void NetworkAdapters::LookAtLeaving() {
  const uint64_t now = board_->clock().Now100ns();
  bool are_some_left = false;
  for (Place& place : places_) {
    if (!place.is_leaving()) continue;
    if (is_paused_) place.leave_by_100ns += kLookInterval100ns;
    const uint64_t frames = std::exchange(place.frames, place.adapter->counts().transmitted.frames());
    place.quiet_looks = !is_paused_ && place.adapter->is_quiet() && frames == place.frames ? place.quiet_looks + 1 : 0;
    if (place.quiet_looks >= kQuietLooks || now >= place.leave_by_100ns || place.adapter->agreement().channels == 0) {
      Drop(place);
    } else {
      are_some_left = true;
    }
  }
  if (are_some_left) look_timer_->Arm(now + kLookInterval100ns);
}

void NetworkAdapters::Drop(Place& place) {
  absl::AnyInvocable<void()> gone = std::move(place.gone);
  place = Place();
  if (gone) gone();
}

std::vector<MachineNetworkStatus> NetworkAdapters::status() const {
  std::vector<MachineNetworkStatus> all;
  for (size_t number = 0; number < places_.size(); ++number) {
    const Place& place = places_[number];
    if (!place.is_taken()) continue;
    all.push_back({.number = static_cast<uint8_t>(number),
                   .mac_address = place.mac_address,
                   .instance_id = InstanceOf(static_cast<uint8_t>(number)),
                   .agreement = place.adapter->agreement(),
                   .counts = place.adapter->counts()});
  }
  return all;
}

std::vector<state::Component*> NetworkAdapters::components() {
  std::vector<state::Component*> all;
  for (const Place& place : places_) {
    if (place.is_taken()) all.push_back(place.adapter.get());
  }
  return all;
}

void NetworkAdapters::AskAll(void (vsp::NetworkAdapter::*what)(absl::AnyInvocable<void()>),
                             absl::AnyInvocable<void()> all_done) {
  struct Asked {
    size_t busy = 1;
    absl::AnyInvocable<void()> all_done;
    void OnDone() {
      if (--busy == 0) all_done();
    }
  };
  const auto asked = std::make_shared<Asked>();
  asked->all_done = std::move(all_done);
  for (const Place& place : places_) {
    if (!place.is_taken()) continue;
    ++asked->busy;
    (place.adapter.get()->*what)([asked] { asked->OnDone(); });
  }
  asked->OnDone();
}

void NetworkAdapters::Pause(absl::AnyInvocable<void()> done) {
  is_paused_ = true;
  AskAll(&vsp::NetworkAdapter::Pause, std::move(done));
}

void NetworkAdapters::Resume() {
  is_paused_ = false;
  for (const Place& place : places_) {
    if (place.is_taken()) place.adapter->Resume();
  }
}

void NetworkAdapters::Stop(absl::AnyInvocable<void()> done) {
  for (Place& place : places_) {
    if (place.is_leaving()) Drop(place);
  }
  AskAll(&vsp::NetworkAdapter::Stop, std::move(done));
}

void NetworkAdapters::Detach() {
  look_timer_.reset();
  for (Place& place : places_) Drop(place);
}

}  // namespace hvsdk::machine
