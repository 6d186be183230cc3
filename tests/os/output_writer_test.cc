// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/os/output_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include <condition_variable>
#include <mutex>
#include <random>
#include <string>
#include <thread>

#include "gtest/gtest.h"
#include "tests/random_seed.h"

namespace hvsdk::os {
namespace {

using namespace std::chrono_literals;

// What somebody else reads, or does not: each kind with its own way to be full.
class OutputWriterTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    // Abseil's table of messages is made by whoever needs it first, in code that ThreadSanitizer does not see.
    (void)absl::ErrnoToStatus(EPIPE, "");
    if (GetParam() == "terminal") {
      ASSERT_EQ(openpty(&reader_, &writer_, nullptr, nullptr, nullptr), 0);
      termios raw;
      tcgetattr(writer_, &raw);
      cfmakeraw(&raw);
      tcsetattr(writer_, TCSANOW, &raw);
    } else if (GetParam() == "pipe") {
      int ends[2];
      ASSERT_EQ(pipe(ends), 0);
      reader_ = ends[0];
      writer_ = ends[1];
    } else {
      int ends[2];
      ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
      reader_ = ends[0];
      writer_ = ends[1];
    }
  }
  void TearDown() override {
    close(reader_);
    close(writer_);
  }

  std::string Read(size_t size) {
    std::string text(size, '\0');
    size_t got = 0;
    while (got < size) {
      const ssize_t piece = read(reader_, &text[got], size - got);
      if (piece <= 0) break;
      got += piece;
    }
    text.resize(got);
    return text;
  }

  // Puts until the writer has refused something for a while.
  size_t Fill(OutputWriter& writer) {
    size_t total = 0;
    const std::string piece(1000, 'x');
    for (int refused = 0; refused < 10;) {
      const size_t taken = writer.Put(piece);
      total += taken;
      refused = taken == piece.size() ? 0 : refused + 1;
      if (refused != 0) std::this_thread::sleep_for(10ms);
    }
    return total;
  }

  int reader_ = -1, writer_ = -1;
};

TEST_P(OutputWriterTest, AnUnreadDescriptorHoldsUpNobody) {
  auto writer = *OutputWriter::Create(writer_, {});
  const size_t put = Fill(*writer);
  EXPECT_GE(put, 16384u);
  EXPECT_FALSE(writer->Flush(10ms));
  EXPECT_EQ(fcntl(writer_, F_GETFL) & O_NONBLOCK, 0) << "the descriptor is others', too";
  // Others write to it as ever, and the thread that hangs in its write is left behind.
  const auto start = std::chrono::steady_clock::now();
  writer.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
}

TEST_P(OutputWriterTest, EverythingArrivesInOrder) {
  const uint32_t seed = TestSeed();
  std::mt19937 random(seed);
  std::string sent(1 << 20, '\0');
  for (char& c : sent) c = static_cast<char>(random());
  std::mutex mutex;
  std::condition_variable changed;
  bool room = false;
  auto writer = *OutputWriter::Create(writer_, {.on_room = [&] {
                                        std::lock_guard lock(mutex);
                                        room = true;
                                        changed.notify_one();
                                      }});
  std::string got;
  std::thread reader([&] { got = Read(sent.size()); });
  for (size_t at = 0; at < sent.size();) {
    const size_t size = std::min<size_t>(random() % 30000, sent.size() - at);
    const size_t taken = writer->Put({sent.data() + at, size});
    at += taken;
    if (taken == size) continue;
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return std::exchange(room, false); });
  }
  EXPECT_TRUE(writer->Flush(60s));
  EXPECT_EQ(writer->written_bytes(), sent.size());
  reader.join();
  EXPECT_TRUE(got == sent);
}

TEST_P(OutputWriterTest, WholePiecesOrNone) {
  auto writer = *OutputWriter::Create(writer_, {});
  const std::string piece(1000, 'x');
  size_t put = 0;
  while (writer->PutWhole(piece, 50ms)) put += piece.size();
  // Patience ends once, not for each piece.
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 1000; ++i) EXPECT_FALSE(writer->PutWhole(piece, 50ms));
  EXPECT_LT(std::chrono::steady_clock::now() - start, 10s);
  // Once its reader has caught up, all is as before.
  EXPECT_EQ(Read(put), std::string(put, 'x'));
  EXPECT_TRUE(writer->Flush(60s));
  EXPECT_TRUE(writer->PutWhole("more", 50ms));
  EXPECT_EQ(Read(4), "more");
  EXPECT_FALSE(writer->PutWhole(std::string(16385, 'x'), 50ms)) << "never has room";
}

TEST_P(OutputWriterTest, AReaderThatGoesAwayIsAnError) {
  auto writer = *OutputWriter::Create(writer_, {});
  close(reader_);
  reader_ = -1;
  writer->Put("x");
  EXPECT_TRUE(writer->Flush(60s));
  EXPECT_FALSE(writer->status().ok());
  EXPECT_EQ(writer->Put(std::string(100'000, 'x')), 100'000u) << "forgotten";
  EXPECT_TRUE(writer->PutWhole(std::string(100'000, 'x'), 0ms));
}

INSTANTIATE_TEST_SUITE_P(Kinds, OutputWriterTest, ::testing::Values("terminal", "pipe", "socket"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace hvsdk::os
