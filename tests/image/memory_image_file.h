// SPDX-License-Identifier: Apache-2.0
// An image file in memory, on a medium that forgets: what was not flushed is lost, sector by sector, when power is
// lost. It can answer from a thread of its own, in any order, or within Submit.
//
// Thread-safe.

#ifndef HVSDK_TESTS_IMAGE_MEMORY_IMAGE_FILE_H_
#define HVSDK_TESTS_IMAGE_MEMORY_IMAGE_FILE_H_

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "hvsdk/image/image_file.h"
#include "resource/host_buffers.h"

namespace hvsdk {

// Sparse bytes: what was never written is zero.
class SparseBytes {
 public:
  static constexpr uint64_t kSector = 512;
  using Sector = std::array<uint8_t, kSector>;

  uint64_t size = 0;
  std::map<uint64_t, Sector> sectors;

  void Read(uint64_t offset, uint8_t* to, size_t count) const {
    while (count != 0) {
      const uint64_t number = offset / kSector, at = offset % kSector;
      const size_t part = std::min<size_t>(count, kSector - at);
      const auto found = sectors.find(number);
      if (found == sectors.end()) {
        std::memset(to, 0, part);
      } else {
        std::memcpy(to, found->second.data() + at, part);
      }
      offset += part;
      to += part;
      count -= part;
    }
  }
};

class MemoryImageFile : public ImageFile {
 public:
  explicit MemoryImageFile(SparseBytes contents = {}, bool threaded = false, uint32_t seed = 1)
      : contents_(contents), lasting_(std::move(contents)), random_(seed) {
    if (threaded) thread_ = std::thread([this] { Serve(); });
  }
  ~MemoryImageFile() override {
    if (!thread_.joinable()) return;
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    condition_.notify_one();
    thread_.join();
  }

  const std::string& path() const override { return path_; }
  bool read_only() const override { return read_only_; }
  uint64_t size_bytes() const override {
    std::lock_guard lock(mutex_);
    return contents_.size;
  }
  BlockStatus Resize(uint64_t size) override {
    std::lock_guard lock(mutex_);
    CountDown();
    if (limit_ != 0 && size > limit_) return BlockStatus::kNoSpace;
    for (auto it = contents_.sectors.lower_bound((size + 511) / 512); it != contents_.sectors.end();) {
      touched_.insert(it->first);
      it = contents_.sectors.erase(it);
    }
    contents_.size = size;
    return BlockStatus::kOk;
  }
  void Submit(absl::Span<BlockRequest* const> batch) override {
    if (!thread_.joinable()) {
      for (BlockRequest* request : batch) request->on_complete(*request, Perform(*request));
      return;
    }
    {
      std::lock_guard lock(mutex_);
      queue_.insert(queue_.end(), batch.begin(), batch.end());
    }
    condition_.notify_one();
  }

  // What is lost or kept as one: the medium's sector.
  void set_unit(uint64_t bytes) { unit_ = bytes; }
  void set_read_only(bool read_only) { read_only_ = read_only; }
  // Beyond which it does not grow; 0: anywhere.
  void set_limit(uint64_t bytes) { limit_ = bytes; }
  // How many sectors that were never written, or discarded, can be from now on.
  void set_room(uint64_t sectors) { room_ = sectors; }

  // What is there without a loss of power.
  SparseBytes Contents() const {
    std::lock_guard lock(mutex_);
    return contents_;
  }
  uint64_t bytes_read() const {
    std::lock_guard lock(mutex_);
    return bytes_read_;
  }

  // Power is lost before the n-th write, flush or change of size from now on; whoever uses the file does not notice.
  void LosePowerAt(uint64_t n, uint32_t seed) {
    std::lock_guard lock(mutex_);
    until_cut_ = n;
    cut_seed_ = seed;
    cut_.reset();
  }
  // The other's operations count too, and what is lost is lost of both. Nothing is done with both at a time.
  void SharePowerWith(MemoryImageFile& other) {
    peer_ = &other;
    other.supply_ = this;
  }
  bool is_cut() const {
    std::lock_guard lock(mutex_);
    return cut_ != nullptr;
  }
  SparseBytes Cut() const {
    std::lock_guard lock(mutex_);
    return *cut_;
  }

 private:
  // What is there after a loss of power: of each sector that was written since the last flush either is left, of sizes
  // too.
  SparseBytes Left(std::mt19937_64& random) const {
    SparseBytes left = lasting_;
    // A file system may have lost how long the file was; what lies behind the end is lost with it.
    if (random() % 2 == 0) left.size = contents_.size;
    const int odds = static_cast<int>(random() % 5);  // none, few, half, most, all
    uint64_t unit = ~uint64_t{0};
    bool is_lost = false;
    for (const uint64_t number : touched_) {
      if (std::exchange(unit, number * 512 / unit_) != number * 512 / unit_) {
        is_lost = static_cast<int>(random() % 4) >= odds;
      }
      // What was cut off goes with the file's length.
      if (is_lost || (number * 512 >= contents_.size && left.size > contents_.size)) continue;
      const auto found = contents_.sectors.find(number);
      if (found == contents_.sectors.end()) {
        left.sectors.erase(number);
      } else {
        left.sectors[number] = found->second;
      }
    }
    left.sectors.erase(left.sectors.lower_bound((left.size + 511) / 512), left.sectors.end());
    return left;
  }
  // Before each change.
  void CountDown() {
    if (supply_ != nullptr) {
      std::lock_guard lock(supply_->mutex_);
      if (supply_->IsCutNow()) LosePower(~supply_->cut_seed_);
    } else if (IsCutNow() && peer_ != nullptr) {
      std::lock_guard lock(peer_->mutex_);
      peer_->LosePower(~cut_seed_);
    }
  }
  bool IsCutNow() {
    if (until_cut_ == 0 || --until_cut_ != 0) return false;
    LosePower(cut_seed_);
    return true;
  }
  void LosePower(uint32_t seed) {
    std::mt19937_64 random(seed);
    cut_ = std::make_unique<SparseBytes>(Left(random));
  }
  BlockStatus Perform(const BlockRequest& request) {
    std::lock_guard lock(mutex_);
    if (request.op != BlockOp::kRead) CountDown();
    if (request.op == BlockOp::kFlush) {
      lasting_.size = contents_.size;
      for (const uint64_t number : touched_) CopySector(number);
      touched_.clear();
      return BlockStatus::kOk;
    }
    if (request.offset_bytes > contents_.size || request.size_bytes > contents_.size - request.offset_bytes) {
      return BlockStatus::kOutOfRange;
    }
    if (request.op != BlockOp::kRead && read_only_) return BlockStatus::kReadOnly;
    if (request.op == BlockOp::kRead) {
      std::vector<uint8_t> bytes(request.size_bytes);
      contents_.Read(request.offset_bytes, bytes.data(), bytes.size());
      bytes_read_ += bytes.size();
      CopyToBuffers(request.buffers, 0, bytes.data(), bytes.size());
      return BlockStatus::kOk;
    }
    const bool is_write = request.op == BlockOp::kWrite;
    std::vector<uint8_t> bytes;
    if (is_write) {
      bytes.resize(request.size_bytes);
      CopyFromBuffers(request.buffers, 0, bytes.data(), bytes.size());
    }
    const uint64_t end = request.offset_bytes + request.size_bytes;
    if (!is_write) {
      // Whole sectors by their removal, however many.
      const uint64_t first = (request.offset_bytes + 511) / 512, behind = end / 512;
      for (auto it = contents_.sectors.lower_bound(first); it != contents_.sectors.end() && it->first < behind;) {
        touched_.insert(it->first);
        it = contents_.sectors.erase(it);
      }
    }
    for (uint64_t offset = request.offset_bytes; is_write && offset < end;) {
      const uint64_t number = offset / 512, at = offset % 512, part = std::min(end - offset, 512 - at);
      if (!contents_.sectors.contains(number) && room_-- == 0) {
        room_ = 0;
        return BlockStatus::kNoSpace;
      }
      std::memcpy(contents_.sectors[number].data() + at, &bytes[offset - request.offset_bytes], part);
      touched_.insert(number);
      if (request.fua) CopySector(number);
      offset += part;
    }
    // What a flush of these blocks needs beside them: the file's length.
    if (request.fua) lasting_.size = std::max(lasting_.size, contents_.size);
    return BlockStatus::kOk;
  }
  void CopySector(uint64_t number) {
    const auto found = contents_.sectors.find(number);
    if (found == contents_.sectors.end()) {
      lasting_.sectors.erase(number);
    } else {
      lasting_.sectors[number] = found->second;
    }
  }
  void Serve() {
    std::unique_lock lock(mutex_);
    for (;;) {
      condition_.wait(lock, [this] { return stop_ || !queue_.empty(); });
      if (queue_.empty()) return;
      const size_t which = random_() % queue_.size();
      BlockRequest* const request = queue_[which];
      queue_.erase(queue_.begin() + static_cast<std::ptrdiff_t>(which));
      lock.unlock();
      request->on_complete(*request, Perform(*request));
      lock.lock();
    }
  }

  const std::string path_ = "memory";
  bool read_only_ = false;
  uint64_t limit_ = 0;
  uint64_t room_ = ~uint64_t{0};
  uint64_t unit_ = 512;
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  SparseBytes contents_, lasting_;
  std::set<uint64_t> touched_;  // sectors written since the last flush
  uint64_t bytes_read_ = 0;
  uint64_t until_cut_ = 0;
  uint32_t cut_seed_ = 0;
  std::unique_ptr<SparseBytes> cut_;
  MemoryImageFile* peer_ = nullptr;    // whose power this one's is
  MemoryImageFile* supply_ = nullptr;  // whose power is this one's
  std::condition_variable condition_;
  std::vector<BlockRequest*> queue_;
  bool stop_ = false;
  std::mt19937_64 random_;
  std::thread thread_;
};

}  // namespace hvsdk

#endif  // HVSDK_TESTS_IMAGE_MEMORY_IMAGE_FILE_H_
