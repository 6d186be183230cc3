// SPDX-License-Identifier: Apache-2.0
// A hostile guest at the keyboard and the mouse: plays a string of bytes as messages of their protocols with lies in them, in any order,
// and keys and movements meanwhile. Ends the program if the guest is sent the release of a key that was not pressed, if a key stays
// pressed that is not held, if the mouse is not where it was put last, if more waits than may, or if they do not come to rest.

#ifndef HVSDK_FUZZ_INPUT_INPUT_HARNESS_H_
#define HVSDK_FUZZ_INPUT_INPUT_HARNESS_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <set>
#include <vector>

#include "base/check.h"
#include "fuzz/provider_world.h"
#include "hvsdk/base/fake_clock.h"
#include "hvsdk/hvdef/integration.h"
#include "hvsdk/hvdef/keyboard.h"
#include "hvsdk/hvdef/mouse.h"
#include "hvsdk/vsp/keyboard.h"
#include "hvsdk/vsp/mouse.h"

namespace hvsdk::vsp {

class InputHarness : private ProviderWorld {
 public:
  InputHarness() {
    const InputResources resources{.executor = executor_, .timers = timers_, .clock = clock_};
    keyboard_ = *Keyboard::Create(*server_, resources);
    mouse_ = *Mouse::Create(*server_, resources);
    Connect(absl::MakeSpan(ends_));
  }

  // Tests see that it gets somewhere.
  uint64_t keys = 0, reports = 0;

  void Play(const uint8_t* data, size_t size) {
    in_ = fuzz::Bytes({data, size});
    for (const bool is_mouse : {false, true}) Open(is_mouse);
    if (Byte() % 8 != 0) {
      SayKeyboard(0);
      SayMouse(0);
      SayMouse(1);
    }
    while (!in_.empty()) Step();
    if (is_paused_) SetPaused(false);
    Settle();
    for (const bool is_mouse : {false, true}) Close(is_mouse);
  }

 private:
  ChannelEnd& end(bool is_mouse) { return ends_[is_mouse]; }

  void Open(bool is_mouse) {
    OpenChannelOf(end(is_mouse), is_mouse ? hvdef::class_id::kMouse : hvdef::class_id::kKeyboard,
                  [&] { Forget(is_mouse); });
  }
  void Close(bool is_mouse) {
    if (!end(is_mouse).is_open()) return;
    child_->client().Close(end(is_mouse).channel);
    Pump();
    end(is_mouse).channel = vsc::Channel();
    HVSDK_CHECK(is_mouse ? mouse_->status().waiting == 0 : keyboard_->status().waiting + keyboard_->status().held == 0);
    Forget(is_mouse);
  }
  void Forget(bool is_mouse) {
    if (is_mouse) {
      has_report_ = false;
    } else {
      pressed_.clear();
    }
  }
  void SetPaused(bool paused) {
    is_paused_ = paused;
    for (InputComponent* const component :
         {static_cast<InputComponent*>(keyboard_.get()), static_cast<InputComponent*>(mouse_.get())}) {
      paused ? component->Pause() : component->Resume();
    }
    Pump();
  }

  // Lets go of everything and has the guest read all of it.
  void Settle() {
    const bool was_ready = keyboard_->status().is_ready, mouse_was_ready = mouse_->status().is_ready;
    keyboard_->ReleaseAll();
    mouse_->ReleaseAll();
    for (int i = 0; i < 10'000 && (keyboard_->status().waiting != 0 || mouse_->status().waiting != 0); ++i) {
      timers_.AdvanceBy(200'000);
      Pump();
      for (const bool is_mouse : {false, true}) Read(is_mouse, 1000);
    }
    for (const bool is_mouse : {false, true}) Read(is_mouse, 1000);
    HVSDK_CHECK(keyboard_->status().waiting == 0 && mouse_->status().waiting == 0);
    if (was_ready && keyboard_->status().is_ready) HVSDK_CHECK(pressed_.empty());
    if (mouse_was_ready && mouse_->status().is_ready && has_report_) {
      const PointerEvent last = mouse_->status().last;
      HVSDK_CHECK(report_.x == last.x && report_.y == last.y && report_.buttons == 0);
    }
  }

  void Step() {
    const uint8_t what = Byte() % 16;
    switch (what) {
      case 0: {
        const bool is_mouse = Byte() % 2 != 0;
        Close(is_mouse);
        Open(is_mouse);
        break;
      }
      case 1:
        SetPaused(!is_paused_);
        break;
      case 2:
        timers_.AdvanceBy(Byte() * 1'000'000);
        Pump();
        break;
      case 3:
        if (!is_paused_) Settle();
        break;
      case 4:
      case 5:
      case 6:
        keyboard_->OnKey(Byte() % 8 == 0 ? KeyEvent{.code = in_.Take<uint16_t>(), .is_pressed = true} : Event());
        break;
      case 7: {
        std::vector<KeyEvent> events(Byte() * 4);
        for (KeyEvent& event : events) event = Event();
        keyboard_->Type(events, [](const absl::Status&) {});
        break;
      }
      case 8:
      case 9:
        for (int i = Byte() % 32; i-- != 0;) {
          mouse_->OnPointer({.x = static_cast<uint16_t>(in_.Take<uint16_t>() % 33000),
                             .y = static_cast<uint16_t>(in_.Take<uint16_t>() % 33000),
                             .buttons = static_cast<uint8_t>(Byte() % 33),
                             .wheel = in_.Take<int8_t>()});
        }
        break;
      case 10:
        SayKeyboard(Byte() % 4);
        break;
      case 11:
        SayMouse(Byte() % 4);
        break;
      default:
        Read(what % 2 != 0, Byte());
    }
    Pump();
    HVSDK_CHECK(keyboard_->status().waiting + keyboard_->status().held <= Keyboard::kMaxTyped);
    HVSDK_CHECK(mouse_->status().waiting <= Mouse::kMaxWaiting);
  }

  KeyEvent Event() {
    const uint8_t code = Byte(), more = Byte();
    return {.code = more % 16 == 0 ? KeyEvent::kPause
                                   : static_cast<uint16_t>(more % 4 == 0 ? 0xE001 | (code & 0x7F) : 1 + code % 8),
            .is_pressed = more >= 128,
            .is_unicode = more % 32 == 1};
  }

  void Put(bool is_mouse, const void* message, uint32_t size) {
    ChannelEnd& to = end(is_mouse);
    if (!to.is_open()) return;
    uint8_t bytes[64] = {};
    HVSDK_CHECK(size <= sizeof(bytes));
    std::memcpy(bytes, message, size);
    // A lie: a byte, or its size.
    if (Byte() % 8 == 0) bytes[Byte() % sizeof(bytes)] ^= Byte();
    if (Byte() % 16 == 0) size = Byte() % sizeof(bytes);
    if (to.rings.outgoing.StageInBand(vmbus::PacketHeader::InBand(++next_id_, Byte() % 2 == 0), bytes, size) !=
        vmbus::RingStatus::kOk) {
      return;
    }
    if (to.rings.outgoing.Publish() == vmbus::Signal::kNeeded) child_->client().Signal(to.channel);
    Pump();
  }
  void SayKeyboard(int what) {
    using namespace hvdef::keyboard;
    if (what == 0) {
      const ProtocolRequest request{.header = {MessageType::kProtocolRequest}, .version = kVersion1};
      return Put(false, &request, sizeof(request));
    }
    const LedIndicators indicators{.header = {MessageType::kLedIndicators}, .leds = Byte()};
    Put(false, &indicators, sizeof(indicators));
  }
  void SayMouse(int what) {
    using namespace hvdef::mouse;
    struct {
      hvdef::integration::PipeHeader pipe;
      uint8_t body[16];
    } message{.pipe = {.type = hvdef::integration::kPipeData}};
    if (what == 0) {
      const ProtocolRequest request{.header = {MessageType::kProtocolRequest, 4}, .version = kVersion2};
      message.pipe.size_bytes = sizeof(request);
      std::memcpy(message.body, &request, sizeof(request));
    } else {
      const DeviceInfoAck ack{
          .header = {what == 1 ? MessageType::kDeviceInfoAck : static_cast<MessageType>(Byte()), 1}};
      message.pipe.size_bytes = sizeof(ack);
      std::memcpy(message.body, &ack, sizeof(ack));
    }
    Put(true, &message, sizeof(message.pipe) + message.pipe.size_bytes);
  }

  void Read(bool is_mouse, int most) {
    ChannelEnd& from = end(is_mouse);
    if (!from.is_open()) return;
    alignas(8) uint8_t buffer[1024];
    vmbus::Packet packet;
    while (most-- > 0 && from.rings.incoming.Read(buffer, sizeof(buffer), packet) == vmbus::RingStatus::kOk) {
      if (packet.type == hvdef::PacketType::kDataInBand) is_mouse ? OnReport(packet) : OnKeystroke(packet);
    }
    if (from.rings.incoming.Commit() == vmbus::Signal::kNeeded) child_->client().Signal(from.channel);
    Pump();
  }
  void OnKeystroke(const vmbus::Packet& packet) {
    using namespace hvdef::keyboard;
    Keystroke keystroke;
    HVSDK_CHECK(packet.payload_size >= sizeof(Header));
    std::memcpy(&keystroke.header, packet.payload, sizeof(Header));
    if (keystroke.header.type == MessageType::kProtocolResponse) return;
    HVSDK_CHECK(packet.payload_size >= sizeof(keystroke));
    std::memcpy(&keystroke, packet.payload, sizeof(keystroke));
    HVSDK_CHECK(keystroke.header.type == MessageType::kKeystroke && keystroke.reserved == 0);
    HVSDK_CHECK((keystroke.flags & kIsUnicode) != 0 || (keystroke.code != 0 && keystroke.code < 0x80));
    ++keys;
    const uint32_t key = keystroke.code | (keystroke.flags & ~kIsBreak) << 16;
    // The second half of Pause is the code of another key.
    if (key == 0x45) return;
    if ((keystroke.flags & kIsBreak) == 0) {
      pressed_.insert(key);
    } else {
      HVSDK_CHECK(pressed_.erase(key) == 1);
    }
  }
  void OnReport(const vmbus::Packet& packet) {
    using namespace hvdef::mouse;
    InputReport report;
    hvdef::integration::PipeHeader pipe;
    HVSDK_CHECK(packet.payload_size >= sizeof(pipe) + sizeof(Header));
    std::memcpy(&pipe, packet.payload, sizeof(pipe));
    HVSDK_CHECK(pipe.size_bytes <= packet.payload_size - sizeof(pipe));
    if (pipe.size_bytes != sizeof(report)) return;
    std::memcpy(&report, packet.payload + sizeof(pipe), sizeof(report));
    if (report.header.type != MessageType::kInputReport) return;
    report_ = report.report;
    has_report_ = true;
    HVSDK_CHECK(report.report.x <= kMaxCoordinate && report.report.y <= kMaxCoordinate && report.report.buttons < 32);
    ++reports;
  }

  FakeClock clock_;
  FakeTimerQueue timers_{clock_};
  std::unique_ptr<Keyboard> keyboard_;
  std::unique_ptr<Mouse> mouse_;
  ChannelEnd ends_[2];
  std::set<uint32_t> pressed_;  // in the guest
  hvdef::mouse::Report report_{};
  bool has_report_ = false;
  bool is_paused_ = false;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_FUZZ_INPUT_INPUT_HARNESS_H_
