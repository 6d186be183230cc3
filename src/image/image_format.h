// SPDX-License-Identifier: Apache-2.0
// What the formats offer to disk_image.h, each on an image file. Messages do not name the file.

#ifndef HVSDK_SRC_IMAGE_IMAGE_FORMAT_H_
#define HVSDK_SRC_IMAGE_IMAGE_FORMAT_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "hvsdk/image/disk_image.h"
#include "hvsdk/image/image_file.h"
#include "image/block_map.h"
#include "image/guid.h"
#include "image/vhd_layout.h"

namespace hvsdk::internal {

// Who an image's parent is, by what the image says.
struct ParentLink {
  std::vector<std::string> paths;  // with '/'; relative ones from the image's folder
  std::vector<Guid> ids;           // one of them is the parent's id for its children
};

// Opens the parent and checks that it is the one.
using ParentOpener = std::function<absl::StatusOr<std::shared_ptr<BlockDevice>>(const ParentLink&)>;

struct OpenedImage {
  std::shared_ptr<ImageDisk> disk;
  Guid id_for_children{};
};

// `info` has the id and serial that were asked for.
// `new_id`: what children will know it by once it is written; zeroes: a new one.
absl::StatusOr<OpenedImage> OpenVhdx(std::shared_ptr<ImageFile> file, BlockInfo info, const ParentOpener& open_parent,
                                     std::function<void(const absl::Status&)> on_failure, const Guid& new_id = {});
absl::StatusOr<ImageDescription> DescribeVhdx(ImageFile& file);
absl::StatusOr<OpenedImage> OpenVhd(std::shared_ptr<ImageFile> file, BlockInfo info, const ParentOpener& open_parent,
                                    std::function<void(const absl::Status&)> on_failure);
absl::StatusOr<ImageDescription> DescribeVhd(ImageFile& file);

// What a file says, for whoever wants to know what it has itself and what its parent has.
struct OpenedMap {
  std::unique_ptr<BlockMap> map;
  uint64_t disk_bytes = 0;
  uint32_t logical_sector_bytes = 512;
  bool has_parent = false;
  ParentLink link;
};
absl::StatusOr<OpenedMap> OpenVhdxMap(std::shared_ptr<ImageFile> file);
absl::StatusOr<OpenedMap> OpenVhdMap(std::shared_ptr<ImageFile> file);

// What an image says of its parent.
struct ParentOfNew {
  Guid id_for_children{};
  std::string relative_path, absolute_path;
  Guid next_id{};  // VHDX: or this, once it was written; zeroes: none
};
// The file is empty. All options are set. Lasts when it returns.
absl::Status CreateVhdx(ImageFile& file, const ImageCreateOptions& options, const ParentOfNew* parent);
absl::Status CreateVhd(ImageFile& file, const ImageCreateOptions& options, const ParentOfNew* parent);

// The bytes of a VHDX parent's locator.
std::vector<uint8_t> EncodeVhdxParent(const ParentOfNew& parent);
// Changes what a differencing image says of its parent, as a whole when power is lost. ResourceExhausted: there is no
// room for that.
absl::Status SetVhdxParent(ImageFile& file, const ParentOfNew& parent);
absl::Status SetVhdParent(ImageFile& file, const ParentOfNew& parent);

absl::StatusOr<ImageCheck> CheckVhdx(ImageFile& file, bool repair);
absl::StatusOr<ImageCheck> CheckVhd(ImageFile& file, bool repair);
absl::Status ResizeVhdx(ImageFile& file, uint64_t disk_bytes, const Guid& new_id = {});
absl::Status ResizeVhd(ImageFile& file, uint64_t disk_bytes);
absl::StatusOr<ImageCompaction> CompactVhdx(ImageFile& file, const ImageProgress& progress);
absl::StatusOr<ImageCompaction> CompactVhd(ImageFile& file, const ImageProgress& progress);
// A footer's sizes, and its checksum.
void SetVhdSize(uint64_t disk_bytes, vhd::Footer& footer);

}  // namespace hvsdk::internal

#endif  // HVSDK_SRC_IMAGE_IMAGE_FORMAT_H_
