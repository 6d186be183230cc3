// SPDX-License-Identifier: Apache-2.0
// RawDisk: a BlockDevice whose medium is a file or a host block device, byte for byte.
//
// The file is locked while it is open: one writer, or any number of readers, on this host. Its size
// is whole 512-byte blocks and does not change. Nothing is written before the first request that
// writes. Discarded blocks become holes in a file, which read as zeroes; discard is offered where the
// file system is of a kind that has holes, and by no block device.
//
// Thread-safe. Nothing is in flight when a disk is destroyed.
//
//   ASSIGN_OR_RETURN(auto engine, FileEngine::Create(FileEngineKind::kAuto));
//   ASSIGN_OR_RETURN(std::shared_ptr<RawDisk> disk, RawDisk::Open("debian.img", {.read_only =
//   true}, engine));

#ifndef HVSDK_BLOCK_FILE_RAW_DISK_H_
#define HVSDK_BLOCK_FILE_RAW_DISK_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "hvsdk/base/block_device.h"
#include "hvsdk/block_file/file_engine.h"

namespace hvsdk {

struct RawDiskOptions {
  bool read_only = false;
  std::array<uint8_t, 16> id{};  // as BlockInfo's
  std::string serial;
};

class RawDisk : public BlockDevice {
 public:
  // Every error is one line that names the file. NotFound, PermissionDenied; InvalidArgument: not a
  // file or block device, empty, or not whole blocks; FailedPrecondition: another program has it
  // open for writing, or this one wants to write while another has it open.
  static absl::StatusOr<std::shared_ptr<RawDisk>> Open(const std::string& path, const RawDiskOptions& options,
                                                       std::shared_ptr<FileEngine> engine);
  ~RawDisk() override;
  RawDisk(const RawDisk&) = delete;
  RawDisk& operator=(const RawDisk&) = delete;

  const BlockInfo& info() const override { return info_; }
  void Submit(absl::Span<BlockRequest* const> batch) override;

 private:
  RawDisk(int fd, BlockInfo info, std::shared_ptr<FileEngine> engine)
      : fd_(fd), info_(std::move(info)), engine_(std::move(engine)) {}

  const int fd_;
  const BlockInfo info_;
  const std::shared_ptr<FileEngine> engine_;
};

}  // namespace hvsdk

#endif  // HVSDK_BLOCK_FILE_RAW_DISK_H_
