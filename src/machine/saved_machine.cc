// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/machine/saved_machine.h"

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace hvsdk::machine {

absl::StatusOr<SavedMachine> SavedMachine::Of(absl::Span<state::Component* const> components) {
  SavedMachine saved;
  for (const state::Component* const component : components) {
    state::StateWriter writer;
    const absl::Status status = component->Save(writer);
    if (!status.ok()) return absl::Status(status.code(), absl::StrCat(component->StateName(), ": ", status.message()));
    saved.components.push_back({component->StateName(), writer.schema(), std::move(writer).bytes()});
  }
  return saved;
}

absl::Status SavedMachine::PutInto(absl::Span<state::Component* const> components) const {
  std::map<std::string, const SavedComponent*> records;
  for (const SavedComponent& record : this->components) {
    if (!records.emplace(record.name, &record).second) {
      return absl::InvalidArgumentError(absl::StrCat("the state has ", record.name, " twice"));
    }
  }
  for (state::Component* const component : components) {
    const std::string name = component->StateName();
    const auto record = records.find(name);
    if (record == records.end()) return absl::InvalidArgumentError(absl::StrCat("the state has no ", name));
    state::StateReader reader(name, record->second->schema, record->second->state);
    RETURN_IF_ERROR(component->Restore(reader));
    records.erase(record);
  }
  if (records.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("this machine has no ", records.begin()->first, ", of which the state is"));
}

}  // namespace hvsdk::machine
