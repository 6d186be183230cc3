// SPDX-License-Identifier: Apache-2.0
// Host: many machines in one process, as a root partition has its children: it creates, lists and ends them, keeps what
// guest memory they have within a limit, and connects the ports of one with another's (partition_ports.h).
//
//   Host host({.memory_bytes = uint64_t{4} << 30});
//   boot::LoadInput blame;
//   const absl::StatusOr<PartitionId> a = host.Create({.name = "a", .machine = {.backend = engine, .kernel = kernel}}, blame);
//   if (!a.ok()) return a.status();
//   ...
//   absl::Status status = host.Connect({.from = *a, .connection = ConnectionId{0x20000}, .to = *b, .port = {.sint = Sint{3}}});
//   if (status.ok()) status = host.Start(*a);
//   ...
//   host.Wait();  // until the last machine has ended
//
// Memory counts as a guest's from the beginning, and with what is added to it, less what it has given up (vsp/balloon.h); so what a
// guest has given up another may have, and its own host has the last word on whether it comes back. Only a guest that is reset, or whose
// driver goes, has it back at once: then the machines may have more than the limit until one gives up some again.
//
// Threads: each machine has one for each VP. I/O is done by threads that run an event loop each: as many as HostOptions
// allow, and a new machine goes to the one with the fewest machines. So machines share a thread of I/O, or have one of
// their own if there may be as many threads as machines.
//
// A thread of I/O makes and destroys its machines, too, and serves no other meanwhile: that takes as long as to read the
// kernel. Who destroys a disk that does not answer waits for it (MachineResult::gave_up); a program that has such disks
// keeps them itself, beside MachineOptions.
//
// Thread class: thread-safe. What a program gives is called on its machine's thread of I/O, where it may call the host,
// too; a machine that is created there stays on that thread.

#ifndef HVSDK_MACHINE_HOST_H_
#define HVSDK_MACHINE_HOST_H_

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hvsdk/boot/kernel_loader.h"
#include "hvsdk/machine/machine.h"
#include "hvsdk/machine/partition_ports.h"

namespace hvsdk::machine {

// One of a host's machines (HV_PARTITION_ID); never used for another. Guests do not see it.
enum class PartitionId : uint64_t {};
constexpr uint64_t ToInt(PartitionId id) { return static_cast<uint64_t>(id); }

struct HostOptions {
  uint64_t memory_bytes = ~uint64_t{0};  // of all guests together
  // Moves memory between machines with balloons by what their guests say that they need (memory_balance.h): whenever one reports, and another
  // has more than is due to it, that one gives some up, and who has less gets what is left. A target that somebody else sets lasts until
  // then. Between MachineIntegration::balloon_min_bytes and the larger of MachineOptions::memory_bytes and max_memory_bytes.
  bool balance_memory = false;
  uint32_t io_threads = 1;  // at most, and at least one
};

struct HostedMachine {
  std::string name;  // for whoever reads the list
  MachineOptions machine;
  // Called before the machine is made: what needs its loop, a serial port's endpoint for one, is made and put into the
  // options here. May be null.
  absl::AnyInvocable<absl::Status(os::EventLoop& loop, MachineOptions& options)> prepare;
  // Called once, when the machine has ended and is gone, for all that `prepare` was called for: what the options point
  // to may be destroyed here. kHostFailure, with a status: it could not be made. May be null.
  absl::AnyInvocable<void(const MachineResult& result)> on_end;
};

struct PartitionInfo {
  enum class State : uint8_t { kCreated, kRunning, kPaused };

  PartitionId id{};
  std::string name;
  uint64_t memory_bytes = 0;         // now
  uint64_t memory_needed_bytes = 0;  // by its guest's last report; 0: there was none
  State state = State::kCreated;
  std::vector<ConnectionId> lost_connections;  // of a restored machine (PartitionPorts::lost)
};

// Whose guest reaches whom.
struct PortConnection {
  PartitionId from{};
  ConnectionId connection{};  // by which the sender's guest sends
  PartitionId to{};
  PartitionPort port;  // where it arrives
};

class Host {
 public:
  explicit Host(const HostOptions& options);
  // Ends all machines and waits for them. Not on a thread of I/O.
  ~Host();
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  // Makes a machine, which does not run yet. ResourceExhausted, with kMemory to blame: the limit on guest memory.
  // InvalidArgument: a deterministic machine, which has its loop for itself. Cancelled: the host ends. Others are
  // Machine::Create's and `prepare`'s.
  absl::StatusOr<PartitionId> Create(HostedMachine machine, boot::LoadInput& blame);

  // NotFound, here and below: there is no such machine, or it has ended. OK also if it runs already.
  absl::Status Start(PartitionId id);
  // Ends it with kStopped, whether it runs or not, and does not wait for that.
  absl::Status End(PartitionId id);
  // Calls `use` with the machine on its thread of I/O, and waits for that; so not from another machine's thread of I/O
  // or from a VP's.
  absl::Status WithMachine(PartitionId id, absl::FunctionRef<void(Machine&)> use);

  // Those that have not ended, in the order in which they were created.
  std::vector<PartitionInfo> List() const;
  uint64_t memory_left() const;

  // Waits until no machine is left, those that never ran included. Not on a thread of I/O.
  void Wait();

  // Errors are PartitionPorts::Connect's. A connection goes with either of its machines: then it is the sender's
  // guest's HV_STATUS_INVALID_CONNECTION_ID.
  absl::Status Connect(const PortConnection& connection);
  absl::Status Disconnect(PartitionId from, ConnectionId connection);

 private:
  struct IoThread;
  struct Partition;

  absl::StatusOr<IoThread*> PickIoThread();
  absl::StatusOr<PartitionId> CreateOn(IoThread& io, HostedMachine machine, boot::LoadInput& blame);
  absl::Status Build(Partition& partition, MachineOptions options, boot::LoadInput& blame);
  void CallOn(IoThread& io, absl::FunctionRef<void()> function);
  void StartLocked(Partition& partition);
  // The machine has ended; on its thread of I/O.
  void Remove(Partition& partition, const MachineResult& result);
  // What is left of the limit, and moves memory to where it is due. Under the lock.
  uint64_t MemoryLeft() const;
  void BalanceMemory();
  // nullptr: not there, or ending. Under the lock.
  Partition* Find(PartitionId id) const;

  const HostOptions options_;

  // Held while a machine is told to stop and while connections come and go, which wait for no more than a call that is
  // under way; never while something of the program's is called.
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  bool ending_ = false;
  uint64_t next_id_ = 1;
  uint64_t memory_used_ = 0;
  std::vector<std::unique_ptr<IoThread>> io_threads_;
  std::map<PartitionId, std::unique_ptr<Partition>> partitions_;
  std::vector<PortConnection> connections_;
};

}  // namespace hvsdk::machine

#endif  // HVSDK_MACHINE_HOST_H_
