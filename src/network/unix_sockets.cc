// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/network/unix_sockets.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "base/guid_text.h"
#include "base/status_macros.h"
#include "hvsdk/hvdef/socket.h"
#include "os/linux/unix_socket.h"

namespace hvsdk::network {
namespace {

using hvdef::Guid;
using State = SocketTransfer::State;

constexpr uint32_t kEdges = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
// What cannot be done now, for want of a backlog or of descriptors, is tried again so often, and a connection for so long.
constexpr long kRetryNs = 20'000'000;
constexpr int kMostTries = 250;
constexpr size_t kMostLineBytes = sizeof("CONNECT 00000000-facb-11e6-bd58-64006a7986d3\r\n") - 1;

bool IsLater(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

class UnixStream;

// What streams need of whoever made them; they may outlive it.
class Common {
 public:
  explicit Common(os::EventLoop& to) : loop(to) {}
  ~Common() {
    if (timer_fd_ < 0) return;
    loop.Unwatch(timer_fd_);
    close(timer_fd_);
  }
  absl::Status Start();
  // A look at what is to be tried again comes soon.
  void TryAgainSoon() {
    const itimerspec spec{.it_interval = {}, .it_value = {.tv_sec = 0, .tv_nsec = kRetryNs}};
    timerfd_settime(timer_fd_, 0, &spec, nullptr);
  }

  os::EventLoop& loop;
  std::set<UnixStream*> connecting;
  absl::AnyInvocable<void()> on_retry;

 private:
  int timer_fd_ = -1;
};

// A request line, once it is whole.
struct Line {
  size_t size_bytes = 0;
  absl::optional<Guid> service_id;  // nothing: it is none
  bool names_guid = false;
};

// Nothing: more has to come.
absl::optional<Line> ParseLine(absl::string_view text) {
  constexpr absl::string_view kWord = "CONNECT ";
  Line line;
  const size_t end = text.find('\n');
  if (end == text.npos) {
    if (text.size() < kMostLineBytes) return absl::nullopt;
    return line;
  }
  line.size_bytes = end + 1;
  text = text.substr(0, end);
  if (!text.empty() && text.back() == '\r') text.remove_suffix(1);
  if (text.size() <= kWord.size() || !absl::EqualsIgnoreCase(text.substr(0, kWord.size()), kWord)) return line;
  text.remove_prefix(kWord.size());
  uint32_t port;
  Guid service;
  if (hvdef::ParseGuid(text.data(), text.size(), service)) {
    line.names_guid = true;
    line.service_id = service;
  } else if (text.find_first_not_of("0123456789") == text.npos && absl::SimpleAtoi(text, &port)) {
    line.service_id = hvdef::socket::ServiceOfPort(port);
  }
  return line;
}

class UnixStream final : public SocketStream {
 public:
  // Owns the socket, which is connected unless `address` says whereto it is still to be.
  UnixStream(std::shared_ptr<Common> common, int fd, absl::optional<sockaddr_un> address = absl::nullopt)
      : common_(std::move(common)), fd_(fd), address_(address) {
    if (!address_.has_value()) return;
    common_->connecting.insert(this);
    common_->TryAgainSoon();
  }
  ~UnixStream() override {
    common_->connecting.erase(this);
    if (waker_ != nullptr) common_->loop.Unwatch(fd_);
    close(fd_);
  }

  // What its program reads first.
  void SetGreeting(std::string greeting) { greeting_ = std::move(greeting); }
  // False: it waits still. Programs whose backlogs are full are not asked for each stream anew: `full` has their paths.
  bool TryToConnect(std::set<absl::string_view>& full) {
    const absl::string_view path = address_->sun_path;
    const bool is_full = full.count(path) != 0;
    if (is_full || connect(fd_, reinterpret_cast<const sockaddr*>(&*address_), sizeof(*address_)) != 0) {
      if ((is_full || IsLater(errno)) && ++tries_ < kMostTries) {
        full.insert(path);
        return false;
      }
      is_broken_ = true;
    }
    address_.reset();
    if (!is_broken_) (void)Greet();  // it may have ended meanwhile
    if (waker_ != nullptr) waker_->Wake();
    return true;
  }

  // SocketStream.
  void OnOpen(SocketWaker& waker) override {
    waker_ = &waker;
    is_broken_ |= !common_->loop.Watch(fd_, kEdges, [this](uint32_t) { waker_->Wake(); }).ok();
  }
  SocketTransfer Read(absl::Span<uint8_t> to) override {
    if (is_broken_) return {.state = State::kBroken};
    if (address_.has_value() || !Greet()) return {.state = is_broken_ ? State::kBroken : State::kOpen};
    ssize_t size;
    do {
      size = recv(fd_, to.data(), to.size(), MSG_DONTWAIT);
    } while (size < 0 && errno == EINTR);
    if (size > 0) return {.bytes = static_cast<size_t>(size)};
    if (size == 0) return {.state = State::kEnded};
    return {.state = IsLater(errno) ? State::kOpen : State::kBroken};
  }
  SocketTransfer Write(absl::Span<const uint8_t> from) override {
    if (is_broken_) return {.state = State::kBroken};
    if (address_.has_value() || !Greet()) return {.state = is_broken_ ? State::kBroken : State::kOpen};
    size_t bytes = 0;
    while (bytes < from.size()) {
      const ssize_t size = send(fd_, from.data() + bytes, from.size() - bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (size < 0 && errno == EINTR) continue;
      if (size < 0 && IsLater(errno)) return {.bytes = bytes};
      // A program that has answered and left does not read this any more, but its answer is still to be read.
      if (size < 0 && HasUnread()) return {.bytes = from.size()};
      if (size < 0) return {.bytes = bytes, .state = State::kBroken};
      bytes += static_cast<size_t>(size);
    }
    return {.bytes = bytes};
  }
  void OnGuestEnded() override {
    has_ended_ = true;
    if (!address_.has_value()) (void)Greet();
  }
  void OnClosed(const absl::Status&) override {}

 private:
  // Of a socket that is connected: what stands before the guest's bytes, and behind them, if nothing is left. False: it waits. A new
  // socket has room for a line, so this hardly ever is.
  bool Greet() {
    while (!greeting_.empty()) {
      const ssize_t size = send(fd_, greeting_.data(), greeting_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (size < 0 && errno == EINTR) continue;
      if (size < 0) {
        is_broken_ |= !IsLater(errno);
        return false;
      }
      greeting_.erase(0, static_cast<size_t>(size));
    }
    if (std::exchange(has_ended_, false)) shutdown(fd_, SHUT_WR);
    return true;
  }

  bool HasUnread() const {
    char first;
    return recv(fd_, &first, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
  }

  const std::shared_ptr<Common> common_;
  const int fd_;
  absl::optional<sockaddr_un> address_;
  int tries_ = 0;
  bool is_broken_ = false;
  std::string greeting_;
  bool has_ended_ = false;  // the guest has, and its program is to be told
  SocketWaker* waker_ = nullptr;
};

absl::Status Common::Start() {
  timer_fd_ = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  if (timer_fd_ < 0) return absl::ErrnoToStatus(errno, "timerfd_create");
  return loop.Watch(timer_fd_, EPOLLIN | EPOLLET, [this](uint32_t) {
    std::set<absl::string_view> full;
    for (auto each = connecting.begin(); each != connecting.end();) {
      each = (*each)->TryToConnect(full) ? connecting.erase(each) : std::next(each);
    }
    if (!connecting.empty()) TryAgainSoon();
    if (on_retry) on_retry();
  });
}

class UnixSocketsOfHub final : public UnixSockets, private SocketService {
 public:
  UnixSocketsOfHub(os::EventLoop& loop, SocketHub& hub, const UnixSocketsOptions& options)
      : common_(std::make_shared<Common>(loop)), hub_(hub), options_(options), path_(options.path) {}
  ~UnixSocketsOfHub() override {
    if (is_registered_) hub_.ListenToOthers(nullptr);
    common_->on_retry = nullptr;
    StopListening();
    if (listen_fd_ >= 0) close(listen_fd_);
    while (!waiting_.empty()) Drop(*waiting_.begin());
  }

  absl::Status Start();
  const std::string& path() const override { return path_; }

 private:
  // SocketService.
  absl::StatusOr<std::unique_ptr<SocketStream>> Accept(const Guid& service_id) override;

  absl::Status Listen();
  void StopListening() {
    if (std::exchange(is_listening_, false)) common_->loop.Unwatch(listen_fd_);
  }
  void TakePrograms();
  // A program may have written its line.
  void OnLine(int fd, bool has_ended);
  void Drop(int fd) {
    Forget(fd);
    close(fd);
  }
  void Forget(int fd) {
    common_->loop.Unwatch(fd);
    waiting_.erase(fd);
    if (!is_listening_ && listen_fd_ >= 0) common_->TryAgainSoon();
  }

  const std::shared_ptr<Common> common_;
  SocketHub& hub_;
  const UnixSocketsOptions options_;
  std::string path_;
  os::UnixSocketFile file_;
  int listen_fd_ = -1;
  bool is_listening_ = false;
  bool is_registered_ = false;  // with the hub
  std::set<int> waiting_;       // whose line has not come
};

absl::Status UnixSocketsOfHub::Start() {
  struct stat there;
  if (stat(path_.c_str(), &there) == 0 && S_ISDIR(there.st_mode)) path_ += path_.back() == '/' ? "vsock" : "/vsock";
  RETURN_IF_ERROR(os::UnixAddressOf(path_.empty() ? path_ : absl::StrCat(path_, "_4294967295")).status());
  RETURN_IF_ERROR(common_->Start());
  listen_fd_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (listen_fd_ < 0) return absl::ErrnoToStatus(errno, "socket");
  RETURN_IF_ERROR(file_.Bind(listen_fd_, SOCK_STREAM, path_));
  if (listen(listen_fd_, SOMAXCONN) != 0) return absl::ErrnoToStatus(errno, "listen");
  common_->on_retry = [this] {
    if (!is_listening_ && waiting_.size() < options_.max_waiting && !Listen().ok()) common_->TryAgainSoon();
  };
  RETURN_IF_ERROR(Listen());
  hub_.ListenToOthers(this);
  is_registered_ = true;
  return absl::OkStatus();
}

absl::Status UnixSocketsOfHub::Listen() {
  RETURN_IF_ERROR(common_->loop.Watch(listen_fd_, EPOLLIN, [this](uint32_t) { TakePrograms(); }));
  is_listening_ = true;
  return absl::OkStatus();
}

void UnixSocketsOfHub::TakePrograms() {
  // A bounded number, because others want the loop, too; level-triggered events tell of the rest.
  for (int i = 0; i < 16; ++i) {
    if (waiting_.size() >= options_.max_waiting) return StopListening();
    const int fd = accept4(listen_fd_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
      if (IsLater(errno) || errno == ECONNABORTED) return;
      // No descriptors, or no memory: it is there still, and would be told of for ever.
      StopListening();
      return common_->TryAgainSoon();
    }
    waiting_.insert(fd);
    // Of edges there is one for what has come before.
    const auto on_events = [this, fd](uint32_t events) { OnLine(fd, (events & (EPOLLRDHUP | EPOLLHUP)) != 0); };
    if (!common_->loop.Watch(fd, EPOLLIN | EPOLLRDHUP | EPOLLET, on_events).ok()) Drop(fd);
  }
}

void UnixSocketsOfHub::OnLine(int fd, bool has_ended) {
  char text[kMostLineBytes];
  ssize_t size = recv(fd, text, sizeof(text), MSG_DONTWAIT | MSG_PEEK);
  if (size < 0 && IsLater(errno)) return;
  if (size <= 0) return Drop(fd);
  const absl::optional<Line> line = ParseLine({text, static_cast<size_t>(size)});
  if (!line.has_value()) {
    if (has_ended) Drop(fd);  // it will never be whole
    return;
  }
  if (!line->service_id.has_value()) return Drop(fd);
  // What follows the line is the guest's.
  if (recv(fd, text, line->size_bytes, MSG_DONTWAIT) != static_cast<ssize_t>(line->size_bytes)) return Drop(fd);
  Forget(fd);
  auto stream = std::make_unique<UnixStream>(common_, fd);
  UnixStream& kept = *stream;
  const absl::StatusOr<uint32_t> port = hub_.Connect(*line->service_id, std::move(stream));
  if (!port.ok()) return;
  kept.SetGreeting(line->names_guid ? absl::StrCat("OK ", GuidText(hvdef::socket::ServiceOfPort(*port)), "\n")
                                    : absl::StrCat("OK ", *port, "\n"));
}

absl::StatusOr<std::unique_ptr<SocketStream>> UnixSocketsOfHub::Accept(const Guid& service_id) {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return absl::ErrnoToStatus(errno, "socket");
  std::vector<std::string> names = {GuidText(service_id)};
  uint32_t port;
  if (hvdef::socket::PortOfService(service_id, port)) names.insert(names.begin(), absl::StrCat(port));
  absl::Status status;
  for (const std::string& name : names) {
    const absl::StatusOr<sockaddr_un> address = os::UnixAddressOf(absl::StrCat(path_, "_", name));
    if (!address.ok()) {
      status = address.status();
      continue;
    }
    if (connect(fd, reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)) == 0) {
      return std::make_unique<UnixStream>(common_, fd);
    }
    if (IsLater(errno)) return std::make_unique<UnixStream>(common_, fd, *address);
    status = absl::ErrnoToStatus(errno, "connect");
  }
  close(fd);
  return status;
}

}  // namespace

absl::StatusOr<std::unique_ptr<UnixSockets>> UnixSockets::Create(os::EventLoop& loop, SocketHub& hub,
                                                                 const UnixSocketsOptions& options) {
  auto sockets = std::make_unique<UnixSocketsOfHub>(loop, hub, options);
  RETURN_IF_ERROR(sockets->Start());
  return sockets;
}

}  // namespace hvsdk::network
