// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/web/web_server.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <map>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "hvsdk/os/host_clock.h"
#include "os/linux/listener.h"
#include "os/linux/local_address.h"
#include "web/web_connection.h"

namespace hvsdk::web {
namespace {

using Phase = WebConnection::Phase;

constexpr uint64_t kSecond100ns = 10'000'000;
constexpr size_t kPiece = 16 << 10;  // that is read in one turn

// How long a connection may stay as it is; 0: as long as it likes.
uint64_t PatienceOf(Phase phase) {
  switch (phase) {
    case Phase::kRequest:
    case Phase::kResponding:
      return 10 * kSecond100ns;
    case Phase::kLingering:
      return 2 * kSecond100ns;
    default:
      return 0;
  }
}

absl::StatusOr<std::string> NewToken() {
  std::array<char, 16> bytes;
  if (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    return absl::ErrnoToStatus(errno, "getrandom");
  }
  return absl::BytesToHexString(absl::string_view(bytes.data(), bytes.size()));
}

class Server final : public WebServer, private Task {
 public:
  Server(os::EventLoop& loop, WebHandler& handler, std::string token)
      : loop_(loop), handler_(handler), token_(std::move(token)) {}
  ~Server() override;

  absl::Status Start(os::LocalAddress address);
  std::string url() const override {
    const os::LocalAddress& address = listener_->address();
    return absl::StrCat("http://", address.path.empty() ? os::TextOf(address) : "localhost", "/", token_, "/");
  }
  size_t connections() const override { return clients_.size(); }

 private:
  // A descriptor and what it is watched for.
  struct Watched {
    int fd = -1;
    uint32_t events = 0;
  };
  struct Client {
    Client(const std::string& token, WebHandler& handler, std::function<void()> on_change)
        : connection(token, handler, std::move(on_change)) {}
    uint64_t id = 0;
    Watched socket, stream;
    WebConnection connection;
    bool is_shut = false;  // nothing more is sent
    // The deadline is of this phase, and of what had been sent then.
    Phase phase = Phase::kEnd;
    uint64_t sent_bytes = 0;
    uint64_t deadline_100ns = 0;  // 0: none
  };

  // The task: answers have come.
  void Run() override;
  void OnConnection(int fd);
  bool MakeRoom();
  void OnSocket(uint64_t id, uint32_t events);
  void OnStream(uint64_t id, uint32_t events);
  // Sends what there is, and sees to what is watched and how long. The client may be gone afterwards.
  void Settle(Client& client);
  // False: whoever is there is not there any more.
  bool Send(Client& client);
  bool SendToStream(Client& client);
  bool Watch(Client& client, Watched& watched, uint32_t events, void (Server::*on_ready)(uint64_t, uint32_t));
  void Close(Watched& watched);
  void Drop(uint64_t id);
  void OnTime();

  os::EventLoop& loop_;
  WebHandler& handler_;
  const std::string token_;
  const os::HostClock clock_;
  std::unique_ptr<os::LoopTimers> timers_;
  std::unique_ptr<Timer> timer_;
  uint64_t timer_100ns_ = 0;  // when it fires; 0: not
  std::unique_ptr<os::Listener> listener_;
  uint64_t next_id_ = 1;
  std::map<uint64_t, Client> clients_;
};

Server::~Server() {
  while (!clients_.empty()) Drop(clients_.begin()->first);
  loop_.Drain(*this);
}

absl::Status Server::Start(os::LocalAddress address) {
  ASSIGN_OR_RETURN(timers_, os::LoopTimers::Create(loop_, clock_));
  timer_ = timers_->CreateTimer([this] { OnTime(); });
  ASSIGN_OR_RETURN(listener_, os::Listener::Open(loop_, std::move(address), [this](int fd) { OnConnection(fd); }));
  return absl::OkStatus();
}

void Server::OnConnection(int fd) {
  if (!MakeRoom()) {
    close(fd);
    return;
  }
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));  // of Unix sockets nothing
  const uint64_t id = next_id_++;
  Client& client = clients_.try_emplace(id, token_, handler_, [this] { loop_.Schedule(*this); }).first->second;
  client.id = id;
  client.socket.fd = fd;
  Settle(client);
}

bool Server::MakeRoom() {
  if (clients_.size() < kMaxWebConnections) return true;
  uint64_t idle = 0;
  for (const auto& [id, client] : clients_) {
    if (!client.connection.is_trusted()) return Drop(id), true;
    if (idle == 0 && client.connection.phase() == Phase::kRequest) idle = id;
  }
  if (idle != 0) Drop(idle);
  return idle != 0;
}

void Server::Run() {
  for (auto at = clients_.begin(); at != clients_.end();) Settle((at++)->second);
}

void Server::OnSocket(uint64_t id, uint32_t events) {
  const auto at = clients_.find(id);
  if (at == clients_.end()) return;
  Client& client = at->second;
  if ((events & EPOLLIN) != 0 && client.connection.wants_input()) {
    char buffer[kPiece];
    const ssize_t got = recv(client.socket.fd, buffer, sizeof(buffer), 0);
    if (got > 0) client.connection.Receive({buffer, static_cast<size_t>(got)});
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) client.connection.ReceiveEnd();
  } else if ((events & (EPOLLERR | EPOLLHUP)) != 0) {
    client.connection.ReceiveEnd();
  }
  Settle(client);
}

void Server::OnStream(uint64_t id, uint32_t events) {
  const auto at = clients_.find(id);
  if (at == clients_.end()) return;
  Client& client = at->second;
  if ((events & EPOLLIN) != 0 && client.connection.wants_stream_input()) {
    char buffer[kPiece];
    const ssize_t got = recv(client.stream.fd, buffer, sizeof(buffer), 0);
    if (got > 0) client.connection.ReceiveFromStream({buffer, static_cast<size_t>(got)});
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) client.connection.ReceiveStreamEnd();
  } else if ((events & (EPOLLERR | EPOLLHUP)) != 0) {
    client.connection.ReceiveStreamEnd();
  }
  Settle(client);
}

bool Server::Send(Client& client) {
  for (absl::string_view output; !(output = client.connection.output()).empty();) {
    const ssize_t sent = send(client.socket.fd, output.data(), output.size(), MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN || errno == EINTR;
    client.connection.Sent(static_cast<size_t>(sent));
  }
  return true;
}

bool Server::SendToStream(Client& client) {
  for (absl::string_view output; !(output = client.connection.stream_output()).empty();) {
    const ssize_t sent = send(client.stream.fd, output.data(), output.size(), MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN || errno == EINTR;
    client.connection.StreamSent(static_cast<size_t>(sent));
  }
  return true;
}

void Server::Settle(Client& client) {
  WebConnection& connection = client.connection;
  if (connection.phase() == Phase::kEnd || !Send(client)) return Drop(client.id);
  if (const int fd = connection.TakeStream(); fd >= 0) client.stream.fd = fd;
  if (connection.phase() == Phase::kStream && !SendToStream(client)) connection.ReceiveStreamEnd();
  if (connection.phase() != Phase::kStream) Close(client.stream);
  const bool has_output = !connection.output().empty();
  if (connection.phase() == Phase::kLingering && !has_output && !std::exchange(client.is_shut, true)) {
    shutdown(client.socket.fd, SHUT_WR);
  }

  const uint32_t wanted = (connection.wants_input() ? EPOLLIN : 0u) | (has_output ? EPOLLOUT : 0u);
  if (!Watch(client, client.socket, wanted, &Server::OnSocket)) return Drop(client.id);
  if (client.stream.fd >= 0) {
    const uint32_t of_stream =
        (connection.wants_stream_input() ? EPOLLIN : 0u) | (connection.stream_output().empty() ? 0u : EPOLLOUT);
    if (!Watch(client, client.stream, of_stream, &Server::OnStream)) return Drop(client.id);
  }

  if (connection.phase() == client.phase && connection.sent_bytes() == client.sent_bytes) return;
  client.phase = connection.phase();
  client.sent_bytes = connection.sent_bytes();
  const uint64_t patience = PatienceOf(client.phase);
  client.deadline_100ns = patience == 0 ? 0 : clock_.Now100ns() + patience;
  if (patience != 0 && (timer_100ns_ == 0 || client.deadline_100ns < timer_100ns_)) {
    timer_->Arm(timer_100ns_ = client.deadline_100ns);
  }
}

bool Server::Watch(Client& client, Watched& watched, uint32_t events, void (Server::*on_ready)(uint64_t, uint32_t)) {
  constexpr uint32_t kIsWatched = EPOLLERR;  // which always is
  if (watched.events == (events | kIsWatched)) return true;
  if (watched.events != 0) loop_.Unwatch(watched.fd);
  watched.events = events | kIsWatched;
  const absl::Status status = loop_.Watch(
      watched.fd, events, [this, on_ready, id = client.id](uint32_t ready) { (this->*on_ready)(id, ready); });
  if (!status.ok()) watched.events = 0;
  return status.ok();
}

void Server::Close(Watched& watched) {
  if (watched.events != 0) loop_.Unwatch(watched.fd);
  if (watched.fd >= 0) close(watched.fd);
  watched = {};
}

void Server::Drop(uint64_t id) {
  const auto at = clients_.find(id);
  if (at == clients_.end()) return;
  if (const int fd = at->second.connection.TakeStream(); fd >= 0) close(fd);
  Close(at->second.stream);
  Close(at->second.socket);
  clients_.erase(at);
}

void Server::OnTime() {
  const uint64_t now = clock_.Now100ns();
  timer_100ns_ = 0;
  for (auto at = clients_.begin(); at != clients_.end();) {
    const auto& [id, client] = *at++;
    if (client.deadline_100ns == 0) continue;
    if (client.deadline_100ns <= now) {
      Drop(id);
    } else if (timer_100ns_ == 0 || client.deadline_100ns < timer_100ns_) {
      timer_100ns_ = client.deadline_100ns;
    }
  }
  if (timer_100ns_ != 0) timer_->Arm(timer_100ns_);
}

}  // namespace

absl::Status CheckWebAddress(absl::string_view address) { return os::ParseLocalAddress(address).status(); }

absl::StatusOr<std::unique_ptr<WebServer>> WebServer::Listen(os::EventLoop& loop, absl::string_view address,
                                                             WebHandler& handler) {
  if (!HttpRequestReader::IsThere()) {
    return absl::UnimplementedError("this program was built without Boost.Beast (libboost-dev), which pages need");
  }
  ASSIGN_OR_RETURN(os::LocalAddress parsed, os::ParseLocalAddress(address));
  ASSIGN_OR_RETURN(std::string token, NewToken());
  auto server = std::make_unique<Server>(loop, handler, std::move(token));
  RETURN_IF_ERROR(server->Start(std::move(parsed)));
  return server;
}

}  // namespace hvsdk::web
