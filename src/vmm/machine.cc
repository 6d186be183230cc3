// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/machine.h"

#include <sys/random.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/types/optional.h"
#include "base/check.h"
#include "base/host_thread.h"
#include "base/status_macros.h"
#include "hvsdk/chipset/bus.h"
#include "hvsdk/chipset/pci_config.h"
#include "hvsdk/chipset/power.h"
#include "hvsdk/chipset/rtc.h"
#include "hvsdk/chipset/uart16550.h"
#include "hvsdk/partition/reference_clock.h"
#include "hvsdk/vmbus/transcript.h"
#include "hvsdk/vmm/acpi_tables.h"
#include "hvsdk/vmm/loopback_ports.h"
#include "hvsdk/vmm/memory_layout.h"
#include "hvsdk/vmm/serial_console.h"
#include "hvsdk/vmm/tracer.h"
#include "hvsdk/vsp/storage.h"
#include "vmm/cpuid.h"
#include "vmm/deterministic_run.h"
#include "vmm/host_memory.h"
#include "vmm/partition_hypervisor.h"
#include "vmm/tracing_exit_handler.h"

namespace hvsdk::vmm {
namespace {

// The same at every start, so that a guest finds its disks under the same names.
constexpr hvdef::Guid kStorageInstance = {0x3E7F6C1A, 0x52D4, 0x4B8E, {0x9A, 0x07, 0x68, 0xC1, 0xD2, 0x0F, 0x5B, 0x31}};

// All there is of a BIOS: what stands where a PC begins after a reset. Linux jumps there in real mode to restart a machine that
// has hardware-reduced ACPI but no EFI (arch/x86/kernel/reboot.c, BOOT_BIOS).
constexpr uint64_t kResetVectorGpa = 0xFFFF0;
constexpr uint16_t kResetPort = kPowerPort + chipset::AcpiPower::kReset;
constexpr uint8_t kResetCode[] = {
    0xBA,
    kResetPort & 0xFF,
    kResetPort >> 8,  //    mov dx, kResetPort
    0xB0,
    chipset::AcpiPower::kResetValue,  //    mov al, kResetValue
    0xEE,                             //    out dx, al
    0xF4,                             // 1: hlt
    0xEB,
    0xFD,  //    jmp 1b
};

class HostWallClock final : public chipset::WallClock {
 public:
  int64_t NowNs() const override {
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
  }
};

// Members are declared in the order in which they build on each other, and so are destroyed in the reverse.
class PcMachine final : public Machine,
                        private backend::ExitHandler,
                        private partition::PartitionEvents,
                        private partition::VpRuntimeSource,
                        private chipset::PowerHandler {
 public:
  PcMachine(const MachineOptions& options, EventLoop& loop) : options_(options), loop_(loop) {}
  ~PcMachine() override;

  absl::Status Build(LoadInput& blame);
  vmbus::Server& vmbus() override { return *vmbus_; }
  MachineResult Run() override;
  void Stop() override { End({.outcome = Outcome::kStopped}); }

 private:
  struct VpState {
    std::unique_ptr<backend::Vp> backend;
    partition::Vp* partition = nullptr;
    HostThread thread;
  };

  absl::Status OpenEngine(LoadInput& blame);
  absl::Status BuildMemory();
  absl::Status BuildPartition();
  absl::Status BuildChipset();
  absl::Status BuildVmbus();
  void BuildTracing();
  absl::Status LoadGuest(LoadInput& blame);
  TimerQueue& timers() { return deterministic_.has_value() ? deterministic_->timers() : *timers_; }
  void RunVp(VpState& vp);
  void OnVpsEnded(size_t count);
  void RunInTurn();
  // Ends the machine; the first reason counts.
  void End(MachineResult result);

  // backend::ExitHandler.
  void OnPortRead(backend::Vp&, uint16_t port, absl::Span<uint8_t> data) override { ports_.Read(port, data); }
  void OnPortWrite(backend::Vp&, uint16_t port, absl::Span<const uint8_t> data) override { ports_.Write(port, data); }
  void OnMmioRead(backend::Vp&, uint64_t gpa, absl::Span<uint8_t> data) override { mmio_.Read(gpa, data); }
  void OnMmioWrite(backend::Vp&, uint64_t gpa, absl::Span<const uint8_t> data) override { mmio_.Write(gpa, data); }
  backend::MsrOutcome OnMsrRead(backend::Vp& vp, uint32_t msr, uint64_t& value) override {
    return PartitionVp(vp).OnMsrRead(msr, value);
  }
  backend::MsrOutcome OnMsrWrite(backend::Vp& vp, uint32_t msr, uint64_t value) override {
    return PartitionVp(vp).OnMsrWrite(msr, value);
  }
  backend::HypercallOutcome OnHypercall(backend::Vp& vp) override { return PartitionVp(vp).OnHypercall(); }
  partition::Vp& PartitionVp(backend::Vp& vp) { return *vps_[ToInt(vp.index())].partition; }

  // partition::VpRuntimeSource: what the VP's thread, which asks, has used; a halted VP's thread sleeps.
  uint64_t VpRuntime100ns(VpIndex vp) override {
    if (deterministic_.has_value()) return deterministic_->VpRuntime100ns(vp);
    timespec used{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return uint64_t(used.tv_sec) * 10'000'000 + used.tv_nsec / 100;
  }

  // partition::PartitionEvents.
  void OnResetRequested(VpIndex) override { End({.outcome = Outcome::kReset}); }
  void OnCrash(const partition::CrashReport& report) override { End({.outcome = Outcome::kCrashed, .crash = report}); }

  // chipset::PowerHandler.
  void OnPowerOff() override { End({.outcome = Outcome::kPoweredOff}); }
  void OnReset() override { End({.outcome = Outcome::kReset}); }

  const MachineOptions options_;
  EventLoop& loop_;

  std::atomic<bool> ending_{false};
  std::mutex mutex_;  // guards result_ and vps_running_
  absl::optional<MachineResult> result_;
  size_t vps_running_ = 0;

  MemoryLayout layout_;
  HostMemory host_memory_;
  GuestMemory memory_;
  std::unique_ptr<backend::Partition> backend_;
  std::vector<backend::CpuidEntry> supported_cpuid_;
  std::unique_ptr<partition::ReferenceClock> clock_;
  std::unique_ptr<LoopTimers> timers_;
  absl::optional<DeterministicRun> deterministic_;  // then there are no timers_

  // The guest's view of the machine.
  chipset::Bus ports_, mmio_;
  HostWallClock wall_clock_;
  chipset::AcpiPower acpi_power_{*this};
  chipset::KeyboardController keyboard_{*this};
  chipset::SystemControlPort system_control_{*this};
  chipset::PciConfigPorts pci_;
  std::unique_ptr<chipset::Uart16550> uart_;
  std::unique_ptr<chipset::Rtc> rtc_;

  std::unique_ptr<partition::Partition> partition_;
  std::vector<VpState> vps_;
  InitialState initial_state_;
  absl::optional<TracingExitHandler> tracing_;
  backend::ExitHandler* exit_handler_ = this;

  std::unique_ptr<LoopbackPorts> loopback_;
  std::unique_ptr<PartitionHypervisor> hypervisor_;
  std::unique_ptr<vmbus::Server> vmbus_;
  std::unique_ptr<vsp::StorageController> storage_;
};

PcMachine::~PcMachine() {
  if (uart_ != nullptr) options_.serial->Detach();
  storage_.reset();
  vmbus_.reset();
  hypervisor_.reset();
  loopback_.reset();
  // A partition's VPs refer to the engine's.
  partition_.reset();
}

absl::Status PcMachine::Build(LoadInput& blame) {
  if (options_.instruction_time != nullptr) {
    if (!options_.disks.empty()) return absl::UnimplementedError("a deterministic machine has no disks");
    deterministic_.emplace(*options_.instruction_time);
  }
  RETURN_IF_ERROR(OpenEngine(blame));
  blame = LoadInput::kMemory;
  RETURN_IF_ERROR(BuildMemory());
  RETURN_IF_ERROR(LoadGuest(blame));
  blame = LoadInput::kNone;
  RETURN_IF_ERROR(BuildPartition());
  RETURN_IF_ERROR(BuildChipset());
  RETURN_IF_ERROR(BuildVmbus());
  if (options_.tracer != nullptr) BuildTracing();
  return SetInitialState(initial_state_, *vps_[0].backend);
}

// What no processor of this engine could have is refused before anything is allocated for it.
absl::Status PcMachine::OpenEngine(LoadInput& blame) {
  blame = LoadInput::kCpus;
  if (options_.cpus < 1 || options_.cpus > options_.backend->caps().max_vps) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s runs 1 to %d processors", options_.backend->name(), options_.backend->caps().max_vps));
  }
  blame = LoadInput::kMemory;
  ASSIGN_OR_RETURN(layout_, MemoryLayout::ForSize(options_.memory_bytes));
  blame = LoadInput::kNone;
  ASSIGN_OR_RETURN(backend_, options_.backend->CreatePartition(memory_));
  ASSIGN_OR_RETURN(supported_cpuid_, backend_->SupportedCpuid());
  if (const uint32_t bits = PhysicalAddressBits(supported_cpuid_); bits < 64 && layout_.end() > uint64_t{1} << bits) {
    blame = LoadInput::kMemory;
    return absl::InvalidArgumentError(absl::StrFormat("%d MiB are more than the processor's %d address bits reach",
                                                      options_.memory_bytes >> 20, bits));
  }
  return absl::OkStatus();
}

absl::Status PcMachine::BuildMemory() {
  ASSIGN_OR_RETURN(host_memory_, HostMemory::Reserve(options_.memory_bytes));
  absl::Span<uint8_t> rest = host_memory_.bytes();
  for (const GpaRange& range : layout_.memory) {
    const absl::Span<uint8_t> host = rest.subspan(0, range.size_bytes);
    RETURN_IF_ERROR(memory_.AddRange(range.gpa, host));
    RETURN_IF_ERROR(backend_->MapMemory(range.gpa, host, backend::MapAccess::kReadWriteExecute));
    rest.remove_prefix(range.size_bytes);
  }
  return absl::OkStatus();
}

absl::Status PcMachine::LoadGuest(LoadInput& blame) {
  AcpiOptions acpi{.serial_port = options_.serial != nullptr, .low_mmio = kLowMmio, .high_mmio = layout_.high_mmio};
  for (uint32_t i = 0; i < options_.cpus; ++i) acpi.apic_ids.push_back(i);
  const std::string tables = BuildAcpiTables(acpi, kAcpiTablesGpa);
  HVSDK_CHECK(kAcpiTablesGpa + tables.size() <= kResetVectorGpa &&
              memory_.Write(kAcpiTablesGpa, tables.data(), tables.size()) &&
              memory_.Write(kResetVectorGpa, kResetCode, sizeof(kResetCode)));
  LoadRequest request{.kernel = *options_.kernel, .initrd = options_.initrd, .command_line = options_.command_line};
  // The seed of a deterministic machine is always the same.
  if (!deterministic_.has_value() &&
      getrandom(request.rng_seed.data(), request.rng_seed.size(), 0) != ssize_t{sizeof(request.rng_seed)}) {
    return absl::InternalError("the host has no random numbers");
  }
  ASSIGN_OR_RETURN(initial_state_, LoadKernel(request, layout_, memory_, blame));
  return absl::OkStatus();
}

absl::Status PcMachine::BuildPartition() {
  const backend::BackendCaps& caps = options_.backend->caps();
  ASSIGN_OR_RETURN(clock_, partition::ReferenceClock::Create(*backend_, caps.tsc_frequency_hz));
  if (!deterministic_.has_value()) {
    ASSIGN_OR_RETURN(timers_, LoopTimers::Create(loop_, *clock_));
  }
  ASSIGN_OR_RETURN(partition_, partition::Partition::Create({}, {.backend = *backend_,
                                                                 .caps = caps,
                                                                 .memory = memory_,
                                                                 .clock = *clock_,
                                                                 .timers = timers(),
                                                                 .events = *this,
                                                                 .vp_runtime = this}));
  const std::vector<backend::CpuidEntry> cpuid =
      ComposeCpuid(std::move(supported_cpuid_), partition_->Cpuid(), options_.cpus);
  vps_.resize(options_.cpus);
  for (uint32_t i = 0; i < options_.cpus; ++i) {
    ASSIGN_OR_RETURN(vps_[i].backend, backend_->CreateVp(VpIndex{i}, i, cpuid));
    ASSIGN_OR_RETURN(vps_[i].partition, partition_->AddVp(*vps_[i].backend));
  }
  return absl::OkStatus();
}

absl::Status PcMachine::BuildChipset() {
  const auto irq = [this](uint32_t gsi) { return [this, gsi](bool level) { backend_->SetIrqLine(gsi, level); }; };
  const chipset::WallClock& wall_clock = deterministic_.has_value() ? deterministic_->wall_clock() : wall_clock_;
  rtc_ = std::make_unique<chipset::Rtc>(wall_clock, *clock_, timers(), irq(kRtcIrq));
  RETURN_IF_ERROR(ports_.Map(kRtcPort, chipset::Rtc::kPorts, rtc_.get()));
  RETURN_IF_ERROR(ports_.Map(kPowerPort, chipset::AcpiPower::kPorts, &acpi_power_));
  RETURN_IF_ERROR(ports_.Map(0x60, chipset::KeyboardController::kPorts, &keyboard_));
  RETURN_IF_ERROR(ports_.Map(0x92, 1, &system_control_));
  RETURN_IF_ERROR(ports_.Map(0xCF8, chipset::PciConfigPorts::kPorts, &pci_));
  if (options_.serial != nullptr) {
    const auto look = [this] { loop_.Schedule(*options_.serial); };
    uart_ = std::make_unique<chipset::Uart16550>(
        chipset::Uart16550::Hooks{.irq = irq(kSerialIrq), .output_ready = look, .input_room = look});
    RETURN_IF_ERROR(ports_.Map(kSerialPort, chipset::Uart16550::kPorts, uart_.get()));
    options_.serial->Attach(*uart_);
  }
  return absl::OkStatus();
}

absl::Status PcMachine::BuildVmbus() {
  if (options_.loopback_ports) {
    loopback_ = std::make_unique<LoopbackPorts>(*partition_);
    RETURN_IF_ERROR(loopback_->Register());
  }
  hypervisor_ = std::make_unique<PartitionHypervisor>(*partition_, loop_);
  vmbus_ = std::make_unique<vmbus::Server>(memory_, *hypervisor_, vmbus::ServerOptions{.vp_count = options_.cpus});
  RETURN_IF_ERROR(vmbus_->Start());
  if (options_.disks.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(storage_,
                   vsp::StorageController::Create(*vmbus_, loop_,
                                                  {.instance_id = kStorageInstance,
                                                   .max_subchannels = std::min<uint16_t>(
                                                       options_.cpus - 1, vsp::StorageController::kMaxSubchannels)}));
  for (size_t lun = 0; lun < options_.disks.size(); ++lun) {
    RETURN_IF_ERROR(storage_->Attach(static_cast<uint8_t>(lun), options_.disks[lun]));
  }
  return absl::OkStatus();
}

void PcMachine::BuildTracing() {
  Tracer& tracer = *options_.tracer;
  for (uint32_t i = 0; i < options_.cpus; ++i) tracer.NameTrack(i, absl::StrCat("VP ", i));
  tracer.NameTrack(Tracer::kVmbusTrack, "VMBus messages");
  tracing_.emplace(
      tracer, static_cast<backend::ExitHandler&>(*this),
      [this](backend::Vp& vp, hypercall::CallRecord& record) { return PartitionVp(vp).OnHypercall(&record); });
  exit_handler_ = &*tracing_;
  vmbus_->SetMessageObserver([&tracer](vmbus::Server::Direction direction, absl::Span<const uint8_t> message) {
    const std::string text = vmbus::FormatMessage(message);
    const bool to_root = direction == vmbus::Server::Direction::kToRoot;
    tracer.Instant(Tracer::kVmbusTrack, "vmbus", absl::string_view(text).substr(0, text.find(' ')),
                   absl::StrFormat(R"("to":"%s","message":%s)", to_root ? "root" : "child", Tracer::Quote(text)));
  });
}

void PcMachine::End(MachineResult result) {
  {
    std::lock_guard lock(mutex_);
    if (result_.has_value()) return;
    result_ = std::move(result);
  }
  ending_.store(true, std::memory_order_release);
  for (VpState& vp : vps_) vp.backend->Kick();
}

void PcMachine::RunVp(VpState& vp) {
  {
    partition::Vp::Session session(*vp.partition);
    while (!ending_.load(std::memory_order_acquire)) {
      const absl::StatusOr<backend::StopReason> reason = vp.backend->Run(*exit_handler_);
      if (!reason.ok()) {
        End({.outcome = Outcome::kHostFailure, .status = reason.status()});
      } else if (*reason == backend::StopReason::kTripleFault) {
        End({.outcome = Outcome::kReset});
      } else {
        vp.partition->RunPendingWork();
      }
    }
  }
  OnVpsEnded(1);
}

// No session is opened: what one VP has to do for another, it does right away.
void PcMachine::RunInTurn() {
  std::vector<backend::DeterministicMachine::Processor> processors;
  for (VpState& vp : vps_) processors.push_back({vp.backend.get(), exit_handler_});
  deterministic_->SetProcessors(processors);
  while (!ending_.load(std::memory_order_acquire)) {
    if (deterministic_->RunRound() == backend::DeterministicMachine::Result::kTripleFault)
      End({.outcome = Outcome::kReset});
    // Time stands still until what the guest has sent is out: it must not notice how fast the receiver is.
    do {
      loop_.RunOnce(/*wait=*/options_.serial != nullptr && options_.serial->waiting());
    } while (options_.serial != nullptr && options_.serial->waiting() && !ending_.load(std::memory_order_acquire));
  }
  std::lock_guard lock(mutex_);
  result_->instructions = deterministic_->instructions();
  result_->state_hash = deterministic_->HashState(memory_);
}

// The loop serves the VPs until the last of them has ended.
void PcMachine::OnVpsEnded(size_t count) {
  std::lock_guard lock(mutex_);
  vps_running_ -= count;
  if (vps_running_ == 0) loop_.Stop();
}

MachineResult PcMachine::Run() {
  if (deterministic_.has_value()) {
    RunInTurn();
    return *result_;
  }
  vps_running_ = vps_.size();
  for (size_t i = 0; i < vps_.size(); ++i) {
    absl::Status started = vps_[i].thread.Start(absl::StrCat("vp", i).c_str(), [this, i] { RunVp(vps_[i]); });
    if (started.ok()) continue;
    End({.outcome = Outcome::kHostFailure, .status = std::move(started)});
    OnVpsEnded(vps_.size() - i);
    break;
  }
  loop_.Run();
  for (VpState& vp : vps_) {
    if (vp.thread.is_running()) vp.thread.Join();
  }
  std::lock_guard lock(mutex_);
  return *result_;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Machine>> Machine::Create(const MachineOptions& options, EventLoop& loop,
                                                         LoadInput& blame) {
  auto machine = std::make_unique<PcMachine>(options, loop);
  RETURN_IF_ERROR(machine->Build(blame));
  return machine;
}

}  // namespace hvsdk::vmm
