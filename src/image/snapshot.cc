// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/image/snapshot.h"

#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "image/host_file.h"
#include "image/image_chain.h"
#include "image/image_format.h"
#include "image/mapped_disk.h"
#include "image/vhdx_file.h"
#include "os/linux/folder.h"

namespace hvsdk {
namespace {

using internal::DiskError;
using internal::MappedDisk;
using internal::Named;

absl::StatusOr<std::shared_ptr<ImageDisk>> PutOver(const ImageSnapshot& wanted, std::shared_ptr<ImageFile> file,
                                                   const std::function<void(const absl::Status&)>& on_failure) {
  auto& parent = static_cast<MappedDisk&>(*wanted.disk);
  RETURN_IF_ERROR(parent.Settle());
  // By that it is known from now on: it changes with the first write after the image was opened, and no later one follows.
  const auto header = internal::vhdx::ReadHeader(parent.file());
  if (!header.ok()) return Named(parent.path(), header.status());
  const BlockInfo& info = parent.info();
  ImageCreateOptions options;
  options.disk_bytes = info.size_bytes;
  options.block_bytes = 2 << 20;
  options.logical_sector_bytes = info.logical_block_bytes;
  options.physical_sector_bytes = info.physical_block_bytes;
  options.id = info.id;
  const internal::ParentOfNew over =
      internal::DescribeParent(parent.path(), wanted.path, header->header.data_write_guid);
  if (absl::Status made = internal::CreateVhdx(*file, options, &over); !made.ok()) return Named(wanted.path, made);
  // So that a loss of power does not take the new file's name from under what is written to it.
  const std::string folder = internal::FolderOf(wanted.path);
  if (const int error = internal::SyncFolder(folder); error != 0) return internal::DiskSystemError(folder, error);
  BlockInfo child;
  child.id = info.id;
  child.serial = info.serial;
  const auto open_parent = [&](const internal::ParentLink&) -> absl::StatusOr<std::shared_ptr<BlockDevice>> {
    return std::shared_ptr<BlockDevice>(wanted.disk);
  };
  auto opened = internal::OpenVhdx(std::move(file), std::move(child), open_parent, on_failure);
  if (!opened.ok()) return Named(wanted.path, opened.status());
  return std::move(opened->disk);
}

absl::StatusOr<std::shared_ptr<ImageDisk>> MakeOver(const ImageSnapshot& wanted,
                                                    const std::function<void(const absl::Status&)>& on_failure,
                                                    const std::shared_ptr<FileEngine>& engine) {
  ASSIGN_OR_RETURN(std::shared_ptr<ImageFile> file,
                   OpenImageFile(wanted.path, {.create = true, .on_writes_lost = on_failure}, engine));
  auto over = PutOver(wanted, std::move(file), on_failure);
  if (!over.ok()) unlink(wanted.path.c_str());
  return over;
}

}  // namespace

absl::Status CheckSnapshot(const ImageDisk& disk) {
  const auto* mapped = dynamic_cast<const MappedDisk*>(&disk);
  auto format = ImageFormat::kRaw;
  if (mapped != nullptr) {
    ASSIGN_OR_RETURN(format, internal::DetectIfUnnamed(mapped->file(), ImageFormat::kDetect));
  }
  if (format != ImageFormat::kVhdx) {
    return DiskError(disk.path(), absl::StrCat("a snapshot needs a VHDX, and this is ",
                                               format == ImageFormat::kRaw ? "a raw disk" : "a VHD",
                                               "; \"hvimg convert\" makes one of it"));
  }
  if (disk.info().read_only) return DiskError(disk.path(), "it is only read, and stays as it is");
  size_t images = 0;
  for (; mapped != nullptr; mapped = dynamic_cast<const MappedDisk*>(mapped->parent())) ++images;
  if (images >= internal::kMaxChain) {
    return DiskError(disk.path(), absl::StrCat("there are ", images, " images below each other already; merge some"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::shared_ptr<ImageDisk>>> SnapshotImages(
    const std::vector<ImageSnapshot>& wanted, const std::function<void(const absl::Status&)>& on_failure,
    const std::shared_ptr<FileEngine>& engine) {
  for (const ImageSnapshot& each : wanted) RETURN_IF_ERROR(CheckSnapshot(*each.disk));
  std::vector<std::shared_ptr<ImageDisk>> made;
  for (const ImageSnapshot& each : wanted) {
    absl::StatusOr<std::shared_ptr<ImageDisk>> over = MakeOver(each, on_failure, engine);
    if (!over.ok()) {
      for (std::shared_ptr<ImageDisk>& disk : made) {
        unlink(disk->path().c_str());
        disk.reset();
      }
      return over.status();
    }
    made.push_back(*std::move(over));
  }
  // Nothing can fail any more. One that its readers are not let at, because the host refuses that, is a snapshot all the same.
  for (const ImageSnapshot& each : wanted) static_cast<MappedDisk&>(*each.disk).file().StopWriting();
  return made;
}

}  // namespace hvsdk
