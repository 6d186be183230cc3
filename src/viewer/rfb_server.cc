// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/viewer/rfb_server.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "base/status_macros.h"
#include "hvsdk/input/keyboard_layout.h"
#include "hvsdk/os/host_clock.h"
#include "os/linux/listener.h"
#include "os/linux/local_address.h"
#include "viewer/rfb_guard.h"
#include "viewer/rfb_session.h"

namespace hvsdk::viewer {
namespace {

constexpr uint64_t kUpdatePeriod100ns = 250'000;

class Server final : public RfbServer, private Task {
 public:
  Server(os::EventLoop& loop, Options options, input::KeyboardLayout layout)
      : loop_(loop), options_(std::move(options)), layout_(std::move(layout)) {}
  ~Server() override;

  absl::Status Prepare();
  absl::Status Listen(absl::string_view address) override;
  std::string address() const override { return listener_ == nullptr ? "" : os::TextOf(listener_->address()); }
  absl::StatusOr<int> Connect() override;
  size_t viewers() const override;

 private:
  struct Viewer {
    uint64_t id = 0;
    int fd = -1;
    std::unique_ptr<RfbSession> session;
    std::string output;
    uint32_t watched = 0;
    uint64_t next_update_100ns = 0;  // when one may begin
  };

  // The task: displays have something new.
  void Run() override;
  void OnConnection(int fd);
  // Makes room for one more. False: there is none.
  bool MakeRoom();
  // `guard`: null if it is let in just so.
  absl::Status Add(int fd, RfbGuard* guard);
  void OnReady(uint64_t id, uint32_t events);
  // False: the viewer is to go.
  bool Read(Viewer& viewer);
  bool Write(Viewer& viewer);
  void Advance(Viewer& viewer);
  void Drop(uint64_t id);
  void SetTimer(uint64_t deadline_100ns);

  os::EventLoop& loop_;
  const Options options_;
  const input::KeyboardLayout layout_;
  const os::HostClock clock_;
  std::unique_ptr<RfbGuard> guard_;
  std::unique_ptr<os::LoopTimers> timers_;
  std::unique_ptr<Timer> timer_;
  uint64_t timer_100ns_ = 0;  // when it fires; 0: not
  std::unique_ptr<os::Listener> listener_;
  uint64_t next_id_ = 1;
  std::map<uint64_t, Viewer> viewers_;
};

Server::~Server() {
  while (!viewers_.empty()) Drop(viewers_.begin()->first);
  loop_.Drain(*this);
}

absl::Status Server::Prepare() {
  ASSIGN_OR_RETURN(guard_, RfbGuard::Create(options_.password, options_.tls, clock_));
  ASSIGN_OR_RETURN(timers_, os::LoopTimers::Create(loop_, clock_));
  timer_ = timers_->CreateTimer([this] {
    timer_100ns_ = 0;
    Run();
  });
  return absl::OkStatus();
}

absl::StatusOr<os::LocalAddress> ParseRfbAddress(absl::string_view text, bool is_guarded) {
  absl::StatusOr<os::LocalAddress> address = os::ParseLocalAddress(text, is_guarded);
  if (address.ok() || is_guarded || !os::ParseLocalAddress(text, /*is_guarded=*/true).ok()) return address;
  return absl::InvalidArgumentError(absl::StrCat(
      address.status().message(), "; elsewhere viewers need a password, or certificates of their own (ca-cert.pem)"));
}

absl::Status Server::Listen(absl::string_view text) {
  if (listener_ != nullptr) return absl::FailedPreconditionError("it listens already");
  ASSIGN_OR_RETURN(os::LocalAddress address, ParseRfbAddress(text, guard_->lets_in_friends_alone()));
  ASSIGN_OR_RETURN(listener_, os::Listener::Open(loop_, std::move(address), [this](int fd) { OnConnection(fd); }));
  return absl::OkStatus();
}

absl::StatusOr<int> Server::Connect() {
  if (!MakeRoom()) return absl::ResourceExhaustedError(absl::StrCat("there are ", kMaxRfbViewers, " viewers already"));
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) != 0) {
    return absl::ErrnoToStatus(errno, "socketpair");
  }
  if (const absl::Status added = Add(fds[0], nullptr); !added.ok()) {
    close(fds[1]);
    return added;
  }
  return fds[1];
}

size_t Server::viewers() const {
  size_t count = 0;
  for (const auto& [id, viewer] : viewers_) count += viewer.session->is_admitted();
  return count;
}

void Server::OnConnection(int fd) {
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));  // of Unix sockets nothing
  if (!MakeRoom()) {
    close(fd);
    return;
  }
  (void)Add(fd, guard_.get());
}

bool Server::MakeRoom() {
  if (viewers_.size() < kMaxRfbViewers) return true;
  for (const auto& [id, viewer] : viewers_) {
    if (viewer.session->is_admitted()) continue;
    Drop(id);
    return true;
  }
  return false;
}

absl::Status Server::Add(int fd, RfbGuard* guard) {
  const uint64_t id = next_id_++;
  Viewer& viewer = viewers_[id];
  viewer.id = id;
  viewer.fd = fd;
  viewer.session = std::make_unique<RfbSession>(*options_.display, options_.keys, options_.pointer, layout_, guard,
                                                options_.name, [this] { loop_.Schedule(*this); });
  viewer.watched = EPOLLIN | EPOLLOUT;
  const absl::Status watched = loop_.Watch(fd, viewer.watched, [this, id](uint32_t events) { OnReady(id, events); });
  if (!watched.ok()) {
    close(fd);
    viewers_.erase(id);
  }
  return watched;
}

void Server::Drop(uint64_t id) {
  const auto at = viewers_.find(id);
  loop_.Unwatch(at->second.fd);
  close(at->second.fd);
  viewers_.erase(at);
}

void Server::Run() {
  for (auto at = viewers_.begin(); at != viewers_.end();) {
    Viewer& viewer = at++->second;
    // Where output waits, the socket tells.
    if (viewer.output.empty() && viewer.session->wants_update()) Advance(viewer);
  }
}

void Server::OnReady(uint64_t id, uint32_t events) {
  const auto at = viewers_.find(id);
  if (at == viewers_.end()) return;
  if ((events & EPOLLIN) != 0 && !Read(at->second)) return Drop(id);
  if ((events & (EPOLLERR | EPOLLHUP)) != 0) return Drop(id);
  Advance(at->second);
}

bool Server::Read(Viewer& viewer) {
  uint8_t buffer[4096];
  const ssize_t got = recv(viewer.fd, buffer, sizeof(buffer), 0);
  if (got == 0) return false;
  if (got < 0) return errno == EAGAIN || errno == EINTR;
  return viewer.session->Receive(absl::MakeConstSpan(buffer, static_cast<size_t>(got)));
}

bool Server::Write(Viewer& viewer) {
  while (!viewer.output.empty()) {
    const ssize_t sent = send(viewer.fd, viewer.output.data(), viewer.output.size(), MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN || errno == EINTR;
    viewer.output.erase(0, static_cast<size_t>(sent));
  }
  return true;
}

// As much as there is room for at once; others have their turn before more.
void Server::Advance(Viewer& viewer) {
  const uint64_t now = clock_.Now100ns();
  const bool may_begin = now >= viewer.next_update_100ns;
  const bool was_asked = viewer.session->wants_update();
  if (viewer.output.size() < RfbSession::kMaxOutput) viewer.session->Produce(viewer.output, may_begin);
  if (was_asked && may_begin && !viewer.session->wants_update()) {
    viewer.next_update_100ns = now + kUpdatePeriod100ns;
  }
  if (!Write(viewer) || (viewer.session->is_ending() && viewer.output.empty())) return Drop(viewer.id);
  const bool has_more = !viewer.output.empty() || viewer.session->is_updating();
  if (!has_more && viewer.session->wants_update()) SetTimer(viewer.next_update_100ns);
  const uint32_t wanted = EPOLLIN | (has_more ? EPOLLOUT : 0u);
  if (viewer.watched == wanted) return;
  loop_.Unwatch(viewer.fd);
  viewer.watched = wanted;
  const absl::Status watched =
      loop_.Watch(viewer.fd, wanted, [this, id = viewer.id](uint32_t events) { OnReady(id, events); });
  if (!watched.ok()) Drop(viewer.id);
}

void Server::SetTimer(uint64_t deadline_100ns) {
  if (timer_100ns_ != 0 && timer_100ns_ <= deadline_100ns) return;
  timer_100ns_ = deadline_100ns;
  timer_->Arm(deadline_100ns);
}

}  // namespace

absl::Status CheckRfbAddress(absl::string_view address, bool is_guarded) {
  return ParseRfbAddress(address, is_guarded).status();
}

absl::StatusOr<std::unique_ptr<RfbServer>> RfbServer::Create(os::EventLoop& loop, Options options) {
  ASSIGN_OR_RETURN(input::KeyboardLayout layout, input::KeyboardLayout::Load(options.keyboard_layout));
  auto server = std::make_unique<Server>(loop, std::move(options), std::move(layout));
  RETURN_IF_ERROR(server->Prepare());
  return server;
}

}  // namespace hvsdk::viewer
