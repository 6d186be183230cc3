// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/image/image_file.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <utility>

#include "base/status_macros.h"
#include "image/host_file.h"
#include "os/linux/file_lock.h"

namespace hvsdk {
namespace {

class HostImageFile : public ImageFile {
 public:
  HostImageFile(std::unique_ptr<internal::HostFile> host, bool read_only)
      : host_(std::move(host)), read_only_(read_only), size_(static_cast<uint64_t>(host_->status().st_size)) {}

  const std::string& path() const override { return host_->path(); }
  bool read_only() const override { return read_only_.load(std::memory_order_relaxed); }
  uint64_t size_bytes() const override { return size_.load(std::memory_order_relaxed); }

  BlockStatus Resize(uint64_t size_bytes) override {
    if (read_only()) return BlockStatus::kReadOnly;
    int result;
    do {
      result = ftruncate(host_->fd(), static_cast<off_t>(size_bytes));
    } while (result != 0 && errno == EINTR);
    if (result != 0) {
      return errno == ENOSPC || errno == EFBIG || errno == EDQUOT ? BlockStatus::kNoSpace : BlockStatus::kIoError;
    }
    size_.store(size_bytes, std::memory_order_relaxed);
    return BlockStatus::kOk;
  }

  void Submit(absl::Span<BlockRequest* const> batch) override {
    const uint64_t size = size_bytes();
    const bool only_reads = read_only();
    size_t first = 0;  // of those that are good and are not handed on yet
    for (size_t i = 0; i < batch.size(); ++i) {
      BlockRequest& request = *batch[i];
      BlockStatus status = BlockStatus::kOk;
      if (request.op != BlockOp::kRead && request.op != BlockOp::kFlush && only_reads) status = BlockStatus::kReadOnly;
      if (request.offset_bytes > size || request.size_bytes > size - request.offset_bytes) {
        status = BlockStatus::kOutOfRange;
      }
      const bool is_nothing = request.op == BlockOp::kFlush ? only_reads : request.size_bytes == 0;
      if (status == BlockStatus::kOk && !is_nothing) continue;
      if (i != first) host_->file().Submit(batch.subspan(first, i - first));
      first = i + 1;
      request.on_complete(request, status);
    }
    if (first != batch.size()) host_->file().Submit(batch.subspan(first));
  }

  BlockRange FindData(BlockRange within) override { return host_->FindData(within); }

  void StopWriting() override {
    read_only_.store(true, std::memory_order_relaxed);
    internal::ShareFile(host_->fd());
  }

 private:
  const std::unique_ptr<internal::HostFile> host_;
  std::atomic<bool> read_only_;
  std::atomic<uint64_t> size_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<ImageFile>> OpenImageFile(const std::string& path, const ImageFileOptions& options,
                                                         std::shared_ptr<FileEngine> engine) {
  ASSIGN_OR_RETURN(
      std::unique_ptr<internal::HostFile> host,
      internal::HostFile::Open(
          path, {.read_only = options.read_only, .create = options.create, .on_writes_lost = options.on_writes_lost},
          std::move(engine)));
  if (!S_ISREG(host->status().st_mode)) return internal::DiskError(path, "is not a file");
  return std::make_shared<HostImageFile>(std::move(host), options.read_only);
}

}  // namespace hvsdk
