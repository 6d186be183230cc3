// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/network/user_port.h"

#include <arpa/inet.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <optional>
#include <string>
#include <thread>

#include "tests/network/loop_thread.h"
#include "tests/network/test_adapter.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"

namespace hvsdk::network {
namespace {

constexpr MacAddress kGuestMac = {0x02, 0, 0, 0, 0, 0x0F};
constexpr uint32_t kRouter = 0x202, kGuest = 0x20F;  // in 10.0.0.0/8, as frame_builder.h has it

// A socket of the host's on its loopback.
class HostSocket {
 public:
  explicit HostSocket(int type) : fd_(socket(AF_INET, type | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    EXPECT_EQ(bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    socklen_t size = sizeof(address);
    EXPECT_EQ(getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
    timeval patience{.tv_sec = kPatience.count()};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    if (type == SOCK_STREAM) {
      EXPECT_EQ(listen(fd_, 4), 0);
    }
  }
  ~HostSocket() { close(fd_); }
  int fd() const { return fd_; }
  uint16_t port() const { return port_; }

 private:
  const int fd_;
  uint16_t port_ = 0;
};

// A guest with just enough of a stack.
class Guest {
 public:
  explicit Guest(UserPortOptions options = {}) {
    signal(SIGPIPE, SIG_IGN);
    auto made = CreateUserPort(loop_.loop(), options);
    EXPECT_TRUE(made.ok()) << made.status();
    port_ = *std::move(made);
    adapter_.emplace(*port_);
    adapter_->Attach();
    loop_.Start();
    AskForRouter();
  }
  ~Guest() {
    adapter_.reset();
    loop_.Stop();
    port_.reset();
  }

  TestAdapter& adapter() { return *adapter_; }
  NetworkPort& port() { return *port_; }
  std::mt19937& random() { return random_; }
  void Send(Bytes frame, FrameOffload offload = {}) { adapter_->Send({std::move(frame), offload}, random_); }

  // The next frame that is wanted; others are answered (ARP) or ignored.
  Bytes Expect(const std::function<bool(const Bytes&)>& wanted) {
    for (;;) {
      const std::vector<TestFrame> got = adapter_->Receive(1);
      if (got.empty()) {
        ADD_FAILURE() << "nothing came";
        return Bytes(100);
      }
      const Bytes& frame = got[0].bytes;
      EXPECT_TRUE(ethernet::ChecksumsAreRight(frame));
      if (wanted(frame)) return frame;
      if (ethernet::ReadBe16(&frame[12]) == ethernet::kArp && frame[21] == 1 && frame[41] == 15) {
        Send(Arp(2, frame.data() + 22, frame.data() + 28));
      }
    }
  }

  ethernet::FrameSpec Spec(uint8_t protocol, uint16_t to_port, Bytes payload = {}) const {
    return {.to = router_,
            .from = kGuestMac,
            .protocol = protocol,
            .from_host = kGuest,
            .to_host = kRouter,
            .from_port = 40000,
            .to_port = to_port,
            .payload = std::move(payload)};
  }

  // The router's own answer to a ping: all that was sent before has been dealt with.
  void Ping(uint8_t number) {
    ethernet::FrameSpec spec = Spec(1, 0);
    Bytes frame = ethernet::MakeFrame(spec);
    frame.resize(34);
    const Bytes icmp = {8, 0, 0, 0, 0, number, 0, 1, 1, 2, 3, 4};
    frame.insert(frame.end(), icmp.begin(), icmp.end());
    ethernet::WriteBe16(&frame[16], static_cast<uint16_t>(frame.size() - 14));
    ethernet::WriteBe16(&frame[24], 0);
    ethernet::WriteBe16(&frame[24], static_cast<uint16_t>(~ethernet::Sum(absl::MakeConstSpan(frame).subspan(14, 20))));
    ethernet::WriteBe16(&frame[36], static_cast<uint16_t>(~ethernet::Sum(absl::MakeConstSpan(frame).subspan(34))));
    Send(frame);
    Expect(
        [number](const Bytes& got) { return got.size() >= 46 && got[23] == 1 && got[34] == 0 && got[39] == number; });
  }

 private:
  Bytes Arp(uint8_t operation, const uint8_t* to_mac, const uint8_t* to_ip) const {
    Bytes frame(42);
    if (operation == 1) {
      std::fill_n(frame.begin(), 6, uint8_t{0xFF});
    } else {
      std::copy_n(to_mac, 6, frame.begin());
      std::copy_n(to_mac, 6, frame.begin() + 32);
    }
    std::copy(kGuestMac.begin(), kGuestMac.end(), frame.begin() + 6);
    const Bytes header = {0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, operation};
    std::copy(header.begin(), header.end(), frame.begin() + 12);
    std::copy(kGuestMac.begin(), kGuestMac.end(), frame.begin() + 22);
    const Bytes ip = {10, 0, 2, 15};
    std::copy(ip.begin(), ip.end(), frame.begin() + 28);
    std::copy_n(to_ip, 4, frame.begin() + 38);
    return frame;
  }
  void AskForRouter() {
    const Bytes router = {10, 0, 2, 2};
    Send(Arp(1, nullptr, router.data()));
    const Bytes answer = Expect([](const Bytes& frame) { return frame[12] == 8 && frame[13] == 6 && frame[21] == 2; });
    std::copy_n(answer.begin() + 22, 6, router_.begin());
  }

  LoopThread loop_;
  std::unique_ptr<NetworkPort> port_;
  std::optional<TestAdapter> adapter_;
  std::mt19937 random_{TestSeed()};
  MacAddress router_{};
};

TEST(UserPortTest, PingsItsRouter) {
  Guest guest;
  for (uint8_t i = 0; i < 20; ++i) guest.Ping(i);
}

TEST(UserPortTest, GivesAnAddress) {
  Guest guest;
  // DHCPDISCOVER (RFC 2131).
  Bytes request(240);
  const Bytes start = {1, 1, 6, 0, 1, 2, 3, 4};
  std::copy(start.begin(), start.end(), request.begin());
  std::copy(kGuestMac.begin(), kGuestMac.end(), request.begin() + 28);
  const Bytes cookie = {99, 130, 83, 99};
  std::copy(cookie.begin(), cookie.end(), request.begin() + 236);
  for (const uint8_t byte : {53, 1, 1, 255}) request.push_back(byte);
  request.resize(300);
  ethernet::FrameSpec spec = guest.Spec(ethernet::kUdp, 67, request);
  spec.from_port = 68;
  Bytes frame = ethernet::MakeFrame(spec);
  std::fill_n(frame.begin(), 6, uint8_t{0xFF});
  std::fill_n(frame.begin() + 26, 4, uint8_t{0});
  std::fill_n(frame.begin() + 30, 4, uint8_t{0xFF});
  ethernet::WriteBe16(&frame[40], 0);
  ethernet::WriteBe16(&frame[24], 0);
  ethernet::WriteBe16(&frame[24], static_cast<uint16_t>(~ethernet::Sum(absl::MakeConstSpan(frame).subspan(14, 20))));
  guest.Send(frame);
  const Bytes offer = guest.Expect(
      [](const Bytes& got) { return got.size() > 300 && got[23] == 17 && ethernet::ReadBe16(&got[36]) == 68; });
  EXPECT_EQ(Bytes(offer.begin() + 42 + 16, offer.begin() + 42 + 20), (Bytes{10, 0, 2, 15}));
}

TEST(UserPortTest, ReachesTheLoopbackOnlyIfItMay) {
  for (const bool open : {true, false}) {
    HostSocket server(SOCK_DGRAM);
    Guest guest({.host_loopback = open});
    Bytes frame = ethernet::MakeFrame(guest.Spec(ethernet::kUdp, server.port(), {'p', 'i', 'n', 'g'}));
    if (open) {
      const FrameOffload offload = ethernet::LeaveChecksum(frame);
      guest.Send(frame, offload);
      char got[16];
      sockaddr_in from{};
      socklen_t size = sizeof(from);
      ASSERT_EQ(recvfrom(server.fd(), got, sizeof(got), 0, reinterpret_cast<sockaddr*>(&from), &size), 4);
      ASSERT_EQ(sendto(server.fd(), "pong!", 5, 0, reinterpret_cast<sockaddr*>(&from), size), 5);
      const Bytes answer = guest.Expect(
          [](const Bytes& answered) { return answered[23] == 17 && ethernet::ReadBe16(&answered[36]) == 40000; });
      EXPECT_EQ(std::string(answer.begin() + 42, answer.begin() + 47), "pong!");
    } else {
      guest.Send(frame);
    }
    // Nor is it behind another name.
    for (const std::array<uint8_t, 4>& address : {std::array<uint8_t, 4>{127, 0, 0, 1}, {0, 0, 0, 0}, {127, 9, 9, 9}}) {
      Bytes direct = frame;
      std::copy(address.begin(), address.end(), direct.begin() + 30);
      ethernet::WriteBe16(&direct[24], 0);
      ethernet::WriteBe16(&direct[24],
                          static_cast<uint16_t>(~ethernet::Sum(absl::MakeConstSpan(direct).subspan(14, 20))));
      const FrameOffload offload = ethernet::LeaveChecksum(direct);
      guest.Send(direct, offload);
    }
    Bytes six = ethernet::MakeFrame({.to = {0x52, 0x56, 0, 0, 0, 2},
                                     .from = kGuestMac,
                                     .ip_version = 6,
                                     .protocol = ethernet::kUdp,
                                     .to_port = server.port(),
                                     .payload = Bytes(4)});
    const std::array<uint8_t, 16> mapped = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 127, 0, 0, 1};
    std::copy(mapped.begin(), mapped.end(), six.begin() + 38);
    const FrameOffload offload = ethernet::LeaveChecksum(six);
    guest.Send(six, offload);
    guest.Ping(1);
    char none;
    EXPECT_EQ(recv(server.fd(), &none, 1, MSG_DONTWAIT), -1);
    EXPECT_EQ(errno, EAGAIN);
  }
}

TEST(UserPortTest, RestrictedReachesNobody) {
  HostSocket server(SOCK_DGRAM);
  Guest guest({.restricted = true, .host_loopback = true});
  guest.Send(ethernet::MakeFrame(guest.Spec(ethernet::kUdp, server.port(), {'p'})));
  guest.Ping(1);
  char none;
  EXPECT_EQ(recv(server.fd(), &none, 1, MSG_DONTWAIT), -1);
}

TEST(UserPortTest, ForwardsFromTheHost) {
  uint16_t port;
  {
    HostSocket free_one(SOCK_DGRAM);
    port = free_one.port();
  }
  HostForward forward{.udp = true, .host_address = INADDR_LOOPBACK, .host_port = port, .guest_port = 53};
  Guest guest({.host_forwards = {forward}});
  HostSocket client(SOCK_DGRAM);
  sockaddr_in to{.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
  ASSERT_EQ(sendto(client.fd(), "hello", 5, 0, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 5);
  const Bytes got =
      guest.Expect([](const Bytes& frame) { return frame[23] == 17 && ethernet::ReadBe16(&frame[36]) == 53; });
  EXPECT_EQ(std::string(got.begin() + 42, got.begin() + 47), "hello");

  LoopThread other;
  const auto twice = CreateUserPort(other.loop(), {.host_forwards = {forward}});
  ASSERT_FALSE(twice.ok());
  EXPECT_NE(twice.status().message().find(std::to_string(port)), absl::string_view::npos) << twice.status();
}

// A connection whose segments are as long as packets, one way and the other.
TEST(UserPortTest, ConnectionCarriesAllBytes) {
  HostSocket server(SOCK_STREAM);
  Guest guest({.host_loopback = true});
  const Bytes sent = RandomPayload(guest.random(), 1 << 20);
  std::thread host([&] {
    const int fd = accept(server.fd(), nullptr, nullptr);
    ASSERT_GE(fd, 0);
    Bytes got(sent.size());
    ASSERT_EQ(recv(fd, got.data(), got.size(), MSG_WAITALL), static_cast<ssize_t>(got.size()));
    EXPECT_EQ(got, sent);
    EXPECT_EQ(send(fd, got.data(), got.size(), MSG_NOSIGNAL), static_cast<ssize_t>(got.size()));
    close(fd);
  });
  ethernet::FrameSpec spec = guest.Spec(ethernet::kTcp, server.port());
  const auto is_ours = [](const Bytes& frame) {
    return frame[23] == ethernet::kTcp && ethernet::ReadBe16(&frame[36]) == 40000;
  };
  // The frame builder acknowledges nothing, so that is put in here.
  const auto transmit = [&](uint32_t acknowledge, uint16_t segment_bytes) {
    Bytes frame = ethernet::MakeFrame(spec);
    ethernet::WriteBe32(&frame[42], acknowledge);
    ethernet::WriteBe16(&frame[48], 0xFFFF);
    const FrameOffload offload =
        segment_bytes != 0 ? ethernet::LeaveSegmentation(frame, segment_bytes) : ethernet::LeaveChecksum(frame);
    guest.Send(frame, offload);
  };
  spec.flags = 0x02;  // SYN
  spec.sequence = 1000;
  transmit(0, 0);
  const Bytes synack = guest.Expect(is_ours);
  ASSERT_EQ(synack[47] & 0x12, 0x12);
  uint32_t expected = ethernet::ReadBe32(&synack[38]) + 1;
  const uint32_t first = expected;
  uint32_t acknowledged = 1001, window = ethernet::ReadBe16(&synack[48]);
  spec.flags = 0x10;
  Bytes back;
  bool has_fin = false;
  uint32_t next = 1001;
  transmit(expected, 0);
  while (back.size() < sent.size() || !has_fin) {
    while (next - 1001 < sent.size() && next - acknowledged < window) {
      const size_t at = next - 1001;
      const size_t size = std::min<size_t>({sent.size() - at, window - (next - acknowledged), 60000});
      spec.sequence = next;
      spec.payload.assign(sent.begin() + static_cast<std::ptrdiff_t>(at),
                          sent.begin() + static_cast<std::ptrdiff_t>(at + size));
      spec.flags = 0x18;
      transmit(expected, 1460);
      next += static_cast<uint32_t>(size);
    }
    const Bytes frame = guest.Expect(is_ours);
    ASSERT_EQ(frame[47] & 0x04, 0) << "reset";
    acknowledged = ethernet::ReadBe32(&frame[42]);
    window = ethernet::ReadBe16(&frame[48]);
    const ethernet::FrameHeaders headers = ethernet::ReadHeaders(frame);
    const size_t packet_end = 14u + ethernet::ReadBe16(&frame[16]);
    const bool in_order = ethernet::ReadBe32(&frame[38]) == expected;
    if (in_order && packet_end > headers.payload_offset) {
      back.insert(back.end(), frame.begin() + headers.payload_offset,
                  frame.begin() + static_cast<std::ptrdiff_t>(packet_end));
      expected = first + static_cast<uint32_t>(back.size());
    }
    if (in_order && (frame[47] & 0x01) != 0) has_fin = true, ++expected;
    spec.sequence = next;
    spec.payload.clear();
    spec.flags = 0x10;
    if (packet_end > headers.payload_offset || has_fin) transmit(expected, 0);
  }
  EXPECT_EQ(back, sent);
  host.join();
}

// A guest that sends and never fetches costs so much and no more, and then goes on.
TEST(UserPortTest, FloodIsBounded) {
  Guest guest;
  ethernet::FrameSpec spec = guest.Spec(1, 0);
  uint32_t taken = 0;
  Bytes frame = ethernet::MakeFrame(guest.Spec(ethernet::kUdp, 1, Bytes(1400)));
  for (int i = 0; i < 20000; ++i) taken += guest.adapter().TrySend({frame, {}}, guest.random()) ? 1 : 0;
  EXPECT_GT(taken, 0u);
  while (!guest.adapter().TryReceive(16).empty()) {
  }
  guest.Ping(7);
}

// Random and damaged frames, and clients that come and go.
TEST(UserPortTest, WhateverAGuestSends) {
  HostSocket server(SOCK_DGRAM);
  Guest guest({.restricted = true});
  std::mt19937& random = guest.random();
  for (uint32_t i = 0; i < ScaledCount(3000); ++i) {
    Bytes frame = RandomPayload(random, random() % 200);
    if (random() % 4 != 0) {
      ethernet::FrameSpec spec =
          guest.Spec(random() % 2 != 0 ? ethernet::kTcp : ethernet::kUdp, static_cast<uint16_t>(random() % 100),
                     RandomPayload(random, random() % 100));
      if (random() % 3 == 0) spec.ip_version = 6;
      frame = ethernet::MakeFrame(spec);
      for (size_t damage = random() % 4; damage != 0; --damage)
        frame[random() % frame.size()] = static_cast<uint8_t>(random());
      if (random() % 4 == 0) frame.resize(random() % (frame.size() + 1));
    }
    FrameOffload offload;
    offload.needs_checksum = random() % 2 != 0;
    offload.checksum_start = static_cast<uint16_t>(random() % 80);
    offload.checksum_offset = static_cast<uint16_t>(random() % 40);
    if (random() % 4 == 0) offload.segmentation = FrameOffload::Segmentation::kTcp4;
    offload.segment_bytes = static_cast<uint16_t>(random() % 60);
    guest.adapter().TrySend({frame, offload}, random);
    if (random() % 4 == 0) guest.adapter().TryReceive(4);
    if (random() % 200 == 0) guest.adapter().Detach(), guest.adapter().Attach();
  }
  while (!guest.adapter().TryReceive(16).empty()) {
  }
  guest.Ping(3);
}

TEST(HostForwardTest, Parses) {
  const auto ssh = ParseHostForward("tcp:127.0.0.1:2222-:22");
  ASSERT_TRUE(ssh.ok()) << ssh.status();
  EXPECT_EQ(*ssh, (HostForward{.host_address = 0x7F000001, .host_port = 2222, .guest_port = 22}));
  const auto dns = ParseHostForward("udp::53-10.0.2.16:5353");
  ASSERT_TRUE(dns.ok()) << dns.status();
  EXPECT_EQ(*dns, (HostForward{.udp = true, .host_port = 53, .guest_address = 0x0A000210, .guest_port = 5353}));
  for (const char* bad : {"", "tcp", "tcp:", "tcp:1-", "tcp::1-:0", "tcp::65536-:1", "tcp::1-:1x", "tcp::-:1",
                          "sctp::1-:1", "tcp:1.2.3:1-:1", "tcp:1.2.3.4.5:1-:1", "tcp:1.2.3.256:1-:1", "tcp::1",
                          "tcp::+1-:1", "tcp:1.2.3.4:1-22", "tcp:1..3.4:1-:22", "tcp:1.2.3.4.:1-:22"}) {
    EXPECT_FALSE(ParseHostForward(bad).ok()) << bad;
  }
}

TEST(UserPortTest, BadOptions) {
  LoopThread loop;
  EXPECT_FALSE(CreateUserPort(loop.loop(), {.mtu_bytes = 1279}).ok());
  EXPECT_FALSE(CreateUserPort(loop.loop(), {.mtu_bytes = 65522}).ok());
  EXPECT_FALSE(CreateUserPort(loop.loop(), {.dns_address = 0x08080808}).ok());
  EXPECT_FALSE(CreateUserPort(loop.loop(), {.dns_address = 0x0A000202}).ok());
}

}  // namespace
}  // namespace hvsdk::network
