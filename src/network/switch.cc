// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/network/switch.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bitset>
#include <mutex>
#include <shared_mutex>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "hvsdk/ethernet/flow_hash.h"
#include "hvsdk/ethernet/headers.h"
#include "network/attachment.h"
#include "network/frame.h"
#include "network/frame_queue.h"

namespace hvsdk::network {
namespace {

constexpr uint16_t kVlanMask = 0xFFF;
constexpr uint16_t kReservedVlan = 0xFFF;
constexpr uint16_t kMaxQueues = 64;

// An address in a VLAN.
uint64_t KeyOf(const uint8_t* address, uint16_t vlan) {
  return uint64_t{vlan} << 48 | uint64_t{ethernet::ReadBe16(address)} << 32 | ethernet::ReadBe32(address + 2);
}

bool IsGroup(const uint8_t* address) { return (address[0] & 1) != 0; }

// Those of protocols between neighbours, which no switch forwards (IEEE 802.1Q, table 8-1).
bool IsReservedGroup(const uint8_t* address) {
  return ethernet::ReadBe32(address) == 0x0180C200 && address[4] == 0 && address[5] <= 0x0F;
}

// What a port is to the others, who may still use it while it goes.
struct PortState : std::enable_shared_from_this<PortState> {
  PortState(const SwitchPortOptions& options, const SwitchOptions& of_switch)
      : access_vlan(options.access_vlan), mtu_bytes(options.mtu_bytes) {
    if (options.trunk_vlans.empty()) vlans.set();
    for (const uint16_t vlan : options.trunk_vlans) vlans.set(vlan);
    if (access_vlan != 0) vlans.reset().set(access_vlan);
    for (uint16_t i = 0; i < options.queues; ++i) {
      queues.push_back(
          std::make_unique<FrameQueue>(QueueLimits{.frames = of_switch.queue_frames, .bytes = of_switch.queue_bytes}));
    }
  }

  const uint16_t access_vlan;
  const uint32_t mtu_bytes;
  std::bitset<4096> vlans;
  std::vector<std::unique_ptr<FrameQueue>> queues;
  std::atomic<uint16_t> used_queues{1};
  Attachment attachment;

  // Guarded by the switch: the addresses behind it, the oldest at `next_address` once there are as many as may be.
  std::vector<uint64_t> addresses;
  size_t next_address = 0;
};

}  // namespace

class Switch::Core {
 public:
  // Whom to tell of frames once no lock is held.
  using Told = absl::InlinedVector<std::pair<std::shared_ptr<PortState>, uint16_t>, 8>;

  Core(const Clock& clock, const SwitchOptions& options)
      : options_(options), clock_(clock), hasher_(ethernet::kDefaultFlowKey) {}

  const SwitchOptions& options() const { return options_; }

  absl::Status Add(std::shared_ptr<PortState> port) {
    std::lock_guard lock(mutex_);
    if (ports_.size() >= options_.max_ports) {
      return absl::ResourceExhaustedError(absl::StrCat("the switch has ", options_.max_ports, " ports already"));
    }
    ports_.push_back(std::move(port));
    return absl::OkStatus();
  }

  void Remove(const PortState& port) {
    std::lock_guard lock(mutex_);
    Forget(port);
    ports_.erase(std::find_if(ports_.begin(), ports_.end(), [&](const auto& other) { return other.get() == &port; }));
  }

  void Forward(PortState& from, Frame frame, Told& told);

 private:
  struct Place {
    std::shared_ptr<PortState> port;
    uint64_t last_seen_100ns;
  };

  void Forget(const PortState& port) {
    for (const uint64_t key : port.addresses) {
      const auto place = places_.find(key);
      if (place != places_.end() && place->second.port.get() == &port) places_.erase(place);
    }
  }
  void Learn(PortState& port, uint64_t key, uint64_t now);
  void Deliver(const std::shared_ptr<PortState>& to, uint16_t vlan, const std::shared_ptr<const Frame>& frame,
               uint32_t hash, Told& told);

  const SwitchOptions options_;
  const Clock& clock_;
  const ethernet::FlowHasher hasher_;

  std::shared_mutex mutex_;  // guards what follows
  std::vector<std::shared_ptr<PortState>> ports_;
  absl::flat_hash_map<uint64_t, Place> places_;
};

void Switch::Core::Learn(PortState& port, uint64_t key, uint64_t now) {
  std::lock_guard lock(mutex_);
  const auto [place, is_new] = places_.try_emplace(key, Place{port.shared_from_this(), now});
  if (!is_new && place->second.port.get() == &port) {
    place->second.last_seen_100ns = now;
    return;
  }
  place->second = {port.shared_from_this(), now};
  if (port.addresses.empty() || port.addresses.size() < options_.max_addresses) {
    port.addresses.push_back(key);
    return;
  }
  const uint64_t oldest = std::exchange(port.addresses[port.next_address], key);
  port.next_address = (port.next_address + 1) % port.addresses.size();
  const auto old = places_.find(oldest);
  if (old != places_.end() && old->second.port.get() == &port && oldest != key) places_.erase(old);
}

void Switch::Core::Deliver(const std::shared_ptr<PortState>& to, uint16_t vlan,
                           const std::shared_ptr<const Frame>& frame, uint32_t hash, Told& told) {
  if (!to->vlans[vlan]) return;
  FrameOffload offload = frame->offload;
  offload.has_vlan = to->access_vlan == 0 && vlan != 0;
  offload.vlan_tci =
      offload.has_vlan ? static_cast<uint16_t>((frame->offload.vlan_tci & ~kVlanMask) | vlan) : uint16_t{0};
  const auto queue = static_cast<uint16_t>(hash % to->used_queues.load(std::memory_order_relaxed));
  if (to->queues[queue]->Push(frame, offload) == FrameQueue::Result::kTell) told.emplace_back(to, queue);
}

void Switch::Core::Forward(PortState& from, Frame taken, Told& told) {
  const uint8_t* const destination = taken.data.get();
  const uint8_t* const source = destination + 6;
  uint16_t vlan = taken.offload.has_vlan ? taken.offload.vlan_tci & kVlanMask : 0;
  if (from.access_vlan != 0 && vlan == 0) vlan = from.access_vlan;
  if (vlan == kReservedVlan || !from.vlans[vlan]) return;
  const uint64_t source_key = KeyOf(source, vlan);
  if (IsGroup(source) || KeyOf(source, 0) == 0 || IsReservedGroup(destination)) return;
  if (!taken.offload.has_vlan) taken.offload.vlan_tci = 0;

  const uint64_t now = clock_.Now100ns();
  const uint32_t hash = hasher_.Hash(taken.bytes(), ethernet::ReadHeaders(taken.bytes()), {.tcp = true, .udp = true});
  const auto frame = std::make_shared<const Frame>(std::move(taken));
  bool known = false;
  {
    std::shared_lock lock(mutex_);
    const auto place = places_.find(source_key);
    if (place != places_.end() && place->second.port.get() == &from) {
      known = true;
      std::atomic_ref(place->second.last_seen_100ns).store(now, std::memory_order_relaxed);
    }
  }
  if (!known) Learn(from, source_key, now);

  std::shared_lock lock(mutex_);
  if (!IsGroup(destination)) {
    const auto place = places_.find(KeyOf(destination, vlan));
    if (place != places_.end()) {
      const uint64_t seen = std::atomic_ref(place->second.last_seen_100ns).load(std::memory_order_relaxed);
      if (seen + options_.aging_100ns > now) {
        if (place->second.port.get() != &from) Deliver(place->second.port, vlan, frame, hash, told);
        return;
      }
    }
  }
  for (const auto& port : ports_) {
    if (port.get() != &from) Deliver(port, vlan, frame, hash, told);
  }
}

class Switch::Port final : public NetworkPort {
 public:
  Port(std::shared_ptr<Core> core, std::shared_ptr<PortState> state)
      : core_(std::move(core)), state_(std::move(state)) {}
  ~Port() override {
    core_->Remove(*state_);
    Detach();
  }

  NetworkPortInfo info() const override {
    return {.mtu_bytes = state_->mtu_bytes,
            .max_frame_bytes = ethernet::kMaxFrameBytes,
            .queues = static_cast<uint16_t>(state_->queues.size()),
            .takes_checksum = true,
            .takes_segmentation = true};
  }
  bool link_is_up() const override { return true; }

  absl::Status Attach(NetworkPortClient& client, const NetworkPortInfo& accepts) override {
    RETURN_IF_ERROR(state_->attachment.Attach(client));
    state_->used_queues.store(static_cast<uint16_t>(std::clamp<size_t>(accepts.queues, 1, state_->queues.size())),
                              std::memory_order_relaxed);
    for (const auto& queue : state_->queues) queue->Open(Within(accepts));
    return absl::OkStatus();
  }
  void ChangeAccepted(const NetworkPortInfo& accepts) override {
    for (const auto& queue : state_->queues) queue->ChangeAccepted(Within(accepts));
  }

  void Detach() override {
    for (const auto& queue : state_->queues) queue->Close();
    state_->attachment.Detach();
  }

  size_t Send(uint16_t, absl::Span<const OutgoingFrame> frames) override {
    Core::Told told;
    for (const OutgoingFrame& from : frames) {
      Frame frame = CopyFrame(from, ethernet::kMaxFrameBytes);
      if (frame.data == nullptr) continue;
      if (frame.offload.segmentation == FrameOffload::Segmentation::kNone &&
          frame.size_bytes > state_->mtu_bytes + ethernet::kHeaderBytes) {
        continue;
      }
      core_->Forward(*state_, std::move(frame), told);
    }
    for (const auto& [port, queue] : told) {
      port->attachment.Tell([queue = queue](NetworkPortClient& client) { client.OnFrames(queue); });
    }
    return frames.size();
  }

  size_t Receive(uint16_t queue, absl::Span<IncomingFrame> frames) override {
    return queue < state_->queues.size() ? state_->queues[queue]->Receive(frames) : 0;
  }

 private:
  NetworkPortInfo Within(NetworkPortInfo accepts) const {
    accepts.mtu_bytes = std::min(accepts.mtu_bytes, state_->mtu_bytes);
    return accepts;
  }

  const std::shared_ptr<Core> core_;
  const std::shared_ptr<PortState> state_;
};

Switch::Switch(const Clock& clock, const SwitchOptions& options) : core_(std::make_shared<Core>(clock, options)) {}
Switch::~Switch() = default;

absl::StatusOr<std::unique_ptr<NetworkPort>> Switch::AddPort(const SwitchPortOptions& options) {
  if (options.mtu_bytes < 68 || options.mtu_bytes > ethernet::kMaxFrameBytes - ethernet::kHeaderBytes) {
    return absl::InvalidArgumentError(absl::StrCat("mtu: ", options.mtu_bytes, " is not between 68 and 65535"));
  }
  if (options.queues < 1 || options.queues > kMaxQueues) {
    return absl::InvalidArgumentError(absl::StrCat("queues: ", options.queues, " is not between 1 and ", kMaxQueues));
  }
  const bool access = options.access_vlan != 0;
  if (options.access_vlan >= kReservedVlan || (access && !options.trunk_vlans.empty()) ||
      std::any_of(options.trunk_vlans.begin(), options.trunk_vlans.end(),
                  [](uint16_t vlan) { return vlan >= kReservedVlan; })) {
    return absl::InvalidArgumentError("vlan: not one of 1 to 4094, or both of one VLAN and of several");
  }
  auto state = std::make_shared<PortState>(options, core_->options());
  RETURN_IF_ERROR(core_->Add(state));
  return std::make_unique<Port>(core_, std::move(state));
}

}  // namespace hvsdk::network
