// SPDX-License-Identifier: Apache-2.0
// Unix sockets by path.

#ifndef HVSDK_SRC_OS_LINUX_UNIX_SOCKET_H_
#define HVSDK_SRC_OS_LINUX_UNIX_SOCKET_H_

#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace hvsdk::os {

// InvalidArgument: the path is empty, or too long for an address.
absl::StatusOr<sockaddr_un> UnixAddressOf(const std::string& path);

// The file that a socket is bound to; goes with it, unless another one has taken its place.
class UnixSocketFile {
 public:
  UnixSocketFile() = default;
  ~UnixSocketFile();
  UnixSocketFile(const UnixSocketFile&) = delete;
  UnixSocketFile& operator=(const UnixSocketFile&) = delete;

  // Binds `fd`, a new socket of `type` (SOCK_STREAM, SOCK_DGRAM), and gives the file mode 0600. A socket there that a process which is
  // gone left behind is replaced. FailedPrecondition: there is something else.
  absl::Status Bind(int fd, int type, const std::string& path);

 private:
  std::string path_;
  ino_t inode_ = 0;
};

}  // namespace hvsdk::os

#endif  // HVSDK_SRC_OS_LINUX_UNIX_SOCKET_H_
