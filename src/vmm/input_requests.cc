// SPDX-License-Identifier: Apache-2.0
#include "vmm/input_requests.h"

#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "hvsdk/hvdef/keyboard.h"
#include "hvsdk/input/keyboard_layout.h"
#include "vmm/guest_requests.h"

namespace hvsdk::vmm {
namespace {

struct Button {
  absl::string_view name;
  uint8_t bit;
};
constexpr Button kButtons[] = {{"left", PointerEvent::kLeft},
                               {"right", PointerEvent::kRight},
                               {"middle", PointerEvent::kMiddle},
                               {"back", PointerEvent::kBack},
                               {"forward", PointerEvent::kForward}};

absl::StatusOr<PointerEvent> EventOf(const PointerPosition& position) {
  if (position.x() > PointerEvent::kMax || position.y() > PointerEvent::kMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("a place is between 0,0 and ", PointerEvent::kMax, ",", PointerEvent::kMax));
  }
  for (const int32_t detents : {position.wheel(), position.pan()}) {
    if (detents < -127 || detents > 127)
      return absl::InvalidArgumentError("a wheel turns by -127 to 127 detents at once");
  }
  PointerEvent event{.x = static_cast<uint16_t>(position.x()),
                     .y = static_cast<uint16_t>(position.y()),
                     .buttons = 0,
                     .wheel = static_cast<int8_t>(position.wheel()),
                     .pan = static_cast<int8_t>(position.pan())};
  for (const std::string& name : position.buttons()) {
    uint8_t bit = 0;
    for (const Button& button : kButtons) {
      if (button.name == name) bit = button.bit;
    }
    if (bit == 0) return absl::InvalidArgumentError(absl::StrCat("\"", absl::CHexEscape(name), "\" is no button"));
    event.buttons |= bit;
  }
  return event;
}

absl::StatusOr<std::vector<KeyEvent>> EventsOf(const TypeRequest& request, const std::string& layout_name) {
  ASSIGN_OR_RETURN(const input::KeyboardLayout layout,
                   input::KeyboardLayout::Load(request.layout().empty() ? layout_name : request.layout()));
  if (!TypeRequest::Action_IsValid(request.action())) return absl::InvalidArgumentError("no such action");
  ASSIGN_OR_RETURN(std::vector<KeyEvent> events, layout.Type(request.text(), request.unicode()));
  for (const std::string& keys : request.keys()) {
    ASSIGN_OR_RETURN(const std::vector<KeyEvent> chord,
                     layout.Chord(keys, static_cast<input::KeyAction>(request.action())));
    events.insert(events.end(), chord.begin(), chord.end());
  }
  return events;
}

}  // namespace

void Type(machine::Machine& machine, const TypeRequest& request, const std::string& layout,
          ControlHandler::Reply reply) {
  const absl::string_view command = request.keys_size() == 0 ? "type" : "key";
  vsp::Keyboard* const keyboard = machine.input().keyboard;
  if (keyboard == nullptr) {
    return reply(
        ReplyOf(ErrorOf(command, absl::FailedPreconditionError("the machine has no keyboard (--input=keyboard)"))));
  }
  const absl::StatusOr<std::vector<KeyEvent>> events = EventsOf(request, layout);
  if (!events.ok()) return reply(ReplyOf(ErrorOf(command, events.status())));
  keyboard->Type(*events, [command, reply = std::move(reply)](const absl::Status& status) mutable {
    reply(ReplyOf(ErrorOf(command, status)));
  });
}

absl::Status Point(machine::Machine& machine, const google::protobuf::RepeatedPtrField<PointerPosition>& positions) {
  vsp::Mouse* const mouse = machine.input().mouse;
  if (mouse == nullptr) return absl::FailedPreconditionError("mouse: the machine has no mouse (--input=mouse)");
  std::vector<PointerEvent> events;
  for (const PointerPosition& position : positions) {
    const absl::StatusOr<PointerEvent> event = EventOf(position);
    if (!event.ok()) return ErrorOf("mouse", event.status());
    events.push_back(*event);
  }
  for (const PointerEvent& event : events) RETURN_IF_ERROR(ErrorOf("mouse", mouse->Point(event)));
  return absl::OkStatus();
}

InputStatus ToInputStatus(const machine::InputComponents& input) {
  namespace wire = hvdef::keyboard;
  const auto text_of = [](const auto* component) {
    return component == nullptr ? "none" : component->status().is_ready ? "ready" : "no driver";
  };
  InputStatus status;
  status.set_keyboard(text_of(input.keyboard));
  status.set_mouse(text_of(input.mouse));
  if (input.keyboard == nullptr) return status;
  const vsp::KeyboardStatus keyboard = input.keyboard->status();
  status.set_held_keys(static_cast<uint32_t>(keyboard.held));
  if ((keyboard.leds & wire::kNumLockLed) != 0) status.add_leds("num-lock");
  if ((keyboard.leds & wire::kCapsLockLed) != 0) status.add_leds("caps-lock");
  if ((keyboard.leds & wire::kScrollLockLed) != 0) status.add_leds("scroll-lock");
  return status;
}

}  // namespace hvsdk::vmm
