// SPDX-License-Identifier: Apache-2.0
// Tracer: writes what happens in a machine as a Chrome trace, which ui.perfetto.dev and chrome://tracing open.
//
// The trace is streamed: at most 64 KiB of events wait in memory, and a thread of the tracer's writes them. A file is a
// whole JSON document after each write, so it can be opened even if its program was killed; a pipe gets the end of the
// document from Finish. Text from a guest is escaped; nothing it does makes invalid JSON.
//
// A reader that is slow makes those wait who have events, while it takes 64 KiB in a fifth of a second. Behind one that
// is slower events are lost until it has caught up; then an event "lost" says how many.
//
// Thread-safe, but for Start and Finish. Cost of an event: formatting it, a lock, and a system call each few
// hundred events.
//
// Source: "Trace Event Format", Google, 2016: the JSON array format.
//
//   Tracer tracer;
//   tracer.NameTrack(0, "VP 0");
//   if (const absl::Status status = tracer.Start(fd); !status.ok()) return status;
//   const uint64_t start = tracer.NowNs();
//   ...
//   tracer.Span(0, "exit", "port read", start, R"("port":"0x3f8")");

#ifndef HVSDK_MACHINE_TRACER_H_
#define HVSDK_MACHINE_TRACER_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "hvsdk/os/output_writer.h"

namespace hvsdk::machine {

class Tracer {
 public:
  // Tracks are VPs by their index, and these.
  static constexpr uint32_t kVmbusTrack = 100000;

  Tracer();
  ~Tracer();
  Tracer(const Tracer&) = delete;
  Tracer& operator=(const Tracer&) = delete;

  // Writes to `fd` from now on, an empty file or a pipe. Until then nothing is written, and what is more than 64 KiB is
  // lost. Once.
  // ResourceExhausted: the host has no thread or descriptor for it.
  absl::Status Start(int fd);

  // Since the tracer was made.
  uint64_t NowNs() const;

  void NameTrack(uint32_t track, absl::string_view name);
  // Something that took from `start_ns` until now. `arguments` are the members of a JSON object, without its braces.
  void Span(uint32_t track, absl::string_view category, absl::string_view name, uint64_t start_ns,
            absl::string_view arguments);
  // Something that happened now.
  void Instant(uint32_t track, absl::string_view category, absl::string_view name, absl::string_view arguments);

  // Something that happened `count` times and of which no events were made; all such are told as one event "lost".
  void Lost(uint64_t count) { lost_.fetch_add(count, std::memory_order_relaxed); }

  // Writes what waits in memory, and waits for that at most half a second. The error of the first write that failed,
  // after which nothing was written; DeadlineExceeded: the reader does not read.
  absl::Status Flush();
  // Flushes and ends the document; what is added later is forgotten. The destructor does it, too.
  absl::Status Finish();

  // `text` as a JSON string with its quotes.
  static std::string Quote(absl::string_view text);

 private:
  void Add(absl::string_view event);
  absl::Status status() const {
    std::lock_guard lock(status_mutex_);
    return status_;
  }
  std::string LostEvent(uint64_t count) const;

  const uint64_t start_ns_;
  std::atomic<uint64_t> lost_{0};  // events that no event tells of yet

  std::mutex mutex_;     // guards what follows until Start
  std::string pending_;  // the beginning of the document
  std::unique_ptr<os::OutputWriter> writer_;
  std::atomic<os::OutputWriter*> open_writer_{nullptr};  // between Start and Finish
  bool positioned_ = false;                              // it writes to a file, not to a pipe

  mutable std::mutex status_mutex_;  // guards status_
  absl::Status status_;              // of Finish
};

}  // namespace hvsdk::machine

#endif  // HVSDK_MACHINE_TRACER_H_
