// SPDX-License-Identifier: Apache-2.0
#include "vmm/gunzip.h"

#include "absl/status/status.h"

#ifdef HVSDK_HAVE_ZLIB

#include "base/zlib_library.h"

namespace hvsdk::vmm {

absl::StatusOr<std::string> Gunzip(absl::string_view bytes, size_t max_bytes) {
  const absl::StatusOr<internal::ZlibLibrary>& zlib = internal::ZlibLibrary::Load();
  if (!zlib.ok()) return zlib.status();
  constexpr int kGzip = 16, kWindowBits = 15;
  z_stream stream{};
  if (zlib->inflate_init(&stream, kGzip + kWindowBits, ZLIB_VERSION, static_cast<int>(sizeof(stream))) != Z_OK) {
    return absl::ResourceExhaustedError("no memory for zlib");
  }
  std::string text(max_bytes, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(text.data());
  stream.avail_out = static_cast<uInt>(text.size());
  const int done = zlib->inflate(&stream, Z_FINISH);
  text.resize(text.size() - stream.avail_out);
  zlib->inflate_end(&stream);
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
