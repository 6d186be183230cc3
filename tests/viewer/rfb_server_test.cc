// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/viewer/rfb_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "tests/random_seed.h"
#include "tests/viewer/fake_display.h"
#include "tests/viewer/rfb_client.h"
#include "viewer/rfb_session.h"

namespace hvsdk::viewer {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class RfbServerTest : public testing::Test {
 protected:
  RfbServerTest() : loop_(*os::EventLoop::Create()), random_(TestSeed()) {
    server_ = *RfbServer::Create(*loop_, {.display = &display_, .keys = &sinks_, .pointer = &sinks_, .name = "vm"});
  }
  std::unique_ptr<RfbClient> Connect() { return std::make_unique<RfbClient>(*loop_, *server_->Connect()); }

  // Text, plain areas and noise, as a screen has them.
  void DrawAnything(const Rectangle& where) {
    for (uint32_t y = where.y; y < where.y + where.height; ++y) {
      for (uint32_t x = where.x; x < where.x + where.width; ++x) {
        const uint32_t kind = (x / 64 + y / 64) % 4;
        const uint32_t noise = static_cast<uint32_t>(random_());
        display_.Draw(x, y,
                      kind == 0   ? 0x00123456
                      : kind == 1 ? (noise % 2) * 0xAAAAAA
                      : kind == 2 ? noise % 13 * 0x010F03
                                  : noise);
      }
    }
    display_.Change(where);
  }
  // What a frame's pixel is in a layout: nearest of its values.
  static uint32_t In(const PixelLayout& layout, uint32_t xrgb) {
    uint32_t pixel = 0;
    for (size_t i = 0; i < 3; ++i) {
      const uint32_t value = xrgb >> (16 - 8 * i) & 0xFF;
      pixel |= static_cast<uint32_t>(value * layout.max[i] / 255.0 + 0.5) << layout.shift[i];
    }
    return pixel;
  }
  uint32_t Shown(uint32_t x, uint32_t y) const {
    const Frame frame = display_.frame();
    const uint8_t* const at = frame.pixels + size_t{y} * frame.stride_bytes + size_t{x} * BytesOf(frame.format);
    if (frame.format == PixelFormat::kXrgb8888) return at[0] | at[1] << 8 | at[2] << 16;
    const uint32_t pixel = at[0] | at[1] << 8;
    const uint32_t red = pixel >> 11, green = pixel >> 5 & 63, blue = pixel & 31;
    return (red << 3 | red >> 2) << 16 | (green << 2 | green >> 4) << 8 | (blue << 3 | blue >> 2);
  }
  void ExpectAllSeen(const RfbClient& client) const {
    ASSERT_EQ(client.width, display_.frame().width);
    ASSERT_EQ(client.height, display_.frame().height);
    for (uint32_t y = 0; y < client.height; ++y) {
      for (uint32_t x = 0; x < client.width; ++x) {
        ASSERT_EQ(client.pixels[size_t{y} * client.width + x], In(client.layout, Shown(x, y))) << x << " " << y;
      }
    }
  }

  FakeDisplay display_;
  FakeSinks sinks_;
  std::unique_ptr<os::EventLoop> loop_;
  std::mt19937 random_;
  std::unique_ptr<RfbServer> server_;
};

TEST_F(RfbServerTest, ShowsAFrameAndThenWhatHasChanged) {
  display_.Show(200, 100);
  DrawAnything({0, 0, 200, 100});
  for (const char* version : {"RFB 003.008\n", "RFB 003.007\n", "RFB 003.003\n", "RFB 003.889\n"}) {
    const auto client = Connect();
    client->Begin(version);
    EXPECT_EQ(client->name, "vm");
    client->Ask(false);
    EXPECT_EQ(client->Update(), 200u * 100);
    ExpectAllSeen(*client);
    client->Ask(true);
    EXPECT_FALSE(client->Has(1, std::chrono::milliseconds(50)));
    DrawAnything({70, 20, 3, 4});
    EXPECT_EQ(client->Update(), DirtyRegion::kTileWidth * DirtyRegion::kTileHeight);
    ExpectAllSeen(*client);
  }
}

TEST_F(RfbServerTest, SpeaksEveryLayoutAndEncoding) {
  const PixelLayout layouts[] = {
      {},
      {.is_big_endian = true},
      {.shift = {0, 8, 16}},
      {.shift = {24, 16, 8}},
      {.is_big_endian = true, .shift = {24, 16, 8}},
      {.depth = 32},
      {.bits = 16, .depth = 16, .max = {31, 63, 31}, .shift = {11, 5, 0}},
      {.bits = 16, .depth = 15, .is_big_endian = true, .max = {31, 31, 31}, .shift = {10, 5, 0}},
      {.bits = 8, .depth = 8, .max = {7, 7, 3}, .shift = {0, 3, 6}},
  };
  std::vector<int32_t> encodings = {kRaw};
#if defined(HVSDK_HAVE_ZLIB)
  encodings.push_back(kZrle);
#endif
  for (const PixelFormat format : {PixelFormat::kXrgb8888, PixelFormat::kRgb565}) {
    display_.Show(203, 71, format);
    for (const int32_t encoding : encodings) {
      const auto client = Connect();
      client->Begin();
      client->SetEncodings({7, encoding, 5});
      for (const PixelLayout& layout : layouts) {
        client->SetLayout(layout);
        DrawAnything({0, 0, 203, 71});
        client->Ask(false);
        EXPECT_EQ(client->Update(), 203u * 71);
        EXPECT_EQ(client->last_encoding, encoding);
        ExpectAllSeen(*client);
      }
    }
  }
}

TEST_F(RfbServerTest, PacksAConsole) {
#if defined(HVSDK_HAVE_ZLIB)
  display_.Show(1024, 768);
  for (uint32_t i = 0; i < 5000; ++i) display_.Draw(random_() % 640, random_() % 64, 0xAAAAAA);
  const auto client = Connect();
  client->Begin();
  client->SetEncodings({kZrle});
  client->Ask(false);
  client->Update();
  ExpectAllSeen(*client);
  EXPECT_LT(client->packed_bytes, 1024u * 768 * 4 / 200);
#else
  GTEST_SKIP() << "zlib's header was not there";
#endif
}

TEST_F(RfbServerTest, FollowsTheSizeOrCutsTheFrame) {
  const auto able = Connect(), unable = Connect();
  for (const auto& client : {able.get(), unable.get()}) {
    client->Begin();
    EXPECT_EQ(client->width, 640u);  // nothing is shown
    EXPECT_EQ(client->height, 480u);
    client->Ask(false);
    EXPECT_EQ(client->Update(), 640u * 480);
    for (const uint32_t pixel : client->pixels) ASSERT_EQ(pixel, 0u);
  }
  able->SetEncodings({kRaw, kDesktopSize});
  able->Ask(true);
  unable->Ask(true);
  display_.Show(800, 300);
  DrawAnything({0, 0, 800, 300});
  EXPECT_EQ(able->Update(), 0u);
  EXPECT_EQ(able->width, 800u);
  able->Ask(true);
  EXPECT_EQ(able->Update(), 800u * 300);
  ExpectAllSeen(*able);
  EXPECT_EQ(unable->Update(), 640u * 480);
  for (uint32_t y = 0; y < 480; ++y) {
    for (uint32_t x = 0; x < 640; ++x) {
      ASSERT_EQ(unable->pixels[y * 640 + x], y < 300 ? Shown(x, y) : 0) << x << " " << y;
    }
  }
}

TEST_F(RfbServerTest, KeepsItsWordWhenTheFrameShrinksInAnUpdate) {
  display_.Show(2048, 700);  // more than sockets hold
  DrawAnything({0, 0, 2048, 700});
  const auto client = Connect();
  client->Begin();
  client->SetEncodings({kRaw, kDesktopSize});
  client->Ask(false);
  ASSERT_TRUE(client->Has(1000));
  display_.Show(64, 64);
  EXPECT_EQ(client->Update(), 2048u * 700);
  client->Ask(true);
  EXPECT_EQ(client->Update(), 0u);
  client->Ask(true);
  EXPECT_EQ(client->Update(), 64u * 64);
  ExpectAllSeen(*client);
}

TEST_F(RfbServerTest, ShowsThePointersImage) {
  display_.Show(64, 64);
  PointerImage image{.width = 9, .height = 2, .hot_x = 3, .hot_y = 1, .pixels = std::vector<uint8_t>(9 * 2 * 4)};
  for (size_t i = 0; i < 18; ++i) {
    image.pixels[i * 4] = static_cast<uint8_t>(i);
    image.pixels[i * 4 + 3] = i == 0 || i == 8 ? 255 : 0;
  }
  const auto client = Connect();
  client->Begin();
  client->SetEncodings({kCursor});
  client->Ask(false);
  client->Update();
  EXPECT_TRUE(client->cursor.empty());
  client->Ask(true);
  display_.Point({.is_visible = true, .x = 5, .y = 5}, image);
  EXPECT_EQ(client->Update(), 0u);
  EXPECT_EQ(client->hot_x, 3u);
  EXPECT_EQ(client->hot_y, 1u);
  ASSERT_EQ(client->cursor.size(), 72u);
  EXPECT_EQ(client->cursor[4 * 17], 17);
  EXPECT_EQ(client->mask, std::string("\x80\x80\0\0", 4));
  // Who does not want it any more before it came has none.
  client->cursor.clear();
  client->SetEncodings({kCursor});
  client->SetEncodings({kRaw});
  client->Ask(false);
  EXPECT_EQ(client->Update(), 64u * 64);
  EXPECT_TRUE(client->cursor.empty());
  // What it knows of it is taken back when it wants it again.
  display_.Point({.is_visible = false}, image);
  client->Ask(true);
  client->Has(1, std::chrono::milliseconds(50));
  client->SetEncodings({kCursor});
  EXPECT_EQ(client->Update(), 0u);
  EXPECT_EQ(client->mask, "");
}

TEST_F(RfbServerTest, TakesKeysAndLetsGoOfThem) {
  display_.Show(64, 64);
  auto client = Connect();
  client->Begin();
  client->SetEncodings({kRaw, kQemuExtendedKeys});
  client->Ask(false);
  client->Update();
  EXPECT_TRUE(client->was_told_of_key_codes);
  client->Key('A', true);  // the key, whatever is typed by it
  client->Key('a', false);
  client->Key(0x12345678, true);  // no keyboard has it
  client->KeyCode(0x1D, true);
  client->KeyCode(0xC8, true);  // up
  client->KeyCode(0xC6, true);  // Pause
  client->KeyCode(0xFFFF, true);
  client->KeyCode(0, true);
  client->Ask(false);
  client->Update();
  using K = KeyEvent;
  EXPECT_THAT(sinks_.keys,
              ElementsAre(K{.code = 0x1E, .is_pressed = true}, K{.code = 0x1E}, K{.code = 0x1D, .is_pressed = true},
                          K{.code = 0xE048, .is_pressed = true}, K{.code = K::kPause, .is_pressed = true}));
  sinks_.keys.clear();
  client->Close();
  loop_->RunFor(std::chrono::milliseconds(5));
  EXPECT_THAT(sinks_.keys, ElementsAre(K{.code = K::kPause}, K{.code = 0xE048}, K{.code = 0x1D}));
  EXPECT_EQ(server_->viewers(), 0u);
  EXPECT_EQ(display_.viewers(), 0u);
}

TEST_F(RfbServerTest, TakesThePointer) {
  display_.Show(101, 201);
  const auto client = Connect();
  client->Begin();
  client->Point(0, 0, 0);
  client->Point(1, 100, 200);
  client->Point(2 | 4, 50, 5000);
  client->Point(8, 0, 0);
  client->Point(0, 0, 0);
  client->Point(16 | 64, 0, 0);
  client->Ask(false);
  client->Update();
  using P = PointerEvent;
  EXPECT_THAT(sinks_.points, ElementsAre(P{}, P{.x = 32767, .y = 32767, .buttons = P::kLeft},
                                         P{.x = 16383, .y = 32767, .buttons = P::kMiddle | P::kRight}, P{.wheel = 1},
                                         P{}, P{.wheel = -1, .pan = 1}));
}

TEST_F(RfbServerTest, TakesMoreButtonsFromViewersThatHaveThem) {
  display_.Show(64, 64);
  const auto client = Connect();
  client->Begin();
  client->Point(128, 0, 0);  // RFC 6143 has this one, too
  client->SetEncodings({kRaw, kExtendedMouseButtons});
  client->Ask(false);
  client->Update();
  ASSERT_TRUE(client->was_told_of_more_buttons);
  client->Point(1 | 128, 0, 0);
  client->Point(1 | 256 | 8, 0, 0);
  client->Point(0x7F80, 0, 0);  // those above the ninth are nobody's
  client->Point(1, 0, 0);
  client->Ask(false);
  client->Update();
  using P = PointerEvent;
  EXPECT_THAT(sinks_.points, ElementsAre(P{.buttons = P::kBack}, P{.buttons = P::kLeft | P::kBack},
                                         P{.buttons = P::kLeft | P::kForward, .wheel = 1},
                                         P{.buttons = P::kBack | P::kForward}, P{.buttons = P::kLeft}));
}

TEST_F(RfbServerTest, WhoStallsHoldsNobodyUp) {
  display_.Show(1500, 400);
  const auto stalled = Connect(), other = Connect();
  stalled->Begin();
  stalled->Ask(false);
  other->Begin();
  for (int i = 0; i < 3; ++i) {
    DrawAnything({0, 0, 1500, 10});
    other->Ask(false);
    other->Update();
    ExpectAllSeen(*other);
  }
  EXPECT_EQ(server_->viewers(), 2u);
  EXPECT_EQ(stalled->Update(), 1500u * 400);
  stalled->Ask(true);
  EXPECT_EQ(stalled->Update(), 1500u * 16);
  ExpectAllSeen(*stalled);
}

TEST_F(RfbServerTest, ManyPixelsOfFewBytesTakeManyTurns) {
#if defined(HVSDK_HAVE_ZLIB)
  display_.Show(2048, 1024);
  const input::KeyboardLayout layout = *input::KeyboardLayout::Load("us");
  RfbSession session(display_, nullptr, nullptr, layout, nullptr, "vm", [] {});
  const auto say = [&](const std::string& bytes) {
    ASSERT_TRUE(session.Receive({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}));
  };
  say("RFB 003.008\n\1\1");
  say(std::string("\2\0\0\1\0\0\0\x10", 8));         // ZRLE
  say(std::string("\3\0\0\0\0\0\x08\0\x04\0", 10));  // all of it
  size_t turns = 0, bytes = 0;
  do {
    std::string output;
    session.Produce(output, /*may_begin=*/true);
    bytes += output.size();
    ++turns;
  } while (session.is_updating());
  EXPECT_EQ(turns, 2048u * 1024 / RfbSession::kMaxPixels);
  EXPECT_LT(bytes, RfbSession::kMaxOutput);
#else
  GTEST_SKIP() << "there is no zlib.h";
#endif
}

TEST_F(RfbServerTest, WhoTalksNonsenseIsCutOff) {
  display_.Show(64, 64);
  const auto good = Connect();
  good->Begin();
  for (const std::string& nonsense :
       {std::string("GARBAGEGARBA"), std::string("RFB 00x.008\n"), std::string("RFB 003.008\n\x13")}) {
    const auto bad = Connect();
    bad->Receive(12);
    bad->Send(nonsense);
    EXPECT_TRUE(bad->is_hung_up()) << nonsense;
  }
  for (const std::string& nonsense : {std::string("\1"), std::string("\xFF\1"), std::string(20, '\0'),
                                      std::string("\0\0\0\0\x20\x18\0\1\xFF\xFF\0\0\0\0\x11\0\0\0\0\0", 20)}) {
    const auto bad = Connect();
    bad->Begin();
    bad->Send(nonsense);
    EXPECT_TRUE(bad->is_hung_up()) << nonsense;
  }
  // As much text as a clipboard may have is nobody's here.
  good->Send(std::string("\6\0\0\0\0\1\0\0", 8) + std::string(0x10000, 'x'));
  good->Ask(false);
  EXPECT_EQ(good->Update(), 64u * 64);
}

TEST_F(RfbServerTest, HasRoomForSoMany) {
  display_.Show(64, 64);
  std::vector<std::unique_ptr<RfbClient>> clients, silent;
  for (size_t i = 0; i < kMaxRfbViewers; ++i) silent.push_back(Connect());
  for (size_t i = 0; i < kMaxRfbViewers; ++i) {
    clients.push_back(Connect());  // in place of one that is silent
    clients.back()->Begin();
  }
  EXPECT_EQ(server_->viewers(), kMaxRfbViewers);
  EXPECT_TRUE(absl::IsResourceExhausted(server_->Connect().status()));
  for (const auto& client : clients) {
    client->Ask(false);
    EXPECT_EQ(client->Update(), 64u * 64);
  }
  clients.pop_back();
  loop_->RunFor(std::chrono::milliseconds(5));
  EXPECT_TRUE(Connect() != nullptr);
  server_.reset();
  EXPECT_TRUE(clients[0]->is_hung_up());
  EXPECT_EQ(display_.viewers(), 0u);
}

TEST_F(RfbServerTest, SendsNoMoreThanEyesSee) {
  display_.Show(64, 64);
  const auto client = Connect();
  client->Begin();
  size_t updates = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(200);
  client->Ask(true);
  while (std::chrono::steady_clock::now() < end) {
    DrawAnything({0, 0, 1, 1});
    if (!client->Has(4, std::chrono::milliseconds(2))) continue;
    client->Update();
    client->Ask(true);
    ++updates;
  }
  EXPECT_GE(updates, 2u);
  EXPECT_LE(updates, 10u);
}

TEST_F(RfbServerTest, ListensOnLoopbacksAndUnixSockets) {
  display_.Show(64, 64);
  ASSERT_TRUE(server_->Listen("localhost:0").ok());
  EXPECT_THAT(server_->address(), testing::StartsWith("127.0.0.1:"));
  sockaddr_in address{.sin_family = AF_INET,
                      .sin_port = htons(static_cast<uint16_t>(std::stoi(server_->address().substr(10))))};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ASSERT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  RfbClient client(*loop_, fd);
  client.Begin();
  EXPECT_FALSE(server_->Listen("localhost:0").ok());

  const auto other = *RfbServer::Create(*loop_, {.display = &display_});
  EXPECT_FALSE(other->Listen(server_->address()).ok());
  const std::string path = testing::TempDir() + "/rfb." + std::to_string(getpid());
  ASSERT_TRUE(other->Listen("unix:" + path).ok());
  EXPECT_EQ(other->address(), "unix:" + path);
  struct stat made;
  ASSERT_EQ(stat(path.c_str(), &made), 0);
  EXPECT_EQ(made.st_mode & 0777, 0600u);
  sockaddr_un there{.sun_family = AF_UNIX};
  std::strncpy(there.sun_path, path.c_str(), sizeof(there.sun_path) - 1);
  const int unix_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ASSERT_EQ(connect(unix_fd, reinterpret_cast<sockaddr*>(&there), sizeof(there)), 0);
  RfbClient onlooker(*loop_, unix_fd);
  onlooker.Begin();
  onlooker.Key('a', true);  // who only looks on
  onlooker.Point(1, 1, 1);
  onlooker.Ask(false);
  onlooker.Update();
}

TEST(RfbAddressTest, SaysWhatIsWrong) {
  for (const char* good : {"127.0.0.1:5900", "127.1.2.3:0", "[::1]:5900", "localhost:65535", "unix:/tmp/vnc"}) {
    EXPECT_TRUE(CheckRfbAddress(good).ok()) << good;
  }
  for (const char* bad :
       {"", ":", "5900", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:5900x"}) {
    EXPECT_THAT(std::string(CheckRfbAddress(bad).message()), HasSubstr("is neither ADDRESS:PORT")) << bad;
  }
  for (const char* bad : {"0.0.0.0:5900", "192.168.1.1:5900", "[::]:5900", "host:5900", ":5900"}) {
    EXPECT_THAT(std::string(CheckRfbAddress(bad).message()), HasSubstr("loopback")) << bad;
  }
  EXPECT_FALSE(CheckRfbAddress("unix:").ok());
  EXPECT_FALSE(CheckRfbAddress("unix:" + std::string(200, 'x')).ok());
}

TEST(RfbServerLayoutTest, IsOneThatThereIs) {
  const auto loop = *os::EventLoop::Create();
  FakeDisplay display;
  EXPECT_FALSE(RfbServer::Create(*loop, {.display = &display, .keyboard_layout = "../x"}).ok());
}

}  // namespace
}  // namespace hvsdk::viewer
