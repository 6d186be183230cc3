// SPDX-License-Identifier: Apache-2.0
// ControlServer: the socket on which a running machine is managed. Protobuf messages (proto/hvsdk/vmm/control.proto) over a Unix
// socket that only its owner can open, served on the machine's loop.
//
// A client that is slow, dead or hostile holds nobody up: it has one request at a time, is read only when that is
// answered, and is let go when it does not take its replies or sends what is no request.
//
// Limits: 32 clients, 64 KiB a request, 256 KiB of replies that a client has not taken.
// Thread class: the loop's thread, or while it does not run.
//
//   absl::StatusOr<std::unique_ptr<ControlServer>> server = ControlServer::Listen(loop, "vm.sock", handler);
//   if (!server.ok()) return server.status();

#ifndef HVSDK_VMM_CONTROL_SERVER_H_
#define HVSDK_VMM_CONTROL_SERVER_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "hvsdk/os/event_loop.h"
#include "hvsdk/vmm/control.pb.h"

namespace hvsdk::os {
class Listener;
}  // namespace hvsdk::os

namespace hvsdk::vmm {

inline constexpr uint32_t kMaxControlRequest = 64 << 10;
inline constexpr uint32_t kMaxControlReplies = 256 << 10;
inline constexpr size_t kMaxControlClients = 32;

// Answers requests. `reply` is called once, at once or later, on the loop's thread; also when the client is gone. Before that it
// may be called with `progress` any number of times.
class ControlHandler {
 public:
  class Reply {
   public:
    Reply() = default;
    Reply(absl::AnyInvocable<void(ControlReply)> send, absl::AnyInvocable<bool()> is_wanted)
        : send_(std::move(send)), is_wanted_(std::move(is_wanted)) {}
    void operator()(ControlReply reply) { send_(std::move(reply)); }
    // False: the client is gone, and what takes long need not go on for it.
    bool is_wanted() { return is_wanted_(); }

   private:
    absl::AnyInvocable<void(ControlReply)> send_;
    absl::AnyInvocable<bool()> is_wanted_;
  };
  virtual ~ControlHandler() = default;
  virtual void OnRequest(const ControlRequest& request, Reply reply) = 0;
};

class ControlServer {
 public:
  // Makes the socket. InvalidArgument: the path is too long for a socket. FailedPrecondition: something is there, and
  // it is no socket that a process left behind. Others: the host refuses.
  static absl::StatusOr<std::unique_ptr<ControlServer>> Listen(os::EventLoop& loop, const std::string& path,
                                                               ControlHandler& handler);
  // Removes the socket.
  ~ControlServer();

  // Tells clients that asked for events, and those that ask later: as many of the last events as fit 64 KiB.
  void Tell(const Event& event);

 private:
  struct Client;

  ControlServer(os::EventLoop& loop, ControlHandler& handler);
  void OnConnection(int fd);
  bool DropIdlest();
  void OnReady(uint64_t id, uint32_t events);
  void Read(Client& client);
  void Handle(Client& client);
  void Send(Client& client, const ControlReply& reply);
  void Send(Client& client, const std::string& framed);
  void Flush(Client& client);
  void Watch(Client& client);
  void Drop(uint64_t id);
  // Lets go of a client that is to go; else sees to what it is watched for.
  void Settle(uint64_t id);
  Client* Find(uint64_t id);

  os::EventLoop& loop_;
  std::unique_ptr<os::Listener> listener_;
  ControlHandler& handler_;
  uint64_t next_id_ = 1;
  uint64_t hearings_ = 0;
  std::map<uint64_t, std::unique_ptr<Client>> clients_;
  std::deque<std::string> past_;  // events, framed
  size_t past_bytes_ = 0;
  // Replies that come when the server is gone find it gone.
  std::shared_ptr<ControlServer*> self_ = std::make_shared<ControlServer*>(this);
};

// The client's end, blocking.
class ControlClient {
 public:
  // NotFound, PermissionDenied, Unavailable: nobody listens there.
  static absl::StatusOr<ControlClient> Connect(const std::string& path);
  ControlClient(ControlClient&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  ControlClient& operator=(ControlClient&&) = delete;
  ~ControlClient();

  // Asks, and waits for the answer; an error that the answer has is the status. `on_progress` may be null.
  absl::StatusOr<ControlReply> Ask(const ControlRequest& request,
                                   const std::function<void(const Progress&)>& on_progress = nullptr);
  // Waits for the next message. Unavailable: the machine has ended.
  absl::StatusOr<ControlReply> Receive();

 private:
  explicit ControlClient(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace hvsdk::vmm

#endif  // HVSDK_VMM_CONTROL_SERVER_H_
