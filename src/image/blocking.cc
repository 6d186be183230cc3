// SPDX-License-Identifier: Apache-2.0
#include "image/blocking.h"

#include <condition_variable>
#include <mutex>

#include "absl/strings/str_cat.h"

namespace hvsdk::internal {
namespace {

struct Waited : BlockRequest {
  std::mutex mutex;
  std::condition_variable condition;
  bool is_done = false;
  BlockStatus status = BlockStatus::kOk;
};

template <typename Target>
BlockStatus Run(Target& target, BlockOp op, uint64_t offset, uint64_t size, uint8_t* data) {
  const HostBuffer buffer{data, static_cast<size_t>(size)};
  Waited request;
  request.op = op;
  request.offset_bytes = offset;
  request.size_bytes = size;
  if (data != nullptr) request.buffers = absl::MakeConstSpan(&buffer, 1);
  request.on_complete = [](BlockRequest& completed, BlockStatus status) {
    auto& self = static_cast<Waited&>(completed);
    // Notified under the lock: without it the waiter could be gone before.
    std::lock_guard lock(self.mutex);
    self.status = status;
    self.is_done = true;
    self.condition.notify_one();
  };
  BlockRequest* const one = &request;
  target.Submit(absl::MakeConstSpan(&one, 1));
  std::unique_lock lock(request.mutex);
  request.condition.wait(lock, [&] { return request.is_done; });
  return request.status;
}

}  // namespace

BlockStatus Read(ImageFile& file, uint64_t offset, absl::Span<uint8_t> to) {
  return Run(file, BlockOp::kRead, offset, to.size(), to.data());
}
BlockStatus Write(ImageFile& file, uint64_t offset, absl::Span<const uint8_t> from) {
  return Run(file, BlockOp::kWrite, offset, from.size(), const_cast<uint8_t*>(from.data()));
}
BlockStatus Zero(ImageFile& file, uint64_t offset, uint64_t size_bytes, BlockOp op) {
  return Run(file, op, offset, size_bytes, nullptr);
}
BlockStatus Flush(ImageFile& file) { return Run(file, BlockOp::kFlush, 0, 0, nullptr); }

BlockStatus ReadDisk(BlockDevice& disk, uint64_t offset, absl::Span<uint8_t> to) {
  return Run(disk, BlockOp::kRead, offset, to.size(), to.data());
}
BlockStatus WriteDisk(BlockDevice& disk, uint64_t offset, absl::Span<const uint8_t> from) {
  return Run(disk, BlockOp::kWrite, offset, from.size(), const_cast<uint8_t*>(from.data()));
}
BlockStatus RunOnDisk(BlockDevice& disk, BlockOp op, uint64_t offset, uint64_t size_bytes) {
  return Run(disk, op, offset, size_bytes, nullptr);
}

absl::Status ToStatus(BlockStatus status, absl::string_view what) {
  switch (status) {
    case BlockStatus::kOk:
      return absl::OkStatus();
    case BlockStatus::kNoSpace:
      return absl::ResourceExhaustedError(absl::StrCat(what, ": no space is left"));
    case BlockStatus::kReadOnly:
      return absl::PermissionDeniedError(absl::StrCat(what, ": it is read-only"));
    case BlockStatus::kOutOfRange:
      return absl::InvalidArgumentError(absl::StrCat(what, ": lies beyond the end of the file"));
    case BlockStatus::kWritesLost:
      return absl::DataLossError(absl::StrCat(what, ": the host has lost what was written"));
    case BlockStatus::kUnsupported:
    case BlockStatus::kIoError:
      break;
  }
  return absl::UnavailableError(absl::StrCat(what, ": the medium failed"));
}

}  // namespace hvsdk::internal
