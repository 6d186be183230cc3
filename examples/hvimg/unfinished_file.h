// SPDX-License-Identifier: Apache-2.0
// An image that is being written has another name, with .part behind it, until it is whole: what a program that was
// killed leaves behind opens, and would be taken for the disk that it has only a part of.

#ifndef HVSDK_EXAMPLES_HVIMG_UNFINISHED_FILE_H_
#define HVSDK_EXAMPLES_HVIMG_UNFINISHED_FILE_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hvsdk/image/disk_image.h"

namespace hvimg {

// One at a time. Gone with its file unless that was finished, by a signal that ends the program, too.
class UnfinishedFile {
 public:
  // Neither `name` nor the unfinished file may be there.
  static absl::StatusOr<UnfinishedFile> Create(const std::string& name, const hvsdk::ImageCreateOptions& options,
                                               std::shared_ptr<hvsdk::FileEngine> engine);
  UnfinishedFile(UnfinishedFile&& other) noexcept
      : name_(std::move(other.name_)), path_(std::exchange(other.path_, {})) {}
  UnfinishedFile& operator=(UnfinishedFile&&) = delete;
  ~UnfinishedFile();

  const std::string& path() const { return path_; }
  // Gives it its name. It must be closed.
  absl::Status Finish();

 private:
  UnfinishedFile(std::string name, std::string path) : name_(std::move(name)), path_(std::move(path)) {}

  std::string name_, path_;
};

}  // namespace hvimg

#endif  // HVSDK_EXAMPLES_HVIMG_UNFINISHED_FILE_H_
