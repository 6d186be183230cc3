// SPDX-License-Identifier: Apache-2.0
// What the footer and the header of a VHD file say, read and checked. Messages do not name the file.

#ifndef HVSDK_SRC_IMAGE_VHD_FILE_H_
#define HVSDK_SRC_IMAGE_VHD_FILE_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hvsdk/image/image_file.h"
#include "image/guid.h"
#include "image/room_map.h"
#include "image/vhd_layout.h"

namespace hvsdk::internal::vhd {

struct Geometry {
  Footer footer{};
  DiskType type = DiskType::kFixed;
  uint64_t disk_bytes = 0;
  uint64_t end =
      0;  // of what the file has, where the footer is, or where a file ends that has lost it: there the next block goes
  // Not of a fixed disk.
  uint64_t table_offset = 0;
  uint32_t block_bytes = 0;
  Guid parent_id{};
  std::vector<std::string> parent_paths;
  std::vector<std::pair<uint64_t, uint64_t>> locators;  // offsets and lengths in the file of what says them

  bool has_parent() const { return type == DiskType::kDifferencing; }
  uint64_t block_count() const { return (disk_bytes + block_bytes - 1) / block_bytes; }
  // A bit for each sector in front of each block, in whole sectors.
  uint64_t bitmap_bytes() const { return (block_bytes / kSector / 8 + kSector - 1) / kSector * kSector; }
  // Room that a block takes.
  uint64_t room_bytes() const { return bitmap_bytes() + block_bytes; }
};

// Whether it begins or ends as a VHD file does.
bool IsVhd(ImageFile& file);
// InvalidArgument: it is none, damaged, or of a kind that is not supported.
absl::StatusOr<Geometry> ReadGeometry(ImageFile& file);
// Puts the footer where it belongs, and the file's end behind it. Nothing that is in use lies behind geometry.end.
absl::Status WriteFooter(ImageFile& file, const Geometry& geometry);
// What a file has besides blocks and its footer.
void TakeStructures(const Geometry& geometry, RoomMap& room);

}  // namespace hvsdk::internal::vhd

#endif  // HVSDK_SRC_IMAGE_VHD_FILE_H_
