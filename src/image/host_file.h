// SPDX-License-Identifier: Apache-2.0
// HostFile: an open and locked file or block device of the host, served by an engine: what a raw disk and an image file
// have in common.

#ifndef HVSDK_SRC_IMAGE_HOST_FILE_H_
#define HVSDK_SRC_IMAGE_HOST_FILE_H_

#include <sys/stat.h>

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "hvsdk/os/file_engine.h"

namespace hvsdk::internal {

// "disk 'PATH': what", and the same of the class that the system's error belongs to.
absl::Status DiskError(const std::string& path, absl::string_view what);
absl::Status DiskSystemError(const std::string& path, int error);

struct HostFileOptions {
  bool read_only = false;
  bool create = false;
  std::function<void(const absl::Status&)> on_writes_lost = nullptr;
};

class HostFile {
 public:
  // Errors as RawDisk::Open has them, but that it may have any size.
  static absl::StatusOr<std::unique_ptr<HostFile>> Open(const std::string& path, const HostFileOptions& options,
                                                        std::shared_ptr<FileEngine> engine);
  ~HostFile();
  HostFile(const HostFile&) = delete;
  HostFile& operator=(const HostFile&) = delete;

  const std::string& path() const { return path_; }
  int fd() const { return fd_; }
  const struct stat& status() const { return status_; }  // when it was opened
  FileEngine::File& file() { return *file_; }

  bool WaitUntilIdle(std::chrono::milliseconds timeout) const;

  // The first part of the range that is no hole; of no bytes if there is none.
  BlockRange FindData(BlockRange within);

 private:
  HostFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  absl::Status Prepare(const HostFileOptions& options, std::shared_ptr<FileEngine> engine);

  const std::string path_;
  const int fd_;
  struct stat status_ = {};
  std::shared_ptr<FileEngine> engine_;
  std::unique_ptr<FileEngine::File> file_;
  // What FindData found: to find a hole the host looks at all that lies before it. What is not data any more may still
  // be taken for data.
  std::mutex data_mutex_;
  BlockRange data_;  // guarded by it
};

}  // namespace hvsdk::internal

#endif  // HVSDK_SRC_IMAGE_HOST_FILE_H_
