// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/image/disk_image.h"

#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "hvsdk/image/raw_disk.h"
#include "image/blocking.h"
#include "image/host_file.h"
#include "image/image_chain.h"
#include "image/image_format.h"

namespace hvsdk {
using internal::DetectIfUnnamed;
using internal::DiskError;
using internal::Named;

absl::string_view ImageFormatName(ImageFormat format) {
  switch (format) {
    case ImageFormat::kRaw:
      return "raw";
    case ImageFormat::kVhd:
      return "vhd";
    case ImageFormat::kVhdx:
      return "vhdx";
    case ImageFormat::kDetect:
      break;
  }
  return "";
}

absl::StatusOr<ImageFormat> ParseImageFormat(absl::string_view name) {
  for (const ImageFormat format : {ImageFormat::kRaw, ImageFormat::kVhd, ImageFormat::kVhdx}) {
    if (name == ImageFormatName(format)) return format;
  }
  return absl::InvalidArgumentError(absl::StrCat("the format \"", name, "\" is none of raw, vhd and vhdx"));
}

absl::StatusOr<std::shared_ptr<ImageDisk>> OpenImage(const std::string& path, const ImageOptions& options,
                                                     std::shared_ptr<FileEngine> engine) {
  const auto open_raw = [&]() -> absl::StatusOr<std::shared_ptr<ImageDisk>> {
    return RawDisk::Open(path,
                         {.read_only = options.read_only,
                          .id = options.id,
                          .serial = options.serial,
                          .on_writes_lost = options.on_failure},
                         engine);
  };
  struct stat status;
  const bool is_file = stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode);
  if (options.format == ImageFormat::kRaw || (options.format == ImageFormat::kDetect && !is_file)) return open_raw();
  ImageFormat format = options.format;
  std::shared_ptr<ImageFile> file;
  ASSIGN_OR_RETURN(file,
                   OpenImageFile(path, {.read_only = options.read_only, .on_writes_lost = options.on_failure}, engine));
  ASSIGN_OR_RETURN(format, DetectIfUnnamed(*file, format));
  if (format == ImageFormat::kRaw) {
    file.reset();
    return open_raw();
  }
  BlockInfo info;
  info.id = options.id;
  info.serial = options.serial;
  internal::ParentOpener open_parent = internal::MakeParentOpener(path, format, {}, options.on_failure, engine);
  if (!options.follow_parents && options.format == ImageFormat::kDetect) {
    open_parent = [](const internal::ParentLink& link) -> absl::StatusOr<std::shared_ptr<BlockDevice>> {
      return absl::InvalidArgumentError(
          absl::StrCat("it has the parent '", link.paths.empty() ? "" : link.paths[0],
                       "', which is read only if the format is named: it may be the work of a guest"));
    };
  }
  auto opened = internal::OpenFormat(format, std::move(file), std::move(info), open_parent, options.on_failure);
  if (!opened.ok()) return Named(path, opened.status());
  return std::move(opened->disk);
}

absl::StatusOr<ImageDescription> DescribeImage(const std::string& path, ImageFormat format,
                                               std::shared_ptr<FileEngine> engine) {
  ASSIGN_OR_RETURN(const std::shared_ptr<ImageFile> file, OpenImageFile(path, {.read_only = true}, std::move(engine)));
  ASSIGN_OR_RETURN(format, DetectIfUnnamed(*file, format));
  absl::StatusOr<ImageDescription> description;
  if (format == ImageFormat::kRaw) {
    description = ImageDescription{.kind = "raw", .disk_bytes = file->size_bytes(), .file_bytes = file->size_bytes()};
  } else {
    description = format == ImageFormat::kVhd ? internal::DescribeVhd(*file) : internal::DescribeVhdx(*file);
  }
  if (!description.ok()) return Named(path, description.status());
  return description;
}

absl::Status CreateImage(const std::string& path, const ImageCreateOptions& options,
                         std::shared_ptr<FileEngine> engine) {
  ImageCreateOptions wanted = options;
  if (options.format != ImageFormat::kVhd && options.format != ImageFormat::kVhdx) {
    if (!options.parent.empty()) return DiskError(path, "a raw disk has no parent");
    if (options.format == ImageFormat::kDetect) return DiskError(path, "the format must be named");
  }
  internal::ParentOfNew parent;
  if (!options.parent.empty()) {
    ASSIGN_OR_RETURN(std::shared_ptr<ImageFile> parent_file,
                     OpenImageFile(options.parent, {.read_only = true}, engine));
    const auto opened =
        internal::OpenFormat(options.format, std::move(parent_file), {},
                             internal::MakeParentOpener(options.parent, options.format, {}, nullptr, engine), nullptr);
    if (!opened.ok()) return Named(options.parent, opened.status());
    const BlockInfo& info = opened->disk->info();
    if (wanted.disk_bytes == 0) wanted.disk_bytes = info.size_bytes;
    if (wanted.logical_sector_bytes == 0) wanted.logical_sector_bytes = info.logical_block_bytes;
    if (wanted.logical_sector_bytes != info.logical_block_bytes) {
      return DiskError(path, absl::StrCat("sectors of ", wanted.logical_sector_bytes, " bytes: its parent '",
                                          options.parent, "' has ", info.logical_block_bytes));
    }
    parent = internal::DescribeParent(options.parent, path, opened->id_for_children);
  }
  if (wanted.logical_sector_bytes == 0) wanted.logical_sector_bytes = 512;
  if (wanted.format == ImageFormat::kVhdx) {
    if (wanted.block_bytes == 0) wanted.block_bytes = (options.parent.empty() ? 32 : 2) << 20;
    if (wanted.physical_sector_bytes == 0) wanted.physical_sector_bytes = 4096;
  } else {
    if (wanted.block_bytes == 0) wanted.block_bytes = 2 << 20;
    if (wanted.physical_sector_bytes == 0) wanted.physical_sector_bytes = 512;
  }
  ASSIGN_OR_RETURN(const std::shared_ptr<ImageFile> file, OpenImageFile(path, {.create = true}, engine));
  absl::Status status;
  const internal::ParentOfNew* const over = options.parent.empty() ? nullptr : &parent;
  if (wanted.format == ImageFormat::kVhdx) {
    status = internal::CreateVhdx(*file, wanted, over);
  } else if (wanted.format == ImageFormat::kVhd) {
    status = internal::CreateVhd(*file, wanted, over);
  } else {
    status = internal::ToStatus(file->Resize(wanted.disk_bytes), "its room");
  }
  if (!status.ok()) unlink(path.c_str());
  return Named(path, status);
}

absl::StatusOr<ImageCheck> CheckImage(const std::string& path, ImageFormat format, bool repair,
                                      std::shared_ptr<FileEngine> engine) {
  ASSIGN_OR_RETURN(const std::shared_ptr<ImageFile> file,
                   OpenImageFile(path, {.read_only = !repair}, std::move(engine)));
  ASSIGN_OR_RETURN(format, DetectIfUnnamed(*file, format));
  absl::StatusOr<ImageCheck> check = ImageCheck{};
  if (format == ImageFormat::kVhdx) check = internal::CheckVhdx(*file, repair);
  if (format == ImageFormat::kVhd) check = internal::CheckVhd(*file, repair);
  if (!check.ok()) return Named(path, check.status());
  return check;
}

absl::StatusOr<ImageCompaction> CompactImage(const std::string& path, ImageFormat format, const ImageProgress& progress,
                                             std::shared_ptr<FileEngine> engine) {
  ASSIGN_OR_RETURN(const std::shared_ptr<ImageFile> file, OpenImageFile(path, {}, std::move(engine)));
  ASSIGN_OR_RETURN(format, DetectIfUnnamed(*file, format));
  if (format == ImageFormat::kRaw) return DiskError(path, "a raw disk has room for all of it");
  auto compaction =
      format == ImageFormat::kVhd ? internal::CompactVhd(*file, progress) : internal::CompactVhdx(*file, progress);
  if (!compaction.ok()) return Named(path, compaction.status());
  return compaction;
}

absl::Status ResizeImage(const std::string& path, ImageFormat format, uint64_t disk_bytes,
                         std::shared_ptr<FileEngine> engine) {
  ASSIGN_OR_RETURN(const std::shared_ptr<ImageFile> file, OpenImageFile(path, {}, std::move(engine)));
  ASSIGN_OR_RETURN(format, DetectIfUnnamed(*file, format));
  if (format == ImageFormat::kVhdx) return Named(path, internal::ResizeVhdx(*file, disk_bytes));
  if (format == ImageFormat::kVhd) return Named(path, internal::ResizeVhd(*file, disk_bytes));
  if (disk_bytes < file->size_bytes() || disk_bytes % 512 != 0) {
    return DiskError(path, absl::StrCat("a disk of ", disk_bytes, " bytes: it has ", file->size_bytes(),
                                        ", and can only be made larger, in whole sectors of 512 bytes"));
  }
  return Named(path, internal::ToStatus(file->Resize(disk_bytes), "its room"));
}

}  // namespace hvsdk
