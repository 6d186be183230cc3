// SPDX-License-Identifier: Apache-2.0
// A screen and a keyboard, by the clients of hvsdk::vsc, and somebody who looks and types (tests/guest_kernel/typist.py): the guest draws a
// picture, says what is typed until Enter, turns the picture's colours over, and waits for Escape.

#include "console.h"
#include "hvsdk/hvdef/keyboard.h"
#include "hvsdk/vsc/client_rings.h"
#include "hvsdk/vsc/keyboard_client.h"
#include "hvsdk/vsc/video_client.h"
#include "tests.h"
#include "vmbus_connection.h"

namespace keyboard = hvsdk::hvdef::keyboard;

namespace {

constexpr uint32_t kRingPages = 8;
constexpr uint32_t kSint = vmbus::kMessageSint;
constexpr uint64_t kPatience = 60 * kSecond;  // with whoever looks, who may come late
constexpr uint32_t kWidth = 640, kHeight = 480;
constexpr uint16_t kEscape = 0x01, kEnter = 0x1C;
constexpr uint32_t kMostTyped = 32;

Page video_rings[2 * kRingPages], keyboard_rings[2 * kRingPages];
Page frame[kWidth * kHeight * 4 / kPageSize];

vsc::RingPages RingsAt(const Page* rings) {
  return {.pages = {.pfns = nullptr, .first_pfn = rings[0].pfn(), .page_count = 2 * kRingPages},
          .outgoing_pages = kRingPages};
}

uint32_t* Pixels() { return reinterpret_cast<uint32_t*>(frame[0].bytes); }

// The letters of scan codes of set 1, from Q's on; others are '?'.
char LetterOf(uint16_t code) {
  constexpr char kLetters[] = "qwertyuiop????asdfghjkl?????zxcvbnm";
  return code >= 0x10 && code - 0x10u < sizeof(kLetters) - 1 ? kLetters[code - 0x10] : '?';
}

struct Typist {
  char text[kMostTyped + 1] = {};
  uint32_t length = 0;
  uint32_t pressed = 0, released = 0;
  bool has_entered = false, has_escaped = false;
  bool all_fit = true;

  void OnKey(uint16_t code, uint32_t flags) {
    if ((flags & keyboard::kIsBreak) != 0) {
      ++released;
      return;
    }
    ++pressed;
    has_entered |= code == kEnter;
    has_escaped |= code == kEscape;
    if (code == kEnter || code == kEscape) return;
    all_fit &= length < kMostTyped;
    if (length < kMostTyped) text[length++] = LetterOf(code);
  }
};

}  // namespace

void TestScreen() {
  Print("# a screen and a keyboard\n");
  Offers offers;
  VmbusClient bus(ConfigFor(vmbus::kNewestVersion, vmbus::kNewestVersion, kSint, &offers));
  if (!Check(Connect(bus, kSint) && TakeOffers(bus, kSint, offers) && offers.has_video && offers.has_keyboard,
             "screen: video and a keyboard are offered")) {
    return;
  }
  using State = vsc::Channel::State;
  vsc::Channel video_channel, keyboard_channel;
  vsc::VideoClient video(bus, video_channel, vsc::ClientRings::Create(video_rings, RingsAt(video_rings)));
  vsc::KeyboardClient keys(bus, keyboard_channel, vsc::ClientRings::Create(keyboard_rings, RingsAt(keyboard_rings)));
  Typist typist;
  keys.context = &typist;
  keys.on_key = [](void* context, uint16_t code, uint32_t flags) { static_cast<Typist*>(context)->OnKey(code, flags); };
  Check(bus.Open(video_channel, offers.video, RingsAt(video_rings)) &&
            bus.Open(keyboard_channel, offers.keyboard, RingsAt(keyboard_rings)) &&
            ServeUntil(bus, kSint,
                       [&] {
                         return video_channel.state() != State::kOpening && keyboard_channel.state() != State::kOpening;
                       }) &&
            video_channel.state() == State::kOpen && keyboard_channel.state() == State::kOpen,
        "screen: their channels open");
  video.Start();
  Check(ServeUntil(bus, kSint, [&] { return video.state() != vsc::VideoClient::State::kStarting; }) &&
            video.state() == vsc::VideoClient::State::kReady && video.version() == vsc::VideoClient::Version::k3_5,
        "screen: video speaks our version");
  Check(video.width() == kWidth && video.height() == kHeight, "screen: and wants to be as large as it is");

  // Before there is a picture, at whose sight somebody types.
  keys.Start();
  Check(ServeUntil(bus, kSint, [&] { return keys.state() != vsc::KeyboardClient::State::kStarting; }) &&
            keys.state() == vsc::KeyboardClient::State::kReady,
        "screen: the keyboard speaks our version");

  // Each row and each column another colour, as typist.py has it.
  for (uint32_t y = 0; y < kHeight; ++y) {
    for (uint32_t x = 0; x < kWidth; ++x) {
      Pixels()[y * kWidth + x] = (x & 0xFF) << 16 | (y & 0xFF) << 8 | (x >> 8) * 64 | (y >> 8) * 16;
    }
  }
  Check(video.Show({.gpa = frame[0].gpa(), .width = kWidth, .height = kHeight, .stride_bytes = kWidth * 4}) &&
            ServeUntil(bus, kSint, [&] { return video.is_shown(); }),
        "screen: a picture is shown");
  Check(ServeUntil(
            bus, kSint, [&] { return video.wants_dirt(); }, kPatience),
        "screen: somebody looks");
  Check(video.TellDrawn(0, 0, kWidth, kHeight), "screen: and is told what was drawn");

  const auto is_released = [&] { return typist.pressed == typist.released; };
  Check(ServeUntil(
            bus, kSint, [&] { return typist.has_entered && is_released(); }, kPatience) &&
            typist.all_fit,
        "screen: somebody types");
  Print("# typed: ");
  Print(typist.text);
  Print("\n");
  for (uint32_t i = 0; i < kWidth * kHeight; ++i) Pixels()[i] ^= 0xFFFFFF;
  Check(video.TellDrawn(0, 0, kWidth, kHeight), "screen: other colours are drawn");
  Check(ServeUntil(
            bus, kSint, [&] { return typist.has_escaped && is_released(); }, kPatience),
        "screen: and whoever looks has seen them");
  bus.Close(video_channel);
  bus.Close(keyboard_channel);
  Check(ServeUntil(bus, kSint,
                   [&] { return video_channel.state() == State::kNone && keyboard_channel.state() == State::kNone; }),
        "screen: the channels close");
  Check(Unload(bus, kSint), "VMBus: unloaded at the end");
}
