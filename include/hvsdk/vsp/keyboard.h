// SPDX-License-Identifier: Apache-2.0
// Keyboard: the synthetic keyboard, by which a host types to its guest.
//
// Keys go to the guest in the order in which they come, 8 presses and releases in 20 ms: Linux' programs lose some of what comes faster.
// What it does not read waits, within limits. No key is ever pressed by half: there is always room for the releases of the keys that
// are held, and a press that is dropped is dropped with its release.
//
// Limits: kMaxTyped events wait; a press by OnKey is dropped when kMaxLive do. A guest that reads nothing for kPatience loses what waits,
// but for the releases of what it has as pressed.
//
// Thread class: the executor. Source: hvdef/keyboard.h.
//
//   const auto keyboard = vsp::Keyboard::Create(server, {.executor = loop, .timers = timers, .clock = clock});
//   if (!keyboard.ok()) return keyboard.status();
//   const KeyEvent a[] = {{.code = 0x1E, .is_pressed = true}, {.code = 0x1E}};
//   (*keyboard)->Type(a, [](const absl::Status& status) { Tell(status); });

#ifndef HVSDK_VSP_KEYBOARD_H_
#define HVSDK_VSP_KEYBOARD_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "hvsdk/resource/input_source.h"
#include "hvsdk/vmbus/server.h"
#include "hvsdk/vsp/input.h"

namespace hvsdk::vsp {

struct KeyboardOptions {
  // Told the lights, hvdef::keyboard::k...Led, when the guest changes them.
  std::function<void(uint16_t leds)> on_leds;
};

struct KeyboardStatus {
  bool is_ready = false;  // the guest has a driver that takes keys
  uint16_t leds = 0;
  size_t waiting = 0;  // events that the guest has had no room or time for
  size_t held = 0;     // keys, once these have come
};

class Keyboard : public InputComponent, public KeySink {
 public:
  static constexpr size_t kMaxTyped = 32768, kMaxLive = 512;
  static constexpr std::chrono::milliseconds kPatience{10'000};

  // As vmbus::Server::OfferChannel.
  static absl::StatusOr<std::unique_ptr<Keyboard>> Create(vmbus::Server& server, const InputResources& resources,
                                                          const KeyboardOptions& options = {});
  // Takes it off the bus. On the executor, or on any thread once that has stopped for good.
  ~Keyboard() override;

  // All of these, in a row. `done` is called once, here or later on the executor. Ok: the guest has them in its ring. InvalidArgument:
  // no key has such a code. FailedPrecondition: it has no driver that takes keys, or that has gone. ResourceExhausted: too many wait; none
  // of these do. DeadlineExceeded: it read nothing for kPatience. Cancelled: the machine was reset or goes.
  using Done = absl::AnyInvocable<void(const absl::Status&)>;
  void Type(absl::Span<const KeyEvent> events, Done done);

  // KeySink. Nothing while the guest has no driver.
  void OnKey(const KeyEvent& event) override;

  KeyboardStatus status() const;

  // InputComponent
  void Pause() override;
  void Resume() override;
  void ReleaseAll() override;

  // state::Component, while paused; restored before vmbus::Server. What waits and what is held is saved, not who waits for it: a machine
  // that goes on elsewhere has nobody who holds a key, so whoever restores it calls ReleaseAll.
  std::string StateName() const override { return "input/keyboard"; }
  absl::Status Save(state::StateWriter& writer) const override;
  absl::Status Restore(state::StateReader& reader) override;
  void Reset() override;

 private:
  class Core;
  explicit Keyboard(std::unique_ptr<Core> core);
  const std::unique_ptr<Core> core_;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_VSP_KEYBOARD_H_
