// SPDX-License-Identifier: Apache-2.0
// The provider on its own thread, disks that complete on others, and a guest on a third.

#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <random>
#include <string>
#include <thread>

#include "gtest/gtest.h"
#include "hvsdk/image/raw_disk.h"
#include "tests/random_seed.h"
#include "tests/vsp/storage_fixture.h"

namespace hvsdk::vsp {
namespace {

class StorageThreadsTest : public StorageFixture, public testing::WithParamInterface<FileEngineKind> {
 protected:
  static constexpr size_t kBytes = 1 << 20;

  StorageThreadsTest() : StorageFixture(/*knows_idle=*/true) {}

  void SetUp() override {
    auto engine = FileEngine::Create(GetParam());
    if (absl::IsUnavailable(engine.status())) GTEST_SKIP() << engine.status().message();
    engine_ = *engine;
  }
  void TearDown() override {
    StopExecutor();
    StorageFixture::TearDown();
    for (const std::string& path : paths_) unlink(path.c_str());
  }

  void StartExecutor() {
    stop_ = false;
    thread_ = std::thread([this] {
      while (!stop_.load(std::memory_order_acquire)) {
        if (!executor_.RunOne()) std::this_thread::yield();
      }
    });
  }
  void StopExecutor() {
    stop_.store(true, std::memory_order_release);
    if (thread_.joinable()) thread_.join();
  }
  template <typename Done>
  void PollUntil(Done done) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!done()) {
      if (!child_->Poll()) std::this_thread::yield();
      ASSERT_LT(std::chrono::steady_clock::now(), deadline);
    }
  }

  std::shared_ptr<RawDisk> MakeDisk(const std::vector<uint8_t>& contents) {
    char path[] = "/tmp/hvsdk-storage-XXXXXX";
    close(mkstemp(path));
    paths_.push_back(path);
    std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(contents.data()), contents.size());
    return *RawDisk::Open(path, {}, engine_);
  }
  std::vector<uint8_t> Contents(size_t disk) {
    std::ifstream file(paths_[disk], std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  std::shared_ptr<FileEngine> engine_;
  std::vector<std::string> paths_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

INSTANTIATE_TEST_SUITE_P(Engines, StorageThreadsTest,
                         testing::Values(FileEngineKind::kIoUring, FileEngineKind::kThreads), [](const auto& info) {
                           return info.param == FileEngineKind::kIoUring ? "IoUring" : "Threads";
                         });

TEST_P(StorageThreadsTest, FilesHoldWhatTheGuestWroteThroughManyChannels) {
  const uint32_t seed = TestSeed();
  std::mt19937_64 random(seed);
  StorageOptions options;
  options.max_subchannels = 2;
  Make(options);
  std::vector<std::vector<uint8_t>> models;
  for (uint8_t lun = 0; lun < 2; ++lun) {
    models.push_back(Pattern(kBytes, lun));
    ASSERT_TRUE(storage_->Attach(lun, MakeDisk(models.back())).ok());
  }
  auto primary = OpenReady();
  ASSERT_TRUE(primary->client->RequestSubchannels(2));
  Pump();
  std::vector<std::unique_ptr<Opened>> channels;
  for (uint16_t i = 1; i <= 2; ++i) {
    channels.push_back(Open(i));
    channels.back()->client->StartSubchannel(*primary->client);
  }
  channels.push_back(std::move(primary));
  StartExecutor();

  struct Traffic {
    vsc::StorageRequest request;
    GuestBuffer buffer;
    std::vector<uint8_t> expected;
  };
  std::vector<Traffic> traffic(32);
  for (auto& item : traffic) item.buffer = Allocate(64 << 10, 0, true);
  for (int round = 0; round < 150; ++round) {
    // Each request has a part of a disk to itself, as nobody orders those in flight.
    for (size_t i = 0; i < traffic.size(); ++i) {
      Traffic& item = traffic[i];
      const size_t lun = i % 2;
      const uint64_t share = kBytes / 512 / (traffic.size() / 2);
      const uint32_t blocks = 1 + random() % (share - 1);
      const uint64_t lba = i / 2 * share + random() % (share - blocks);
      item.buffer.size_bytes = blocks * 512;
      item.request.lun = lun;
      item.request.data = item.buffer.gpa_buffer();
      uint8_t* model = models[lun].data() + lba * 512;
      switch (random() % 8) {
        default:
          item.request.SetRead(lba, blocks);
          item.expected.assign(model, model + blocks * 512);
          break;
        case 0:
        case 1:
        case 2: {
          item.request.SetWrite(lba, blocks, random() % 8 == 0);
          const auto data = Pattern(blocks * 512, random());
          Put(item.buffer, data);
          std::copy(data.begin(), data.end(), model);
          item.expected.clear();
          break;
        }
        case 3:
          item.request.SetSynchronizeCache();
          item.request.data = {};
          item.expected.clear();
          break;
      }
      ASSERT_TRUE(channels[random() % channels.size()]->client->Send(item.request));
    }
    for (auto& channel : channels) channel->client->Publish();
    PollUntil([&] {
      return std::all_of(traffic.begin(), traffic.end(), [](const Traffic& t) { return t.request.is_done; });
    });
    for (auto& item : traffic) {
      ASSERT_TRUE(item.request.ok());
      if (!item.expected.empty()) {
        ASSERT_EQ(Get(item.buffer), item.expected);
      }
    }
  }
  for (size_t lun = 0; lun < 2; ++lun) EXPECT_EQ(Contents(lun), models[lun]);
}

TEST_P(StorageThreadsTest, ChannelsCloseAndReopenUnderLoad) {
  Make();
  ASSERT_TRUE(storage_->Attach(0, MakeDisk(Pattern(kBytes))).ok());
  auto opened = Open();
  StartExecutor();
  const GuestBuffer buffer = Allocate(64 << 10);
  std::vector<vsc::StorageRequest> requests(100);
  for (int round = 0; round < 40; ++round) {
    opened->client->Start();
    PollUntil([&] { return opened->client->state() == vsc::StorageClient::State::kReady; });
    for (auto& request : requests) {
      request.SetRead(0, 128);
      request.data = buffer.gpa_buffer();
      if (!opened->client->Send(request)) break;
    }
    opened->client->Publish();
    if (round % 2 == 0) {
      PollUntil([&] { return requests[0].is_done; });
    }
    child_->client().Close(opened->channel);
    PollUntil([&] { return opened->channel.state() == vsc::Channel::State::kNone; });
    opened->rings = vsc::ClientRings::Create(child_->host(opened->ring.pages.first_pfn * kPageSize), opened->ring);
    opened->client = std::make_unique<vsc::StorageClient>(child_->client(), opened->channel, opened->rings);
    ASSERT_TRUE(child_->client().Open(opened->channel, *child_->FindOffer(kInstance), opened->ring));
    PollUntil([&] { return opened->channel.state() == vsc::Channel::State::kOpen; });
  }
}

TEST_P(StorageThreadsTest, DisksComeAndGoUnderLoad) {
  Make();
  auto disk = MakeDisk(Pattern(kBytes));
  ASSERT_TRUE(storage_->Attach(0, disk).ok());
  auto opened = OpenReady();
  StartExecutor();
  std::thread plugger([&] {
    for (int i = 0; i < 200; ++i) {
      (void)storage_->Detach(0);
      std::this_thread::yield();
      (void)storage_->Attach(0, disk);
      std::this_thread::yield();
    }
  });
  const GuestBuffer buffer = Allocate(4096);
  std::vector<vsc::StorageRequest> requests(16);
  int good = 0;
  const auto read = [&](int round) {
    for (auto& request : requests) {
      request.SetRead(round % 100, 8);
      request.data = buffer.gpa_buffer();
      ASSERT_TRUE(opened->client->Send(request));
    }
    opened->client->Publish();
    PollUntil([&] { return opened->client->in_flight() == 0; });
    for (auto& request : requests) {
      good += request.ok();
      ASSERT_TRUE(request.ok() ||
                  (request.srb_status & 0x3F) == static_cast<uint8_t>(hvdef::storvsc::SrbStatus::kInvalidLun));
    }
  };
  for (int round = 0; round < 300; ++round) ASSERT_NO_FATAL_FAILURE(read(round));
  plugger.join();
  // The provider may be behind, but it comes to the disk that is there in the end, and says that something changed.
  PollUntil([&] { return opened->client->bus_changes() > 0; });
  for (good = 0; good == 0;) ASSERT_NO_FATAL_FAILURE(read(0));
}

}  // namespace
}  // namespace hvsdk::vsp
