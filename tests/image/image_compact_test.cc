// SPDX-License-Identifier: Apache-2.0
// Images that are compacted, merged into their parents and given others, with random contents, while power is lost at
// each of the operations on their files: the disk that a guest had is there whenever that is.

#include <algorithm>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "image/blocking.h"
#include "image/image_format.h"
#include "image/image_merge.h"
#include "image/vhdx_file.h"
#include "tests/image/memory_image_file.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"

namespace hvsdk {
namespace {

using internal::Guid;

constexpr uint64_t kSector = 512;

struct Kind {
  const char* name;
  ImageFormat format;
  uint32_t block_bytes;
};
constexpr Kind kKinds[] = {{"Vhdx", ImageFormat::kVhdx, 1 << 20}, {"Vhd", ImageFormat::kVhd, 64 << 10}};

using Bytes = std::vector<uint8_t>;
using Parents = std::vector<std::shared_ptr<ImageFile>>;  // the next one first

class ImageChainTest : public testing::TestWithParam<Kind> {
 protected:
  ImageFormat format() const { return GetParam().format; }
  uint64_t disk_bytes() const { return 7 * uint64_t{GetParam().block_bytes} + 3 * kSector; }

  absl::StatusOr<internal::OpenedImage> Open(std::shared_ptr<ImageFile> file, const Parents& parents) {
    const internal::ParentOpener open_parent = Opener(parents);
    return format() == ImageFormat::kVhd ? internal::OpenVhd(std::move(file), {}, open_parent, nullptr)
                                         : internal::OpenVhdx(std::move(file), {}, open_parent, nullptr);
  }
  internal::ParentOpener Opener(const Parents& parents) {
    return [=, this](const internal::ParentLink& link) -> absl::StatusOr<std::shared_ptr<BlockDevice>> {
      if (parents.empty()) return absl::NotFoundError("no parent");
      auto opened = Open(parents[0], Parents(parents.begin() + 1, parents.end()));
      if (!opened.ok()) return opened.status();
      if (std::find(link.ids.begin(), link.ids.end(), opened->id_for_children) == link.ids.end()) {
        return absl::InvalidArgumentError("another parent");
      }
      return opened->disk;
    };
  }
  std::shared_ptr<MemoryImageFile> Create(const Parents& parents, uint64_t size) {
    auto file = std::make_shared<MemoryImageFile>();
    ImageCreateOptions options;
    options.format = format();
    options.disk_bytes = size;
    options.block_bytes = GetParam().block_bytes;
    options.logical_sector_bytes = options.physical_sector_bytes = 512;
    internal::ParentOfNew parent = ParentOf(parents);
    const internal::ParentOfNew* const over = parents.empty() ? nullptr : &parent;
    const absl::Status status = format() == ImageFormat::kVhd ? internal::CreateVhd(*file, options, over)
                                                              : internal::CreateVhdx(*file, options, over);
    EXPECT_TRUE(status.ok()) << status;
    return file;
  }
  internal::ParentOfNew ParentOf(const Parents& parents) {
    internal::ParentOfNew parent;
    parent.absolute_path = "/somewhere/parent";
    parent.relative_path = "./parent";
    if (parents.empty()) return parent;
    const auto opened = Open(parents[0], Parents(parents.begin() + 1, parents.end()));
    EXPECT_TRUE(opened.ok()) << opened.status();
    parent.id_for_children = opened->id_for_children;
    return parent;
  }
  Bytes ReadAll(const std::shared_ptr<ImageFile>& file, const Parents& parents) {
    const auto opened = Open(file, parents);
    EXPECT_TRUE(opened.ok()) << opened.status();
    if (!opened.ok()) return {};
    Bytes bytes(opened->disk->info().size_bytes);
    EXPECT_EQ(internal::ReadDisk(*opened->disk, 0, absl::MakeSpan(bytes)), BlockStatus::kOk);
    return bytes;
  }
  // Some of each: whole blocks and single sectors, written, zeroed, discarded, in any order.
  void Scribble(const std::shared_ptr<ImageFile>& file, const Parents& parents, int steps) {
    const auto opened = Open(file, parents);
    ASSERT_TRUE(opened.ok()) << opened.status();
    BlockDevice& disk = *opened->disk;
    const uint64_t size = disk.info().size_bytes, block = GetParam().block_bytes;
    for (int i = 0; i < steps; ++i) {
      uint64_t start = random_() % (size / kSector) * kSector;
      uint64_t bytes = kSector * (1 + random_() % 64);
      if (random_() % 2 == 0) {
        start = start / block * block;
        bytes = block;
      }
      bytes = std::min(bytes, size - start);
      switch (random_() % 6) {
        case 0:
          ASSERT_EQ(internal::RunOnDisk(disk, BlockOp::kWriteZeroes, start, bytes), BlockStatus::kOk);
          break;
        case 1:
          if (!disk.info().can_discard) break;
          ASSERT_EQ(internal::RunOnDisk(disk, BlockOp::kDiscard, start, bytes), BlockStatus::kOk);
          break;
        case 2:  // zeroes that the image does not know of
          ASSERT_EQ(internal::WriteDisk(disk, start, Bytes(bytes)), BlockStatus::kOk);
          break;
        default: {
          Bytes data(bytes);
          const auto what = static_cast<uint8_t>(random_());
          for (uint64_t at = 0; at < bytes; ++at) data[at] = static_cast<uint8_t>(what + at / kSector);
          ASSERT_EQ(internal::WriteDisk(disk, start, data), BlockStatus::kOk);
        }
      }
    }
  }
  void ExpectWhole(const std::shared_ptr<MemoryImageFile>& file) {
    const auto check =
        format() == ImageFormat::kVhd ? internal::CheckVhd(*file, true) : internal::CheckVhdx(*file, true);
    ASSERT_TRUE(check.ok()) << check.status();
    EXPECT_THAT(check->faults, testing::IsEmpty());
  }
  uint32_t seed_ = TestSeed();
  std::mt19937_64 random_{seed_};
  int rounds_ = static_cast<int>(std::max(2u, ScaledCount(3)));
};

INSTANTIATE_TEST_SUITE_P(Kinds, ImageChainTest, testing::ValuesIn(kKinds),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(ImageChainTest, ACompactedDiskIsTheSame) {
  for (int round = 0; round < 2 * rounds_; ++round) {
    Parents parents;
    if (round % 2 == 1) {
      parents = {Create({}, disk_bytes())};
      Scribble(parents[0], {}, 12);
    }
    auto file = Create(parents, disk_bytes());
    Scribble(file, parents, 12);
    const Bytes bytes = ReadAll(file, parents);
    const Guid id = Open(file, parents)->id_for_children;
    const SparseBytes before = file->Contents();
    bool is_done = false;
    for (uint64_t n = 1; !is_done; ++n) {
      auto compacted = std::make_shared<MemoryImageFile>(before);
      compacted->LosePowerAt(n, static_cast<uint32_t>(random_()));
      uint64_t last = 0;
      const auto progress = [&](uint64_t done, uint64_t all) {
        ASSERT_LE(done, all);
        ASSERT_GE(done, last);
        last = done;
      };
      const auto result = format() == ImageFormat::kVhd ? internal::CompactVhd(*compacted, progress)
                                                        : internal::CompactVhdx(*compacted, progress);
      ASSERT_TRUE(result.ok()) << result.status();
      is_done = !compacted->is_cut();
      auto left = std::make_shared<MemoryImageFile>(is_done ? compacted->Contents() : compacted->Cut());
      ASSERT_EQ(ReadAll(left, parents), bytes) << "at " << n;
      ASSERT_NO_FATAL_FAILURE(ExpectWhole(left));
      ASSERT_EQ(Open(left, parents)->id_for_children, id);
      if (!is_done) continue;
      EXPECT_EQ(left->size_bytes(), result->bytes_after);
      EXPECT_LE(result->bytes_after, result->bytes_before);
      // No block is zeroes, and nothing of the file unused.
      const auto check =
          format() == ImageFormat::kVhd ? internal::CheckVhd(*left, false) : internal::CheckVhdx(*left, false);
      if (parents.empty()) {
        uint64_t blocks = 0;
        for (uint64_t at = 0; at < bytes.size(); at += GetParam().block_bytes) {
          const auto end = bytes.begin() +
                           static_cast<std::ptrdiff_t>(std::min<uint64_t>(bytes.size(), at + GetParam().block_bytes));
          blocks += std::any_of(bytes.begin() + static_cast<std::ptrdiff_t>(at), end, [](uint8_t b) { return b != 0; });
        }
        EXPECT_EQ(check->present_blocks, blocks);
      }
      EXPECT_EQ(check->unused_bytes, 0);
      // Again there is nothing to do, and it can be written.
      Scribble(left, parents, 6);
      ExpectWhole(left);
    }
  }
}

TEST_P(ImageChainTest, AMergedChildIsItsParent) {
  for (int round = 0; round < rounds_; ++round) {
    Parents above;
    if (round % 2 == 1) {
      above = {Create({}, disk_bytes())};
      Scribble(above[0], {}, 10);
    }
    // A VHDX may be larger than its parent.
    const bool grows = format() == ImageFormat::kVhdx && round % 3 == 0;
    auto parent = Create(above, disk_bytes());
    Scribble(parent, above, 10);
    Parents chain = {parent};
    chain.insert(chain.end(), above.begin(), above.end());
    auto child = Create(chain, disk_bytes() + (grows ? 2 * uint64_t{GetParam().block_bytes} : 0));
    Scribble(child, chain, 10);
    const Bytes bytes = ReadAll(child, chain);
    const SparseBytes child_before = child->Contents(), parent_before = parent->Contents();
    bool is_done = false;
    for (uint64_t n = 1; !is_done; n += 1 + random_() % 3) {
      auto merged = std::make_shared<MemoryImageFile>(parent_before);
      auto into = std::make_shared<MemoryImageFile>(child_before);
      merged->SharePowerWith(*into);
      merged->LosePowerAt(n, static_cast<uint32_t>(random_()));
      const auto merge = [&] {
        return format() == ImageFormat::kVhd ? internal::MergeVhd(into, merged, Opener(above), nullptr)
                                             : internal::MergeVhdx(into, merged, ParentOf({}), Opener(above), nullptr);
      };
      absl::Status status = merge();
      ASSERT_TRUE(status.ok()) << status;
      is_done = !merged->is_cut();
      if (!is_done) {
        merged = std::make_shared<MemoryImageFile>(merged->Cut());
        into = std::make_shared<MemoryImageFile>(into->Cut());
      }
      chain[0] = merged;
      ASSERT_EQ(ReadAll(into, chain), bytes) << "at " << n;
      ASSERT_NO_FATAL_FAILURE(ExpectWhole(merged));
      ASSERT_NO_FATAL_FAILURE(ExpectWhole(into));
      if (!is_done && random_() % 4 != 0) continue;
      status = merge();  // again
      ASSERT_TRUE(status.ok()) << status;
      ASSERT_EQ(ReadAll(into, chain), bytes) << "at " << n;
      ASSERT_EQ(ReadAll(merged, above), bytes);
      ASSERT_NO_FATAL_FAILURE(ExpectWhole(merged));
    }
  }
}

TEST_P(ImageChainTest, ARebasedChildIsTheSame) {
  for (int round = 0; round < rounds_; ++round) {
    auto old_parent = Create({}, disk_bytes()), new_parent = Create({}, disk_bytes());
    Scribble(old_parent, {}, 10);
    Scribble(new_parent, {}, 10);
    auto child = Create({old_parent}, disk_bytes());
    Scribble(child, {old_parent}, 6);
    const Bytes bytes = ReadAll(child, {old_parent});
    const SparseBytes before = child->Contents();
    const internal::ParentOfNew link = ParentOf({new_parent});
    bool is_done = false;
    for (uint64_t n = 1; !is_done; n += 1 + random_() % 3) {
      auto file = std::make_shared<MemoryImageFile>(before);
      file->LosePowerAt(n, static_cast<uint32_t>(random_()));
      {
        auto map = format() == ImageFormat::kVhd ? internal::OpenVhdMap(file) : internal::OpenVhdxMap(file);
        ASSERT_TRUE(map.ok()) << map.status();
        const auto disk = Open(file, {old_parent}), is = Open(old_parent, {}), will_be = Open(new_parent, {});
        ASSERT_TRUE(disk.ok() && is.ok() && will_be.ok());
        const absl::Status status = internal::CopyFromParent(*map, *disk->disk, *is->disk, *will_be->disk, nullptr);
        ASSERT_TRUE(status.ok()) << status;
        ASSERT_TRUE(disk->disk->Settle().ok());
      }
      const absl::Status status =
          format() == ImageFormat::kVhd ? internal::SetVhdParent(*file, link) : internal::SetVhdxParent(*file, link);
      ASSERT_TRUE(status.ok()) << status;
      is_done = !file->is_cut();
      auto left = std::make_shared<MemoryImageFile>(is_done ? file->Contents() : file->Cut());
      const bool has_new = Open(left, {new_parent}).ok();
      ASSERT_TRUE(has_new || !is_done);
      ASSERT_EQ(ReadAll(left, {has_new ? new_parent : old_parent}), bytes) << "at " << n;
      ASSERT_NO_FATAL_FAILURE(ExpectWhole(left));
    }
  }
}

}  // namespace
}  // namespace hvsdk
