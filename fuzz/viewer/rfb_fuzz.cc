// SPDX-License-Identifier: Apache-2.0
// Viewers that send anything: pieces of what they send, between which a guest draws and changes its mode, and room for what they are sent.
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "fuzz/bytes.h"
#include "tests/viewer/fake_display.h"
#include "viewer/rfb_session.h"

namespace hvsdk::viewer {
namespace {

void Play(fuzz::Bytes input) {
  static const input::KeyboardLayout& layout = *new input::KeyboardLayout(*input::KeyboardLayout::Load("us"));
  FakeDisplay display;
  FakeSinks sinks;
  RfbSession session(display, &sinks, &sinks, layout, nullptr, "vm", [] {});
  std::string output;
  while (!input.empty()) {
    const uint8_t step = input.Take<uint8_t>();
    switch (step % 8) {
      case 0: {
        const uint32_t width = input.Take<uint8_t>() + 1u, height = input.Take<uint8_t>() + 1u;
        display.Show(width, height, (step & 8) != 0 ? PixelFormat::kRgb565 : PixelFormat::kXrgb8888);
        break;
      }
      case 1: {
        const uint32_t x = input.Take<uint8_t>(), y = input.Take<uint8_t>();
        const uint32_t width = input.Take<uint16_t>(), height = input.Take<uint16_t>();
        display.Change({x, y, width, height});
        break;
      }
      case 2:
        display.Point({.is_visible = (step & 8) != 0},
                      {.width = 9, .height = 3, .pixels = std::vector<uint8_t>(9 * 3 * 4, step)});
        break;
      case 3:
        // Its socket has room.
        if ((step & 8) != 0) output.clear();
        if (output.size() < RfbSession::kMaxOutput) session.Produce(output, /*may_begin=*/(step & 16) != 0);
        break;
      default: {
        const size_t size = input.Take<uint8_t>() + size_t{1};
        if (!session.Receive(input.TakeSpan(size))) return;
      }
    }
    // What waits: that much, and the rectangle that went beyond it, which zlib may make larger, and a pointer's image and greetings.
    HVSDK_CHECK(output.size() < 2 * RfbSession::kMaxOutput + 8192);
    for (const KeyEvent& key : sinks.keys) HVSDK_CHECK(IsScanCode(key.code));
    sinks = {};
  }
}

}  // namespace
}  // namespace hvsdk::viewer

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hvsdk::viewer::Play(hvsdk::fuzz::Bytes({data, size}));
  return 0;
}
