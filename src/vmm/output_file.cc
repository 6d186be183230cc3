// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/output_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "hvsdk/image/raw_disk.h"

namespace hvsdk::vmm {

absl::Status OutputFile::Open(const std::string& path) {
  path_ = path;
  // Not blocking: a FIFO would wait for a reader.
  constexpr int kFlags = O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
  fd_ = open(path.c_str(), kFlags | O_CREAT | O_EXCL, 0666);
  created_ = fd_ >= 0;
  if (fd_ < 0 && errno == EEXIST) fd_ = open(path.c_str(), kFlags);
  if (struct stat info; fd_ < 0 && errno == ENXIO && stat(path.c_str(), &info) == 0 && S_ISFIFO(info.st_mode)) {
    return absl::InvalidArgumentError("nobody reads from this pipe");
  }
  if (fd_ < 0 || fcntl(fd_, F_SETFL, fcntl(fd_, F_GETFL) & ~O_NONBLOCK) != 0) {
    if (errno == ELOOP) return absl::InvalidArgumentError(absl::StrCat("cannot be written: ", strerror(errno)));
    return absl::ErrnoToStatus(errno, "cannot be written");
  }
  // To be emptied, or written, would be the end of another machine's disk.
  if (const absl::Status status = RawDisk::TestNoDisk(fd_); absl::IsFailedPrecondition(status)) return status;
  // File systems without locks do without.
  if (struct stat info;
      fstat(fd_, &info) == 0 && S_ISREG(info.st_mode) && flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    return absl::FailedPreconditionError("another machine writes it");
  }
  return absl::OkStatus();
}

void OutputFile::Commit() {
  created_ = false;
  (void)!ftruncate(fd_, 0);  // a pipe or a terminal has nothing to be emptied
}

int OutputFile::Release() {
  created_ = false;
  return std::exchange(fd_, -1);
}

OutputFile::~OutputFile() {
  if (fd_ < 0) return;
  if (created_) unlink(path_.c_str());
  close(fd_);
}

}  // namespace hvsdk::vmm
