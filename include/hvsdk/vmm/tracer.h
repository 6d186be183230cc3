// SPDX-License-Identifier: Apache-2.0
// Tracer: writes what happens in a machine as a Chrome trace, which ui.perfetto.dev and chrome://tracing open.
//
// The file is streamed: at most 64 KiB of events wait in memory, and after each write it is a whole JSON document, so a
// trace can be opened even if its program was killed. Text from a guest is escaped; nothing it does makes invalid JSON.
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

  // Writes to `fd` from now on, an empty regular file that outlives the tracer. Until then nothing is written, and what is
  // more than 64 KiB is forgotten. Once.
  void Start(int fd);

  // Since the tracer was made.
  uint64_t NowNs() const;

  void NameTrack(uint32_t track, absl::string_view name);
  // Something that took from `start_ns` until now. `arguments` are the members of a JSON object, without its braces.
  void Span(uint32_t track, absl::string_view category, absl::string_view name, uint64_t start_ns,
            absl::string_view arguments);
  // Something that happened now.
  void Instant(uint32_t track, absl::string_view category, absl::string_view name, absl::string_view arguments);

  // Writes what waits in memory. False: an earlier write failed, and the trace is not complete.
  bool Flush();

  // `text` as a JSON string with its quotes.
  static std::string Quote(absl::string_view text);

 private:
  void Add(absl::string_view event);
  void FlushLocked();

  const uint64_t start_ns_;
  std::mutex mutex_;  // guards what follows
  int fd_ = -1;
  std::string pending_;
  uint64_t end_ = 0;  // of the events in the file; the closing bracket stands there
  bool failed_ = false;
};

}  // namespace hvsdk::vmm

#endif  // HVSDK_VMM_TRACER_H_
