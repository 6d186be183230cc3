// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vsp/socket.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <list>
#include <map>
#include <mutex>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/executor_timer.h"
#include "base/guid_text.h"
#include "base/status_macros.h"
#include "vsp/socket_connection.h"

namespace hvsdk::vsp {

using hvdef::Guid;

namespace {

constexpr uint32_t kMostConnections = 1800;
constexpr size_t kMostRequests = 256;  // that wait to be looked at
constexpr size_t kRequestsPerTurn = 32;
// The numbers of the host's ends: beyond those that programs listen on, as Linux has them for its own.
constexpr uint32_t kFirstHostPort = hvdef::socket::kMaxListenPort + 1, kLastHostPort = 0xFFFFFFFE;

struct ConnectionState {
  std::array<uint8_t, 16> service_id{};  // as on the wire
  std::array<uint8_t, 16> endpoint_id{};
  bool is_from_host = false;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "service_id", service_id);
    visit(2, "endpoint_id", endpoint_id);
    visit(3, "is_from_host", is_from_host);
  }
};

struct SocketsState {
  static constexpr uint32_t kSchema = 1;
  uint32_t next_host_port = kFirstHostPort;
  std::vector<ConnectionState> connections;  // that the guest knows of, or soon will
  std::vector<ConnectionState> requests;     // of the guest's, which nobody has looked at

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "next_host_port", next_host_port);
    visit(2, "connections", connections);
    visit(3, "requests", requests);
  }
};

std::array<uint8_t, 16> Bytes(const Guid& guid) {
  std::array<uint8_t, 16> bytes;
  std::memcpy(bytes.data(), &guid, sizeof(guid));
  return bytes;
}
Guid GuidOf(const std::array<uint8_t, 16>& bytes) {
  Guid guid;
  std::memcpy(&guid, bytes.data(), sizeof(guid));
  return guid;
}

}  // namespace

class SocketProvider::Core final : public SocketConnection::Shared {
 public:
  Core(vmbus::Server& server, const SocketResources& resources, const SocketOptions& options)
      : server_(server),
        resources_(resources),
        options_(options),
        late_(resources.timers, resources.clock, resources.executor, [this] { EndLateOnes(); }) {
    server_.SetTlConnectHandler([this](const Guid& endpoint_id, const Guid& service_id, const Guid&) {
      OnRequest({.service_id = service_id, .endpoint_id = endpoint_id});
    });
  }
  ~Core() override {
    server_.SetTlConnectHandler(nullptr);
    Stop();
    resources_.executor.Drain(accept_);
    resources_.executor.Drain(reap_);
    connections_.clear();
  }

  absl::Status Listen(const Guid& service_id, SocketService& service) {
    if (services_.emplace(service_id, &service).second) return absl::OkStatus();
    return absl::AlreadyExistsError(absl::StrCat("somebody listens on ", GuidText(service_id), " already"));
  }
  void Unlisten(const Guid& service_id) { services_.erase(service_id); }
  void ListenToOthers(SocketService* service) { others_ = service; }
  absl::StatusOr<uint32_t> Connect(const Guid& service_id, std::unique_ptr<SocketStream> stream);

  void Pause() {
    is_paused = true;
    late_.Cancel();
  }
  void Resume();
  void Stop() {
    for (const auto& connection : connections_) connection->End(absl::UnavailableError("the machine has ended"));
  }
  SocketCounts counts_now() const {
    SocketCounts now = counts;
    now.connections = static_cast<uint32_t>(connections_.size());
    return now;
  }

  void Save(state::StateWriter& writer);
  absl::Status Restore(state::StateReader& reader);
  void Reset();

 private:
  using Connections = std::list<std::unique_ptr<SocketConnection>>;
  // Work that calls from the guest and from connections leave to a turn of its own.
  struct Work final : Task {
    Work(Core& of, void (Core::*does)()) : core(of), what(does) {}
    void Run() override { (core.*what)(); }
    Core& core;
    void (Core::*const what)();
  };

  void OnRequest(const SocketConnection::Name& request);
  void AcceptSome();
  void Accept(const SocketConnection::Name& request);
  void OnOver() override { resources_.executor.Schedule(reap_); }
  void Reap();
  absl::Status Offer(SocketConnection& connection);
  void EndLateOnes();
  void ArmLate();

  vmbus::Server& server_;
  const SocketResources resources_;
  const SocketOptions options_;
  std::map<Guid, SocketService*> services_;
  SocketService* others_ = nullptr;
  uint32_t next_host_port_ = kFirstHostPort;
  Connections connections_;
  ExecutorTimer late_;
  Work accept_{*this, &Core::AcceptSome};
  Work reap_{*this, &Core::Reap};

  std::mutex mutex_;
  std::deque<SocketConnection::Name> requests_;  // guarded by mutex_
  uint64_t overflows_ = 0;                       // likewise: requests that found no place there
};

// On whichever thread the guest calls.
void SocketProvider::Core::OnRequest(const SocketConnection::Name& request) {
  bool has_place;
  {
    std::lock_guard lock(mutex_);
    has_place = requests_.size() < kMostRequests;
    if (has_place) {
      requests_.push_back(request);
    } else {
      ++overflows_;
    }
  }
  if (!has_place) server_.RefuseTlConnect(request.endpoint_id, request.service_id);
  resources_.executor.Schedule(accept_);
}

void SocketProvider::Core::AcceptSome() {
  for (size_t i = 0; i < kRequestsPerTurn && !is_paused; ++i) {
    SocketConnection::Name request;
    {
      std::lock_guard lock(mutex_);
      counts.refused += std::exchange(overflows_, 0);
      if (requests_.empty()) return;
      request = requests_.front();
      requests_.pop_front();
    }
    Accept(request);
  }
  if (!is_paused) resources_.executor.Schedule(accept_);
}

void SocketProvider::Core::Accept(const SocketConnection::Name& request) {
  const auto found = services_.find(request.service_id);
  SocketService* const service = found == services_.end() ? others_ : found->second;
  if (service != nullptr && connections_.size() < options_.max_connections) {
    absl::StatusOr<std::unique_ptr<SocketStream>> stream = service->Accept(request.service_id);
    if (stream.ok() && *stream != nullptr) {
      auto connection = std::make_unique<SocketConnection>(*this, request, *std::move(stream));
      // An endpoint that has such a connection already gets no second one.
      const absl::Status offered = Offer(*connection);
      if (offered.ok()) {
        connections_.push_back(std::move(connection));
        return;
      }
      connection->End(offered);
    }
  }
  ++counts.refused;
  server_.RefuseTlConnect(request.endpoint_id, request.service_id);
}

absl::StatusOr<uint32_t> SocketProvider::Core::Connect(const Guid& service_id, std::unique_ptr<SocketStream> stream) {
  const absl::optional<hvdef::vmbus::Version> version = server_.version();
  if (!version.has_value()) return absl::UnavailableError("the guest has no VMBus driver, or not yet");
  if (!hvdef::vmbus::HasTlConnect(*version)) return absl::UnavailableError("the guest's VMBus version has no sockets");
  if (connections_.size() >= options_.max_connections) {
    return absl::ResourceExhaustedError(absl::StrCat("there are ", connections_.size(), " connections"));
  }
  // A port that a guest has used as its endpoint's is passed over.
  constexpr int kTries = 16;
  absl::Status status;
  for (int i = 0; i < kTries; ++i) {
    const uint32_t port = next_host_port_;
    next_host_port_ = port == kLastHostPort ? kFirstHostPort : port + 1;
    const SocketConnection::Name name{
        .service_id = service_id, .endpoint_id = hvdef::socket::ServiceOfPort(port), .is_from_host = true};
    const bool is_taken = std::any_of(connections_.begin(), connections_.end(), [&](const auto& other) {
      return other->name().service_id == name.service_id && other->name().endpoint_id == name.endpoint_id;
    });
    if (is_taken) continue;
    auto connection = std::make_unique<SocketConnection>(*this, name, std::move(stream));
    if (!is_paused) RETURN_IF_ERROR(Offer(*connection));
    connections_.push_back(std::move(connection));
    return port;
  }
  return absl::ResourceExhaustedError("the guest has taken all ports at hand for its own");
}

absl::Status SocketProvider::Core::Offer(SocketConnection& connection) {
  RETURN_IF_ERROR(connection.Offer(server_, resources_.executor));
  connection.deadline_100ns =
      resources_.clock.Now100ns() + static_cast<uint64_t>(options_.open_within.count()) * 10'000;
  if (!late_.is_armed()) late_.ArmIn(options_.open_within);
  return absl::OkStatus();
}

void SocketProvider::Core::EndLateOnes() {
  const uint64_t now = resources_.clock.Now100ns();
  for (const auto& connection : connections_) {
    if (!connection->is_offered() || connection->is_open() || connection->is_over()) continue;
    if (connection->deadline_100ns > now) continue;
    ++counts.not_accepted;
    connection->End(absl::DeadlineExceededError("nobody in the guest accepts"));
  }
  ArmLate();
}

void SocketProvider::Core::ArmLate() {
  uint64_t first = ~uint64_t{0};
  for (const auto& connection : connections_) {
    if (connection->is_offered() && !connection->is_open() && !connection->is_over()) {
      first = std::min(first, connection->deadline_100ns);
    }
  }
  if (first == ~uint64_t{0}) return;
  const uint64_t now = resources_.clock.Now100ns();
  late_.ArmIn(std::chrono::milliseconds(first > now ? (first - now) / 10'000 + 1 : 1));
}

void SocketProvider::Core::Reap() {
  connections_.remove_if([](const auto& connection) { return connection->is_over(); });
}

void SocketProvider::Core::Resume() {
  is_paused = false;
  for (const auto& connection : connections_) {
    if (!connection->has_stream()) {
      connection->End(absl::UnavailableError("the machine was restored"));
    } else if (!connection->is_offered()) {
      if (const absl::Status status = Offer(*connection); !status.ok()) connection->End(status);
    } else if (connection->is_open()) {
      connection->LookAgain();
    } else {
      connection->deadline_100ns =
          resources_.clock.Now100ns() + static_cast<uint64_t>(options_.open_within.count()) * 10'000;
    }
  }
  ArmLate();
  resources_.executor.Schedule(accept_);
}

void SocketProvider::Core::Save(state::StateWriter& writer) {
  SocketsState state;
  state.next_host_port = next_host_port_;
  for (const auto& connection : connections_) {
    if (!connection->is_offered()) continue;
    const SocketConnection::Name& name = connection->name();
    state.connections.push_back({Bytes(name.service_id), Bytes(name.endpoint_id), name.is_from_host});
  }
  {
    std::lock_guard lock(mutex_);
    for (const SocketConnection::Name& name : requests_) {
      state.requests.push_back({Bytes(name.service_id), Bytes(name.endpoint_id), name.is_from_host});
    }
  }
  writer.Write(state);
}

absl::Status SocketProvider::Core::Restore(state::StateReader& reader) {
  SocketsState state;
  RETURN_IF_ERROR(reader.Read(state));
  if (state.next_host_port < kFirstHostPort || state.next_host_port > kLastHostPort) {
    return reader.Invalid("next_host_port", "not a port of the host's ends");
  }
  if (state.connections.size() > options_.max_connections) return reader.Invalid("connections", "too many");
  if (state.requests.size() > kMostRequests) return reader.Invalid("requests", "too many");
  std::deque<SocketConnection::Name> requests;
  for (const ConnectionState& saved : state.requests) {
    if (saved.is_from_host) return reader.Invalid("requests", "one of the host's");
    requests.push_back({.service_id = GuidOf(saved.service_id), .endpoint_id = GuidOf(saved.endpoint_id)});
  }
  Connections restored;
  for (const ConnectionState& saved : state.connections) {
    auto connection = std::make_unique<SocketConnection>(
        *this, SocketConnection::Name{GuidOf(saved.service_id), GuidOf(saved.endpoint_id), saved.is_from_host},
        nullptr);
    const absl::Status offered = connection->Offer(server_, resources_.executor);
    if (!offered.ok()) return reader.Invalid("connections", offered.message());
    restored.push_back(std::move(connection));
  }
  next_host_port_ = state.next_host_port;
  connections_ = std::move(restored);
  std::lock_guard lock(mutex_);
  requests_ = std::move(requests);
  return absl::OkStatus();
}

void SocketProvider::Core::Reset() {
  for (const auto& connection : connections_) connection->End(absl::UnavailableError("the guest was reset"));
  connections_.clear();
  next_host_port_ = kFirstHostPort;
  std::lock_guard lock(mutex_);
  requests_.clear();
}

absl::StatusOr<std::unique_ptr<SocketProvider>> SocketProvider::Create(vmbus::Server& server,
                                                                       const SocketResources& resources,
                                                                       const SocketOptions& options) {
  if (options.max_connections == 0 || options.max_connections > kMostConnections) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_connections: ", options.max_connections, " is not between 1 and ", kMostConnections));
  }
  if (options.open_within.count() <= 0) return absl::InvalidArgumentError("open_within: not positive");
  return std::unique_ptr<SocketProvider>(new SocketProvider(std::make_unique<Core>(server, resources, options)));
}

SocketProvider::SocketProvider(std::unique_ptr<Core> core) : core_(std::move(core)) {}
SocketProvider::~SocketProvider() = default;

absl::Status SocketProvider::Listen(const Guid& service_id, SocketService& service) {
  return core_->Listen(service_id, service);
}
void SocketProvider::Unlisten(const Guid& service_id) { core_->Unlisten(service_id); }
void SocketProvider::ListenToOthers(SocketService* service) { core_->ListenToOthers(service); }
absl::StatusOr<uint32_t> SocketProvider::Connect(const Guid& service_id, std::unique_ptr<SocketStream> stream) {
  return core_->Connect(service_id, std::move(stream));
}
void SocketProvider::Pause() { core_->Pause(); }
void SocketProvider::Resume() { core_->Resume(); }
void SocketProvider::Stop() { core_->Stop(); }
SocketCounts SocketProvider::counts() const { return core_->counts_now(); }

absl::Status SocketProvider::Save(state::StateWriter& writer) const {
  core_->Save(writer);
  return absl::OkStatus();
}
absl::Status SocketProvider::Restore(state::StateReader& reader) { return core_->Restore(reader); }
void SocketProvider::Reset() { core_->Reset(); }

}  // namespace hvsdk::vsp
