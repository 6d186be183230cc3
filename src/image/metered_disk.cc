// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/image/metered_disk.h"

#include <chrono>

namespace hvsdk {
namespace {

uint64_t NowNs() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
}

bool IsFailure(BlockStatus status) {
  return status == BlockStatus::kIoError || status == BlockStatus::kNoSpace || status == BlockStatus::kWritesLost;
}

}  // namespace

void MeteredDisk::Submit(absl::Span<BlockRequest* const> batch) {
  const uint64_t now_ns = NowNs();
  for (BlockRequest* const request : batch) {
    request->metered_complete = std::exchange(request->on_complete, &OnComplete);
    request->meter = this;
    request->metered_ns = now_ns;
  }
  disk_->Submit(batch);
}

void MeteredDisk::OnComplete(BlockRequest& request, BlockStatus status) {
  auto& self = *static_cast<MeteredDisk*>(request.meter);
  DiskMeter::Meter& meter = self.meter_->meters_[static_cast<size_t>(request.op)];
  meter.requests.fetch_add(1, std::memory_order_relaxed);
  meter.latency_ns.fetch_add(NowNs() - request.metered_ns, std::memory_order_relaxed);
  if (status == BlockStatus::kOk) meter.bytes.fetch_add(request.size_bytes, std::memory_order_relaxed);
  if (IsFailure(status)) {
    meter.errors.fetch_add(1, std::memory_order_relaxed);
    if (self.on_failure_ && !self.has_failed_.exchange(true, std::memory_order_relaxed)) self.on_failure_(status);
  }
  // From here on this disk may be gone.
  request.on_complete = request.metered_complete;
  request.on_complete(request, status);
}

DiskMeter::Counts DiskMeter::counts(BlockOp op) const {
  const Meter& meter = meters_[static_cast<size_t>(op)];
  return {.requests = meter.requests.load(std::memory_order_relaxed),
          .bytes = meter.bytes.load(std::memory_order_relaxed),
          .errors = meter.errors.load(std::memory_order_relaxed),
          .latency_ns = meter.latency_ns.load(std::memory_order_relaxed)};
}

}  // namespace hvsdk
