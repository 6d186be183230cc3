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

}  // namespace

Tracer::Tracer() : start_ns_(MonotonicNs()) {
  pending_.reserve(kMaxPending);
  Add(R"({"name":"process_name","ph":"M","pid":1,"tid":0,"args":{"name":"hvsdk"}})");
}

void Tracer::Start(int fd) {
  std::lock_guard lock(mutex_);
  fd_ = fd;
  FlushLocked();
}

Tracer::~Tracer() { Flush(); }

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

void Tracer::Instant(uint32_t track, absl::string_view category, absl::string_view name,
                     absl::string_view arguments) {
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

bool Tracer::Flush() {
  std::lock_guard lock(mutex_);
  FlushLocked();
  return !failed_;
}

// Overwrites the closing bracket of the last time, in one write.
void Tracer::FlushLocked() {
  if (fd_ < 0) return;
  if (pending_.empty() || failed_) {
    pending_.clear();
    return;
  }
  const size_t size = pending_.size();
  pending_.append(kClosing.data(), kClosing.size());
  ssize_t written;
  do {
    written = pwrite(fd_, pending_.data(), pending_.size(), static_cast<off_t>(end_));
  } while (written < 0 && errno == EINTR);
  if (written == static_cast<ssize_t>(pending_.size())) {
    end_ += size;
  } else {
    // The disk is full, say. What was there before becomes whole again, and it stays at that.
    failed_ = true;
    if (ftruncate(fd_, static_cast<off_t>(end_)) == 0 && end_ != 0) {
      (void)!pwrite(fd_, kClosing.data(), kClosing.size(), static_cast<off_t>(end_));
    }
  }
  pending_.clear();
}

}  // namespace hvsdk::vmm
