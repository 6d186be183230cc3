// SPDX-License-Identifier: Apache-2.0
// Board: what a machine is built on, before it is any particular machine: an engine's partition, guest memory, the
// hypervisor interface, buses for ports and MMIO, interrupt lines, VMBus, the processors and what runs them. Parts are
// attached to it (part.h): the PC's own, and whatever the embedding program brings; the board knows none of them.
//
// Life: Create -> parts map devices, offer channels, add tables and CPUID edits -> AddProcessors -> Run, once -> parts
// are detached -> destroyed. Machine (machine.h) does all that for a PC; a VMM that is none does it by itself.
//
//   LoadInput blame;
//   absl::StatusOr<std::unique_ptr<Board>> made =
//       Board::Create({.backend = backend, .memory_bytes = 64 << 20, .cpus = 2, .events = &events}, loop, blame);
//   if (!made.ok()) return made.status();
//   Board& board = **made;
//   absl::Status status = board.MapPorts(0x510, 1, beeper);
//   if (status.ok()) status = board.AddProcessors();
//   if (status.ok()) board.Run(runner_events);
//
// Thread class: Map..., Unmap, AddLayer, RemoveLayer, InjectNmi, IrqLine's lines and Stop are thread-safe, but Unmap, AddLayer and
// RemoveLayer are not for a VP's thread, which they would wait for; the rest belongs to the thread that makes and runs
// the board.

#ifndef HVSDK_MACHINE_BOARD_H_
#define HVSDK_MACHINE_BOARD_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hvsdk/backend/backend.h"
#include "hvsdk/base/clock.h"
#include "hvsdk/boot/kernel_loader.h"
#include "hvsdk/boot/memory_layout.h"
#include "hvsdk/chipset/bus.h"
#include "hvsdk/machine/cpuid.h"
#include "hvsdk/machine/exit_counts.h"
#include "hvsdk/machine/exit_router.h"
#include "hvsdk/machine/partition_hypervisor.h"
#include "hvsdk/machine/runner.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/os/event_loop.h"
#include "hvsdk/os/host_memory.h"
#include "hvsdk/partition/partition.h"
#include "hvsdk/partition/reference_clock.h"
#include "hvsdk/state/component.h"
#include "hvsdk/vmbus/server.h"

namespace hvsdk::machine {

class IoThreads;

struct BoardOptions {
  backend::Backend* backend = nullptr;
  uint64_t memory_bytes = uint64_t{512} << 20;
  uint64_t max_memory_bytes = 0;  // what it may grow to (GrowMemory); 0: it does not
  uint64_t video_bytes = 0;       // of a frame buffer (MemoryLayout::video)
  uint32_t cpus = 1;
  uint32_t io_threads = 0;  // beside the loop's (io_executors)
  Processor processor = Processor::kHost;
  partition::PartitionEvents* events = nullptr;  // resets and crashes that the guest asks for by MSR
  partition::Config partition;
  // Not null: processors run in turn, and time is a count of instructions (runner.h). The backend was made with it.
  backend::InstructionTime* instruction_time = nullptr;
};

class Board final : private backend::ExitHandler {
 public:
  using CpuidTable = std::vector<backend::CpuidEntry>;

  // `loop`, and what the options point to, outlive the board. InvalidArgument: the engine has no such number of
  // processors, or there is no such memory, as `blame` says. FailedPrecondition, with kProcessor to blame: the engine has no such
  // processor. Others: the host refused something.
  static absl::StatusOr<std::unique_ptr<Board>> Create(const BoardOptions& options, os::EventLoop& loop,
                                                       boot::LoadInput& blame);
  ~Board() override;

  GuestMemory& memory() { return memory_; }
  const boot::MemoryLayout& layout() const { return layout_; }
  backend::Partition& engine() { return *engine_; }
  const backend::BackendCaps& caps() const { return options_.backend->caps(); }
  // Hypercalls, ports and connections, device interrupts.
  partition::Partition& partition() { return *partition_; }
  vmbus::Server& vmbus() { return *vmbus_; }
  // How often the guest has signalled a channel without an exit. On the loop's thread.
  uint64_t channel_signals() const { return hypervisor_->channel_signals(); }
  os::EventLoop& loop() { return loop_; }
  // The loops of as many threads as the options say, which parts may use beside the loop from Attach on. They run until StopIoThreads.
  const std::vector<Executor*>& io_executors() const { return io_executors_; }
  // No part wants anything of the threads of I/O any more.
  void StopIoThreads();
  // The partition's reference clock, timers on it, and civil time.
  const Clock& clock() const { return *clock_; }
  TimerQueue& timers() { return runner_->timers(); }
  const WallClock& wall_clock() const { return runner_->wall_clock(); }
  bool is_deterministic() const { return runner_->is_deterministic(); }
  uint32_t cpus() const { return options_.cpus; }

  // Has `device` answer there, from its offset `offset` on, from now on, also while the machine runs. InvalidArgument:
  // another device or memory does; the message names them.
  absl::Status MapPorts(uint16_t first, uint32_t count, Device& device, uint64_t offset = 0);
  absl::Status MapMmio(uint64_t gpa, uint64_t size_bytes, Device& device, uint64_t offset = 0);
  // Takes the device off both buses. When it returns, no VP is inside.
  void Unmap(Device& device);

  // Drives an interrupt line: true asserts it. It leads to the IOAPIC and, below 16, to the 8259s
  // (backend::Partition::SetIrqLine). Outlived by the board.
  std::function<void(bool)> IrqLine(uint32_t irq);

  // Sends a VP a non-maskable interrupt, by a message to its local APIC; KVM loses it while the guest has that one disabled by software.
  // InvalidArgument: there is no such VP.
  absl::Status InjectNmi(VpIndex vp);

  // Puts a layer above all exits (exit_router.h), before or while the machine runs: intercepts of ports, MMIO, MSRs,
  // hypercalls. When AddLayer returns, all VPs go through it; when RemoveLayer does, none is inside.
  void AddLayer(ExitLayer& layer);
  void RemoveLayer(ExitLayer& layer);

  // --- Until AddProcessors. ---

  // What CPUID tells of the processor, without topology and the hypervisor's leaves.
  const CpuidTable& processor_cpuid() const { return processor_cpuid_; }
  // Changes what CPUID tells the guest, after topology and the hypervisor's leaves are in.
  void EditCpuid(absl::AnyInvocable<void(CpuidTable&)> edit) { cpuid_edits_.push_back(std::move(edit)); }
  // A whole ACPI table beside those of the machine (MakeAcpiTable in acpi_tables.h), and AML terms for the scope \_SB_.
  // They are for whoever writes the firmware's tables, which Machine does.
  void AddAcpiTable(std::string table) { acpi_tables_.push_back(std::move(table)); }
  void AddAcpiDevice(std::string aml) { acpi_devices_.push_back(std::move(aml)); }
  const std::vector<std::string>& acpi_tables() const { return acpi_tables_; }
  const std::vector<std::string>& acpi_devices() const { return acpi_devices_; }

  // Makes the VPs, whose APIC ids are their indices.
  absl::Status AddProcessors();

  // --- From then on. ---

  size_t vp_count() const { return vps_.size(); }
  partition::Vp& vp(VpIndex index) { return *vps_[ToInt(index)].partition; }
  backend::Vp& engine_vp(VpIndex index) { return *vps_[ToInt(index)].engine; }

  // Runs the loop and the VPs until Stop; once. Start runs the VPs alone, beside a loop that somebody else runs (runner.h).
  void Run(Runner::Events& events) { runner_->Run(router_, events); }
  absl::Status Start(Runner::Events& events, absl::AnyInvocable<void()> ended) {
    return runner_->Start(router_, events, std::move(ended));
  }
  void Stop() { runner_->Stop(); }
  // See runner.h.
  void RequestPause() { runner_->RequestPause(); }
  void Pause() { runner_->Pause(); }
  void Resume() { runner_->Resume(); }

  // What of the board is saved and restored, in the order in which a restore goes: time and interrupt controllers, the VPs, the
  // hypervisor interface. VMBus comes last of all, behind the parts', which put up their subchannels before. While
  // paused, or before Run.
  std::vector<state::Component*> components();

  // Back to the board that AddProcessors has left, with memory zero and as much as there was, as a PC's reset does it; parts reset what is theirs. While
  // paused. Errors: the host refused something, and the board is of no more use.
  absl::Status Reset();

  // Makes the first `size_bytes` of MemoryLayout::growth memory, and whatever follows in the same piece: 128 MiB, or more where there
  // would be too many of those. What has been made memory stays that until a reset. Nothing of the guest's is looked at; who calls
  // tells it. On the loop's thread. InvalidArgument: more than the room that there is. Others: the host or the engine refuses.
  absl::Status GrowMemory(uint64_t size_bytes);
  uint64_t grown_bytes() const { return grown_bytes_; }

  // Guest memory's bytes, all ranges of the layout one behind the other, then a frame buffer, and last the room for growth, which nobody
  // has touched beyond grown_bytes().
  os::HostMemory& host_memory() { return *host_memory_; }

  // The last hypercall of a VP, for a trace: what a layer's OnHypercall may look at after the call. *VP thread only*.
  hypercall::CallRecord& last_call(VpIndex index) { return vps_[ToInt(index)].last_call; }

  // What no layer answered. Thread-safe.
  const ExitCounts& exits() const { return exits_; }

  const Runner& runner() const { return *runner_; }

 private:
  struct VpState {
    std::unique_ptr<backend::Vp> engine;
    partition::Vp* partition = nullptr;
    hypercall::CallRecord last_call;
  };

  Board(const BoardOptions& options, os::EventLoop& loop);
  absl::Status Build(boot::LoadInput& blame);
  absl::Status BuildMemory();
  absl::Status BuildPartition();
  absl::Status ShrinkMemory();
  friend class GrownMemory;

  // backend::ExitHandler, below all layers.
  void OnPortRead(backend::Vp& vp, uint16_t port, absl::Span<uint8_t> data) override {
    exits_.Count(ToInt(vp.index()), ExitReason::kPortRead);
    ports_.Read(port, data);
  }
  void OnPortWrite(backend::Vp& vp, uint16_t port, absl::Span<const uint8_t> data) override {
    exits_.Count(ToInt(vp.index()), ExitReason::kPortWrite);
    ports_.Write(port, data);
  }
  void OnMmioRead(backend::Vp& vp, uint64_t gpa, absl::Span<uint8_t> data) override {
    exits_.Count(ToInt(vp.index()), ExitReason::kMmioRead);
    mmio_.Read(gpa, data);
  }
  void OnMmioWrite(backend::Vp& vp, uint64_t gpa, absl::Span<const uint8_t> data) override {
    exits_.Count(ToInt(vp.index()), ExitReason::kMmioWrite);
    mmio_.Write(gpa, data);
  }
  backend::MsrOutcome OnMsrRead(backend::Vp& vp, uint32_t msr, uint64_t& value) override {
    exits_.Count(ToInt(vp.index()), ExitReason::kMsrRead);
    return vps_[ToInt(vp.index())].partition->OnMsrRead(msr, value);
  }
  backend::MsrOutcome OnMsrWrite(backend::Vp& vp, uint32_t msr, uint64_t value) override {
    exits_.Count(ToInt(vp.index()), ExitReason::kMsrWrite);
    return vps_[ToInt(vp.index())].partition->OnMsrWrite(msr, value);
  }
  backend::HypercallOutcome OnHypercall(backend::Vp& vp) override {
    const uint32_t index = ToInt(vp.index());
    exits_.Count(index, ExitReason::kHypercall);
    hypercall::CallRecord& call = vps_[index].last_call;
    const backend::HypercallOutcome outcome = vps_[index].partition->OnHypercall(&call);
    if (outcome == backend::HypercallOutcome::kDone) exits_.CountHypercall(index, call.control.code());
    return outcome;
  }

  // Declared in the order in which they build on each other, and so destroyed in the reverse.
  const BoardOptions options_;
  os::EventLoop& loop_;
  std::unique_ptr<IoThreads> io_threads_;
  std::vector<Executor*> io_executors_;
  ExitRouter router_{*this};
  ExitCounts exits_;
  chipset::Bus ports_, mmio_;
  boot::MemoryLayout layout_;
  GuestMemory memory_;
  std::shared_ptr<os::HostMemory> host_memory_;
  uint64_t grown_bytes_ = 0;
  std::unique_ptr<backend::Partition> engine_;
  CpuidTable processor_cpuid_;
  std::unique_ptr<partition::ReferenceClock> clock_;
  std::unique_ptr<Runner> runner_;
  std::vector<VpState> vps_;
  std::vector<std::unique_ptr<state::Component>> own_components_;  // of the engine's
  backend::BackendCaps offered_;                                   // to the guest; for partition_
  std::unique_ptr<partition::Partition> partition_;
  std::unique_ptr<PartitionHypervisor> hypervisor_;
  std::unique_ptr<vmbus::Server> vmbus_;

  std::vector<absl::AnyInvocable<void(CpuidTable&)>> cpuid_edits_;
  std::vector<std::string> acpi_tables_, acpi_devices_;
};

}  // namespace hvsdk::machine

#endif  // HVSDK_MACHINE_BOARD_H_
