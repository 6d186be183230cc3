// SPDX-License-Identifier: Apache-2.0
// FileEngine: carries out block requests on open files, without blocking the caller: by io_uring,
// or by a few threads where the kernel has none or does not let us use it. One engine serves all
// disks of a machine.
//
// With io_uring a batch is one system call, and what the page cache can answer completes within
// Submit. A helper thread delivers what completes later; it sleeps while nothing is in flight.
//
// A flush is fdatasync, a write with `fua` is RWF_DSYNC, a discard punches a hole: what was
// acknowledged is on the disk as far as the host's file system promises it. A full disk, a quota and
// a limit on the size of files are kNoSpace; that the limit (RLIMIT_FSIZE) does not end the program is
// the program's to say, by ignoring SIGXFSZ.
//
// Thread-safe. Nothing is in flight when an engine is destroyed.
//
//   ASSIGN_OR_RETURN(std::shared_ptr<FileEngine> engine,
//   FileEngine::Create(FileEngineKind::kAuto)); engine->Submit(fd, batch);

#ifndef HVSDK_BLOCK_FILE_FILE_ENGINE_H_
#define HVSDK_BLOCK_FILE_FILE_ENGINE_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "hvsdk/base/block_device.h"

namespace hvsdk {

enum class FileEngineKind : uint8_t { kAuto, kIoUring, kThreads };

class FileEngine {
 public:
  // Unavailable: this kernel has no io_uring, forbids it, or lacks an operation. kAuto never fails for
  // that reason. ResourceExhausted: the host has no thread to give. Once made, an engine does with
  // what it has: whatever the host refuses later, every request completes.
  static absl::StatusOr<std::shared_ptr<FileEngine>> Create(FileEngineKind kind);

  virtual ~FileEngine() = default;

  // "io_uring" or "threads".
  virtual absl::string_view name() const = 0;

  // Starts the requests on `fd`, which stays open until they complete. Ranges have been checked; a
  // file that is shorter than a read expects fails it.
  virtual void Submit(int fd, absl::Span<BlockRequest* const> batch) = 0;
};

}  // namespace hvsdk

#endif  // HVSDK_BLOCK_FILE_FILE_ENGINE_H_
