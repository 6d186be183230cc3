// SPDX-License-Identifier: Apache-2.0
// Part: what is put on a machine's board: a device, a service provider, an intercept, a table; of the PC's own or of
// the embedding program's. MachineOptions::parts takes them.
//
//   class Beeper : public Part, public ByteDevice {
//    public:
//     absl::string_view Name() const override { return "beeper"; }
//     absl::Status Attach(Board& board) override { return board.MapPorts(0x510, 1, *this); }
//
//    protected:
//     uint8_t ReadByte(uint64_t) override { return tone_; }
//     void WriteByte(uint64_t, uint8_t value) override { tone_ = value; }
//     std::atomic<uint8_t> tone_{0};
//   };

#ifndef HVSDK_MACHINE_PART_H_
#define HVSDK_MACHINE_PART_H_

#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "hvsdk/machine/board.h"
#include "hvsdk/state/component.h"

namespace hvsdk::machine {

// Outlives the machine, and may serve the next when that one is gone.
class Part {
 public:
  virtual ~Part() = default;

  // The board has memory, buses and VMBus, and no processors yet. An error ends the making of the machine; then this
  // part is not detached.
  virtual absl::Status Attach(Board& board) = 0;

  // What of it is saved and restored, and reset with the machine; named from Attach to Detach. A part that names none has no state: after a
  // restore or a reset it is as it happens to be, and nothing says so. Its channels on VMBus are the machine's and need nothing here.
  virtual std::vector<state::Component*> components() { return {}; }

  // The VPs begin to run, for the first time; on the loop's thread, or before it runs.
  virtual void Start() {}

  // No VP runs for now: finishes what is under way with the host, and begins nothing new until Resume. `done` is called once, here
  // or later on the loop's thread; after Resume or Detach it does nothing.
  virtual void Pause(absl::AnyInvocable<void()> done) { done(); }
  // Goes on with what the guest wants, also if Pause has not said that it is done, which it need not do then.
  virtual void Resume() {}

  // No VP runs any more, and none will: ends what is under way with the host. `done` is called once, here or later on
  // the loop's thread; after Detach it does nothing. The loop runs on for that, but not for ever (MachineOptions::grace).
  virtual void Stop(absl::AnyInvocable<void()> done) { done(); }
  // While it is not done: who does not answer, as in "disk 'a.img'".
  virtual std::string WaitsFor() const { return ""; }

  // Lets go of the board, channels on its VMBus first of all (one that is kept ends the program, with a line that names it); without waiting for whom Stop did not wait. What was
  // mapped goes with the board. In the reverse order of Attach; also of a machine that never ran, without Stop.
  virtual void Detach() {}
};

// Puts a guest into memory, in place of the loaders of kernel_loader.h. Outlives the machine, and may serve the next.
class GuestLoader {
 public:
  virtual ~GuestLoader() = default;

  // Memory is zero, but for the generation id, the firmware's tables at kAcpiTablesGpa and kSmbiosGpa, and the reset
  // vector at the end of that area.
  // InvalidArgument: the image is at fault.
  virtual absl::Status Load(Board& board) = 0;

  // Sets the first VP's registers. It is in the architecture's reset state. SetInitialState in kernel_loader.h does it
  // for a guest that begins in flat protected or long mode, once Load has called WriteBootTables.
  virtual absl::Status SetInitialState(backend::Vp& vp) = 0;
};

}  // namespace hvsdk::machine

#endif  // HVSDK_MACHINE_PART_H_
