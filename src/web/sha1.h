// SPDX-License-Identifier: Apache-2.0
// SHA-1, by which a WebSocket's server shows that it is one (RFC 6455, 1.3). It keeps no secret. Source: FIPS 180-4, 6.1.

#ifndef HVSDK_SRC_WEB_SHA1_H_
#define HVSDK_SRC_WEB_SHA1_H_

#include <string>

#include "absl/strings/string_view.h"

namespace hvsdk::web {

// 20 bytes.
std::string Sha1(absl::string_view text);

}  // namespace hvsdk::web

#endif  // HVSDK_SRC_WEB_SHA1_H_
