// SPDX-License-Identifier: Apache-2.0
// The mouse against its client over real rings, and against guests that read slowly, or lie.

#include "hvsdk/vsp/mouse.h"

#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/hvdef/mouse.h"
#include "hvsdk/vsc/mouse_client.h"
#include "tests/random_seed.h"
#include "tests/vsp/input_fixture.h"

namespace hvsdk::vsp {
namespace {

namespace wire = hvdef::mouse;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

// As Linux says it (mousevsc_connect_to_vsp, mousevsc_on_receive_device_info).
constexpr char kRequest[] = "010000000c000000000000000400000000000200";
constexpr char kAck[] = "0100000009000000030000000100000000";

class MouseTest : public InputFixture<vsc::MouseClient> {
 protected:
  hvdef::Guid class_id() const override { return hvdef::class_id::kMouse; }
  void MakeDevice() override {
    mouse_ = *Mouse::Create(*server_, {.executor = executor_, .timers = timers_, .clock = clock_});
  }
  void TearDown() override {
    mouse_.reset();
    ProviderFixture::TearDown();
  }
  void Agree() {
    OpenChannel();
    Put(kRequest);
    ASSERT_NE(Take(), "");
    ASSERT_NE(Take(), "");
    Put(kAck);
    ASSERT_TRUE(mouse_->status().is_ready);
  }
  void Listen() {
    StartClient();
    client_->context = this;
    client_->on_report = [](void* context, const uint8_t* report, uint32_t size_bytes) {
      wire::Report got;
      ASSERT_EQ(size_bytes, sizeof(got));
      std::memcpy(&got, report, sizeof(got));
      static_cast<MouseTest*>(context)->seen_.push_back(Text(got.x, got.y, got.buttons, got.wheel, got.pan));
    };
  }
  static std::string Text(int x, int y, int buttons, int wheel, int pan) {
    return absl::StrFormat("%d,%d %d %d %d", x, y, buttons, wheel, pan);
  }
  void Point(const PointerEvent& event) { ASSERT_TRUE(mouse_->Point(event).ok()); }

  std::unique_ptr<Mouse> mouse_;
  std::vector<std::string> seen_;
};

TEST_F(MouseTest, GoldenBytes) {
  EXPECT_EQ(mouse_->Point({}).ToString(), "FAILED_PRECONDITION: the guest has no driver for its mouse yet");
  OpenChannel();
  Put(kRequest, /*wants_completion=*/true);
  EXPECT_THAT(Take(), StartsWith("010000000d0000000100000005000000"
                                 "00000200"
                                 "01"));
  const std::string info = Take();
  EXPECT_EQ(info.substr(0, 2 * 16), absl::StrFormat("01000000%02x00000002000000%02x000000", 49 + sizeof(wire::kReport),
                                                    41 + sizeof(wire::kReport)));
  EXPECT_EQ(info.substr(2 * 16, 2 * 32), "200000005e0421060100" + std::string(44, '0'));
  EXPECT_EQ(info.substr(2 * 48, 2 * 9), absl::StrFormat("092111010001"
                                                        "22%02x00",
                                                        sizeof(wire::kReport)));
  EXPECT_EQ(info.size(), 2 * ((57 + sizeof(wire::kReport) + 7) / 8 * 8));
  EXPECT_EQ(Take(), "");
  EXPECT_EQ(completions_, 1);
  EXPECT_FALSE(mouse_->status().is_ready);
  Put(kAck);
  Point({.x = 0x1234, .y = 0x7FFF, .buttons = PointerEvent::kLeft | PointerEvent::kForward, .wheel = -1, .pan = 2});
  Pump();
  EXPECT_THAT(Take(), StartsWith("010000000f0000000400000007000000"
                                 "113412ff7fff02"));
}

// The report descriptor's bits add up to what a report has, by the rules of USB HID 1.11, 6.2.2.
TEST_F(MouseTest, ReportDescriptor) {
  uint32_t size = 0, count = 0, bits = 0, depth = 0;
  std::vector<uint32_t> usages;
  for (size_t at = 0; at < sizeof(wire::kReport);) {
    const uint8_t prefix = wire::kReport[at++];
    const uint32_t bytes = (prefix & 3) == 3 ? 4 : prefix & 3;
    uint32_t value = 0;
    for (uint32_t i = 0; i < bytes; ++i) value |= uint32_t{wire::kReport[at++]} << 8 * i;
    switch (prefix & 0xFC) {
      case 0x74:
        size = value;
        break;
      case 0x94:
        count = value;
        break;
      case 0x80:
        bits += size * count;
        break;
      case 0xA0:
        ++depth;
        break;
      case 0xC0:
        --depth;
        break;
      case 0x08:
        usages.push_back(value);
        break;
      default:
        break;
    }
  }
  EXPECT_EQ(bits, 8 * sizeof(wire::Report));
  EXPECT_EQ(depth, 0u);
  EXPECT_THAT(usages, ElementsAre(2, 1, 0x30, 0x31, 0x38, 0x238));
}

TEST_F(MouseTest, Client) {
  Listen();
  EXPECT_EQ(client_->attributes().vendor, wire::kVendor);
  ASSERT_EQ(client_->report_descriptor_bytes(), sizeof(wire::kReport));
  EXPECT_EQ(std::memcmp(client_->report_descriptor(), wire::kReport, sizeof(wire::kReport)), 0);
  Point({.x = 1, .y = 2, .buttons = 4, .wheel = 127, .pan = -128});
  Pump();
  EXPECT_THAT(seen_, ElementsAre("1,2 4 127 -127"));
  mouse_->ReleaseAll();
  mouse_->ReleaseAll();
  Pump();
  EXPECT_THAT(seen_, ElementsAre("1,2 4 127 -127", "1,2 0 0 0"));
  EXPECT_EQ(mouse_->Point({.x = 32768}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(mouse_->Point({.y = 65535}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(mouse_->Point({.buttons = 32}).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(MouseTest, VersionsThatThereAreNot) {
  OpenChannel();
  Put("010000000c000000000000000400000000000100");
  EXPECT_THAT(Take(), StartsWith("010000000d0000000100000005000000"
                                 "00000100"
                                 "00"));
  EXPECT_EQ(Take(), "");
  Put(kRequest);
  EXPECT_NE(Take(), "");
  EXPECT_NE(Take(), "");
}

// Movements become the last of them; the places where something is pressed stay.
TEST_F(MouseTest, MovementsThatWait) {
  Listen();
  mouse_->Pause();
  for (uint16_t i = 1; i <= 100; ++i) Point({.x = i});
  Point({.x = 100, .buttons = 1});
  for (uint16_t i = 101; i <= 200; ++i) Point({.x = i, .buttons = 1});
  Point({.x = 200});
  Point({.x = 200, .wheel = 1});
  Point({.x = 200, .wheel = 1});
  mouse_->Resume();
  Pump();
  EXPECT_THAT(seen_,
              ElementsAre("100,0 0 0 0", "100,0 1 0 0", "200,0 1 0 0", "200,0 0 0 0", "200,0 0 1 0", "200,0 0 1 0"));
}

// A guest that reads nothing: what waits has a bound, the place and the buttons are right in the end, and no detent is lost.
TEST_F(MouseTest, GuestThatReadsNothing) {
  std::mt19937_64 random(TestSeed());
  Agree();
  PointerEvent last;
  int wheel = 0;
  for (int i = 0; i < 1000; ++i) {
    last = {.x = static_cast<uint16_t>(random() % 32768),
            .y = static_cast<uint16_t>(random() % 32768),
            .buttons = static_cast<uint8_t>(random() % 32),
            .wheel = static_cast<int8_t>(i % 20 == 0)};
    wheel += last.wheel;
    Point(last);
    Beat();
    ASSERT_LE(mouse_->status().waiting, Mouse::kMaxWaiting);
  }
  std::string message, newest;
  for (int i = 0; i < 20; ++i) {
    while (!(message = Take()).empty()) {
      newest = message;
      wheel -= static_cast<int8_t>(std::stoi(message.substr(2 * 21, 2), nullptr, 16));
    }
    Beat();
  }
  EXPECT_EQ(wheel, 0);
  EXPECT_EQ(newest.substr(2 * 16, 2 * 5), absl::StrFormat("%02x%02x%02x%02x%02x", last.buttons, last.x & 0xFF,
                                                          last.x >> 8, last.y & 0xFF, last.y >> 8));
  EXPECT_EQ(mouse_->status().waiting, 0u);
}

TEST_F(MouseTest, WhatIsNoMessage) {
  const std::string bad[] = {"",
                             "01000000",
                             "020000000c000000000000000400000000000200",  // no data of a pipe
                             "0100000040000000000000000400000000000200",  // longer than it is
                             "0100000008000000000000000400000000000200",  // a request that is cut
                             kAck,                                        // before anything else
                             std::string(2000, '0')};
  for (const std::string& message : bad) {
    OpenChannel();
    Put(message);
    Put(kRequest);
    EXPECT_EQ(Take(), "") << message;
    EXPECT_THAT(mouse_->Point({}).ToString(), HasSubstr("has broken the protocol"));
    CloseChannel();
  }
  for (const char* const message : {kAck, kRequest}) {
    Agree();
    Put(message);
    EXPECT_FALSE(mouse_->status().is_ready);
    CloseChannel();
  }
  Agree();
  Put("0100000008000000"
      "2a00000000000000");
  EXPECT_TRUE(mouse_->status().is_ready);
}

}  // namespace
}  // namespace hvsdk::vsp
