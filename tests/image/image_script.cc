// SPDX-License-Identifier: Apache-2.0
// image_script FORMAT IMAGE
//
// Opens a disk image and does to its disk what standard input says, line by line: "write OFFSET BYTES VALUE", "zero OFFSET
// BYTES", "discard OFFSET BYTES", "flush". Exit status 2, and a line on standard error: it could not.

#include <cstdint>
#include <cstdio>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "hvsdk/image/disk_image.h"
#include "image/blocking.h"

int main(int argc, char** argv) {
  const auto fail = [](const std::string& why) {
    std::fprintf(stderr, "image_script: %s\n", why.c_str());
    return 2;
  };
  if (argc != 3) return fail("usage: image_script FORMAT IMAGE");
  const auto engine = hvsdk::FileEngine::Create(hvsdk::FileEngineKind::kAuto);
  if (!engine.ok()) return fail(engine.status().ToString());
  hvsdk::ImageOptions options;
  const auto format = hvsdk::ParseImageFormat(argv[1]);
  if (!format.ok()) return fail(format.status().ToString());
  options.format = *format;
  const auto disk = hvsdk::OpenImage(argv[2], options, *engine);
  if (!disk.ok()) return fail(disk.status().ToString());
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string what;
    uint64_t offset = 0, size = 0, value = 0;
    words >> what >> offset >> size >> value;
    hvsdk::BlockStatus status = hvsdk::BlockStatus::kUnsupported;
    if (what == "write") {
      const std::vector<uint8_t> bytes(size, static_cast<uint8_t>(value));
      status = hvsdk::internal::WriteDisk(**disk, offset, bytes);
    } else if (what == "zero" || what == "discard") {
      // An image that cannot say so is written to.
      const bool discards = what == "discard" && (*disk)->info().can_discard;
      const auto op = discards ? hvsdk::BlockOp::kDiscard : hvsdk::BlockOp::kWriteZeroes;
      status = hvsdk::internal::RunOnDisk(**disk, op, offset, size);
    } else if (what == "flush") {
      status = hvsdk::internal::RunOnDisk(**disk, hvsdk::BlockOp::kFlush);
    }
    if (status != hvsdk::BlockStatus::kOk) return fail(line + ": " + hvsdk::internal::ToStatus(status, "").ToString());
  }
  const absl::Status settled = (*disk)->Settle();
  return settled.ok() ? 0 : fail(settled.ToString());
}
