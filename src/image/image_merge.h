// SPDX-License-Identifier: Apache-2.0
// Images and their parents: a child's contents copied into its parent, and what a child needs to have another. Whenever
// power is lost the child's disk has the contents that it had.
//
// Messages do not name the files.

#ifndef HVSDK_SRC_IMAGE_IMAGE_MERGE_H_
#define HVSDK_SRC_IMAGE_IMAGE_MERGE_H_

#include <memory>

#include "absl/status/status.h"
#include "hvsdk/image/disk_image.h"
#include "hvsdk/image/image_file.h"
#include "image/image_format.h"

namespace hvsdk::internal {

// `link` says where the parent is; its ids are not used.
absl::Status MergeVhdx(const std::shared_ptr<ImageFile>& child_file, const std::shared_ptr<ImageFile>& parent_file,
                       ParentOfNew link, const ParentOpener& open_grandparent, const ImageProgress& progress);
absl::Status MergeVhd(const std::shared_ptr<ImageFile>& child_file, const std::shared_ptr<ImageFile>& parent_file,
                      const ParentOpener& open_grandparent, const ImageProgress& progress);

// Writes to `disk`, which is the child's, what it has of `before` and would not have of `after`. Lasts when it returns.
absl::Status CopyFromParent(OpenedMap& child, BlockDevice& disk, BlockDevice& before, BlockDevice& after,
                            const ImageProgress& progress);

}  // namespace hvsdk::internal

#endif  // HVSDK_SRC_IMAGE_IMAGE_MERGE_H_
