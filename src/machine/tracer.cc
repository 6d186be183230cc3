// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/machine/tracer.h"

#include <errno.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <chrono>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace hvsdk::machine {
namespace {

constexpr size_t kMaxPending = 65536;
constexpr absl::string_view kClosing = "\n]\n";

uint64_t MonotonicNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return uint64_t{1'000'000'000} * static_cast<uint64_t>(now.tv_sec) + static_cast<uint64_t>(now.tv_nsec);
}

class TraceSink final : public os::OutputSink {
 public:
  TraceSink(int fd, bool positioned) : fd_(fd), positioned_(positioned) {}
  ~TraceSink() override { close(fd_); }

  // In a file, overwrites the closing bracket of the last time.
  absl::Status Write(absl::string_view events, const std::atomic<bool>& abandoned) override {
    if (!positioned_) return os::WriteAll(fd_, events, /*offset=*/-1, abandoned);
    text_.assign(events.data(), events.size());
    text_.append(kClosing.data(), kClosing.size());
    absl::Status status = os::WriteAll(fd_, text_, end_, abandoned);
    if (status.ok()) {
      end_ += static_cast<int64_t>(events.size());
    } else if (ftruncate(fd_, end_) == 0 && end_ != 0) {
      // The disk is full, say. What was there before becomes whole again, and it stays at that.
      os::WriteAll(fd_, kClosing, end_, abandoned).IgnoreError();
    }
    return status;
  }

 private:
  const int fd_;
  const bool positioned_;
  int64_t end_ = 0;  // of the events that were written; there stands the closing bracket
  std::string text_;
};

}  // namespace

Tracer::Tracer() : start_ns_(MonotonicNs()) {
  pending_ =
      "[\n"
      R"({"name":"process_name","ph":"M","pid":1,"tid":0,"args":{"name":"hvsdk"}})";
}

absl::Status Tracer::Start(int fd) {
  std::lock_guard lock(mutex_);
  HVSDK_CHECK(writer_ == nullptr);
  positioned_ = lseek(fd, 0, SEEK_CUR) >= 0;
  const int own = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
  if (own < 0) return absl::ErrnoToStatus(errno, "cannot be duplicated");
  // Whole events go to the sink, however many.
  ASSIGN_OR_RETURN(writer_, os::OutputWriter::Create(std::make_unique<TraceSink>(own, positioned_),
                                                     {.thread_name = "trace",
                                                      .capacity = kMaxPending,
                                                      .largest_piece = kMaxPending,
                                                      .smallest_piece = kMaxPending / 2}));
  writer_->Put(pending_);
  pending_ = {};
  open_writer_.store(writer_.get(), std::memory_order_release);
  return absl::OkStatus();
}

Tracer::~Tracer() { Finish().IgnoreError(); }

uint64_t Tracer::NowNs() const { return MonotonicNs() - start_ns_; }

std::string Tracer::Quote(absl::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (byte < 0x20 || byte >= 0x7F) {
      absl::StrAppendFormat(&quoted, "\\u%04x", byte);
    } else {
      quoted += c;
    }
  }
  quoted += '"';
  return quoted;
}

void Tracer::NameTrack(uint32_t track, absl::string_view name) {
  Add(absl::StrFormat(R"({"name":"thread_name","ph":"M","pid":1,"tid":%d,"args":{"name":%s}})", track, Quote(name)));
}

void Tracer::Span(uint32_t track, absl::string_view category, absl::string_view name, uint64_t start_ns,
                  absl::string_view arguments) {
  const uint64_t duration_ns = NowNs() - start_ns;
  Add(absl::StrFormat(R"({"name":%s,"cat":"%s","ph":"X","pid":1,"tid":%d,"ts":%d.%03d,"dur":%d.%03d,"args":{%s}})",
                      Quote(name), category, track, start_ns / 1000, start_ns % 1000, duration_ns / 1000,
                      duration_ns % 1000, arguments));
}

void Tracer::Instant(uint32_t track, absl::string_view category, absl::string_view name, absl::string_view arguments) {
  const uint64_t now_ns = NowNs();
  Add(absl::StrFormat(R"({"name":%s,"cat":"%s","ph":"i","s":"t","pid":1,"tid":%d,"ts":%d.%03d,"args":{%s}})",
                      Quote(name), category, track, now_ns / 1000, now_ns % 1000, arguments));
}

void Tracer::Add(absl::string_view event) {
  // Beyond this a reader costs those who have events no more time.
  constexpr std::chrono::milliseconds kPatience(200);
  os::OutputWriter* writer = open_writer_.load(std::memory_order_acquire);
  if (writer == nullptr) {
    std::lock_guard lock(mutex_);
    writer = open_writer_.load(std::memory_order_relaxed);
    if (writer == nullptr) {
      if (writer_ != nullptr) return;  // finished
      if (pending_.size() + event.size() + kClosing.size() + 2 > kMaxPending) return Lost(1);
      absl::StrAppend(&pending_, ",\n", event);
      return;
    }
  }
  const uint64_t lost = lost_.exchange(0, std::memory_order_relaxed);
  const std::string text = lost == 0 ? absl::StrCat(",\n", event) : absl::StrCat(LostEvent(lost), ",\n", event);
  if (!writer->PutWhole(text, kPatience)) Lost(lost + 1);
}

std::string Tracer::LostEvent(uint64_t count) const {
  const uint64_t now_ns = NowNs();
  return absl::StrFormat(
      ",\n"
      R"({"name":"lost","cat":"trace","ph":"i","s":"g","pid":1,"tid":0,"ts":%d.%03d,"args":{"events":%d}})",
      now_ns / 1000, now_ns % 1000, count);
}

absl::Status Tracer::Flush() {
  constexpr std::chrono::milliseconds kLimit(500);
  os::OutputWriter* const writer = open_writer_.load(std::memory_order_acquire);
  if (writer == nullptr) return status();
  const bool flushed = writer->Flush(kLimit);
  absl::Status status = writer->status();
  return flushed || !status.ok() ? status : absl::DeadlineExceededError("its reader does not read");
}

absl::Status Tracer::Finish() {
  os::OutputWriter* const writer = open_writer_.load(std::memory_order_acquire);
  if (writer == nullptr) return status();
  constexpr std::chrono::milliseconds kNone(0);
  absl::Status status = Flush();
  const uint64_t lost = lost_.load(std::memory_order_relaxed);
  if (status.ok() && lost != 0) writer->PutWhole(LostEvent(lost), kNone);
  if (status.ok() && !positioned_) writer->PutWhole(kClosing, kNone);
  if (status.ok()) status = Flush();
  {
    std::lock_guard lock(status_mutex_);
    status_ = status;
  }
  open_writer_.store(nullptr, std::memory_order_release);
  return status;
}

}  // namespace hvsdk::machine
