// SPDX-License-Identifier: Apache-2.0
// Where an RFB server listens.

#ifndef HVSDK_SRC_VIEWER_RFB_ADDRESS_H_
#define HVSDK_SRC_VIEWER_RFB_ADDRESS_H_

#include <netinet/in.h>
#include <sys/socket.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hvsdk::viewer {

struct RfbAddress {
  std::string path;  // of a Unix socket, or:
  sockaddr_storage internet{};
  socklen_t size = 0;
};

// As CheckRfbAddress (hvsdk/viewer/rfb_server.h) has it.
absl::StatusOr<RfbAddress> ParseRfbAddress(absl::string_view text, bool is_guarded);
// "127.0.0.1:5900", "[::1]:5900".
std::string TextOf(const sockaddr_storage& internet);

}  // namespace hvsdk::viewer

#endif  // HVSDK_SRC_VIEWER_RFB_ADDRESS_H_
