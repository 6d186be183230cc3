// SPDX-License-Identifier: Apache-2.0
// MeteredDisk: a disk before another, which counts what that one does and how long it takes. Requests are passed on as they
// are; a disk has one meter at most before it.
//
// Cost of a request: two looks at the clock, and four relaxed additions to a cache line of the disk's.
//
// Thread-safe.
//
//   auto metered = std::make_shared<MeteredDisk>(disk);
//   const MeteredDisk::Counts reads = metered->counts(BlockOp::kRead);

#ifndef HVSDK_IMAGE_METERED_DISK_H_
#define HVSDK_IMAGE_METERED_DISK_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "absl/types/span.h"
#include "hvsdk/resource/block_device.h"

namespace hvsdk {

// What one disk has done, or several one after the other: the media of a drive.
class DiskMeter {
 public:
  struct Counts {
    uint64_t requests = 0;  // that have come back
    uint64_t bytes = 0;     // of those that succeeded
    uint64_t errors = 0;    // the medium's or the host's, not a request that no disk would take
    uint64_t latency_ns = 0;
  };
  static constexpr size_t kOps = static_cast<size_t>(BlockOp::kWriteZeroes) + 1;

  Counts counts(BlockOp op) const;

 private:
  friend class MeteredDisk;
  struct alignas(64) Meter {
    std::atomic<uint64_t> requests{0}, bytes{0}, errors{0}, latency_ns{0};
  };
  std::array<Meter, kOps> meters_;
};

class MeteredDisk final : public BlockDevice {
 public:
  using Counts = DiskMeter::Counts;
  static constexpr size_t kOps = DiskMeter::kOps;

  // `on_failure` is told of the first error, once, on the thread on which it came. May be null. `meter` counts on from
  // what it has.
  explicit MeteredDisk(std::shared_ptr<BlockDevice> disk, std::function<void(BlockStatus)> on_failure = nullptr,
                       std::shared_ptr<DiskMeter> meter = std::make_shared<DiskMeter>())
      : disk_(std::move(disk)), info_(disk_->info()), on_failure_(std::move(on_failure)), meter_(std::move(meter)) {}

  const BlockInfo& info() const override { return info_; }
  void Submit(absl::Span<BlockRequest* const> batch) override;

  // Another disk goes on in place of this one, with the same contents and size. Nothing is under way or submitted meanwhile.
  // What the disk says of itself stays what the first has said.
  void Replace(std::shared_ptr<BlockDevice> disk) { disk_ = std::move(disk); }

  Counts counts(BlockOp op) const { return meter_->counts(op); }

 private:
  static void OnComplete(BlockRequest& request, BlockStatus status);

  std::shared_ptr<BlockDevice> disk_;
  const BlockInfo info_;
  const std::function<void(BlockStatus)> on_failure_;
  std::atomic<bool> has_failed_{false};
  const std::shared_ptr<DiskMeter> meter_;
};

}  // namespace hvsdk

#endif  // HVSDK_IMAGE_METERED_DISK_H_
