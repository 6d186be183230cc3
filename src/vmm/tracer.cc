// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/tracer.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "absl/strings/str_format.h"

namespace hvsdk::vmm {
namespace {

constexpr size_t kMaxPending = 65536;
constexpr absl::string_view kClosing = "\n]\n";

uint64_t MonotonicNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return uint64_t{1'000'000'000} * static_cast<uint64_t>(now.tv_sec) + static_cast<uint64_t>(now.tv_nsec);
}

// All of `text`, at an offset of a file or where a pipe stands.
absl::Status WriteAll(int fd, absl::string_view text, bool positioned, uint64_t offset) {
  while (!text.empty()) {
    const ssize_t written = positioned ? pwrite(fd, text.data(), text.size(), static_cast<off_t>(offset))
                                       : write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return absl::ErrnoToStatus(errno, "cannot be written");
    text.remove_prefix(static_cast<size_t>(written));
    offset += static_cast<uint64_t>(written);
  }
  return absl::OkStatus();
}

}  // namespace

Tracer::Tracer() : start_ns_(MonotonicNs()) {
  pending_.reserve(kMaxPending);
  Add(R"({"name":"process_name","ph":"M","pid":1,"tid":0,"args":{"name":"hvsdk"}})");
}

void Tracer::Start(int fd) {
  std::lock_guard lock(mutex_);
  fd_ = fd;
  positioned_ = lseek(fd, 0, SEEK_CUR) >= 0;
  FlushLocked();
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
  std::lock_guard lock(mutex_);
  if (pending_.size() + event.size() + kClosing.size() + 2 > kMaxPending) {
    if (fd_ < 0) return;
    FlushLocked();
  }
  pending_ += end_ + pending_.size() == 0 ? "[\n" : ",\n";
  pending_.append(event.data(), event.size());
}

absl::Status Tracer::Flush() {
  std::lock_guard lock(mutex_);
  FlushLocked();
  return status_;
}

absl::Status Tracer::Finish() {
  std::lock_guard lock(mutex_);
  FlushLocked();
  if (fd_ >= 0 && !positioned_ && status_.ok()) status_ = WriteAll(fd_, kClosing, false, 0);
  fd_ = -1;
  return status_;
}

// In a file, overwrites the closing bracket of the last time.
void Tracer::FlushLocked() {
  if (fd_ < 0) return;
  if (!pending_.empty() && status_.ok()) {
    const size_t size = pending_.size();
    if (positioned_) pending_.append(kClosing.data(), kClosing.size());
    status_ = WriteAll(fd_, pending_, positioned_, end_);
    if (status_.ok()) {
      end_ += size;
    } else if (positioned_ && ftruncate(fd_, static_cast<off_t>(end_)) == 0 && end_ != 0) {
      // The disk is full, say. What was there before becomes whole again, and it stays at that.
      WriteAll(fd_, kClosing, true, end_).IgnoreError();
    }
  }
  pending_.clear();
}

}  // namespace hvsdk::vmm
