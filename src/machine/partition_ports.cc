// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/machine/partition_ports.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "hvsdk/hvdef/message.h"
#include "hvsdk/hvdef/vmbus.h"

namespace hvsdk::machine {

using hvdef::HvStatus;

namespace {

constexpr uint32_t kIdBits = 24;  // HV_PORT_ID, HV_CONNECTION_ID

// An event that came while its receiver was paused.
struct EventState {
  uint32_t vp = 0;
  uint8_t sint = 0;
  uint16_t flag = 0;

  auto operator<=>(const EventState&) const = default;
  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "vp", vp);
    visit(2, "sint", sint);
    visit(3, "flag", flag);
  }
};

struct PortsState {
  static constexpr uint32_t kSchema = 1;

  std::vector<uint32_t> connections;  // ascending
  std::vector<EventState> events;     // ascending

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "connections", connections);
    visit(2, "events", events);
  }
};

template <typename T>
bool IsAscending(const std::vector<T>& values) {
  for (size_t i = 1; i < values.size(); ++i) {
    if (!(values[i - 1] < values[i])) return false;
  }
  return true;
}

absl::Status Check(const PartitionPort& port) {
  if (port.id >> kIdBits != 0) {
    return absl::InvalidArgumentError(absl::StrFormat("port id %#x has more than %d bits", port.id, kIdBits));
  }
  const uint32_t sint = ToInt(port.sint);
  if (sint >= hvdef::kSintCount) return absl::InvalidArgumentError(absl::StrFormat("SINT %d: there are 16", sint));
  if (sint == hvdef::vmbus::kMessageSint) return absl::InvalidArgumentError(absl::StrFormat("SINT %d is VMBus'", sint));
  if (port.type == PartitionPort::Type::kEvent &&
      (port.flag_count == 0 || port.base_flag + port.flag_count > hvdef::kEventFlagsPerSint)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("event flags %d+%d of %d", port.base_flag, port.flag_count, hvdef::kEventFlagsPerSint));
  }
  return absl::OkStatus();
}

}  // namespace

// Delivers with its lock held: what is under way when the machine is paused or ends is done before that goes on.
class PartitionPorts::Receiver {
 public:
  void Attach(partition::Partition& partition, uint32_t vp_count) {
    std::lock_guard lock(mutex_);
    partition_ = &partition;
    vp_count_ = vp_count;
  }
  void Detach() {
    std::lock_guard lock(mutex_);
    partition_ = nullptr;
    life_ = Life::kInactive;
    events_.clear();
  }
  void Pause() {
    std::lock_guard lock(mutex_);
    life_ = Life::kPaused;
  }
  void Stop() {
    std::lock_guard lock(mutex_);
    life_ = Life::kInactive;
  }
  // A machine may have been paused before it runs.
  void Start() {
    std::lock_guard lock(mutex_);
    if (life_ == Life::kInactive) Go();
  }
  void Resume() {
    std::lock_guard lock(mutex_);
    Go();
  }

  // No machine yet may have any number of processors.
  bool has_vp(VpIndex vp) const {
    std::lock_guard lock(mutex_);
    return partition_ == nullptr || ToInt(vp) < vp_count_;
  }

  HvStatus Post(const PartitionPort& port, uint32_t message_type, absl::Span<const uint8_t> payload) {
    std::lock_guard lock(mutex_);
    if (life_ == Life::kInactive) return HvStatus::kInvalidPortId;
    if (life_ == Life::kPaused) return HvStatus::kInsufficientBuffers;
    return partition_->PostMessage(port.vp, port.sint, message_type, payload, port.id);
  }
  HvStatus Signal(const PartitionPort& port, uint16_t flag) {
    std::lock_guard lock(mutex_);
    if (life_ == Life::kInactive) return HvStatus::kInvalidPortId;
    if (life_ == Life::kRunning) return partition_->SignalEvent(port.vp, port.sint, flag);
    if (ToInt(port.vp) >= vp_count_) return HvStatus::kInvalidVpIndex;
    events_.insert({.vp = ToInt(port.vp), .sint = ToInt(port.sint), .flag = flag});
    return HvStatus::kSuccess;
  }

  std::vector<EventState> events() const {
    std::lock_guard lock(mutex_);
    return {events_.begin(), events_.end()};
  }
  absl::Status Check(const std::vector<EventState>& events, const state::StateReader& reader) const {
    std::lock_guard lock(mutex_);
    if (!IsAscending(events)) return reader.Invalid("events", "not ascending");
    for (const EventState& event : events) {
      if (event.vp >= vp_count_) return reader.Invalid("events.vp", "no such VP");
      if (event.sint >= hvdef::kSintCount) return reader.Invalid("events.sint", "more than 15");
      if (event.flag >= hvdef::kEventFlagsPerSint) return reader.Invalid("events.flag", "more than 2047");
    }
    return absl::OkStatus();
  }
  void SetEvents(const std::vector<EventState>& events) {
    std::lock_guard lock(mutex_);
    events_ = {events.begin(), events.end()};
  }

 private:
  enum class Life : uint8_t { kInactive, kRunning, kPaused };

  void Go() {
    life_ = Life::kRunning;
    // Whoever sent them has had an answer.
    for (const EventState& event : events_)
      (void)partition_->SignalEvent(VpIndex{event.vp}, Sint{event.sint}, event.flag);
    events_.clear();
  }

  mutable std::mutex mutex_;  // guards what follows
  Life life_ = Life::kInactive;
  partition::Partition* partition_ = nullptr;
  uint32_t vp_count_ = 0;
  std::set<EventState> events_;  // bounded by the flags of the ports
};

// On the sender's side.
struct PartitionPorts::Connection final : PortHandler {
  Connection(std::shared_ptr<Receiver> to, const PartitionPort& port) : to(std::move(to)), port(port) {}

  HvStatus OnMessage(uint32_t message_type, absl::Span<const uint8_t> payload) override {
    if (port.type != PartitionPort::Type::kMessage) return HvStatus::kInvalidPortId;
    return to->Post(port, message_type, payload);
  }
  HvStatus OnEvent(uint16_t flag) override {
    if (port.type != PartitionPort::Type::kEvent) return HvStatus::kInvalidPortId;
    if (flag >= port.flag_count) return HvStatus::kInvalidParameter;
    return to->Signal(port, static_cast<uint16_t>(port.base_flag + flag));
  }

  const std::shared_ptr<Receiver> to;
  const PartitionPort port;
};

PartitionPorts::PartitionPorts() : receiver_(std::make_shared<Receiver>()) {}
PartitionPorts::~PartitionPorts() = default;

absl::Status PartitionPorts::Connect(ConnectionId connection, PartitionPorts& to, const PartitionPort& port) {
  RETURN_IF_ERROR(Check(port));
  if (ToInt(connection) >> kIdBits != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("connection id %#x has more than %d bits", ToInt(connection), kIdBits));
  }
  if (!to.receiver_->has_vp(port.vp)) {
    return absl::InvalidArgumentError(absl::StrFormat("the receiver has no VP %d", ToInt(port.vp)));
  }
  auto made = std::make_unique<Connection>(to.receiver_, port);
  std::lock_guard lock(mutex_);
  if (connections_.count(connection) != 0) {
    return absl::AlreadyExistsError(absl::StrFormat("connection id %#x is taken", ToInt(connection)));
  }
  if (partition_ != nullptr) RETURN_IF_ERROR(partition_->RegisterPort(connection, made.get()));
  connections_[connection] = std::move(made);
  lost_.erase(connection);
  return absl::OkStatus();
}

void PartitionPorts::Disconnect(ConnectionId connection) {
  std::lock_guard lock(mutex_);
  const auto found = connections_.find(connection);
  if (found == connections_.end()) return;
  if (partition_ != nullptr) partition_->UnregisterPort(connection);
  connections_.erase(found);
}

std::vector<ConnectionId> PartitionPorts::lost() const {
  std::lock_guard lock(mutex_);
  return {lost_.begin(), lost_.end()};
}

absl::Status PartitionPorts::Attach(Board& board) {
  std::lock_guard lock(mutex_);
  for (auto at = connections_.begin(); at != connections_.end(); ++at) {
    const absl::Status status = board.partition().RegisterPort(at->first, at->second.get());
    if (status.ok()) continue;
    while (at != connections_.begin()) board.partition().UnregisterPort((--at)->first);
    return status;
  }
  partition_ = &board.partition();
  receiver_->Attach(board.partition(), board.cpus());
  return absl::OkStatus();
}

void PartitionPorts::Start() { receiver_->Start(); }

void PartitionPorts::Pause(absl::AnyInvocable<void()> done) {
  receiver_->Pause();
  done();
}

void PartitionPorts::Resume() { receiver_->Resume(); }

void PartitionPorts::Stop(absl::AnyInvocable<void()> done) {
  receiver_->Stop();
  done();
}

void PartitionPorts::Detach() {
  receiver_->Detach();
  std::lock_guard lock(mutex_);
  for (const auto& [connection, unused] : connections_) partition_->UnregisterPort(connection);
  partition_ = nullptr;
  lost_.clear();
}

absl::Status PartitionPorts::Save(state::StateWriter& writer) const {
  PortsState state;
  {
    std::lock_guard lock(mutex_);
    std::set<uint32_t> had;
    for (const auto& [connection, unused] : connections_) had.insert(ToInt(connection));
    for (const ConnectionId connection : lost_) had.insert(ToInt(connection));
    state.connections.assign(had.begin(), had.end());
  }
  state.events = receiver_->events();
  writer.Write(state);
  return absl::OkStatus();
}

absl::Status PartitionPorts::Restore(state::StateReader& reader) {
  PortsState state;
  RETURN_IF_ERROR(reader.Read(state));
  if (!IsAscending(state.connections)) return reader.Invalid("connections", "not ascending");
  if (!state.connections.empty() && state.connections.back() >> kIdBits != 0) {
    return reader.Invalid("connections", "more than 24 bits");
  }
  RETURN_IF_ERROR(receiver_->Check(state.events, reader));
  receiver_->SetEvents(state.events);
  std::lock_guard lock(mutex_);
  lost_.clear();
  for (const uint32_t connection : state.connections) {
    if (connections_.count(ConnectionId{connection}) == 0) lost_.insert(ConnectionId{connection});
  }
  return absl::OkStatus();
}

void PartitionPorts::Reset() {
  receiver_->SetEvents({});
  std::lock_guard lock(mutex_);
  lost_.clear();
}

}  // namespace hvsdk::machine
