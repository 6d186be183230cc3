// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/machine/saved_machine.h"

#include <map>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
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
  // Whether it is the same machine at all comes first: what one component says of another that is missing is a riddle.
  constexpr absl::string_view kOther = ": it is of a machine with other processors, devices or parts";
  std::set<std::string> unclaimed;
  for (const auto& [name, record] : records) unclaimed.insert(name);
  for (const state::Component* const component : components) {
    const std::string name = component->StateName();
    if (records.count(name) == 0) return absl::InvalidArgumentError(absl::StrCat("the state has no ", name, kOther));
    unclaimed.erase(name);
  }
  if (!unclaimed.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the state has ", *unclaimed.begin(), ", which this machine has not", kOther));
  }
  for (state::Component* const component : components) {
    const std::string name = component->StateName();
    const SavedComponent& record = *records[name];
    state::StateReader reader(name, record.schema, record.state);
    RETURN_IF_ERROR(component->Restore(reader));
  }
  return absl::OkStatus();
}

}  // namespace hvsdk::machine
