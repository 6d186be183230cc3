// SPDX-License-Identifier: Apache-2.0
// OutputWriter: hands bytes to a terminal, pipe, socket, device or file whose reader may be slow, stopped or gone, and
// never makes its caller wait longer than it wants to.
//
// It writes on a thread of its own. No system call writes to all of these without blocking, but for O_NONBLOCK, and
// that belongs to the open file description (open(2)): on a standard descriptor it would also be the shell's, and that
// of every program which is started after us.
//
// What waits in memory is bounded by `capacity`. A thread that hangs in a write when its writer is destroyed is left
// behind with a descriptor of its own, and ends when the reader reads or goes away.
//
// Thread-safe, but for its destruction.
//
//   const auto writer = OutputWriter::Create(STDOUT_FILENO, {.on_room = [&] { loop.Schedule(more); }});
//   if (!writer.ok()) return writer.status();
//   text.erase(0, (*writer)->Put(text));  // on_room, once the rest has room
//   if (!(*writer)->Flush(std::chrono::seconds(1))) std::cerr << "nobody reads\n";

#ifndef HVSDK_OS_OUTPUT_WRITER_H_
#define HVSDK_OS_OUTPUT_WRITER_H_

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hvsdk::os {

// Where a writer's bytes go. Belongs to the writer's thread, which may outlive the writer.
class OutputSink {
 public:
  virtual ~OutputSink() = default;
  // All of `bytes`; may block. Begins no further system call once `abandoned` is true.
  virtual absl::Status Write(absl::string_view bytes, const std::atomic<bool>& abandoned) = 0;
};

class OutputWriter {
 public:
  struct Options {
    const char* thread_name = "output";  // up to 15 characters
    size_t capacity = 16384;             // how many bytes may wait, those that are being written included
    size_t largest_piece = 4096;         // of what is handed to the sink at a time
    size_t smallest_piece = 1;           // that is worth a write, unless Flush asks for it
    // There is room, after Put took less than it was given. On the writer's thread; it does not block.
    absl::AnyInvocable<void()> on_room = nullptr;
  };

  // ResourceExhausted: the host has no more threads or descriptors. The first takes a duplicate of `fd`.
  static absl::StatusOr<std::unique_ptr<OutputWriter>> Create(int fd, Options options);
  static absl::StatusOr<std::unique_ptr<OutputWriter>> Create(std::unique_ptr<OutputSink> sink, Options options);
  // Waits for nobody; what was not written is lost. on_room is not called any more.
  ~OutputWriter();
  OutputWriter(const OutputWriter&) = delete;
  OutputWriter& operator=(const OutputWriter&) = delete;

  // Takes as many bytes as there is room for; all, and forgets them, once a write has failed.
  size_t Put(absl::string_view bytes);

  // Takes all of `bytes`, or nothing and returns false. Waits for room while the reader takes at least a capacity's
  // worth within `patience`; after that not at all, until everything was written.
  bool PutWhole(absl::string_view bytes, std::chrono::milliseconds patience);

  // Waits until all that was put has been written or has failed, at most `limit`. False: it has not.
  bool Flush(std::chrono::milliseconds limit);

  // Bytes that the descriptor has taken.
  uint64_t written_bytes() const;
  // The error of the first write that failed.
  absl::Status status() const;

 private:
  struct Shared;
  explicit OutputWriter(std::shared_ptr<Shared> shared);
  const std::shared_ptr<Shared> shared_;  // with the thread
};

// Writes all of `bytes` to `fd`; at `offset`, if it is not negative. May block.
absl::Status WriteAll(int fd, absl::string_view bytes, int64_t offset, const std::atomic<bool>& abandoned);

}  // namespace hvsdk::os

#endif  // HVSDK_OS_OUTPUT_WRITER_H_
