// SPDX-License-Identifier: Apache-2.0
// What a machine has counted, and how it is written: as a table for people, and in Prometheus' text format.
//
// Source: "Exposition formats", Prometheus, text format 0.0.4.
//
//   const MachineStats stats = CollectStats(machine, nullptr, nullptr);
//   std::cout << PrometheusText(stats);

#ifndef HVSDK_VMM_MACHINE_STATS_H_
#define HVSDK_VMM_MACHINE_STATS_H_

#include <string>

#include "hvsdk/machine/machine.h"
#include "hvsdk/vmm/control.pb.h"

namespace hvsdk::vmm {

class DiskOwner;
class NetworkOwner;

// On the loop's thread. `disks` and `networks` know their names; may be null. Of more than 256 channels the first are told.
MachineStats CollectStats(machine::Machine& machine, const DiskOwner* disks, const NetworkOwner* networks);

std::string PrometheusText(const MachineStats& stats);
// Zeroes are left out.
std::string StatsTable(const MachineStats& stats);

}  // namespace hvsdk::vmm

#endif  // HVSDK_VMM_MACHINE_STATS_H_
