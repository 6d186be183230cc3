// SPDX-License-Identifier: Apache-2.0
#include "image/image_merge.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "image/blocking.h"
#include "image/image_chain.h"
#include "image/vhdx_file.h"

namespace hvsdk {
namespace internal {
namespace {

using Place = Extent::Place;

constexpr uint64_t kStep = 1 << 20;       // of data at a time
constexpr uint64_t kZeroStep = 64 << 20;  // of zeroes

absl::StatusOr<OpenedMap> OpenMap(ImageFormat format, std::shared_ptr<ImageFile> file) {
  return format == ImageFormat::kVhd ? OpenVhdMap(std::move(file)) : OpenVhdxMap(std::move(file));
}
absl::Status SetParent(ImageFormat format, ImageFile& file, const ParentOfNew& parent) {
  return format == ImageFormat::kVhd ? SetVhdParent(file, parent) : SetVhdxParent(file, parent);
}
absl::Status AtByte(BlockStatus status, absl::string_view whose, uint64_t offset) {
  return ToStatus(status, absl::StrCat("byte ", offset, " of ", whose));
}

// Visits all of the disk in its parts, each in one place and, unless it is zeroes, no longer than kStep.
template <typename Visit>
absl::Status ForEachExtent(OpenedMap& image, const ImageProgress& progress, Visit visit) {
  BlockMap& map = *image.map;
  for (uint64_t offset = 0; offset < image.disk_bytes;) {
    Extent extent;
    std::string complaint;
    for (int tries = 0; tries < 16; ++tries) {
      {
        std::lock_guard lock(map.mutex());
        extent = map.Find(offset, std::min(kZeroStep, image.disk_bytes - offset), /*for_write=*/false);
        complaint = map.TakeComplaint();
      }
      if (extent.place != Place::kUnknown) break;
      RETURN_IF_ERROR(AtByte(map.Load(offset, /*for_write=*/false), "its disk", offset));
    }
    if (extent.place == Place::kBroken || extent.place == Place::kUnknown) {
      return absl::DataLossError(complaint.empty() ? absl::StrCat("byte ", offset, " of its disk is nowhere")
                                                   : complaint);
    }
    if (extent.place != Place::kZeroes) extent.size_bytes = std::min(extent.size_bytes, kStep);
    RETURN_IF_ERROR(visit(offset, extent));
    offset += extent.size_bytes;
    if (progress != nullptr) progress(offset, image.disk_bytes);
  }
  return absl::OkStatus();
}

}  // namespace

static absl::Status CopyIntoParent(OpenedMap& child, ImageFile& child_file, BlockDevice& parent,
                                   const ImageProgress& progress) {
  std::vector<uint8_t> bytes(kStep);
  RETURN_IF_ERROR(ForEachExtent(child, progress, [&](uint64_t offset, const Extent& extent) -> absl::Status {
    if (extent.place == Place::kParent) return absl::OkStatus();
    if (extent.place == Place::kZeroes) {
      return AtByte(RunOnDisk(parent, BlockOp::kWriteZeroes, offset, extent.size_bytes), "its parent's disk", offset);
    }
    const auto part = absl::MakeSpan(bytes).first(extent.size_bytes);
    RETURN_IF_ERROR(AtByte(Read(child_file, extent.file_offset, part), "its file", extent.file_offset));
    return AtByte(WriteDisk(parent, offset, part), "its parent's disk", offset);
  }));
  return ToStatus(RunOnDisk(parent, BlockOp::kFlush), "its parent's disk");
}

absl::Status MergeVhdx(const std::shared_ptr<ImageFile>& child_file, const std::shared_ptr<ImageFile>& parent_file,
                       ParentOfNew link, const ParentOpener& open_grandparent, const ImageProgress& progress) {
  ASSIGN_OR_RETURN(OpenedMap child, OpenVhdxMap(child_file));
  ASSIGN_OR_RETURN(OpenedMap parent, OpenVhdxMap(parent_file));
  if (child.logical_sector_bytes != parent.logical_sector_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("its sectors have ", child.logical_sector_bytes,
                                                   " bytes, and its parent's ", parent.logical_sector_bytes));
  }
  if (child.disk_bytes < parent.disk_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("its disk has ", child.disk_bytes, " bytes, and its parent's ",
                                                   parent.disk_bytes, ": the rest of that would be lost"));
  }
  if (parent.disk_bytes < child.disk_bytes && parent.has_parent) {
    // Made larger it would show what its own parent has there, which the child does not see.
    ASSIGN_OR_RETURN(const std::shared_ptr<BlockDevice> grandparent, open_grandparent(parent.link));
    if (grandparent->info().size_bytes > parent.disk_bytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("its parent's disk has ", parent.disk_bytes, " bytes, fewer than itself and its own parent"));
    }
  }
  ASSIGN_OR_RETURN(const vhdx::CurrentHeader header, vhdx::ReadHeader(*parent_file));
  // The child knows what the parent will be called before it is.
  link.id_for_children = header.header.data_write_guid;
  link.next_id = NewGuid();
  RETURN_IF_ERROR(SetVhdxParent(*child_file, link));
  if (parent.disk_bytes < child.disk_bytes) {
    RETURN_IF_ERROR(ResizeVhdx(*parent_file, child.disk_bytes, link.next_id));
  }
  {
    ASSIGN_OR_RETURN(const OpenedImage opened,
                     OpenVhdx(parent_file, {}, open_grandparent, /*on_failure=*/nullptr, link.next_id));
    RETURN_IF_ERROR(CopyIntoParent(child, *child_file, *opened.disk, progress));
    RETURN_IF_ERROR(opened.disk->Settle());
  }
  ASSIGN_OR_RETURN(const vhdx::CurrentHeader merged, vhdx::ReadHeader(*parent_file));
  link.id_for_children = merged.header.data_write_guid;
  link.next_id = {};
  return SetVhdxParent(*child_file, link);
}

absl::Status MergeVhd(const std::shared_ptr<ImageFile>& child_file, const std::shared_ptr<ImageFile>& parent_file,
                      const ParentOpener& open_grandparent, const ImageProgress& progress) {
  ASSIGN_OR_RETURN(OpenedMap child, OpenVhdMap(child_file));
  ASSIGN_OR_RETURN(const OpenedImage opened, OpenVhd(parent_file, {}, open_grandparent, /*on_failure=*/nullptr));
  const uint64_t parent_bytes = opened.disk->info().size_bytes;
  if (child.disk_bytes != parent_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("its disk has ", child.disk_bytes, " bytes, and its parent's ", parent_bytes));
  }
  RETURN_IF_ERROR(CopyIntoParent(child, *child_file, *opened.disk, progress));
  return opened.disk->Settle();
}

absl::Status CopyFromParent(OpenedMap& child, BlockDevice& disk, BlockDevice& before, BlockDevice& after,
                            const ImageProgress& progress) {
  std::vector<uint8_t> old_bytes(kStep), new_bytes(kStep);
  // A shorter one has zeroes behind its end.
  const auto read = [](BlockDevice& from, uint64_t offset, absl::Span<uint8_t> to) {
    const uint64_t size =
        std::min<uint64_t>(to.size(), from.info().size_bytes - std::min(from.info().size_bytes, offset));
    std::fill(to.begin() + static_cast<std::ptrdiff_t>(size), to.end(), 0);
    return size == 0 ? BlockStatus::kOk : ReadDisk(from, offset, to.first(size));
  };
  RETURN_IF_ERROR(ForEachExtent(child, progress, [&](uint64_t offset, const Extent& extent) -> absl::Status {
    if (extent.place != Place::kParent) return absl::OkStatus();
    const auto is = absl::MakeSpan(old_bytes).first(extent.size_bytes);
    const auto will_be = absl::MakeSpan(new_bytes).first(extent.size_bytes);
    RETURN_IF_ERROR(AtByte(read(before, offset, is), "its parent's disk", offset));
    RETURN_IF_ERROR(AtByte(read(after, offset, will_be), "its new parent's disk", offset));
    // Whole runs of sectors that differ.
    const uint64_t sector = child.logical_sector_bytes;
    for (uint64_t at = 0; at < extent.size_bytes;) {
      const auto differs = [&](uint64_t i) { return !std::equal(&is[i], &is[i] + sector, &will_be[i]); };
      uint64_t end = at;
      while (end < extent.size_bytes && differs(end)) end += sector;
      if (end != at)
        RETURN_IF_ERROR(AtByte(WriteDisk(disk, offset + at, is.subspan(at, end - at)), "its disk", offset + at));
      at = end + sector;
    }
    return absl::OkStatus();
  }));
  return ToStatus(RunOnDisk(disk, BlockOp::kFlush), "its disk");
}

}  // namespace internal

namespace {

using internal::ChainLink;
using internal::FileIdentity;
using internal::Named;

absl::Status Merge(const std::string& path, ImageFormat format, const std::shared_ptr<ImageFile>& file,
                   const ImageProgress& progress, const std::shared_ptr<FileEngine>& engine) {
  const std::vector<ChainLink> chain = {{path, FileIdentity::Of(path)}};
  std::string parent_path;
  {
    ASSIGN_OR_RETURN(const internal::OpenedMap child, internal::OpenMap(format, file));
    if (!child.has_parent) return absl::InvalidArgumentError("it has no parent to be merged into");
    ASSIGN_OR_RETURN(parent_path, internal::FindParent(path, child.link));
    // Whether it is the one, and the rest of the chain can be opened. For reading: nothing is changed yet.
    RETURN_IF_ERROR(internal::MakeParentOpener(path, format, {}, nullptr, engine)(child.link).status());
  }
  ASSIGN_OR_RETURN(const std::shared_ptr<ImageFile> parent_file, OpenImageFile(parent_path, {}, engine));
  const auto open_grandparent = internal::MakeParentOpener(parent_path, format, chain, nullptr, engine);
  if (format == ImageFormat::kVhd) return internal::MergeVhd(file, parent_file, open_grandparent, progress);
  return internal::MergeVhdx(file, parent_file, internal::DescribeParent(parent_path, path, {}), open_grandparent,
                             progress);
}

// Its own children know it still when it was written: they see what they saw.
absl::StatusOr<internal::OpenedImage> OpenWithSameId(ImageFormat format, const std::shared_ptr<ImageFile>& file,
                                                     const internal::ParentOpener& open_parent) {
  if (format == ImageFormat::kVhd) return internal::OpenVhd(file, {}, open_parent, nullptr);
  ASSIGN_OR_RETURN(const internal::vhdx::CurrentHeader header, internal::vhdx::ReadHeader(*file));
  return internal::OpenVhdx(file, {}, open_parent, nullptr, header.header.data_write_guid);
}

absl::Status Rebase(const std::string& path, ImageFormat format, const std::string& parent_path,
                    const std::shared_ptr<ImageFile>& file, const ImageProgress& progress,
                    const std::shared_ptr<FileEngine>& engine) {
  const std::vector<ChainLink> chain = {{path, FileIdentity::Of(path)}};
  ASSIGN_OR_RETURN(internal::OpenedMap child, internal::OpenMap(format, file));
  if (!child.has_parent) return absl::InvalidArgumentError("it has no parent, and cannot be given one");
  if (FileIdentity::Of(parent_path) == chain[0].identity) {
    return absl::InvalidArgumentError("it cannot be its own parent");
  }
  ASSIGN_OR_RETURN(std::shared_ptr<ImageFile> parent_file, OpenImageFile(parent_path, {.read_only = true}, engine));
  const auto opened =
      internal::OpenFormat(format, std::move(parent_file), {},
                           internal::MakeParentOpener(parent_path, format, chain, nullptr, engine), nullptr);
  if (!opened.ok()) return Named(parent_path, opened.status());
  const BlockInfo& info = opened->disk->info();
  if (info.logical_block_bytes != child.logical_sector_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("its sectors have ", child.logical_sector_bytes, " bytes, and '",
                                                   parent_path, "' has ", info.logical_block_bytes));
  }
  if (format == ImageFormat::kVhd && info.size_bytes != child.disk_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("its disk has ", child.disk_bytes, " bytes, and that of '", parent_path, "' ", info.size_bytes));
  }
  const auto& ids = child.link.ids;
  const bool is_moved = std::find(ids.begin(), ids.end(), opened->id_for_children) != ids.end();
  if (!is_moved) {
    // Over its old parent it is as before; all of that lasts before it says that it has another.
    std::shared_ptr<BlockDevice> before;
    const internal::ParentOpener open_parent = internal::MakeParentOpener(path, format, {}, nullptr, engine);
    const auto open_and_keep = [&](const internal::ParentLink& link) -> absl::StatusOr<std::shared_ptr<BlockDevice>> {
      ASSIGN_OR_RETURN(before, open_parent(link));
      return before;
    };
    ASSIGN_OR_RETURN(const internal::OpenedImage image, OpenWithSameId(format, file, open_and_keep));
    RETURN_IF_ERROR(internal::CopyFromParent(child, *image.disk, *before, *opened->disk, progress));
    RETURN_IF_ERROR(image.disk->Settle());
  }
  return internal::SetParent(format, *file, internal::DescribeParent(parent_path, path, opened->id_for_children));
}

}  // namespace

absl::Status MergeImage(const std::string& path, ImageFormat format, const ImageProgress& progress,
                        std::shared_ptr<FileEngine> engine) {
  ASSIGN_OR_RETURN(const std::shared_ptr<ImageFile> file, OpenImageFile(path, {}, engine));
  ASSIGN_OR_RETURN(format, internal::DetectIfUnnamed(*file, format));
  if (format == ImageFormat::kRaw) return Named(path, absl::InvalidArgumentError("a raw disk has no parent"));
  return Named(path, Merge(path, format, file, progress, engine));
}

absl::Status RebaseImage(const std::string& path, ImageFormat format, const std::string& parent,
                         const ImageProgress& progress, std::shared_ptr<FileEngine> engine) {
  ASSIGN_OR_RETURN(const std::shared_ptr<ImageFile> file, OpenImageFile(path, {}, engine));
  ASSIGN_OR_RETURN(format, internal::DetectIfUnnamed(*file, format));
  if (format == ImageFormat::kRaw) return Named(path, absl::InvalidArgumentError("a raw disk has no parent"));
  return Named(path, Rebase(path, format, parent, file, progress, engine));
}

}  // namespace hvsdk
