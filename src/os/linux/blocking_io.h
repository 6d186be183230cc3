// SPDX-License-Identifier: Apache-2.0
// One block request by ordinary system calls: what a thread does, and what completes a request that io_uring did
// in part.

#ifndef HVSDK_SRC_OS_LINUX_BLOCKING_IO_H_
#define HVSDK_SRC_OS_LINUX_BLOCKING_IO_H_

#include <cstdint>

#include "hvsdk/resource/block_device.h"

namespace hvsdk::internal {

// What a failed system call means to the initiator.
BlockStatus BlockStatusFromErrno(int error);

// Carries out `request`, of whose transfer the first `done_bytes` have been made already: all but a flush,
// and but for the sync that a request with `fua` ends with.
BlockStatus PerformBlocking(int fd, const BlockRequest& request, uint64_t done_bytes);

// Makes last what was written. 0, or the errno of a failure that the kernel tells once. A write is never made
// to last by RWF_DSYNC instead: where that fails, nobody can say whether the write did, or the sync, and then of
// what.
int SyncFile(int fd);

}  // namespace hvsdk::internal

#endif  // HVSDK_SRC_OS_LINUX_BLOCKING_IO_H_
