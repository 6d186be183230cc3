// SPDX-License-Identifier: Apache-2.0
// Machine: one guest from its kernel image to its end. It puts the parts of a PC on a board (board.h): chipset,
// serial port, disks, and what the embedding program brings (part.h); writes the firmware's tables, loads the guest,
// and runs it.
//
// Threads: one for each VP, one of I/O, which runs the machine's loop, and others of I/O if they are wished (MachineOptions::io_threads).
// The loop's is the calling thread of Run; or whoever
// runs the loop for any number of machines, each of which is begun by Start (host.h does that). When Run returns, or
// calls back, no VP runs and no thread of the machine is left. That is within a second and the time of grace of the
// reason, whatever the guest or its disks do.
//
// Everything the options point to outlives the machine and may serve the next.
//
//   Beeper beeper;  // as in part.h
//   MachineOptions options{.backend = backend, .kernel = kernel, .parts = {&beeper}};
//   LoadInput blame;
//   const auto machine = Machine::Create(options, loop, blame);
//   if (!machine.ok()) return machine.status();
//   const MachineResult result = (*machine)->Run();

#ifndef HVSDK_MACHINE_MACHINE_H_
#define HVSDK_MACHINE_MACHINE_H_

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "hvsdk/backend/backend.h"
#include "hvsdk/boot/byte_source.h"
#include "hvsdk/boot/kernel_loader.h"
#include "hvsdk/boot/smbios_tables.h"
#include "hvsdk/image/metered_disk.h"
#include "hvsdk/machine/controller.h"
#include "hvsdk/machine/cpuid.h"
#include "hvsdk/machine/event.h"
#include "hvsdk/machine/input.h"
#include "hvsdk/machine/integration.h"
#include "hvsdk/machine/part.h"
#include "hvsdk/machine/saved_machine.h"
#include "hvsdk/os/event_loop.h"
#include "hvsdk/partition/partition.h"
#include "hvsdk/resource/block_device.h"
#include "hvsdk/resource/display.h"
#include "hvsdk/resource/network_port.h"
#include "hvsdk/vmbus/server.h"
#include "hvsdk/vsp/network.h"
#include "hvsdk/vsp/socket.h"

namespace hvsdk::backend {
class InstructionTime;
}

namespace hvsdk::machine {

class SerialEndpoint;
class Tracer;

// What follows when the guest says by Hyper-V's crash MSRs that it crashed.
enum class CrashAction : uint8_t {
  // It is told, and the guest goes on, as on Hyper-V: Linux says so before its crash kernel dumps it, and before it
  // restarts by itself (panic=N). However it ends after that, the outcome is kCrashed.
  kReport,
  kEnd,  // the machine ends at once
};

// What follows when the guest, or what serves it, asks for a reset.
enum class ResetAction : uint8_t {
  kEnd,      // the outcome is kReset
  kRestart,  // the machine is reset in place and runs on (Controller::Reset), unless the guest had crashed or there is no
             // kernel to begin anew with
};

// A disk, or a DVD drive, in the machine's SCSI controller.
struct MachineDisk {
  MachineDisk() = default;
  template <typename Device>
  MachineDisk(std::shared_ptr<Device> from, std::string called = "", absl::optional<uint8_t> at = absl::nullopt)
      : device(std::move(from)), name(std::move(called)), lun(at) {}

  std::shared_ptr<BlockDevice> device;
  std::string name;             // for messages; may be empty
  absl::optional<uint8_t> lun;  // its place; without one the machine gives it one
  bool is_dvd = false;          // a drive with `device` in it, or, if that is null, an empty one
};

// What a disk has done for the guest since it was attached, by BlockOp; of a DVD drive, what its media have.
struct MachineDiskCounts {
  uint8_t lun = 0;
  std::array<MeteredDisk::Counts, MeteredDisk::kOps> ops;
};

// A network adapter of the machine's.
struct MachineNetwork {
  std::shared_ptr<NetworkPort> port;  // what carries its frames; null: its link is down
  MacAddress mac_address{};           // not a group's; another one than those beside it
  std::string name;                   // for messages and for the guest; may be empty
  uint32_t queues = 0;                // channels at most, never more than VPs; 0: as many
  absl::optional<uint8_t> number;     // its place, below kMaxNetworks; without one the machine gives it one
};
inline constexpr uint8_t kMaxNetworks = 8;  // as many as Hyper-V's machines have

// What an adapter is to the guest, and what it has carried since it was attached.
struct MachineNetworkStatus {
  uint8_t number = 0;
  MacAddress mac_address{};
  hvdef::Guid instance_id{};  // of its device in the guest
  vsp::NetworkAgreement agreement;
  vsp::NetworkCounts counts;
};

// A display of the machine's, by synthetic video (vsp/video.h, whose limits the size has).
struct MachineVideo {
  uint32_t width = 1024, height = 768;  // what the guest is to show at first
};

struct MachineOptions {
  backend::Backend* backend = nullptr;
  const boot::ByteSource* kernel = nullptr;
  const boot::ByteSource* initrd = nullptr;  // may be null
  std::string command_line;
  uint64_t memory_bytes = uint64_t{512} << 20;
  // What it may grow to by its balloon (vsp::Balloon::SetTarget), in whole MiB; 0: it does not grow. Not for a deterministic machine, nor for
  // one without a balloon.
  uint64_t max_memory_bytes = 0;
  uint32_t cpus = 2;
  // Threads of I/O beside the loop's, at most 63: network adapters' channels are spread over all of them.
  uint32_t io_threads = 0;
  Processor processor = Processor::kHost;
  // LUNs 0, 1, ... of one SCSI controller, unless they say otherwise; let go of by DetachDisk. No device, and no drive: none there, and a guest that
  // goes on from a state with one finds it pulled out.
  std::vector<MachineDisk> disks;
  // Numbers 0, 1, ..., unless they say otherwise; let go of by DetachNetwork.
  std::vector<MachineNetwork> networks;
  MachineIntegration integration;
  MachineInput input;
  // Nothing: the guest has no sockets to the host. A deterministic machine has none.
  absl::optional<vsp::SocketOptions> sockets;
  // Nothing: the guest has nothing to show anything on, and a deterministic machine never has. Else its frame buffer stands in the hole below
  // 4 GiB, beside its memory, and is saved with that.
  absl::optional<MachineVideo> video;
  SerialEndpoint* serial = nullptr;  // null: what the guest sends is dropped
  Tracer* tracer = nullptr;          // null: nothing is traced
  bool loopback_ports = false;       // see loopback_ports.h
  boot::SmbiosIdentity smbios;       // what the machine says it is
  std::vector<Part*> parts;          // of one's own, attached behind the PC's in this order
  CrashAction on_crash = CrashAction::kReport;
  ResetAction on_reset = ResetAction::kEnd;
  // Told a crash when it happens, on the loop's thread. Once: a crash kernel's own crash is not told.
  std::function<void(const partition::CrashReport&)> crash_observer;
  // Told what happens (event.h), on the thread that calls Run. It must not wait.
  std::function<void(const MachineEvent&)> on_event;
  // A guest that crashed and then for so long touches no device and calls no hypervisor, but for its clock and timers,
  // has ended.
  uint32_t crash_silence_ms = 30'000;
  // Not null: the machine goes on from a state that one with the same options was in (saved_machine.h), in place of loading a guest. It
  // has another generation id then, and the guest is told so, unless the machine is deterministic.
  // `map_memory` then puts that one's memory in place, by os::HostMemory::MapFile or a copy.
  const SavedMachine* saved = nullptr;
  std::function<absl::Status(os::HostMemory&)> map_memory;
  GuestLoader* loader = nullptr;  // in place of `kernel`, `initrd` and `command_line`
  // Not null: a deterministic machine. `backend` was made with this time, which serves this machine alone; all VPs run
  // in turn on the thread that calls Run, and the same options and console input give the same execution. No disks, no network.
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
  // Takes the machine to the point where its first processor would run. On the loop's thread, or while it does not run;
  // and so is the machine destroyed.
  // InvalidArgument: the kernel, the initial RAM disk, the command line, the memory size, the number of processors, the
  // identity or the saved state is at fault, as `blame` says. FailedPrecondition, with kProcessor to blame: the engine has no
  // such processor. Others: the host refused something, of which `blame` says what it was for.
  static absl::StatusOr<std::unique_ptr<Machine>> Create(const MachineOptions& options, os::EventLoop& loop,
                                                         boot::LoadInput& blame);
  virtual ~Machine() = default;

  // What the machine is built on. Devices, layers and channels of one's own come and go there while the machine
  // runs, too.
  //
  //   auto channel = machine->vmbus().OfferChannel({.class_id = kMine, .instance_id = kFirst}, provider, loop);
  virtual Board& board() = 0;

  // The guest's VMBus, where devices of one's own are offered: before Run or, while it runs, on the loop's thread, with
  // the loop as their executor. Their channels are gone before the machine is, and are destroyed once Run has returned.
  vmbus::Server& vmbus() { return board().vmbus(); }

  // Runs until the guest or somebody ends it. Once. The loop is this machine's alone.
  virtual MachineResult Run() = 0;

  // The same beside a loop that somebody else runs, for other machines, too. `done` is called once, on the loop's
  // thread, and may destroy the machine. On the loop's thread, or before it runs. FailedPrecondition: a deterministic
  // machine.
  using Done = absl::AnyInvocable<void(const MachineResult&)>;
  virtual absl::Status Start(Done done) = 0;

  // Ends it with kStopped. Thread-safe, before, during and after Run.
  virtual void Stop() = 0;

  // Pause, resume, reset, save; see there.
  virtual Controller& controller() = 0;

  // Plugs a disk into the machine's SCSI controller, which appears with the first one; the guest is told. Answers its LUN:
  // one that has been empty for long, so that a guest that has not looked meanwhile does not take the new disk for the one
  // that was there. AlreadyExists: the LUN is taken. ResourceExhausted: 64 disks are there. InvalidArgument: an
  // empty disk. Unimplemented: the machine is deterministic.
  //
  // Pulls one out. What the guest has asked of it ends in the ordinary way, and what it asks from now on finds no disk. `gone` is
  // called once on the loop's thread, here or later, when nobody uses the disk any more; at the machine's end at the
  // latest, unless the disk does not answer then. NotFound: there is none.
  //
  // On the loop's thread, or before Run; while it runs from within Controller::InTurn or WhilePaused, so that
  // neither gets into a pause, a reset or a save that is under way.
  virtual absl::StatusOr<uint8_t> AttachDisk(MachineDisk disk) = 0;
  virtual absl::Status DetachDisk(uint8_t lun, absl::AnyInvocable<void()> gone) = 0;

  // The same for network adapters, of which kMaxNetworks may be there, each of them a device of its own that the guest is told of.
  // Errors are those, and vsp::NetworkAdapter::Create's.
  //
  // The guest of one that is pulled out first finds its link down, so that it ends what it has under way, and then that the adapter is
  // gone: some tenths of a second later, or five seconds if it goes on sending, in which it runs. The port is let go of then; until
  // then the machine and its states have the adapter. FailedPrecondition: it is being pulled out already.
  virtual absl::StatusOr<uint8_t> AttachNetwork(MachineNetwork network) = 0;
  virtual absl::Status DetachNetwork(uint8_t number, absl::AnyInvocable<void()> gone) = 0;
  // What is in a DVD drive (scsi/dvd_drive.h, for what they mean and their errors). A guest that ejects is told of by the
  // event "medium-ejected". NotFound: no drive is there. Where and when as AttachDisk.
  virtual absl::Status InsertMedium(uint8_t lun, std::shared_ptr<BlockDevice> medium) = 0;
  virtual absl::Status EjectMedium(uint8_t lun, bool force) = 0;

  // Another device goes on in place of a disk's, with the same contents: one over it, say, so that what it has now is kept (image/snapshot.h).
  // The guest knows nothing of it. NotFound: no disk is there. InvalidArgument: it has another size, block size or ability. From within
  // Controller::WhilePaused.
  virtual absl::Status ReplaceDisk(uint8_t lun, std::shared_ptr<BlockDevice> device, std::string name) = 0;

  // On the loop's thread, or before Run.
  virtual std::vector<MachineDiskCounts> disk_counts() const = 0;
  virtual std::vector<MachineNetworkStatus> networks() const = 0;

  // Traces what happens from now on, until StopTrace or the machine's end; MachineOptions::tracer does so from the first
  // instruction on. FailedPrecondition: it is traced already. On the loop's thread, or before Run; `tracer`, which has been
  // started, is not used any more when StopTrace returns.
  virtual absl::Status StartTrace(Tracer& tracer) = 0;
  // FailedPrecondition: it is not traced.
  virtual absl::Status StopTrace() = 0;

  // Every component of the machine, in the order in which they are restored. While it is paused, or before Run.
  virtual std::vector<state::Component*> components() = 0;

  // How often it has been reset in place. Thread-safe.
  virtual uint64_t resets() const = 0;

  // Asks the guest to turn itself off, or wakes it if it sleeps, by ACPI's power button (ACPI 6.4, 4.8.2.2.1). What the
  // guest does is its own affair: one without an operating system that listens does nothing. Thread-safe, before, during
  // and after Run.
  virtual void PressPowerButton() = 0;

  // What asks the guest's integration drivers for something. On the loop's thread, or before Run.
  virtual const IntegrationComponents& integration() const = 0;

  // Its keyboard and mouse, on which one types and points. On the loop's thread, or before Run.
  virtual const InputComponents& input() const = 0;

  // Its sockets, for as long as it lives (vsp/socket.h); null: it has none. On the loop's thread, or before Run.
  virtual vsp::SocketProvider* sockets() const = 0;

  // What the guest shows, for as long as the machine lives; null: it has no display. On the loop's thread, or before Run.
  virtual Display* display() const = 0;

  // A non-maskable interrupt, which operating systems take as the wish to stop and dump (Linux with unknown_nmi_panic). To the first VP
  // alone, as Hyper-V does it for Debug-VM -InjectNonMaskableInterrupt since Windows Server 2016, unless the caller wants it elsewhere;
  // one that waits for its start-up message takes none. InvalidArgument: there is no such VP. Thread-safe, before, during and after Run.
  virtual absl::Status InjectNmi(VpIndex vp = VpIndex{0}) = 0;
};

}  // namespace hvsdk::machine

#endif  // HVSDK_MACHINE_MACHINE_H_
