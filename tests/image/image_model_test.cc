// SPDX-License-Identifier: Apache-2.0
// Images of each kind against a model, under random reads, writes, zeroes, discards and flushes, in batches, on a file
// that answers in any order, and that loses power at any of its operations: what was flushed is there, whatever was
// written since is there or is not, nothing else has changed, and the image can be opened.

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/image/memory_disk.h"
#include "image/image_format.h"
#include "tests/image/memory_image_file.h"
#include "tests/image/waited_request.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"

namespace hvsdk {
namespace {

struct Kind {
  const char* name;
  ImageFormat format;
  bool is_fixed;
  bool has_parent;
  uint32_t sector_bytes;
  uint32_t block_bytes;
  uint32_t medium_bytes;  // what the medium loses or keeps as one
};

constexpr Kind kKinds[] = {
    {"VhdxDynamic", ImageFormat::kVhdx, false, false, 512, 1 << 20, 512},
    {"VhdxDynamic4096", ImageFormat::kVhdx, false, false, 4096, 1 << 20, 4096},
    {"VhdxFixed", ImageFormat::kVhdx, true, false, 512, 1 << 20, 512},
    {"VhdxDifferencing", ImageFormat::kVhdx, false, true, 512, 1 << 20, 512},
    {"VhdxDifferencing4096", ImageFormat::kVhdx, false, true, 4096, 2 << 20, 4096},
    {"VhdDynamic", ImageFormat::kVhd, false, false, 512, 64 << 10, 512},
    {"VhdFixed", ImageFormat::kVhd, true, false, 512, 64 << 10, 512},
    {"VhdDifferencing", ImageFormat::kVhd, false, true, 512, 64 << 10, 512},
    {"VhdDifferencingOfTinyBlocks", ImageFormat::kVhd, false, true, 512, 4 << 10, 512},
    {"VhdxDynamicOn4096", ImageFormat::kVhdx, false, false, 512, 1 << 20, 4096},
    {"VhdxDifferencingOn4096", ImageFormat::kVhdx, false, true, 512, 1 << 20, 4096},
    {"VhdDynamicOn4096", ImageFormat::kVhd, false, false, 512, 64 << 10, 4096},
    {"VhdDifferencingOn4096", ImageFormat::kVhd, false, true, 512, 64 << 10, 4096},
};

// Each block has versions in the order they were written; version 0 is zeroes.
class Model {
 public:
  explicit Model(std::vector<uint32_t> versions) {
    for (const uint32_t version : versions) histories_.push_back({{version}, 0});
  }
  void Wrote(uint64_t block, uint32_t version) { histories_[block].versions.push_back(version); }
  void LastsFrom(uint64_t block, size_t position) {
    histories_[block].lasting = std::max(histories_[block].lasting, position);
  }
  size_t Newest(uint64_t block) const { return histories_[block].versions.size() - 1; }
  uint32_t NewestVersion(uint64_t block) const { return histories_[block].versions.back(); }
  bool MayHave(uint64_t block, uint32_t version) const {
    const History& history = histories_[block];
    return std::find(history.versions.begin() + static_cast<std::ptrdiff_t>(history.lasting), history.versions.end(),
                     version) != history.versions.end();
  }
  void StartsWith(uint64_t block, uint32_t version) { histories_[block] = {{version}, 0}; }

 private:
  struct History {
    std::vector<uint32_t> versions;
    size_t lasting;
  };
  std::vector<History> histories_;
};

class ImageModelTest : public testing::TestWithParam<std::tuple<Kind, bool>> {
 protected:
  const Kind& kind() const { return std::get<0>(GetParam()); }
  bool threaded() const { return std::get<1>(GetParam()); }
  size_t block() const { return kind().sector_bytes; }

  void FillBlock(uint8_t* bytes, uint64_t number, uint32_t version) const {
    for (size_t at = 0; at < block(); at += 8) {
      const uint32_t words[2] = {version, version == 0 ? 0 : static_cast<uint32_t>(number)};
      std::memcpy(bytes + at, words, sizeof(words));
    }
  }
  // Or ~0: not a whole block of any version.
  uint32_t VersionOf(const uint8_t* bytes, uint64_t number) const {
    uint32_t version;
    std::memcpy(&version, bytes, sizeof(version));
    std::vector<uint8_t> expected(block());
    FillBlock(expected.data(), number, version);
    return std::memcmp(bytes, expected.data(), block()) == 0 ? version : ~0u;
  }

  std::unique_ptr<MemoryImageFile> NewImage(const internal::ParentOfNew* parent) {
    auto file = std::make_unique<MemoryImageFile>();
    ImageCreateOptions options;
    options.format = kind().format;
    options.disk_bytes = disk_blocks_ * block();
    options.is_fixed = kind().is_fixed;
    options.block_bytes = kind().block_bytes;
    options.logical_sector_bytes = kind().sector_bytes;
    options.physical_sector_bytes = kind().format == ImageFormat::kVhd ? 512 : 4096;
    const absl::Status status = kind().format == ImageFormat::kVhd ? internal::CreateVhd(*file, options, parent)
                                                                   : internal::CreateVhdx(*file, options, parent);
    EXPECT_TRUE(status.ok()) << status;
    return file;
  }
  std::shared_ptr<ImageDisk> Open(std::shared_ptr<ImageFile> file) {
    const auto open_parent = [this](const internal::ParentLink& link) -> absl::StatusOr<std::shared_ptr<BlockDevice>> {
      EXPECT_THAT(link.ids, testing::ElementsAre(kParentId));
      EXPECT_FALSE(link.paths.empty());
      return parent_;
    };
    const auto fails = [](const absl::Status& status) { ADD_FAILURE() << status; };
    auto opened = kind().format == ImageFormat::kVhd ? internal::OpenVhd(std::move(file), {}, open_parent, fails)
                                                     : internal::OpenVhdx(std::move(file), {}, open_parent, fails);
    EXPECT_TRUE(opened.ok()) << opened.status();
    return opened.ok() ? opened->disk : nullptr;
  }
  std::vector<uint32_t> ReadAll(BlockDevice& disk) {
    std::vector<uint32_t> versions;
    constexpr uint64_t kStep = 256 << 10;
    for (uint64_t offset = 0; offset < disk.info().size_bytes; offset += kStep) {
      WaitedRequest request;
      request.op = BlockOp::kRead;
      request.offset_bytes = offset;
      request.size_bytes = std::min(kStep, disk.info().size_bytes - offset);
      request.bytes.resize(request.size_bytes, 0xEE);
      request.pieces = {{request.bytes.data(), request.bytes.size()}};
      request.buffers = request.pieces;
      BlockRequest* const one = &request;
      disk.Submit({&one, 1});
      EXPECT_EQ(request.Wait(), BlockStatus::kOk);
      for (uint64_t at = 0; at < request.size_bytes; at += block()) {
        versions.push_back(VersionOf(&request.bytes[at], (offset + at) / block()));
      }
    }
    return versions;
  }

  // Whether all that FindData leaves out is zeroes, and whether it goes on to the disk's end.
  bool TellsOfData(BlockDevice& disk, const std::vector<uint32_t>& versions) {
    uint64_t at = 0;
    for (;;) {
      const BlockRange data = disk.FindData(at);
      const uint64_t end = data.size_bytes == 0 ? disk.info().size_bytes : data.offset_bytes;
      if (end < at || end > disk.info().size_bytes) return false;
      for (uint64_t i = (at + block() - 1) / block(); i < end / block(); ++i) {
        if (versions[i] != 0) return false;
      }
      if (data.size_bytes == 0) return true;
      at = data.offset_bytes + data.size_bytes;
    }
  }

  static constexpr internal::Guid kParentId = {1, 2, 3};
  uint64_t disk_blocks_ = 0;
  std::shared_ptr<MemoryDisk> parent_;
};

INSTANTIATE_TEST_SUITE_P(Kinds, ImageModelTest, testing::Combine(testing::ValuesIn(kKinds), testing::Bool()),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param).name) +
                                  (std::get<1>(info.param) ? "Threaded" : "");
                         });

TEST_P(ImageModelTest, ANewImageHasNoData) {
  disk_blocks_ = 5 * kind().block_bytes / block() + 3;
  internal::ParentOfNew parent;
  if (kind().has_parent) {
    BlockInfo info = MemoryDisk::DefaultInfo();
    info.logical_block_bytes = kind().sector_bytes;
    parent_ = std::make_shared<MemoryDisk>(std::vector<uint8_t>(disk_blocks_ / 2 * block()), info);
    parent = {kParentId, "./parent", "/somewhere/parent"};
  }
  const auto disk = Open(NewImage(kind().has_parent ? &parent : nullptr));
  ASSERT_NE(disk, nullptr);
  const BlockRange data = disk->FindData(0);
  if (kind().is_fixed) {
    EXPECT_EQ(data.size_bytes, std::min<uint64_t>(disk->info().size_bytes,
                                                  kind().format == ImageFormat::kVhd ? ~0u : kind().block_bytes));
  } else {
    // The parent, which is in memory and shorter, says that all it has may be data.
    EXPECT_EQ(data.size_bytes,
              kind().has_parent ? std::min<uint64_t>(kind().block_bytes, disk_blocks_ / 2 * block()) : 0);
  }
}

TEST_P(ImageModelTest, WhatWasFlushedLasts) {
  const uint32_t seed = TestSeed();
  std::mt19937_64 random(seed);
  // Some blocks of the image and a part of one.
  disk_blocks_ = 5 * kind().block_bytes / block() + 3;
  uint32_t next_version = 1;
  std::vector<uint32_t> first(disk_blocks_, 0);
  internal::ParentOfNew parent;
  if (kind().has_parent) {
    // A parent that is shorter than the image.
    std::vector<uint8_t> bytes((disk_blocks_ - disk_blocks_ / 6) * block());
    for (uint64_t i = 0; i < bytes.size() / block(); ++i) {
      first[i] = random() % 3 == 0 ? 0 : next_version++;
      FillBlock(&bytes[i * block()], i, first[i]);
    }
    BlockInfo info = MemoryDisk::DefaultInfo();
    info.logical_block_bytes = kind().sector_bytes;
    parent_ = std::make_shared<MemoryDisk>(std::move(bytes), info);
    parent = {kParentId, "./parent", "/somewhere/parent"};
  }
  Model model(first);
  SparseBytes contents = NewImage(kind().has_parent ? &parent : nullptr)->Contents();
  const uint32_t rounds = std::max(6u, ScaledCount(threaded() ? 8 : 12));
  uint64_t flushed = 0, cuts = 0;
  for (uint32_t round = 0; round < rounds; ++round) {
    auto file = std::make_shared<MemoryImageFile>(std::move(contents), threaded(), static_cast<uint32_t>(random()));
    file->set_unit(kind().medium_bytes);
    const bool loses_power = round % 3 != 0;
    if (loses_power) {
      const uint64_t when = round == 1 ? 1 : 1 + random() % (random() % 2 == 0 ? 8 : 120);
      file->LosePowerAt(when, static_cast<uint32_t>(random()));
    }
    std::shared_ptr<ImageDisk> disk = Open(file);
    ASSERT_NE(disk, nullptr);
    ASSERT_EQ(disk->info().size_bytes, disk_blocks_ * block());
    for (int step = 0; step < 16 && !(loses_power && file->is_cut()); ++step) {
      std::vector<WaitedRequest> requests(1 + random() % 8);
      std::vector<BlockRequest*> batch;
      std::vector<size_t> before(disk_blocks_);
      for (uint64_t i = 0; i < disk_blocks_; ++i) before[i] = model.Newest(i);
      const uint64_t part = disk_blocks_ / requests.size();
      for (size_t i = 0; i < requests.size(); ++i) {
        WaitedRequest& request = requests[i];
        // Small ones, and some of several blocks.
        const uint64_t most = std::min<uint64_t>(part, random() % 4 == 0 ? disk_blocks_ : 40);
        uint64_t count = 1 + random() % most;
        uint64_t start = i * part + random() % (part - count + 1);
        const uint64_t in_block = kind().block_bytes / block();
        if (random() % 4 == 0 && start / in_block * in_block >= i * part &&
            start / in_block * in_block + in_block <= (i + 1) * part) {
          start = start / in_block * in_block;
          count = in_block;
        }
        constexpr BlockOp kOps[] = {BlockOp::kWrite,   BlockOp::kWrite, BlockOp::kWrite, BlockOp::kWriteZeroes,
                                    BlockOp::kDiscard, BlockOp::kRead,  BlockOp::kRead,  BlockOp::kFlush};
        request.op = kOps[random() % std::size(kOps)];
        if (request.op == BlockOp::kDiscard && !disk->info().can_discard) request.op = BlockOp::kRead;
        const bool is_flush = request.op == BlockOp::kFlush;
        const bool writes = request.op == BlockOp::kWrite || request.op == BlockOp::kWriteZeroes;
        request.fua = writes && random() % 8 == 0;
        request.offset_bytes = is_flush ? 0 : start * block();
        request.size_bytes = is_flush ? 0 : count * block();
        if (request.op == BlockOp::kRead || request.op == BlockOp::kWrite) {
          request.bytes.resize(request.size_bytes, 0xEE);
          const size_t cut = random() % request.size_bytes / 8 * 8;
          request.pieces = {{request.bytes.data(), cut}, {request.bytes.data() + cut, request.size_bytes - cut}};
          request.buffers = request.pieces;
        }
        if (writes || request.op == BlockOp::kDiscard) {
          const uint32_t version = request.op == BlockOp::kWrite ? next_version++ : 0;
          for (uint64_t j = 0; j < count; ++j) {
            if (version != 0) FillBlock(&request.bytes[j * block()], start + j, version);
            model.Wrote(start + j, version);
          }
        }
        batch.push_back(&request);
      }
      disk->Submit(batch);
      if (random() % 16 == 0) {
        ASSERT_TRUE(disk->Settle().ok());
      }
      for (WaitedRequest& request : requests) ASSERT_EQ(request.Wait(), BlockStatus::kOk);
      for (const WaitedRequest& request : requests) {
        const uint64_t start = request.offset_bytes / block(), count = request.size_bytes / block();
        for (uint64_t j = 0; request.op == BlockOp::kRead && j < count; ++j) {
          ASSERT_EQ(VersionOf(&request.bytes[j * block()], start + j), model.NewestVersion(start + j)) << start + j;
        }
        if ((request.op != BlockOp::kFlush && !request.fua) || file->is_cut()) continue;
        ++flushed;
        if (request.op == BlockOp::kFlush) {
          for (uint64_t i = 0; i < disk_blocks_; ++i) model.LastsFrom(i, before[i]);
        } else {
          for (uint64_t j = 0; j < count; ++j) model.LastsFrom(start + j, model.Newest(start + j));
        }
      }
    }
    const bool is_whole = !(loses_power && file->is_cut());
    disk.reset();
    // Closing may have been what the power was lost in.
    contents = file->is_cut() ? file->Cut() : file->Contents();
    cuts += file->is_cut();
    const auto again = std::make_shared<MemoryImageFile>(contents, threaded());
    disk = Open(again);
    ASSERT_NE(disk, nullptr) << "round " << round;
    const std::vector<uint32_t> versions = ReadAll(*disk);
    for (uint64_t i = 0; i < disk_blocks_; ++i) {
      if (is_whole && !file->is_cut()) {
        ASSERT_EQ(versions[i], model.NewestVersion(i)) << "block " << i << " in round " << round;
      }
      ASSERT_TRUE(model.MayHave(i, versions[i]))
          << "block " << i << " has version " << versions[i] << " in round " << round;
      model.StartsWith(i, versions[i]);
    }
    ASSERT_TRUE(TellsOfData(*disk, versions)) << "round " << round;
    disk.reset();
    contents = again->Contents();
    // What power cuts and discards leave is used again.
    if (kind().format == ImageFormat::kVhdx) {
      ASSERT_LE(contents.size, (uint64_t{5} << 20) + 40 * kind().block_bytes);
    }
  }
  EXPECT_GT(flushed, 0);
  EXPECT_GT(cuts, 0);
}

}  // namespace
}  // namespace hvsdk
