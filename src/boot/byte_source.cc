// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/boot/byte_source.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace hvsdk::boot {
namespace {

class FileSource final : public ByteSource {
 public:
  FileSource(int fd, uint64_t size) : fd_(fd), size_(size) {}
  ~FileSource() override { close(fd_); }
  uint64_t size() const override { return size_; }

  absl::Status Read(uint64_t offset, absl::Span<uint8_t> to) const override {
    if (offset > size_ || to.size() > size_ - offset) return absl::OutOfRangeError("end of file");
    for (size_t done = 0; done < to.size();) {
      const ssize_t got = pread(fd_, to.data() + done, to.size() - done, static_cast<off_t>(offset + done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return absl::DataLossError(absl::StrCat("cannot be read: ", strerror(errno)));
      if (got == 0) return absl::DataLossError("was truncated while it was being read");
      done += static_cast<size_t>(got);
    }
    return absl::OkStatus();
  }

 private:
  const int fd_;
  const uint64_t size_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ByteSource>> OpenFileSource(const std::string& path) {
  // Not blocking: a FIFO would wait for a writer before it can be refused.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  // The one errno of a mistake that is no status of its own.
  if (fd < 0 && errno == ELOOP) return absl::InvalidArgumentError(absl::StrCat("cannot open: ", strerror(errno)));
  if (fd < 0) return absl::ErrnoToStatus(errno, "cannot open");
  struct stat info;
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    return absl::InvalidArgumentError("not a regular file");
  }
  return std::make_unique<FileSource>(fd, static_cast<uint64_t>(info.st_size));
}

}  // namespace hvsdk::boot
