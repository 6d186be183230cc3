// SPDX-License-Identifier: Apache-2.0
// zlib, which is loaded when it is first wanted. For libraries that were built with its header (hvsdk_uses_header).
//
// Thread-safe.

#ifndef HVSDK_SRC_BASE_ZLIB_LIBRARY_H_
#define HVSDK_SRC_BASE_ZLIB_LIBRARY_H_

#include <zlib.h>

#include "absl/status/statusor.h"
#include "base/loaded_library.h"

namespace hvsdk::internal {

struct ZlibLibrary {
  decltype(&::deflateInit_) deflate_init;
  decltype(&::deflate) deflate;
  decltype(&::deflateEnd) deflate_end;
  decltype(&::inflateInit2_) inflate_init;
  decltype(&::inflate) inflate;
  decltype(&::inflateEnd) inflate_end;
  decltype(&::crc32) crc32;

  // Unimplemented: it is not there.
  static const absl::StatusOr<ZlibLibrary>& Load() {
    static const absl::StatusOr<ZlibLibrary> loaded = []() -> absl::StatusOr<ZlibLibrary> {
      absl::StatusOr<LoadedLibrary> library = LoadedLibrary::Load("libz.so.1", "zlib", "compressed files need");
      if (!library.ok()) return library.status();
      ZlibLibrary zlib{};
      library->Find("deflateInit_", zlib.deflate_init);
      library->Find("deflate", zlib.deflate);
      library->Find("deflateEnd", zlib.deflate_end);
      library->Find("inflateInit2_", zlib.inflate_init);
      library->Find("inflate", zlib.inflate);
      library->Find("inflateEnd", zlib.inflate_end);
      library->Find("crc32", zlib.crc32);
      if (!library->status().ok()) return library->status();
      return zlib;
    }();
    return loaded;
  }
};

}  // namespace hvsdk::internal

#endif  // HVSDK_SRC_BASE_ZLIB_LIBRARY_H_
