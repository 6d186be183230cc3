// SPDX-License-Identifier: Apache-2.0
// RawDisk: a BlockDevice whose medium is a file or a host block device, byte for byte.
//
// The file is locked while it is open: one writer, or any number of readers, on this host. QEMU and its tools
// understand the lock, and hvsdk theirs. The file's size is whole 512-byte blocks and does not change. Nothing is
// written before the first request that writes. Discarded blocks become holes in a file, which read as zeroes; discard
// is offered where the file system is of a kind that has holes, and by no block device.
//
// When the host fails to make writes last, the disk says so with every later flush (FileEngine), and the program is
// told once. Whoever opens the disk again begins anew, with whatever is on the medium.
//
// Thread-safe. Nothing is in flight when a disk is destroyed; one whose medium hangs can only be left as it is,
// together with all that its requests point to, and the process be ended by _exit.
//
//   const auto engine = FileEngine::Create(FileEngineKind::kAuto);
//   if (!engine.ok()) return engine.status();
//   const absl::StatusOr<std::shared_ptr<RawDisk>> disk = RawDisk::Open("debian.img", {.read_only = true}, *engine);

#ifndef HVSDK_IMAGE_RAW_DISK_H_
#define HVSDK_IMAGE_RAW_DISK_H_

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hvsdk/image/image_disk.h"
#include "hvsdk/os/file_engine.h"
#include "hvsdk/resource/block_device.h"

namespace hvsdk {
namespace internal {
class HostFile;
}

struct RawDiskOptions {
  bool read_only = false;
  std::array<uint8_t, 16> id{};  // as BlockInfo's
  std::string serial{};
  // Told that a sync failed, once in the disk's life: one line that names the file, DataLoss. On a thread of the disk,
  // which does nothing else meanwhile. May be null.
  std::function<void(const absl::Status&)> on_writes_lost = nullptr;
};

class RawDisk : public ImageDisk {
 public:
  // Every error is one line that names the file. NotFound, PermissionDenied; InvalidArgument: not a
  // file or block device, empty, or not whole blocks; FailedPrecondition: another program has it
  // open for writing, or this one wants to write while another has it open. Unimplemented: the file system
  // refuses locks. ResourceExhausted and others: the host cannot.
  static absl::StatusOr<std::shared_ptr<RawDisk>> Open(const std::string& path, const RawDiskOptions& options,
                                                       std::shared_ptr<FileEngine> engine);
  ~RawDisk() override;

  // For a program that is about to write an open file for another purpose. FailedPrecondition: it is a disk that another program or
  // machine uses, or an image that QEMU or its tools have open. Other errors: it cannot be told, as on a file system without locks.
  static absl::Status TestNoDisk(int fd);
  RawDisk(const RawDisk&) = delete;
  RawDisk& operator=(const RawDisk&) = delete;

  const BlockInfo& info() const override { return info_; }
  void Submit(absl::Span<BlockRequest* const> batch) override;
  BlockRange FindData(uint64_t offset_bytes) override;

  const std::string& path() const override;
  bool WaitUntilIdle(std::chrono::milliseconds timeout) const override;
  absl::Status Settle() override;

 private:
  RawDisk(std::unique_ptr<internal::HostFile> host, BlockInfo info);

  const std::unique_ptr<internal::HostFile> host_;
  const BlockInfo info_;
};

}  // namespace hvsdk

#endif  // HVSDK_IMAGE_RAW_DISK_H_
