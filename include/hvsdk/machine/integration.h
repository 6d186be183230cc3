// SPDX-License-Identifier: Apache-2.0
// The integration components of a machine: which there are, and how one gets at them.
//
//   machine->integration().shutdown->Request({.action = vsp::ShutdownAction::kPowerOff}, done);

#ifndef HVSDK_MACHINE_INTEGRATION_H_
#define HVSDK_MACHINE_INTEGRATION_H_

#include "hvsdk/vsp/backup.h"
#include "hvsdk/vsp/balloon.h"
#include "hvsdk/vsp/guest_file_copy.h"
#include "hvsdk/vsp/heartbeat.h"
#include "hvsdk/vsp/key_value_exchange.h"
#include "hvsdk/vsp/shutdown.h"

namespace hvsdk::machine {

// Which integration components the guest finds; that of a deterministic machine finds shutdown at most.
struct MachineIntegration {
  bool shutdown = true;
  bool heartbeat = true;
  bool time_sync = true;           // the guest's clock follows the host's
  bool time_samples_only = false;  // vsp::TimeSyncOptions
  bool balloon = true;             // the guest gives memory up when it is asked to, and what it does not use by itself
  uint64_t balloon_min_bytes = 0;  // vsp::BalloonOptions
  vsp::MemoryBudget* memory_budget = nullptr;  // likewise
  bool key_value = true;
  bool file_copy = true;
  bool backup = true;  // the guest's file systems stand still when they are asked to
};

// Those that the machine has and that one asks something of, for as long as the machine lives. Null: it has none. On the loop's thread.
struct IntegrationComponents {
  vsp::Shutdown* shutdown = nullptr;
  vsp::Heartbeat* heartbeat = nullptr;
  vsp::Balloon* balloon = nullptr;
  vsp::KeyValueExchange* key_value = nullptr;
  vsp::GuestFileCopy* file_copy = nullptr;
  vsp::Backup* backup = nullptr;
};

}  // namespace hvsdk::machine

#endif  // HVSDK_MACHINE_INTEGRATION_H_
