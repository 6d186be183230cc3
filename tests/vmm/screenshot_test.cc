// SPDX-License-Identifier: Apache-2.0
// Pictures of frames, read again by libpng itself.

#include "hvsdk/vmm/screenshot.h"

#include <fcntl.h>
#include <png.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/os/event_loop.h"

namespace hvsdk::vmm {
namespace {

using testing::HasSubstr;

class FixedDisplay final : public Display {
 public:
  void AddViewer(DisplayViewer&) override {}
  void RemoveViewer(DisplayViewer&) override {}
  Frame frame() const override { return shown; }
  PointerPlace pointer_place() const override { return {}; }
  const PointerImage& pointer_image() const override { return image_; }
  DisplayChanges TakeChanges(DisplayViewer&) override { return {}; }

  Frame shown;

 private:
  PointerImage image_;
};

// A file in memory, which a picture is written to through a descriptor of its own.
class PictureFile {
 public:
  PictureFile() : fd_(memfd_create("picture", MFD_CLOEXEC)) { EXPECT_GE(fd_, 0); }
  ~PictureFile() { close(fd_); }
  int Descriptor() const { return dup(fd_); }
  int fd() const { return fd_; }
  std::string Contents() const {
    std::string bytes(static_cast<size_t>(lseek(fd_, 0, SEEK_END)), '\0');
    EXPECT_EQ(pread(fd_, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    return bytes;
  }

 private:
  const int fd_;
};

struct Picture {
  uint32_t width = 0, height = 0;
  std::vector<uint8_t> pixels;
};
Picture Decode(const std::string& png) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  Picture picture;
  if (png_image_begin_read_from_memory(&image, png.data(), png.size()) == 0) {
    ADD_FAILURE() << image.message;
    return picture;
  }
  image.format = PNG_FORMAT_RGB;
  picture = {image.width, image.height, std::vector<uint8_t>(PNG_IMAGE_SIZE(image))};
  EXPECT_NE(png_image_finish_read(&image, nullptr, picture.pixels.data(), 0, nullptr), 0) << image.message;
  return picture;
}

TEST(ScreenshotTest, EveryPixelOf32Bits) {
  constexpr uint32_t kWidth = 50, kHeight = 30, kStride = 4 * kWidth + 24;
  std::vector<uint8_t> memory(kStride * kHeight, 0xEE);
  std::vector<uint8_t> wanted;
  for (uint32_t y = 0; y < kHeight; ++y) {
    for (uint32_t x = 0; x < kWidth; ++x) {
      const uint8_t red = static_cast<uint8_t>(x * 5), green = static_cast<uint8_t>(y * 8),
                    blue = static_cast<uint8_t>(x ^ y);
      uint8_t* const pixel = &memory[y * kStride + 4 * x];
      pixel[0] = blue, pixel[1] = green, pixel[2] = red;
      wanted.insert(wanted.end(), {red, green, blue});
    }
  }
  FixedDisplay display;
  display.shown = {kWidth, kHeight, kStride, PixelFormat::kXrgb8888, memory.data()};
  PictureFile file;
  ASSERT_TRUE(ftruncate(file.fd(), 100'000) == 0);  // what was there goes
  const absl::Status status = Screenshot::Write(display, file.fd());
  if (absl::IsUnimplemented(status)) GTEST_SKIP() << status;
  ASSERT_TRUE(status.ok()) << status;
  const Picture picture = Decode(file.Contents());
  EXPECT_LT(file.Contents().size(), 100'000u);
  EXPECT_EQ(picture.width, kWidth);
  EXPECT_EQ(picture.height, kHeight);
  EXPECT_EQ(picture.pixels, wanted);
}

TEST(ScreenshotTest, PixelsOf16Bits) {
  const uint16_t kPixels[] = {0x0000, 0xFFFF, 0xF800, 0x07E0, 0x001F, 0x8410};
  FixedDisplay display;
  display.shown = {3, 2, 6, PixelFormat::kRgb565, reinterpret_cast<const uint8_t*>(kPixels)};
  PictureFile file;
  const absl::Status status = Screenshot::Write(display, file.fd());
  if (absl::IsUnimplemented(status)) GTEST_SKIP() << status;
  EXPECT_THAT(Decode(file.Contents()).pixels,
              testing::ElementsAre(0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 255, 0, 0, 0, 255, 132, 130, 132));
}

TEST(ScreenshotTest, OnAThread) {
  auto loop = os::EventLoop::Create();
  ASSERT_TRUE(loop.ok());
  std::vector<uint8_t> memory(64 * 64 * 4, 0x11);
  FixedDisplay display;
  Screenshot screenshot(**loop);
  EXPECT_THAT(std::string(screenshot.Check(display).message()), HasSubstr("shows nothing"));
  display.shown = {64, 64, 256, PixelFormat::kXrgb8888, memory.data()};
  if (absl::IsUnimplemented(screenshot.Check(display))) GTEST_SKIP();
  PictureFile file;
  absl::Status status = absl::UnknownError("not called");
  screenshot.Take(display, file.Descriptor(), [&](const absl::Status& done) {
    status = done;
    (*loop)->Stop();
  });
  EXPECT_THAT(std::string(screenshot.Check(display).message()), HasSubstr("not written yet"));
  (*loop)->Run();
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(Decode(file.Contents()).pixels, std::vector<uint8_t>(64 * 64 * 3, 0x11));
  EXPECT_TRUE(screenshot.Check(display).ok());
  // A file that cannot be written is an error, and the next picture is taken.
  screenshot.Take(display, open("/dev/null", O_RDONLY | O_CLOEXEC), [&](const absl::Status& done) {
    status = done;
    (*loop)->Stop();
  });
  (*loop)->Run();
  EXPECT_FALSE(status.ok());
  EXPECT_TRUE(screenshot.Check(display).ok());
  // One that is under way when it goes is written, and nobody is told.
  PictureFile last;
  {
    Screenshot going(**loop);
    going.Take(display, last.Descriptor(), [](const absl::Status&) { ADD_FAILURE() << "told"; });
  }
  (*loop)->RunOnce(/*wait=*/false);
  EXPECT_EQ(Decode(last.Contents()).width, 64u);
}

}  // namespace
}  // namespace hvsdk::vmm
