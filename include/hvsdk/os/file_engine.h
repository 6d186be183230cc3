// SPDX-License-Identifier: Apache-2.0
// FileEngine: carries out block requests on open files, without blocking the caller: by io_uring, or by a few threads
// of each file where the kernel has none, does not let us use it, or would have to wait. One engine serves all disks of
// a machine.
//
// With io_uring a batch is one system call, and what the page cache can answer completes within Submit. A helper thread
// delivers what completes later; it sleeps while nothing is in flight.
//
// A medium that hangs holds up nobody else: whatever may have to wait for it, waits on threads of its
// file alone.
//
// A flush is fdatasync, and so is what makes a write with `fua` last; a discard punches a hole: what
// was acknowledged is on the disk as far as the host's file system promises it. Linux tells of what it
// could not write back once, drops it, and calls the next fdatasync a success. So files are synced by one
// thread at a time, requests that wait for it together by one call, and after a failure every flush and every
// write with `fua` of that file ends with kWritesLost, until it is closed and opened again.
//
// A full disk, a quota and a limit on the size of files are kNoSpace; that the limit (RLIMIT_FSIZE) does not end the
// program is the program's to say, by ignoring SIGXFSZ.
//
// Thread-safe. An engine outlives its files.
//
//   const absl::StatusOr<std::shared_ptr<FileEngine>> engine = FileEngine::Create(FileEngineKind::kAuto);
//   if (!engine.ok()) return engine.status();
//   const absl::StatusOr<std::unique_ptr<FileEngine::File>> file = (*engine)->Serve(fd, nullptr);
//   if (!file.ok()) return file.status();
//   (*file)->Submit(batch);

#ifndef HVSDK_OS_FILE_ENGINE_H_
#define HVSDK_OS_FILE_ENGINE_H_

#include <cstdint>
#include <memory>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "hvsdk/resource/block_device.h"

namespace hvsdk {

enum class FileEngineKind : uint8_t { kAuto, kIoUring, kThreads };

class FileEngine {
 public:
  // An open file. Nothing is in flight when it is destroyed.
  class File {
   public:
    virtual ~File() = default;

    // Starts the requests. Ranges have been checked; a file that is shorter than a read expects fails it.
    virtual void Submit(absl::Span<BlockRequest* const> batch) = 0;

    // Requests that were submitted and have not completed.
    virtual uint32_t in_flight() const = 0;
  };

  // Told the errno of the first sync that failed, before the first request ends with kWritesLost. On a thread of the
  // file, which goes on when it returns.
  using SyncFailure = absl::AnyInvocable<void(int error)>;

  // Unavailable: this kernel has no io_uring, forbids it, or lacks an operation. kAuto never fails for
  // that reason. ResourceExhausted: the host has no thread to give.
  static absl::StatusOr<std::shared_ptr<FileEngine>> Create(FileEngineKind kind);

  virtual ~FileEngine() = default;

  // "io_uring" or "threads".
  virtual absl::string_view name() const = 0;

  // Serves `fd`, which stays open as long as the file. `on_sync_failure` may be null. ResourceExhausted:
  // the host has no thread to give. Once made, a file does with what it has: whatever the host refuses
  // later, every request completes.
  virtual absl::StatusOr<std::unique_ptr<File>> Serve(int fd, SyncFailure on_sync_failure) = 0;
};

}  // namespace hvsdk

#endif  // HVSDK_OS_FILE_ENGINE_H_
