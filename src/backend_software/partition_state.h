// SPDX-License-Identifier: Apache-2.0
// What the VPs of a partition share, to and from the terms that all engines have (hvsdk/backend/state.h).

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_PARTITION_STATE_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_PARTITION_STATE_H_

#include "absl/status/status.h"
#include "backend_software/machine.h"
#include "hvsdk/backend/state.h"

namespace hvsdk::software {

void SavePartition(Machine& machine, backend::PartitionState& state);
// InvalidArgument names what cannot be so; then nothing has changed.
absl::Status RestorePartition(Machine& machine, const backend::PartitionState& state);

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_PARTITION_STATE_H_
