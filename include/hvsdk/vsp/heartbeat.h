// SPDX-License-Identifier: Apache-2.0
// Heartbeat: the integration component that asks a guest, every other second, whether it lives.
//
// Linux answers from its interrupt, so what it tells is that the guest's kernel takes interrupts; Windows says beside it how its
// applications do.
//
// Thread class: the executor. Source: hvdef/integration.h.
//
//   const auto heartbeat = vsp::Heartbeat::Create(server, {.executor = loop, .timers = timers, .clock = clock}, {});
//   if (!heartbeat.ok()) return heartbeat.status();
//   if ((*heartbeat)->contact() == vsp::GuestContact::kLost) Complain();

#ifndef HVSDK_VSP_HEARTBEAT_H_
#define HVSDK_VSP_HEARTBEAT_H_

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "hvsdk/hvdef/integration.h"
#include "hvsdk/vmbus/server.h"
#include "hvsdk/vsp/integration.h"

namespace hvsdk::vsp {

enum class GuestContact : uint8_t {
  kNone,  // no driver has answered since it began
  kOk,
  kLost,  // it did, and has not for so long
};

absl::string_view TextOf(GuestContact contact);  // "none", "ok", "lost"

struct HeartbeatOptions {
  std::chrono::milliseconds interval{2000};
  std::chrono::milliseconds lost_after{10'000};
  std::function<void(GuestContact)> on_change;  // on the executor
};

class Heartbeat : public IntegrationComponent {
 public:
  // As vmbus::Server::OfferChannel.
  static absl::StatusOr<std::unique_ptr<Heartbeat>> Create(vmbus::Server& server, const IntegrationResources& resources,
                                                           HeartbeatOptions options);
  // Takes it off the bus. On the executor, or on any thread once that has stopped for good.
  ~Heartbeat() override;

  GuestContact contact() const;
  // What the guest said with its last answer.
  hvdef::integration::GuestHealth health() const;

  // While the guest does not run it is not asked, and not missed.
  void Pause() override;
  void Resume() override;

  // state::Component, while paused; restored before vmbus::Server.
  std::string StateName() const override { return "integration/heartbeat"; }
  absl::Status Save(state::StateWriter& writer) const override;
  absl::Status Restore(state::StateReader& reader) override;
  void Reset() override;

 private:
  class Core;
  explicit Heartbeat(std::unique_ptr<Core> core);
  const std::unique_ptr<Core> core_;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_VSP_HEARTBEAT_H_
