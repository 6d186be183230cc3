// SPDX-License-Identifier: Apache-2.0
// The files of a saved state, as those who write and who read them share them. docs/state.md says what is in them.

#ifndef HVSDK_SRC_VMM_STATE_FILES_H_
#define HVSDK_SRC_VMM_STATE_FILES_H_

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace hvsdk::vmm {

inline constexpr absl::string_view kManifestName = "manifest", kStateName = "state", kMemoryName = "memory";
// Memory is written, skipped and summed up by pieces of this size; the last one may be shorter.
inline constexpr size_t kPiece = 64 << 10;
// A state of so many differences is followed by a whole one.
inline constexpr size_t kMaxDifferences = 32;

class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(other.Release()) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int fd() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

// Length and checksum of a file.
struct FileSeal {
  uint64_t size_bytes = 0, sum = 0;
};

// What a file system changes with each change of a file, and gives to no copy. Zero: not known.
struct FileMark {
  uint64_t inode = 0, changed_ns = 0;

  bool operator==(const FileMark&) const = default;
};

absl::StatusOr<FileMark> MarkOf(int fd, const std::string& path);
// Whether every change from now on gives the file another mark: the clock that file systems look at has gone on since, and the mark is
// not in whole seconds, as those have it that are coarser than this clock.
bool IsLasting(const FileMark& mark);

// Tells how far it is, five times a second.
class ProgressMeter {
 public:
  using OnProgress = std::function<void(uint64_t done_bytes, uint64_t total_bytes)>;
  ProgressMeter(const OnProgress& on_progress, uint64_t total_bytes)
      : on_progress_(on_progress), total_bytes_(total_bytes) {}
  void Tell(uint64_t done_bytes) {
    const auto now = std::chrono::steady_clock::now();
    if (!on_progress_ || (now < next_ && done_bytes != total_bytes_)) return;
    next_ = now + std::chrono::milliseconds(200);
    on_progress_(done_bytes, total_bytes_);
  }

 private:
  const OnProgress& on_progress_;
  const uint64_t total_bytes_;
  std::chrono::steady_clock::time_point next_{};
};

struct Manifest {
  FileSeal state, memory;
  FileMark memory_mark;
  std::vector<FileSeal> differences;  // memory.1, memory.2, ...

  std::string Text() const;
  static absl::StatusOr<Manifest> Parse(const std::string& path, const std::string& text);
};

std::string PathIn(absl::string_view directory, absl::string_view name);
// The name of difference `number`, which counts from 1.
std::string DifferenceName(size_t number);

absl::Status FileError(absl::string_view path, int error);
absl::Status Damaged(absl::string_view path, absl::string_view why);

// For reading; a pipe does not hold it up.
absl::StatusOr<Descriptor> OpenFile(const std::string& path);
absl::StatusOr<uint64_t> SizeOf(int fd, const std::string& path);
absl::Status ReadAt(int fd, absl::string_view path, void* to, uint64_t size_bytes, uint64_t offset);
absl::Status WriteAt(int fd, absl::string_view path, absl::string_view bytes, uint64_t offset);

// Of at least one byte.
bool IsZero(absl::Span<const uint8_t> bytes);

// The manifest's text, which is like no other state's.
absl::StatusOr<std::string> ReadManifest(const std::string& directory);

// Of the file `memory`: what is zero does not count, wherever the file system keeps holes. Cancelled: `stop` was set.
absl::StatusOr<uint64_t> SumOfMemory(int fd, const std::string& path, uint64_t size_bytes,
                                     const std::atomic<bool>& stop, ProgressMeter progress);
// Of a difference: all of it.
absl::StatusOr<uint64_t> SumOfFile(int fd, const std::string& path, uint64_t size_bytes);

}  // namespace hvsdk::vmm

#endif  // HVSDK_SRC_VMM_STATE_FILES_H_
