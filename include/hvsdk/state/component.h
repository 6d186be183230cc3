// SPDX-License-Identifier: Apache-2.0
// Component: a part of a machine whose state can be taken out and put back: a VP, an interrupt controller, VMBus, a
// provider, a device, the clock.
//
// What a component promises, and tests/state/component_suite.h in the sources checks for every one of ours:
// - what is saved after a restore is, byte for byte, what was restored;
// - a history of events with a save, and a restore into a fresh component, in its midst ends like one without;
// - a damaged state is refused, and the component has changed nothing.
//
// Thread class: no VP runs, and nothing is under way with the host, while any of these functions is called.
//
//   class Lamp : public state::Component {
//    public:
//     std::string StateName() const override { return "lamp/0"; }
//     absl::Status Save(state::StateWriter& writer) const override {
//       LampState state{.brightness = brightness_};  // as in fields.h
//       writer.Write(state);
//       return absl::OkStatus();
//     }
//     absl::Status Restore(state::StateReader& reader) override {
//       LampState state;
//       if (absl::Status status = reader.Read(state); !status.ok()) return status;
//       if (state.brightness > 100) return reader.Invalid("brightness", "more than 100");
//       brightness_ = state.brightness;
//       return absl::OkStatus();
//     }
//     void Reset() override { brightness_ = 0; }
//
//    private:
//     uint8_t brightness_ = 0;
//   };

#ifndef HVSDK_STATE_COMPONENT_H_
#define HVSDK_STATE_COMPONENT_H_

#include <string>

#include "absl/status/status.h"
#include "hvsdk/state/reader.h"
#include "hvsdk/state/writer.h"

namespace hvsdk::state {

class Component {
 public:
  virtual ~Component() = default;

  // What it is called in a saved state, the same in each run of the same machine, unlike any other's: "storage/0".
  virtual std::string StateName() const = 0;

  // Writes one structure. Errors are the host's.
  virtual absl::Status Save(StateWriter& writer) const = 0;

  // Into a component that was made with the same options and has not run. Reads all, checks all, then takes it over:
  // after an error nothing has changed. InvalidArgument: the state is at fault; the message names component and field.
  virtual absl::Status Restore(StateReader& reader) = 0;

  // Back to what it was when it was made.
  virtual void Reset() = 0;
};

}  // namespace hvsdk::state

#endif  // HVSDK_STATE_COMPONENT_H_
