// SPDX-License-Identifier: Apache-2.0
// Small kernel images for tests: right in every header, with a pattern for code.

#ifndef HVSDK_TESTS_BOOT_KERNEL_IMAGES_H_
#define HVSDK_TESTS_BOOT_KERNEL_IMAGES_H_

#include <cstdint>
#include <cstring>
#include <vector>

#include "boot/little_endian.h"

namespace hvsdk::boot {

inline constexpr uint64_t kImageLoad = 16 << 20;  // where the bzImage goes
inline constexpr uint64_t kElfLoad = 1 << 20;

// A bzImage with one setup sector and a kernel of 64 KiB.
inline std::vector<uint8_t> MakeBzImage() {
  std::vector<uint8_t> image(1024 + 65536);
  image[0x1F1] = 1;
  Store<uint32_t>(&image[0x1F4], 65536 / 16);
  Store<uint16_t>(&image[0x1FE], 0xAA55);
  image[0x200] = 0xEB;
  image[0x201] = 0x6A;
  Store<uint32_t>(&image[0x202], 0x53726448);
  Store<uint16_t>(&image[0x206], 0x20F);
  Store<uint32_t>(&image[0x22C], 0x7FFFFFFF);
  Store<uint32_t>(&image[0x230], 2 << 20);
  image[0x234] = 1;
  Store<uint16_t>(&image[0x236], 1);
  Store<uint32_t>(&image[0x238], 2047);
  Store<uint64_t>(&image[0x258], kImageLoad);
  Store<uint32_t>(&image[0x260], 4 << 20);
  for (size_t i = 1024; i < image.size(); ++i) image[i] = static_cast<uint8_t>(i * 7);
  return image;
}

// An ELF file with one loadable segment and, behind another note, its PVH entry point.
inline std::vector<uint8_t> MakePvhElf(bool is64) {
  std::vector<uint8_t> image(0x2000);
  Store<uint32_t>(&image[0], 0x464C457F);
  image[4] = is64 ? 2 : 1;
  image[5] = 1;
  Store<uint16_t>(&image[18], is64 ? 62 : 3);
  const size_t table = 0x40, size = is64 ? 56 : 32;
  if (is64) {
    Store<uint64_t>(&image[32], table);
  } else {
    Store<uint32_t>(&image[28], table);
  }
  Store<uint16_t>(&image[is64 ? 54 : 42], size);
  Store<uint16_t>(&image[is64 ? 56 : 44], 2);
  const auto header = [&](size_t index, uint32_t type, uint64_t offset, uint64_t paddr, uint64_t file,
                          uint64_t memory) {
    uint8_t* at = &image[table + index * size];
    Store<uint32_t>(at, type);
    if (is64) {
      Store<uint64_t>(at + 8, offset);
      Store<uint64_t>(at + 24, paddr);
      Store<uint64_t>(at + 32, file);
      Store<uint64_t>(at + 40, memory);
    } else {
      Store<uint32_t>(at + 4, offset);
      Store<uint32_t>(at + 12, paddr);
      Store<uint32_t>(at + 16, file);
      Store<uint32_t>(at + 20, memory);
    }
  };
  header(0, 1, 0x1000, kElfLoad, 0x1000, 0x3000);
  header(1, 4, 0x200, 0, 0x30, 0x30);
  Store<uint32_t>(&image[0x200], 4);
  Store<uint32_t>(&image[0x204], 3);
  Store<uint32_t>(&image[0x208], 1);
  std::memcpy(&image[0x20C], "GNU", 4);
  Store<uint32_t>(&image[0x214], 4);
  Store<uint32_t>(&image[0x218], 4);
  Store<uint32_t>(&image[0x21C], 18);
  std::memcpy(&image[0x220], "Xen", 4);
  Store<uint32_t>(&image[0x224], kElfLoad + 0x10);
  for (size_t i = 0x1000; i < 0x2000; ++i) image[i] = static_cast<uint8_t>(i * 5);
  return image;
}

}  // namespace hvsdk::boot

#endif  // HVSDK_TESTS_BOOT_KERNEL_IMAGES_H_
