// SPDX-License-Identifier: Apache-2.0
// Mouse: the synthetic mouse, by which a host points in its guest: absolute places, five buttons, a wheel and one across.
//
// Events go to the guest in the order in which they come, 8 in 20 ms. Movements that wait become the last of them; so do, when kMaxWaiting events
// wait, the last and what comes, with the sum of their wheels: the guest may miss a click then, but has in the end the place and
// the buttons that are held.
//
// Thread class: the executor. Source: hvdef/mouse.h.
//
//   const auto mouse = vsp::Mouse::Create(server, {.executor = loop, .timers = timers, .clock = clock});
//   if (!mouse.ok()) return mouse.status();
//   (*mouse)->OnPointer({.x = 16384, .y = 16384, .buttons = PointerEvent::kLeft});

#ifndef HVSDK_VSP_MOUSE_H_
#define HVSDK_VSP_MOUSE_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hvsdk/resource/input_source.h"
#include "hvsdk/vmbus/server.h"
#include "hvsdk/vsp/input.h"

namespace hvsdk::vsp {

struct MouseStatus {
  bool is_ready = false;  // the guest has a driver that takes events
  PointerEvent last;      // once those that wait have come; without wheels
  size_t waiting = 0;
};

class Mouse : public InputComponent, public PointerSink {
 public:
  static constexpr size_t kMaxWaiting = 64;

  // As vmbus::Server::OfferChannel.
  static absl::StatusOr<std::unique_ptr<Mouse>> Create(vmbus::Server& server, const InputResources& resources);
  // Takes it off the bus. On the executor, or on any thread once that has stopped for good.
  ~Mouse() override;

  // InvalidArgument: a coordinate beyond PointerEvent::kMax, or a button that there is not. FailedPrecondition: the guest has no driver that
  // takes events.
  absl::Status Point(const PointerEvent& event);

  // PointerSink. Nothing where Point has an error.
  void OnPointer(const PointerEvent& event) override { (void)Point(event); }

  MouseStatus status() const;

  // InputComponent
  void Pause() override;
  void Resume() override;
  void ReleaseAll() override;

  // state::Component, while paused; restored before vmbus::Server. As Keyboard.
  std::string StateName() const override { return "input/mouse"; }
  absl::Status Save(state::StateWriter& writer) const override;
  absl::Status Restore(state::StateReader& reader) override;
  void Reset() override;

 private:
  class Core;
  explicit Mouse(std::unique_ptr<Core> core);
  const std::unique_ptr<Core> core_;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_VSP_MOUSE_H_
