// SPDX-License-Identifier: Apache-2.0
// Disk images: opens and makes disks that are kept in raw files, VHD and VHDX files, with their parents.
//
// VHDX: dynamic, fixed and differencing, with sectors of 512 or 4096 bytes, up to 64 TiB. An image whose log is not
// empty, because power was lost or a program was killed, is made whole when it is opened for writing. VHD: fixed,
// dynamic and differencing, up to 2040 GiB. Raw: anything else; RawDisk.
//
// What was flushed is there after any loss of power, and the image can be opened. What was written since may be there
// in part. A program that is killed loses, unlike with raw files, also what it wrote without a flush to blocks that the
// image did not have before.
//
// The format is found out from the contents, unless it is named. A guest can write what it likes into a raw disk, and
// make it an image that names any file of the host as its parent: so an image with a parent is opened only if its
// format is named, or `follow_parents` says that no guest has written it.
//
// Discards always read as zeroes. A block that is discarded as a whole gives its room back: to the file system where
// that has holes, and to other blocks of the image.
//
// Parents are opened for reading. They are looked for where the image says, relative to it first, and must be the ones
// that it was made over: one that was written since is refused.
//
// Errors are one line that names the file; those of a parent name both.
//
//   const auto engine = FileEngine::Create(FileEngineKind::kAuto);
//   if (!engine.ok()) return engine.status();
//   const absl::StatusOr<std::shared_ptr<ImageDisk>> disk =
//       OpenImage("debian.vhdx", {.format = ImageFormat::kVhdx}, *engine);
//   if (!disk.ok()) return disk.status();

#ifndef HVSDK_IMAGE_DISK_IMAGE_H_
#define HVSDK_IMAGE_DISK_IMAGE_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "hvsdk/image/image_disk.h"
#include "hvsdk/image/image_file.h"
#include "hvsdk/os/file_engine.h"

namespace hvsdk {

enum class ImageFormat : uint8_t { kDetect, kRaw, kVhd, kVhdx };

// "raw", "vhd", "vhdx"; kDetect is "".
absl::string_view ImageFormatName(ImageFormat format);
// InvalidArgument: neither of these.
absl::StatusOr<ImageFormat> ParseImageFormat(absl::string_view name);

struct ImageOptions {
  ImageFormat format = ImageFormat::kDetect;
  bool read_only = false;
  bool follow_parents = false;  // also of an image whose format was found out
  // As BlockInfo's; an image that has an id of its own has that where this is all zeroes.
  std::array<uint8_t, 16> id{};
  std::string serial{};
  // Told that a sync failed, or that the image is damaged: one line that names the file, DataLoss. On any thread. May
  // be null.
  std::function<void(const absl::Status&)> on_failure = nullptr;
};

// Errors as RawDisk::Open has them. InvalidArgument also: damaged, of a kind that is not supported, or of another
// format than was named; its parent is not there, is not the one, or is the image itself. FailedPrecondition also: to
// be made whole it must be opened for writing.
absl::StatusOr<std::shared_ptr<ImageDisk>> OpenImage(const std::string& path, const ImageOptions& options,
                                                     std::shared_ptr<FileEngine> engine);

// What an image says of itself.
struct ImageDescription {
  ImageFormat format = ImageFormat::kRaw;
  std::string kind;  // "raw", "fixed", "dynamic", "differencing"
  uint64_t disk_bytes = 0;
  uint64_t file_bytes = 0;
  uint32_t block_bytes = 0;  // raw: 0
  uint32_t logical_sector_bytes = 512;
  uint32_t physical_sector_bytes = 512;
  std::string id;                    // a GUID; raw: empty
  std::string creator;               // as far as it says
  std::vector<std::string> parents;  // where it is looked for, in this order
  bool needs_replay = false;         // of its log
};
absl::StatusOr<ImageDescription> DescribeImage(const std::string& path, ImageFormat format,
                                               std::shared_ptr<FileEngine> engine);

struct ImageCreateOptions {
  ImageFormat format = ImageFormat::kVhdx;
  uint64_t disk_bytes = 0;             // whole sectors; with a parent 0: as large as it
  bool is_fixed = false;               // room for all blocks from the start
  uint32_t block_bytes = 0;            // 0: as Windows has it
  uint32_t logical_sector_bytes = 0;   // 512 or, VHDX alone, 4096; 0: 512, or as the parent's
  uint32_t physical_sector_bytes = 0;  // 0: 4096, and 512 for VHD
  std::string parent;                  // a differencing image over this one, of the same format
};

// Makes a file that was not there (AlreadyExists). InvalidArgument: the options, or the parent.
absl::Status CreateImage(const std::string& path, const ImageCreateOptions& options,
                         std::shared_ptr<FileEngine> engine);

// What is wrong with an image: blocks that lie outside the file, that two have, or that lie where the image keeps
// something else. At most 100 faults are listed, a line each.
struct ImageCheck {
  std::vector<std::string> faults;
  uint64_t blocks = 0;          // of the disk
  uint64_t present_blocks = 0;  // that the image has
  uint64_t unused_bytes = 0;    // of the file, that nothing uses
  bool was_replayed = false;    // its log, with `repair`
};
// Looks at all of the allocation table. `repair`: replays the log of an image that was not closed. FailedPrecondition:
// that would be needed. Memory: a bit for each MiB (VHDX) or sector (VHD) that the file has, ResourceExhausted beyond 1
// GiB of it.
absl::StatusOr<ImageCheck> CheckImage(const std::string& path, ImageFormat format, bool repair,
                                      std::shared_ptr<FileEngine> engine);

// Makes the disk larger; what is new are zeroes, or the parent's if that is larger. Power may be lost meanwhile, but
// for a fixed VHD, whose one footer moves. InvalidArgument: smaller, beyond what the format has, or a differencing
// image of VHD, whose parent's size it is.
absl::Status ResizeImage(const std::string& path, ImageFormat format, uint64_t disk_bytes,
                         std::shared_ptr<FileEngine> engine);

}  // namespace hvsdk

#endif  // HVSDK_IMAGE_DISK_IMAGE_H_
