// SPDX-License-Identifier: Apache-2.0
// What gzip has compressed (RFC 1952), by zlib, which is loaded when it is wanted.
//
// Thread-safe.

#ifndef HVSDK_SRC_VMM_GUNZIP_H_
#define HVSDK_SRC_VMM_GUNZIP_H_

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hvsdk::vmm {

inline bool IsGzip(absl::string_view bytes) { return bytes.substr(0, 2) == "\x1F\x8B"; }

// At most so many bytes; what is longer is cut there. InvalidArgument: it is damaged. Unimplemented: there is no zlib.
absl::StatusOr<std::string> Gunzip(absl::string_view bytes, size_t max_bytes);

}  // namespace hvsdk::vmm

#endif  // HVSDK_SRC_VMM_GUNZIP_H_
