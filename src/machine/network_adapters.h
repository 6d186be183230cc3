// SPDX-License-Identifier: Apache-2.0
// The machine's network adapters, each of them a device of its own on VMBus.

#ifndef HVSDK_SRC_MACHINE_NETWORK_ADAPTERS_H_
#define HVSDK_SRC_MACHINE_NETWORK_ADAPTERS_H_

#include <array>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hvsdk/base/clock.h"
#include "hvsdk/machine/machine.h"
#include "hvsdk/machine/part.h"
#include "hvsdk/vsp/network.h"

namespace hvsdk::machine {

class NetworkAdapters final : public Part {
 public:
  // Those that are there at first; more may come and go.
  explicit NetworkAdapters(std::vector<MachineNetwork> networks) : first_networks_(std::move(networks)) {}

  // As Machine has it; on the loop's thread.
  absl::StatusOr<uint8_t> Plug(MachineNetwork network);
  absl::Status Pull(uint8_t number, absl::AnyInvocable<void()> gone);

  std::vector<MachineNetworkStatus> status() const;

  // Part
  absl::Status Attach(Board& board) override;
  std::vector<state::Component*> components() override;
  void Pause(absl::AnyInvocable<void()> done) override;
  void Resume() override;
  void Stop(absl::AnyInvocable<void()> done) override;
  void Detach() override;

 private:
  struct Place {
    bool is_taken() const { return adapter != nullptr; }
    bool is_leaving() const { return leave_by_100ns != 0; }

    std::unique_ptr<vsp::NetworkAdapter> adapter;
    MacAddress mac_address{};

    // Of one that leaves: its guest has that long to end what is under way, and has ended it when it was quiet for some looks.
    uint64_t leave_by_100ns = 0;
    uint64_t frames = 0;
    uint32_t quiet_looks = 0;
    absl::AnyInvocable<void()> gone;
  };

  // Each is asked for what takes it a while.
  void AskAll(void (vsp::NetworkAdapter::*what)(absl::AnyInvocable<void()>), absl::AnyInvocable<void()> all_done);
  void LookAtLeaving();
  static void Drop(Place& place);

  std::vector<MachineNetwork> first_networks_;  // until Attach
  Board* board_ = nullptr;
  std::unique_ptr<Timer> look_timer_;
  std::array<Place, kMaxNetworks> places_;
  uint8_t next_number_ = 0;
  bool is_paused_ = false;
};

}  // namespace hvsdk::machine

#endif  // HVSDK_SRC_MACHINE_NETWORK_ADAPTERS_H_
