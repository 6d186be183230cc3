// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/state_directory.h"

#include <sys/resource.h>
#include <unistd.h>
#include <xxhash.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/types/optional.h"
#include "base/check.h"
#include "base/host_thread.h"
#include "base/status_macros.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/boot/memory_layout.h"
#include "hvsdk/memory/page_set.h"
#include "hvsdk/state/reader.h"
#include "hvsdk/vmm/new_state.h"
#include "vmm/state_files.h"

namespace hvsdk::vmm {
namespace {

constexpr uint64_t kMaxStateBytes = uint64_t{1} << 30;
// What is written between two looks at the clock.
constexpr size_t kChunk = 1 << 20;

absl::Status CheckSize(const std::string& path, uint64_t size_bytes, const FileSeal& seal) {
  if (size_bytes == seal.size_bytes) return absl::OkStatus();
  return Damaged(path, absl::StrFormat("%d bytes; the manifest says %d", size_bytes, seal.size_bytes));
}

}  // namespace

absl::Status StateDirectory::Write(const std::string& path, machine::SavedMachine& machine,
                                   absl::Span<const uint8_t> memory, const OnProgress& on_progress) {
  ASSIGN_OR_RETURN(NewState state, NewState::Create(path, memory.size(), /*base=*/""));
  ProgressMeter progress(on_progress, memory.size());
  for (size_t at = 0; at < memory.size(); at += kChunk) {
    progress.Tell(at);
    RETURN_IF_ERROR(state.WritePages(at >> kPageShift, memory.subspan(at, kChunk)));
  }
  progress.Tell(memory.size());
  return state.Commit(machine).status();
}

absl::StatusOr<StateDirectory> StateDirectory::Open(const std::string& path, const OnProgress& on_progress) {
  constexpr int kTries = 5;
  for (int i = 1;; ++i) {
    std::string manifest;
    absl::StatusOr<StateDirectory> directory = OpenOnce(path, manifest, on_progress);
    // Who begins anew where no state is yet must not do so over one that has lost a file.
    if (absl::IsNotFound(directory.status()) && access(path.c_str(), F_OK) == 0) {
      directory = Damaged(path, absl::StrCat("no saved machine, or not all of one: ", directory.status().message()));
    }
    if (directory.ok() || manifest.empty() || i == kTries) return directory;
    // Its files may be another state's by now, which has taken its place.
    const absl::StatusOr<std::string> now = ReadManifest(path);
    if (!now.ok() || *now == manifest) return directory;
  }
}

absl::StatusOr<StateDirectory> StateDirectory::OpenOnce(const std::string& path, std::string& manifest_text,
                                                        const OnProgress& on_progress) {
  StateDirectory directory;
  directory.path_ = path;
  const std::string state_path = PathIn(path, kStateName);
  const std::string memory_path = PathIn(path, kMemoryName);

  ASSIGN_OR_RETURN(manifest_text, ReadManifest(path));
  ASSIGN_OR_RETURN(const Manifest manifest, Manifest::Parse(PathIn(path, kManifestName), manifest_text));

  ASSIGN_OR_RETURN(const Descriptor state_file, OpenFile(state_path));
  ASSIGN_OR_RETURN(const uint64_t state_bytes, SizeOf(state_file.fd(), state_path));
  RETURN_IF_ERROR(CheckSize(state_path, state_bytes, manifest.state));
  if (state_bytes > kMaxStateBytes) return Damaged(state_path, "too long");
  std::string bytes(state_bytes, '\0');
  RETURN_IF_ERROR(ReadAt(state_file.fd(), state_path, bytes.data(), state_bytes, 0));
  if (XXH3_64bits(bytes.data(), bytes.size()) != manifest.state.sum) {
    return Damaged(state_path, "its checksum is wrong");
  }
  state::StateReader reader(state_path, machine::SavedMachine::kSchema, bytes);
  RETURN_IF_ERROR(reader.Read(directory.machine_));

  ASSIGN_OR_RETURN(Descriptor memory_file, OpenFile(memory_path));
  directory.memory_fd_ = memory_file.Release();
  ASSIGN_OR_RETURN(directory.memory_bytes_, SizeOf(directory.memory_fd_, memory_path));
  RETURN_IF_ERROR(CheckSize(memory_path, directory.memory_bytes_, manifest.memory));
  if (directory.memory_bytes_ > boot::kMaxMemoryBytes) return Damaged(memory_path, "too long");
  directory.memory_sum_ = manifest.memory.sum;
  ASSIGN_OR_RETURN(const FileMark mark, MarkOf(directory.memory_fd_, memory_path));
  directory.is_unchanged_ = mark == manifest.memory_mark;
  if (!directory.is_unchanged_) {
    const std::atomic<bool> never = false;
    RETURN_IF_ERROR(directory.CheckMemory(never, on_progress));
  }
  for (size_t i = 0; i < manifest.differences.size(); ++i) {
    RETURN_IF_ERROR(directory.OpenDifference(i + 1, manifest.differences[i].size_bytes, manifest.differences[i].sum));
  }
  return directory;
}

absl::Status StateDirectory::OpenDifference(size_t number, uint64_t size_bytes, uint64_t sum) {
  const std::string path = PathIn(path_, DifferenceName(number));
  ASSIGN_OR_RETURN(Descriptor file, OpenFile(path));
  ASSIGN_OR_RETURN(const uint64_t found_bytes, SizeOf(file.fd(), path));
  RETURN_IF_ERROR(CheckSize(path, found_bytes, {size_bytes, sum}));
  constexpr uint64_t kBytesPerPage = kPageSize + sizeof(uint64_t);
  if (size_bytes % kBytesPerPage != 0 || size_bytes / kBytesPerPage > memory_bytes_ >> kPageShift) {
    return Damaged(path, "not whole pages");
  }
  ASSIGN_OR_RETURN(const uint64_t found_sum, SumOfFile(file.fd(), path, size_bytes));
  if (found_sum != sum) return Damaged(path, "its checksum is wrong");
  Difference& difference = differences_.emplace_back();
  difference.pages.resize(size_bytes / kBytesPerPage);
  const uint64_t index_bytes = difference.pages.size() * sizeof(uint64_t);
  RETURN_IF_ERROR(ReadAt(file.fd(), path, difference.pages.data(), index_bytes, size_bytes - index_bytes));
  for (const uint64_t page : difference.pages) {
    if (page >= memory_bytes_ >> kPageShift) return Damaged(path, "a page that is not memory");
  }
  difference.fd = file.Release();
  return absl::OkStatus();
}

absl::Status StateDirectory::CheckMemory(const std::atomic<bool>& stop, const OnProgress& on_progress) const {
  const std::string path = PathIn(path_, kMemoryName);
  ASSIGN_OR_RETURN(const uint64_t sum,
                   SumOfMemory(memory_fd_, path, memory_bytes_, stop, ProgressMeter(on_progress, memory_bytes_)));
  return sum == memory_sum_ ? absl::OkStatus() : Damaged(path, "its checksum is wrong");
}

absl::StatusOr<std::unique_ptr<StateDirectory::Check>> StateDirectory::CheckMeanwhile(
    absl::AnyInvocable<void(const absl::Status&)> on_damage) const {
  class ThreadedCheck final : public Check {
   public:
    ~ThreadedCheck() override { End(); }
    absl::Status Wait() override {
      std::unique_lock lock(mutex_);
      ended_.wait(lock, [this] { return result_.has_value(); });
      return *result_;
    }
    void End() override {
      stop_.store(true, std::memory_order_relaxed);
      if (thread_.is_running()) thread_.Join();
    }
    absl::Status Start(const StateDirectory& directory, absl::AnyInvocable<void(const absl::Status&)> on_damage) {
      return thread_.Start("state check", [this, &directory, on_damage = std::move(on_damage)]() mutable {
        // The guest, which has just begun, comes first. Best effort.
        (void)setpriority(PRIO_PROCESS, 0, 19);
        const absl::Status status = directory.CheckMemory(stop_);
        {
          std::lock_guard lock(mutex_);
          result_ = status;
        }
        ended_.notify_all();
        if (!status.ok() && !absl::IsCancelled(status)) on_damage(status);
      });
    }

   private:
    std::atomic<bool> stop_{false};
    std::mutex mutex_;
    std::condition_variable ended_;
    absl::optional<absl::Status> result_;
    HostThread thread_;
  };
  auto check = std::make_unique<ThreadedCheck>();
  RETURN_IF_ERROR(check->Start(*this, std::move(on_damage)));
  return check;
}

StateDirectory& StateDirectory::operator=(StateDirectory&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(machine_, other.machine_);
  std::swap(memory_fd_, other.memory_fd_);
  std::swap(memory_bytes_, other.memory_bytes_);
  std::swap(memory_sum_, other.memory_sum_);
  std::swap(is_unchanged_, other.is_unchanged_);
  std::swap(differences_, other.differences_);
  return *this;
}

StateDirectory::~StateDirectory() {
  if (memory_fd_ >= 0) close(memory_fd_);
  for (const Difference& difference : differences_) {
    if (difference.fd >= 0) close(difference.fd);
  }
}

absl::Status StateDirectory::MapMemory(os::HostMemory& memory) const {
  if (memory.bytes().size() != memory_bytes_) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: of a machine with %d MiB of memory, not %d", path_,
                                                      memory_bytes_ >> 20, memory.bytes().size() >> 20));
  }
  RETURN_IF_ERROR(memory.MapFile(0, memory_bytes_, memory_fd_, 0));
  // The latest first, so that each page is read once.
  PageSet seen(memory_bytes_ >> kPageShift);
  for (size_t number = differences_.size(); number > 0; --number) {
    const Difference& difference = differences_[number - 1];
    const std::vector<uint64_t>& pages = difference.pages;
    for (size_t slot = 0, next; slot < pages.size(); slot = next) {
      next = slot + 1;
      if (seen.Contains(pages[slot])) continue;
      while (next < pages.size() && pages[next] == pages[slot] + (next - slot) && !seen.Contains(pages[next])) ++next;
      RETURN_IF_ERROR(ReadAt(difference.fd, PathIn(path_, DifferenceName(number)),
                             memory.bytes().data() + (pages[slot] << kPageShift), (next - slot) << kPageShift,
                             uint64_t{slot} << kPageShift));
    }
    for (const uint64_t page : pages) seen.Add(page);
  }
  return absl::OkStatus();
}

}  // namespace hvsdk::vmm
