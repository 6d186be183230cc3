// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/network/socket_port.h"

#include <malloc.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <functional>
#include <optional>
#include <string>

#include "tests/network/loop_thread.h"
#include "tests/network/port_suite.h"

namespace hvsdk::network {
namespace {

// A folder of a test's own for sockets.
class Folder {
 public:
  Folder() {
    std::snprintf(path_, sizeof(path_), "%s", "/tmp/hvsdk-socket-XXXXXX");
    EXPECT_NE(mkdtemp(path_), nullptr);
  }
  ~Folder() { EXPECT_EQ(rmdir(path_), 0) << "a socket is left in " << path_; }
  std::string operator/(const std::string& name) const { return std::string(path_) + "/" + name; }

 private:
  char path_[64];
};

bool WaitForLink(const NetworkPort& port, bool up) {
  const auto limit = std::chrono::steady_clock::now() + kPatience;
  while (port.link_is_up() != up) {
    if (std::chrono::steady_clock::now() > limit) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

struct SocketWorld {
  void Make(int side, const SocketPortOptions& options) {
    auto made = CreateSocketPort(loop.loop(), options);
    EXPECT_TRUE(made.ok()) << made.status();
    if (made.ok()) ports[side] = *std::move(made);
  }
  void Go() {
    loop.Start();
    for (const auto& port : ports) EXPECT_TRUE(WaitForLink(*port, true));
  }
  ~SocketWorld() { loop.Stop(); }
  NetworkPort& port(int side) { return *ports[side]; }
  static constexpr bool kKeepsAll = true;
  static constexpr bool kCarriesVlans = true;

  Folder folder;
  LoopThread loop;
  std::unique_ptr<NetworkPort> ports[2];
};

struct StreamWorld : SocketWorld {
  StreamWorld() {
    Make(1, {.path = folder / "a"});  // which is not there yet
    Make(0, {.path = folder / "a", .listens = true});
    Go();
  }
};
struct DatagramWorld : SocketWorld {
  DatagramWorld() {
    for (int side = 0; side < 2; ++side) {
      Make(side, {.path = folder / std::to_string(1 - side), .datagram_path = folder / std::to_string(side)});
    }
    Go();
  }
};
template <int type>
struct PairWorld : SocketWorld {
  PairWorld() {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, type, 0, fds), 0);
    for (int side = 0; side < 2; ++side) Make(side, {.descriptor = fds[side]});
    Go();
  }
};
using Worlds = testing::Types<StreamWorld, DatagramWorld, PairWorld<SOCK_STREAM>, PairWorld<SOCK_DGRAM>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Socket, PortTest, Worlds);

// A peer that is no port: what is on the wire.
class Peer {
 public:
  explicit Peer(const std::string& path, const std::function<void()>& before_it_connects = {})
      : fd_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    if (before_it_connects) before_it_connects();
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::snprintf(address.sun_path, sizeof(address.sun_path), "%s", path.c_str());
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    timeval patience{.tv_sec = kPatience.count()};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  }
  ~Peer() { close(fd_); }
  void Write(const Bytes& bytes) {
    EXPECT_EQ(send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }
  Bytes Read(size_t size) {
    Bytes bytes(size);
    EXPECT_EQ(recv(fd_, bytes.data(), size, MSG_WAITALL), static_cast<ssize_t>(size));
    return bytes;
  }
  bool IsClosed() {
    char none;
    return recv(fd_, &none, 1, 0) <= 0;
  }

 private:
  const int fd_;
};

struct Listening {
  Listening() {
    port = *CreateSocketPort(loop.loop(), {.path = folder / "a", .listens = true});
    adapter.emplace(*port);
    adapter->Attach();
    loop.Start();
  }
  ~Listening() {
    adapter.reset();
    loop.Stop();
  }
  Folder folder;
  LoopThread loop;
  std::unique_ptr<NetworkPort> port;
  std::optional<TestAdapter> adapter;
  std::mt19937 random{TestSeed()};
};

Bytes Wire(const Bytes& frame) {
  Bytes wire(4);
  ethernet::WriteBe32(wire.data(), static_cast<uint32_t>(frame.size()));
  wire.insert(wire.end(), frame.begin(), frame.end());
  return wire;
}

TEST(SocketPortTest, LengthsStandBeforeFramesInPiecesOfAnySize) {
  Listening world;
  Peer peer(world.folder / "a");
  ASSERT_TRUE(WaitForLink(*world.port, true));
  Bytes stream;
  std::vector<Bytes> sent;
  for (uint32_t i = 0; i < 100; ++i) {
    sent.push_back(ethernet::MakeFrame(SpecOf(1, i, world.random, world.random() % 1400)));
    const Bytes wire = Wire(sent.back());
    stream.insert(stream.end(), wire.begin(), wire.end());
    if (world.random() % 8 == 0) {
      const Bytes little = Wire(Bytes(world.random() % 14));  // no frame
      stream.insert(stream.end(), little.begin(), little.end());
    }
  }
  std::thread writer([&] {
    std::mt19937 random(3);
    for (size_t at = 0; at < stream.size();) {
      const size_t size = std::min<size_t>(stream.size() - at, 1 + random() % (random() % 4 == 0 ? 5000 : 5));
      peer.Write(Bytes(stream.begin() + static_cast<std::ptrdiff_t>(at),
                       stream.begin() + static_cast<std::ptrdiff_t>(at + size)));
      at += size;
    }
  });
  const std::vector<TestFrame> got = world.adapter->Receive(sent.size());
  writer.join();
  ASSERT_EQ(got.size(), sent.size());
  for (size_t i = 0; i < sent.size(); ++i) ASSERT_EQ(got[i].bytes, sent[i]);

  world.adapter->Send({sent[0], {.has_vlan = true, .vlan_tci = 0x1234}}, world.random);
  Bytes tagged = sent[0];
  const Bytes tag = {0x81, 0x00, 0x12, 0x34};
  tagged.insert(tagged.begin() + 12, tag.begin(), tag.end());
  EXPECT_EQ(peer.Read(4 + tagged.size()), Wire(tagged));
}

TEST(SocketPortTest, PeersComeAndGo) {
  Listening world;
  for (uint32_t round = 0; round < 5; ++round) {
    Peer peer(world.folder / "a");
    ASSERT_TRUE(WaitForLink(*world.port, true));
    const Bytes frame = ethernet::MakeFrame(SpecOf(1, round, world.random, 100));
    peer.Write(Wire(frame));
    const std::vector<TestFrame> got = world.adapter->Receive(1);
    ASSERT_EQ(got.size(), 1u);
    EXPECT_EQ(got[0].bytes, frame);
    if (round == 2) {
      peer.Write({0x7F, 0, 0, 0});  // a length that no frame has
      while (world.port->link_is_up()) world.adapter->TryReceive(1);
      EXPECT_TRUE(peer.IsClosed());
    } else if (round == 3) {
      peer.Write({0, 0, 1, 0, 1, 2, 3});  // an end in the middle of a frame
    }
    // The peer goes here.
    if (round != 2) {
      Peer next(world.folder / "a");  // and another waits for its place
    }
  }
}

// Without descriptors no peer is taken, but looked for again now and then: not all the time, and not never.
TEST(SocketPortTest, NoDescriptorForAPeer) {
  Listening world;
  rlimit limit;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  Peer peer(world.folder / "a", [&] {
    const rlimit none{.rlim_cur = 0, .rlim_max = limit.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  });
  const std::clock_t before = std::clock();  // of all threads
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  const double seconds = static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;
  EXPECT_FALSE(world.port->link_is_up());
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_LT(seconds, 0.1);
  EXPECT_TRUE(WaitForLink(*world.port, true));
}

TEST(SocketPortTest, WhatIsSentToNobodyIsDropped) {
  Listening world;
  const Bytes frame = ethernet::MakeFrame(SpecOf(0, 1, world.random, 1000));
  for (int i = 0; i < 2000; ++i) ASSERT_TRUE(world.adapter->TrySend({frame, {}}, world.random));
}

// A sender that is held back by a peer goes on when that one is gone.
TEST(SocketPortTest, APeerThatStallsAndGoes) {
  Listening world;
  auto peer = std::make_unique<Peer>(world.folder / "a");
  ASSERT_TRUE(WaitForLink(*world.port, true));
  const Bytes frame = ethernet::MakeFrame(SpecOf(0, 1, world.random, 1000));
  const uint64_t seen = world.adapter->told_of_room();
  while (world.adapter->TrySend({frame, {}}, world.random)) {
  }
  peer.reset();
  EXPECT_TRUE(world.adapter->WaitForRoom(seen));
  EXPECT_TRUE(world.adapter->TrySend({frame, {}}, world.random));
}

// A peer that reads a little at a time, so that there is always something left to be written.
TEST(SocketPortTest, AStreamThatNeverEndsTakesNoMoreMemory) {
  Listening world;
  Peer peer(world.folder / "a");
  ASSERT_TRUE(WaitForLink(*world.port, true));
  const Bytes frame = ethernet::MakeFrame(SpecOf(0, 1, world.random, 1400));
  const auto fill = [&] {
    while (world.adapter->TrySend({frame, {}}, world.random)) {
    }
  };
  fill();
  const size_t before = mallinfo2().uordblks + mallinfo2().hblkhd;
  for (int i = 0; i < 2000; ++i) {
    ASSERT_EQ(peer.Read(16 << 10).size(), size_t{16} << 10);
    fill();
  }
  EXPECT_LT(mallinfo2().uordblks + mallinfo2().hblkhd, before + (size_t{4} << 20));
}

// What is no frame holds a client up for a while and no longer, however much of it comes.
TEST(SocketPortTest, WhatIsNoFrameIsPassedOverInTurns) {
  Listening world;
  Peer peer(world.folder / "a");
  ASSERT_TRUE(WaitForLink(*world.port, true));
  const Bytes frame = ethernet::MakeFrame(SpecOf(0, 7, world.random, 100));
  constexpr size_t kEmpty = 4096;
  Bytes wire(4 * kEmpty);  // lengths of nothing
  wire.resize(4 * kEmpty + 4);
  ethernet::WriteBe32(&wire[4 * kEmpty], static_cast<uint32_t>(frame.size()));
  wire.insert(wire.end(), frame.begin(), frame.end());
  const uint64_t seen = world.adapter->told_of_frames();
  peer.Write(wire);
  EXPECT_TRUE(world.adapter->TryReceive(1).empty());
  ASSERT_TRUE(world.adapter->WaitForFrames(seen));
  const std::vector<TestFrame> frames = world.adapter->Receive(1);
  ASSERT_EQ(frames.size(), 1u);
  EXPECT_EQ(frames[0].bytes, frame);
}

TEST(SocketPortTest, BadOptions) {
  Folder folder;
  LoopThread loop;
  EXPECT_FALSE(CreateSocketPort(loop.loop(), {}).ok());
  EXPECT_FALSE(CreateSocketPort(loop.loop(), {.path = std::string(200, 'a')}).ok());
  EXPECT_FALSE(CreateSocketPort(loop.loop(), {.path = folder / "a", .mtu_bytes = 67}).ok());
  EXPECT_FALSE(CreateSocketPort(loop.loop(), {.path = folder / "a", .listens = true, .datagram_path = "b"}).ok());
  EXPECT_FALSE(CreateSocketPort(loop.loop(), {.path = folder / "no/a", .listens = true}).ok());
  EXPECT_FALSE(CreateSocketPort(loop.loop(), {.path = "a", .descriptor = 0}).ok());
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);
  EXPECT_FALSE(CreateSocketPort(loop.loop(), {.descriptor = fds[0]}).ok());
  close(fds[1]);
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds), 0);
  EXPECT_EQ(CreateSocketPort(loop.loop(), {.descriptor = fds[0]}).status(),
            absl::InvalidArgumentError("fd: a stream or datagram socket is needed"));
  close(fds[1]);
  auto first = CreateSocketPort(loop.loop(), {.path = folder / "a", .listens = true});
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(CreateSocketPort(loop.loop(), {.path = folder / "a", .listens = true}).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace hvsdk::network
