// SPDX-License-Identifier: Apache-2.0
// MappedDisk: the disk that an image file is. A request becomes requests of the file, and of the parent's disk, on the
// same buffers: nothing is copied. What finds all it needs in memory goes there within Submit; what needs metadata from
// the file, room for a block, or a lasting change of the image waits its turn on the disk's own thread.

#ifndef HVSDK_SRC_IMAGE_MAPPED_DISK_H_
#define HVSDK_SRC_IMAGE_MAPPED_DISK_H_

#include <array>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/statusor.h"
#include "base/host_thread.h"
#include "hvsdk/image/image_disk.h"
#include "hvsdk/image/image_file.h"
#include "image/block_map.h"

namespace hvsdk::internal {

class MappedDisk : public ImageDisk {
 public:
  // `parent` has what the map calls kParent; it may be shorter, and null if there is none. `on_complaint`, which may be
  // null, is told once what is wrong with the image's contents, on any thread. ResourceExhausted: no thread.
  static absl::StatusOr<std::shared_ptr<MappedDisk>> Create(std::shared_ptr<ImageFile> file,
                                                            std::unique_ptr<BlockMap> map,
                                                            std::shared_ptr<BlockDevice> parent, BlockInfo info,
                                                            std::function<void(const absl::Status&)> on_complaint);
  // Commits and closes the image, which may wait for the medium.
  ~MappedDisk() override;

  const BlockInfo& info() const override { return info_; }
  const std::string& path() const override { return file_->path(); }
  void Submit(absl::Span<BlockRequest* const> batch) override;
  BlockRange FindData(uint64_t offset_bytes) override;
  bool WaitUntilIdle(std::chrono::milliseconds timeout) const override;
  absl::Status Settle() override;

  ImageFile& file() const { return *file_; }
  const BlockDevice* parent() const { return parent_.get(); }  // null: there is none

 private:
  struct Transfer;
  struct Piece : BlockRequest {
    Transfer* transfer = nullptr;
    Extent::Place place = Extent::Place::kFile;
    uint64_t at = 0;  // within the request
  };
  // A request on its way.
  struct Transfer {
    MappedDisk* disk = nullptr;
    BlockRequest* request = nullptr;
    std::vector<Piece> pieces;
    std::vector<HostBuffer> buffers;  // of pieces that have not all of the request's
    std::atomic<uint32_t> left{0};
    std::atomic<BlockStatus> status{BlockStatus::kOk};
    uint8_t epoch = 0;
    bool marks = false;    // MarkWritten when it is done
    bool commits = false;  // Commit when it is done
    bool is_moved = false;
    Transfer* next = nullptr;
  };
  using Batch = absl::InlinedVector<BlockRequest*, 32>;

  MappedDisk(std::shared_ptr<ImageFile> file, std::unique_ptr<BlockMap> map, std::shared_ptr<BlockDevice> parent,
             BlockInfo info, std::function<void(const absl::Status&)> on_complaint);

  // Under the lock.
  Transfer* NewTransfer(BlockRequest& request);
  void Enqueue(Transfer& transfer);
  // Cuts the request into pieces; false: not with what is in memory. `status` is an error of the image.
  bool Resolve(Transfer& transfer, BlockStatus& status);
  void AddPiece(Transfer& transfer, const Extent& extent, uint64_t at);
  // For the next request; false: there are enough of them.
  bool Keep(Transfer& transfer);

  // Without it.
  void Prepare(Transfer& transfer, Batch& for_file, Batch& for_parent);
  void Send(const Batch& for_file, const Batch& for_parent);
  void OnMoved(Transfer& transfer);
  void Complete(Transfer& transfer, BlockStatus status);
  void Tell(BlockRequest& request, BlockStatus status);
  void TellComplaint();

  // The disk's own thread.
  void Serve();
  void Work(Transfer& transfer);
  BlockStatus ResolveBlocking(Transfer& transfer);
  BlockStatus Commit();

  const std::shared_ptr<ImageFile> file_;
  const std::unique_ptr<BlockMap> map_;
  const std::shared_ptr<BlockDevice> parent_;
  const BlockInfo info_;
  const std::function<void(const absl::Status&)> on_complaint_;
  HostThread thread_;

  std::mutex& mutex_;  // the map's
  // Guarded by it.
  std::condition_variable work_;     // there is some
  std::condition_variable drained_;  // an epoch has no more requests
  Transfer* first_ = nullptr;        // of those that wait for the thread
  Transfer* last_ = nullptr;
  Transfer* unused_ = nullptr;
  uint32_t unused_count_ = 0;
  bool stop_ = false;
  uint64_t settles_wanted_ = 0;  // calls of Settle
  uint64_t settles_done_ = 0;
  BlockStatus settle_status_ = BlockStatus::kOk;  // of the last
  std::condition_variable settled_;
  // Requests that move data, by the epoch in which they found their place. When room is to be used anew the epoch
  // changes, and those of the old one are waited for.
  std::array<uint64_t, 2> moving_{};
  uint8_t epoch_ = 0;
  std::atomic<uint64_t> under_way_{0};
};

}  // namespace hvsdk::internal

#endif  // HVSDK_SRC_IMAGE_MAPPED_DISK_H_
