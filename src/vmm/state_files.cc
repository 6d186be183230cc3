// SPDX-License-Identifier: Apache-2.0
#include "vmm/state_files.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <xxhash.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "base/status_macros.h"

namespace hvsdk::vmm {
namespace {

constexpr int kVersion = 2;
constexpr uint64_t kNsPerSecond = 1'000'000'000;
// Memory is read by pieces of these.
constexpr uint64_t kRead = 256 << 10;

uint64_t NsOf(const timespec& time) {
  return static_cast<uint64_t>(time.tv_sec) * kNsPerSecond + static_cast<uint64_t>(time.tv_nsec);
}

class Sum {
 public:
  Sum() : state_(XXH3_createState(), &XXH3_freeState) {
    if (state_ == nullptr) throw std::bad_alloc();
    XXH3_64bits_reset(state_.get());
  }
  void Add(const void* bytes, size_t size_bytes) { XXH3_64bits_update(state_.get(), bytes, size_bytes); }
  uint64_t value() const { return XXH3_64bits_digest(state_.get()); }

 private:
  std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state_;
};

}  // namespace

bool IsZero(absl::Span<const uint8_t> bytes) {
  return bytes[0] == 0 && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

std::string Manifest::Text() const {
  std::string text =
      absl::StrFormat("hvsdk state %d\nstate %d %016x\nmemory %d %016x %d %d\n", kVersion, state.size_bytes, state.sum,
                      memory.size_bytes, memory.sum, memory_mark.inode, memory_mark.changed_ns);
  for (size_t i = 0; i < differences.size(); ++i) {
    absl::StrAppendFormat(&text, "%s %d %016x\n", DifferenceName(i + 1), differences[i].size_bytes, differences[i].sum);
  }
  absl::StrAppendFormat(&text, "manifest %016x\n", XXH3_64bits(text.data(), text.size()));
  return text;
}

absl::StatusOr<Manifest> Manifest::Parse(const std::string& path, const std::string& text) {
  int version = 0, end = 0;
  if (std::sscanf(text.c_str(), "hvsdk state %d\n", &version) != 1) return Damaged(path, "no manifest of a state");
  if (version != kVersion) return Damaged(path, absl::StrFormat("version %d; %d is known here", version, kVersion));
  Manifest manifest;
  unsigned long long fields[6] = {};
  if (std::sscanf(text.c_str(), "hvsdk state %*d\nstate %llu %llx\nmemory %llu %llx %llu %llu\n%n", &fields[0],
                  &fields[1], &fields[2], &fields[3], &fields[4], &fields[5], &end) != 6) {
    return Damaged(path, "damaged");
  }
  manifest.state = {fields[0], fields[1]};
  manifest.memory = {fields[2], fields[3]};
  manifest.memory_mark = {fields[4], fields[5]};
  int number = 0, length = 0;
  for (const char* at = text.c_str() + end;
       std::sscanf(at, "memory.%d %llu %llx\n%n", &number, &fields[0], &fields[1], &length) == 3 &&
       manifest.differences.size() < kMaxDifferences;
       at += length) {
    manifest.differences.push_back({fields[0], fields[1]});
  }
  // Whatever else it may say, it is not what it was when it was written.
  if (manifest.Text() != text) return Damaged(path, "damaged");
  return manifest;
}

std::string PathIn(absl::string_view directory, absl::string_view name) { return absl::StrCat(directory, "/", name); }

std::string DifferenceName(size_t number) { return absl::StrCat(kMemoryName, ".", number); }

absl::Status FileError(absl::string_view path, int error) { return absl::ErrnoToStatus(error, path); }

absl::Status Damaged(absl::string_view path, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", why));
}

absl::StatusOr<Descriptor> OpenFile(const std::string& path) {
  Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  // A user's mistake, for which ErrnoToStatus has no name.
  if (file.fd() < 0 && errno == ELOOP) return Damaged(path, "a symbolic link to itself");
  if (file.fd() < 0) return FileError(path, errno);
  return file;
}

absl::StatusOr<uint64_t> SizeOf(int fd, const std::string& path) {
  struct stat found;
  if (fstat(fd, &found) != 0) return FileError(path, errno);
  if (!S_ISREG(found.st_mode)) return Damaged(path, "no regular file");
  return static_cast<uint64_t>(found.st_size);
}

absl::Status ReadAt(int fd, absl::string_view path, void* to, uint64_t size_bytes, uint64_t offset) {
  for (auto* at = static_cast<uint8_t*>(to); size_bytes != 0;) {
    const ssize_t got = pread(fd, at, size_bytes, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return FileError(path, errno);
    if (got == 0) return Damaged(path, "cut short");
    at += got;
    offset += got;
    size_bytes -= got;
  }
  return absl::OkStatus();
}

absl::Status WriteAt(int fd, absl::string_view path, absl::string_view bytes, uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return FileError(path, written < 0 ? errno : ENOSPC);
    bytes.remove_prefix(written);
    offset += written;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadManifest(const std::string& directory) {
  const std::string path = PathIn(directory, kManifestName);
  ASSIGN_OR_RETURN(const Descriptor file, OpenFile(path));
  ASSIGN_OR_RETURN(const uint64_t size_bytes, SizeOf(file.fd(), path));
  if (size_bytes > 4096) return Damaged(path, "no manifest of a state");
  std::string text(size_bytes, '\0');
  RETURN_IF_ERROR(ReadAt(file.fd(), path, text.data(), size_bytes, 0));
  return text;
}

absl::StatusOr<FileMark> MarkOf(int fd, const std::string& path) {
  struct stat found;
  if (fstat(fd, &found) != 0) return FileError(path, errno);
  return FileMark{found.st_ino, NsOf(found.st_ctim)};
}

bool IsLasting(const FileMark& mark) {
  timespec now;
  return clock_gettime(CLOCK_REALTIME_COARSE, &now) == 0 && NsOf(now) > mark.changed_ns &&
         mark.changed_ns % kNsPerSecond != 0;
}

absl::StatusOr<uint64_t> SumOfMemory(int fd, const std::string& path, uint64_t size_bytes,
                                     const std::atomic<bool>& stop, ProgressMeter progress) {
  Sum sum;
  // Read and not mapped: who reads a mapping of a file that somebody cuts meanwhile, dies.
  std::vector<uint8_t> buffer(std::min(size_bytes, kRead));
  for (uint64_t at = 0; at < size_bytes;) {
    // From one hole to the next; a file system without holes says that all is data.
    const off_t data = lseek(fd, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // a hole to the end
    if (data < 0) return FileError(path, errno);
    const off_t hole = lseek(fd, data, SEEK_HOLE);
    const uint64_t end = hole < 0 ? size_bytes : std::min<uint64_t>(hole, size_bytes);
    for (at = std::max<uint64_t>(at, static_cast<uint64_t>(data) / kPiece * kPiece); at < end;) {
      if (stop.load(std::memory_order_relaxed)) return absl::CancelledError(path);
      progress.Tell(at);
      const uint64_t whole_pieces = (end - at + kPiece - 1) / kPiece * kPiece;
      const uint64_t size = std::min({kRead, whole_pieces, size_bytes - at});
      RETURN_IF_ERROR(ReadAt(fd, path, buffer.data(), size, at));
      for (const uint64_t read_to = at + size; at < read_to; at += kPiece) {
        const absl::Span<const uint8_t> piece =
            absl::MakeConstSpan(buffer).subspan(size - (read_to - at), std::min<uint64_t>(kPiece, read_to - at));
        if (IsZero(piece)) continue;
        sum.Add(&at, sizeof(at));
        sum.Add(piece.data(), piece.size());
      }
    }
  }
  progress.Tell(size_bytes);
  return sum.value();
}

absl::StatusOr<uint64_t> SumOfFile(int fd, const std::string& path, uint64_t size_bytes) {
  Sum sum;
  std::vector<uint8_t> piece(std::min<uint64_t>(size_bytes, 1 << 20));
  for (uint64_t at = 0; at < size_bytes; at += piece.size()) {
    const uint64_t size = std::min<uint64_t>(piece.size(), size_bytes - at);
    RETURN_IF_ERROR(ReadAt(fd, path, piece.data(), size, at));
    sum.Add(piece.data(), size);
  }
  return sum.value();
}

}  // namespace hvsdk::vmm
