// SPDX-License-Identifier: Apache-2.0
#include "convert.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace hvimg {
namespace {

using hvsdk::BlockDevice;
using hvsdk::BlockOp;
using hvsdk::BlockRequest;
using hvsdk::BlockStatus;

// Blocks of zeroes of this size are left out. A host that has other work wakes a thread late, so threads have some in
// store.
constexpr size_t kStep = 1 << 20;
constexpr size_t kDepth = 8;

class Transfer;

// Those that have ended, one after the other.
class Ended {
 public:
  void Add(Transfer& transfer) {
    // Notified under the lock: without it the waiter could be gone before.
    std::lock_guard lock(mutex_);
    ended_.push_back(&transfer);
    one_.notify_one();
  }
  Transfer& Wait() {
    std::unique_lock lock(mutex_);
    one_.wait(lock, [this] { return !ended_.empty(); });
    Transfer& transfer = *ended_.front();
    ended_.pop_front();
    return transfer;
  }

 private:
  std::mutex mutex_;
  std::condition_variable one_;
  std::deque<Transfer*> ended_;
};

// A request with its buffer.
class Transfer : public BlockRequest {
 public:
  explicit Transfer(Ended& ended) : ended_(ended), bytes_(kStep) {
    on_complete = [](BlockRequest& request, BlockStatus status) { static_cast<Transfer&>(request).OnComplete(status); };
  }
  // Reads; what is other than zeroes is written there, by whoever has read it: nobody is woken for that.
  void StartCopy(BlockDevice& from, BlockDevice& to, uint64_t offset, size_t size) {
    to_ = &to;
    Start(from, BlockOp::kRead, offset, size);
  }
  void Start(BlockDevice& disk, BlockOp what, uint64_t offset, size_t size) {
    op = what;
    offset_bytes = offset;
    size_bytes = size;
    buffer_ = {bytes_.data(), size};
    buffers = what == BlockOp::kFlush ? absl::Span<const hvsdk::HostBuffer>() : absl::MakeConstSpan(&buffer_, 1);
    BlockRequest* const one = this;
    disk.Submit(absl::MakeConstSpan(&one, 1));
  }
  // Once it has ended.
  absl::Status status() const {
    if (result_ == BlockStatus::kOk) return absl::OkStatus();
    if (result_ == BlockStatus::kNoSpace) return absl::ResourceExhaustedError("no space is left");
    const char* const what = op == BlockOp::kRead ? "reading" : op == BlockOp::kWrite ? "writing" : "flushing";
    return absl::UnavailableError(absl::StrCat(what, " at byte ", offset_bytes, " failed"));
  }
  const uint8_t* bytes() const { return bytes_.data(); }

 private:
  void OnComplete(BlockStatus status) {
    BlockDevice* const to = std::exchange(to_, nullptr);
    if (status == BlockStatus::kOk && to != nullptr && !is_zero()) {
      return Start(*to, BlockOp::kWrite, offset_bytes, size_bytes);
    }
    result_ = status;
    ended_.Add(*this);
  }
  bool is_zero() const {
    return size_bytes == 0 || (bytes_[0] == 0 && std::memcmp(&bytes_[0], &bytes_[1], size_bytes - 1) == 0);
  }

  Ended& ended_;
  BlockDevice* to_ = nullptr;
  std::vector<uint8_t> bytes_;
  hvsdk::HostBuffer buffer_{};
  BlockStatus result_ = BlockStatus::kOk;
};

// Cuts what may be other than zeroes into pieces that one transfer moves.
class Pieces {
 public:
  explicit Pieces(BlockDevice& disk) : disk_(disk), size_(disk.info().size_bytes) {}
  // False: there are no more.
  bool Next(uint64_t& offset, size_t& size) {
    if (at_ == end_) {
      const hvsdk::BlockRange data = disk_.FindData(end_);
      if (data.size_bytes == 0) {
        at_ = end_ = size_;
        return false;
      }
      // A page in part costs reading the rest of it.
      at_ = std::max(end_, data.offset_bytes & ~uint64_t{4095});
      end_ = std::min(size_, (data.offset_bytes + data.size_bytes + 4095) & ~uint64_t{4095});
    }
    offset = at_;
    size = static_cast<size_t>(std::min(end_, (at_ / kStep + 1) * kStep) - at_);
    at_ += size;
    return true;
  }
  uint64_t at() const { return at_; }

 private:
  BlockDevice& disk_;
  const uint64_t size_;
  uint64_t at_ = 0, end_ = 0;
};

}  // namespace

absl::Status Copy(BlockDevice& from, BlockDevice& to, const std::function<void(uint64_t)>& progress) {
  Ended ended;
  std::vector<std::unique_ptr<Transfer>> transfers;
  Pieces pieces(from);
  absl::Status status;
  size_t under_way = 0;
  const auto start_next = [&](Transfer& transfer) {
    uint64_t offset;
    size_t size;
    if (!status.ok() || !pieces.Next(offset, size)) return;
    ++under_way;
    transfer.StartCopy(from, to, offset, size);
  };
  for (size_t i = 0; i < kDepth; ++i) {
    transfers.push_back(std::make_unique<Transfer>(ended));
    start_next(*transfers.back());
  }
  for (; under_way != 0; --under_way) {
    Transfer& transfer = ended.Wait();
    status.Update(transfer.status());
    start_next(transfer);
    progress(pieces.at());
  }
  if (!status.ok()) return status;
  transfers[0]->Start(to, BlockOp::kFlush, 0, 0);
  return ended.Wait().status();
}

absl::Status Compare(BlockDevice& from, BlockDevice& to, const std::function<void(uint64_t)>& progress) {
  Ended ended;
  Transfer a(ended), b(ended);
  const uint64_t sizes[] = {from.info().size_bytes, to.info().size_bytes};
  for (uint64_t offset = 0; offset < std::max(sizes[0], sizes[1]); offset += kStep) {
    size_t parts[2];
    int under_way = 0;
    for (int i = 0; i < 2; ++i) {
      parts[i] = static_cast<size_t>(std::min<uint64_t>(kStep, sizes[i] - std::min(sizes[i], offset)));
      if (parts[i] == 0) continue;
      ++under_way;
      (i == 0 ? a : b).Start(i == 0 ? from : to, BlockOp::kRead, offset, parts[i]);
    }
    absl::Status status;
    for (; under_way != 0; --under_way) status.Update(ended.Wait().status());
    if (!status.ok()) return status;
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
