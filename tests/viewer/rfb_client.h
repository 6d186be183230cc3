// SPDX-License-Identifier: Apache-2.0
// A viewer of a test's own, by RFC 6143, over a descriptor that does not block.

#ifndef HVSDK_TESTS_VIEWER_RFB_CLIENT_H_
#define HVSDK_TESTS_VIEWER_RFB_CLIENT_H_

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>
#if defined(HVSDK_HAVE_ZLIB)
#include <zlib.h>
#endif

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "hvsdk/os/event_loop.h"
#include "viewer/rfb_wire.h"

namespace hvsdk::viewer {

class RfbClient {
 public:
  RfbClient(os::EventLoop& loop, int fd) : loop_(loop), fd_(fd) {}
  ~RfbClient() {
    Close();
#if defined(HVSDK_HAVE_ZLIB)
    if (is_inflating_) inflateEnd(&stream_);
#endif
  }
  RfbClient(const RfbClient&) = delete;
  RfbClient& operator=(const RfbClient&) = delete;

  void Close() {
    if (fd_ >= 0) close(std::exchange(fd_, -1));
  }
  // From now on all is in something else, such as TLS, as these have it.
  void Wrap(std::function<std::string(const std::string&)> seal, std::function<std::string(const std::string&)> open) {
    seal_ = std::move(seal);
    open_ = std::move(open);
    received_ = open_(std::exchange(received_, {}));
  }
  void Send(const std::string& plain) {
    const std::string bytes = seal_ ? seal_(plain) : plain;
    ASSERT_EQ(send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }
  // False: the server has hung up, or nothing comes.
  bool Has(size_t size, std::chrono::milliseconds limit = std::chrono::seconds(5)) {
    const auto deadline = std::chrono::steady_clock::now() + limit;
    while (received_.size() < size) {
      char buffer[65536];
      const ssize_t got = recv(fd_, buffer, sizeof(buffer), MSG_DONTWAIT);
      if (got > 0) {
        const std::string bytes(buffer, static_cast<size_t>(got));
        received_ += open_ ? open_(bytes) : bytes;
        continue;
      }
      is_hung_up_ = is_hung_up_ || got == 0;
      if (got == 0 || std::chrono::steady_clock::now() > deadline) return false;
      loop_.RunFor(std::chrono::milliseconds(1));
    }
    return true;
  }
  std::string Receive(size_t size) {
    if (!Has(size)) {
      ADD_FAILURE() << "the server hung up, or sends nothing";
      return std::string(size, '\0');
    }
    std::string bytes = received_.substr(0, size);
    received_.erase(0, size);
    return bytes;
  }
  bool is_hung_up() {
    Has(received_.size() + 1, std::chrono::seconds(2));
    return is_hung_up_;
  }
  uint8_t Receive8() { return static_cast<uint8_t>(Receive(1)[0]); }
  uint16_t Receive16() { return GetBe16(reinterpret_cast<const uint8_t*>(Receive(2).data())); }
  uint32_t Receive32() { return GetBe32(reinterpret_cast<const uint8_t*>(Receive(4).data())); }

  void Begin(const char* version = "RFB 003.008\n") {
    EXPECT_EQ(Receive(12), "RFB 003.008\n");
    Send(version);
    const int minor = version[10] - '0';
    if (minor >= 7) {
      EXPECT_EQ(Receive(2), "\1\1");
      Send("\1");
    } else {
      EXPECT_EQ(Receive32(), 1u);
    }
    if (minor >= 8) {
      EXPECT_EQ(Receive32(), 0u);
    }
    Enter();
  }
  // When the server has let it in.
  void Enter() {
    Send("\1");
    width = Receive16();
    height = Receive16();
    Receive(16);
    name = Receive(Receive32());
    pixels.assign(size_t{width} * height, 0xDEADBEEF);
  }
  void SetEncodings(std::vector<int32_t> encodings) {
    std::string message("\2\0", 2);
    PutBe16(message, static_cast<uint32_t>(encodings.size()));
    for (const int32_t encoding : encodings) PutBe32(message, static_cast<uint32_t>(encoding));
    Send(message);
  }
  void SetLayout(const PixelLayout& wanted) {
    std::string message(4, '\0');
    PutBe8(message, wanted.bits);
    PutBe8(message, wanted.depth);
    PutBe8(message, wanted.is_big_endian);
    PutBe8(message, 1);
    for (const uint16_t max : wanted.max) PutBe16(message, max);
    for (const uint8_t shift : wanted.shift) PutBe8(message, shift);
    message.append(3, '\0');
    Send(message);
    layout = wanted;
  }
  void Ask(bool is_incremental) {
    std::string message("\3", 1);
    PutBe8(message, is_incremental);
    PutBe32(message, 0);
    PutBe16(message, width);
    PutBe16(message, height);
    Send(message);
  }
  void Key(uint32_t keysym, bool is_pressed) {
    std::string message("\4", 1);
    PutBe8(message, is_pressed);
    PutBe16(message, 0);
    PutBe32(message, keysym);
    Send(message);
  }
  void KeyCode(uint32_t code, bool is_pressed) {
    std::string message("\xFF\0", 2);
    PutBe16(message, is_pressed);
    PutBe32(message, 0);
    PutBe32(message, code);
    Send(message);
  }
  void Point(uint32_t buttons, uint32_t x, uint32_t y) {
    std::string message("\5", 1);
    PutBe8(message, buttons);
    PutBe16(message, x);
    PutBe16(message, y);
    if (was_told_of_more_buttons && buttons > 0x7F) {
      message[1] = static_cast<char>((buttons & 0x7F) | kMoreButtons);
      PutBe8(message, buttons >> 7);
    }
    Send(message);
  }

  // One FramebufferUpdate. Answers how many pixels it had.
  size_t Update() {
    EXPECT_EQ(Receive16(), 0u);
    size_t count = 0;
    for (uint32_t left = Receive16(); left != 0 && !testing::Test::HasFailure(); --left) {
      const uint32_t x = Receive16(), y = Receive16(), w = Receive16(), h = Receive16();
      const auto encoding = static_cast<int32_t>(Receive32());
      last_encoding = encoding;
      if (encoding == kDesktopSize) {
        width = w, height = h;
        pixels.assign(size_t{w} * h, 0xDEADBEEF);
      } else if (encoding == kCursor) {
        cursor = Receive(size_t{w} * h * layout.bytes());
        mask = Receive(size_t{(w + 7) / 8} * h);
        hot_x = x, hot_y = y;
      } else if (encoding == kQemuExtendedKeys) {
        was_told_of_key_codes = true;
      } else if (encoding == kExtendedMouseButtons) {
        was_told_of_more_buttons = true;
      } else if (encoding == kRaw) {
        const std::string data = Receive(size_t{w} * h * layout.bytes());
        const auto* at = reinterpret_cast<const uint8_t*>(data.data());
        for (uint32_t i = 0; i < w * h; ++i, at += layout.bytes()) Put(x + i % w, y + i / w, Pixel(at, layout.bytes()));
        count += size_t{w} * h;
      } else if (encoding == kZrle) {
        Unpack(x, y, w, h);
        count += size_t{w} * h;
      } else {
        ADD_FAILURE() << "encoding " << encoding;
      }
    }
    return count;
  }

  PixelLayout layout;
  uint32_t width = 0, height = 0;
  std::vector<uint32_t> pixels;  // as the layout has them
  std::string name, cursor, mask;
  uint32_t hot_x = 0, hot_y = 0;
  bool was_told_of_key_codes = false, was_told_of_more_buttons = false;
  int32_t last_encoding = -1;
  size_t packed_bytes = 0;

 private:
  void Put(uint32_t x, uint32_t y, uint32_t pixel) {
    if (x >= width || y >= height) {
      ADD_FAILURE() << x << " " << y << " is beyond the frame";
      return;
    }
    pixels[size_t{y} * width + x] = pixel;
  }
  uint32_t Pixel(const uint8_t* from, uint32_t bytes) const {
    uint32_t value = 0;
    for (uint32_t i = 0; i < bytes; ++i) value |= uint32_t{from[i]} << 8 * (layout.is_big_endian ? bytes - 1 - i : i);
    return value;
  }
  // 7.7.6; of the subencodings those without runs.
  void Unpack(uint32_t left, uint32_t top, uint32_t width_of, uint32_t height_of) {
    const std::string data = Inflate(Receive(Receive32()));
    size_t at = 0;
    const auto byte = [&]() -> uint8_t { return at < data.size() ? static_cast<uint8_t>(data[at++]) : 0; };
    uint32_t used = 0;
    for (size_t i = 0; i < 3; ++i) used |= uint32_t{layout.max[i]} << layout.shift[i];
    const bool is_short = layout.bits == 32 && layout.depth <= 24 && (used <= 0xFFFFFF || (used & 0xFF) == 0);
    const uint32_t bytes = is_short ? 3 : layout.bytes(), shift = is_short && used > 0xFFFFFF ? 8 : 0;
    const auto pixel = [&] {
      uint8_t raw[4] = {};
      for (uint32_t i = 0; i < bytes; ++i) raw[i] = byte();
      return Pixel(raw, bytes) << shift;
    };
    for (uint32_t y0 = 0; y0 < height_of; y0 += 64) {
      for (uint32_t x0 = 0; x0 < width_of; x0 += 64) {
        const uint32_t w = std::min(64u, width_of - x0), h = std::min(64u, height_of - y0);
        const uint8_t kind = byte();
        ASSERT_LE(kind, 16);
        std::vector<uint32_t> palette;
        for (uint8_t i = 0; i < kind; ++i) palette.push_back(pixel());
        const uint32_t bits = kind == 2 ? 1 : kind <= 4 ? 2 : 4;
        for (uint32_t y = 0; y < h; ++y) {
          uint32_t packed = 0, have = 0;
          for (uint32_t x = 0; x < w; ++x) {
            uint32_t value = 0;
            if (kind == 0) {
              value = pixel();
            } else if (kind == 1) {
              value = palette[0];
            } else {
              if (have == 0) packed = byte(), have = 8;
              have -= bits;
              const uint32_t index = packed >> have & ((1 << bits) - 1);
              ASSERT_LT(index, palette.size());
              value = palette[index];
            }
            Put(left + x0 + x, top + y0 + y, value);
          }
        }
      }
    }
    EXPECT_EQ(at, data.size());
  }
  std::string Inflate(const std::string& packed) {
    packed_bytes += packed.size();
    std::string plain;
#if defined(HVSDK_HAVE_ZLIB)
    if (!std::exchange(is_inflating_, true)) {
      EXPECT_EQ(inflateInit(&stream_), Z_OK);
    }
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
    stream_.avail_in = static_cast<uInt>(packed.size());
    do {
      char block[65536];
      stream_.next_out = reinterpret_cast<Bytef*>(block);
      stream_.avail_out = sizeof(block);
      const int status = inflate(&stream_, Z_SYNC_FLUSH);
      EXPECT_TRUE(status == Z_OK || status == Z_BUF_ERROR) << status;
      plain.append(block, sizeof(block) - stream_.avail_out);
      if (status != Z_OK) break;
    } while (stream_.avail_out == 0);
#endif
    return plain;
  }

  os::EventLoop& loop_;
  int fd_;
  std::string received_;
  std::function<std::string(const std::string&)> seal_, open_;
  bool is_hung_up_ = false;
#if defined(HVSDK_HAVE_ZLIB)
  z_stream stream_{};
  bool is_inflating_ = false;
#endif
};

}  // namespace hvsdk::viewer

#endif  // HVSDK_TESTS_VIEWER_RFB_CLIENT_H_
