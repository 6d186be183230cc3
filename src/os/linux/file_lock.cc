// SPDX-License-Identifier: Apache-2.0
#include "os/linux/file_lock.h"

#include <fcntl.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace hvsdk::internal {
namespace {

constexpr off_t kHasBase = 100;
constexpr off_t kKeepsBase = 200;  // "does not share"
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

absl::Status Take(int fd, off_t byte) {
  struct flock lock = ByteLock(F_RDLCK, byte);
  return fcntl(fd, F_OFD_SETLK, &lock) == 0 ? absl::OkStatus() : Error(errno);
}

absl::Status TestNobodyElse(int fd, off_t byte) {
  struct flock lock = ByteLock(F_WRLCK, byte);
  if (fcntl(fd, F_OFD_GETLK, &lock) != 0) return Error(errno);
  return lock.l_type == F_UNLCK ? absl::OkStatus() : Error(EAGAIN);
}

}  // namespace

absl::Status LockFile(int fd, bool read_only) {
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

void ShareFile(int fd) {
  for (const off_t byte : {kHasBase + kWrite, kKeepsBase + kConsistentRead}) {
    struct flock lock = ByteLock(F_UNLCK, byte);
    (void)fcntl(fd, F_OFD_SETLK, &lock);
  }
}

absl::Status TestWritable(int fd) {
  RETURN_IF_ERROR(TestNobodyElse(fd, kKeepsBase + kWrite));
  return TestNobodyElse(fd, kKeepsBase + kResize);
}

}  // namespace hvsdk::internal
