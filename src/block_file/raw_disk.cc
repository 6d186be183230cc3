// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/block_file/raw_disk.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "block_file/file_lock.h"

namespace hvsdk {
namespace {

// A file descriptor until it is handed on.
class OwnedFd {
 public:
  explicit OwnedFd(int fd) : fd_(fd) {}
  ~OwnedFd() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

// "disk 'PATH': what", of the class that the system's error belongs to.
absl::Status Error(const std::string& path, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("disk '", path, "': ", what));
}
absl::Status SystemError(const std::string& path, int error) {
  if (error == ELOOP) return Error(path, std::strerror(error));
  return absl::ErrnoToStatus(error, absl::StrCat("disk '", path, "'"));
}

// Whether the file is on a file system that punches holes. To try it out would change the file (its times at least, and
// what was allocated behind its end) before any guest has asked for it, so the file system's kind tells. Where a mount
// of such a kind refuses after all, as an overlay does over a file system without holes, PerformBlocking writes the
// zeroes that were promised.
bool PunchesHoles(int fd) {
  struct statfs mount;
  if (fstatfs(fd, &mount) != 0) return false;
  switch (static_cast<uint32_t>(mount.f_type)) {
    case BTRFS_SUPER_MAGIC:
    case EXT4_SUPER_MAGIC:
    case F2FS_SUPER_MAGIC:
    case OVERLAYFS_SUPER_MAGIC:
    case TMPFS_MAGIC:
    case XFS_SUPER_MAGIC:
    case 0x2FC12FC1:  // ZFS
    case 0xCA451A4E:  // bcachefs
      return true;
    default:
      return false;
  }
}

uint32_t PowerOfTwoBetween(uint64_t value, uint32_t low, uint32_t high) {
  return std::clamp(static_cast<uint32_t>(std::bit_floor(std::min<uint64_t>(value, high))), low, high);
}

}  // namespace

absl::StatusOr<std::shared_ptr<RawDisk>> RawDisk::Open(const std::string& path, const RawDiskOptions& options,
                                                       std::shared_ptr<FileEngine> engine) {
  const int flags = (options.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK;  // a FIFO must not make us wait
  OwnedFd fd(open(path.c_str(), flags));
  if (fd.get() < 0) return SystemError(path, errno);
  // Before anything is judged: who has it locked may be about to change its size.
  if (const absl::Status locked = internal::LockFile(fd.get(), options.read_only); !locked.ok()) {
    return absl::Status(locked.code(), absl::StrCat("disk '", path, "': ", locked.message()));
  }
  struct stat status;
  if (fstat(fd.get(), &status) != 0) return SystemError(path, errno);
  // On a file it would keep io_uring from waiting where the file system cannot tell beforehand that it must.
  if (fcntl(fd.get(), F_SETFL, fcntl(fd.get(), F_GETFL) & ~O_NONBLOCK) != 0) return SystemError(path, errno);
  BlockInfo info;
  info.read_only = options.read_only;
  info.id = options.id;
  info.serial = options.serial;
  if (S_ISREG(status.st_mode)) {
    info.size_bytes = static_cast<uint64_t>(status.st_size);
    info.physical_block_bytes = PowerOfTwoBetween(static_cast<uint64_t>(status.st_blksize), 512, 4096);
    info.can_discard = !options.read_only && PunchesHoles(fd.get());
    info.discard_reads_zeroes = info.can_discard;
  } else if (S_ISBLK(status.st_mode)) {
    int logical = 512;
    unsigned physical = 512;
    if (ioctl(fd.get(), BLKGETSIZE64, &info.size_bytes) != 0 || ioctl(fd.get(), BLKSSZGET, &logical) != 0) {
      return SystemError(path, errno);
    }
    if (ioctl(fd.get(), BLKPBSZGET, &physical) != 0) physical = static_cast<unsigned>(logical);
    info.logical_block_bytes = PowerOfTwoBetween(static_cast<uint64_t>(logical), 512, 4096);
    info.physical_block_bytes = PowerOfTwoBetween(physical, info.logical_block_bytes, 4096);
  } else {
    return Error(path, "is neither a file nor a block device");
  }
  info.discard_granularity_bytes = info.physical_block_bytes;
  if (info.size_bytes == 0) return Error(path, "is empty");
  if (info.size_bytes % info.logical_block_bytes != 0) {
    return Error(
        path, absl::StrCat("its size, ", info.size_bytes, " bytes, is not a multiple of ", info.logical_block_bytes));
  }
  FileEngine::SyncFailure on_sync_failure;
  if (options.on_writes_lost != nullptr) {
    on_sync_failure = [path, tell = options.on_writes_lost](int error) {
      tell(absl::DataLossError(absl::StrCat(
          "disk '", path, "': cannot be flushed: ", std::strerror(error),
          "; what was written since the last flush may be lost, and no flush succeeds until it is opened again")));
    };
  }
  ASSIGN_OR_RETURN(std::unique_ptr<FileEngine::File> file, engine->Serve(fd.get(), std::move(on_sync_failure)));
  return std::shared_ptr<RawDisk>(new RawDisk(path, fd.Release(), std::move(info), std::move(engine), std::move(file)));
}

absl::Status RawDisk::TestNoDisk(int fd) { return internal::TestWritable(fd); }

RawDisk::~RawDisk() {
  file_.reset();
  close(fd_);
}

bool RawDisk::WaitUntilIdle(std::chrono::milliseconds timeout) const {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  while (file_->in_flight() != 0) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

void RawDisk::Submit(absl::Span<BlockRequest* const> batch) {
  size_t first = 0;  // of those that are good, have something to do, and are not handed on yet
  for (size_t i = 0; i < batch.size(); ++i) {
    const BlockStatus status = CheckBlockRequest(info_, *batch[i]);
    const bool is_nothing = batch[i]->op == BlockOp::kFlush ? info_.read_only : batch[i]->size_bytes == 0;
    if (status == BlockStatus::kOk && !is_nothing) continue;
    if (i != first) file_->Submit(batch.subspan(first, i - first));
    first = i + 1;
    batch[i]->on_complete(*batch[i], status);
  }
  if (first != batch.size()) file_->Submit(batch.subspan(first));
}

}  // namespace hvsdk
