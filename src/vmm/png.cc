// SPDX-License-Identifier: Apache-2.0
#include "vmm/png.h"

#include "resource/frame_row.h"

#if defined(HVSDK_HAVE_PNG)
#include <png.h>

#include "absl/strings/str_cat.h"
#include "base/loaded_library.h"
#endif

namespace hvsdk::vmm {

StillFrame StillFrame::Of(const Frame& frame) {
  StillFrame still{.width = frame.width, .height = frame.height};
  still.pixels.resize(size_t{3} * frame.width * frame.height);
  std::vector<uint32_t> row(frame.width);
  uint8_t* out = still.pixels.data();
  for (uint32_t y = 0; y < frame.height; ++y) {
    internal::ReadRow(frame, 0, y, frame.width, row.data());
    for (const uint32_t pixel : row) {
      for (const int shift : {16, 8, 0}) *out++ = static_cast<uint8_t>(pixel >> shift);
    }
  }
  return still;
}

#if defined(HVSDK_HAVE_PNG)

namespace {

using WriteToMemory = decltype(&png_image_write_to_memory);

// libpng is loaded when the first picture is wanted: no program that never makes one has it.
absl::StatusOr<WriteToMemory> LoadOnce() {
  absl::StatusOr<LoadedLibrary> library = LoadedLibrary::Load("libpng16.so.16", "libpng", "pictures need");
  if (!library.ok()) return library.status();
  WriteToMemory found = nullptr;
  library->Find("png_image_write_to_memory", found);
  if (!library->status().ok()) return library->status();
  return found;
}

const absl::StatusOr<WriteToMemory>& Load() {
  static const absl::StatusOr<WriteToMemory> write = LoadOnce();
  return write;
}

}  // namespace

absl::Status CheckPng() { return Load().status(); }

absl::StatusOr<std::string> EncodePng(const StillFrame& frame) {
  const absl::StatusOr<WriteToMemory>& write = Load();
  if (!write.ok()) return write.status();
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = frame.width;
  image.height = frame.height;
  image.format = PNG_FORMAT_RGB;
  image.flags = PNG_IMAGE_FLAG_FAST;
  // As large as no picture gets: libpng, asked for the size alone, would compress it once for that.
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
  std::string png(size, '\0');
  if ((*write)(&image, png.data(), &size, /*convert_to_8bit=*/0, frame.pixels.data(), /*row_stride=*/0, nullptr) == 0) {
    return absl::InternalError(absl::StrCat("libpng: ", image.message));
  }
  png.resize(size);
  return png;
}

#else

absl::Status CheckPng() { return absl::UnimplementedError("this program was built without libpng's header"); }
absl::StatusOr<std::string> EncodePng(const StillFrame&) { return CheckPng(); }

#endif

}  // namespace hvsdk::vmm
