// SPDX-License-Identifier: Apache-2.0
// Where a loader reads an image from: a file, or bytes in memory for a test. Read in pieces, so that a large kernel
// goes from the file straight into the guest's memory.
//
// Thread-compatible; what is read is the host's file, which is checked like any input by whoever parses it.
//
//   const absl::StatusOr<std::unique_ptr<ByteSource>> kernel = OpenFileSource("vmlinuz");
//   if (!kernel.ok()) return kernel.status();
//   uint8_t magic[4];
//   if (const absl::Status status = (*kernel)->Read(0x202, absl::MakeSpan(magic)); !status.ok()) return status;

#ifndef HVSDK_BOOT_BYTE_SOURCE_H_
#define HVSDK_BOOT_BYTE_SOURCE_H_

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace hvsdk::boot {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  virtual uint64_t size() const = 0;
  // Fills `to` from `offset`. OutOfRange: that is beyond the end; DataLoss: the host could not read.
  virtual absl::Status Read(uint64_t offset, absl::Span<uint8_t> to) const = 0;
};

class MemorySource final : public ByteSource {
 public:
  explicit MemorySource(absl::Span<const uint8_t> bytes) : bytes_(bytes) {}
  uint64_t size() const override { return bytes_.size(); }
  absl::Status Read(uint64_t offset, absl::Span<uint8_t> to) const override {
    if (offset > bytes_.size() || to.size() > bytes_.size() - offset) return absl::OutOfRangeError("end of data");
    if (!to.empty()) std::memcpy(to.data(), bytes_.data() + offset, to.size());
    return absl::OkStatus();
  }

 private:
  absl::Span<const uint8_t> bytes_;
};

// A regular file. NotFound, PermissionDenied or InvalidArgument if it cannot be one; the message does not name
// the path.
absl::StatusOr<std::unique_ptr<ByteSource>> OpenFileSource(const std::string& path);

}  // namespace hvsdk::boot

#endif  // HVSDK_BOOT_BYTE_SOURCE_H_
