// SPDX-License-Identifier: Apache-2.0
#include "convert.h"

#include <algorithm>
#include <cstring>
#include <future>
#include <vector>

#include "absl/strings/str_cat.h"

namespace hvimg {
namespace {

using hvsdk::BlockDevice;
using hvsdk::BlockOp;
using hvsdk::BlockRequest;
using hvsdk::BlockStatus;

constexpr size_t kStep = 1 << 20;

// A request with its buffer, whose end can be waited for.
class Transfer : public BlockRequest {
 public:
  Transfer() : bytes_(kStep) {
    on_complete = [](BlockRequest& request, BlockStatus status) {
      static_cast<Transfer&>(request).done_.set_value(status);
    };
  }
  void Start(BlockDevice& disk, BlockOp what, uint64_t offset, size_t size) {
    op = what;
    offset_bytes = offset;
    size_bytes = size;
    buffer_ = {bytes_.data(), size};
    buffers = what == BlockOp::kFlush ? absl::Span<const hvsdk::HostBuffer>() : absl::MakeConstSpan(&buffer_, 1);
    done_ = {};
    future_ = done_.get_future();
    BlockRequest* const one = this;
    disk.Submit(absl::MakeConstSpan(&one, 1));
  }
  absl::Status Wait(const char* what) {
    const BlockStatus status = future_.get();
    if (status == BlockStatus::kOk) return absl::OkStatus();
    if (status == BlockStatus::kNoSpace) return absl::ResourceExhaustedError("no space is left");
    return absl::UnavailableError(absl::StrCat(what, " at byte ", offset_bytes, " failed"));
  }
  absl::Status Run(BlockDevice& disk, BlockOp what, uint64_t offset, size_t size) {
    Start(disk, what, offset, size);
    return Wait(what == BlockOp::kRead ? "reading" : what == BlockOp::kWrite ? "writing" : "flushing");
  }
  const uint8_t* bytes() const { return bytes_.data(); }
  bool is_zero(size_t size) const {
    return size == 0 || (bytes_[0] == 0 && std::memcmp(&bytes_[0], &bytes_[1], size - 1) == 0);
  }

 private:
  std::vector<uint8_t> bytes_;
  hvsdk::HostBuffer buffer_{};
  std::promise<BlockStatus> done_;
  std::future<BlockStatus> future_;
};

}  // namespace

absl::Status Copy(BlockDevice& from, BlockDevice& to, const std::function<void(uint64_t)>& progress) {
  // While one is written the next is read.
  Transfer transfers[2];
  bool is_writing[2] = {false, false};
  const uint64_t size = from.info().size_bytes;
  absl::Status status;
  for (uint64_t offset = 0, turn = 0; offset < size && status.ok(); offset += kStep, turn ^= 1) {
    Transfer& transfer = transfers[turn];
    if (std::exchange(is_writing[turn], false)) status.Update(transfer.Wait("writing"));
    const size_t part = static_cast<size_t>(std::min<uint64_t>(kStep, size - offset));
    if (status.ok()) status = transfer.Run(from, BlockOp::kRead, offset, part);
    if (status.ok() && !transfer.is_zero(part)) {
      transfer.Start(to, BlockOp::kWrite, offset, part);
      is_writing[turn] = true;
    }
    progress(offset + part);
  }
  for (int i = 0; i < 2; ++i) {
    if (is_writing[i]) status.Update(transfers[i].Wait("writing"));
  }
  return status.ok() ? transfers[0].Run(to, BlockOp::kFlush, 0, 0) : status;
}

absl::Status Compare(BlockDevice& from, BlockDevice& to, const std::function<void(uint64_t)>& progress) {
  Transfer a, b;
  const uint64_t sizes[] = {from.info().size_bytes, to.info().size_bytes};
  for (uint64_t offset = 0; offset < std::max(sizes[0], sizes[1]); offset += kStep) {
    size_t parts[2];
    for (int i = 0; i < 2; ++i) {
      parts[i] = static_cast<size_t>(std::min<uint64_t>(kStep, sizes[i] - std::min(sizes[i], offset)));
      Transfer& transfer = i == 0 ? a : b;
      if (parts[i] == 0) continue;
      if (absl::Status status = transfer.Run(i == 0 ? from : to, BlockOp::kRead, offset, parts[i]); !status.ok())
        return status;
    }
    const size_t both = std::min(parts[0], parts[1]);
    for (size_t i = 0; i < std::max(parts[0], parts[1]); ++i) {
      const uint8_t left = i < parts[0] ? a.bytes()[i] : 0, right = i < parts[1] ? b.bytes()[i] : 0;
      if (i == 0 && both == std::max(parts[0], parts[1]) && std::memcmp(a.bytes(), b.bytes(), both) == 0) break;
      if (left != right) return absl::OutOfRangeError(absl::StrCat("they differ at byte ", offset + i));
    }
    progress(offset + std::max(parts[0], parts[1]));
  }
  return absl::OkStatus();
}

}  // namespace hvimg
