// SPDX-License-Identifier: Apache-2.0
// What the header section and the metadata of a VHDX file say, read and checked ([MS-VHDX] 2.2, 2.6), and its headers
// written. Messages do not name the file.

#ifndef HVSDK_SRC_IMAGE_VHDX_FILE_H_
#define HVSDK_SRC_IMAGE_VHDX_FILE_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hvsdk/image/image_file.h"
#include "image/room_map.h"
#include "image/vhdx_layout.h"

namespace hvsdk::internal::vhdx {

// The newer of the two headers that are whole.
struct CurrentHeader {
  Header header{};
  int slot = 0;
};

struct Geometry {
  uint64_t bat_offset = 0;
  uint64_t bat_bytes = 0;
  uint64_t metadata_offset = 0;
  uint64_t metadata_bytes = 0;
  std::vector<std::pair<uint64_t, uint64_t>> other_regions;  // offsets and lengths; nobody here knows what they are
  uint64_t disk_size_offset = 0;                             // in the file, of the metadata item
  uint64_t parent_locator_offset = 0;
  uint32_t parent_locator_bytes = 0;

  uint64_t disk_bytes = 0;
  uint32_t block_bytes = 0;
  uint32_t logical_sector_bytes = 0;
  uint32_t physical_sector_bytes = 0;
  bool leave_blocks_allocated = false;
  bool has_parent = false;
  Guid disk_id{};
  std::map<std::string, std::string> parent_locator;  // UTF-8

  uint64_t block_count() const { return (disk_bytes + block_bytes - 1) / block_bytes; }
  // How many blocks one sector bitmap covers, of 2^23 sectors (2.4).
  uint64_t chunk_ratio() const { return (uint64_t{1} << 23) * logical_sector_bytes / block_bytes; }
  uint64_t bitmap_count() const { return (block_count() + chunk_ratio() - 1) / chunk_ratio(); }
  // Where in the BAT an entry stands, in the file.
  uint64_t BlockEntry(uint64_t block) const { return bat_offset + (block + block / chunk_ratio()) * 8; }
  uint64_t BitmapEntry(uint64_t block) const {
    return bat_offset + ((block / chunk_ratio()) * (chunk_ratio() + 1) + chunk_ratio()) * 8;
  }
  uint64_t entry_count() const {
    return has_parent ? bitmap_count() * (chunk_ratio() + 1) : block_count() + (block_count() - 1) / chunk_ratio();
  }
};

// FailedPrecondition: it is no VHDX file. InvalidArgument: a damaged one, or one of a kind that is not supported.
absl::StatusOr<CurrentHeader> ReadHeader(ImageFile& file);
// Once the log has been replayed.
absl::StatusOr<Geometry> ReadGeometry(ImageFile& file, const Header& header);

// What a file has besides blocks and bitmaps.
void TakeStructures(const Header& header, const Geometry& geometry, RoomMap& room);

// Writes the header into both places, one after the other, so that one is whole whenever power is lost; lasts when it
// returns. The sequence number goes up.
BlockStatus UpdateHeader(ImageFile& file, CurrentHeader& current);

// The bytes of a header, and of a region table, with their checksums.
std::vector<uint8_t> EncodeHeader(const Header& header);
std::vector<uint8_t> EncodeRegionTable(uint64_t bat_offset, uint32_t bat_bytes, uint64_t metadata_offset,
                                       uint32_t metadata_bytes);

}  // namespace hvsdk::internal::vhdx

#endif  // HVSDK_SRC_IMAGE_VHDX_FILE_H_
