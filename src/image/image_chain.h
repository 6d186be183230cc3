// SPDX-License-Identifier: Apache-2.0
// Images with their parents: found, opened one above the other, and told apart.

#ifndef HVSDK_SRC_IMAGE_IMAGE_CHAIN_H_
#define HVSDK_SRC_IMAGE_IMAGE_CHAIN_H_

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hvsdk/image/disk_image.h"
#include "hvsdk/image/image_file.h"
#include "hvsdk/os/file_engine.h"
#include "image/image_format.h"

namespace hvsdk::internal {

// An error, of the file that it is about.
absl::Status Named(const std::string& path, const absl::Status& status);

// A file, whatever its name.
struct FileIdentity {
  dev_t device = 0;
  ino_t inode = 0;
  bool operator==(const FileIdentity&) const = default;

  static FileIdentity Of(const std::string& path);
};
struct ChainLink {
  std::string path;
  FileIdentity identity;
};

// So many images, one over the other, are a disk at most.
inline constexpr size_t kMaxChain = 64;

absl::StatusOr<ImageFormat> DetectIfUnnamed(ImageFile& file, ImageFormat format);

// Where the parent of the image at `path` is. InvalidArgument: nowhere.
absl::StatusOr<std::string> FindParent(const std::string& path, const ParentLink& link);
// InvalidArgument: an image with that id is not the parent.
absl::Status CheckIsParent(const ParentLink& link, const std::string& parent_path, const Guid& id);

// Opens parents, for reading, of the image at `path`. `chain` are its children.
ParentOpener MakeParentOpener(const std::string& path, ImageFormat format, std::vector<ChainLink> chain,
                              std::function<void(const absl::Status&)> on_failure, std::shared_ptr<FileEngine> engine);

// VHD or VHDX.
absl::StatusOr<OpenedImage> OpenFormat(ImageFormat format, std::shared_ptr<ImageFile> file, BlockInfo info,
                                       const ParentOpener& open_parent,
                                       std::function<void(const absl::Status&)> on_failure);

// What an image at `path` says of a parent that has this id.
ParentOfNew DescribeParent(const std::string& parent_path, const std::string& path, const Guid& id);

}  // namespace hvsdk::internal

#endif  // HVSDK_SRC_IMAGE_IMAGE_CHAIN_H_
