// SPDX-License-Identifier: Apache-2.0
#include "vmm/gunzip.h"

#include "absl/status/status.h"

#ifdef HVSDK_HAVE_ZLIB

#include <zlib.h>

#include "base/loaded_library.h"

namespace hvsdk::vmm {
namespace {

struct Zlib {
  int (*init)(z_stream*, int window_bits, const char* version, int size);
  int (*inflate)(z_stream*, int flush);
  int (*end)(z_stream*);
};

absl::StatusOr<Zlib> LoadOnce() {
  absl::StatusOr<LoadedLibrary> library = LoadedLibrary::Load("libz.so.1", "zlib", "compressed files need");
  if (!library.ok()) return library.status();
  Zlib zlib{};
  library->Find("inflateInit2_", zlib.init);
  library->Find("inflate", zlib.inflate);
  library->Find("inflateEnd", zlib.end);
  if (!library->status().ok()) return library->status();
  return zlib;
}

}  // namespace

absl::StatusOr<std::string> Gunzip(absl::string_view bytes, size_t max_bytes) {
  static const absl::StatusOr<Zlib> zlib = LoadOnce();
  if (!zlib.ok()) return zlib.status();
  constexpr int kGzip = 16, kWindowBits = 15;
  z_stream stream{};
  if (zlib->init(&stream, kGzip + kWindowBits, ZLIB_VERSION, static_cast<int>(sizeof(stream))) != Z_OK) {
    return absl::ResourceExhaustedError("no memory for zlib");
  }
  std::string text(max_bytes, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(text.data());
  stream.avail_out = static_cast<uInt>(text.size());
  const int done = zlib->inflate(&stream, Z_FINISH);
  text.resize(text.size() - stream.avail_out);
  zlib->end(&stream);
  if (done != Z_STREAM_END && text.size() < max_bytes)
    return absl::InvalidArgumentError("is damaged: gzip does not end");
  return text;
}

}  // namespace hvsdk::vmm

#else

namespace hvsdk::vmm {

absl::StatusOr<std::string> Gunzip(absl::string_view, size_t) {
  return absl::UnimplementedError("is compressed, and this was built without zlib");
}

}  // namespace hvsdk::vmm

#endif
