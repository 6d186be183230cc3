// SPDX-License-Identifier: Apache-2.0
// ImageFile: what a disk image is kept in: bytes that can be read, written, made to last, and that may grow. A file of
// the host is one; tests have others, which lose power.
//
// Requests are block_device.h's, at any byte: there are no blocks here. A discard and a write of zeroes both leave
// zeroes; a discard gives the space back to the host where it can. A range lies within the file.
//
// Thread-safe, but for Resize, which one thread calls at a time. Nothing is in flight when a file is destroyed.
//
//   const auto file = OpenImageFile("debian.vhdx", {.read_only = true}, engine);
//   if (!file.ok()) return file.status();

#ifndef HVSDK_IMAGE_IMAGE_FILE_H_
#define HVSDK_IMAGE_IMAGE_FILE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hvsdk/os/file_engine.h"
#include "hvsdk/resource/block_device.h"

namespace hvsdk {

class ImageFile {
 public:
  virtual ~ImageFile() = default;

  virtual const std::string& path() const = 0;
  virtual bool read_only() const = 0;
  virtual uint64_t size_bytes() const = 0;

  // Grows it with zeroes, or cuts it, and blocks meanwhile; it lasts from the next flush on. Any error of BlockStatus.
  virtual BlockStatus Resize(uint64_t size_bytes) = 0;

  // As BlockDevice::Submit. kOutOfRange: beyond the end.
  virtual void Submit(absl::Span<BlockRequest* const> batch) = 0;

  // As BlockDevice::FindData, within the range: of no bytes if there are only zeroes.
  virtual BlockRange FindData(BlockRange within) { return within; }

  // It is not written any more, but as one that was opened for reading, and others may read it from now on. Nothing is under way that writes.
  virtual void StopWriting() {}
};

struct ImageFileOptions {
  bool read_only = false;
  // A new file, of no bytes, where none must be yet (AlreadyExists).
  bool create = false;
  // As RawDiskOptions'.
  std::function<void(const absl::Status&)> on_writes_lost = nullptr;
};

// Opens a file of the host and locks it as RawDisk does, with the same errors.
absl::StatusOr<std::shared_ptr<ImageFile>> OpenImageFile(const std::string& path, const ImageFileOptions& options,
                                                         std::shared_ptr<FileEngine> engine);

}  // namespace hvsdk

#endif  // HVSDK_IMAGE_IMAGE_FILE_H_
