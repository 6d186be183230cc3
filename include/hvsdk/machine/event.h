// SPDX-License-Identifier: Apache-2.0
// MachineEvent: something that happened in a machine's life, for whoever looks on (MachineOptions::on_event).
//
//   name             details
//   started          from: "power-on" or "saved state"
//   paused, resumed
//   reset            count: how often by now
//   reset-failed     reason: why the guest goes on although it has asked for a reset
//   crashed          vp, p0 to p4, message
//   connected        version: of VMBus, as in "5.3"
//   disconnected
//   channel-opened, channel-closed
//                    class, instance (GUIDs), device (if we know the class), subchannel, channel
//   disk-failed      device, error; the first failure of each disk
//   medium-ejected   device; by the guest, from a DVD drive
//   ended            outcome
//   lost             count: of events, because more came than could be told
//
// Values are what a guest may have written, any bytes; there are never more than a few KiB.

#ifndef HVSDK_MACHINE_EVENT_H_
#define HVSDK_MACHINE_EVENT_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace hvsdk::machine {

struct MachineEvent {
  std::string name;
  std::vector<std::pair<std::string, std::string>> details;
  uint64_t time_100ns = 0;  // of the machine's reference clock
};

}  // namespace hvsdk::machine

#endif  // HVSDK_MACHINE_EVENT_H_
