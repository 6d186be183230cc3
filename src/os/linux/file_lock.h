// SPDX-License-Identifier: Apache-2.0
// Locks on disk images, as QEMU and its tools take them (QEMU's block/file-posix.c), so that neither they nor
// another hvsdk write what is in use.
//
// There are four permissions, numbered 0 consistent read, 1 write, 2 write unchanged, 3 resize. Byte 100 + n of the
// file stands for "somebody has permission n", byte 200 + n for "somebody does not share permission n". A program
// takes a shared lock on the bytes that say what it has and what it does not share, and then tests that no one else has
// a lock on their opposites; the locks belong to the open file (F_OFD_SETLK), so that two disks of one process exclude
// each other too.

#ifndef HVSDK_SRC_OS_LINUX_FILE_LOCK_H_
#define HVSDK_SRC_OS_LINUX_FILE_LOCK_H_

#include "absl/status/status.h"

namespace hvsdk::internal {

// Readers share with readers, a writer is alone. Held until the open file is closed.
// FailedPrecondition: another program has it, and has had it for 100 ms: for so long a call may take. Unimplemented: its
// file system has no locks. Others: the host's.
absl::Status LockFile(int fd, bool read_only);

// A writer becomes a reader, and shares with other readers from then on. What the host refuses of that stays locked.
void ShareFile(int fd);

// Whether somebody has it locked against writers. FailedPrecondition: another program. It changes nothing.
absl::Status TestWritable(int fd);

}  // namespace hvsdk::internal

#endif  // HVSDK_SRC_OS_LINUX_FILE_LOCK_H_
