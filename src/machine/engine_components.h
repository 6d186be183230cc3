// SPDX-License-Identifier: Apache-2.0
// An engine's partition and VPs as components: what they are is backend/state.h.

#ifndef HVSDK_SRC_MACHINE_ENGINE_COMPONENTS_H_
#define HVSDK_SRC_MACHINE_ENGINE_COMPONENTS_H_

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "hvsdk/backend/backend.h"
#include "hvsdk/state/component.h"

namespace hvsdk::machine {

// `Owner` is a backend::Partition or a backend::Vp, which outlives the component, and `State` what it is.
template <typename Owner, typename State>
class OwnerComponent : public state::Component {
 public:
  OwnerComponent(Owner& owner, std::string name) : owner_(owner), name_(std::move(name)) {}

  std::string StateName() const override { return name_; }

  absl::Status Save(state::StateWriter& writer) const override {
    State state;
    RETURN_IF_ERROR(owner_.SaveState(state));
    writer.Write(state);
    return absl::OkStatus();
  }

  absl::Status Restore(state::StateReader& reader) override {
    State state;
    RETURN_IF_ERROR(reader.Read(state));
    const absl::Status status = owner_.RestoreState(state);
    return status.ok() ? status : absl::Status(status.code(), absl::StrCat("state of ", name_, ": ", status.message()));
  }

 protected:
  Owner& owner_;
  const std::string name_;
};

class EngineComponent final : public OwnerComponent<backend::Partition, backend::PartitionState> {
 public:
  explicit EngineComponent(backend::Partition& partition) : OwnerComponent(partition, "engine") {}
  // Board::Reset asks by itself, and hears of errors.
  void Reset() override { (void)owner_.ResetInterruptControllers(); }
};

class VpComponent final : public OwnerComponent<backend::Vp, backend::VpState> {
 public:
  explicit VpComponent(backend::Vp& vp) : OwnerComponent(vp, absl::StrCat("vp/", ToInt(vp.index()))) {}
  void Reset() override { (void)owner_.Reset(); }
};

}  // namespace hvsdk::machine

#endif  // HVSDK_SRC_MACHINE_ENGINE_COMPONENTS_H_
