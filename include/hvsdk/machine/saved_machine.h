// SPDX-License-Identifier: Apache-2.0
// SavedMachine: what a machine is besides its memory: a record for each of its components, and whatever the embedding
// program needs to make the same machine again. vmm/state_directory.h keeps one, with the memory, in files.
//
// Thread class: the machine is paused, or has not run.
//
//   absl::StatusOr<SavedMachine> saved = SavedMachine::Of(machine->components());
//   if (!saved.ok()) return saved.status();
//   const absl::Status status = saved->PutInto(twin->components());  // MachineOptions::saved does that

#ifndef HVSDK_MACHINE_SAVED_MACHINE_H_
#define HVSDK_MACHINE_SAVED_MACHINE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "hvsdk/state/component.h"

namespace hvsdk::machine {

struct SavedComponent {
  std::string name;
  uint32_t schema = 0;
  std::string state;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "name", name);
    visit(2, "schema", schema);
    visit(3, "state", state);
  }
};

struct SavedMachine {
  static constexpr uint32_t kSchema = 1;

  // The embedding program's own.
  std::string configuration;
  std::vector<SavedComponent> components;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "configuration", configuration);
    visit(2, "components", components);
  }

  // Errors are the host's, and name the component.
  static absl::StatusOr<SavedMachine> Of(absl::Span<state::Component* const> components);

  // In the components' order. InvalidArgument: a component has no record, a record no component, or a record is at
  // fault; the message names it. The machine is then of no use.
  absl::Status PutInto(absl::Span<state::Component* const> components) const;
};

}  // namespace hvsdk::machine

#endif  // HVSDK_MACHINE_SAVED_MACHINE_H_
