// SPDX-License-Identifier: Apache-2.0
#include "os/linux/blocking_io.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>

namespace hvsdk::internal {
namespace {

static_assert(sizeof(HostBuffer) == sizeof(iovec) && offsetof(HostBuffer, data) == offsetof(iovec, iov_base) &&
              offsetof(HostBuffer, size_bytes) == offsetof(iovec, iov_len));

BlockStatus Transfer(int fd, const BlockRequest& request, uint64_t done) {
  constexpr size_t kMaxPieces = 256;
  while (done < request.size_bytes) {
    // The pieces behind what has been done already.
    iovec pieces[kMaxPieces];
    int count = 0;
    uint64_t skip = done;
    for (const HostBuffer& buffer : request.buffers) {
      if (skip >= buffer.size_bytes) {
        skip -= buffer.size_bytes;
        continue;
      }
      pieces[count++] = {buffer.data + skip, buffer.size_bytes - static_cast<size_t>(skip)};
      skip = 0;
      if (count == kMaxPieces) break;
    }
    if (count == 0) return BlockStatus::kIoError;  // fewer bytes of buffers than were promised
    const off_t offset = static_cast<off_t>(request.offset_bytes + done);
    // Not preadv and pwritev: ThreadSanitizer takes theirs for accesses of ours, but the buffers are a guest's, which
    // may race with itself.
    const ssize_t moved = request.op == BlockOp::kRead ? preadv2(fd, pieces, count, offset, /*flags=*/0)
                                                       : pwritev2(fd, pieces, count, offset, /*flags=*/0);
    if (moved < 0 && errno == EINTR) continue;
    if (moved < 0) return BlockStatusFromErrno(errno);
    if (moved == 0) return BlockStatus::kIoError;  // the file has become shorter
    done += static_cast<uint64_t>(moved);
  }
  return BlockStatus::kOk;
}

int Allocate(int fd, int mode, const BlockRequest& request) {
  int result;
  do {
    result = fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(request.offset_bytes),
                       static_cast<off_t>(request.size_bytes));
  } while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : errno;
}

BlockStatus WriteZeroes(int fd, const BlockRequest& request) {
  // Not every file system knows both ways.
  int error = Allocate(fd, FALLOC_FL_ZERO_RANGE, request);
  if (error == EOPNOTSUPP) error = Allocate(fd, FALLOC_FL_PUNCH_HOLE, request);
  if (error != 0 && error != EOPNOTSUPP) return BlockStatusFromErrno(error);
  if (error == EOPNOTSUPP) {
    alignas(4096) static const uint8_t kZeroes[64 << 10] = {};
    HostBuffer repeated[64];
    BlockRequest piece;
    piece.op = BlockOp::kWrite;
    for (uint64_t done = 0; done < request.size_bytes; done += piece.size_bytes) {
      piece.offset_bytes = request.offset_bytes + done;
      piece.size_bytes = std::min<uint64_t>(request.size_bytes - done, sizeof(kZeroes) * 64);
      size_t count = 0;
      for (uint64_t filled = 0; filled < piece.size_bytes; filled += repeated[count++].size_bytes) {
        repeated[count] = {const_cast<uint8_t*>(kZeroes), std::min<size_t>(sizeof(kZeroes), piece.size_bytes - filled)};
      }
      piece.buffers = absl::MakeConstSpan(repeated, count);
      if (const BlockStatus status = Transfer(fd, piece, 0); status != BlockStatus::kOk) return status;
    }
  }
  return BlockStatus::kOk;
}

}  // namespace

BlockStatus BlockStatusFromErrno(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return BlockStatus::kNoSpace;
    case EROFS:
    case EBADF:
    case EPERM:
      return BlockStatus::kReadOnly;
    case EOPNOTSUPP:
      return BlockStatus::kUnsupported;
    default:
      return BlockStatus::kIoError;
  }
}

BlockStatus PerformBlocking(int fd, const BlockRequest& request, uint64_t done_bytes) {
  switch (request.op) {
    case BlockOp::kRead:
    case BlockOp::kWrite:
      return Transfer(fd, request, done_bytes);
    case BlockOp::kFlush:
      break;
    case BlockOp::kDiscard:
      if (request.size_bytes == 0) return BlockStatus::kOk;
      if (const int error = Allocate(fd, FALLOC_FL_PUNCH_HOLE, request); error != EOPNOTSUPP)
        return error == 0 ? BlockStatus::kOk : BlockStatusFromErrno(error);
      return WriteZeroes(fd, request);  // what was discarded reads as zeroes, hole or not
    case BlockOp::kWriteZeroes:
      return request.size_bytes == 0 ? BlockStatus::kOk : WriteZeroes(fd, request);
  }
  return BlockStatus::kUnsupported;
}

int SyncFile(int fd) {
  int result;
  do {
    result = fdatasync(fd);
  } while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : errno;
}

}  // namespace hvsdk::internal
