// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/image/raw_disk.h"

#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "image/blocking.h"
#include "image/host_file.h"
#include "os/linux/file_lock.h"

namespace hvsdk {
namespace {

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
  ASSIGN_OR_RETURN(
      std::unique_ptr<internal::HostFile> host,
      internal::HostFile::Open(path, {.read_only = options.read_only, .on_writes_lost = options.on_writes_lost},
                               std::move(engine)));
  const struct stat& status = host->status();
  BlockInfo info;
  info.read_only = options.read_only;
  info.id = options.id;
  info.serial = options.serial;
  if (S_ISREG(status.st_mode)) {
    info.size_bytes = static_cast<uint64_t>(status.st_size);
    info.physical_block_bytes = PowerOfTwoBetween(static_cast<uint64_t>(status.st_blksize), 512, 4096);
    info.can_discard = !options.read_only && PunchesHoles(host->fd());
    info.discard_reads_zeroes = info.can_discard;
  } else {
    int logical = 512;
    unsigned physical = 512;
    if (ioctl(host->fd(), BLKGETSIZE64, &info.size_bytes) != 0 || ioctl(host->fd(), BLKSSZGET, &logical) != 0) {
      return internal::DiskSystemError(path, errno);
    }
    if (ioctl(host->fd(), BLKPBSZGET, &physical) != 0) physical = static_cast<unsigned>(logical);
    info.logical_block_bytes = PowerOfTwoBetween(static_cast<uint64_t>(logical), 512, 4096);
    info.physical_block_bytes = PowerOfTwoBetween(physical, info.logical_block_bytes, 4096);
  }
  info.discard_granularity_bytes = info.physical_block_bytes;
  if (info.size_bytes == 0) return internal::DiskError(path, "is empty");
  if (info.size_bytes % info.logical_block_bytes != 0) {
    return internal::DiskError(
        path, absl::StrCat("its size, ", info.size_bytes, " bytes, is not a multiple of ", info.logical_block_bytes));
  }
  return std::shared_ptr<RawDisk>(new RawDisk(std::move(host), std::move(info)));
}

RawDisk::RawDisk(std::unique_ptr<internal::HostFile> host, BlockInfo info)
    : host_(std::move(host)), info_(std::move(info)) {}

RawDisk::~RawDisk() = default;

absl::Status RawDisk::TestNoDisk(int fd) { return internal::TestWritable(fd); }

const std::string& RawDisk::path() const { return host_->path(); }

bool RawDisk::WaitUntilIdle(std::chrono::milliseconds timeout) const { return host_->WaitUntilIdle(timeout); }

absl::Status RawDisk::Settle() {
  return internal::ToStatus(internal::RunOnDisk(*this, BlockOp::kFlush),
                            absl::StrCat("disk '", path(), "': cannot be settled"));
}

BlockRange RawDisk::FindData(uint64_t offset_bytes) {
  const BlockRange rest = BlockDevice::FindData(offset_bytes);
  // A block device has no holes, and says so of all that is beyond its end.
  return S_ISREG(host_->status().st_mode) && rest.size_bytes != 0 ? host_->FindData(rest) : rest;
}

void RawDisk::Submit(absl::Span<BlockRequest* const> batch) {
  size_t first = 0;  // of those that are good, have something to do, and are not handed on yet
  for (size_t i = 0; i < batch.size(); ++i) {
    const BlockStatus status = CheckBlockRequest(info_, *batch[i]);
    const bool is_nothing = batch[i]->op == BlockOp::kFlush ? info_.read_only : batch[i]->size_bytes == 0;
    if (status == BlockStatus::kOk && !is_nothing) continue;
    if (i != first) host_->file().Submit(batch.subspan(first, i - first));
    first = i + 1;
    batch[i]->on_complete(*batch[i], status);
  }
  if (first != batch.size()) host_->file().Submit(batch.subspan(first));
}

}  // namespace hvsdk
