// SPDX-License-Identifier: Apache-2.0
// DirtyLog: which pages of a machine's memory were written, whoever wrote them: the guest's processors (the engine's log) or the
// host for the guest (GuestMemory's). One user at a time: what one takes, no other sees.
//
// Pages are numbered as they lie in Board::host_memory(), all ranges one behind the other.
//
// What was written before Take is seen by a copy that is made after it; what is written meanwhile, the next Take has. So a copy
// is right once a Take and the copying of its pages have happened while the machine was paused.
//
// Thread class: thread-compatible; VPs and the host may run and write meanwhile.
//
//   DirtyLog log(board);
//   if (const absl::Status status = log.Enable(); !status.ok()) return status;
//   Copy(everything);
//   PageSet dirty(log.pages());
//   if (const absl::Status status = log.Take(dirty); !status.ok()) return status;
//   Copy(dirty);

#ifndef HVSDK_MACHINE_DIRTY_LOG_H_
#define HVSDK_MACHINE_DIRTY_LOG_H_

#include <cstdint>

#include "absl/status/status.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/machine/board.h"
#include "hvsdk/memory/page_set.h"

namespace hvsdk::machine {

class DirtyLog {
 public:
  // The board outlives it.
  explicit DirtyLog(Board& board) : board_(board) {}
  ~DirtyLog();

  // Pages of the machine.
  uint64_t pages() const { return board_.host_memory().bytes().size() >> kPageShift; }
  // Adds those that the machine has, or has had, which may be anything but zero: all but room that it has not grown into.
  void AddPresent(PageSet& pages) const { pages.AddRun(0, present()); }
  bool is_enabled() const { return is_enabled_; }

  // From now on, until this is destroyed. Costs the guest a fault for each page that it writes anew after a Take. Unimplemented: the
  // engine has no log. Others: the host refuses; then it is off.
  absl::Status Enable();

  // Adds the pages that were written since the last Take, or since Enable; more than those at times, never fewer. After an
  // error some are lost.
  absl::Status Take(PageSet& dirty);

 private:
  uint64_t present() const {
    return pages() - ((board_.layout().growth.size_bytes - board_.grown_bytes()) >> kPageShift);
  }

  Board& board_;
  bool is_enabled_ = false;
};

}  // namespace hvsdk::machine

#endif  // HVSDK_MACHINE_DIRTY_LOG_H_
