// SPDX-License-Identifier: Apache-2.0
#include "os/linux/folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

namespace hvsdk::internal {

std::string FolderOf(absl::string_view path) {
  const size_t slash = path.rfind('/');
  if (slash == absl::string_view::npos) return std::string(1, '.');
  return std::string(path.substr(0, slash == 0 ? 1 : slash));
}

int SyncFolder(const std::string& folder) {
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return errno;
  const int error = fsync(fd) == 0 || errno == EINVAL ? 0 : errno;
  close(fd);
  return error;
}

}  // namespace hvsdk::internal
