// SPDX-License-Identifier: Apache-2.0
#include "vmm/animated_png.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "hvsdk/os/output_writer.h"
#include "resource/frame_row.h"
#if defined(HVSDK_HAVE_ZLIB)
#include "base/zlib_library.h"
#endif

namespace hvsdk::vmm {

#if defined(HVSDK_HAVE_ZLIB)
namespace {

using internal::ZlibLibrary;

constexpr absl::string_view kSignature("\x89PNG\r\n\x1A\n", 8);

void Put32(std::string& to, uint32_t value) {
  for (const int shift : {24, 16, 8, 0}) to.push_back(static_cast<char>(value >> shift));
}
void Put16(std::string& to, uint32_t value) {
  to.push_back(static_cast<char>(value >> 8));
  to.push_back(static_cast<char>(value));
}

// Of those that are not empty, also without their length.
std::string Chunk(absl::string_view type, absl::string_view data) {
  std::string chunk;
  chunk.reserve(data.size() + 12);
  Put32(chunk, static_cast<uint32_t>(data.size()));
  chunk.append(type.data(), type.size());
  chunk.append(data.data(), data.size());
  const auto* const summed = reinterpret_cast<const Bytef*>(chunk.data() + 4);
  Put32(chunk, static_cast<uint32_t>(ZlibLibrary::Load()->crc32(0, summed, static_cast<uInt>(chunk.size() - 4))));
  return chunk;
}

absl::Status WriteTo(int fd, absl::string_view bytes, uint64_t offset) {
  return os::WriteAll(fd, bytes, static_cast<int64_t>(offset), std::atomic<bool>(false));
}

// Appends the rows of a picture, each behind the byte that says that it has no filter.
absl::Status AppendPacked(const Frame& frame, const Rectangle& rectangle, std::string& packed) {
  const ZlibLibrary& zlib = *ZlibLibrary::Load();
  z_stream stream{};
  if (zlib.deflate_init(&stream, Z_BEST_SPEED, ZLIB_VERSION, sizeof(stream)) != Z_OK) {
    return absl::ResourceExhaustedError("zlib has no memory");
  }
  std::vector<uint32_t> pixels(rectangle.width);
  std::vector<uint8_t> row(1 + size_t{3} * rectangle.width);
  for (uint32_t i = 0; i < rectangle.height; ++i) {
    const uint32_t y = rectangle.y + i;
    const uint32_t there =
        y < frame.height && rectangle.x < frame.width ? std::min(rectangle.width, frame.width - rectangle.x) : 0;
    if (there != 0) hvsdk::internal::ReadRow(frame, rectangle.x, y, there, pixels.data());
    std::fill(pixels.begin() + there, pixels.end(), 0);
    uint8_t* out = &row[1];
    for (const uint32_t pixel : pixels) {
      for (const int shift : {16, 8, 0}) *out++ = static_cast<uint8_t>(pixel >> shift);
    }
    stream.next_in = row.data();
    stream.avail_in = static_cast<uInt>(row.size());
    const bool is_last = i + 1 == rectangle.height;
    int status;
    do {
      char block[16384];
      stream.next_out = reinterpret_cast<Bytef*>(block);
      stream.avail_out = sizeof(block);
      status = zlib.deflate(&stream, is_last ? Z_FINISH : Z_NO_FLUSH);
      packed.append(block, sizeof(block) - stream.avail_out);
    } while (is_last ? status == Z_OK : stream.avail_in != 0);
  }
  zlib.deflate_end(&stream);
  return absl::OkStatus();
}

}  // namespace

absl::Status AnimatedPng::CheckPossible() { return ZlibLibrary::Load().status(); }

std::string AnimatedPng::ControlOf(const Rectangle& rectangle, uint32_t sequence, uint64_t shown_ms) const {
  // A fraction of two 16-bit numbers, as exact as that goes.
  uint32_t parts = 1000;
  while (parts != 1 && shown_ms * parts / 1000 > 0xFFFF) parts /= 10;
  std::string control;
  Put32(control, sequence);
  for (const uint32_t value : {rectangle.width, rectangle.height, rectangle.x, rectangle.y}) Put32(control, value);
  Put16(control, static_cast<uint32_t>(std::min<uint64_t>(shown_ms * parts / 1000, 0xFFFF)));
  Put16(control, parts);
  control.append(2, '\0');  // it stays, and covers what was there
  return Chunk("fcTL", control);
}

absl::Status AnimatedPng::Add(const Frame& frame, const Rectangle& rectangle, uint64_t time_ms) {
  std::string bytes;
  if (pictures_ == 0) {
    bytes = std::string(kSignature);
    std::string header;
    Put32(header, width_);
    Put32(header, height_);
    header.append("\x08\x02\0\0\0", 5);  // 8 bits each of red, green and blue
    bytes += Chunk("IHDR", header);
    bytes += Chunk("acTL", std::string(8, '\0'));  // below
  }
  const uint64_t control_offset = end_ + bytes.size();
  const uint32_t control_sequence = sequence_;
  uint32_t sequence = control_sequence + 1;
  bytes += ControlOf(rectangle, control_sequence, 0);
  std::string packed;
  if (pictures_ != 0) Put32(packed, sequence++);
  RETURN_IF_ERROR(AppendPacked(frame, rectangle, packed));
  bytes += Chunk(pictures_ == 0 ? "IDAT" : "fdAT", packed);
  const size_t size = bytes.size();
  bytes += Chunk("IEND", "");
  const std::string last = Chunk("IEND", "");
  if (absl::Status status = WriteTo(fd_, bytes, end_); !status.ok()) {
    if (end_ != 0) (void)WriteTo(fd_, last, end_);
    (void)!ftruncate(fd_, static_cast<off_t>(end_ == 0 ? 0 : end_ + last.size()));
    return status;
  }
  // The file is whole but for these, which are within what is on the disk already.
  std::string animation;
  Put32(animation, pictures_ + 1);
  Put32(animation, 1);  // played once
  constexpr uint64_t kAnimationOffset = 8 + 25;
  RETURN_IF_ERROR(WriteTo(fd_, Chunk("acTL", animation), kAnimationOffset));
  if (pictures_ != 0) {
    RETURN_IF_ERROR(WriteTo(fd_, ControlOf(rectangle_, control_sequence_, time_ms - begin_ms_), control_offset_));
  }
  end_ += size;
  ++pictures_;
  sequence_ = sequence;
  control_offset_ = control_offset;
  control_sequence_ = control_sequence;
  begin_ms_ = time_ms;
  rectangle_ = rectangle;
  return absl::OkStatus();
}

#else

absl::Status AnimatedPng::CheckPossible() {
  return absl::UnimplementedError("this program was built without zlib's header");
}
std::string AnimatedPng::ControlOf(const Rectangle&, uint32_t, uint64_t) const { return ""; }
absl::Status AnimatedPng::Add(const Frame&, const Rectangle&, uint64_t) { return CheckPossible(); }

#endif

}  // namespace hvsdk::vmm
