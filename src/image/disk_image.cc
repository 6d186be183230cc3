// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/image/disk_image.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "hvsdk/image/raw_disk.h"
#include "image/blocking.h"
#include "image/host_file.h"
#include "image/image_format.h"
#include "image/vhd_file.h"

namespace hvsdk {
namespace {

using internal::DiskError;
using internal::Guid;

absl::Status Named(const std::string& path, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat("disk '", path, "': ", status.message()));
}

// A file, whatever its name.
struct Identity {
  dev_t device = 0;
  ino_t inode = 0;
  bool operator==(const Identity&) const = default;
};
Identity IdentityOf(const std::string& path) {
  struct stat status;
  return stat(path.c_str(), &status) == 0 ? Identity{status.st_dev, status.st_ino} : Identity{};
}

struct ChainLink {
  std::string path;
  Identity identity;
};

constexpr size_t kMaxChain = 64;

absl::StatusOr<ImageFormat> Detect(ImageFile& file) {
  uint8_t start[8] = {};
  if (file.size_bytes() >= sizeof(start)) {
    RETURN_IF_ERROR(internal::ToStatus(internal::Read(file, 0, absl::MakeSpan(start)), "its start"));
  }
  if (std::memcmp(start, "vhdxfile", 8) == 0) return ImageFormat::kVhdx;
  return internal::vhd::IsVhd(file) ? ImageFormat::kVhd : ImageFormat::kRaw;
}

absl::StatusOr<ImageFormat> DetectIfUnnamed(ImageFile& file, ImageFormat format) {
  if (format != ImageFormat::kDetect) return format;
  auto detected = Detect(file);
  if (!detected.ok()) return Named(file.path(), detected.status());
  return detected;
}

absl::StatusOr<internal::OpenedImage> OpenFormat(ImageFormat format, std::shared_ptr<ImageFile> file, BlockInfo info,
                                                 const internal::ParentOpener& open_parent,
                                                 std::function<void(const absl::Status&)> on_failure) {
  if (format == ImageFormat::kVhd)
    return internal::OpenVhd(std::move(file), std::move(info), open_parent, std::move(on_failure));
  return internal::OpenVhdx(std::move(file), std::move(info), open_parent, std::move(on_failure));
}

// An image that is not raw, and above it in the chain its children.
absl::StatusOr<internal::OpenedImage> OpenChain(const std::string& path, ImageFormat format, bool follow_parents,
                                                const ImageOptions& options, std::vector<ChainLink> chain,
                                                const std::shared_ptr<FileEngine>& engine,
                                                std::shared_ptr<ImageFile> file) {
  chain.push_back({path, IdentityOf(path)});
  BlockInfo info;
  info.id = options.id;
  info.serial = options.serial;
  const auto open_parent = [&](const internal::ParentLink& link) -> absl::StatusOr<std::shared_ptr<BlockDevice>> {
    if (link.paths.empty()) return absl::InvalidArgumentError("it does not say where its parent is");
    if (!follow_parents) {
      return absl::InvalidArgumentError(
          absl::StrCat("it has the parent '", link.paths[0],
                       "', which is read only if the format is named: it may be the work of a guest"));
    }
    if (chain.size() >= kMaxChain)
      return absl::InvalidArgumentError(absl::StrCat("it has more than ", kMaxChain, " parents"));
    const std::filesystem::path folder = std::filesystem::path(path).parent_path();
    std::string tried;
    for (const std::string& place : link.paths) {
      const std::string parent_path = (folder / place).lexically_normal().string();
      if (access(parent_path.c_str(), F_OK) != 0) {
        absl::StrAppend(&tried, tried.empty() ? "'" : ", '", parent_path, "'");
        continue;
      }
      const Identity identity = IdentityOf(parent_path);
      for (const ChainLink& child : chain) {
        if (child.identity == identity) {
          return absl::InvalidArgumentError(absl::StrCat("its parent '", parent_path, "' has it for a parent, too"));
        }
      }
      ImageOptions parent_options;
      parent_options.read_only = true;
      parent_options.on_failure = options.on_failure;
      auto parent_file = OpenImageFile(parent_path, {.read_only = true}, engine);
      if (!parent_file.ok())
        return absl::Status(parent_file.status().code(), absl::StrCat("its parent: ", parent_file.status().message()));
      auto parent = OpenChain(parent_path, format, true, parent_options, chain, engine, *std::move(parent_file));
      if (!parent.ok())
        return absl::Status(parent.status().code(), absl::StrCat("its parent: ", parent.status().message()));
      if (std::find(link.ids.begin(), link.ids.end(), parent->id_for_children) == link.ids.end()) {
        return absl::InvalidArgumentError(
            absl::StrCat("its parent '", parent_path, "' is not the one that it was made over, or was written since"));
      }
      return parent->disk;
    }
    return absl::InvalidArgumentError(absl::StrCat("its parent is not there: ", tried));
  };
  auto opened = OpenFormat(format, std::move(file), std::move(info), open_parent, options.on_failure);
  if (!opened.ok()) return Named(path, opened.status());
  return opened;
}

}  // namespace

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
  const bool follow_parents = options.follow_parents || options.format != ImageFormat::kDetect;
  ASSIGN_OR_RETURN(internal::OpenedImage opened,
                   OpenChain(path, format, follow_parents, options, {}, engine, std::move(file)));
  return std::move(opened.disk);
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
    ImageOptions parent_options;
    parent_options.read_only = true;
    ASSIGN_OR_RETURN(std::shared_ptr<ImageFile> parent_file,
                     OpenImageFile(options.parent, {.read_only = true}, engine));
    ASSIGN_OR_RETURN(const internal::OpenedImage opened, OpenChain(options.parent, options.format, true, parent_options,
                                                                   {}, engine, std::move(parent_file)));
    const BlockInfo& info = opened.disk->info();
    if (wanted.disk_bytes == 0) wanted.disk_bytes = info.size_bytes;
    if (wanted.logical_sector_bytes == 0) wanted.logical_sector_bytes = info.logical_block_bytes;
    if (wanted.logical_sector_bytes != info.logical_block_bytes) {
      return DiskError(path, absl::StrCat("sectors of ", wanted.logical_sector_bytes, " bytes: its parent '",
                                          options.parent, "' has ", info.logical_block_bytes));
    }
    std::error_code ignored;
    const std::filesystem::path absolute = std::filesystem::absolute(options.parent, ignored).lexically_normal();
    const std::filesystem::path folder = std::filesystem::absolute(path, ignored).lexically_normal().parent_path();
    parent.id_for_children = opened.id_for_children;
    parent.absolute_path = absolute.string();
    parent.relative_path = absolute.lexically_relative(folder).string();
    if (absl::string_view(parent.relative_path).substr(0, 1) != ".") parent.relative_path.insert(0, "./");
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
  if (format == ImageFormat::kVhd) check = internal::CheckVhd(*file);
  if (!check.ok()) return Named(path, check.status());
  return check;
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
