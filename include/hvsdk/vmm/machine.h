// SPDX-License-Identifier: Apache-2.0
// Machine: one guest from its kernel image to its end. It puts the parts of a PC on a board (board.h): chipset,
// serial port, disks, and what the embedding program brings (part.h); writes the firmware's tables, loads the guest,
// and runs it.
//
// Threads: Run uses the calling thread as the machine's one thread of I/O, and one thread for each VP. When it returns,
// no VP runs and no thread of the machine is left. It returns within a second and the time of grace of the reason,
// whatever the guest or its disks do.
//
// A guest's reset ends the machine; whoever wants it to start again makes another from the same options. Everything
// the options point to outlives the machine and may serve the next.
//
//   Beeper beeper;  // as in part.h
//   MachineOptions options{.backend = backend, .kernel = kernel, .parts = {&beeper}};
//   LoadInput blame;
//   const auto machine = Machine::Create(options, loop, blame);
//   if (!machine.ok()) return machine.status();
//   const MachineResult result = (*machine)->Run();

#ifndef HVSDK_VMM_MACHINE_H_
#define HVSDK_VMM_MACHINE_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hvsdk/backend/backend.h"
#include "hvsdk/base/block_device.h"
#include "hvsdk/partition/partition.h"
#include "hvsdk/vmbus/server.h"
#include "hvsdk/vmm/byte_source.h"
#include "hvsdk/vmm/event_loop.h"
#include "hvsdk/vmm/kernel_loader.h"
#include "hvsdk/vmm/part.h"
#include "hvsdk/vmm/smbios_tables.h"

namespace hvsdk::backend {
class InstructionTime;
}

namespace hvsdk::vmm {

class SerialEndpoint;
class Tracer;

// What follows when the guest says by Hyper-V's crash MSRs that it crashed.
enum class CrashAction : uint8_t {
  // It is told, and the guest goes on, as on Hyper-V: Linux says so before its crash kernel dumps it, and before it
  // restarts by itself (panic=N). However it ends after that, the outcome is kCrashed.
  kReport,
  kEnd,  // the machine ends at once
};

struct MachineOptions {
  backend::Backend* backend = nullptr;
  const ByteSource* kernel = nullptr;
  const ByteSource* initrd = nullptr;  // may be null
  std::string command_line;
  uint64_t memory_bytes = uint64_t{512} << 20;
  uint32_t cpus = 2;
  std::vector<std::shared_ptr<BlockDevice>> disks;  // LUNs 0, 1, ... of one SCSI controller
  std::vector<std::string> disk_names;              // the same, for messages; may be left out
  SerialEndpoint* serial = nullptr;                 // null: what the guest sends is dropped
  Tracer* tracer = nullptr;                         // null: nothing is traced
  bool loopback_ports = false;                      // see loopback_ports.h
  SmbiosIdentity smbios;                            // what the machine says it is
  std::vector<Part*> parts;                         // of one's own, attached behind the PC's in this order
  CrashAction on_crash = CrashAction::kReport;
  // Told a crash when it happens, on the thread that calls Run. Once: a crash kernel's own crash is not told.
  std::function<void(const partition::CrashReport&)> crash_observer;
  // A guest that crashed and then for so long touches no device and calls no hypervisor, but for its clock and timers,
  // has ended.
  uint32_t crash_silence_ms = 30'000;
  GuestLoader* loader = nullptr;  // in place of `kernel`, `initrd` and `command_line`
  // Not null: a deterministic machine. `backend` was made with this time, which serves this machine alone; all VPs run
  // in turn on the thread that calls Run, and the same options and console input give the same execution. No disks.
  backend::InstructionTime* instruction_time = nullptr;
  // How long the end waits for requests to the host that are under way.
  std::chrono::milliseconds grace{5000};
};

// Why a machine ended.
enum class Outcome : uint8_t {
  kPoweredOff,
  kReset,        // also a triple fault, as on a PC
  kCrashed,      // `crash` is what the guest had to say, however it ended after that
  kStopped,      // Machine::Stop
  kHostFailure,  // `status` says what
};

struct MachineResult {
  Outcome outcome = Outcome::kStopped;
  partition::CrashReport crash;
  Outcome after_crash = Outcome::kCrashed;  // of kCrashed: kPoweredOff or kReset, or kCrashed if it has done neither
  absl::Status status;
  // A disk has not answered within the time of grace: the outcome is kHostFailure, and `status` names it. What it
  // writes to lives until it has answered, but whoever destroys it, or the engine that serves it, may wait for that
  // without end.
  bool gave_up = false;
  // Of a deterministic machine: instructions executed by all VPs, and a hash of all memory and registers at the end.
  uint64_t instructions = 0;
  uint64_t state_hash = 0;
};

class Machine {
 public:
  // Takes the machine to the point where its first processor would run. `loop` is not running.
  // InvalidArgument: the kernel, the initial RAM disk, the command line, the memory size, the number of processors or the
  // identity is at fault, as `blame` says. Others: the host refused something, of which `blame` says what it was for.
  static absl::StatusOr<std::unique_ptr<Machine>> Create(const MachineOptions& options, EventLoop& loop,
                                                         LoadInput& blame);
  virtual ~Machine() = default;

  // What the machine is built on. Devices, layers and channels of one's own come and go there while the machine
  // runs, too.
  //
  //   auto channel = machine->vmbus().OfferChannel({.class_id = kMine, .instance_id = kFirst}, provider, loop);
  virtual Board& board() = 0;

  // The guest's VMBus, where devices of one's own are offered: before Run or, while it runs, on the loop's thread, with
  // the loop as their executor. Their channels are gone before the machine is, and are destroyed once Run has returned.
  vmbus::Server& vmbus() { return board().vmbus(); }

  // Runs until the guest or somebody ends it. Once.
  virtual MachineResult Run() = 0;

  // Ends it with kStopped. Thread-safe, before, during and after Run.
  virtual void Stop() = 0;

  // Asks the guest to turn itself off, or wakes it if it sleeps, by ACPI's power button (ACPI 6.4, 4.8.2.2.1). What the
  // guest does is its own affair: one without an operating system that listens does nothing. Thread-safe, before, during
  // and after Run.
  virtual void PressPowerButton() = 0;
};

}  // namespace hvsdk::vmm

#endif  // HVSDK_VMM_MACHINE_H_
