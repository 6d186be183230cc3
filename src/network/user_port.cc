// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/network/user_port.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <limits>
#include <map>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "hvsdk/ethernet/headers.h"
#include "hvsdk/ethernet/segmentation.h"
#include "network/attachment.h"
#include "network/frame.h"
#include "network/frame_queue.h"
#include "network/slirp_library.h"

namespace hvsdk::network {
namespace {

constexpr uint32_t kNetwork = 0x0A000200;  // 10.0.2.0/24
constexpr uint32_t kMask = 0xFFFFFF00;
constexpr uint32_t kRouter = kNetwork | 2, kDns = kNetwork | 3, kGuest = kNetwork | 15;

// From the guest: what may wait for the loop, and how much it takes in one turn.
constexpr QueueLimits kFromGuest = {.frames = 256, .bytes = size_t{2} << 20};
constexpr size_t kFramesPerTurn = 64;
// To the guest: a connection has at most 64 KiB on its way, so some sixty of them lose nothing.
constexpr QueueLimits kToGuest = {.frames = 4096, .bytes = size_t{4} << 20};
// Sockets are not read while more than half of that waits.
constexpr size_t kFullEnough = 128, kEmptyEnough = 64;
constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

int64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

in_addr ToInAddr(uint32_t address) { return {htonl(address)}; }

in6_addr ToIn6Addr(const char* text) {
  in6_addr address{};
  HVSDK_CHECK(inet_pton(AF_INET6, text, &address) == 1);
  return address;
}

// Addresses that no packet on a wire is for (RFC 1122, 3.2.1.3; RFC 4291, 2.5), and that a host's socket takes for the host
// itself: the loopback, "this host", and IPv4's in IPv6's clothes.
bool IsForHostItself(absl::Span<const uint8_t> frame) {
  const uint16_t type = ethernet::ReadBe16(&frame[ethernet::kTagOffset]);
  if (type == ethernet::kIp4 && frame.size() >= 34) return frame[30] == 127 || frame[30] == 0;
  if (type == ethernet::kIp6 && frame.size() >= 54) {
    return std::all_of(frame.begin() + 38, frame.begin() + 48, [](uint8_t byte) { return byte == 0; });
  }
  return false;
}

uint32_t EpollOf(int events) {
  return ((events & SLIRP_POLL_IN) != 0 ? EPOLLIN : 0u) | ((events & SLIRP_POLL_OUT) != 0 ? EPOLLOUT : 0u) |
         ((events & SLIRP_POLL_PRI) != 0 ? EPOLLPRI : 0u);
}

int SlirpOf(uint32_t events) {
  return ((events & EPOLLIN) != 0 ? SLIRP_POLL_IN : 0) | ((events & EPOLLOUT) != 0 ? SLIRP_POLL_OUT : 0) |
         ((events & EPOLLPRI) != 0 ? SLIRP_POLL_PRI : 0) | ((events & EPOLLERR) != 0 ? SLIRP_POLL_ERR : 0) |
         ((events & EPOLLHUP) != 0 ? SLIRP_POLL_HUP : 0);
}

class UserPort final : public NetworkPort, private Task {
 public:
  UserPort(os::EventLoop& loop, const SlirpLibrary& library, uint32_t mtu_bytes)
      : loop_(loop), library_(library), mtu_bytes_(mtu_bytes), to_guest_(kToGuest) {}
  ~UserPort() override;

  absl::Status Start(const UserPortOptions& options);

  NetworkPortInfo info() const override {
    return {.mtu_bytes = mtu_bytes_,
            .max_frame_bytes = ethernet::kMaxFrameBytes,
            .queues = 1,
            .takes_checksum = true,
            .takes_segmentation = true};
  }
  bool link_is_up() const override { return true; }
  absl::Status Attach(NetworkPortClient& client, const NetworkPortInfo& accepts) override;
  void ChangeAccepted(const NetworkPortInfo& accepts) override { to_guest_.ChangeAccepted(Within(accepts)); }
  void Detach() override;
  size_t Send(uint16_t queue, absl::Span<const OutgoingFrame> frames) override;
  size_t Receive(uint16_t queue, absl::Span<IncomingFrame> frames) override;

 private:
  NetworkPortInfo Within(NetworkPortInfo accepts) const {
    accepts.mtu_bytes = std::min(accepts.mtu_bytes, mtu_bytes_);
    return accepts;
  }
  // A socket of libslirp's.
  struct Polled {
    uint32_t watched = 0;  // what the kernel tells of it; 0: nothing, it is not in the set
    uint32_t wanted = 0;   // what libslirp wanted to know last
    uint32_t happened = 0;
  };

  static const SlirpCb kCallbacks;
  static UserPort& Self(void* opaque) { return *static_cast<UserPort*>(opaque); }

  // The task: takes what the guest has sent.
  void Run() override;
  // There are events of sockets, or it is time.
  void OnEvents();
  // Finds out what libslirp waits for now, and tells the client what there is to tell. Ends each turn.
  void Settle();
  void Program(int64_t deadline_ns);
  void SetWatched(int fd, Polled& polled, uint32_t events);
  // One frame for slirp_input; without bytes if it goes nowhere.
  Frame Take(const OutgoingFrame& from) const;

  os::EventLoop& loop_;
  const SlirpLibrary& library_;
  const uint32_t mtu_bytes_;
  Attachment attachment_;
  FrameQueue to_guest_;
  std::atomic<bool> sockets_are_held_{false};  // because too much waits for the guest

  std::mutex mutex_;  // guards what follows
  std::deque<Frame> from_guest_;
  size_t from_guest_bytes_ = 0;
  bool sender_waits_ = false;

  // The loop's thread only.
  Slirp* slirp_ = nullptr;
  int poll_fd_ = -1;  // an epoll set of libslirp's sockets and the timer
  int timer_fd_ = -1;
  std::map<int, Polled> polled_;
  std::vector<int> filled_;            // descriptors by the index that libslirp knows them by
  int64_t programmed_ns_ = kNever;     // when timer_fd_ fires
  int64_t advertisement_ns_ = kNever;  // when libslirp wants to send an IPv6 router advertisement
  void* advertisement_ = nullptr;
  bool tell_frames_ = false;
};

const SlirpCb UserPort::kCallbacks = {
    .send_packet = [](const void* bytes, size_t size, void* opaque) -> ssize_t {
      UserPort& self = Self(opaque);
      Frame frame = MakeFrame(size);
      memcpy(frame.data.get(), bytes, size);
      frame.offload.checksum_is_valid = true;  // libslirp makes them all
      if (self.to_guest_.Push(std::move(frame)) == FrameQueue::Result::kTell) self.tell_frames_ = true;
      return static_cast<ssize_t>(size);  // a frame that found no room is lost as on any network
    },
    .guest_error = [](const char*, void*) {},
    .clock_get_ns = [](void*) { return NowNs(); },
    .timer_new = nullptr,
    .timer_free = [](void*, void* opaque) { Self(opaque).advertisement_ns_ = kNever; },
    .timer_mod = [](void*, int64_t expire_ms, void* opaque) { Self(opaque).advertisement_ns_ = expire_ms * 1'000'000; },
    .register_poll_fd = [](int fd, void* opaque) { Self(opaque).polled_[fd] = {}; },
    .unregister_poll_fd =
        [](int fd, void* opaque) {
          UserPort& self = Self(opaque);
          const auto it = self.polled_.find(fd);
          if (it == self.polled_.end()) return;
          self.SetWatched(fd, it->second, 0);
          self.polled_.erase(it);
        },
    .notify = [](void*) {},
    .init_completed = nullptr,
    // There is one kind of timer, and one of it.
    .timer_new_opaque = [](SlirpTimerId, void* opaque_of_timer, void* opaque) -> void* {
      Self(opaque).advertisement_ = opaque_of_timer;
      return opaque;
    },
};

UserPort::~UserPort() {
  Detach();
  loop_.Drain(*this);
  if (poll_fd_ >= 0) loop_.Unwatch(poll_fd_);
  if (slirp_ != nullptr) library_.cleanup(slirp_);
  if (timer_fd_ >= 0) close(timer_fd_);
  if (poll_fd_ >= 0) close(poll_fd_);
}

absl::Status UserPort::Start(const UserPortOptions& options) {
  poll_fd_ = epoll_create1(EPOLL_CLOEXEC);
  if (poll_fd_ < 0) return absl::ErrnoToStatus(errno, "epoll_create1");
  timer_fd_ = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  if (timer_fd_ < 0) return absl::ErrnoToStatus(errno, "timerfd_create");
  epoll_event event{.events = EPOLLIN, .data = {.fd = timer_fd_}};
  if (epoll_ctl(poll_fd_, EPOLL_CTL_ADD, timer_fd_, &event) != 0) return absl::ErrnoToStatus(errno, "epoll_ctl");

  SlirpConfig config{};
  config.version = 4;
  config.restricted = options.restricted ? 1 : 0;
  config.in_enabled = true;
  config.vnetwork = ToInAddr(kNetwork);
  config.vnetmask = ToInAddr(kMask);
  config.vhost = ToInAddr(kRouter);
  config.vdhcp_start = ToInAddr(kGuest);
  config.vnameserver = ToInAddr(options.dns_address != 0 ? options.dns_address : kDns);
  config.in6_enabled = true;
  config.vprefix_addr6 = ToIn6Addr("fec0::");
  config.vprefix_len = 64;
  config.vhost6 = ToIn6Addr("fec0::2");
  config.vnameserver6 = ToIn6Addr("fec0::3");
  config.if_mtu = config.if_mru = mtu_bytes_;
  config.disable_host_loopback = !options.host_loopback;
  slirp_ = library_.make(&config, &kCallbacks, this);
  if (slirp_ == nullptr) return absl::InternalError("libslirp refuses the network; 4.7 or later is needed");

  for (const HostForward& forward : options.host_forwards) {
    errno = 0;
    if (library_.add_hostfwd(slirp_, forward.udp, ToInAddr(forward.host_address), forward.host_port,
                             ToInAddr(forward.guest_address), forward.guest_port) != 0) {
      const uint32_t from = forward.host_address;
      return absl::FailedPreconditionError(
          absl::StrFormat("hostfwd: the host refuses %s:%d.%d.%d.%d:%d: %s", forward.udp ? "udp" : "tcp", from >> 24,
                          from >> 16 & 255, from >> 8 & 255, from & 255, forward.host_port, strerror(errno)));
    }
  }
  Settle();
  return loop_.Watch(poll_fd_, EPOLLIN, [this](uint32_t) { OnEvents(); });
}

absl::Status UserPort::Attach(NetworkPortClient& client, const NetworkPortInfo& accepts) {
  RETURN_IF_ERROR(attachment_.Attach(client));
  to_guest_.Open(Within(accepts));
  return absl::OkStatus();
}

void UserPort::Detach() {
  to_guest_.Close();
  attachment_.Detach();
  std::lock_guard lock(mutex_);
  from_guest_.clear();
  from_guest_bytes_ = 0;
  sender_waits_ = false;
}

Frame UserPort::Take(const OutgoingFrame& from) const {
  Frame frame = CopyFrame(from, ethernet::kMaxFrameBytes);
  if (frame.data == nullptr) return {};
  const bool whole = frame.offload.segmentation == FrameOffload::Segmentation::kNone;
  if (whole && frame.size_bytes > mtu_bytes_ + ethernet::kHeaderBytes) return {};
  if (frame.offload.has_vlan && (frame.offload.vlan_tci & 0xFFF) != 0) return {};
  if (IsForHostItself(frame.bytes())) return {};
  // To libslirp a segment may be as long as a packet.
  if (!(whole ? FinishFrame(frame) : ethernet::FinishWhole(frame.bytes(), frame.offload))) return {};
  return frame;
}

size_t UserPort::Send(uint16_t, absl::Span<const OutgoingFrame> frames) {
  size_t taken = 0;
  for (; taken < frames.size(); ++taken) {
    {
      std::lock_guard lock(mutex_);
      if (from_guest_.size() >= kFromGuest.frames || from_guest_bytes_ >= kFromGuest.bytes) {
        sender_waits_ = true;
        break;
      }
    }
    Frame frame = Take(frames[taken]);
    if (frame.data == nullptr) continue;
    std::lock_guard lock(mutex_);
    from_guest_bytes_ += frame.size_bytes;
    from_guest_.push_back(std::move(frame));
  }
  loop_.Schedule(*this);
  return taken;
}

size_t UserPort::Receive(uint16_t queue, absl::Span<IncomingFrame> frames) {
  if (queue != 0) return 0;
  const size_t count = to_guest_.Receive(frames);
  if (sockets_are_held_.load(std::memory_order_relaxed) && to_guest_.fill() < kEmptyEnough) loop_.Schedule(*this);
  return count;
}

void UserPort::Run() {
  std::deque<Frame> frames;
  bool has_more, has_room = false;
  {
    std::lock_guard lock(mutex_);
    while (!from_guest_.empty() && frames.size() < kFramesPerTurn) {
      from_guest_bytes_ -= from_guest_.front().size_bytes;
      frames.push_back(std::move(from_guest_.front()));
      from_guest_.pop_front();
    }
    has_more = !from_guest_.empty();
    if (from_guest_.size() <= kFromGuest.frames / 2 && from_guest_bytes_ <= kFromGuest.bytes / 2) {
      has_room = std::exchange(sender_waits_, false);
    }
  }
  for (const Frame& frame : frames) library_.input(slirp_, frame.data.get(), static_cast<int>(frame.size_bytes));
  Settle();
  if (has_more) loop_.Schedule(*this);
  if (has_room) attachment_.Tell([](NetworkPortClient& client) { client.OnRoom(0); });
}

void UserPort::OnEvents() {
  epoll_event events[64];
  const int count = epoll_wait(poll_fd_, events, std::size(events), 0);
  for (int i = 0; i < count; ++i) {
    if (events[i].data.fd == timer_fd_) {
      uint64_t expirations;
      (void)!read(timer_fd_, &expirations, sizeof(expirations));
      programmed_ns_ = kNever;
      continue;
    }
    const auto it = polled_.find(events[i].data.fd);
    if (it != polled_.end()) it->second.happened = events[i].events;
  }
  if (advertisement_ns_ <= NowNs()) {
    advertisement_ns_ = kNever;
    library_.handle_timer(slirp_, SLIRP_TIMER_RA, advertisement_);
  }
  library_.pollfds_poll(
      slirp_, 0,
      [](int index, void* opaque) {
        UserPort& self = Self(opaque);
        const auto it = self.polled_.find(self.filled_[static_cast<size_t>(index)]);
        return it == self.polled_.end() ? 0 : SlirpOf(it->second.happened);
      },
      this);
  Settle();
}

void UserPort::Settle() {
  const bool hold =
      to_guest_.fill() >= (sockets_are_held_.load(std::memory_order_relaxed) ? kEmptyEnough : kFullEnough);
  // Before the look at the queue that Receive shortens: either it sees this, or we see the room.
  sockets_are_held_.store(hold);
  for (auto& [fd, polled] : polled_) polled.wanted = polled.happened = 0;
  filled_.clear();
  uint32_t timeout_ms = UINT32_MAX;
  library_.pollfds_fill(
      slirp_, &timeout_ms,
      [](int fd, int events, void* opaque) {
        UserPort& self = Self(opaque);
        self.polled_[fd].wanted = EpollOf(events);
        self.filled_.push_back(fd);
        return static_cast<int>(self.filled_.size() - 1);
      },
      this);
  for (auto& [fd, polled] : polled_) {
    if (hold) polled.wanted &= ~uint32_t{EPOLLIN | EPOLLPRI};
    SetWatched(fd, polled, polled.wanted);
  }
  int64_t deadline = advertisement_ns_;
  if (timeout_ms != UINT32_MAX) deadline = std::min(deadline, NowNs() + int64_t{timeout_ms} * 1'000'000);
  if (deadline < programmed_ns_) Program(deadline);
  if (hold && to_guest_.fill() < kEmptyEnough) loop_.Schedule(*this);
  if (std::exchange(tell_frames_, false)) attachment_.Tell([](NetworkPortClient& client) { client.OnFrames(0); });
}

void UserPort::Program(int64_t deadline_ns) {
  programmed_ns_ = deadline_ns;
  itimerspec spec{};
  spec.it_value.tv_sec = deadline_ns / 1'000'000'000;
  spec.it_value.tv_nsec = deadline_ns % 1'000'000'000;
  HVSDK_CHECK(timerfd_settime(timer_fd_, TFD_TIMER_ABSTIME, &spec, nullptr) == 0);
}

void UserPort::SetWatched(int fd, Polled& polled, uint32_t events) {
  if (events == polled.watched) return;
  epoll_event event{.events = events, .data = {.fd = fd}};
  // A socket that nobody asks about is taken out: a closed one would be told of without being asked for.
  const int operation = events == 0 ? EPOLL_CTL_DEL : polled.watched == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
  // The host may refuse (max_user_watches): such a connection stalls until it is asked about again.
  if (epoll_ctl(poll_fd_, operation, fd, &event) == 0) polled.watched = events;
  if (events == 0) polled.watched = 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<NetworkPort>> CreateUserPort(os::EventLoop& loop, const UserPortOptions& options) {
  if (options.mtu_bytes < kMinUserMtuBytes || options.mtu_bytes > 65521) {  // libslirp's
    return absl::InvalidArgumentError(
        absl::StrCat("mtu: ", options.mtu_bytes, " is not between ", kMinUserMtuBytes, " and 65521"));
  }
  const uint32_t dns = options.dns_address;
  if (dns != 0 &&
      ((dns & kMask) != kNetwork || dns == kRouter || dns == kGuest || (dns & 255) == 0 || (dns & 255) == 255)) {
    return absl::InvalidArgumentError("dns: not an address of its own in 10.0.2.0/24");
  }
  ASSIGN_OR_RETURN(const SlirpLibrary* const library, SlirpLibrary::Load());
  auto port = std::make_unique<UserPort>(loop, *library, options.mtu_bytes);
  RETURN_IF_ERROR(port->Start(options));
  return port;
}

}  // namespace hvsdk::network
