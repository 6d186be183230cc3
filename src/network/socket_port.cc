// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/network/socket_port.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "hvsdk/ethernet/headers.h"
#include "network/attachment.h"
#include "network/frame.h"
#include "network/wire.h"
#include "os/linux/unix_socket.h"

namespace hvsdk::network {
namespace {

constexpr size_t kLengthBytes = 4;
constexpr size_t kMaxWireBytes = ethernet::kMaxFrameBytes + ethernet::kVlanTagBytes;
// What may wait to be written before the sender is held back.
constexpr size_t kMaxOutBytes = 256 << 10;
constexpr size_t kInBytes = 128 << 10;
// Between attempts to find a peer, which grow from the one to the other.
constexpr long kMinRetryNs = 2'000'000, kMaxRetryNs = 250'000'000;

bool IsLater(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == ENOBUFS || error == EINTR; }

// Says which of the options an error is about.
absl::Status Named(absl::string_view option, const absl::Status& status) {
  return status.ok() ? status : absl::Status(status.code(), absl::StrCat(option, ": ", status.message()));
}

class SocketPort final : public NetworkPort, private Task {
 public:
  SocketPort(os::EventLoop& loop, const SocketPortOptions& options) : loop_(loop), options_(options) {}
  ~SocketPort() override;

  absl::Status Start();

  NetworkPortInfo info() const override {
    return {.mtu_bytes = options_.mtu_bytes,
            .max_frame_bytes = ethernet::kMaxFrameBytes,
            .queues = 1,
            .takes_checksum = true,
            .takes_segmentation = true};
  }
  bool link_is_up() const override { return link_is_up_.load(std::memory_order_acquire); }
  absl::Status Attach(NetworkPortClient& client, const NetworkPortInfo& accepts) override;
  void ChangeAccepted(const NetworkPortInfo&) override {}  // no frame from there has offloads
  void Detach() override;
  size_t Send(uint16_t queue, absl::Span<const OutgoingFrame> frames) override;
  size_t Receive(uint16_t queue, absl::Span<IncomingFrame> frames) override;

 private:
  // Begins with a connected socket. The loop's thread.
  absl::Status Use(int fd);
  // Ends with it, and looks for the next peer. The loop's thread.
  void Lose();
  void Accept();
  void Connect();
  void Retry();
  absl::Status WatchListener();
  // The loop's thread, of the peer's socket.
  void OnEvents(uint32_t events);
  // A client's thread has found that the peer is gone, or a client has to look for frames.
  void Run() override;
  void TellLink();

  // Writes what waits, as far as it goes; under the lock of what is written. False: the peer is gone.
  bool Flush();
  // The next whole frame that has arrived, without its length; under the lock of what is read. Empty: there is none now, or more were
  // passed over than `may_pass` allows.
  absl::Span<const uint8_t> NextFrame(size_t& may_pass);
  // More bytes of a stream. False: there are none now.
  bool Fill();
  void HasFrames() {
    has_frames_.store(true, std::memory_order_release);
    loop_.Schedule(*this);
  }
  void PeerIsGone() {
    gone_.store(true, std::memory_order_release);
    loop_.Schedule(*this);
  }

  os::EventLoop& loop_;
  const SocketPortOptions options_;
  bool is_datagram_ = false;
  Attachment attachment_;
  std::atomic<bool> link_is_up_{false};
  std::atomic<bool> gone_{false};        // a peer's socket has ended
  std::atomic<bool> has_frames_{false};  // a client is new, or was not given all that is there, and looks for frames

  // The loop's thread only.
  os::UnixSocketFile file_;
  int listen_fd_ = -1;
  int timer_fd_ = -1;
  long retry_ns_ = kMinRetryNs;

  // The socket is opened and closed under both locks, in this order.
  std::mutex read_mutex_;  // guards what is read
  std::vector<uint8_t> in_;
  size_t in_begin_ = 0, in_end_ = 0;
  size_t max_bytes_ = 0;      // of a frame that the client takes
  std::mutex write_mutex_;    // guards what is written
  std::vector<uint8_t> out_;  // frames behind their lengths
  size_t out_begin_ = 0;
  bool sender_waits_ = false;
  int fd_ = -1;  // read under either
};

SocketPort::~SocketPort() {
  attachment_.Detach();
  loop_.Drain(*this);
  for (const int fd : {fd_, listen_fd_, timer_fd_}) {
    if (fd < 0) continue;
    loop_.Unwatch(fd);
    close(fd);
  }
}

absl::Status SocketPort::Start() {
  in_.resize(kInBytes);
  timer_fd_ = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  if (timer_fd_ < 0) return absl::ErrnoToStatus(errno, "timerfd_create");
  RETURN_IF_ERROR(loop_.Watch(timer_fd_, EPOLLIN | EPOLLET, [this](uint32_t) { Connect(); }));
  if (options_.descriptor >= 0) {
    int type = 0;
    socklen_t size = sizeof(type);
    // One of packets in sequence is neither: its end cannot be told from an empty packet.
    if (getsockopt(options_.descriptor, SOL_SOCKET, SO_TYPE, &type, &size) != 0 ||
        (type != SOCK_STREAM && type != SOCK_DGRAM)) {
      close(options_.descriptor);
      return absl::InvalidArgumentError("fd: a stream or datagram socket is needed");
    }
    is_datagram_ = type != SOCK_STREAM;
    fcntl(options_.descriptor, F_SETFL, fcntl(options_.descriptor, F_GETFL) | O_NONBLOCK);
    fcntl(options_.descriptor, F_SETFD, FD_CLOEXEC);
    return Use(options_.descriptor);
  }
  RETURN_IF_ERROR(Named("path", os::UnixAddressOf(options_.path).status()));
  is_datagram_ = !options_.datagram_path.empty();
  if (options_.listens) {
    listen_fd_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listen_fd_ < 0) return absl::ErrnoToStatus(errno, "socket");
    RETURN_IF_ERROR(Named("path", file_.Bind(listen_fd_, SOCK_STREAM, options_.path)));
    if (listen(listen_fd_, 1) != 0) return absl::ErrnoToStatus(errno, "listen");
    return WatchListener();
  }
  if (is_datagram_) {
    // It is bound once, and connected to one peer after another.
    const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return absl::ErrnoToStatus(errno, "socket");
    fd_ = fd;
    RETURN_IF_ERROR(Named("local", file_.Bind(fd, SOCK_DGRAM, options_.datagram_path)));
    RETURN_IF_ERROR(loop_.Watch(fd, EPOLLIN | EPOLLOUT | EPOLLET, [this](uint32_t events) { OnEvents(events); }));
  }
  Connect();
  return absl::OkStatus();
}

absl::Status SocketPort::WatchListener() {
  return loop_.Watch(listen_fd_, EPOLLIN, [this](uint32_t) { Accept(); });
}

void SocketPort::Accept() {
  const int fd = accept4(listen_fd_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)) return;
  loop_.Unwatch(listen_fd_);  // the next one waits until this one is gone
  // No descriptors, or no memory: it is there still, and would be told of for ever.
  if (fd < 0) return Retry();
  retry_ns_ = kMinRetryNs;
  if (!Use(fd).ok()) Lose();
}

void SocketPort::Connect() {
  if (link_is_up()) return;
  if (options_.listens) {
    if (!WatchListener().ok()) Retry();
    return;
  }
  const absl::StatusOr<sockaddr_un> address = os::UnixAddressOf(options_.path);
  const auto connect_it = [&](int fd) {
    return connect(fd, reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)) == 0;
  };
  if (is_datagram_) {
    if (!connect_it(fd_)) return Retry();
    link_is_up_.store(true, std::memory_order_release);
    return TellLink();
  }
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return Retry();
  if (!connect_it(fd)) {
    close(fd);
    return Retry();
  }
  if (!Use(fd).ok()) Lose();
}

void SocketPort::Retry() {
  const itimerspec spec{.it_interval = {}, .it_value = {.tv_sec = 0, .tv_nsec = retry_ns_}};
  HVSDK_CHECK(timerfd_settime(timer_fd_, 0, &spec, nullptr) == 0);
  retry_ns_ = std::min(2 * retry_ns_, kMaxRetryNs);
}

absl::Status SocketPort::Use(int fd) {
  {
    std::scoped_lock lock(read_mutex_, write_mutex_);
    fd_ = fd;
    in_begin_ = in_end_ = 0;
    out_.clear();
    out_begin_ = 0;
    gone_.store(false, std::memory_order_relaxed);
  }
  link_is_up_.store(true, std::memory_order_release);
  RETURN_IF_ERROR(
      loop_.Watch(fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, [this](uint32_t events) { OnEvents(events); }));
  TellLink();
  return absl::OkStatus();
}

void SocketPort::Lose() {
  if (!link_is_up_.exchange(false, std::memory_order_acq_rel)) return;
  bool had_waiter;
  {
    std::scoped_lock lock(read_mutex_, write_mutex_);
    in_begin_ = in_end_ = 0;
    out_.clear();
    out_begin_ = 0;
    had_waiter = std::exchange(sender_waits_, false);
    if (!(is_datagram_ && options_.descriptor < 0)) {
      loop_.Unwatch(fd_);
      close(std::exchange(fd_, -1));
    }
  }
  TellLink();
  retry_ns_ = kMinRetryNs;
  // Its frames go nowhere now, but they go.
  if (had_waiter) attachment_.Tell([](NetworkPortClient& client) { client.OnRoom(0); });
  if (options_.descriptor >= 0) return;
  if (!options_.listens) return Retry();
  if (!WatchListener().ok()) Retry();
}

void SocketPort::TellLink() {
  attachment_.Tell([](NetworkPortClient& client) { client.OnLink(); });
}

void SocketPort::OnEvents(uint32_t events) {
  bool has_room = false;
  if ((events & EPOLLOUT) != 0) {
    std::lock_guard lock(write_mutex_);
    if (!Flush()) PeerIsGone();
    if (out_.size() - out_begin_ < kMaxOutBytes / 2) has_room = std::exchange(sender_waits_, false);
  }
  if (has_room) attachment_.Tell([](NetworkPortClient& client) { client.OnRoom(0); });
  if ((events & EPOLLIN) != 0) attachment_.Tell([](NetworkPortClient& client) { client.OnFrames(0); });
  // What has arrived before the end may be read still, if there is a client to do it.
  if ((events & (EPOLLHUP | EPOLLERR)) != 0 || ((events & EPOLLRDHUP) != 0 && !attachment_.has_client())) Lose();
}

void SocketPort::Run() {
  if (gone_.exchange(false, std::memory_order_acq_rel)) Lose();
  if (has_frames_.exchange(false, std::memory_order_acq_rel)) {
    attachment_.Tell([](NetworkPortClient& client) { client.OnFrames(0); });
  }
}

absl::Status SocketPort::Attach(NetworkPortClient& client, const NetworkPortInfo& accepts) {
  {
    std::lock_guard lock(read_mutex_);
    max_bytes_ = std::min(accepts.mtu_bytes, options_.mtu_bytes) + ethernet::kHeaderBytes;
  }
  RETURN_IF_ERROR(attachment_.Attach(client));
  HasFrames();
  return absl::OkStatus();
}

void SocketPort::Detach() {
  attachment_.Detach();
  std::lock_guard lock(write_mutex_);
  sender_waits_ = false;
}

size_t SocketPort::Send(uint16_t, absl::Span<const OutgoingFrame> frames) {
  std::lock_guard lock(write_mutex_);
  size_t taken = 0;
  for (; taken < frames.size(); ++taken) {
    if (out_.size() - out_begin_ >= kMaxOutBytes && !Flush()) PeerIsGone();
    if (out_.size() - out_begin_ >= kMaxOutBytes) {
      sender_waits_ = true;
      break;
    }
    if (!link_is_up()) continue;
    Frame frame = CopyFrame(frames[taken], ethernet::kMaxFrameBytes);
    if (frame.data != nullptr) AppendToWire(std::move(frame), options_.mtu_bytes + ethernet::kHeaderBytes, out_);
  }
  if (!Flush()) PeerIsGone();
  return taken;
}

bool SocketPort::Flush() {
  while (out_begin_ < out_.size()) {
    if (fd_ < 0) break;
    const uint8_t* const at = out_.data() + out_begin_;
    ssize_t size;
    if (is_datagram_) {
      const uint32_t length = ethernet::ReadBe32(at);
      size = send(fd_, at + kLengthBytes, length, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (size < 0 && errno == EMSGSIZE) size = 0;  // longer than this socket carries
      if (size >= 0) size = static_cast<ssize_t>(kLengthBytes + length);
    } else {
      size = send(fd_, at, out_.size() - out_begin_, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    if (size < 0) {
      if (errno == EINTR) continue;
      const bool is_later = IsLater(errno);
      // A stream that goes on for ever never writes all of it.
      if (!is_later || out_begin_ >= kMaxOutBytes) {
        out_.erase(out_.begin(), is_later ? out_.begin() + static_cast<ptrdiff_t>(out_begin_) : out_.end());
        out_begin_ = 0;
      }
      return is_later;
    }
    out_begin_ += static_cast<size_t>(size);
  }
  out_.clear();
  out_begin_ = 0;
  return true;
}

bool SocketPort::Fill() {
  if (fd_ < 0) return false;
  if (in_begin_ != 0) {
    std::memmove(in_.data(), in_.data() + in_begin_, in_end_ - in_begin_);
    in_end_ -= in_begin_;
    in_begin_ = 0;
  }
  const ssize_t size = recv(fd_, in_.data() + in_end_, in_.size() - in_end_, MSG_DONTWAIT);
  if (size > 0) {
    in_end_ += static_cast<size_t>(size);
    return true;
  }
  if (size == 0 || !IsLater(errno)) PeerIsGone();
  return size < 0 && errno == EINTR;
}

absl::Span<const uint8_t> SocketPort::NextFrame(size_t& may_pass) {
  if (is_datagram_) {
    while (may_pass > 0) {
      if (fd_ < 0) return {};
      const ssize_t size = recv(fd_, in_.data(), in_.size(), MSG_DONTWAIT | MSG_TRUNC);
      if (size < 0 && errno == EINTR) continue;
      if (size < 0) {
        if (!IsLater(errno)) PeerIsGone();
        return {};
      }
      const auto length = static_cast<size_t>(size);
      if (length >= ethernet::kHeaderBytes && length <= kMaxWireBytes) return absl::MakeConstSpan(in_.data(), length);
      --may_pass;
    }
    return {};
  }
  while (may_pass > 0) {
    const size_t has = in_end_ - in_begin_;
    if (has >= kLengthBytes) {
      const uint32_t length = ethernet::ReadBe32(in_.data() + in_begin_);
      if (length > kMaxWireBytes) {  // what else it says cannot be told from frames any more
        in_begin_ = in_end_;
        PeerIsGone();
        return {};
      }
      if (has >= kLengthBytes + length) {
        const uint8_t* const frame = in_.data() + in_begin_ + kLengthBytes;
        in_begin_ += kLengthBytes + length;
        if (length >= ethernet::kHeaderBytes) return absl::MakeConstSpan(frame, length);
        --may_pass;
        continue;
      }
    }
    if (!Fill()) return {};
  }
  return {};
}

size_t SocketPort::Receive(uint16_t queue, absl::Span<IncomingFrame> frames) {
  if (queue != 0) return 0;
  std::lock_guard lock(read_mutex_);
  size_t count = 0;
  size_t may_pass = kMaxPassed;
  while (count < frames.size() && may_pass > 0) {
    const absl::Span<const uint8_t> frame = NextFrame(may_pass);
    if (frame.empty()) break;
    CopyFromWire(frame, max_bytes_, {}, frames[count]) ? ++count : --may_pass;
  }
  if (may_pass == 0) HasFrames();
  return count;
}

}  // namespace

absl::StatusOr<std::unique_ptr<NetworkPort>> CreateSocketPort(os::EventLoop& loop, const SocketPortOptions& options) {
  if (options.mtu_bytes < 68 || options.mtu_bytes > ethernet::kMaxFrameBytes - ethernet::kHeaderBytes) {
    return absl::InvalidArgumentError(absl::StrCat("mtu: ", options.mtu_bytes, " is not between 68 and 65535"));
  }
  if (options.descriptor >= 0 && (!options.path.empty() || !options.datagram_path.empty())) {
    return absl::InvalidArgumentError("fd: and a path, of which there is one");
  }
  if (options.listens && !options.datagram_path.empty()) {
    return absl::InvalidArgumentError("listen: datagrams have a peer's path and one of their own");
  }
  auto port = std::make_unique<SocketPort>(loop, options);
  RETURN_IF_ERROR(port->Start());
  return port;
}

}  // namespace hvsdk::network
