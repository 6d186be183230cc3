// SPDX-License-Identifier: Apache-2.0
// What images say, byte by byte: logs that others left, headers and footers that were lost, sizes as creators mean
// them, tables of any size, and images made larger while power is lost.

#include "image/image_format.h"

#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "base/utf16.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "image/blocking.h"
#include "image/crc32c.h"
#include "image/vhd_file.h"
#include "image/vhdx_file.h"
#include "image/vhdx_log.h"
#include "tests/image/memory_image_file.h"
#include "tests/random_seed.h"

namespace hvsdk {
namespace {

using internal::Guid;
using testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kBat = 3 * kMiB;
constexpr Guid kLogGuid = {9, 9};

template <typename T>
absl::Span<const uint8_t> BytesOf(const T& value) {
  return absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(&value), sizeof(value));
}

std::shared_ptr<MemoryImageFile> Create(ImageFormat format, uint64_t disk_bytes, bool is_fixed = false,
                                        uint32_t block_bytes = kMiB) {
  auto file = std::make_shared<MemoryImageFile>();
  ImageCreateOptions options;
  options.format = format;
  options.disk_bytes = disk_bytes;
  options.is_fixed = is_fixed;
  options.block_bytes = block_bytes;
  options.logical_sector_bytes = options.physical_sector_bytes = 512;
  const absl::Status status = format == ImageFormat::kVhd ? internal::CreateVhd(*file, options, nullptr)
                                                          : internal::CreateVhdx(*file, options, nullptr);
  EXPECT_TRUE(status.ok()) << status;
  return file;
}

absl::StatusOr<std::shared_ptr<ImageDisk>> Open(ImageFormat format, std::shared_ptr<ImageFile> file) {
  const auto no_parent = [](const internal::ParentLink&) -> absl::StatusOr<std::shared_ptr<BlockDevice>> {
    return absl::InvalidArgumentError("no parent");
  };
  auto opened = format == ImageFormat::kVhd ? internal::OpenVhd(std::move(file), {}, no_parent, nullptr)
                                            : internal::OpenVhdx(std::move(file), {}, no_parent, nullptr);
  if (!opened.ok()) return opened.status();
  return opened->disk;
}

TEST(ImageFormatTest, KnownValues) {
  // RFC 3720, appendix B.4, and the check value of CRC-32C.
  const std::string digits = "123456789";
  EXPECT_EQ(internal::Crc32c(absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(digits.data()), 9)), 0xE3069283);
  EXPECT_EQ(internal::Crc32c(std::vector<uint8_t>(32)), 0x8A9136AA);
  EXPECT_EQ(internal::FormatGuid(internal::vhdx::kBatRegion), "{2dc27766-f623-4200-9d64-115e9bfd4a08}");
  EXPECT_EQ(internal::ParseGuid("{2DC27766-F623-4200-9D64-115E9BFD4A08}"), internal::vhdx::kBatRegion);
  EXPECT_EQ(internal::ParseGuid("{2DC27766-F623-4200-9D64-115E9BFD4A0}"), Guid{});
  EXPECT_THAT(internal::vhdx::kBatRegion, testing::ElementsAre(0x66, 0x77, 0xC2, 0x2D, 0x23, 0xF6, 0x00, 0x42, 0x9D,
                                                               0x64, 0x11, 0x5E, 0x9B, 0xFD, 0x4A, 0x08));
  for (const bool big_endian : {false, true}) {
    for (const std::string text : {"", "parent", "\xC3\xA4\xE2\x82\xAC\xF0\x9F\x92\xBE"}) {
      EXPECT_EQ(internal::FromUtf16(internal::ToUtf16(text, big_endian), big_endian), text);
    }
  }
  EXPECT_EQ(internal::FromUtf16({0x00, 0xD8, 0x41, 0x00}),
            "\xEF\xBF\xBD"
            "A");
  EXPECT_THAT(internal::ToUtf16("\xF0\x9F\x92\xBE", true), testing::ElementsAre(0xD8, 0x3D, 0xDC, 0xBE));
  EXPECT_THAT(internal::ToUtf16("\xC3(\xFF"), testing::ElementsAre(0xFD, 0xFF, '(', 0, 0xFD, 0xFF));
}

// [MS-VHDX] 2.4: 2^23 sectors to a sector bitmap, whose entry stands behind those of its blocks.
TEST(ImageFormatTest, TheTableOfAVhdx) {
  internal::vhdx::Geometry geometry;
  geometry.bat_offset = kBat;
  geometry.block_bytes = 32 << 20;
  geometry.logical_sector_bytes = 512;
  geometry.disk_bytes = uint64_t{129} * (32 << 20);
  EXPECT_EQ(geometry.chunk_ratio(), 128);
  EXPECT_EQ(geometry.BlockEntry(127), kBat + 127 * 8);
  EXPECT_EQ(geometry.BitmapEntry(127), kBat + 128 * 8);
  EXPECT_EQ(geometry.BlockEntry(128), kBat + 129 * 8);
  EXPECT_EQ(geometry.BitmapEntry(128), kBat + 257 * 8);
  EXPECT_EQ(geometry.entry_count(), 130);
  geometry.has_parent = true;
  EXPECT_EQ(geometry.entry_count(), 258);
  geometry.logical_sector_bytes = 4096;
  EXPECT_EQ(geometry.chunk_ratio(), 1024);
}

class ForeignLog {
 public:
  ForeignLog() : file_(Create(ImageFormat::kVhdx, 16 * kMiB)) {
    auto current = internal::vhdx::ReadHeader(*file_);
    EXPECT_TRUE(current.ok());
    current->header.log_guid = kLogGuid;
    EXPECT_EQ(internal::vhdx::UpdateHeader(*file_, *current), BlockStatus::kOk);
  }
  // An entry that writes a page of this byte into the table's n-th page.
  std::vector<uint8_t> Entry(uint64_t sequence, uint32_t tail, uint8_t byte, uint64_t page_number = kBat / 4096) {
    internal::MetadataCache::Page page;
    page.bytes.fill(byte);
    return internal::vhdx::EncodeLogEntry(kLogGuid, sequence, tail, file_->size_bytes(), {{page_number, &page}});
  }
  void Put(uint32_t offset, const std::vector<uint8_t>& entry) {
    // Around the end of the log.
    for (size_t at = 0; at < entry.size(); at += 4096) {
      ASSERT_EQ(internal::Write(*file_, kMiB + (offset + at) % kMiB, absl::MakeConstSpan(entry).subspan(at, 4096)),
                BlockStatus::kOk);
    }
  }
  uint8_t ByteAt(uint64_t offset) {
    uint8_t byte = 0;
    EXPECT_EQ(internal::Read(*file_, offset, {&byte, 1}), BlockStatus::kOk);
    return byte;
  }
  absl::Status Replay() {
    auto current = internal::vhdx::ReadHeader(*file_);
    if (!current.ok()) return current.status();
    return internal::vhdx::ReplayLog(*file_, *current);
  }
  MemoryImageFile& file() { return *file_; }
  std::shared_ptr<MemoryImageFile> shared() { return file_; }

 private:
  std::shared_ptr<MemoryImageFile> file_;
};

TEST(ImageFormatTest, ALogOfSeveralEntriesIsReplayedFromItsTail) {
  ForeignLog log;
  // Around the end of the log, and behind it one of an older sequence, one without its predecessor, and a torn one.
  const uint32_t start = kMiB - 8192 - 4096;
  log.Put(start, log.Entry(5, start, 0x55));
  log.Put(start + 8192, log.Entry(6, start, 0x66, kBat / 4096 + 1));
  log.Put(4096, log.Entry(7, start, 0x77));
  log.Put(12288, log.Entry(2, 12288, 0x22, kBat / 4096 + 2));
  log.Put(20480, log.Entry(9, 40960, 0x99));
  std::vector<uint8_t> torn = log.Entry(8, start, 0x88);
  torn[5000] ^= 1;
  log.Put(28672, torn);
  log.file().set_read_only(true);
  const absl::Status refused = Open(ImageFormat::kVhdx, log.shared()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(refused.message(), HasSubstr("open it for writing once"));
  log.file().set_read_only(false);
  ASSERT_TRUE(log.Replay().ok()) << log.Replay();
  EXPECT_EQ(log.ByteAt(kBat), 0x77);
  EXPECT_EQ(log.ByteAt(kBat + 8), 0x77);
  EXPECT_EQ(log.ByteAt(kBat + 4095), 0x77);
  EXPECT_EQ(log.ByteAt(kBat + 4096), 0x66);
  EXPECT_EQ(log.ByteAt(kBat + 8192), 0);
  EXPECT_EQ(internal::vhdx::ReadHeader(log.file())->header.log_guid, Guid{});
}

TEST(ImageFormatTest, ALogWritesNoHeader) {
  for (const uint64_t page : {uint64_t{0}, uint64_t{16}, kMiB / 4096, kMiB / 4096 + 255}) {
    ForeignLog log;
    log.Put(0, log.Entry(1, 0, 0xAA, page));
    EXPECT_THAT(std::string(log.Replay().message()), HasSubstr("where no metadata can be")) << page;
  }
  ForeignLog log;
  log.Put(0, log.Entry(1, 0, 0xAA, 1 << 20));
  EXPECT_THAT(std::string(log.Replay().message()), HasSubstr("behind the end"));
}

TEST(ImageFormatTest, AFileThatIsShorterThanItsLogSaysIsTruncated) {
  ForeignLog log;
  log.Put(0, log.Entry(1, 0, 0xAA));
  ASSERT_EQ(log.file().Resize(log.file().size_bytes() - 4096), BlockStatus::kOk);
  EXPECT_THAT(std::string(log.Replay().message()), HasSubstr("truncated"));
}

TEST(ImageFormatTest, OneHeaderAndOneRegionTableAreEnough) {
  for (const int lost : {0, 1}) {
    auto file = Create(ImageFormat::kVhdx, 16 * kMiB);
    const std::vector<uint8_t> rubbish(4096, 0xEE);
    ASSERT_EQ(internal::Write(*file, internal::vhdx::kHeaderOffsets[lost], rubbish), BlockStatus::kOk);
    ASSERT_EQ(internal::Write(*file, internal::vhdx::kRegionTableOffsets[lost], rubbish), BlockStatus::kOk);
    EXPECT_TRUE(Open(ImageFormat::kVhdx, file).ok());
    ASSERT_EQ(internal::Write(*file, internal::vhdx::kHeaderOffsets[1 - lost], rubbish), BlockStatus::kOk);
    EXPECT_THAT(std::string(Open(ImageFormat::kVhdx, file).status().message()), HasSubstr("neither header is whole"));
  }
}

TEST(ImageFormatTest, AVhdFooterThatIsLostHasACopy) {
  auto file = Create(ImageFormat::kVhd, 16 * kMiB);
  const uint64_t end = file->size_bytes() - 512;
  ASSERT_EQ(file->Resize(end + 300), BlockStatus::kOk);
  auto disk = Open(ImageFormat::kVhd, file);
  ASSERT_TRUE(disk.ok()) << disk.status();
  const std::vector<uint8_t> bytes(512, 0x11);
  ASSERT_EQ(internal::WriteDisk(**disk, 0, bytes), BlockStatus::kOk);
  disk->reset();
  // There again, behind what was written.
  const auto geometry = internal::vhd::ReadGeometry(*file);
  ASSERT_TRUE(geometry.ok()) << geometry.status();
  EXPECT_EQ(geometry->end, file->size_bytes() - 512);
  EXPECT_TRUE(internal::CheckVhd(*file, false)->faults.empty());
}

TEST(ImageFormatTest, TheSizeOfAVhdIsAsItsCreatorMeansIt) {
  const struct {
    const char* creator;
    uint64_t bytes;
  } kCases[] = {{"win ", 16 * kMiB},
                {"vbox", 16 * kMiB},
                {"d2v ", 16 * kMiB},
                {"vpc ", 479 * 4 * 17 * 512},
                {"qemu", 479 * 4 * 17 * 512}};
  for (const auto& [creator, bytes] : kCases) {
    auto file = Create(ImageFormat::kVhd, 16 * kMiB, /*is_fixed=*/true);
    internal::vhd::Footer footer = internal::vhd::ReadGeometry(*file)->footer;
    std::memcpy(footer.creator, creator, 4);
    footer.cylinders = 479;
    footer.checksum = internal::vhd::Checksum(footer, offsetof(internal::vhd::Footer, checksum));
    ASSERT_EQ(internal::Write(*file, 16 * kMiB, BytesOf(footer)), BlockStatus::kOk);
    EXPECT_EQ(internal::vhd::ReadGeometry(*file)->disk_bytes, bytes) << creator;
    // An old one, of 511 bytes.
    ASSERT_EQ(file->Resize(16 * kMiB + 511), BlockStatus::kOk);
    EXPECT_EQ(internal::vhd::ReadGeometry(*file)->disk_bytes, bytes) << creator;
    // Made larger it has the size that was asked for, which no geometry has.
    const uint64_t new_bytes = bytes + 512;
    const absl::Status resized = internal::ResizeVhd(*file, new_bytes);
    ASSERT_TRUE(resized.ok()) << resized;
    EXPECT_EQ(internal::vhd::ReadGeometry(*file)->disk_bytes, new_bytes) << creator;
  }
}

TEST(ImageFormatTest, ATableOfAnySizeIsReadInParts) {
  auto file = Create(ImageFormat::kVhdx, uint64_t{64} << 40);
  const uint64_t before = file->bytes_read();
  auto disk = Open(ImageFormat::kVhdx, file);
  ASSERT_TRUE(disk.ok()) << disk.status();
  EXPECT_LT(file->bytes_read() - before, kMiB);
  const std::vector<uint8_t> bytes(4096, 0x77);
  std::vector<uint8_t> read(4096);
  for (uint64_t i = 0; i < 64; ++i) {
    const uint64_t offset = i << 40;
    ASSERT_EQ(internal::WriteDisk(**disk, offset, bytes), BlockStatus::kOk);
    ASSERT_EQ(internal::ReadDisk(**disk, offset + (uint64_t{1} << 40) - 4096, absl::MakeSpan(read)), BlockStatus::kOk);
    ASSERT_EQ(read, std::vector<uint8_t>(4096));
    ASSERT_EQ(internal::ReadDisk(**disk, offset, absl::MakeSpan(read)), BlockStatus::kOk);
    ASSERT_EQ(read, bytes);
  }
  EXPECT_LT(file->bytes_read() - before, 4 * kMiB);
}

TEST(ImageFormatTest, AFullHostFailsAWriteAndNothingElse) {
  for (const ImageFormat format : {ImageFormat::kVhd, ImageFormat::kVhdx}) {
    auto file = Create(format, 16 * kMiB);
    auto disk = Open(format, file);
    ASSERT_TRUE(disk.ok());
    const std::vector<uint8_t> bytes(4096, 0x77);
    ASSERT_EQ(internal::WriteDisk(**disk, 0, bytes), BlockStatus::kOk);
    file->set_limit(file->size_bytes());
    EXPECT_EQ(internal::WriteDisk(**disk, 5 * kMiB, bytes), BlockStatus::kNoSpace);
    EXPECT_EQ(internal::WriteDisk(**disk, 8192, bytes), BlockStatus::kOk);
    EXPECT_EQ(internal::RunOnDisk(**disk, BlockOp::kFlush), BlockStatus::kOk);
    std::vector<uint8_t> read(4096, 1);
    EXPECT_EQ(internal::ReadDisk(**disk, 5 * kMiB, absl::MakeSpan(read)), BlockStatus::kOk);
    EXPECT_EQ(read, std::vector<uint8_t>(4096));
    // Room that a block gave back will do.
    EXPECT_EQ(internal::RunOnDisk(**disk, BlockOp::kDiscard, 0, kMiB), BlockStatus::kOk);
    EXPECT_EQ(internal::RunOnDisk(**disk, BlockOp::kFlush), BlockStatus::kOk);
    EXPECT_EQ(internal::WriteDisk(**disk, 5 * kMiB, bytes), BlockStatus::kOk);
    EXPECT_EQ(internal::ReadDisk(**disk, 5 * kMiB + 4096, absl::MakeSpan(read)), BlockStatus::kOk);
    EXPECT_EQ(read, std::vector<uint8_t>(4096));
    disk->reset();
    file->set_limit(0);
    const auto check =
        format == ImageFormat::kVhd ? internal::CheckVhd(*file, false) : internal::CheckVhdx(*file, false);
    ASSERT_TRUE(check.ok()) << check.status();
    EXPECT_THAT(check->faults, testing::IsEmpty());
    EXPECT_EQ(check->present_blocks, 1);
  }
}

// A discard of blocks in so many pages of the table that some of them go to the file before it ends.
TEST(ImageFormatTest, RoomThatADiscardGivesBackIsGivenOnce) {
  constexpr uint64_t kBlocksPerPage = 512, kPages = 32;
  auto file = Create(ImageFormat::kVhdx, kPages * kBlocksPerPage * kMiB);
  const std::vector<uint8_t> bytes(4096, 0x77);
  std::vector<uint8_t> read(4096);
  const uint64_t last = (kPages - 1) * kBlocksPerPage * kMiB;
  {
    auto disk = Open(ImageFormat::kVhdx, file);
    ASSERT_TRUE(disk.ok()) << disk.status();
    for (uint64_t page = 0; page < kPages; ++page) {
      ASSERT_EQ(internal::WriteDisk(**disk, page * kBlocksPerPage * kMiB, bytes), BlockStatus::kOk);
    }
    ASSERT_EQ(internal::WriteDisk(**disk, last + kMiB, bytes), BlockStatus::kOk);
  }
  auto disk = Open(ImageFormat::kVhdx, file);
  ASSERT_TRUE(disk.ok()) << disk.status();
  for (uint64_t offset = 0; offset < last; offset += kBlocksPerPage * kMiB) {
    ASSERT_EQ(internal::RunOnDisk(**disk, BlockOp::kDiscard, offset, kMiB), BlockStatus::kOk);
  }
  ASSERT_EQ(internal::RunOnDisk(**disk, BlockOp::kDiscard, last, 2 * kMiB), BlockStatus::kOk);
  // The first block that needs room looks for it in the file.
  for (const uint64_t offset : {uint64_t{0}, 7 * kMiB}) {
    ASSERT_EQ(internal::WriteDisk(**disk, offset, bytes), BlockStatus::kOk);
    ASSERT_EQ(internal::RunOnDisk(**disk, BlockOp::kFlush), BlockStatus::kOk);
    ASSERT_EQ(internal::ReadDisk(**disk, offset, absl::MakeSpan(read)), BlockStatus::kOk);
    EXPECT_EQ(read, bytes) << "at byte " << offset;
  }
  disk->reset();
  const auto check = internal::CheckVhdx(*file, /*repair=*/false);
  ASSERT_TRUE(check.ok()) << check.status();
  EXPECT_THAT(check->faults, testing::IsEmpty());
}

TEST(ImageFormatTest, ABlockOutsideTheFileIsAnErrorOfItsOwn) {
  auto file = Create(ImageFormat::kVhdx, 16 * kMiB);
  const uint64_t entry = 6 | uint64_t{1} << 40;
  ASSERT_EQ(internal::Write(*file, kBat + 8, BytesOf(entry)), BlockStatus::kOk);
  auto disk = Open(ImageFormat::kVhdx, file);
  ASSERT_TRUE(disk.ok());
  std::vector<uint8_t> bytes(4096);
  EXPECT_EQ(internal::ReadDisk(**disk, kMiB, absl::MakeSpan(bytes)), BlockStatus::kIoError);
  EXPECT_EQ(internal::WriteDisk(**disk, kMiB, bytes), BlockStatus::kIoError);
  EXPECT_EQ(internal::ReadDisk(**disk, 0, absl::MakeSpan(bytes)), BlockStatus::kOk);
  EXPECT_EQ(internal::WriteDisk(**disk, 2 * kMiB, bytes), BlockStatus::kOk);
  disk->reset();
  EXPECT_THAT(internal::CheckVhdx(*file, false)->faults, testing::ElementsAre(HasSubstr("block 1: lies at byte")));
}

TEST(ImageFormatTest, ADamagedImageIsNotResizedOverItself) {
  for (const uint64_t place : {uint64_t{0}, kMiB, kBat, uint64_t{1} << 40}) {
    auto file = Create(ImageFormat::kVhdx, 5 * kMiB + 512);
    const uint64_t entry = 6 | place;
    ASSERT_EQ(internal::Write(*file, kBat + 5 * 8, BytesOf(entry)), BlockStatus::kOk);
    EXPECT_THAT(std::string(internal::ResizeVhdx(*file, 40 * kMiB).message()),
                HasSubstr("its last block lies at byte"));
    const auto disk = Open(ImageFormat::kVhdx, file);
    ASSERT_TRUE(disk.ok()) << disk.status();
    EXPECT_EQ((*disk)->info().size_bytes, 5 * kMiB + 512);
  }
}

TEST(ImageFormatTest, ASettledImageIsAsOneThatIsClosed) {
  for (const ImageFormat format : {ImageFormat::kVhd, ImageFormat::kVhdx}) {
    auto file = Create(format, 16 * kMiB);
    auto disk = Open(format, file);
    ASSERT_TRUE(disk.ok());
    const std::vector<uint8_t> bytes(4096, 0x77);
    for (uint64_t i = 0; i < 3; ++i) {
      ASSERT_EQ(internal::WriteDisk(**disk, i * 3 * kMiB, bytes), BlockStatus::kOk);
      ASSERT_EQ(internal::RunOnDisk(**disk, BlockOp::kFlush), BlockStatus::kOk);
      ASSERT_TRUE((*disk)->Settle().ok());
      // By a reader, who would replay no log.
      auto copy = std::make_shared<MemoryImageFile>(file->Contents());
      copy->set_read_only(true);
      auto settled = Open(format, copy);
      ASSERT_TRUE(settled.ok()) << settled.status();
      std::vector<uint8_t> read(4096);
      ASSERT_EQ(internal::ReadDisk(**settled, i * 3 * kMiB, absl::MakeSpan(read)), BlockStatus::kOk);
      EXPECT_EQ(read, bytes);
    }
    const auto before = file->Contents().sectors;
    ASSERT_EQ(internal::RunOnDisk(**disk, BlockOp::kFlush), BlockStatus::kOk);
    disk->reset();
    EXPECT_EQ(file->Contents().sectors, before);
  }
}

// The old size or the new one, and everything as it was, whenever power is lost.
TEST(ImageFormatTest, AnImageGrowsAsAWhole) {
  const uint32_t seed = TestSeed();
  std::mt19937_64 random(seed);
  const struct {
    ImageFormat format;
    bool is_fixed;
    uint64_t new_bytes;
  } kCases[] = {{ImageFormat::kVhdx, false, 40 * kMiB},
                {ImageFormat::kVhdx, false, uint64_t{200} << 30},  // more than its table has room for
                {ImageFormat::kVhdx, true, 40 * kMiB},
                {ImageFormat::kVhd, false, 40 * kMiB},
                {ImageFormat::kVhd, true, 7 * kMiB},  // less than twice as large
                {ImageFormat::kVhd, true, 40 * kMiB}};
  constexpr uint64_t kOldBytes = 5 * kMiB + 512;
  for (const auto& [format, is_fixed, new_bytes] : kCases) {
    auto file = Create(format, kOldBytes, is_fixed);
    std::vector<uint8_t> bytes(kOldBytes);
    // In its first block and its last.
    constexpr uint64_t kPart = 8192;
    for (const uint64_t at : {uint64_t{0}, kOldBytes - kPart}) {
      for (uint64_t i = 0; i < kPart; i += 512) bytes[at + i] = static_cast<uint8_t>(1 + i / 512);
    }
    {
      auto disk = Open(format, file);
      ASSERT_TRUE(disk.ok()) << disk.status();
      for (const uint64_t at : {uint64_t{0}, kOldBytes - kPart}) {
        ASSERT_EQ(internal::WriteDisk(**disk, at, absl::MakeConstSpan(bytes).subspan(at, kPart)), BlockStatus::kOk);
      }
    }
    const SparseBytes before = file->Contents();
    bool is_old = true, is_done = false;
    for (uint64_t n = 1; !is_done; ++n) {
      auto grown = std::make_shared<MemoryImageFile>(before);
      grown->LosePowerAt(n, static_cast<uint32_t>(random()));
      const absl::Status status = format == ImageFormat::kVhd ? internal::ResizeVhd(*grown, new_bytes)
                                                              : internal::ResizeVhdx(*grown, new_bytes);
      ASSERT_TRUE(status.ok()) << status;
      is_done = !grown->is_cut();
      auto left = std::make_shared<MemoryImageFile>(is_done ? grown->Contents() : grown->Cut());
      auto disk = Open(format, left);
      ASSERT_TRUE(disk.ok()) << disk.status() << " at " << n;
      const uint64_t size = (*disk)->info().size_bytes;
      if (is_done) is_old = false;
      ASSERT_TRUE(size == new_bytes || (is_old && size == kOldBytes) || (!is_done && size == kOldBytes)) << size;
      std::vector<uint8_t> read(kOldBytes);
      ASSERT_EQ(internal::ReadDisk(**disk, 0, absl::MakeSpan(read)), BlockStatus::kOk);
      ASSERT_EQ(read, bytes);
      if (size == new_bytes && is_done) {
        read.assign(kMiB, 1);
        ASSERT_EQ(internal::ReadDisk(**disk, kOldBytes, absl::MakeSpan(read)), BlockStatus::kOk);
        ASSERT_EQ(read, std::vector<uint8_t>(kMiB));
        ASSERT_EQ(internal::WriteDisk(**disk, new_bytes - 512, absl::MakeConstSpan(bytes).first(512)),
                  BlockStatus::kOk);
      }
      disk->reset();
      if (is_done) {
        const auto check =
            format == ImageFormat::kVhd ? internal::CheckVhd(*left, false) : internal::CheckVhdx(*left, false);
        ASSERT_TRUE(check.ok()) << check.status();
        EXPECT_THAT(check->faults, testing::IsEmpty());
      }
    }
  }
}

// A disk that is full when an image should grow leaves a whole image of the old size.
TEST(ImageFormatTest, AnImageThatCannotGrowIsAsItWas) {
  for (const ImageFormat format : {ImageFormat::kVhdx, ImageFormat::kVhd}) {
    auto file = Create(format, 5 * kMiB, /*is_fixed=*/false);
    std::vector<uint8_t> bytes(8192, 7);
    {
      auto disk = Open(format, file);
      ASSERT_TRUE(disk.ok()) << disk.status();
      ASSERT_EQ(internal::WriteDisk(**disk, kMiB, bytes), BlockStatus::kOk);
    }
    const SparseBytes before = file->Contents();
    bool is_grown = false;
    for (uint64_t room = 0; !is_grown; room = room < 8 ? room + 1 : room * 2) {
      auto full = std::make_shared<MemoryImageFile>(before);
      full->set_room(room);
      // More than its table has room for.
      constexpr uint64_t kNewBytes = uint64_t{200} << 30;
      const absl::Status status =
          format == ImageFormat::kVhd ? internal::ResizeVhd(*full, kNewBytes) : internal::ResizeVhdx(*full, kNewBytes);
      is_grown = status.ok();
      if (!is_grown) {
        EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
        // A change that stands in a VHDX's log already may need the file's new end.
        if (format == ImageFormat::kVhd || room == 0) {
          EXPECT_EQ(full->Contents().size, before.size) << room;
        }
      }
      full->set_room(~uint64_t{0});
      auto disk = Open(format, full);
      ASSERT_TRUE(disk.ok()) << disk.status();
      EXPECT_EQ((*disk)->info().size_bytes, is_grown ? kNewBytes : 5 * kMiB) << room;
      std::vector<uint8_t> read(bytes.size());
      ASSERT_EQ(internal::ReadDisk(**disk, kMiB, absl::MakeSpan(read)), BlockStatus::kOk);
      EXPECT_EQ(read, bytes) << room;
      disk->reset();
      const auto check =
          format == ImageFormat::kVhd ? internal::CheckVhd(*full, false) : internal::CheckVhdx(*full, false);
      ASSERT_TRUE(check.ok()) << check.status();
      EXPECT_THAT(check->faults, testing::IsEmpty()) << room;
    }
  }
}

}  // namespace
}  // namespace hvsdk
