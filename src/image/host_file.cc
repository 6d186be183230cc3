// SPDX-License-Identifier: Apache-2.0
#include "image/host_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "os/linux/file_lock.h"

namespace hvsdk::internal {

absl::Status DiskError(const std::string& path, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("disk '", path, "': ", what));
}

absl::Status DiskSystemError(const std::string& path, int error) {
  if (error == ELOOP) return DiskError(path, std::strerror(error));
  return absl::ErrnoToStatus(error, absl::StrCat("disk '", path, "'"));
}

absl::StatusOr<std::unique_ptr<HostFile>> HostFile::Open(const std::string& path, const HostFileOptions& options,
                                                         std::shared_ptr<FileEngine> engine) {
  // A FIFO must not make us wait.
  const int flags =
      (options.read_only ? O_RDONLY : O_RDWR) | (options.create ? O_CREAT | O_EXCL : 0) | O_CLOEXEC | O_NONBLOCK;
  const int fd = open(path.c_str(), flags, 0666);
  if (fd < 0) return DiskSystemError(path, errno);
  auto host = std::unique_ptr<HostFile>(new HostFile(path, fd));
  const absl::Status prepared = host->Prepare(options, std::move(engine));
  if (prepared.ok()) return host;
  if (options.create) unlink(path.c_str());
  return prepared;
}

absl::Status HostFile::Prepare(const HostFileOptions& options, std::shared_ptr<FileEngine> engine) {
  // Before anything is judged: who has it locked may be about to change its size.
  if (const absl::Status locked = LockFile(fd_, options.read_only); !locked.ok()) {
    return absl::Status(locked.code(), absl::StrCat("disk '", path_, "': ", locked.message()));
  }
  if (fstat(fd_, &status_) != 0) return DiskSystemError(path_, errno);
  // On a file it would keep io_uring from waiting where the file system cannot tell beforehand that it must.
  if (fcntl(fd_, F_SETFL, fcntl(fd_, F_GETFL) & ~O_NONBLOCK) != 0) return DiskSystemError(path_, errno);
  if (!S_ISREG(status_.st_mode) && !S_ISBLK(status_.st_mode)) {
    return DiskError(path_, "is neither a file nor a block device");
  }
  FileEngine::SyncFailure on_sync_failure;
  if (options.on_writes_lost != nullptr) {
    on_sync_failure = [path = path_, tell = options.on_writes_lost](int error) {
      tell(absl::DataLossError(absl::StrCat(
          "disk '", path, "': cannot be flushed: ", std::strerror(error),
          "; what was written since the last flush may be lost, and no flush succeeds until it is opened again")));
    };
  }
  ASSIGN_OR_RETURN(file_, engine->Serve(fd_, std::move(on_sync_failure)));
  engine_ = std::move(engine);
  return absl::OkStatus();
}

HostFile::~HostFile() {
  file_.reset();
  close(fd_);
}

bool HostFile::WaitUntilIdle(std::chrono::milliseconds timeout) const {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  while (file_->in_flight() != 0) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

BlockRange HostFile::FindData(BlockRange within) {
  std::lock_guard lock(data_mutex_);
  const uint64_t end = within.offset_bytes + within.size_bytes;
  uint64_t start = within.offset_bytes;
  if (start < data_.offset_bytes || start - data_.offset_bytes >= data_.size_bytes) {
    // The position that this sets is nobody's: requests have theirs.
    const off_t first = lseek(fd_, static_cast<off_t>(start), SEEK_DATA);
    if (first < 0) return errno == ENXIO ? BlockRange{end, 0} : within;
    start = static_cast<uint64_t>(first);
    const off_t hole = lseek(fd_, first, SEEK_HOLE);
    if (hole < 0) return within;
    data_ = {start, static_cast<uint64_t>(hole - first)};
  }
  if (start >= end) return {end, 0};
  return {start, std::min(end, data_.offset_bytes + data_.size_bytes) - start};
}

}  // namespace hvsdk::internal
