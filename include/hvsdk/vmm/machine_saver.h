// SPDX-License-Identifier: Apache-2.0
// MachineSaver: saves one machine into directories (state_directory.h), as often as one likes.
//
// A machine that is saved live runs on meanwhile: its memory is copied while it runs, then again what it has written since, until
// little is left; for that, and for its components, the guest stands still. Disks finish what is under way first. The next state may
// be a difference to that one: what the machine has written since is known (machine/dirty_log.h).
//
// Limits: one save at a time. While the guest stands still, up to 64 MiB of pages are held; what is beyond is written to the file
// then. Engines without a dirty log, and deterministic machines, stand still for as long as the save takes.
//
// Thread class: the loop's thread, or while it does not run. `done` is called once, on it.
//
//   MachineSaver saver(machine, [&](bool) { return configuration; });
//   saver.Save({.directory = "saved", .live = true},
//              [](const absl::StatusOr<MachineSaver::Saved>& saved) { std::cout << saved.status() << std::endl; });

#ifndef HVSDK_VMM_MACHINE_SAVER_H_
#define HVSDK_VMM_MACHINE_SAVER_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hvsdk/machine/machine.h"
#include "hvsdk/vmm/state_directory.h"

namespace hvsdk::vmm {

class MachineSaver {
 public:
  struct Request {
    std::string directory;
    // The state that the machine was last saved to live, by this saver, if this one is to be a difference to it; it may be
    // `directory` itself.
    std::string base;
    bool live = false;  // else the machine ends when it is saved
    // A live one is paused at the moment that is saved and stays so, for copies of its disks, say.
    bool pause = false;
    // Told some times a second, at most, how much of memory is done, on the loop's thread; may be null.
    StateDirectory::OnProgress on_progress;
  };
  struct Saved {
    // From the request for the pause to the guest's next instruction; 0 if it was paused anyway, stays so, or ends.
    std::chrono::nanoseconds stood_still{0};
    uint64_t written_bytes = 0;  // of memory
    uint32_t rounds = 0;         // of copies, the last included
    bool is_difference = false;
  };
  using Done = absl::AnyInvocable<void(const absl::StatusOr<Saved>&)>;

  // What a state that is saved now carries; the machine is paused. `goes_on`: and runs on from there at once. Otherwise whoever goes on from the
  // state needs the disks as they are now, so what they have in memory belongs on their media. An error fails the save.
  using Configuration = std::function<absl::StatusOr<std::string>(bool goes_on)>;
  // The machine and `origin` outlive it. `configuration` may be null. `origin`: of the state that the machine went on from, while that is
  // still being read, or null; before that has ended well no new state is put in its place, for what is damaged would look whole there.
  MachineSaver(machine::Machine& machine, Configuration configuration, StateDirectory::Check* origin = nullptr);
  // While the machine does not run. Gives up what is under way, unless only the disk is waited for; `done` is called.
  ~MachineSaver();

  // FailedPrecondition: a save is under way, or `base` is not the machine's last live state. Otherwise as NewState and
  // Controller::WhilePaused. After an error the machine runs on, unless it was paused, and what was at `directory` is as it was.
  void Save(const Request& request, Done done);

 private:
  class Core;
  const std::unique_ptr<Core> core_;
};

}  // namespace hvsdk::vmm

#endif  // HVSDK_VMM_MACHINE_SAVER_H_
