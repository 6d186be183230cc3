// SPDX-License-Identifier: Apache-2.0
// The keyboard against its client over real rings, and against guests that read slowly, or lie.

#include "hvsdk/vsp/keyboard.h"

#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/hvdef/keyboard.h"
#include "hvsdk/vsc/keyboard_client.h"
#include "tests/random_seed.h"
#include "tests/vsp/input_fixture.h"

namespace hvsdk::vsp {
namespace {

namespace wire = hvdef::keyboard;
using testing::ElementsAre;
using testing::IsEmpty;

// As Linux says it (hv_kbd_connect_to_vsp), and what it wants to hear.
constexpr char kRequest[] = "0100000000000100";
constexpr char kAccepted[] = "0200000001000000";
constexpr char kRefused[] = "0200000000000000";

std::string Padded(std::string keystroke) { return keystroke + "00000000"; }

class KeyboardTest : public InputFixture<vsc::KeyboardClient> {
 protected:
  hvdef::Guid class_id() const override { return hvdef::class_id::kKeyboard; }
  void MakeDevice() override {
    keyboard_ = *Keyboard::Create(*server_, {.executor = executor_, .timers = timers_, .clock = clock_},
                                  {.on_leds = [this](uint16_t leds) { leds_.push_back(leds); }});
  }
  void TearDown() override {
    keyboard_.reset();
    ProviderFixture::TearDown();
  }
  void Agree() {
    OpenChannel();
    Put(kRequest);
    ASSERT_EQ(Take(), kAccepted);
  }
  void Listen() {
    StartClient();
    client_->context = this;
    client_->on_key = [](void* context, uint16_t code, uint32_t flags) {
      static_cast<KeyboardTest*>(context)->seen_.push_back(absl::StrFormat("%x/%x", code, flags));
    };
  }
  // What it answers soon.
  std::vector<std::string> Type(std::vector<KeyEvent> events) {
    const auto answers = std::make_shared<std::vector<std::string>>();
    keyboard_->Type(events, [answers](const absl::Status& status) { answers->push_back(status.ToString()); });
    Pump();
    return *answers;
  }
  static std::vector<KeyEvent> Stroke(uint16_t code) { return {{.code = code, .is_pressed = true}, {.code = code}}; }

  std::unique_ptr<Keyboard> keyboard_;
  std::vector<std::string> seen_;
  std::vector<uint16_t> leds_;
};

TEST_F(KeyboardTest, GoldenBytes) {
  OpenChannel();
  Put(kRequest, /*wants_completion=*/true);
  EXPECT_EQ(Take(), kAccepted);
  EXPECT_EQ(Take(), "");
  EXPECT_EQ(completions_, 1);
  EXPECT_THAT(Type({{.code = 0x1E, .is_pressed = true}, {.code = 0x1E}, {.code = 0xE048, .is_pressed = true}}),
              ElementsAre("OK"));
  EXPECT_EQ(Take(), Padded("030000001e00000000000000"));
  EXPECT_EQ(Take(), Padded("030000001e00000002000000"));
  EXPECT_EQ(Take(), Padded("030000004800000004000000"));
  EXPECT_THAT(Type(Stroke(KeyEvent::kPause)), ElementsAre("OK"));
  EXPECT_EQ(Take(), Padded("030000001d00000008000000"));
  EXPECT_EQ(Take(), Padded("030000004500000000000000"));
  EXPECT_EQ(Take(), Padded("030000001d0000000a000000"));
  EXPECT_EQ(Take(), Padded("030000004500000002000000"));
  EXPECT_THAT(Type({{.code = 0x20AC, .is_pressed = true, .is_unicode = true}}), ElementsAre("OK"));
  EXPECT_EQ(Take(), Padded("03000000ac20000001000000"));
  EXPECT_EQ(keyboard_->status().held, 2u);
}

TEST_F(KeyboardTest, VersionsThatThereAreNot) {
  EXPECT_THAT(Type(Stroke(1)), ElementsAre("FAILED_PRECONDITION: the guest has no driver for its keyboard yet"));
  OpenChannel();
  EXPECT_THAT(Type(Stroke(1)), ElementsAre("FAILED_PRECONDITION: the guest has no driver for its keyboard yet"));
  Put("0100000000000200");
  EXPECT_EQ(Take(), kRefused);
  EXPECT_FALSE(keyboard_->status().is_ready);
  Put(kRequest);
  EXPECT_EQ(Take(), kAccepted);
  EXPECT_TRUE(keyboard_->status().is_ready);
  CloseChannel();
  EXPECT_FALSE(keyboard_->status().is_ready);
  Agree();
}

TEST_F(KeyboardTest, Client) {
  Listen();
  EXPECT_THAT(Type(Stroke(0xE053)), ElementsAre("OK"));
  EXPECT_THAT(seen_, ElementsAre("53/4", "53/6"));
  EXPECT_TRUE(client_->SetLeds(wire::kCapsLockLed | wire::kNumLockLed));
  Pump();
  EXPECT_TRUE(client_->SetLeds(wire::kCapsLockLed | wire::kNumLockLed));
  Pump();
  EXPECT_EQ(keyboard_->status().leds, 6);
  EXPECT_THAT(leds_, ElementsAre(6));
}

TEST_F(KeyboardTest, WhatNoKeyHas) {
  Agree();
  for (const uint16_t code : {0, 0x80, 0xFF, 0x11E, 0xE000, 0xE0C8, 0xE11E}) {
    EXPECT_THAT(Type(Stroke(code)), ElementsAre(testing::HasSubstr("no key has the scan code")));
    keyboard_->OnKey({.code = code, .is_pressed = true});
  }
  Pump();
  EXPECT_EQ(Take(), "");
  // The release of what is not held is nothing.
  EXPECT_THAT(Type({{.code = 1}}), ElementsAre("OK"));
  keyboard_->OnKey({.code = 1});
  Pump();
  EXPECT_EQ(Take(), "");
}

TEST_F(KeyboardTest, NoFasterThanProgramsRead) {
  Listen();
  std::vector<KeyEvent> events;
  for (int i = 0; i < 20; ++i) {
    for (const KeyEvent& event : Stroke(0x10 + i)) events.push_back(event);
  }
  EXPECT_THAT(Type(events), IsEmpty());
  EXPECT_EQ(seen_.size(), 8u);
  Pump();
  EXPECT_EQ(seen_.size(), 8u);
  for (size_t seen = 16; seen <= 40; seen += 8) {
    Beat();
    EXPECT_EQ(seen_.size(), seen);
  }
  Beat();
  EXPECT_EQ(seen_.size(), 40u);
}

// Everything is in the ring, or waits; nothing is read.
TEST_F(KeyboardTest, GuestThatReadsNothing) {
  Agree();
  std::vector<KeyEvent> events = {{.code = 0x2A, .is_pressed = true}};
  for (int i = 0; i < 2000; ++i) events.push_back({.code = 0x1E, .is_pressed = i % 2 == 0});
  events.push_back({.code = 0x2A});
  std::string answer;
  keyboard_->Type(events, [&](const absl::Status& status) { answer = status.ToString(); });
  for (int i = 0; i < 450; ++i) Beat();
  EXPECT_EQ(answer, "");
  for (int i = 0; i < 100; ++i) Beat();
  EXPECT_EQ(answer, "DEADLINE_EXCEEDED: the guest does not read what its keyboard sends");
  // And what it has had as pressed is let go of, however late.
  for (int i = 0; i < 3000; ++i) Beat();
  EXPECT_LE(keyboard_->status().waiting, 2u);
  std::map<std::string, bool> pressed;
  for (int i = 0; i < 10; ++i) {
    for (std::string message; !(message = Take()).empty();) pressed[message.substr(8, 4)] = message[17] == '0';
    Beat();
  }
  EXPECT_EQ(pressed.size(), 2u);
  for (const auto& [key, is_pressed] : pressed) EXPECT_FALSE(is_pressed) << key;
  EXPECT_EQ(keyboard_->status().waiting, 0u);
  EXPECT_THAT(Type(Stroke(1)), ElementsAre("OK"));
}

TEST_F(KeyboardTest, TooMuch) {
  Agree();
  std::vector<KeyEvent> events;
  for (size_t i = 0; i < Keyboard::kMaxTyped; ++i) events.push_back({.code = 0x1E, .is_pressed = i % 2 == 0});
  EXPECT_THAT(Type(events), IsEmpty());
  EXPECT_THAT(Type(Stroke(1)), IsEmpty());  // eight are gone
  for (size_t i = 0; i < 20; ++i) events.push_back({.code = 0x1E, .is_pressed = i % 2 == 0});
  EXPECT_THAT(Type(events), ElementsAre("RESOURCE_EXHAUSTED: the guest has not taken what was typed before"));
}

// Of random keys, in a ring that is read now and then, no key stays pressed that is not held.
TEST_F(KeyboardTest, NoKeyIsPressedByHalf) {
  std::mt19937_64 random(TestSeed());
  Agree();
  std::map<std::string, bool> in_guest;
  size_t presses = 0, seen = 0;
  const auto read = [&](int most) {
    for (std::string message; most-- > 0 && !(message = Take()).empty(); ++seen) {
      // The lowest digit of the flags has E0 and the release.
      const bool is_press = (std::stoi(message.substr(17, 1), nullptr, 16) & 2) == 0;
      const std::string name = message.substr(8, 4) + (message.substr(17, 1) >= "4" ? "x" : "");
      if (!is_press) {
        EXPECT_TRUE(in_guest[name]) << "a release without a press";
      }
      in_guest[name] = is_press;
    }
    Pump();
  };
  std::map<uint16_t, bool> held;
  for (int round = 0; round < 20'000; ++round) {
    const auto code = static_cast<uint16_t>((random() % 2 == 0 ? 0xE000 : 0) + 1 + random() % 10);
    const bool is_pressed = random() % 2 == 0;
    presses += is_pressed;
    held[code] = is_pressed;
    keyboard_->OnKey({.code = code, .is_pressed = is_pressed});
    if (random() % 4 == 0) Beat();
    if (round % 4000 > 3000) read(20);
    ASSERT_LE(keyboard_->status().waiting + keyboard_->status().held, Keyboard::kMaxLive);
  }
  for (const auto& [code, is_pressed] : held) keyboard_->OnKey({.code = code});
  EXPECT_EQ(keyboard_->status().held, 0u);
  for (int i = 0; i < 200; ++i) {
    Beat();
    read(1000);
  }
  for (const auto& [key, is_pressed] : in_guest) EXPECT_FALSE(is_pressed) << key;
  EXPECT_GT(seen, 2000u);
  EXPECT_LT(seen, 2 * presses);  // some were dropped
}

TEST_F(KeyboardTest, ReleaseAll) {
  Listen();
  EXPECT_THAT(Type({{.code = 0x1D, .is_pressed = true}, {.code = 0x38, .is_pressed = true}}), ElementsAre("OK"));
  keyboard_->ReleaseAll();
  Pump();
  EXPECT_THAT(seen_, ElementsAre("1d/0", "38/0", "38/2", "1d/2"));
  {
    InputSource viewer(keyboard_.get(), nullptr);
    viewer.Key({.code = 0x2A, .is_pressed = true});
    viewer.Key({.code = 0x1E, .is_pressed = true});
    viewer.Point({.x = 1});
  }
  Pump();
  EXPECT_THAT(std::vector(seen_.begin() + 4, seen_.end()), ElementsAre("2a/0", "1e/0", "1e/2", "2a/2"));
}

TEST_F(KeyboardTest, Pauses) {
  Listen();
  keyboard_->Pause();
  EXPECT_THAT(Type(Stroke(1)), IsEmpty());
  EXPECT_THAT(seen_, IsEmpty());
  keyboard_->Resume();
  Pump();
  EXPECT_THAT(seen_, ElementsAre("1/0", "1/2"));
}

TEST_F(KeyboardTest, DriverThatGoes) {
  Agree();
  std::vector<KeyEvent> events;
  for (int i = 0; i < 100; ++i) events.push_back({.code = 0x1E, .is_pressed = i % 2 == 0});
  std::string answer;
  keyboard_->Type(events, [&](const absl::Status& status) { answer = status.ToString(); });
  Pump();
  CloseChannel();
  EXPECT_EQ(answer, "FAILED_PRECONDITION: the guest's driver for its keyboard has gone");
  Agree();
  EXPECT_EQ(Take(), "");
  keyboard_->Type(events, [&](const absl::Status& status) { answer = status.ToString(); });
  server_->Reset();
  keyboard_->Reset();
  EXPECT_EQ(answer, "CANCELLED: the machine was reset");
}

TEST_F(KeyboardTest, WhatIsNoMessage) {
  const char* const bad[] = {"",                   // nothing
                             "0400000001000000"};  // lights before the version
  for (const char* const message : bad) {
    OpenChannel();
    Put(message);
    Put(kRequest);
    EXPECT_EQ(Take(), "") << message;
    EXPECT_THAT(Type(Stroke(1)),
                ElementsAre("FAILED_PRECONDITION: the guest's driver for its keyboard has broken the protocol"));
    CloseChannel();
  }
  for (const std::string& message : {std::string(kRequest), std::string(), std::string(1000, '0')}) {
    Agree();
    std::string answer;
    keyboard_->Type(std::vector<KeyEvent>(17, {.code = 1, .is_pressed = true}),
                    [&](const absl::Status& status) { answer = status.ToString(); });
    Put(message);
    EXPECT_EQ(answer, "FAILED_PRECONDITION: the guest's driver for its keyboard has broken the protocol") << message;
    EXPECT_EQ(keyboard_->status().waiting, 0u);
    CloseChannel();
  }
  // What later versions may say.
  Agree();
  Put("2a000000");
  EXPECT_TRUE(keyboard_->status().is_ready);
}

}  // namespace
}  // namespace hvsdk::vsp
