// SPDX-License-Identifier: Apache-2.0
// Shutdown: the integration component by which the host asks a guest to turn itself off, to restart or to hibernate, in order.
//
// The guest's answer says whether it begins. That it comes to an end is seen by the machine, as with any other guest that turns itself off.
//
// Thread class: the executor. Source: hvdef/integration.h.
//
//   const auto shutdown = vsp::Shutdown::Create(server, {.executor = loop, .timers = timers, .clock = clock});
//   if (!shutdown.ok()) return shutdown.status();
//   (*shutdown)->Request({.action = vsp::ShutdownAction::kPowerOff}, [](const absl::Status& status) { Tell(status); });

#ifndef HVSDK_VSP_SHUTDOWN_H_
#define HVSDK_VSP_SHUTDOWN_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hvsdk/vmbus/server.h"
#include "hvsdk/vsp/integration.h"

namespace hvsdk::vsp {

enum class ShutdownAction : uint8_t { kPowerOff, kRestart, kHibernate };

struct ShutdownRequest {
  ShutdownAction action = ShutdownAction::kPowerOff;
  bool force = false;                     // without asking programs that have work to save (Windows)
  std::string reason;                     // for the guest's user and log; up to 2047 bytes
  std::chrono::seconds guest_timeout{0};  // that the guest gives its programs (Windows)
  std::chrono::milliseconds answer_within{10'000};
};

class Shutdown : public IntegrationComponent {
 public:
  // As vmbus::Server::OfferChannel.
  static absl::StatusOr<std::unique_ptr<Shutdown>> Create(vmbus::Server& server, const IntegrationResources& resources);
  // Takes it off the bus; a request that was not answered is not answered any more. On the executor, or on any thread once that has
  // stopped for good.
  ~Shutdown() override;

  // `done` is called once, here or later on the executor. Ok: the guest begins. FailedPrecondition: it refuses, has no driver for it, or
  // has not answered an earlier request. Unimplemented: its driver is too old for that. DeadlineExceeded: it did not answer. InvalidArgument: the reason is too long. Cancelled: the machine was reset or goes.
  using Done = absl::AnyInvocable<void(const absl::Status&)>;
  void Request(const ShutdownRequest& request, Done done);

  // While the guest does not run it is asked nothing; a request waits, and so does its time.
  void Pause() override;
  void Resume() override;

  // state::Component, while paused; restored before vmbus::Server. A request is not saved.
  std::string StateName() const override { return "integration/shutdown"; }
  absl::Status Save(state::StateWriter& writer) const override;
  absl::Status Restore(state::StateReader& reader) override;
  void Reset() override;

 private:
  class Core;
  explicit Shutdown(std::unique_ptr<Core> core);
  const std::unique_ptr<Core> core_;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_VSP_SHUTDOWN_H_
