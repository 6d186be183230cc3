// SPDX-License-Identifier: Apache-2.0
// Snapshots of disks in use: a new differencing image is put over the one that a disk is written to, and takes over, so that the old one
// stays as it is at that moment, and can be read by anybody.
//
// What was the disk's image is the snapshot, under its own name; what is written from then on is in the new one, whose parent it is.
// Guests know the new one by the id and the serial of the old, so it may take its place while they run. To go back to the snapshot is to make
// another image over it, and to be rid of it is to merge the new one into it (MergeImage).
//
// Thread-compatible; blocks.
//
//   // Nothing is under way at the disk.
//   const auto taken = SnapshotImages({{disk, "debian-2.avhdx"}}, nullptr, engine);
//   if (!taken.ok()) return taken.status();
//   disk = (*taken)[0];

#ifndef HVSDK_IMAGE_SNAPSHOT_H_
#define HVSDK_IMAGE_SNAPSHOT_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hvsdk/image/image_disk.h"
#include "hvsdk/os/file_engine.h"

namespace hvsdk {

struct ImageSnapshot {
  std::shared_ptr<ImageDisk> disk;
  std::string path;  // of the new image, where none must be yet
};

// Whether a disk could have a snapshot now, as far as that can be told before. InvalidArgument: it is no VHDX, which alone can be a parent here, or
// is only read; or it has 64 parents, with itself. One line that names its file.
absl::Status CheckSnapshot(const ImageDisk& disk);

// Of several disks at one moment: of all of them or of none. Nothing is under way at any, and nothing is submitted to them from then on but by what
// is returned, in their order; unless that is an error, which has made no file, and after which they go on as before. When it returns all of it lasts.
// Errors as CheckSnapshot, OpenImage and CreateImage have them. `on_failure` as ImageOptions'.
absl::StatusOr<std::vector<std::shared_ptr<ImageDisk>>> SnapshotImages(
    const std::vector<ImageSnapshot>& wanted, const std::function<void(const absl::Status&)>& on_failure,
    const std::shared_ptr<FileEngine>& engine);

}  // namespace hvsdk

#endif  // HVSDK_IMAGE_SNAPSHOT_H_
