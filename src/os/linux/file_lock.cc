// SPDX-License-Identifier: Apache-2.0
#include "os/linux/file_lock.h"

#include <fcntl.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/status_macros.h"

namespace hvsdk::internal {
namespace {

constexpr off_t kHasBase = 100;
constexpr off_t kKeepsBase = 200;  // "does not share"
constexpr off_t kPermissions = 4;
constexpr int kConsistentRead = 0;
constexpr int kWrite = 1;
constexpr int kResize = 3;

absl::Status Error(int error) {
  switch (error) {
    case EAGAIN:
    case EACCES:
      return absl::FailedPreconditionError("is in use by another program or machine");
    case ENOMEM:
    case ENFILE:
    case EMFILE:
      return absl::ErrnoToStatus(error, "cannot be locked");
    default:
      return absl::UnimplementedError(absl::StrCat(
          "cannot be locked against other programs: its file system refuses locks (", std::strerror(error), ")"));
  }
}

struct flock ByteLock(short type, off_t byte) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = byte;
  lock.l_len = 1;
  return lock;
}

void Release(int fd, off_t first_byte, off_t bytes) {
  struct flock lock = ByteLock(F_UNLCK, first_byte);
  lock.l_len = bytes;
  (void)fcntl(fd, F_OFD_SETLK, &lock);
}

absl::Status Take(int fd, off_t byte) {
  struct flock lock = ByteLock(F_RDLCK, byte);
  return fcntl(fd, F_OFD_SETLK, &lock) == 0 ? absl::OkStatus() : Error(errno);
}

absl::Status TestNobodyElse(int fd, off_t byte) {
  struct flock lock = ByteLock(F_WRLCK, byte);
  if (fcntl(fd, F_OFD_GETLK, &lock) != 0) return Error(errno);
  return lock.l_type == F_UNLCK ? absl::OkStatus() : Error(EAGAIN);
}

absl::Status TryToLock(int fd, bool read_only) {
  // First what says so, then the look at others: of two at once at least one sees the other.
  RETURN_IF_ERROR(Take(fd, kHasBase + kConsistentRead));
  RETURN_IF_ERROR(Take(fd, kKeepsBase + kWrite));
  RETURN_IF_ERROR(Take(fd, kKeepsBase + kResize));
  if (!read_only) {
    RETURN_IF_ERROR(Take(fd, kHasBase + kWrite));
    // What a guest is writing is not consistent for anybody else.
    RETURN_IF_ERROR(Take(fd, kKeepsBase + kConsistentRead));
    RETURN_IF_ERROR(TestNobodyElse(fd, kHasBase + kConsistentRead));
    RETURN_IF_ERROR(TestNobodyElse(fd, kKeepsBase + kWrite));
  }
  RETURN_IF_ERROR(TestNobodyElse(fd, kKeepsBase + kConsistentRead));
  RETURN_IF_ERROR(TestNobodyElse(fd, kHasBase + kWrite));
  return TestNobodyElse(fd, kHasBase + kResize);
}

// A process that was killed with transfers in flight is gone, and may be waited for, before Linux has closed the files that these
// used: the last of them it closes from a work queue (fs/file_table.c, fput of a task that exits). One who starts a machine
// again at once shall not be told that the dead one has its disk.
constexpr absl::Duration kPatience = absl::Milliseconds(100);
constexpr absl::Duration kBetweenTries = absl::Milliseconds(5);

}  // namespace

absl::Status LockFile(int fd, bool read_only) {
  absl::Status status = TryToLock(fd, read_only);
  for (absl::Duration waited; absl::IsFailedPrecondition(status) && waited < kPatience; waited += kBetweenTries) {
    // Of two who try at once one shall find it free.
    for (const off_t base : {kHasBase, kKeepsBase}) Release(fd, base, kPermissions);
    absl::SleepFor(kBetweenTries);
    status = TryToLock(fd, read_only);
  }
  return status;
}

void ShareFile(int fd) {
  for (const off_t byte : {kHasBase + kWrite, kKeepsBase + kConsistentRead}) Release(fd, byte, 1);
}

absl::Status TestWritable(int fd) {
  RETURN_IF_ERROR(TestNobodyElse(fd, kKeepsBase + kWrite));
  return TestNobodyElse(fd, kKeepsBase + kResize);
}

}  // namespace hvsdk::internal
