// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/machine/tracer.h"

#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/random_seed.h"

namespace hvsdk::machine {
namespace {

class TracerTest : public ::testing::Test {
 protected:
  TracerTest() : fd_(mkstemp(path_)) { unlink(path_); }
  ~TracerTest() override { close(fd_); }

  std::string Text() {
    std::string text(lseek(fd_, 0, SEEK_END), '\0');
    EXPECT_EQ(pread(fd_, text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
    return text;
  }
  // The events of the file, parsed by somebody else's JSON parser.
  std::vector<google::protobuf::Struct> Events() {
    google::protobuf::ListValue list;
    const auto status = google::protobuf::util::JsonStringToMessage(Text(), &list);
    EXPECT_TRUE(status.ok()) << status.ToString();
    std::vector<google::protobuf::Struct> events;
    for (const auto& value : list.values()) events.push_back(value.struct_value());
    return events;
  }

  char path_[32] = "/tmp/hvsdk_tracer_XXXXXX";
  int fd_;
};

TEST_F(TracerTest, WritesEvents) {
  Tracer tracer;
  tracer.NameTrack(3, "VP 3");
  EXPECT_EQ(Text(), "");
  ASSERT_TRUE(tracer.Start(fd_).ok());
  const uint64_t start = tracer.NowNs();
  tracer.Span(3, "exit", "port read", start, R"("address":"0x3f8")");
  tracer.Instant(Tracer::kVmbusTrack, "vmbus", "unload", "");
  EXPECT_TRUE(tracer.Flush().ok());
  const auto events = Events();
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[1].fields().at("args").struct_value().fields().at("name").string_value(), "VP 3");
  EXPECT_EQ(events[2].fields().at("name").string_value(), "port read");
  EXPECT_EQ(events[2].fields().at("ph").string_value(), "X");
  EXPECT_EQ(events[2].fields().at("tid").number_value(), 3);
  EXPECT_GE(events[2].fields().at("dur").number_value(), 0);
  EXPECT_EQ(events[3].fields().at("ph").string_value(), "i");
}

TEST_F(TracerTest, AnyTextIsEscaped) {
  std::string text;
  for (int c = 0; c < 256; ++c) text += static_cast<char>(c);
  Tracer tracer;
  ASSERT_TRUE(tracer.Start(fd_).ok());
  tracer.Instant(0, "test", text, R"("m":)" + Tracer::Quote(text));
  EXPECT_TRUE(tracer.Flush().ok());
  const auto events = Events();
  ASSERT_EQ(events.size(), 2u);
}

// At every moment the file is whole: nobody has to end a trace.
TEST_F(TracerTest, IsValidAfterEveryWrite) {
  const uint32_t seed = TestSeed();
  std::mt19937 random(seed);
  auto tracer = std::make_unique<Tracer>();
  ASSERT_TRUE(tracer->Start(fd_).ok());
  size_t written = 1;
  for (int round = 0; round < 20; ++round) {
    for (int i = random() % 50; i > 0; --i) {
      tracer->Instant(random() % 4, "test", std::string(random() % 3000, 'x'), "");
      ++written;
    }
    ASSERT_TRUE(tracer->Flush().ok());
    ASSERT_EQ(Events().size(), written);
  }
}

TEST_F(TracerTest, ManyThreads) {
  {
    Tracer tracer;
    ASSERT_TRUE(tracer.Start(fd_).ok());
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < 1000; ++i) tracer.Span(t, "test", "work", tracer.NowNs(), "");
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  EXPECT_EQ(Events().size(), 4001u);
}

// A file that cannot grow leaves the events that were written, and no error but Flush's answer.
TEST_F(TracerTest, FullDisk) {
  rlimit before;
  getrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, SIG_IGN);
  const rlimit small{100'000, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  Tracer tracer;
  ASSERT_TRUE(tracer.Start(fd_).ok());
  for (int i = 0; i < 5000; ++i) tracer.Instant(0, "test", "event", "");
  EXPECT_EQ(tracer.Flush(), absl::ErrnoToStatus(EFBIG, "cannot be written"));
  setrlimit(RLIMIT_FSIZE, &before);
  tracer.Instant(0, "test", "event", "");
  EXPECT_EQ(tracer.Finish(), absl::ErrnoToStatus(EFBIG, "cannot be written")) << "the first error stays";
  EXPECT_GT(Events().size(), 100u);
}

// The document ends when the trace does.
TEST_F(TracerTest, Pipe) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  std::string text;
  std::thread reader([&] {
    char piece[4096];
    for (ssize_t got; (got = read(ends[0], piece, sizeof(piece))) > 0;) text.append(piece, got);
  });
  {
    Tracer tracer;
    ASSERT_TRUE(tracer.Start(ends[1]).ok());
    for (int i = 0; i < 5000; ++i) tracer.Instant(0, "test", "event", "");
    EXPECT_TRUE(tracer.Flush().ok());
    EXPECT_TRUE(tracer.Finish().ok());
    tracer.Instant(0, "test", "too late", "");
  }
  close(ends[1]);
  reader.join();
  close(ends[0]);
  EXPECT_EQ(pwrite(fd_, text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  EXPECT_EQ(Events().size(), 5001u);
}

TEST_F(TracerTest, PipeWithoutAReader) {
  signal(SIGPIPE, SIG_IGN);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  close(ends[0]);
  Tracer tracer;
  ASSERT_TRUE(tracer.Start(ends[1]).ok());
  EXPECT_EQ(tracer.Finish(), absl::ErrnoToStatus(EPIPE, "cannot be written"));
  close(ends[1]);
}

std::vector<google::protobuf::Struct> Parse(const std::string& text) {
  google::protobuf::ListValue list;
  const auto status = google::protobuf::util::JsonStringToMessage(text, &list);
  EXPECT_TRUE(status.ok()) << status.ToString();
  std::vector<google::protobuf::Struct> events;
  for (const auto& value : list.values()) events.push_back(value.struct_value());
  return events;
}

// Nobody reads: those who have events go on, the end comes, and what was lost is said once somebody reads.
TEST_F(TracerTest, UnreadPipe) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  constexpr size_t kEvents = 100'000;
  auto tracer = std::make_unique<Tracer>();
  ASSERT_TRUE(tracer->Start(ends[1]).ok());
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (size_t i = 0; i < kEvents / 4; ++i) tracer->Instant(0, "test", "event", "");
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(tracer->Flush().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));

  std::string text;
  std::thread reader([&] {
    char piece[4096];
    for (ssize_t got; (got = read(ends[0], piece, sizeof(piece))) > 0;) text.append(piece, got);
  });
  while (!tracer->Flush().ok()) {
  }
  tracer->Lost(1000);
  tracer->Instant(0, "test", "event", "");
  EXPECT_TRUE(tracer->Finish().ok());
  tracer.reset();
  close(ends[1]);
  reader.join();
  close(ends[0]);
  size_t seen = 0, lost = 0;
  for (const auto& event : Parse(text)) {
    if (event.fields().at("name").string_value() == "event") ++seen;
    if (event.fields().at("name").string_value() == "lost") {
      lost += event.fields().at("args").struct_value().fields().at("events").number_value();
    }
  }
  EXPECT_GT(lost, 1000u);
  EXPECT_EQ(seen + lost, kEvents + 1001);
}

TEST_F(TracerTest, EndsWithoutItsReader) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  Tracer tracer;
  ASSERT_TRUE(tracer.Start(ends[1]).ok());
  for (int i = 0; i < 10'000; ++i) tracer.Instant(0, "test", "event", "");
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(tracer.Finish().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  close(ends[0]);
  close(ends[1]);
}

}  // namespace
}  // namespace hvsdk::machine
