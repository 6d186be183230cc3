// SPDX-License-Identifier: Apache-2.0
// NewState: a saved machine (state_directory.h) while it is being written, page by page, perhaps while the machine runs.
//
// It is written beside its place and moved there by Commit, so that a crash, a kill or a full disk leaves what was there
// before; if it is destroyed first, nothing of it is left.
//
// A difference to an older state, its base, holds the pages that have been written since, and shares the base's own files: the
// base may be removed afterwards, or be the very state that this one replaces. Its directory has to be on the same file system,
// or the files are copied.
//
// Thread class: thread-compatible. Errors are one line that names the file.
//
//   absl::StatusOr<NewState> state = NewState::Create("saved", memory.size(), /*base=*/"");
//   if (!state.ok()) return state.status();
//   if (absl::Status status = state->WritePages(0, memory); !status.ok()) return status;
//   return state->Commit(machine).status();

#ifndef HVSDK_VMM_NEW_STATE_H_
#define HVSDK_VMM_NEW_STATE_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "hvsdk/machine/saved_machine.h"
#include "hvsdk/memory/page_set.h"

namespace hvsdk::vmm {

class NewState {
 public:
  // Of a machine with so much memory, all of which is zero in it until it is written; or, with a base, what it is there. FailedPrecondition:
  // something else is at `path`, or in it, or another NewState for it is at work. NotFound, InvalidArgument: `base` is no state, or one of a
  // machine with another size of memory. Others: the host refuses.
  static absl::StatusOr<NewState> Create(const std::string& path, uint64_t memory_bytes, const std::string& base);

  NewState(NewState&& other) noexcept { *this = std::move(other); }
  NewState& operator=(NewState&& other) noexcept;
  ~NewState();

  // False also with a base, if that is a difference to a difference and so on too often: every page is to be written then.
  bool is_difference() const { return is_difference_; }
  uint64_t written_bytes() const { return written_bytes_; }

  // Whole pages, from page `first` on, in any order; what is written last counts.
  absl::Status WritePages(uint64_t first, absl::Span<const uint8_t> bytes);

  // Puts it in its place, in place of an older one; it is on the disk then. What identifies it, as StateId has it. Once.
  absl::StatusOr<std::string> Commit(machine::SavedMachine& machine);

 private:
  NewState() = default;
  absl::Status Open(const std::string& base);
  absl::Status WriteWhole(uint64_t first, absl::Span<const uint8_t> bytes);
  absl::Status WriteDifference(uint64_t first, absl::Span<const uint8_t> bytes);
  absl::StatusOr<std::string> Seal(machine::SavedMachine& machine);

  std::string place_, fresh_;  // fresh_ is empty when there is nothing to remove
  std::string memory_path_;    // of the file that pages are written to
  int memory_fd_ = -1;
  int lock_fd_ = -1;  // of fresh_, which is locked
  uint64_t memory_bytes_ = 0;
  bool is_difference_ = false;
  uint64_t written_bytes_ = 0;
  PageSet written_;  // pages that the file has
  // Of a difference: where in the file a page is, and which page is there.
  std::vector<uint32_t> slots_;
  std::vector<uint64_t> pages_;
  std::string base_manifest_;
};

// What tells a state from every other one; the same as Commit's. NotFound and others: there is none.
absl::StatusOr<std::string> StateId(const std::string& path);

}  // namespace hvsdk::vmm

#endif  // HVSDK_VMM_NEW_STATE_H_
