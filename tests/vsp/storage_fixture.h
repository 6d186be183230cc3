// SPDX-License-Identifier: Apache-2.0
// A storage controller and its client in one process: both ends of the wire over real rings, without a CPU.

#ifndef HVSDK_TESTS_VSP_STORAGE_FIXTURE_H_
#define HVSDK_TESTS_VSP_STORAGE_FIXTURE_H_

#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "hvsdk/image/memory_disk.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/vsc/storage_client.h"
#include "hvsdk/vsp/storage.h"
#include "tests/vsp/provider_fixture.h"

namespace hvsdk::vsp {

// A disk that keeps what it is given until it is told to go on. Thread-safe.
class HoldingDisk : public BlockDevice {
 public:
  explicit HoldingDisk(std::vector<uint8_t> contents) : disk_(std::move(contents)) {}
  const BlockInfo& info() const override { return disk_.info(); }
  void Submit(absl::Span<BlockRequest* const> batch) override {
    std::lock_guard lock(mutex_);
    held_.insert(held_.end(), batch.begin(), batch.end());
  }
  size_t held() const {
    std::lock_guard lock(mutex_);
    return held_.size();
  }
  void ReleaseOne() {
    BlockRequest* request;
    {
      std::lock_guard lock(mutex_);
      request = held_.front();
      held_.pop_front();
    }
    disk_.Submit({&request, 1});
  }
  void ReleaseAll() {
    while (held() != 0) ReleaseOne();
  }

 private:
  MemoryDisk disk_;
  mutable std::mutex mutex_;
  std::deque<BlockRequest*> held_;
};

// Guest pages in a row, or scattered, as a buffer for a command.
struct GuestBuffer {
  std::vector<uint64_t> pfns;
  uint32_t offset = 0;
  uint32_t size_bytes = 0;
  vmbus::GpaBuffer gpa_buffer() const { return {size_bytes, offset, pfns.data()}; }
};

class StorageFixture : public ProviderFixture<vsc::StorageClient> {
 protected:
  using ProviderFixture::ProviderFixture;

  static constexpr size_t kMemoryBytes = 64 << 20;

  void Make(StorageOptions options = {}, hvdef::vmbus::Version bus = hvdef::vmbus::kNewestVersion) {
    options.instance_id = kInstance;
    MakeServer(kMemoryBytes);
    auto storage = StorageController::Create(*server_, executor_, options);
    ASSERT_TRUE(storage.ok()) << storage.status();
    storage_ = *std::move(storage);
    MakeChild(bus);
  }

  void TearDown() override {
    storage_.reset();
    ProviderFixture::TearDown();
  }

  std::unique_ptr<Opened> Open(uint16_t subchannel = 0, uint32_t ring_pages = 33) {
    return ProviderFixture::Open(subchannel, ring_pages);
  }
  std::unique_ptr<Opened> OpenReady() {
    auto opened = Open();
    opened->client->Start();
    Pump();
    EXPECT_EQ(opened->client->state(), vsc::StorageClient::State::kReady);
    return opened;
  }

  // Sends and waits.
  vsc::StorageRequest& Run(vsc::StorageClient& client, vsc::StorageRequest& request) {
    EXPECT_TRUE(client.Send(request));
    client.Publish();
    Pump();
    EXPECT_TRUE(request.is_done);
    return request;
  }

  GuestBuffer Allocate(uint32_t size_bytes, uint32_t offset = 0, bool scattered = false) {
    GuestBuffer buffer;
    buffer.offset = offset;
    buffer.size_bytes = size_bytes;
    const uint32_t pages = (offset + size_bytes + 4095) / 4096;
    for (uint32_t i = 0; i < pages; ++i) {
      buffer.pfns.push_back(child_->AllocatePages(1) / kPageSize);
      if (scattered) child_->AllocatePages(1);
    }
    if (scattered) std::reverse(buffer.pfns.begin(), buffer.pfns.end());
    return buffer;
  }
  std::vector<uint8_t> Get(const GuestBuffer& buffer) {
    std::vector<uint8_t> bytes(buffer.size_bytes);
    Visit(buffer, [&](size_t at, uint8_t* page, size_t size) { std::memcpy(&bytes[at], page, size); });
    return bytes;
  }
  void Put(const GuestBuffer& buffer, const std::vector<uint8_t>& bytes) {
    Visit(buffer, [&](size_t at, uint8_t* page, size_t size) { std::memcpy(page, &bytes[at], size); });
  }

  std::unique_ptr<StorageController> storage_;

 private:
  template <typename F>
  void Visit(const GuestBuffer& buffer, F visit) {
    size_t at = 0;
    uint32_t offset = buffer.offset;
    for (uint64_t pfn : buffer.pfns) {
      const size_t size = std::min<size_t>(4096 - offset, buffer.size_bytes - at);
      visit(at, child_->host(pfn * kPageSize) + offset, size);
      at += size;
      offset = 0;
    }
  }
};

inline std::vector<uint8_t> Pattern(size_t size_bytes, uint32_t seed = 1) {
  std::vector<uint8_t> bytes(size_bytes);
  uint32_t state = seed * 2654435761u + 1;
  for (auto& byte : bytes) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<uint8_t>(state >> 24);
  }
  return bytes;
}

}  // namespace hvsdk::vsp

#endif  // HVSDK_TESTS_VSP_STORAGE_FIXTURE_H_
