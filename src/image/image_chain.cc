// SPDX-License-Identifier: Apache-2.0
#include "image/image_chain.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "image/blocking.h"
#include "image/host_file.h"
#include "image/vhd_file.h"

namespace hvsdk::internal {
namespace {

absl::StatusOr<ImageFormat> Detect(ImageFile& file) {
  uint8_t start[8] = {};
  if (file.size_bytes() >= sizeof(start)) {
    RETURN_IF_ERROR(ToStatus(Read(file, 0, absl::MakeSpan(start)), "its start"));
  }
  if (std::memcmp(start, "vhdxfile", 8) == 0) return ImageFormat::kVhdx;
  return vhd::IsVhd(file) ? ImageFormat::kVhd : ImageFormat::kRaw;
}

}  // namespace

absl::Status Named(const std::string& path, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat("disk '", path, "': ", status.message()));
}

FileIdentity FileIdentity::Of(const std::string& path) {
  struct stat status;
  return stat(path.c_str(), &status) == 0 ? FileIdentity{status.st_dev, status.st_ino} : FileIdentity{};
}

absl::StatusOr<ImageFormat> DetectIfUnnamed(ImageFile& file, ImageFormat format) {
  if (format != ImageFormat::kDetect) return format;
  auto detected = Detect(file);
  if (!detected.ok()) return Named(file.path(), detected.status());
  return detected;
}

absl::StatusOr<std::string> FindParent(const std::string& path, const ParentLink& link) {
  if (link.paths.empty()) return absl::InvalidArgumentError("it does not say where its parent is");
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  std::string tried;
  for (const std::string& place : link.paths) {
    std::string parent_path = (folder / place).lexically_normal().string();
    if (access(parent_path.c_str(), F_OK) == 0) return parent_path;
    absl::StrAppend(&tried, tried.empty() ? "'" : ", '", parent_path, "'");
  }
  return absl::InvalidArgumentError(absl::StrCat("its parent is not there: ", tried));
}

absl::Status CheckIsParent(const ParentLink& link, const std::string& parent_path, const Guid& id) {
  if (std::find(link.ids.begin(), link.ids.end(), id) != link.ids.end()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("its parent '", parent_path, "' is not the one that it was made over, or was written since"));
}

ParentOpener MakeParentOpener(const std::string& path, ImageFormat format, std::vector<ChainLink> chain,
                              std::function<void(const absl::Status&)> on_failure, std::shared_ptr<FileEngine> engine) {
  chain.push_back({path, FileIdentity::Of(path)});
  return [=](const ParentLink& link) -> absl::StatusOr<std::shared_ptr<BlockDevice>> {
    if (chain.size() >= kMaxChain)
      return absl::InvalidArgumentError(absl::StrCat("it has more than ", kMaxChain, " parents"));
    ASSIGN_OR_RETURN(const std::string parent_path, FindParent(path, link));
    const FileIdentity identity = FileIdentity::Of(parent_path);
    for (const ChainLink& child : chain) {
      if (child.identity == identity) {
        return absl::InvalidArgumentError(absl::StrCat("its parent '", parent_path, "' has it for a parent, too"));
      }
    }
    auto parent_file = OpenImageFile(parent_path, {.read_only = true}, engine);
    if (!parent_file.ok())
      return absl::Status(parent_file.status().code(), absl::StrCat("its parent: ", parent_file.status().message()));
    auto parent = OpenFormat(format, *std::move(parent_file), {},
                             MakeParentOpener(parent_path, format, chain, on_failure, engine), on_failure);
    if (!parent.ok()) {
      return absl::Status(parent.status().code(),
                          absl::StrCat("its parent: ", Named(parent_path, parent.status()).message()));
    }
    RETURN_IF_ERROR(CheckIsParent(link, parent_path, parent->id_for_children));
    return parent->disk;
  };
}

absl::StatusOr<OpenedImage> OpenFormat(ImageFormat format, std::shared_ptr<ImageFile> file, BlockInfo info,
                                       const ParentOpener& open_parent,
                                       std::function<void(const absl::Status&)> on_failure) {
  if (format == ImageFormat::kVhd) return OpenVhd(std::move(file), std::move(info), open_parent, std::move(on_failure));
  return OpenVhdx(std::move(file), std::move(info), open_parent, std::move(on_failure));
}

ParentOfNew DescribeParent(const std::string& parent_path, const std::string& path, const Guid& id) {
  ParentOfNew parent;
  std::error_code ignored;
  const std::filesystem::path absolute = std::filesystem::absolute(parent_path, ignored).lexically_normal();
  const std::filesystem::path folder = std::filesystem::absolute(path, ignored).lexically_normal().parent_path();
  parent.id_for_children = id;
  parent.absolute_path = absolute.string();
  parent.relative_path = absolute.lexically_relative(folder).string();
  if (absl::string_view(parent.relative_path).substr(0, 1) != ".") parent.relative_path.insert(0, "./");
  return parent;
}

}  // namespace hvsdk::internal
