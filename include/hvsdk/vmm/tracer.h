// SPDX-License-Identifier: Apache-2.0
// Tracer: writes what happens in a machine as a Chrome trace, which ui.perfetto.dev and chrome://tracing open.
//
// The trace is streamed: at most 64 KiB of events wait in memory. A file is a whole JSON document after each write, so it can be
// opened even if its program was killed; a pipe gets the end of the document from Finish. Text from a guest is escaped; nothing
// it does makes invalid JSON.
//
// Thread-safe. Cost of an event: formatting it under a lock, and a system call each few hundred events.
//
// Source: "Trace Event Format", Google, 2016: the JSON array format.
//
//   Tracer tracer;
//   tracer.NameTrack(0, "VP 0");
//   tracer.Start(fd);
//   const uint64_t start = tracer.NowNs();
//   ...
//   tracer.Span(0, "exit", "port read", start, R"("port":"0x3f8")");

#ifndef HVSDK_VMM_TRACER_H_
#define HVSDK_VMM_TRACER_H_

#include <cstdint>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace hvsdk::vmm {

class Tracer {
 public:
  // Tracks are VPs by their index, and these.
  static constexpr uint32_t kVmbusTrack = 100000;

  Tracer();
  ~Tracer();
  Tracer(const Tracer&) = delete;
  Tracer& operator=(const Tracer&) = delete;

  // Writes to `fd` from now on, an empty file or a pipe that outlives the tracer. Until then nothing is written, and what is
  // more than 64 KiB is forgotten. Once. A pipe's reader that is slow makes the callers of the functions below wait.
  void Start(int fd);

  // Since the tracer was made.
  uint64_t NowNs() const;

  void NameTrack(uint32_t track, absl::string_view name);
  // Something that took from `start_ns` until now. `arguments` are the members of a JSON object, without its braces.
  void Span(uint32_t track, absl::string_view category, absl::string_view name, uint64_t start_ns,
            absl::string_view arguments);
  // Something that happened now.
  void Instant(uint32_t track, absl::string_view category, absl::string_view name, absl::string_view arguments);

  // Writes what waits in memory. The error of the first write that failed, after which nothing was written.
  absl::Status Flush();
  // Flushes and ends the document; what is added later is forgotten. The destructor does it, too.
  absl::Status Finish();

  // `text` as a JSON string with its quotes.
  static std::string Quote(absl::string_view text);

 private:
  void Add(absl::string_view event);
  void FlushLocked();

  const uint64_t start_ns_;
  std::mutex mutex_;  // guards what follows
  int fd_ = -1;
  std::string pending_;
  bool positioned_ = false;  // fd_ is a file, not a pipe
  uint64_t end_ = 0;         // of the events that were written; in a file the closing bracket stands there
  absl::Status status_;      // of the first write that failed
};

}  // namespace hvsdk::vmm

#endif  // HVSDK_VMM_TRACER_H_
