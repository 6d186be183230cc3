// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/new_state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/state/writer.h"
#include "os/linux/folder.h"
#include "vmm/state_files.h"

namespace hvsdk::vmm {
namespace {

absl::string_view Text(absl::Span<const uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// For reading and writing.
absl::StatusOr<Descriptor> CreateFile(const std::string& path) {
  Descriptor file(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (file.fd() < 0) return FileError(path, errno);
  return file;
}

absl::Status WriteFile(const std::string& path, absl::string_view bytes) {
  ASSIGN_OR_RETURN(const Descriptor file, CreateFile(path));
  RETURN_IF_ERROR(WriteAt(file.fd(), path, bytes, 0));
  return fsync(file.fd()) == 0 ? absl::OkStatus() : FileError(path, errno);
}

absl::Status CopyFile(int from, const std::string& from_path, const std::string& path, uint64_t size_bytes) {
  ASSIGN_OR_RETURN(const Descriptor to, CreateFile(path));
  if (ftruncate(to.fd(), static_cast<off_t>(size_bytes)) != 0) return FileError(path, errno);
  std::vector<char> piece(1 << 20);
  for (off_t at = 0;;) {
    at = lseek(from, at, SEEK_DATA);
    if (at < 0 && errno == ENXIO) break;  // a hole to the end
    const off_t end = at < 0 ? at : lseek(from, at, SEEK_HOLE);
    if (end < 0) return FileError(from_path, errno);
    while (at < end) {
      const size_t size = std::min<uint64_t>(piece.size(), end - at);
      RETURN_IF_ERROR(ReadAt(from, from_path, piece.data(), size, at));
      RETURN_IF_ERROR(WriteAt(to.fd(), path, {piece.data(), size}, at));
      at += static_cast<off_t>(size);
    }
  }
  return fsync(to.fd()) == 0 ? absl::OkStatus() : FileError(path, errno);
}

// A second name for a file that nobody changes; or, where the file system has none, a copy.
absl::Status ShareFile(const std::string& from, const std::string& to, const FileSeal& seal) {
  ASSIGN_OR_RETURN(const Descriptor file, OpenFile(from));
  ASSIGN_OR_RETURN(const uint64_t size_bytes, SizeOf(file.fd(), from));
  if (size_bytes != seal.size_bytes) {
    return Damaged(from, absl::StrFormat("%d bytes; the manifest says %d", size_bytes, seal.size_bytes));
  }
  if (link(from.c_str(), to.c_str()) == 0) return absl::OkStatus();
  if (errno != EXDEV && errno != EPERM && errno != EOPNOTSUPP && errno != EMLINK) return FileError(from, errno);
  return CopyFile(file.fd(), from, to, size_bytes);
}

std::vector<std::string> FileNames() {
  std::vector<std::string> names = {std::string(kManifestName), std::string(kStateName), std::string(kMemoryName)};
  for (size_t i = 1; i <= kMaxDifferences; ++i) names.push_back(DifferenceName(i));
  return names;
}

// The files of a state alone: what else a user keeps there is not ours to remove.
absl::Status RemoveFiles(const std::string& directory) {
  for (const std::string& name : FileNames()) {
    const std::string path = PathIn(directory, name);
    if (unlink(path.c_str()) != 0 && errno != ENOENT && errno != ENOTDIR) return FileError(path, errno);
  }
  return absl::OkStatus();
}

absl::Status Remove(const std::string& directory) {
  RETURN_IF_ERROR(RemoveFiles(directory));
  if (rmdir(directory.c_str()) != 0 && errno != ENOENT) return FileError(directory, errno);
  return absl::OkStatus();
}

absl::Status Sync(const std::string& folder) {
  const int error = internal::SyncFolder(folder);
  return error == 0 ? absl::OkStatus() : FileError(folder, error);
}

// Beside `path`, and hidden: a name that nobody chooses for something of their own.
std::string Beside(const std::string& path, absl::string_view kind) {
  const size_t name = path.rfind('/') + 1;  // 0 if there is none
  return absl::StrCat(path.substr(0, name), ".", path.substr(name), ".hvsdk-", kind);
}

// The directory's, for as long as it is open: until then no other save removes what is in it.
absl::StatusOr<Descriptor> Lock(const std::string& path) {
  Descriptor directory(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (directory.fd() < 0) return FileError(path, errno);
  if (flock(directory.fd(), LOCK_EX | LOCK_NB) == 0) return directory;
  // Without locks (ENOLCK, EOPNOTSUPP) it goes as well, but for two saves to one place at once.
  if (errno != EWOULDBLOCK) return directory;
  return absl::FailedPreconditionError(absl::StrCat(path, ": another save to the same place is under way"));
}

// Makes an empty directory, or empties the one that a save to `place` left which was killed.
absl::StatusOr<Descriptor> MakeFresh(const std::string& path, const std::string& place) {
  for (;;) {
    if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return FileError(place, errno);
    absl::StatusOr<Descriptor> locked = Lock(path);
    if (absl::IsNotFound(locked.status())) continue;
    RETURN_IF_ERROR(locked.status());
    // Another save may have moved it into its place since.
    struct stat opened, named;
    if (fstat(locked->fd(), &opened) != 0) return FileError(path, errno);
    if (lstat(path.c_str(), &named) != 0 || named.st_ino != opened.st_ino || named.st_dev != opened.st_dev) continue;
    RETURN_IF_ERROR(RemoveFiles(path));
    return locked;
  }
}

// Moves `fresh` to `path`; an older state that was there is then at `fresh`. Network file systems exchange nothing: there the older one is
// moved away first, and a crash in between leaves it beside.
absl::Status MoveIntoPlace(const std::string& fresh, const std::string& path) {
  const auto move = [](const std::string& from, const std::string& to, unsigned flags = 0) {
    return renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags) == 0;
  };
  if (move(fresh, path, RENAME_NOREPLACE)) return absl::OkStatus();
  const bool has_flags = errno != EINVAL && errno != ENOSYS;
  if (has_flags && errno != EEXIST) return FileError(path, errno);
  if (has_flags && move(fresh, path, RENAME_EXCHANGE)) return absl::OkStatus();
  if (errno != EINVAL && errno != ENOSYS) return FileError(path, errno);

  if (move(fresh, path)) return absl::OkStatus();  // nothing was there
  const std::string old = Beside(path, "old");
  RETURN_IF_ERROR(Remove(old));
  if (!move(path, old)) return FileError(path, errno);
  const bool moved = move(fresh, path);
  const int error = errno;
  if (!move(old, moved ? fresh : path)) return FileError(old, errno);
  return moved ? absl::OkStatus() : FileError(path, error);
}

// Nothing, or a state and nothing else: its place may be taken.
absl::Status CheckPlace(const std::string& path) {
  struct stat found;
  if (stat(path.c_str(), &found) != 0) return errno == ENOENT ? absl::OkStatus() : FileError(path, errno);
  const auto is_no_state = [&](absl::string_view why) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": is there, and ", why));
  };
  if (!S_ISDIR(found.st_mode)) return is_no_state("is no state");
  if (rmdir(path.c_str()) == 0) return absl::OkStatus();
  if (stat(PathIn(path, kManifestName).c_str(), &found) != 0) return is_no_state("is no state");
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(path.c_str()), closedir);
  if (directory == nullptr) return FileError(path, errno);
  const std::vector<std::string> names = FileNames();
  while (const dirent* entry = readdir(directory.get())) {
    const absl::string_view name = entry->d_name;
    if (name == "." || name == ".." || absl::c_linear_search(names, name)) continue;
    return is_no_state(absl::StrCat("has another file than a state's: ", name));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> StateId(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadManifest(path));
  RETURN_IF_ERROR(Manifest::Parse(PathIn(path, kManifestName), text).status());
  return text;
}

absl::StatusOr<NewState> NewState::Create(const std::string& path, uint64_t memory_bytes, const std::string& base) {
  HVSDK_CHECK(memory_bytes % kPageSize == 0);
  NewState state;
  state.place_ = path;
  while (state.place_.size() > 1 && absl::EndsWith(state.place_, "/")) state.place_.pop_back();
  // What is exchanged is a directory, and not a link to it.
  struct stat found;
  if (lstat(state.place_.c_str(), &found) == 0 && S_ISLNK(found.st_mode)) {
    const std::unique_ptr<char, void (*)(void*)> real(realpath(state.place_.c_str(), nullptr), std::free);
    if (real == nullptr) return FileError(state.place_, errno);
    state.place_ = real.get();
  }
  state.memory_bytes_ = memory_bytes;
  RETURN_IF_ERROR(CheckPlace(state.place_));
  const std::string fresh = Beside(state.place_, "new");
  ASSIGN_OR_RETURN(Descriptor locked, MakeFresh(fresh, state.place_));
  state.lock_fd_ = locked.Release();
  state.fresh_ = fresh;
  RETURN_IF_ERROR(state.Open(base));
  return state;
}

absl::Status NewState::Open(const std::string& base) {
  size_t number = 0;
  if (!base.empty()) {
    ASSIGN_OR_RETURN(base_manifest_, ReadManifest(base));
    const std::string manifest_path = PathIn(base, kManifestName);
    ASSIGN_OR_RETURN(const Manifest manifest, Manifest::Parse(manifest_path, base_manifest_));
    if (manifest.memory.size_bytes != memory_bytes_) {
      return Damaged(base, absl::StrFormat("of a machine with %d MiB of memory, not %d",
                                           manifest.memory.size_bytes >> 20, memory_bytes_ >> 20));
    }
    uint64_t shared_bytes = 0;
    for (const FileSeal& difference : manifest.differences) shared_bytes += difference.size_bytes;
    is_difference_ = manifest.differences.size() < kMaxDifferences && shared_bytes < memory_bytes_;
    if (is_difference_) {
      number = manifest.differences.size() + 1;
      RETURN_IF_ERROR(ShareFile(PathIn(base, kMemoryName), PathIn(fresh_, kMemoryName), manifest.memory));
      for (size_t i = 1; i < number; ++i) {
        const std::string name = DifferenceName(i);
        RETURN_IF_ERROR(ShareFile(PathIn(base, name), PathIn(fresh_, name), manifest.differences[i - 1]));
      }
      slots_.resize(memory_bytes_ >> kPageShift);
    }
  }
  memory_path_ = PathIn(fresh_, is_difference_ ? DifferenceName(number) : std::string(kMemoryName));
  ASSIGN_OR_RETURN(Descriptor file, CreateFile(memory_path_));
  memory_fd_ = file.Release();
  written_ = PageSet(memory_bytes_ >> kPageShift);
  if (!is_difference_ && ftruncate(memory_fd_, static_cast<off_t>(memory_bytes_)) != 0) {
    return FileError(memory_path_, errno);
  }
  return absl::OkStatus();
}

NewState& NewState::operator=(NewState&& other) noexcept {
  std::swap(place_, other.place_);
  std::swap(fresh_, other.fresh_);
  std::swap(memory_path_, other.memory_path_);
  std::swap(memory_fd_, other.memory_fd_);
  std::swap(lock_fd_, other.lock_fd_);
  std::swap(memory_bytes_, other.memory_bytes_);
  std::swap(is_difference_, other.is_difference_);
  std::swap(written_bytes_, other.written_bytes_);
  std::swap(written_, other.written_);
  std::swap(slots_, other.slots_);
  std::swap(pages_, other.pages_);
  std::swap(base_manifest_, other.base_manifest_);
  return *this;
}

NewState::~NewState() {
  if (memory_fd_ >= 0) close(memory_fd_);
  if (!fresh_.empty()) (void)Remove(fresh_);
  if (lock_fd_ >= 0) close(lock_fd_);
}

absl::Status NewState::WritePages(uint64_t first, absl::Span<const uint8_t> bytes) {
  HVSDK_CHECK(bytes.size() % kPageSize == 0 && first + bytes.size() / kPageSize <= written_.size());
  return is_difference_ ? WriteDifference(first, bytes) : WriteWhole(first, bytes);
}

// What is zero and was never anything else stays a hole.
absl::Status NewState::WriteWhole(uint64_t first, absl::Span<const uint8_t> bytes) {
  for (uint64_t at = first << kPageShift; !bytes.empty();) {
    const absl::Span<const uint8_t> piece = bytes.subspan(0, kPiece - at % kPiece);
    bytes.remove_prefix(piece.size());
    bool is_hole = IsZero(piece);
    for (uint64_t page = at >> kPageShift; is_hole && page < (at + piece.size()) >> kPageShift; ++page) {
      is_hole = !written_.Contains(page);
    }
    if (!is_hole) {
      RETURN_IF_ERROR(WriteAt(memory_fd_, memory_path_, Text(piece), at));
      written_bytes_ += piece.size();
      for (uint64_t page = at >> kPageShift; page < (at + piece.size()) >> kPageShift; ++page) written_.Add(page);
    }
    at += piece.size();
  }
  return absl::OkStatus();
}

// New pages behind those that are there, others in their places; neighbours at once.
absl::Status NewState::WriteDifference(uint64_t first, absl::Span<const uint8_t> bytes) {
  const uint64_t end = first + bytes.size() / kPageSize;
  for (uint64_t page = first; page < end; ++page) {
    if (written_.Contains(page)) continue;
    written_.Add(page);
    slots_[page] = static_cast<uint32_t>(pages_.size());
    pages_.push_back(page);
  }
  for (uint64_t page = first; page < end;) {
    uint64_t next = page + 1;
    while (next < end && slots_[next] == slots_[page] + (next - page)) ++next;
    const absl::Span<const uint8_t> run = bytes.subspan((page - first) << kPageShift, (next - page) << kPageShift);
    RETURN_IF_ERROR(WriteAt(memory_fd_, memory_path_, Text(run), uint64_t{slots_[page]} << kPageShift));
    written_bytes_ += run.size();
    page = next;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> NewState::Seal(machine::SavedMachine& machine) {
  Manifest manifest;
  FileSeal* seal = &manifest.memory;
  uint64_t size_bytes = memory_bytes_;
  if (is_difference_) {
    ASSIGN_OR_RETURN(manifest, Manifest::Parse(PathIn(fresh_, kManifestName), base_manifest_));
    seal = &manifest.differences.emplace_back();
    const uint64_t index_at = pages_.size() << kPageShift;
    size_bytes = index_at + pages_.size() * sizeof(pages_[0]);
    RETURN_IF_ERROR(WriteAt(memory_fd_, memory_path_,
                            {reinterpret_cast<const char*>(pages_.data()), pages_.size() * sizeof(pages_[0])},
                            index_at));
  }
  if (fsync(memory_fd_) != 0) return FileError(memory_path_, errno);
  seal->size_bytes = size_bytes;
  const std::atomic<bool> never = false;
  ASSIGN_OR_RETURN(seal->sum, is_difference_ ? SumOfFile(memory_fd_, memory_path_, size_bytes)
                                             : SumOfMemory(memory_fd_, memory_path_, size_bytes, never,
                                                           ProgressMeter(nullptr, size_bytes)));
  // A file that other states have, too, changes its mark when one of them goes.
  manifest.memory_mark = {};
  if (!is_difference_) {
    ASSIGN_OR_RETURN(manifest.memory_mark, MarkOf(memory_fd_, memory_path_));
  }
  state::StateWriter writer;
  writer.Write(machine);
  manifest.state = {writer.bytes().size(), XXH3_64bits(writer.bytes().data(), writer.bytes().size())};
  RETURN_IF_ERROR(WriteFile(PathIn(fresh_, kStateName), writer.bytes()));
  if (!IsLasting(manifest.memory_mark)) manifest.memory_mark = {};
  std::string text = manifest.Text();
  RETURN_IF_ERROR(WriteFile(PathIn(fresh_, kManifestName), text));
  RETURN_IF_ERROR(Sync(fresh_));
  return text;
}

absl::StatusOr<std::string> NewState::Commit(machine::SavedMachine& machine) {
  ASSIGN_OR_RETURN(std::string id, Seal(machine));
  // The older one, too, until it is gone: in place of ours.
  const absl::StatusOr<Descriptor> older = Lock(place_);
  if (!older.ok() && !absl::IsNotFound(older.status())) return older.status();
  RETURN_IF_ERROR(MoveIntoPlace(fresh_, place_));
  (void)Remove(fresh_);
  fresh_.clear();
  RETURN_IF_ERROR(Sync(internal::FolderOf(place_)));
  return id;
}

}  // namespace hvsdk::vmm
