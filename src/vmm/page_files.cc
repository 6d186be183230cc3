// SPDX-License-Identifier: Apache-2.0
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "hvsdk/vmm/machine_page.h"

namespace hvsdk::vmm {
namespace {

constexpr size_t kMaxFiles = 512;
constexpr uintmax_t kMaxBytes = 16 << 20;

// Empty: nothing that a page has.
std::string TypeOf(const std::string& extension) {
  if (extension == ".html") return "text/html; charset=utf-8";
  if (extension == ".css") return "text/css; charset=utf-8";
  if (extension == ".js" || extension == ".mjs") return "text/javascript; charset=utf-8";
  if (extension == ".svg") return "image/svg+xml";
  if (extension == ".txt") return "text/plain; charset=utf-8";
  return "";
}

}  // namespace

absl::StatusOr<PageFiles> PageFiles::Load(const std::string& folder) {
  namespace fs = std::filesystem;
  PageFiles page;
  uintmax_t bytes = 0;
  std::error_code error;
  for (fs::recursive_directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    const std::string type = TypeOf(at->path().extension());
    if (type.empty() || !at->is_regular_file(error)) continue;
    bytes += at->file_size(error);
    if (error) break;
    if (page.files_.size() == kMaxFiles || bytes > kMaxBytes) {
      return absl::InvalidArgumentError(absl::StrCat(folder, ": there is more than a page has"));
    }
    std::ifstream file(at->path(), std::ios::binary);
    auto contents =
        std::make_shared<std::string>(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    if (file.bad() || !file.is_open()) return absl::UnknownError(absl::StrCat(at->path().string(), ": cannot be read"));
    page.files_[at->path().lexically_relative(folder).generic_string()] = {std::move(contents), type};
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    return absl::UnknownError(absl::StrCat(folder, ": ", error.message()));
  }
  if (page.Find("index.html") == nullptr) return absl::NotFoundError(absl::StrCat(folder, ": there is no page"));
  return page;
}

const PageFiles::File* PageFiles::Find(absl::string_view path) const {
  const auto found = files_.find(std::string(path));
  return found == files_.end() ? nullptr : &found->second;
}

}  // namespace hvsdk::vmm
