// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/recording.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>
#include <zlib.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/random_seed.h"
#include "tests/viewer/fake_display.h"
#include "vmm/animated_png.h"

namespace hvsdk::vmm {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using viewer::FakeDisplay;

uint32_t Get32(const std::string& from, size_t at) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<uint8_t>(from.at(at + i));
  return value;
}

// What a player makes of a file: the canvas after each picture, and how long it stands.
struct Film {
  uint32_t width = 0, height = 0;
  std::vector<std::vector<uint32_t>> canvases;
  std::vector<double> seconds;
};

std::string Inflate(const std::string& packed, size_t size) {
  std::string plain(size, '\0');
  uLongf got = size;
  EXPECT_EQ(uncompress(reinterpret_cast<Bytef*>(plain.data()), &got, reinterpret_cast<const Bytef*>(packed.data()),
                       packed.size()),
            Z_OK);
  EXPECT_EQ(got, size);
  return plain;
}

Film Play(const std::string& bytes) {
  Film film;
  EXPECT_EQ(bytes.substr(0, 8), std::string("\x89PNG\r\n\x1A\n"));
  uint32_t pictures = 0, sequence = 0;
  Rectangle at;
  bool has_ended = false;
  for (size_t offset = 8; offset < bytes.size();) {
    EXPECT_FALSE(has_ended) << "something follows the end";
    const uint32_t size = Get32(bytes, offset);
    const std::string type = bytes.substr(offset + 4, 4), data = bytes.substr(offset + 8, size);
    EXPECT_EQ(Get32(bytes, offset + 8 + size),
              crc32(0, reinterpret_cast<const Bytef*>(bytes.data() + offset + 4), size + 4))
        << type;
    offset += size + 12;
    if (type == "IHDR") {
      film.width = Get32(data, 0);
      film.height = Get32(data, 4);
      EXPECT_EQ(data.substr(8), std::string("\x08\x02\0\0\0", 5));
    } else if (type == "acTL") {
      pictures = Get32(data, 0);
      EXPECT_EQ(Get32(data, 4), 1u);
    } else if (type == "fcTL") {
      EXPECT_EQ(Get32(data, 0), sequence++);
      at = {Get32(data, 12), Get32(data, 16), Get32(data, 4), Get32(data, 8)};
      const uint32_t delay = Get32(data, 20);
      EXPECT_NE(delay & 0xFFFF, 0u);
      film.seconds.push_back(static_cast<double>(delay >> 16) / (delay & 0xFFFF));
      EXPECT_LE(at.x + at.width, film.width);
      EXPECT_LE(at.y + at.height, film.height);
    } else if (type == "IDAT" || type == "fdAT") {
      EXPECT_EQ(type == "IDAT", film.canvases.empty());
      if (film.canvases.empty()) {
        EXPECT_EQ(at, (Rectangle{0, 0, film.width, film.height}));
        film.canvases.emplace_back(size_t{film.width} * film.height);
      } else {
        EXPECT_EQ(Get32(data, 0), sequence++);
        film.canvases.push_back(film.canvases.back());
      }
      const size_t row_bytes = 1 + size_t{3} * at.width;
      const std::string rows = Inflate(type == "IDAT" ? data : data.substr(4), row_bytes * at.height);
      for (uint32_t y = 0; y < at.height; ++y) {
        EXPECT_EQ(rows[y * row_bytes], 0);
        for (uint32_t x = 0; x < at.width; ++x) {
          film.canvases.back()[size_t{at.y + y} * film.width + at.x + x] =
              Get32(std::string(1, '\0') + rows.substr(y * row_bytes + 1 + 3 * x, 3), 0);
        }
      }
    } else {
      EXPECT_EQ(type, "IEND");
      has_ended = true;
    }
  }
  EXPECT_TRUE(has_ended || bytes.empty());
  EXPECT_EQ(pictures, film.canvases.size());
  return film;
}

class RecordingTest : public testing::Test {
 protected:
  RecordingTest() : loop_(*os::EventLoop::Create()), random_(TestSeed()) {
    char path[] = "/tmp/recording_test.XXXXXX";
    fd_ = mkstemp(path);
    path_ = path;
  }
  ~RecordingTest() override { unlink(path_.c_str()); }

  std::string Read() const {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  std::vector<uint32_t> Shown() const {
    const Frame frame = display_.frame();
    std::vector<uint32_t> pixels;
    for (uint32_t y = 0; y < frame.height; ++y) {
      for (uint32_t x = 0; x < frame.width; ++x) {
        uint32_t pixel;
        std::memcpy(&pixel, frame.pixels + size_t{y} * frame.stride_bytes + 4 * x, 4);
        pixels.push_back(pixel & 0xFFFFFF);
      }
    }
    return pixels;
  }
  void WaitForPictures(size_t count) {
    // What the file says last of a picture.
    const auto pictures = [&] {
      const std::string bytes = Read();
      constexpr size_t kPictures = 8 + 25 + 8;
      return bytes.size() < kPictures + 4 ? 0 : Get32(bytes, kPictures);
    };
    for (int i = 0; i < 5000 && pictures() < count; ++i) loop_->RunFor(std::chrono::milliseconds(2));
  }

  FakeDisplay display_;
  std::unique_ptr<os::EventLoop> loop_;
  std::mt19937 random_;
  int fd_;  // the recording's
  std::string path_;
};

TEST_F(RecordingTest, ShowsWhatWasShown) {
  display_.Show(300, 200);
  auto recording = *Recording::Begin(display_, *loop_, fd_, {});
  WaitForPictures(1);
  std::vector<std::vector<uint32_t>> shown = {Shown()};
  for (int i = 0; i < 10; ++i) {
    const uint32_t x = random_() % 300, y = random_() % 200;
    for (uint32_t n = 0; n < 500; ++n) {
      display_.Draw(std::min(299u, x + n % 25), std::min(199u, y + n / 25), static_cast<uint32_t>(random_()));
    }
    display_.Change({x, y, 25, 20});
    shown.push_back(Shown());
    WaitForPictures(shown.size());
  }
  recording.reset();
  EXPECT_EQ(display_.viewers(), 0u);
  const Film film = Play(Read());
  EXPECT_EQ(film.canvases, shown);
  // 25 a second at most; the last one has no end yet.
  for (size_t i = 0; i + 1 < film.seconds.size(); ++i) EXPECT_GE(film.seconds[i], 0.038) << i;
  EXPECT_EQ(film.seconds.back(), 0);
}

TEST_F(RecordingTest, KeepsItsCanvasWhenModesChange) {
  display_.Show(100, 50);
  for (uint32_t i = 0; i < 5000; ++i) display_.Draw(i % 100, i / 100, 0x112233);
  auto recording = *Recording::Begin(display_, *loop_, fd_, {});
  WaitForPictures(1);
  display_.Show(120, 20);
  for (uint32_t i = 0; i < 2400; ++i) display_.Draw(i % 120, i / 120, 0x445566);
  WaitForPictures(2);
  display_.Change({110, 0, 5, 5});  // beside the canvas, so there is nothing to be seen
  display_.Show(60, 80);
  for (uint32_t i = 0; i < 4800; ++i) display_.Draw(i % 60, i / 60, 0x778899);
  WaitForPictures(3);
  recording.reset();
  const Film film = Play(Read());
  ASSERT_EQ(film.canvases.size(), 3u);
  for (uint32_t y = 0; y < 50; ++y) {
    for (uint32_t x = 0; x < 100; ++x) {
      ASSERT_EQ(film.canvases[0][y * 100 + x], 0x112233u);
      ASSERT_EQ(film.canvases[1][y * 100 + x], y < 20 ? 0x445566u : 0);
      ASSERT_EQ(film.canvases[2][y * 100 + x], x < 60 ? 0x778899u : 0);
    }
  }
}

TEST_F(RecordingTest, EndsAtItsLimit) {
  display_.Show(256, 256);
  std::vector<std::string> ends;
  auto recording = *Recording::Begin(
      display_, *loop_, fd_,
      {.max_bytes = 1 << 20, .on_end = [&](const absl::Status& why) { ends.emplace_back(why.message()); }});
  for (int i = 0; i < 2000 && ends.empty(); ++i) {
    for (uint32_t n = 0; n < 256 * 256; ++n) display_.Draw(n % 256, n / 256, static_cast<uint32_t>(random_()));
    display_.Change({0, 0, 256, 256});
    loop_->RunFor(std::chrono::milliseconds(10));
  }
  EXPECT_THAT(ends, ElementsAre("the recording has reached its limit, 1 MiB"));
  EXPECT_EQ(display_.viewers(), 0u);
  const size_t size = Read().size();
  EXPECT_GE(size, 1u << 20);
  EXPECT_LT(size, (1u << 20) + 256 * 256 * 4);
  Play(Read());
}

TEST_F(RecordingTest, IsWholeWhereTheFileMayNotGrow) {
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit, before;
  getrlimit(RLIMIT_FSIZE, &before);
  limit = before;
  limit.rlim_cur = 300'000;
  setrlimit(RLIMIT_FSIZE, &limit);
  display_.Show(128, 128);
  std::vector<std::string> ends;
  auto recording = *Recording::Begin(display_, *loop_, fd_,
                                     {.on_end = [&](const absl::Status& why) { ends.emplace_back(why.message()); }});
  for (int i = 0; i < 2000 && ends.empty(); ++i) {
    for (uint32_t n = 0; n < 128 * 128; ++n) display_.Draw(n % 128, n / 128, static_cast<uint32_t>(random_()));
    display_.Change({0, 0, 128, 128});
    loop_->RunFor(std::chrono::milliseconds(10));
  }
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_THAT(ends, ElementsAre(HasSubstr("cannot be written")));
  EXPECT_GE(Play(Read()).canvases.size(), 3u);
}

TEST_F(RecordingTest, NeedsAFrame) {
  EXPECT_EQ(Recording::Begin(display_, *loop_, fd_, {}).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(fcntl(fd_, F_GETFD), -1) << "the descriptor is left open";
}

TEST(AnimatedPngTest, SaysHowLongAPictureStands) {
  char path[] = "/tmp/recording_test.XXXXXX";
  const int fd = mkstemp(path);
  const std::vector<uint8_t> pixels(16 * 16 * 4, 0x55);
  const Frame frame = {.width = 16, .height = 16, .stride_bytes = 64, .pixels = pixels.data()};
  AnimatedPng file(fd, 16, 16);
  for (const uint64_t time_ms : {1000, 1040, 3040, 103'040, 1'103'040, 101'103'040}) {
    ASSERT_TRUE(file.Add(frame, {0, 0, 16, 16}, time_ms).ok());
  }
  close(fd);
  std::ifstream stream(path, std::ios::binary);
  const Film film = Play({std::istreambuf_iterator<char>(stream), {}});
  EXPECT_THAT(film.seconds, ElementsAre(0.04, 2, 100, 1000, 65535, 0));
  unlink(path);
}

}  // namespace
}  // namespace hvsdk::vmm
