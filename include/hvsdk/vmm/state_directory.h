// SPDX-License-Identifier: Apache-2.0
// A saved machine in a directory (docs/state.md):
//
//   manifest   text: the version, and for both other files their length and checksum
//   state      the SavedMachine, as state/writer.h has it
//   memory     guest memory, all ranges one behind the other; sparse where it is zero
//   memory.1   the pages of it that had changed in the next state; memory.2 those of the one behind that, and so on
//
// new_state.h writes one. Memory is mapped copy-on-write: many machines may begin from one state at once, and what none
// touches is never read.
//
// Thread class: thread-compatible. Errors are one line that names the file.
//
//   absl::StatusOr<StateDirectory> state = StateDirectory::Open(path);
//   if (!state.ok()) return state.status();
//   options.saved = &state->machine();
//   options.map_memory = [&](os::HostMemory& memory) { return state->MapMemory(memory); };

#ifndef HVSDK_VMM_STATE_DIRECTORY_H_
#define HVSDK_VMM_STATE_DIRECTORY_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "hvsdk/machine/saved_machine.h"
#include "hvsdk/os/host_memory.h"

namespace hvsdk::vmm {

class StateDirectory {
 public:
  // Told some times a second, at most, how much of memory is done.
  using OnProgress = std::function<void(uint64_t done_bytes, uint64_t total_bytes)>;
  // A check that is under way, or was. Thread class: thread-safe.
  class Check {
   public:
    // As End.
    virtual ~Check() = default;
    // Until all has been read; as CheckMemory. Cancelled: End was called first.
    virtual absl::Status Wait() = 0;
    // Has it end, and waits for that: `on_damage` has returned, or will not be called.
    virtual void End() = 0;
  };

  // Writes a whole state to `path`, in place of an older one if there is one, by a NewState; see there.
  static absl::Status Write(const std::string& path, machine::SavedMachine& machine, absl::Span<const uint8_t> memory,
                            const OnProgress& on_progress = nullptr);

  // Reads and checks all of it, but for memory that no one has changed since it was written, by its file system's word. NotFound: there
  // is nothing at `path`. PermissionDenied. InvalidArgument: no state, as in an empty directory, a damaged one, one that lacks a file, or one of
  // another version.
  static absl::StatusOr<StateDirectory> Open(const std::string& path, const OnProgress& on_progress = nullptr);

  StateDirectory(StateDirectory&& other) noexcept { *this = std::move(other); }
  StateDirectory& operator=(StateDirectory&& other) noexcept;
  ~StateDirectory();

  const machine::SavedMachine& machine() const { return machine_; }
  uint64_t memory_bytes() const { return memory_bytes_; }

  // Open took memory for what was written because it is unchanged; what the medium may have done to it is left for CheckMemory.
  bool is_unchanged() const { return is_unchanged_; }
  // Reads all of memory. Thread-safe. InvalidArgument: its checksum is wrong. Cancelled: `stop` was set meanwhile, by another thread.
  absl::Status CheckMemory(const std::atomic<bool>& stop, const OnProgress& on_progress = nullptr) const;
  // The same on a thread of its own, while machines go on from it; `on_damage` is called there with what is wrong. Outlives the check.
  // ResourceExhausted: the host has no thread for it.
  absl::StatusOr<std::unique_ptr<Check>> CheckMeanwhile(absl::AnyInvocable<void(const absl::Status&)> on_damage) const;

  // InvalidArgument: the machine has another size of memory. Others: the host refuses to map or read a file.
  absl::Status MapMemory(os::HostMemory& memory) const;

 private:
  // memory.1 and so on: first its pages, then a number for each, 64 bits little-endian, which page it is.
  struct Difference {
    int fd = -1;
    std::vector<uint64_t> pages;
  };

  StateDirectory() = default;
  static absl::StatusOr<StateDirectory> OpenOnce(const std::string& path, std::string& manifest_text,
                                                 const OnProgress& on_progress);
  absl::Status OpenDifference(size_t number, uint64_t size_bytes, uint64_t sum);

  std::string path_;
  machine::SavedMachine machine_;
  int memory_fd_ = -1;
  uint64_t memory_bytes_ = 0, memory_sum_ = 0;
  bool is_unchanged_ = false;
  std::vector<Difference> differences_;
};

}  // namespace hvsdk::vmm

#endif  // HVSDK_VMM_STATE_DIRECTORY_H_
