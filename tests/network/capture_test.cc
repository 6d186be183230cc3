// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/network/capture.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>

#include "hvsdk/base/fake_clock.h"
#include "hvsdk/network/switch.h"
#include "tests/network/port_suite.h"

namespace hvsdk::network {
namespace {

class File {
 public:
  File() {
    std::snprintf(path_, sizeof(path_), "%s", "/tmp/hvsdk-capture-XXXXXX");
    fd_ = mkstemp(path_);
  }
  ~File() {
    close(fd_);
    unlink(path_);
  }
  int fd() const { return fd_; }
  Bytes Read() const {
    std::ifstream file(path_, std::ios::binary);
    return Bytes(std::istreambuf_iterator<char>(file), {});
  }

 private:
  char path_[64];
  int fd_;
};

struct CapturedWorld {
  CapturedWorld() {
    for (int side = 0; side < 2; ++side) {
      ports[side] = std::make_unique<CapturedPort>(*lan.AddPort({}));
      EXPECT_TRUE(ports[side]->Start(files[side].fd()).ok());
    }
  }
  NetworkPort& port(int side) { return *ports[side]; }
  static constexpr bool kKeepsAll = false;
  static constexpr bool kCarriesVlans = true;

  FakeClock clock;
  Switch lan{clock};
  File files[2];
  std::unique_ptr<CapturedPort> ports[2];
};
INSTANTIATE_TYPED_TEST_SUITE_P(Captured, PortTest, CapturedWorld);

uint32_t Little(const Bytes& bytes, size_t at) {
  return bytes[at] | bytes[at + 1] << 8 | bytes[at + 2] << 16 | uint32_t{bytes[at + 3]} << 24;
}

TEST(CaptureTest, TheFileHasWhatWentThrough) {
  CapturedWorld world;
  std::mt19937 random(TestSeed());
  const auto begin = static_cast<uint32_t>(time(nullptr));
  std::vector<Bytes> expected;
  {
    TestAdapter a(world.port(0)), b(world.port(1));
    a.Attach(), b.Attach();
    for (uint32_t i = 0; i < 200; ++i) {
      ethernet::FrameSpec spec = SpecOf(0, i, random, random() % 1400);
      TestFrame frame{ethernet::MakeFrame(spec), {}};
      Bytes on_wire = frame.bytes;
      if (random() % 3 == 0) {
        spec.protocol = ethernet::kTcp;
        spec.payload = RandomPayload(random, 2000 + random() % 60000);
        frame.bytes = ethernet::MakeFrame(spec);
        frame.offload = ethernet::LeaveSegmentation(frame.bytes, 1400);
        on_wire = frame.bytes;
      }
      if (random() % 3 == 0) {
        frame.offload.has_vlan = true;
        frame.offload.vlan_tci = static_cast<uint16_t>(1 + random() % 4000);
        const Bytes tag = {0x81, 0, static_cast<uint8_t>(frame.offload.vlan_tci >> 8),
                           static_cast<uint8_t>(frame.offload.vlan_tci)};
        on_wire.insert(on_wire.begin() + 12, tag.begin(), tag.end());
      }
      a.Send(frame, random);
      ASSERT_EQ(b.Receive(1).size(), 1u);
      expected.push_back(on_wire);
    }
  }
  for (auto& port : world.ports) port.reset();
  for (const File& file : world.files) {
    const Bytes bytes = file.Read();
    ASSERT_GE(bytes.size(), 24u);
    EXPECT_EQ(Bytes(bytes.begin(), bytes.begin() + 24),
              (Bytes{0x4D, 0x3C, 0xB2, 0xA1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0}));
    size_t at = 24;
    for (const Bytes& frame : expected) {
      ASSERT_GE(bytes.size(), at + 16 + frame.size());
      EXPECT_GE(Little(bytes, at), begin);
      EXPECT_LE(Little(bytes, at), time(nullptr));
      EXPECT_LT(Little(bytes, at + 4), 1'000'000'000u);
      ASSERT_EQ(Little(bytes, at + 8), frame.size());
      ASSERT_EQ(Little(bytes, at + 12), frame.size());
      at += 16;
      ASSERT_TRUE(std::equal(frame.begin(), frame.end(), bytes.begin() + static_cast<std::ptrdiff_t>(at)));
      at += frame.size();
    }
    EXPECT_EQ(at, bytes.size());
  }
}

// A reader that stalls costs frames of the file, and nothing else.
TEST(CaptureTest, NobodyWaitsForTheFile) {
  FakeClock clock;
  Switch lan(clock);
  char path[] = "/tmp/hvsdk-capture-XXXXXX";
  ASSERT_NE(mkdtemp(path), nullptr);
  const std::string fifo = std::string(path) + "/fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  const int reader = open(fifo.c_str(), O_RDONLY | O_NONBLOCK);  // which reads nothing
  ASSERT_GE(reader, 0);
  const int writer = open(fifo.c_str(), O_WRONLY);
  auto port = std::make_unique<CapturedPort>(*lan.AddPort({}));
  ASSERT_TRUE(port->Start(writer).ok());
  close(writer);
  std::mt19937 random(1);
  {
    TestAdapter a(*port);
    a.Attach();
    const Bytes frame = ethernet::MakeFrame(SpecOf(0, 1, random, 1400));
    for (int i = 0; i < 10000; ++i) ASSERT_TRUE(a.TrySend({frame, {}}, random));
  }
  EXPECT_EQ(port->Stop().code(), absl::StatusCode::kDeadlineExceeded);
  port.reset();
  close(reader);
  unlink(fifo.c_str());
  rmdir(path);
}

// On and off, while frames pass.
TEST(CaptureTest, RecordsWhenItIsTold) {
  FakeClock clock;
  Switch lan(clock);
  CapturedPort port(*lan.AddPort({}));
  EXPECT_EQ(port.Stop().code(), absl::StatusCode::kFailedPrecondition);
  std::mt19937 random(1);
  TestAdapter a(port);
  a.Attach();
  const Bytes frame = ethernet::MakeFrame(SpecOf(0, 1, random, 100));
  const auto send = [&] { ASSERT_TRUE(a.TrySend({frame, {}}, random)); };
  send();
  for (size_t count = 1; count < 4; ++count) {
    const File file;
    ASSERT_TRUE(port.Start(file.fd()).ok());
    EXPECT_TRUE(port.is_recorded());
    EXPECT_EQ(port.Start(file.fd()).code(), absl::StatusCode::kFailedPrecondition);
    for (size_t i = 0; i < count; ++i) send();
    EXPECT_TRUE(port.Stop().ok());
    EXPECT_FALSE(port.is_recorded());
    send();
    EXPECT_EQ(file.Read().size(), 24 + count * (16 + frame.size()));
  }
}

}  // namespace
}  // namespace hvsdk::network
