// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/control_server.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "os/linux/listener.h"
#include "os/linux/unix_socket.h"
#include "vmm/guest_requests.h"
#include "vmm/text_fields.h"

namespace hvsdk::vmm {
namespace {

constexpr size_t kLengthBytes = 4;
constexpr size_t kMaxPastBytes = 64 << 10;

uint32_t LengthOf(const std::string& bytes) {
  uint32_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) length |= uint32_t{static_cast<uint8_t>(bytes[i])} << (8 * i);
  return length;
}

std::string Framed(const google::protobuf::MessageLite& message) {
  std::string bytes;
  const size_t length = message.ByteSizeLong();
  for (size_t i = 0; i < kLengthBytes; ++i) bytes += static_cast<char>(length >> (8 * i));
  message.AppendToString(&bytes);
  return bytes;
}

// Best effort: as much as fits at once.
void TellFull(int fd) {
  const std::string full = Framed(ReplyOf(
      absl::ResourceExhaustedError(absl::StrCat("all ", kMaxControlClients, " clients that may be are being served"))));
  (void)!send(fd, full.data(), full.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

}  // namespace

struct ControlServer::Client {
  uint64_t id = 0;
  int fd = -1;
  std::string input, output;
  bool busy = false;  // its request is being carried out
  bool handling = false;
  bool events = false;  // it wants them
  bool doomed = false;
  uint32_t watched = 0;
  uint64_t last_heard = 0;  // in the order in which clients sent something
};

absl::StatusOr<std::unique_ptr<ControlServer>> ControlServer::Listen(os::EventLoop& loop, const std::string& path,
                                                                     ControlHandler& handler) {
  // An empty one is no Unix socket to a listener.
  RETURN_IF_ERROR(os::UnixAddressOf(path).status());
  std::unique_ptr<ControlServer> server(new ControlServer(loop, handler));
  ASSIGN_OR_RETURN(server->listener_, os::Listener::Open(loop, {.path = path}, [server = server.get()](int fd) {
                     server->OnConnection(fd);
                   }));
  return server;
}

ControlServer::ControlServer(os::EventLoop& loop, ControlHandler& handler) : loop_(loop), handler_(handler) {}

ControlServer::~ControlServer() {
  *self_ = nullptr;
  while (!clients_.empty()) Drop(clients_.begin()->first);
}

ControlServer::Client* ControlServer::Find(uint64_t id) {
  const auto it = clients_.find(id);
  return it == clients_.end() ? nullptr : it->second.get();
}

void ControlServer::OnConnection(int fd) {
  if (clients_.size() >= kMaxControlClients && !DropIdlest()) {
    TellFull(fd);
    close(fd);
    return;
  }
  auto client = std::make_unique<Client>();
  client->id = next_id_++;
  client->fd = fd;
  client->last_heard = ++hearings_;
  Client& added = *client;
  clients_[added.id] = std::move(client);
  Watch(added);
}

// Whoever asks for nothing gives way to those who may, and may be about to ask.
bool ControlServer::DropIdlest() {
  const Client* idlest = nullptr;
  for (const auto& [id, client] : clients_) {
    if (client->busy || client->events || client->handling) continue;
    if (idlest == nullptr || client->last_heard < idlest->last_heard) idlest = client.get();
  }
  if (idlest == nullptr) return false;
  if (idlest->output.empty()) TellFull(idlest->fd);  // else in the midst of an answer
  Drop(idlest->id);
  return true;
}

// What a client is watched for follows from what it is at: that it sends, that it takes.
void ControlServer::Watch(Client& client) {
  const uint32_t wanted = (client.busy ? 0u : EPOLLIN) | (client.output.empty() ? 0u : EPOLLOUT) | EPOLLRDHUP;
  if (client.watched == wanted) return;
  if (client.watched != 0) loop_.Unwatch(client.fd);
  client.watched = wanted;
  const absl::Status status =
      loop_.Watch(client.fd, wanted, [this, id = client.id](uint32_t events) { OnReady(id, events); });
  if (!status.ok()) Drop(client.id);
}

void ControlServer::Drop(uint64_t id) {
  const auto it = clients_.find(id);
  if (it == clients_.end()) return;
  loop_.Unwatch(it->second->fd);
  close(it->second->fd);
  clients_.erase(it);
}

void ControlServer::OnReady(uint64_t id, uint32_t events) {
  Client* client = Find(id);
  if (client == nullptr) return;
  if ((events & EPOLLOUT) != 0) Flush(*client);
  if ((events & EPOLLIN) != 0 && !client->doomed) Read(*client);
  if ((events & (EPOLLERR | EPOLLHUP)) != 0 || ((events & EPOLLRDHUP) != 0 && (events & EPOLLIN) == 0)) {
    return Drop(id);
  }
  Settle(id);
}

void ControlServer::Read(Client& client) {
  char buffer[4096];
  const ssize_t got = recv(client.fd, buffer, sizeof(buffer), 0);
  if (got < 0) {
    client.doomed = errno != EAGAIN && errno != EINTR;
    return;
  }
  if (got == 0) {
    client.doomed = true;
    return;
  }
  client.last_heard = ++hearings_;
  client.input.append(buffer, got);
  Handle(client);
}

void ControlServer::Handle(Client& client) {
  const uint64_t id = client.id;
  client.handling = true;
  while (!client.busy && !client.doomed && client.input.size() >= kLengthBytes) {
    const uint32_t length = LengthOf(client.input);
    if (length > kMaxControlRequest) {
      client.doomed = true;
      break;
    }
    if (client.input.size() < kLengthBytes + length) break;
    ControlRequest request;
    const bool parsed = request.ParseFromArray(client.input.data() + kLengthBytes, static_cast<int>(length));
    client.input.erase(0, kLengthBytes + length);
    if (!parsed) {
      client.doomed = true;
      break;
    }
    client.busy = true;
    const bool wants_events = request.command() == EVENTS;
    // The client, and through it the server, if both are there still.
    const auto find = [self = std::weak_ptr(self_), id]() -> std::pair<ControlServer*, Client*> {
      const std::shared_ptr<ControlServer*> alive = self.lock();
      if (alive == nullptr || *alive == nullptr) return {};
      return {*alive, (*alive)->Find(id)};
    };
    const auto send = [find, id, wants_events](ControlReply reply) {
      const auto [server, asker] = find();
      if (asker == nullptr) return;
      server->Send(*asker, reply);
      if (reply.has_progress()) return;
      asker->busy = false;
      if (wants_events && reply.code() == 0 && !std::exchange(asker->events, true)) {
        server->Send(*asker, absl::StrJoin(server->past_, ""));
      }
      // Within Handle or not: what it asked meanwhile is next.
      if (!asker->handling) server->Handle(*asker), server->Settle(id);
    };
    const auto is_wanted = [find] {
      const Client* const asker = find().second;
      return asker != nullptr && !asker->doomed;
    };
    handler_.OnRequest(request, ControlHandler::Reply(send, is_wanted));
  }
  client.handling = false;
}

void ControlServer::Settle(uint64_t id) {
  Client* const client = Find(id);
  if (client == nullptr || client->handling) return;  // whoever handles it, settles it
  if (client->doomed) return Drop(id);
  Watch(*client);
}

void ControlServer::Send(Client& client, const ControlReply& reply) { Send(client, Framed(reply)); }

void ControlServer::Send(Client& client, const std::string& framed) {
  client.output += framed;
  Flush(client);
  if (client.output.size() > kMaxControlReplies) client.doomed = true;
}

void ControlServer::Flush(Client& client) {
  while (!client.output.empty()) {
    const ssize_t sent = send(client.fd, client.output.data(), client.output.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) {
      if (errno != EAGAIN) client.doomed = true;
      return;
    }
    client.output.erase(0, sent);
  }
}

void ControlServer::Tell(const Event& event) {
  ControlReply reply;
  *reply.mutable_event() = event;
  const std::string framed = Framed(reply);
  past_.push_back(framed);
  for (past_bytes_ += framed.size(); past_bytes_ > kMaxPastBytes; past_.pop_front())
    past_bytes_ -= past_.front().size();
  std::vector<uint64_t> listeners;
  for (const auto& [id, client] : clients_) {
    if (client->events) listeners.push_back(id);
  }
  for (const uint64_t id : listeners) {
    Send(*Find(id), framed);
    Settle(id);
  }
}

absl::StatusOr<ControlClient> ControlClient::Connect(const std::string& path) {
  ASSIGN_OR_RETURN(const sockaddr_un address, os::UnixAddressOf(path));
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return absl::ErrnoToStatus(errno, "socket");
  ControlClient client(fd);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    if (errno == ECONNREFUSED) return absl::UnavailableError("no machine listens there");
    return absl::ErrnoToStatus(errno, "cannot connect");
  }
  return client;
}

ControlClient::~ControlClient() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<ControlReply> ControlClient::Ask(const ControlRequest& request,
                                                const std::function<void(const Progress&)>& on_progress) {
  RETURN_IF_ERROR(CheckTextFields(request));
  const std::string bytes = Framed(request);
  for (size_t at = 0; at < bytes.size();) {
    const ssize_t sent = send(fd_, bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) break;  // why, there may be an answer to say
    at += sent;
  }
  for (;;) {
    ASSIGN_OR_RETURN(ControlReply reply, Receive());
    if (reply.has_event()) continue;
    if (reply.has_progress()) {
      if (on_progress) on_progress(reply.progress());
      continue;
    }
    if (reply.code() == 0) return reply;
    return absl::Status(static_cast<absl::StatusCode>(reply.code()), reply.error());
  }
}

absl::StatusOr<ControlReply> ControlClient::Receive() {
  const auto read_all = [this](size_t size, std::string& bytes) {
    bytes.resize(size);
    for (size_t at = 0; at < size;) {
      const ssize_t got = recv(fd_, bytes.data() + at, size - at, 0);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return false;
      at += got;
    }
    return true;
  };
  std::string bytes;
  if (!read_all(kLengthBytes, bytes)) return absl::UnavailableError("the machine has ended");
  const uint32_t length = LengthOf(bytes);
  if (length > kMaxControlReplies) return absl::InternalError("what listens there is no machine");
  if (!read_all(length, bytes)) return absl::UnavailableError("the machine has ended");
  ControlReply reply;
  if (!reply.ParseFromString(bytes)) return absl::InternalError("what listens there is no machine");
  return reply;
}

}  // namespace hvsdk::vmm
