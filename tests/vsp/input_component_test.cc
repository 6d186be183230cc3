// SPDX-License-Identifier: Apache-2.0
// Keyboard and mouse by the suite that every component passes. Their guest is nothing but memory: it says what comes next, or something
// else, and reads what comes, or does not.

#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "hvsdk/vmbus/ring/reader.h"
#include "hvsdk/vsp/keyboard.h"
#include "hvsdk/vsp/mouse.h"
#include "tests/state/component_suite.h"
#include "tests/vsp/played_channel.h"

namespace hvsdk::vsp {
namespace {

struct KeyboardKind {
  using Component = Keyboard;
  static constexpr const char* kMessages[] = {"0100000000000100", "0100000000000100", "0100000000000900",
                                              "0400000007000000", "2a000000"};
  static auto Make(vmbus::Server& server, const InputResources& resources) {
    return *Keyboard::Create(server, resources);
  }
  static void Use(Keyboard& keyboard, std::mt19937_64& random) {
    const auto code = static_cast<uint16_t>((random() % 4 == 0 ? 0xE000 : 0) + 1 + random() % 4);
    const KeyEvent event{.code = random() % 8 == 0 ? KeyEvent::kPause : code, .is_pressed = random() % 2 == 0};
    if (random() % 4 == 0) {
      std::vector<KeyEvent> events(random() % 30, event);
      for (size_t i = 0; i < events.size(); i += 2) events[i].is_pressed = !event.is_pressed;
      // Its answer is no matter of state: after a restore nobody waits for it.
      keyboard.Type(events, [](const absl::Status&) {});
    } else {
      keyboard.OnKey(event);
    }
  }
  static std::string Show(const Keyboard& keyboard) {
    const KeyboardStatus status = keyboard.status();
    return absl::StrCat(status.leds, " waiting ", status.waiting, " held ", status.held);
  }
};

struct MouseKind {
  using Component = Mouse;
  static constexpr const char* kMessages[] = {"010000000c000000000000000400000000000200",
                                              "010000000c000000000000000400000000000200",
                                              "010000000c000000000000000400000000000900",
                                              "0100000009000000030000000100000000", "01000000080000002a00000000000000"};
  static auto Make(vmbus::Server& server, const InputResources& resources) { return *Mouse::Create(server, resources); }
  static void Use(Mouse& mouse, std::mt19937_64& random) {
    const PointerEvent event{.x = static_cast<uint16_t>(random() % 32768),
                             .y = static_cast<uint16_t>(random() % 32768),
                             .buttons = static_cast<uint8_t>(random() % 4 == 0 ? random() % 32 : 0),
                             .wheel = static_cast<int8_t>(random() % 8 == 0 ? random() % 256 : 0)};
    for (int i = random() % 20; i-- != 0;) mouse.OnPointer(event);
  }
  static std::string Show(const Mouse& mouse) {
    const MouseStatus status = mouse.status();
    return absl::StrCat(status.last.x, ",", status.last.y, " ", status.last.buttons, " waiting ", status.waiting);
  }
};

template <typename Kind>
class InputSubject : private PlayedChannel {
 public:
  InputSubject() : PlayedChannel(/*pages=*/8) {
    component_ = Kind::Make(server_, {.executor = executor_, .timers = timers_, .clock = clock_});
    executor_.RunUntilIdle();
  }

  state::Component& component() { return *component_; }

  // Of all subjects: the histories are not empty.
  static inline int opens = 0, ready = 0, packets = 0;

  void CopyWorld(InputSubject& from) {
    CopyWorldOf(from);
    said_ = from.said_;
  }

  std::string Step(std::mt19937_64& random) {
    // A beat, and what is late, are counted anew after each stop, as after a restore.
    component_->Pause();
    RestoreServer();
    component_->Resume();
    executor_.RunUntilIdle();
    std::string seen;
    const uint64_t what = random() % 16;
    if (!is_open_ && what < 12) {
      seen = Open();
      opens += is_open_;
      said_ = 0;
    } else if (what == 0) {
      seen = Close();
    } else if (what == 1) {
      timers_.AdvanceBy(random() % 130'000'000);
    } else if (what == 2) {
      component_->ReleaseAll();
    } else if (what < 8) {
      Kind::Use(*component_, random);
    } else if (what < 11) {
      for (int i = random() % 40; i-- != 0;) seen += TakePacket();
    } else if (is_open_) {
      // In order, mostly.
      size_t next = random() % 24 == 0 ? random() % std::size(Kind::kMessages) : 4;
      if (said_ == 0) next = random() % 8 == 0 ? 2 : 0;
      if (said_ == 1) next = 3;
      if (next != 2) ++said_;
      const std::string message = absl::HexStringToBytes(Kind::kMessages[next]);
      Put(message.data(), message.size());
    }
    executor_.RunUntilIdle();
    ready += component_->status().is_ready;
    return absl::StrCat(seen, TakeMessages(hypervisor_, executor_), "ready ", component_->status().is_ready, " ",
                        Kind::Show(*component_), "\n");
  }

 private:
  std::string TakePacket() {
    if (!is_open_) return "";
    vmbus::RingReader<vmbus::FlatMemory> ring(Ring(false));
    alignas(8) uint8_t buffer[1024];
    vmbus::Packet packet;
    if (ring.Attach() != vmbus::RingStatus::kOk ||
        ring.Read(buffer, sizeof(buffer), packet) != vmbus::RingStatus::kOk) {
      return "";
    }
    ++packets;
    const std::string seen = absl::StrCat(
        "packet ", absl::BytesToHexString({reinterpret_cast<const char*>(packet.payload), packet.payload_size}), "\n");
    if (ring.Commit() == vmbus::Signal::kNeeded) Signal();
    return seen;
  }

  std::unique_ptr<typename Kind::Component> component_;
  int said_ = 0;  // messages since the opening
};

template <typename Kind>
class InputComponentTest : public testing::Test {};
using Kinds = testing::Types<KeyboardKind, MouseKind>;
TYPED_TEST_SUITE(InputComponentTest, Kinds);

TYPED_TEST(InputComponentTest, KeepsItsState) {
  using Subject = InputSubject<TypeParam>;
  state::CheckComponent([] { return std::make_unique<Subject>(); });
  EXPECT_GT(Subject::opens, 20);
  EXPECT_GT(Subject::ready, 200);
  EXPECT_GT(Subject::packets, 200);
}

}  // namespace
}  // namespace hvsdk::vsp
