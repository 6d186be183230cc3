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
  std::array<uint8_t, 16> id{};        // VHDX: by which guests know the disk; zeroes: a new one
};

// Makes a file that was not there (AlreadyExists). InvalidArgument: the options, or the parent.
absl::Status CreateImage(const std::string& path, const ImageCreateOptions& options,
                         std::shared_ptr<FileEngine> engine);

// What is wrong with an image: blocks that lie outside the file, that two have, or that lie where the image keeps
// something else. At most 100 faults are listed, a line each.
struct ImageCheck {
  std::vector<std::string> faults;
  uint64_t blocks = 0;              // of the disk
  uint64_t present_blocks = 0;      // that the image has
  uint64_t unused_bytes = 0;        // of the file, that nothing uses
  bool was_replayed = false;        // VHDX: its log, with `repair`
  bool footer_was_written = false;  // VHD: from its copy, with `repair`
};
// Looks at all of the allocation table. `repair`: replays the log of an image that was not closed, and puts a footer
// that was lost in its place. FailedPrecondition: a log would have to be replayed. Memory: a bit for each MiB (VHDX) or sector (VHD) that the file has, ResourceExhausted beyond 1
// GiB of it.
absl::StatusOr<ImageCheck> CheckImage(const std::string& path, ImageFormat format, bool repair,
                                      std::shared_ptr<FileEngine> engine);

// Makes the disk larger; what is new are zeroes, or the parent's if that is larger. Power may be lost meanwhile: it
// has the old size or the new one. (A fixed VHD that was on its way is one that other programs do not know until it is
// repaired, or made larger again.) InvalidArgument: smaller, beyond what the format has, or a differencing
// image of VHD, whose parent's size it is.
absl::Status ResizeImage(const std::string& path, ImageFormat format, uint64_t disk_bytes,
                         std::shared_ptr<FileEngine> engine);

// Told how much is done of all, in bytes, by whoever called, for a progress bar. May be null.
using ImageProgress = std::function<void(uint64_t done, uint64_t all)>;

struct ImageCompaction {
  uint64_t bytes_before = 0;  // of the file
  uint64_t bytes_after = 0;
};
// Makes the file of a dynamic or differencing image as short as it can be: blocks that are all zeroes are let go of, and
// the others move together. The disk stays the same, and the parent that it may be. Power may be lost meanwhile; room of
// the file that is in nobody's use is found again when it is compacted again. InvalidArgument: a raw disk, or a fixed
// image, which have room for all; an image with faults. ResourceExhausted: more than 64 Mi blocks.
absl::StatusOr<ImageCompaction> CompactImage(const std::string& path, ImageFormat format, const ImageProgress& progress,
                                             std::shared_ptr<FileEngine> engine);

// Copies what a differencing image has into its parent, which becomes as large, and has the same contents. The image
// stays, and reads as before, also when power is lost meanwhile; then the parent is something in between, and to merge
// again makes it good. Other children of the parent have lost it: a VHDX among them is refused from then on, a VHD is
// not what it was. InvalidArgument: it has no parent, or a larger one; or as OpenImage.
absl::Status MergeImage(const std::string& path, ImageFormat format, const ImageProgress& progress,
                        std::shared_ptr<FileEngine> engine);

// Gives a differencing image another parent, of the same format. Its disk stays the same: where the old parent and the
// new one differ, it gets what it had. If the new one is the one that it had, and has moved, nothing is copied, and the
// place where it was need not be there. Power may be lost meanwhile. InvalidArgument: it has no parent; the new one has
// other sectors, or is the image itself or a child of it, or, VHD, is of another size; or as OpenImage.
absl::Status RebaseImage(const std::string& path, ImageFormat format, const std::string& parent,
                         const ImageProgress& progress, std::shared_ptr<FileEngine> engine);

}  // namespace hvsdk

#endif  // HVSDK_IMAGE_DISK_IMAGE_H_
