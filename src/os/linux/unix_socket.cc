// SPDX-License-Identifier: Apache-2.0
#include "os/linux/unix_socket.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace hvsdk::os {
namespace {

// OK: what is there is a socket that a process which is gone left behind.
absl::Status CheckIsLeft(const std::string& path, int type, const sockaddr_un& address) {
  struct stat found;
  if (lstat(path.c_str(), &found) != 0 || !S_ISSOCK(found.st_mode)) {
    return absl::FailedPreconditionError("is there already, and is no socket");
  }
  const int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return absl::ErrnoToStatus(errno, "cannot make a socket");
  const bool refused =
      connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 && errno == ECONNREFUSED;
  close(fd);
  if (refused) return absl::OkStatus();
  return absl::FailedPreconditionError("is another program's or machine's, which listens there");
}

}  // namespace

absl::StatusOr<sockaddr_un> UnixAddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a socket's path has 1 to ", sizeof(address.sun_path) - 1, " bytes, not ", path.size()));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

absl::Status UnixSocketFile::Bind(int fd, int type, const std::string& path) {
  ASSIGN_OR_RETURN(const sockaddr_un address, UnixAddressOf(path));
  // The socket's file gets the descriptor's mode, so that nobody finds it open to all for a moment.
  fchmod(fd, 0600);
  const auto bind_it = [&] { return bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)); };
  if (bind_it() != 0) {
    if (errno != EADDRINUSE) return absl::ErrnoToStatus(errno, "cannot make the socket");
    RETURN_IF_ERROR(CheckIsLeft(path, type, address));
    unlink(path.c_str());
    if (bind_it() != 0) return absl::ErrnoToStatus(errno, "cannot make the socket");
  }
  path_ = path;
  struct stat made;
  if (lstat(path.c_str(), &made) == 0) inode_ = made.st_ino;
  return absl::OkStatus();
}

UnixSocketFile::~UnixSocketFile() {
  struct stat there;
  if (inode_ != 0 && lstat(path_.c_str(), &there) == 0 && there.st_ino == inode_) unlink(path_.c_str());
}

}  // namespace hvsdk::os
