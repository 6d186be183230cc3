// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/serial_console.h"

#include <fcntl.h>
#include <pthread.h>
#include <pty.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <random>
#include <string>
#include <thread>
#include <utility>

#include "absl/types/optional.h"
#include "gtest/gtest.h"
#include "hvsdk/chipset/uart16550.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"

namespace hvsdk::vmm {
namespace {

using namespace std::chrono_literals;
using chipset::Uart16550;

std::string RandomBytes(size_t size) {
  const uint32_t seed = TestSeed();
  std::mt19937 random(seed);
  std::string bytes(size, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  return bytes;
}

// A console between two descriptors' other ends and a port, whose guest's side is on the test's thread. The loop has another.
class SerialConsoleTest : public ::testing::Test {
 protected:
  SerialConsoleTest() : loop_(*os::EventLoop::Create()) {}
  ~SerialConsoleTest() override {
    StopLoop();
    if (console_.has_value() && attached_) console_->Detach();
    console_.reset();
    for (const int fd : descriptors_) close(fd);
  }

  // The two ends of a pipe, socket or terminal: ours, and the console's.
  std::pair<int, int> Ends(const std::string& kind, bool console_reads) {
    int ends[2];
    if (kind == "terminal") {
      EXPECT_EQ(openpty(&ends[0], &ends[1], nullptr, nullptr, nullptr), 0);
      termios raw;
      tcgetattr(ends[1], &raw);
      cfmakeraw(&raw);
      raw.c_cc[VMIN] = 0;
      tcsetattr(ends[1], TCSANOW, &raw);
    } else if (kind == "socket") {
      EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    } else {
      EXPECT_EQ(pipe(ends), 0);
      if (console_reads) std::swap(ends[0], ends[1]);
    }
    descriptors_.insert(descriptors_.end(), {ends[0], ends[1]});
    return {ends[0], ends[1]};
  }

  void Start(SerialConsole::Options options) {
    console_.emplace(*loop_, std::move(options));
    Attach();
  }
  void Attach() {
    const auto look = [this] { loop_->Schedule(*console_); };
    uart_ = std::make_unique<Uart16550>(Uart16550::Hooks{.irq = nullptr, .output_ready = look, .input_room = look});
    WritePort(2, 1);  // with FIFOs
    ASSERT_TRUE(console_->Attach(*uart_).ok());
    attached_ = true;
    thread_ = std::thread([this] { loop_->Run(); });
  }
  // Processor time that the loop has used.
  int LoopCpuMs() {
    clockid_t clock;
    timespec used{};
    EXPECT_EQ(pthread_getcpuclockid(thread_.native_handle(), &clock), 0);
    clock_gettime(clock, &used);
    return static_cast<int>(used.tv_sec * 1000 + used.tv_nsec / 1'000'000);
  }
  void StopLoop() {
    if (!thread_.joinable()) return;
    loop_->Stop();
    thread_.join();
  }

  uint8_t ReadPort(uint64_t offset) {
    uint8_t value = 0;
    uart_->Read(offset, {&value, 1});
    return value;
  }
  void WritePort(uint64_t offset, uint8_t value) { uart_->Write(offset, {&value, 1}); }
  // What the guest writes until the port has said for a while that it is full.
  std::string GuestFills() {
    std::string sent;
    for (auto last = std::chrono::steady_clock::now(); std::chrono::steady_clock::now() - last < 300ms;) {
      if ((ReadPort(5) & 0x20) == 0) {
        std::this_thread::sleep_for(1ms);
        continue;
      }
      sent += static_cast<char>('a' + sent.size() % 26);
      WritePort(0, static_cast<uint8_t>(sent.back()));
      last = std::chrono::steady_clock::now();
    }
    return sent;
  }
  // What the guest reads, until it has `size` bytes or gets nothing for a while.
  std::string GuestReads(size_t size, std::chrono::milliseconds patience = 60s) {
    std::string got;
    auto last = std::chrono::steady_clock::now();
    int looks = 0;
    while (got.size() < size) {
      if ((ReadPort(5) & 1) != 0) {
        got += static_cast<char>(ReadPort(0));
        last = std::chrono::steady_clock::now();
        looks = 0;
      } else if (std::chrono::steady_clock::now() - last > patience) {
        break;
      } else if (++looks > 50) {
        // And no yield, which would be a whole time slice of whoever else wants the processor.
        std::this_thread::sleep_for(std::chrono::microseconds(1));
      }
    }
    return got;
  }

  std::unique_ptr<os::EventLoop> loop_;
  absl::optional<SerialConsole> console_;
  std::unique_ptr<Uart16550> uart_;
  bool attached_ = false;
  std::thread thread_;
  std::vector<int> descriptors_;
};

class SerialConsoleKindTest : public SerialConsoleTest, public ::testing::WithParamInterface<std::string> {};

// A receiver that does not read makes the port wait, not the loop; and gets everything once it reads.
TEST_P(SerialConsoleKindTest, OutputWaitsAlone) {
  const auto [reader, writer] = Ends(GetParam(), /*console_reads=*/false);
  Start({.output_fd = writer});
  const std::string sent = GuestFills();
  EXPECT_GT(sent.size(), 65536u);
  EXPECT_LT(sent.size(), 2u << 20) << "nothing grows";
  struct Answer : Task {
    void Run() override { done = true; }
    std::atomic<bool> done{false};
  } answer;
  loop_->Schedule(answer);
  for (int i = 0; i < 10'000 && !answer.done; ++i) std::this_thread::sleep_for(1ms);
  EXPECT_TRUE(answer.done) << "the loop hangs";
  loop_->Drain(answer);

  std::string got(sent.size(), '\0');
  for (size_t at = 0; at < got.size();) {
    const ssize_t piece = read(reader, &got[at], got.size() - at);
    ASSERT_GT(piece, 0);
    at += piece;
  }
  EXPECT_TRUE(got == sent);
  StopLoop();
  console_->Detach();
  attached_ = false;
  EXPECT_TRUE(console_->output_status().ok()) << console_->output_status();
}

TEST_P(SerialConsoleKindTest, WhatNobodyTookIsSaid) {
  const auto [reader, writer] = Ends(GetParam(), /*console_reads=*/false);
  Start({.output_fd = writer});
  GuestFills();
  StopLoop();
  const auto start = std::chrono::steady_clock::now();
  EXPECT_FALSE(console_->Flush([] { return false; }));
  console_->Detach();
  attached_ = false;
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
  EXPECT_EQ(console_->output_status().code(), absl::StatusCode::kDeadlineExceeded);
}

// However fast it comes, and however much.
TEST_P(SerialConsoleKindTest, EveryByteArrivesInOrder) {
  const auto [writer, reader] = Ends(GetParam(), /*console_reads=*/true);
  Start({.output_fd = open("/dev/null", O_WRONLY | O_CLOEXEC), .input_fd = reader});
  const std::string sent = RandomBytes(ScaledCount(1 << 17));
  std::thread typist([&, fd = writer] {
    for (size_t at = 0; at < sent.size();) {
      const ssize_t piece = write(fd, sent.data() + at, sent.size() - at);
      if (piece > 0) at += piece;
    }
  });
  const std::string got = GuestReads(sent.size());
  EXPECT_EQ(got.size(), sent.size());
  EXPECT_TRUE(got == sent);
  typist.join();
}

// What the guest does not read stays where it is, and costs nothing.
TEST_P(SerialConsoleKindTest, ReadingStopsWithoutRoom) {
  const auto [writer, reader] = Ends(GetParam(), /*console_reads=*/true);
  Start({.output_fd = open("/dev/null", O_WRONLY | O_CLOEXEC), .input_fd = reader});
  fcntl(writer, F_SETFL, O_NONBLOCK);
  const std::string sent = RandomBytes(4 << 20);
  size_t taken = 0;
  for (auto last = std::chrono::steady_clock::now(); std::chrono::steady_clock::now() - last < 500ms;) {
    const ssize_t piece = write(writer, sent.data() + taken, std::min<size_t>(sent.size() - taken, 4096));
    if (piece <= 0) {
      std::this_thread::sleep_for(1ms);
      continue;
    }
    taken += piece;
    last = std::chrono::steady_clock::now();
  }
  EXPECT_LT(taken, sent.size()) << "somebody keeps everything";
  const int before = LoopCpuMs();
  std::this_thread::sleep_for(500ms);
  EXPECT_LT(LoopCpuMs(), before + 250) << "it looks again and again";
  const std::string got = GuestReads(taken);
  EXPECT_TRUE(got == sent.substr(0, taken));
}

INSTANTIATE_TEST_SUITE_P(Kinds, SerialConsoleKindTest, ::testing::Values("terminal", "pipe", "socket"),
                         [](const auto& info) { return info.param; });

TEST_F(SerialConsoleTest, AFileIsReadToItsEnd) {
  char path[] = "/tmp/hvsdk_console_XXXXXX";
  const int file = mkstemp(path);
  unlink(path);
  descriptors_.push_back(file);
  const std::string sent = RandomBytes(200'000);
  ASSERT_EQ(pwrite(file, sent.data(), sent.size(), 0), static_cast<ssize_t>(sent.size()));
  Start({.output_fd = open("/dev/null", O_WRONLY | O_CLOEXEC), .input_fd = file});
  EXPECT_TRUE(GuestReads(sent.size()) == sent);
  EXPECT_EQ(GuestReads(1, 50ms), "");
}

// A look at the descriptor for each 16 bytes would cost more than the guest's own work.
TEST_F(SerialConsoleTest, ReadingGoesOnOnceThereIsMuchRoom) {
  const auto [writer, reader] = Ends("pipe", /*console_reads=*/true);
  ASSERT_GE(fcntl(writer, F_SETPIPE_SZ, 1 << 18), 1 << 18);
  const std::string sent = RandomBytes(1 << 18);
  ASSERT_EQ(write(writer, sent.data(), sent.size()), static_cast<ssize_t>(sent.size()));
  Start({.output_fd = open("/dev/null", O_WRONLY | O_CLOEXEC), .input_fd = reader});
  const auto unread = [fd = reader] {
    int size = 0;
    for (int before = -1; before != size;) {
      before = std::exchange(size, 0);
      std::this_thread::sleep_for(100ms);
      ioctl(fd, FIONREAD, &size);
    }
    return size;
  };
  const int full = unread();
  ASSERT_GT(full, 0);
  std::string got = GuestReads(1000);
  EXPECT_EQ(unread(), full);
  got += GuestReads(50'000);
  EXPECT_LT(unread(), full - 30'000);
  got += GuestReads(sent.size() - got.size());
  EXPECT_TRUE(got == sent);
}

// A machine that starts again has no port for a while.
TEST_F(SerialConsoleTest, WhatCameBeforeThePortArrives) {
  const auto [writer, reader] = Ends("pipe", /*console_reads=*/true);
  const std::string sent = RandomBytes(200'000);
  ASSERT_GE(fcntl(writer, F_SETPIPE_SZ, 1 << 18), 1 << 18);
  ASSERT_EQ(write(writer, sent.data(), sent.size()), static_cast<ssize_t>(sent.size()));
  console_.emplace(*loop_,
                   SerialConsole::Options{.output_fd = open("/dev/null", O_WRONLY | O_CLOEXEC), .input_fd = reader});
  loop_->RunFor(100ms);
  Attach();
  EXPECT_TRUE(GuestReads(sent.size()) == sent);
}

TEST_F(SerialConsoleTest, WhatCameBeforeTheEndArrives) {
  const auto [writer, reader] = Ends("pipe", /*console_reads=*/true);
  const std::string sent = RandomBytes(50'000);
  ASSERT_EQ(write(writer, sent.data(), sent.size()), static_cast<ssize_t>(sent.size()));
  Start({.output_fd = open("/dev/null", O_WRONLY | O_CLOEXEC), .input_fd = reader});
  std::this_thread::sleep_for(20ms);
  close(writer);
  descriptors_.erase(std::find(descriptors_.begin(), descriptors_.end(), writer));
  std::this_thread::sleep_for(20ms);
  const int before = LoopCpuMs();
  std::this_thread::sleep_for(500ms);
  EXPECT_LT(LoopCpuMs(), before + 250) << "the end is looked at again and again";
  EXPECT_TRUE(GuestReads(sent.size()) == sent);
}

TEST_F(SerialConsoleTest, OneMachineAtATime) {
  Start({.output_fd = open("/dev/null", O_WRONLY | O_CLOEXEC)});
  chipset::Uart16550 another({});
  EXPECT_TRUE(absl::IsFailedPrecondition(console_->Attach(another)));
}

// Two readers of one pipe: what poll has seen, the other has taken.
TEST_F(SerialConsoleTest, AnotherReaderDoesNotHoldUpTheLoop) {
  const auto [writer, reader] = Ends("pipe", /*console_reads=*/true);
  Start({.output_fd = open("/dev/null", O_WRONLY | O_CLOEXEC), .input_fd = reader});
  std::atomic<bool> stop{false};
  std::thread thief([&, fd = dup(reader)] {
    char byte;
    while (!stop) (void)!read(fd, &byte, 1);
    close(fd);
  });
  for (int i = 0; i < 2000; ++i) ASSERT_EQ(write(writer, "x", 1), 1);
  StopLoop();  // in which it waits for none
  stop = true;
  ASSERT_EQ(write(writer, "xxxx", 4), 4);
  thief.join();
}

TEST_F(SerialConsoleTest, TheEscapeIsFoundAcrossReads) {
  const auto [writer, reader] = Ends("terminal", /*console_reads=*/true);
  std::atomic<int> quits{0};
  Start({.output_fd = open("/dev/null", O_WRONLY | O_CLOEXEC), .input_fd = reader, .on_quit = [&] { ++quits; }});
  const auto type = [&, fd = writer](absl::string_view keys) {
    ASSERT_EQ(write(fd, keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
    std::this_thread::sleep_for(20ms);
  };
  type("a\x01");
  type("a");
  type("b\x01\x01\x01");
  type("qc\x01");
  EXPECT_EQ(quits, 0);
  type("x");
  type("d");
  EXPECT_EQ(GuestReads(6),
            "a\x01"
            "b\x01"
            "cd");
  EXPECT_EQ(quits, 1);
  EXPECT_EQ(GuestReads(1, 50ms), "");
}

TEST_F(SerialConsoleTest, WithoutAnEscapeEveryByteIsTheGuests) {
  const auto [writer, reader] = Ends("pipe", /*console_reads=*/true);
  Start({.output_fd = open("/dev/null", O_WRONLY | O_CLOEXEC), .input_fd = reader});
  ASSERT_EQ(write(writer, "\x01x\x01\x01", 4), 4);
  EXPECT_EQ(GuestReads(4), "\x01x\x01\x01");
}

}  // namespace
}  // namespace hvsdk::vmm
