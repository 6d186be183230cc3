// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/network/tap_port.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "hvsdk/ethernet/headers.h"
#include "network/attachment.h"
#include "network/frame.h"
#include "network/wire.h"
#include "resource/host_buffers.h"

namespace hvsdk::network {
namespace {

// What stands before each frame (virtio 1.2, 5.1.6, struct virtio_net_hdr without num_buffers), in the host's byte order.
struct Header {
  uint8_t flags;         // 0x00
  uint8_t gso_type;      // 0x01
  uint16_t hdr_len;      // 0x02
  uint16_t gso_size;     // 0x04
  uint16_t csum_start;   // 0x06
  uint16_t csum_offset;  // 0x08
};
static_assert(sizeof(Header) == 10);
constexpr uint8_t kNeedsChecksum = 1;  // VIRTIO_NET_HDR_F_NEEDS_CSUM
constexpr uint8_t kDataValid = 2;      // VIRTIO_NET_HDR_F_DATA_VALID
constexpr uint8_t kGsoTcp4 = 1;        // VIRTIO_NET_HDR_GSO_TCPV4
constexpr uint8_t kGsoTcp6 = 4;        // VIRTIO_NET_HDR_GSO_TCPV6
constexpr uint8_t kGsoEcn = 0x80;      // VIRTIO_NET_HDR_GSO_ECN: CWR is set in a frame to be cut

constexpr uint16_t kMaxQueues = 64;
constexpr size_t kMaxPieces = 16;  // of a frame's memory that the kernel writes to itself
constexpr size_t kMaxWireBytes = ethernet::kMaxFrameBytes + ethernet::kVlanTagBytes;

Header HeaderOf(const Frame& frame) {
  const FrameOffload& offload = frame.offload;
  const auto tag = static_cast<uint16_t>(offload.has_vlan ? ethernet::kVlanTagBytes : 0);
  Header header{};
  if (offload.needs_checksum) {
    header.flags = kNeedsChecksum;
    header.csum_start = static_cast<uint16_t>(offload.checksum_start + tag);
    header.csum_offset = offload.checksum_offset;
  }
  if (offload.segmentation != FrameOffload::Segmentation::kNone) {
    header.gso_type = offload.segmentation == FrameOffload::Segmentation::kTcp4 ? kGsoTcp4 : kGsoTcp6;
    constexpr size_t kFlagsOffset = 13;
    constexpr uint8_t kCwr = 0x80;
    const ethernet::FrameHeaders headers = ethernet::ReadHeaders(frame.bytes());
    if ((frame.data[headers.transport_offset + kFlagsOffset] & kCwr) != 0) header.gso_type |= kGsoEcn;
    header.gso_size = offload.segment_bytes;
    header.hdr_len = static_cast<uint16_t>(headers.payload_offset + tag);
  }
  return header;
}

// What the kernel says of a frame; the offsets count its tag.
FrameOffload OffloadOf(const Header& header) {
  FrameOffload offload;
  offload.checksum_is_valid = (header.flags & kDataValid) != 0;
  if ((header.flags & kNeedsChecksum) != 0) {
    offload.needs_checksum = true;
    offload.checksum_start = header.csum_start;
    offload.checksum_offset = header.csum_offset;
  }
  switch (header.gso_type & ~kGsoEcn) {
    case kGsoTcp4:
      offload.segmentation = FrameOffload::Segmentation::kTcp4;
      break;
    case kGsoTcp6:
      offload.segmentation = FrameOffload::Segmentation::kTcp6;
      break;
    default:
      return offload;
  }
  offload.segment_bytes = header.gso_size;
  offload.header_bytes = header.hdr_len;
  return offload;
}

class TapPort final : public NetworkPort, private Task {
 public:
  explicit TapPort(os::EventLoop& loop) : loop_(loop) {}
  ~TapPort() override {
    attachment_.Detach();
    loop_.Drain(*this);
    for (const Queue& queue : queues_) {
      loop_.Unwatch(queue.fd);
      close(queue.fd);
    }
  }

  absl::Status Start(const TapPortOptions& options);

  NetworkPortInfo info() const override {
    return {.mtu_bytes = mtu_bytes_,
            .max_frame_bytes = ethernet::kMaxFrameBytes,
            .queues = static_cast<uint16_t>(queues_.size()),
            .takes_checksum = true,
            .takes_segmentation = true};
  }
  bool link_is_up() const override { return true; }

  absl::Status Attach(NetworkPortClient& client, const NetworkPortInfo& accepts) override {
    RETURN_IF_ERROR(attachment_.Attach(client));
    if (const absl::Status status = Accept(accepts); !status.ok()) {
      attachment_.Detach();
      return status;
    }
    UseQueues(std::clamp<size_t>(accepts.queues, 1, queues_.size()));
    for (Queue& queue : queues_) DropWaiting(queue);
    loop_.Schedule(*this);
    return absl::OkStatus();
  }
  // The kernel has taken as much before.
  void ChangeAccepted(const NetworkPortInfo& accepts) override { (void)Accept(accepts); }
  void Detach() override { attachment_.Detach(); }

  size_t Send(uint16_t queue, absl::Span<const OutgoingFrame> frames) override;
  size_t Receive(uint16_t queue, absl::Span<IncomingFrame> frames) override;

 private:
  struct Queue {
    int fd;
    bool used = true;                 // by the kernel, for what it sends
    std::unique_ptr<uint8_t[]> room;  // of a frame, for what of it cannot lie where it is to be
  };

  // A client may have come to frames that nobody was told of, or was not given all that are there.
  void Run() override {
    attachment_.Tell([this](NetworkPortClient& client) {
      for (size_t i = 0; i < queues_.size(); ++i) client.OnFrames(static_cast<uint16_t>(i));
    });
  }
  absl::Status Accept(const NetworkPortInfo& accepts) {
    max_frame_bytes_ = std::min<size_t>(accepts.max_frame_bytes, ethernet::kMaxFrameBytes);
    max_whole_bytes_ = std::min(accepts.mtu_bytes, mtu_bytes_) + ethernet::kHeaderBytes;
    unsigned flags = 0;
    if (accepts.takes_checksum) flags |= TUN_F_CSUM;
    // A client that takes long frames takes the kernel's longest.
    if (accepts.takes_checksum && accepts.takes_segmentation && accepts.max_frame_bytes >= ethernet::kMaxFrameBytes) {
      flags |= TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    }
    const bool taken = ioctl(queues_[0].fd, TUNSETOFFLOAD, flags) == 0;
    return taken ? absl::OkStatus() : absl::ErrnoToStatus(errno, "TUNSETOFFLOAD");
  }
  absl::Status Adopt(int fd);
  // The kernel steers flows to the first `count` alone.
  void UseQueues(size_t count);
  void DropWaiting(Queue& queue) {
    // So many as the kernel may have there (its tx queue, 500 to 1000 frames): more come meanwhile.
    for (int i = 0; i < 1024 && read(queue.fd, queue.room.get(), sizeof(Header)) > 0; ++i) {
    }
  }

  os::EventLoop& loop_;
  Attachment attachment_;
  std::vector<Queue> queues_;
  uint32_t mtu_bytes_ = 1500;
  size_t max_frame_bytes_ = 0, max_whole_bytes_ = 0;  // that the client takes
};

absl::Status TapPort::Adopt(int fd) {
  queues_.push_back({.fd = fd, .room = std::make_unique_for_overwrite<uint8_t[]>(kMaxWireBytes + 1)});
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  ifreq request{};
  if (ioctl(fd, TUNGETIFF, &request) != 0 || (request.ifr_flags & IFF_TAP) == 0 ||
      (request.ifr_flags & IFF_NO_PI) == 0) {
    return absl::InvalidArgumentError("fd: is not of a TAP device without packet information (IFF_TAP, IFF_NO_PI)");
  }
  if ((request.ifr_flags & IFF_VNET_HDR) == 0) {
    return absl::InvalidArgumentError("fd: is of a TAP device without headers for offloads (IFF_VNET_HDR)");
  }
  int size = sizeof(Header);
  if (ioctl(fd, TUNSETVNETHDRSZ, &size) != 0) return absl::ErrnoToStatus(errno, "TUNSETVNETHDRSZ");
  if (queues_.size() == 1) {
    // Of a device in another network namespace it is not known.
    const int any = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (any >= 0) {
      if (ioctl(any, SIOCGIFMTU, &request) == 0) mtu_bytes_ = static_cast<uint32_t>(request.ifr_mtu);
      close(any);
    }
  }
  const auto number = static_cast<uint16_t>(queues_.size() - 1);
  return loop_.Watch(fd, EPOLLIN | EPOLLOUT | EPOLLET, [this, number](uint32_t events) {
    attachment_.Tell([&](NetworkPortClient& client) {
      if ((events & EPOLLIN) != 0) client.OnFrames(number);
      if ((events & EPOLLOUT) != 0) client.OnRoom(number);
    });
  });
}

absl::Status TapPort::Start(const TapPortOptions& options) {
  std::vector<int> fds = options.descriptors;
  absl::Status status;
  if (fds.empty()) {
    for (uint16_t i = 0; i < options.queues && status.ok(); ++i) {
      const int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
      if (fd < 0) {
        status = absl::ErrnoToStatus(errno, "/dev/net/tun");
        break;
      }
      fds.push_back(fd);
      ifreq request{};
      std::memcpy(request.ifr_name, options.name.data(), options.name.size());
      request.ifr_flags =
          static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (options.queues > 1 ? IFF_MULTI_QUEUE : 0));
      if (ioctl(fd, TUNSETIFF, &request) != 0) {
        status =
            absl::ErrnoToStatus(errno, absl::StrCat("device: the host refuses the TAP device \"", options.name, "\""));
      }
    }
  }
  for (const int fd : fds) {
    if (status.ok()) {
      status = Adopt(fd);
    } else {
      close(fd);
    }
  }
  RETURN_IF_ERROR(status);
  if (options.mtu_bytes != 0) mtu_bytes_ = options.mtu_bytes;
  return absl::OkStatus();
}

void TapPort::UseQueues(size_t count) {
  for (size_t i = 0; i < queues_.size(); ++i) {
    const bool use = i < count;
    if (queues_.size() == 1 || queues_[i].used == use) continue;
    ifreq request{};
    request.ifr_flags = static_cast<short>(use ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE);
    if (ioctl(queues_[i].fd, TUNSETQUEUE, &request) == 0) queues_[i].used = use;
  }
}

size_t TapPort::Send(uint16_t number, absl::Span<const OutgoingFrame> frames) {
  const Queue& queue = queues_[std::min<size_t>(number, queues_.size() - 1)];
  for (size_t taken = 0; taken < frames.size(); ++taken) {
    Frame frame = CopyFrame(frames[taken], ethernet::kMaxFrameBytes);
    if (frame.data == nullptr) continue;
    if (frame.offload.segmentation == FrameOffload::Segmentation::kNone &&
        frame.size_bytes > mtu_bytes_ + ethernet::kHeaderBytes) {
      continue;
    }
    Header header = HeaderOf(frame);
    uint8_t tag[ethernet::kVlanTagBytes];
    ethernet::WriteBe16(tag, ethernet::kVlan);
    ethernet::WriteBe16(tag + 2, frame.offload.vlan_tci);
    constexpr size_t kAt = ethernet::kTagOffset;
    const iovec pieces[] = {{&header, sizeof(header)},
                            {frame.data.get(), kAt},
                            {tag, frame.offload.has_vlan ? sizeof(tag) : 0},
                            {frame.data.get() + kAt, frame.size_bytes - kAt}};
    ssize_t size;
    do {
      size = writev(queue.fd, pieces, std::size(pieces));
    } while (size < 0 && errno == EINTR);
    if (size < 0 && errno == EAGAIN) return taken;
    // Else it is sent, or lost: the device is down, or the kernel does not like the frame.
  }
  return frames.size();
}

// The kernel writes a frame where it is to lie, and what has no place there behind it in `room`. Only where a tag stands in a frame all of
// it has to move.
size_t TapPort::Receive(uint16_t number, absl::Span<IncomingFrame> frames) {
  if (number >= queues_.size()) return 0;
  const Queue& queue = queues_[number];
  size_t count = 0;
  for (size_t looked_at = 0; count < frames.size(); ++looked_at) {
    if (looked_at == frames.size() + kMaxPassed) {
      loop_.Schedule(*this);
      break;
    }
    IncomingFrame& frame = frames[count];
    Header header;
    std::array<iovec, 2 + kMaxPieces> pieces;
    pieces[0] = {&header, sizeof(header)};
    size_t used = 1;
    const auto buffers = frame.buffers.first(std::min(frame.buffers.size(), kMaxPieces));
    const size_t in_place = ForEachPiece(buffers, 0, kMaxWireBytes, [&](uint8_t* data, size_t size) {
      pieces[used++] = {data, size};
    });
    // One byte more than there may be shows a frame that is too long.
    pieces[used++] = {queue.room.get() + in_place, kMaxWireBytes + 1 - in_place};
    const ssize_t got = readv(queue.fd, pieces.data(), static_cast<int>(used));
    if (got < 0 && (errno == EINTR || errno == EFAULT))
      continue;  // the latter: the host has lost that memory, and the frame is gone
    if (got < 0) break;
    if (static_cast<size_t>(got) < sizeof(header)) continue;
    const size_t size = static_cast<size_t>(got) - sizeof(header);
    const FrameOffload offload = OffloadOf(header);
    const bool is_whole = offload.segmentation == FrameOffload::Segmentation::kNone;
    const size_t max_bytes = is_whole ? max_whole_bytes_ : max_frame_bytes_;
    std::array<uint8_t, ethernet::kHeaderBytes> start;
    if (in_place >= size && CopyFromBuffers(buffers, 0, start.data(), std::min(size, start.size())) == start.size() &&
        ethernet::ReadBe16(&start[ethernet::kTagOffset]) != ethernet::kVlan) {
      if (size > max_bytes) continue;
      frame.size_bytes = size;
      frame.offload = offload;
      ++count;
      continue;
    }
    CopyFromBuffers(buffers, 0, queue.room.get(), std::min(size, in_place));
    if (CopyFromWire(absl::MakeConstSpan(queue.room.get(), size), max_bytes, offload, frame)) ++count;
  }
  return count;
}

}  // namespace

absl::StatusOr<std::unique_ptr<NetworkPort>> CreateTapPort(os::EventLoop& loop, const TapPortOptions& options) {
  const bool by_name = options.descriptors.empty();
  if (by_name && (options.name.empty() || options.name.size() >= IFNAMSIZ)) {
    return absl::InvalidArgumentError(
        absl::StrCat("device: a TAP device's name has 1 to ", IFNAMSIZ - 1, " characters"));
  }
  if (!by_name && !options.name.empty()) return absl::InvalidArgumentError("fd: and a name, of which there is one");
  if (options.queues < 1 || options.queues > kMaxQueues || options.descriptors.size() > kMaxQueues) {
    return absl::InvalidArgumentError(absl::StrCat("queues: not between 1 and ", kMaxQueues));
  }
  if (options.mtu_bytes != 0 &&
      (options.mtu_bytes < 68 || options.mtu_bytes > ethernet::kMaxFrameBytes - ethernet::kHeaderBytes)) {
    return absl::InvalidArgumentError(absl::StrCat("mtu: ", options.mtu_bytes, " is not between 68 and 65535"));
  }
  auto port = std::make_unique<TapPort>(loop);
  RETURN_IF_ERROR(port->Start(options));
  return port;
}

}  // namespace hvsdk::network
