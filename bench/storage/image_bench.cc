// SPDX-License-Identifier: Apache-2.0
// What a dynamic VHDX or VHD costs beside a raw file of the same file system: 4 KiB at random and 1 MiB in sequence, 32 MiB in
// flight at most, on disks that have all their blocks and on new ones, which get them meanwhile. A flush ends each run.
//
//   HVSDK_BENCH_FILES=DIR has the files there; without it they are in /dev/shm.

#include <benchmark/benchmark.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "base/check.h"
#include "hvsdk/image/disk_image.h"

namespace hvsdk {
namespace {

constexpr uint64_t kDiskBytes = 512 << 20;
constexpr size_t kDepth = 32;

// Requests in flight together.
class Load {
 public:
  explicit Load(uint64_t request_bytes) : bytes_(request_bytes, 0x5A) {
    for (Request& request : requests_) {
      request.buffer = {bytes_.data(), bytes_.size()};
      request.buffers = absl::MakeConstSpan(&request.buffer, 1);
      request.size_bytes = request_bytes;
      request.load = this;
      request.on_complete = [](BlockRequest& done, BlockStatus status) {
        HVSDK_CHECK(status == BlockStatus::kOk);
        Load& load = *static_cast<Request&>(done).load;
        std::lock_guard lock(load.mutex_);
        if (--load.left_ == 0) load.done_.notify_one();
      };
    }
  }
  void Run(BlockDevice& disk, BlockOp op, const std::vector<uint64_t>& offsets) {
    for (size_t at = 0; at < offsets.size();) {
      const size_t count = std::min(kDepth, offsets.size() - at);
      std::vector<BlockRequest*> batch;
      for (size_t i = 0; i < count; ++i) {
        requests_[i].op = op;
        requests_[i].offset_bytes = offsets[at + i];
        batch.push_back(&requests_[i]);
      }
      Submit(disk, batch);
      at += count;
    }
    Request flush;
    flush.op = BlockOp::kFlush;
    flush.load = this;
    flush.on_complete = requests_[0].on_complete;
    Submit(disk, {&flush});
  }

 private:
  struct Request : BlockRequest {
    HostBuffer buffer{};
    Load* load = nullptr;
  };
  void Submit(BlockDevice& disk, const std::vector<BlockRequest*>& batch) {
    left_ = batch.size();
    disk.Submit(batch);
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return left_ == 0; });
  }

  std::vector<uint8_t> bytes_;
  Request requests_[kDepth];
  std::mutex mutex_;
  std::condition_variable done_;
  size_t left_ = 0;  // guarded by mutex_ while requests are in flight
};

class NewImage {
 public:
  explicit NewImage(ImageFormat format) {
    const char* const folder = std::getenv("HVSDK_BENCH_FILES");
    path_ = std::string(folder == nullptr ? "/dev/shm" : folder) + "/hvsdk-image-bench." + std::to_string(getpid());
    const auto engine = FileEngine::Create(FileEngineKind::kAuto);
    HVSDK_CHECK(engine.ok());
    HVSDK_CHECK(CreateImage(path_, {.format = format, .disk_bytes = kDiskBytes}, *engine).ok());
    disk_ = *OpenImage(path_, {.format = format}, *engine);
  }
  ~NewImage() {
    disk_.reset();
    unlink(path_.c_str());
  }
  BlockDevice& disk() { return *disk_; }

 private:
  std::string path_;
  std::shared_ptr<ImageDisk> disk_;
};

std::vector<uint64_t> Offsets(uint64_t request_bytes, bool at_random) {
  std::vector<uint64_t> offsets(std::min<uint64_t>(kDiskBytes / request_bytes, 32768));
  const uint64_t step = kDiskBytes / offsets.size();
  for (size_t i = 0; i < offsets.size(); ++i) offsets[i] = i * step;
  std::mt19937 random(1);
  if (at_random) std::shuffle(offsets.begin(), offsets.end(), random);
  return offsets;
}

void Image(benchmark::State& state, ImageFormat format, BlockOp op, uint64_t request_bytes, bool allocates) {
  const std::vector<uint64_t> offsets = Offsets(request_bytes, request_bytes < 1 << 20);
  Load load(request_bytes);
  std::unique_ptr<NewImage> image;
  const auto make = [&] {
    image.reset();
    image = std::make_unique<NewImage>(format);
  };
  if (!allocates) {
    make();
    Load(1 << 20).Run(image->disk(), BlockOp::kWrite, Offsets(1 << 20, false));
  }
  for (auto _ : state) {
    if (allocates) {
      state.PauseTiming();
      make();
      state.ResumeTiming();
    }
    load.Run(image->disk(), op, offsets);
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * offsets.size() * request_bytes));
}

#define HVSDK_IMAGE_BENCHMARKS(name, op, bytes, allocates)                        \
  BENCHMARK_CAPTURE(Image, name##_raw, ImageFormat::kRaw, op, bytes, allocates)   \
      ->MeasureProcessCPUTime()                                                   \
      ->UseRealTime();                                                            \
  BENCHMARK_CAPTURE(Image, name##_vhdx, ImageFormat::kVhdx, op, bytes, allocates) \
      ->MeasureProcessCPUTime()                                                   \
      ->UseRealTime();                                                            \
  BENCHMARK_CAPTURE(Image, name##_vhd, ImageFormat::kVhd, op, bytes, allocates)->MeasureProcessCPUTime()->UseRealTime()

HVSDK_IMAGE_BENCHMARKS(random_read, BlockOp::kRead, 4096, false);
HVSDK_IMAGE_BENCHMARKS(random_write, BlockOp::kWrite, 4096, false);
HVSDK_IMAGE_BENCHMARKS(sequential_read, BlockOp::kRead, 1 << 20, false);
HVSDK_IMAGE_BENCHMARKS(sequential_write, BlockOp::kWrite, 1 << 20, false);
HVSDK_IMAGE_BENCHMARKS(random_write_new, BlockOp::kWrite, 4096, true);
HVSDK_IMAGE_BENCHMARKS(sequential_write_new, BlockOp::kWrite, 1 << 20, true);

}  // namespace
}  // namespace hvsdk
