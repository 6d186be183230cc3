// SPDX-License-Identifier: Apache-2.0
// Images of any content: a good image of one of some kinds, in which the input changes bytes, most of them where the
// format keeps its structures, whose checksums are then made to fit. It is opened, read, written, discarded, flushed,
// closed, checked and resized: each is done or refused, in bounded time and memory, and a request gets an answer.
//
// Input: a byte of kind and flags; then changes, each a byte that chooses a place, two of an offset from there, one of
// a length, and the bytes.

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "base/check.h"
#include "hvsdk/image/memory_disk.h"
#include "image/blocking.h"
#include "image/crc32c.h"
#include "image/image_format.h"
#include "image/vhd_layout.h"
#include "image/vhdx_layout.h"
#include "image/vhdx_log.h"
#include "tests/image/memory_image_file.h"

namespace hvsdk {
namespace {

using namespace internal;

constexpr uint64_t kDiskBytes = (4 << 20) + 4096;
constexpr uint64_t kVhdxPlaces[] = {
    0, 64 << 10, 128 << 10, 192 << 10, 256 << 10, 1 << 20, 2 << 20, (2 << 20) + (64 << 10), 3 << 20, 4 << 20};
constexpr uint64_t kVhdPlaces[] = {0, 512, 512 + 576, 1536, 2048, 4096};

SparseBytes MakeImage(ImageFormat format, bool is_fixed, bool has_parent) {
  MemoryImageFile file;
  ImageCreateOptions options;
  options.disk_bytes = kDiskBytes;
  options.is_fixed = is_fixed;
  options.logical_sector_bytes = options.physical_sector_bytes = 512;
  const ParentOfNew parent{{1}, "./parent", "/parent"};
  if (format == ImageFormat::kVhdx) {
    options.block_bytes = 1 << 20;
    HVSDK_CHECK(CreateVhdx(file, options, has_parent ? &parent : nullptr).ok());
    // An entry of the log, for a header that says so.
    MetadataCache::Page page;
    page.bytes.fill(0x11);
    const std::vector<uint8_t> entry = vhdx::EncodeLogEntry({7}, 1, 0, file.size_bytes(), {{(3 << 20) / 4096, &page}});
    HVSDK_CHECK(Write(file, 1 << 20, entry) == BlockStatus::kOk);
  } else {
    options.block_bytes = 512 << 10;
    HVSDK_CHECK(CreateVhd(file, options, has_parent ? &parent : nullptr).ok());
  }
  return file.Contents();
}

void Poke(SparseBytes& image, uint64_t offset, absl::Span<const uint8_t> bytes) {
  for (const uint8_t byte : bytes) {
    if (offset >= image.size) return;
    image.sectors[offset / 512][offset % 512] = byte;
    ++offset;
  }
}

// A structure whose second word is its CRC.
void SealVhdx(SparseBytes& image, uint64_t offset, size_t size) {
  if (offset + size > image.size) return;
  std::vector<uint8_t> bytes(size);
  image.Read(offset, bytes.data(), size);
  std::memset(&bytes[4], 0, 4);
  const uint32_t crc = Crc32c(bytes);
  Poke(image, offset + 4, absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(&crc), 4));
}

template <typename T>
void SealVhd(SparseBytes& image, uint64_t offset) {
  T structure;
  image.Read(offset, reinterpret_cast<uint8_t*>(&structure), sizeof(structure));
  structure.checksum = vhd::Checksum(structure, offsetof(T, checksum));
  Poke(image, offset, absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(&structure), sizeof(structure)));
}

void Seal(SparseBytes& image, ImageFormat format) {
  if (format == ImageFormat::kVhd) {
    SealVhd<vhd::Footer>(image, 0);
    SealVhd<vhd::DynamicHeader>(image, 512);
    SealVhd<vhd::Footer>(image, image.size - 512);
    return;
  }
  for (const uint64_t offset : vhdx::kHeaderOffsets) SealVhdx(image, offset, vhdx::kHeaderBytes);
  for (const uint64_t offset : vhdx::kRegionTableOffsets) SealVhdx(image, offset, vhdx::kRegionTableBytes);
  uint32_t length = 0;
  image.Read((1 << 20) + offsetof(vhdx::LogEntryHeader, entry_length), reinterpret_cast<uint8_t*>(&length), 4);
  if (length >= vhdx::kLogSectorBytes && length <= 1 << 20) SealVhdx(image, 1 << 20, length);
}

}  // namespace
}  // namespace hvsdk

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hvsdk;
  static const SparseBytes* const images[] = {new SparseBytes(MakeImage(ImageFormat::kVhdx, false, false)),
                                              new SparseBytes(MakeImage(ImageFormat::kVhdx, true, false)),
                                              new SparseBytes(MakeImage(ImageFormat::kVhdx, false, true)),
                                              new SparseBytes(MakeImage(ImageFormat::kVhd, false, false)),
                                              new SparseBytes(MakeImage(ImageFormat::kVhd, true, false)),
                                              new SparseBytes(MakeImage(ImageFormat::kVhd, false, true))};
  if (size == 0) return 0;
  const uint8_t flags = *data++;
  --size;
  const size_t kind = (flags & 7) % std::size(images);
  const ImageFormat format = kind < 3 ? ImageFormat::kVhdx : ImageFormat::kVhd;
  SparseBytes image = *images[kind];
  while (size >= 4) {
    const size_t length = std::min<size_t>(data[3], size - 4);
    const uint64_t place = format == ImageFormat::kVhdx ? kVhdxPlaces[data[0] % std::size(kVhdxPlaces)]
                           : data[0] % 8 == 7           ? image.size - 512
                                                        : kVhdPlaces[data[0] % std::size(kVhdPlaces)];
    Poke(image, place + data[1] + 256 * data[2], absl::MakeConstSpan(data + 4, length));
    data += 4 + length;
    size -= 4 + length;
  }
  if ((flags & 8) == 0) Seal(image, format);
  const auto file = std::make_shared<MemoryImageFile>(std::move(image));
  file->set_limit(uint64_t{1} << 40);
  file->set_read_only((flags & 16) != 0);
  const auto open_parent = [](const internal::ParentLink&) -> absl::StatusOr<std::shared_ptr<BlockDevice>> {
    return std::make_shared<MemoryDisk>(std::vector<uint8_t>(1 << 20, 0xAA));
  };
  {
    auto opened = format == ImageFormat::kVhdx ? internal::OpenVhdx(file, {}, open_parent, nullptr)
                                               : internal::OpenVhd(file, {}, open_parent, nullptr);
    if (opened.ok()) {
      BlockDevice& disk = *opened->disk;
      const uint64_t end = disk.info().size_bytes;
      std::vector<uint8_t> bytes(64 << 10, 0x5A);
      HVSDK_CHECK(end != 0);
      for (const uint64_t offset :
           {uint64_t{0}, uint64_t{1} << 20, end / 2 / 4096 * 4096, end - std::min(end, uint64_t{4096})}) {
        const auto part = absl::MakeSpan(bytes).first(std::min<uint64_t>(bytes.size(), end - offset) / 4096 * 4096);
        (void)internal::ReadDisk(disk, offset, part);
        (void)internal::WriteDisk(disk, offset, part);
        (void)internal::ReadDisk(disk, offset, part);
      }
      (void)internal::RunOnDisk(disk, BlockOp::kDiscard, 0, std::min<uint64_t>(end, 3 << 20) / 4096 * 4096);
      (void)internal::RunOnDisk(disk, BlockOp::kFlush);
      (void)internal::WriteDisk(disk, 0, absl::MakeSpan(bytes).first(std::min<uint64_t>(end, 4096) / 4096 * 4096));
      (void)internal::RunOnDisk(disk, BlockOp::kFlush);
    }
  }
  if (format == ImageFormat::kVhdx) {
    (void)internal::DescribeVhdx(*file);
    // A table of 2^26 entries takes its time, and nothing else.
    if (file->size_bytes() < 1 << 28) (void)internal::CheckVhdx(*file, true);
    (void)internal::ResizeVhdx(*file, kDiskBytes * 4);
  } else {
    (void)internal::DescribeVhd(*file);
    if (file->size_bytes() < 1 << 28) (void)internal::CheckVhd(*file, true);
    (void)internal::ResizeVhd(*file, kDiskBytes * 4);
  }
  return 0;
}
