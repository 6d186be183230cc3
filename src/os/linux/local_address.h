// SPDX-License-Identifier: Apache-2.0
// Where a service of this host's own listens: on the loopback, or at a Unix socket.

#ifndef HVSDK_SRC_OS_LINUX_LOCAL_ADDRESS_H_
#define HVSDK_SRC_OS_LINUX_LOCAL_ADDRESS_H_

#include <netinet/in.h>
#include <sys/socket.h>

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hvsdk::os {

struct LocalAddress {
  std::string path;  // of a Unix socket, or:
  sockaddr_storage internet{};
  socklen_t size = 0;
};

// "unix:PATH", or "HOST:PORT" with a loopback address, as in "127.0.0.1:5900", "[::1]:5900" and "localhost:0"; any address where
// whoever connects has to show who it is. InvalidArgument: says why not.
absl::StatusOr<LocalAddress> ParseLocalAddress(absl::string_view text, bool is_guarded = false);
// As ParseLocalAddress takes it.
std::string TextOf(const LocalAddress& address);

}  // namespace hvsdk::os

#endif  // HVSDK_SRC_OS_LINUX_LOCAL_ADDRESS_H_
