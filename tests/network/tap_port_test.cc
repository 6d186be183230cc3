// SPDX-License-Identifier: Apache-2.0
// TAP devices in a network namespace of the test's own, with a bridge between them. Skipped where that is not allowed.
#include "hvsdk/network/tap_port.h"

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <set>
#include <string>

#include "tests/network/loop_thread.h"
#include "tests/network/port_suite.h"

namespace hvsdk::network {
namespace {

class Kernel {
 public:
  Kernel() : fd_(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {}
  ~Kernel() {
    SetUp("br0", false);
    ioctl(fd_, SIOCBRDELBR, "br0");
    close(fd_);
  }
  void AddBridge() {
    ASSERT_EQ(ioctl(fd_, SIOCBRADDBR, "br0"), 0) << std::strerror(errno);
    SetUp("br0", true);
  }
  void Join(const char* name) {
    ifreq request = Named("br0");
    ifreq port = Named(name);
    ASSERT_EQ(ioctl(fd_, SIOCGIFINDEX, &port), 0);
    request.ifr_ifindex = port.ifr_ifindex;
    ASSERT_EQ(ioctl(fd_, SIOCBRADDIF, &request), 0) << std::strerror(errno);
    SetUp(name, true);
  }
  void SetUp(const char* name, bool up) {
    ifreq request = Named(name);
    ioctl(fd_, SIOCGIFFLAGS, &request);
    request.ifr_flags = static_cast<short>(request.ifr_flags & ~IFF_MULTICAST);  // no IGMP of its own accord
    request.ifr_flags = static_cast<short>(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
    ioctl(fd_, SIOCSIFFLAGS, &request);
  }
  void SetMtu(const char* name, int mtu) {
    ifreq request = Named(name);
    request.ifr_mtu = mtu;
    ASSERT_EQ(ioctl(fd_, SIOCSIFMTU, &request), 0);
  }

 private:
  static ifreq Named(const char* name) {
    ifreq request{};
    std::snprintf(request.ifr_name, IFNAMSIZ, "%s", name);
    return request;
  }
  const int fd_;
};

struct TapWorld {
  explicit TapWorld(uint16_t queues = 1) {
    for (int side = 0; side < 2; ++side) {
      auto made = CreateTapPort(loop.loop(), {.name = names[side], .queues = queues});
      EXPECT_TRUE(made.ok()) << made.status();
      ports[side] = *std::move(made);
    }
    kernel.AddBridge();
    for (const char* name : names) kernel.Join(name);
    loop.Start();
  }
  ~TapWorld() { loop.Stop(); }
  NetworkPort& port(int side) { return *ports[side]; }
  static constexpr bool kKeepsAll = false;
  static constexpr bool kCarriesVlans = true;
  static constexpr const char* names[2] = {"hv0", "hv1"};

  Kernel kernel;
  LoopThread loop;
  std::unique_ptr<NetworkPort> ports[2];
};
INSTANTIATE_TYPED_TEST_SUITE_P(Tap, PortTest, TapWorld);

TEST(TapPortTest, QueuesShareByFlow) {
  TapWorld world(4);
  std::mt19937 random(TestSeed());
  ASSERT_EQ(world.port(1).info().queues, 4);
  TestAdapter a(world.port(0)), b(world.port(1));
  a.Attach(), b.Attach();
  std::map<uint16_t, std::set<uint32_t>> flows;
  size_t total = 0;
  const auto look = [&] {
    for (uint16_t queue = 0; queue < 4; ++queue) {
      for (const TestFrame& frame : b.TryReceive(100, 2000, queue)) {
        ++total;
        flows[queue].insert(NumberOf(frame));
      }
    }
  };
  for (uint32_t i = 0; i < 200; ++i) {
    ethernet::FrameSpec spec = SpecOf(0, i % 20, random, 10);
    spec.from_port = static_cast<uint16_t>(1000 + i % 20);
    a.Send({ethernet::MakeFrame(spec), {}}, random, static_cast<uint16_t>(i % 4));
    look();
  }
  while (total < 200) {
    const uint64_t seen = b.told_of_frames();
    look();
    if (total < 200) {
      ASSERT_TRUE(b.WaitForFrames(seen)) << total;
    }
  }
  EXPECT_GT(flows.size(), 1u);
  size_t of_one_queue = 0;
  for (const auto& [queue, numbers] : flows) of_one_queue += numbers.size();
  EXPECT_EQ(of_one_queue, 20u) << "a flow was in two queues";
}

TEST(TapPortTest, AClientOfOneQueueGetsAll) {
  TapWorld world(4);
  std::mt19937 random(TestSeed());
  TestAdapter a(world.port(0)), b(world.port(1));
  a.Attach();
  NetworkPortInfo one = world.port(1).info();
  one.queues = 1;
  b.Attach(one);
  for (uint32_t i = 0; i < 40; ++i) {
    ethernet::FrameSpec spec = SpecOf(0, i, random, 10);
    spec.from_port = static_cast<uint16_t>(1000 + i);
    a.Send({ethernet::MakeFrame(spec), {}}, random);
    ASSERT_EQ(b.Receive(1).size(), 1u);
  }
}

TEST(TapPortTest, TheDevicesMtuIsThePorts) {
  Kernel kernel;
  LoopThread loop;
  // One that stays while nobody has it.
  const int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
  ifreq request{};
  std::snprintf(request.ifr_name, IFNAMSIZ, "hv5");
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  ASSERT_EQ(ioctl(fd, TUNSETIFF, &request), 0);
  kernel.SetMtu("hv5", 9000);
  auto port = CreateTapPort(loop.loop(), {.descriptors = {fd}});
  ASSERT_TRUE(port.ok()) << port.status();
  EXPECT_EQ((*port)->info().mtu_bytes, 9000u);
  const auto busy = CreateTapPort(loop.loop(), {.name = "hv5"});
  EXPECT_FALSE(busy.ok());
  EXPECT_NE(busy.status().message().find("hv5"), absl::string_view::npos) << busy.status();
}

TEST(TapPortTest, BadOptions) {
  LoopThread loop;
  EXPECT_FALSE(CreateTapPort(loop.loop(), {}).ok());
  EXPECT_FALSE(CreateTapPort(loop.loop(), {.name = "a-name-far-too-long"}).ok());
  EXPECT_FALSE(CreateTapPort(loop.loop(), {.name = "hv0", .queues = 0}).ok());
  EXPECT_FALSE(CreateTapPort(loop.loop(), {.name = "hv0", .mtu_bytes = 67}).ok());
  EXPECT_FALSE(CreateTapPort(loop.loop(), {.descriptors = {open("/dev/null", O_RDWR)}}).ok());
  const int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
  ifreq request{};
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  ASSERT_EQ(ioctl(fd, TUNSETIFF, &request), 0);
  EXPECT_FALSE(CreateTapPort(loop.loop(), {.descriptors = {fd}}).ok());
}

}  // namespace
}  // namespace hvsdk::network

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (unshare(CLONE_NEWNET) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) {
    std::printf("skipped: no network namespace of its own: %s\n", std::strerror(errno));
    return 77;
  }
  // A device that comes up would speak IPv6 of its own accord.
  for (const char* which : {"all", "default"}) {
    const std::string path = std::string("/proc/sys/net/ipv6/conf/") + which + "/disable_ipv6";
    if (access(path.c_str(), F_OK) != 0) continue;
    FILE* const file = std::fopen(path.c_str(), "w");
    if (file == nullptr || std::fputs("1\n", file) < 0 || std::fclose(file) != 0) {
      std::printf("skipped: %s: %s\n", path.c_str(), std::strerror(errno));
      return 77;
    }
  }
  if (access("/dev/net/tun", R_OK | W_OK) != 0) {
    std::printf("skipped: /dev/net/tun: %s\n", std::strerror(errno));
    return 77;
  }
  return RUN_ALL_TESTS();
}
