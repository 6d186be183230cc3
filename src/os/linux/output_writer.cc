// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/os/output_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <utility>

#include "absl/types/optional.h"
#include "base/host_thread.h"
#include "base/status_macros.h"

namespace hvsdk::os {
namespace {

using SteadyClock = std::chrono::steady_clock;

class DescriptorSink final : public OutputSink {
 public:
  explicit DescriptorSink(int fd) : fd_(fd) {}
  ~DescriptorSink() override { close(fd_); }
  absl::Status Write(absl::string_view bytes, const std::atomic<bool>& abandoned) override {
    return WriteAll(fd_, bytes, /*offset=*/-1, abandoned);
  }

 private:
  const int fd_;
};

}  // namespace

absl::Status WriteAll(int fd, absl::string_view bytes, int64_t offset, const std::atomic<bool>& abandoned) {
  while (!bytes.empty() && !abandoned.load(std::memory_order_relaxed)) {
    const ssize_t written = offset >= 0 ? pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset))
                                        : write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EAGAIN) {
      // Somebody else made the open file description non-blocking.
      pollfd waiting{fd, POLLOUT, 0};
      poll(&waiting, 1, /*timeout=*/100);
      continue;
    }
    if (written < 0) return absl::ErrnoToStatus(errno, "cannot be written");
    bytes.remove_prefix(static_cast<size_t>(written));
    if (offset >= 0) offset += written;
  }
  return absl::OkStatus();
}

struct OutputWriter::Shared {
  explicit Shared(std::unique_ptr<OutputSink> sink, Options options)
      : sink(std::move(sink)), options(std::move(options)) {
    pending.reserve(this->options.capacity);
    piece.reserve(this->options.capacity);
  }

  size_t used() const { return pending.size() + in_flight; }
  bool HasRoom(size_t size) const { return used() + size <= options.capacity || !status.ok(); }
  void Append(absl::string_view bytes) {
    if (!status.ok()) return;
    pending.append(bytes.data(), bytes.size());
    if (pending.size() >= options.smallest_piece) work.notify_one();
  }
  void Loop();

  // The thread's.
  const std::unique_ptr<OutputSink> sink;
  Options options;
  std::string piece;

  std::atomic<bool> abandoned{false};  // there is no writer any more

  std::mutex mutex;  // guards what follows
  HostThread thread;
  std::condition_variable work, progress;
  std::string pending;
  size_t in_flight = 0;      // of the piece that the sink has
  bool in_sink = false;      // the thread may block
  bool in_callback = false;  // of on_room
  bool flush = false;
  bool refused = false;  // Put has taken less than it was given
  uint64_t written = 0;
  absl::Status status;

  // PutWhole's patience with the reader.
  bool stalled = false;
  absl::optional<SteadyClock::time_point> full_since;
  uint64_t written_when_full = 0;
};

void OutputWriter::Shared::Loop() {
  std::unique_lock lock(mutex);
  for (;;) {
    work.wait(lock, [&] {
      return abandoned || (!pending.empty() && (flush || refused || pending.size() >= options.smallest_piece));
    });
    if (abandoned) return;
    if (pending.size() <= options.largest_piece) {
      piece.clear();
      piece.swap(pending);
    } else {
      piece.assign(pending, 0, options.largest_piece);
      pending.erase(0, options.largest_piece);
    }
    in_flight = piece.size();
    in_sink = true;
    lock.unlock();
    absl::Status result = sink->Write(piece, abandoned);
    lock.lock();
    in_sink = false;
    const size_t size = std::exchange(in_flight, 0);
    if (result.ok()) {
      written += size;
    } else {
      status = std::move(result);
      pending.clear();
    }
    if (pending.empty()) {
      flush = stalled = false;
      full_since.reset();
    }
    if (refused && !abandoned) {
      refused = false;
      in_callback = true;
      lock.unlock();
      if (options.on_room) options.on_room();
      lock.lock();
      in_callback = false;
    }
    progress.notify_all();
  }
}

absl::StatusOr<std::unique_ptr<OutputWriter>> OutputWriter::Create(int fd, Options options) {
  const int own = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
  if (own < 0) return absl::ErrnoToStatus(errno, "cannot be duplicated");
  return Create(std::make_unique<DescriptorSink>(own), std::move(options));
}

absl::StatusOr<std::unique_ptr<OutputWriter>> OutputWriter::Create(std::unique_ptr<OutputSink> sink, Options options) {
  auto shared = std::make_shared<Shared>(std::move(sink), std::move(options));
  {
    std::lock_guard lock(shared->mutex);
    RETURN_IF_ERROR(shared->thread.Start(shared->options.thread_name, [shared] { shared->Loop(); }));
  }
  return std::unique_ptr<OutputWriter>(new OutputWriter(std::move(shared)));
}

OutputWriter::OutputWriter(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}

OutputWriter::~OutputWriter() {
  std::unique_lock lock(shared_->mutex);
  shared_->abandoned = true;
  shared_->progress.wait(lock, [&] { return !shared_->in_callback; });
  shared_->work.notify_one();
  if (shared_->in_sink) {
    shared_->thread.Detach();
  } else {
    lock.unlock();
    shared_->thread.Join();
  }
}

size_t OutputWriter::Put(absl::string_view bytes) {
  std::lock_guard lock(shared_->mutex);
  if (!shared_->status.ok()) return bytes.size();
  const size_t taken = std::min(bytes.size(), shared_->options.capacity - shared_->used());
  shared_->Append(bytes.substr(0, taken));
  if (taken < bytes.size()) {
    shared_->refused = true;
    shared_->work.notify_one();
  }
  return taken;
}

bool OutputWriter::PutWhole(absl::string_view bytes, std::chrono::milliseconds patience) {
  std::unique_lock lock(shared_->mutex);
  Shared& s = *shared_;
  while (!s.HasRoom(bytes.size())) {
    if (s.stalled || bytes.size() > s.options.capacity) return false;
    if (!s.full_since.has_value()) {
      s.full_since = SteadyClock::now();
      s.written_when_full = s.written;
    }
    s.flush = true;
    s.work.notify_one();
    if (s.progress.wait_until(lock, *s.full_since + patience) != std::cv_status::timeout || !s.full_since.has_value()) {
      continue;
    }
    if (SteadyClock::now() < *s.full_since + patience) continue;
    s.stalled = s.written - s.written_when_full < s.options.capacity;
    s.full_since.reset();
  }
  s.Append(bytes);
  return true;
}

bool OutputWriter::Flush(std::chrono::milliseconds limit) {
  std::unique_lock lock(shared_->mutex);
  shared_->flush = !shared_->pending.empty();
  shared_->work.notify_one();
  return shared_->progress.wait_for(lock, limit, [&] { return shared_->used() == 0 && !shared_->in_sink; });
}

uint64_t OutputWriter::written_bytes() const {
  std::lock_guard lock(shared_->mutex);
  return shared_->written;
}

absl::Status OutputWriter::status() const {
  std::lock_guard lock(shared_->mutex);
  return shared_->status;
}

}  // namespace hvsdk::os
