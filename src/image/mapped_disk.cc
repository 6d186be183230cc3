// SPDX-License-Identifier: Apache-2.0
#include "image/mapped_disk.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "image/blocking.h"
#include "memory/guest_copy.h"

namespace hvsdk::internal {
namespace {

using Place = Extent::Place;

constexpr uint32_t kMaxUnused = 256;
constexpr size_t kMaxPiecesKept = 64;  // in a transfer that waits for its next request

void FillWithZeroes(absl::Span<const HostBuffer> buffers) {
  static const uint8_t kZeroes[4096] = {};
  for (const HostBuffer& buffer : buffers) {
    for (size_t at = 0; at < buffer.size_bytes; at += sizeof(kZeroes)) {
      GuestCopy(buffer.data + at, kZeroes, std::min(sizeof(kZeroes), buffer.size_bytes - at));
    }
  }
}

}  // namespace

absl::StatusOr<std::shared_ptr<MappedDisk>> MappedDisk::Create(std::shared_ptr<ImageFile> file,
                                                               std::unique_ptr<BlockMap> map,
                                                               std::shared_ptr<BlockDevice> parent, BlockInfo info,
                                                               std::function<void(const absl::Status&)> on_complaint) {
  auto disk = std::shared_ptr<MappedDisk>(
      new MappedDisk(std::move(file), std::move(map), std::move(parent), std::move(info), std::move(on_complaint)));
  RETURN_IF_ERROR(disk->thread_.Start("image", [raw = disk.get()] { raw->Serve(); }));
  return disk;
}

MappedDisk::MappedDisk(std::shared_ptr<ImageFile> file, std::unique_ptr<BlockMap> map,
                       std::shared_ptr<BlockDevice> parent, BlockInfo info,
                       std::function<void(const absl::Status&)> on_complaint)
    : file_(std::move(file)),
      map_(std::move(map)),
      parent_(std::move(parent)),
      info_(std::move(info)),
      on_complaint_(std::move(on_complaint)),
      mutex_(map_->mutex()) {}

MappedDisk::~MappedDisk() {
  if (thread_.is_running()) {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
      work_.notify_one();
    }
    thread_.Join();
  }
  while (unused_ != nullptr) delete std::exchange(unused_, unused_->next);
}

bool MappedDisk::WaitUntilIdle(std::chrono::milliseconds timeout) const {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  while (under_way_.load(std::memory_order_acquire) != 0) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

absl::Status MappedDisk::Settle() {
  std::unique_lock lock(mutex_);
  const uint64_t mine = ++settles_wanted_;
  work_.notify_one();
  settled_.wait(lock, [&] { return settles_done_ >= mine; });
  return ToStatus(settle_status_, absl::StrCat("disk '", path(), "': cannot be settled"));
}

void MappedDisk::Submit(absl::Span<BlockRequest* const> batch) {
  absl::InlinedVector<Transfer*, 32> resolved;
  absl::InlinedVector<std::pair<BlockRequest*, BlockStatus>, 8> ended;
  bool is_broken = false;
  under_way_.fetch_add(batch.size(), std::memory_order_relaxed);
  {
    std::lock_guard lock(mutex_);
    for (BlockRequest* const request : batch) {
      const bool is_flush = request->op == BlockOp::kFlush;
      BlockStatus status = CheckBlockRequest(info_, *request);
      if (status != BlockStatus::kOk || (is_flush ? info_.read_only : request->size_bytes == 0)) {
        ended.emplace_back(request, status);
        continue;
      }
      Transfer& transfer = *NewTransfer(*request);
      const bool moves = request->op == BlockOp::kRead || request->op == BlockOp::kWrite;
      bool goes_on = false;
      if (is_flush && !map_->is_changed()) {
        transfer.pieces.emplace_back();
        transfer.pieces.back().op = BlockOp::kFlush;
        goes_on = true;
      } else if (moves) {
        goes_on = Resolve(transfer, status);
      }
      if (status != BlockStatus::kOk) {
        is_broken = true;
        transfer.request = nullptr;
        transfer.next = std::exchange(unused_, &transfer);
        ++unused_count_;
        ended.emplace_back(request, status);
      } else if (goes_on) {
        transfer.epoch = epoch_;
        ++moving_[epoch_];
        resolved.push_back(&transfer);
      } else {
        transfer.pieces.clear();
        Enqueue(transfer);
      }
    }
  }
  if (is_broken) TellComplaint();
  Batch for_file, for_parent;
  for (Transfer* const transfer : resolved) Prepare(*transfer, for_file, for_parent);
  Send(for_file, for_parent);
  for (const auto& [request, status] : ended) {
    under_way_.fetch_sub(1, std::memory_order_release);
    request->on_complete(*request, status);
  }
}

BlockRange MappedDisk::FindData(uint64_t offset_bytes) {
  bool was_read = false;
  for (uint64_t at = offset_bytes; at < info_.size_bytes;) {
    Extent extent;
    {
      std::lock_guard lock(mutex_);
      extent = map_->Find(at, info_.size_bytes - at, /*for_write=*/false);
    }
    BlockRange data{at, extent.size_bytes};
    switch (extent.place) {
      case Place::kUnknown:
        // To read there brings in what the image says of it. If that does not stay, whoever reads the data waits for it.
        if (std::exchange(was_read, true)) return data;
        std::array<uint8_t, 4096> block;
        if (ReadDisk(*this, at, absl::MakeSpan(block).first(info_.logical_block_bytes)) != BlockStatus::kOk)
          return data;
        continue;
      case Place::kBroken:
        return data;
      case Place::kZeroes:
        data.size_bytes = 0;
        break;
      case Place::kFile:
        data = file_->FindData({extent.file_offset, extent.size_bytes});
        data.offset_bytes = data.offset_bytes - extent.file_offset + at;
        break;
      case Place::kParent:
        data = parent_ == nullptr ? BlockRange{} : parent_->FindData(at);
        data.size_bytes = data.offset_bytes >= at + extent.size_bytes
                              ? 0
                              : std::min(data.size_bytes, at + extent.size_bytes - data.offset_bytes);
        break;
    }
    if (data.size_bytes != 0) return data;
    at += extent.size_bytes;
    was_read = false;
  }
  return {info_.size_bytes, 0};
}

MappedDisk::Transfer* MappedDisk::NewTransfer(BlockRequest& request) {
  Transfer* transfer = unused_;
  if (transfer != nullptr) {
    unused_ = transfer->next;
    --unused_count_;
  } else {
    transfer = new Transfer;
    transfer->disk = this;
  }
  transfer->request = &request;
  transfer->status.store(BlockStatus::kOk, std::memory_order_relaxed);
  transfer->marks = transfer->commits = transfer->is_moved = false;
  transfer->next = nullptr;
  transfer->pieces.clear();
  transfer->buffers.clear();
  return transfer;
}

void MappedDisk::Enqueue(Transfer& transfer) {
  transfer.next = nullptr;
  (first_ == nullptr ? first_ : last_->next) = &transfer;
  last_ = &transfer;
  work_.notify_one();
}

bool MappedDisk::Resolve(Transfer& transfer, BlockStatus& status) {
  const BlockRequest& request = *transfer.request;
  const bool is_write = request.op == BlockOp::kWrite;
  for (uint64_t at = 0; at < request.size_bytes;) {
    const Extent extent = map_->Find(request.offset_bytes + at, request.size_bytes - at, is_write);
    if (extent.place == Place::kBroken) {
      status = BlockStatus::kIoError;
      return false;
    }
    if (extent.place == Place::kUnknown || (is_write && extent.place != Place::kFile)) return false;
    AddPiece(transfer, extent, at);
    at += extent.size_bytes;
  }
  // What the image says of the place must last as well as what is there.
  transfer.commits = is_write && request.fua && (transfer.marks || map_->is_changed());
  if (is_write && request.fua && !transfer.commits) {
    for (Piece& piece : transfer.pieces) piece.fua = true;
  }
  return true;
}

void MappedDisk::AddPiece(Transfer& transfer, const Extent& extent, uint64_t at) {
  Extent rest = extent;
  const uint64_t on_disk = transfer.request->offset_bytes + at;
  if (rest.place == Place::kParent) {
    // A parent that is shorter has zeroes behind its end.
    const uint64_t size = parent_ == nullptr ? 0 : parent_->info().size_bytes;
    if (on_disk >= size) {
      rest.place = Place::kZeroes;
    } else if (rest.size_bytes > size - on_disk) {
      rest.size_bytes = size - on_disk;
      AddPiece(transfer, rest, at);
      at += rest.size_bytes;
      rest.size_bytes = extent.size_bytes - rest.size_bytes;
      rest.place = Place::kZeroes;
    } else {
      rest.file_offset = on_disk;
    }
    if (rest.place == Place::kParent) rest.file_offset = on_disk;
  }
  transfer.marks |= rest.unmarked;
  if (!transfer.pieces.empty()) {
    Piece& last = transfer.pieces.back();
    if (last.place == rest.place &&
        (rest.place == Place::kZeroes || last.offset_bytes + last.size_bytes == rest.file_offset)) {
      last.size_bytes += rest.size_bytes;
      return;
    }
  }
  Piece& piece = transfer.pieces.emplace_back();
  piece.op = transfer.request->op;
  piece.place = rest.place;
  piece.offset_bytes = rest.file_offset;
  piece.size_bytes = rest.size_bytes;
  piece.at = at;
}

void MappedDisk::Prepare(Transfer& transfer, Batch& for_file, Batch& for_parent) {
  const absl::Span<const HostBuffer> all = transfer.request->buffers;
  uint32_t left = 0;
  for (const Piece& piece : transfer.pieces) left += piece.place != Place::kZeroes;
  transfer.left.store(left, std::memory_order_relaxed);
  const bool is_whole = transfer.pieces.size() == 1;
  // Each piece begins at most one buffer more than there are.
  if (!is_whole) transfer.buffers.reserve(all.size() + transfer.pieces.size());
  size_t buffer = 0, skip = 0;  // the first byte that no piece has yet
  for (Piece& piece : transfer.pieces) {
    if (is_whole) {
      piece.buffers = all;
    } else {
      const size_t first = transfer.buffers.size();
      for (uint64_t needs = piece.size_bytes; needs != 0 && buffer < all.size();) {
        const size_t size = static_cast<size_t>(std::min<uint64_t>(needs, all[buffer].size_bytes - skip));
        if (size != 0) transfer.buffers.push_back({all[buffer].data + skip, size});
        needs -= size;
        skip += size;
        if (skip == all[buffer].size_bytes) {
          ++buffer;
          skip = 0;
        }
      }
      piece.buffers = absl::MakeConstSpan(transfer.buffers).subspan(first);
    }
    if (piece.place == Place::kZeroes) {
      FillWithZeroes(piece.buffers);
      continue;
    }
    piece.transfer = &transfer;
    piece.on_complete = [](BlockRequest& request, BlockStatus status) {
      Transfer& moved = *static_cast<Piece&>(request).transfer;
      if (status != BlockStatus::kOk) {
        // The file's end is the image's mistake, not the guest's.
        if (status == BlockStatus::kOutOfRange) status = BlockStatus::kIoError;
        moved.status.store(status, std::memory_order_relaxed);
      }
      // The last one sees what the others have stored.
      if (moved.left.fetch_sub(1, std::memory_order_acq_rel) == 1) moved.disk->OnMoved(moved);
    };
    (piece.place == Place::kParent ? for_parent : for_file).push_back(&piece);
  }
  if (left == 0) OnMoved(transfer);
}

void MappedDisk::Send(const Batch& for_file, const Batch& for_parent) {
  if (!for_file.empty()) file_->Submit(for_file);
  if (!for_parent.empty()) parent_->Submit(for_parent);
}

void MappedDisk::OnMoved(Transfer& transfer) {
  const BlockStatus status = transfer.status.load(std::memory_order_relaxed);
  BlockRequest& request = *transfer.request;
  bool is_kept = false;
  {
    // Once for each request that only moves data: the threads of the file meet here.
    std::lock_guard lock(mutex_);
    if (--moving_[transfer.epoch] == 0) drained_.notify_all();
    if (status == BlockStatus::kOk && (transfer.marks || transfer.commits)) {
      transfer.is_moved = true;
      Enqueue(transfer);
      return;
    }
    is_kept = Keep(transfer);
  }
  if (!is_kept) delete &transfer;
  Tell(request, status);
}

bool MappedDisk::Keep(Transfer& transfer) {
  if (unused_count_ >= kMaxUnused || transfer.pieces.capacity() > kMaxPiecesKept) return false;
  transfer.next = std::exchange(unused_, &transfer);
  ++unused_count_;
  return true;
}

void MappedDisk::Complete(Transfer& transfer, BlockStatus status) {
  BlockRequest& request = *transfer.request;
  bool is_kept = false;
  {
    std::lock_guard lock(mutex_);
    is_kept = Keep(transfer);
  }
  if (!is_kept) delete &transfer;
  Tell(request, status);
}

void MappedDisk::Tell(BlockRequest& request, BlockStatus status) {
  // Nothing of the disk is touched behind this: its owner may be waiting for the last request to destroy it.
  under_way_.fetch_sub(1, std::memory_order_release);
  request.on_complete(request, status);
}

void MappedDisk::TellComplaint() {
  std::string what;
  {
    std::lock_guard lock(mutex_);
    what = map_->TakeComplaint();
  }
  if (!what.empty() && on_complaint_ != nullptr) {
    on_complaint_(absl::DataLossError(absl::StrCat("disk '", path(), "': ", what)));
  }
}

void MappedDisk::Serve() {
  for (;;) {
    Transfer* transfer;
    {
      std::unique_lock lock(mutex_);
      const auto is_settled = [this] { return settles_done_ == settles_wanted_; };
      work_.wait(lock, [&] { return first_ != nullptr || stop_ || !is_settled(); });
      if (first_ == nullptr && !is_settled()) {
        const uint64_t wanted = settles_wanted_;
        lock.unlock();
        BlockStatus status = Commit();
        if (status == BlockStatus::kOk) status = map_->Close();
        lock.lock();
        settles_done_ = wanted;
        settle_status_ = status;
        settled_.notify_all();
        continue;
      }
      if (first_ == nullptr) break;
      transfer = std::exchange(first_, first_->next);
    }
    Work(*transfer);
    TellComplaint();
  }
  const BlockStatus status = map_->Close();
  if (status != BlockStatus::kOk && on_complaint_ != nullptr) {
    on_complaint_(
        ToStatus(status, absl::StrCat("disk '", path(), "': cannot be closed: what was not flushed is lost")));
  }
}

void MappedDisk::Work(Transfer& transfer) {
  const BlockRequest& request = *transfer.request;
  BlockStatus status = BlockStatus::kOk;
  const auto commit_if = [&](bool wanted) {
    if (status == BlockStatus::kOk && wanted) status = Commit();
  };
  if (transfer.is_moved) {
    commit_if(map_->wants_commit());
    if (status == BlockStatus::kOk && transfer.marks) {
      status = map_->MarkWritten(request.offset_bytes, request.size_bytes);
    }
    commit_if(transfer.commits);
    return Complete(transfer, status);
  }
  switch (request.op) {
    case BlockOp::kFlush:
      commit_if(true);
      return Complete(transfer, status);
    case BlockOp::kDiscard:
    case BlockOp::kWriteZeroes: {
      // Not too much at once: a table of any size has been changed in the end.
      constexpr uint64_t kStep = 64 << 20;
      for (uint64_t at = 0; at < request.size_bytes && status == BlockStatus::kOk; at += kStep) {
        commit_if(map_->wants_commit());
        if (status != BlockStatus::kOk) break;
        status = map_->WriteZeroes(request.offset_bytes + at, std::min(kStep, request.size_bytes - at),
                                   request.op == BlockOp::kDiscard);
      }
      commit_if(request.fua);
      return Complete(transfer, status);
    }
    case BlockOp::kRead:
    case BlockOp::kWrite:
      break;
  }
  status = ResolveBlocking(transfer);
  if (status != BlockStatus::kOk) return Complete(transfer, status);
  {
    std::lock_guard lock(mutex_);
    transfer.epoch = epoch_;
    ++moving_[epoch_];
  }
  Batch for_file, for_parent;
  Prepare(transfer, for_file, for_parent);
  Send(for_file, for_parent);
}

BlockStatus MappedDisk::ResolveBlocking(Transfer& transfer) {
  const BlockRequest& request = *transfer.request;
  const bool is_write = request.op == BlockOp::kWrite;
  int tries = 0;
  for (uint64_t at = 0; at < request.size_bytes;) {
    Extent extent;
    {
      std::lock_guard lock(mutex_);
      extent = map_->Find(request.offset_bytes + at, request.size_bytes - at, is_write);
    }
    if (extent.place == Place::kBroken) return BlockStatus::kIoError;
    const bool has_place = extent.place != Place::kUnknown && (!is_write || extent.place == Place::kFile);
    if (has_place) {
      AddPiece(transfer, extent, at);
      at += extent.size_bytes;
      tries = 0;
      continue;
    }
    // Each step makes one thing known; there are a handful.
    if (++tries == 16) return BlockStatus::kIoError;
    BlockStatus status = BlockStatus::kOk;
    if (extent.place == Place::kUnknown) {
      status = map_->Load(request.offset_bytes + at, is_write);
    } else {
      if (map_->wants_commit()) status = Commit();
      if (status == BlockStatus::kOk) status = map_->Allocate(request.offset_bytes + at);
    }
    if (status != BlockStatus::kOk) return status;
  }
  bool is_changed;
  {
    std::lock_guard lock(mutex_);
    is_changed = map_->is_changed();
  }
  transfer.commits = is_write && request.fua && (transfer.marks || is_changed);
  if (is_write && request.fua && !transfer.commits) {
    for (Piece& piece : transfer.pieces) piece.fua = true;
  }
  return BlockStatus::kOk;
}

BlockStatus MappedDisk::Commit() {
  const BlockStatus status = map_->Commit();
  if (status != BlockStatus::kOk || !map_->has_freed()) return status;
  {
    std::unique_lock lock(mutex_);
    const uint8_t before = std::exchange(epoch_, epoch_ ^ 1);
    drained_.wait(lock, [&] { return moving_[before] == 0; });
  }
  map_->ReleaseFreed();
  return BlockStatus::kOk;
}

}  // namespace hvsdk::internal
