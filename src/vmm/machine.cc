// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/machine.h"

#include <sys/random.h>

#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/types/optional.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "hvsdk/chipset/power.h"
#include "hvsdk/vmbus/transcript.h"
#include "hvsdk/vmm/acpi_tables.h"
#include "hvsdk/vmm/loopback_ports.h"
#include "hvsdk/vmm/serial_console.h"
#include "hvsdk/vmm/smbios_tables.h"
#include "hvsdk/vmm/tracer.h"
#include "vmm/crash_watch.h"
#include "vmm/disk_controller.h"
#include "vmm/pc_chipset.h"
#include "vmm/tracing_exit_handler.h"

namespace hvsdk::vmm {
namespace {

// All there is of a BIOS: what stands where a PC begins after a reset. Linux jumps there in real mode to restart a
// machine by reboot=bios (arch/x86/kernel/reboot.c).
constexpr uint64_t kResetVectorGpa = 0xFFFF0;
static_assert(kSmbiosGpa + kMaxSmbiosSize == kResetVectorGpa);
constexpr uint16_t kResetPort = kPowerPort + chipset::AcpiPower::kReset;
// clang-format off
constexpr uint8_t kResetCode[] = {
    0xBA, kResetPort & 0xFF, kResetPort >> 8,   //    mov dx, kResetPort
    0xB0, chipset::AcpiPower::kResetValue,      //    mov al, kResetValue
    0xEE,                                       //    out dx, al
    0xF4,                                       // 1: hlt
    0xEB, 0xFD,                                 //    jmp 1b
};
// clang-format on

// The loaders of kernel_loader.h, for the kernel that the options name.
class KernelImage final : public GuestLoader {
 public:
  KernelImage(const MachineOptions& options, LoadInput& blame) : options_(options), blame_(blame) {}

  absl::Status Load(Board& board) override {
    LoadRequest request{.kernel = *options_.kernel, .initrd = options_.initrd, .command_line = options_.command_line};
    // The seed of a deterministic machine is always the same.
    if (!board.is_deterministic() &&
        getrandom(request.rng_seed.data(), request.rng_seed.size(), 0) != ssize_t{sizeof(request.rng_seed)}) {
      blame_ = LoadInput::kNone;
      return absl::InternalError("the host has no random numbers");
    }
    ASSIGN_OR_RETURN(state_, LoadKernel(request, board.layout(), board.memory(), blame_));
    return absl::OkStatus();
  }
  absl::Status SetInitialState(backend::Vp& vp) override { return vmm::SetInitialState(state_, vp); }

 private:
  const MachineOptions& options_;
  LoadInput& blame_;
  InitialState state_;
};

class LoopbackPart final : public Part {
 public:
  absl::Status Attach(Board& board) override { return ports_.emplace(board.partition()).Register(); }
  void Detach() override { ports_.reset(); }

 private:
  absl::optional<LoopbackPorts> ports_;
};

class PcMachine final : public Machine,
                        private partition::PartitionEvents,
                        private chipset::PowerHandler,
                        private Runner::Events {
 public:
  explicit PcMachine(const MachineOptions& options) : options_(options) {}
  ~PcMachine() override;

  absl::Status Build(EventLoop& loop, LoadInput& blame);
  Board& board() override { return *board_; }
  MachineResult Run() override;
  void Stop() override { End({.outcome = Outcome::kStopped}); }
  void PressPowerButton() override { chipset_->PressPowerButton(); }

 private:
  absl::Status AttachParts();
  absl::Status WriteFirmware();
  void BuildTracing();
  // Ends the machine; the first reason counts.
  void End(MachineResult result);
  // Has the parts end what is under way with the host.
  void StopParts();

  // partition::PartitionEvents.
  void OnResetRequested(VpIndex) override { End({.outcome = Outcome::kReset}); }
  void OnCrash(const partition::CrashReport& report) override {
    crash_watch_->Report(report);
    if (options_.on_crash == CrashAction::kEnd) End({.outcome = Outcome::kCrashed});
  }

  // chipset::PowerHandler.
  void OnPowerOff() override { End({.outcome = Outcome::kPoweredOff}); }
  void OnReset() override { End({.outcome = Outcome::kReset}); }

  // Runner::Events.
  void OnTripleFault(VpIndex) override { End({.outcome = Outcome::kReset}); }
  void OnFailure(const absl::Status& status) override { End({.outcome = Outcome::kHostFailure, .status = status}); }
  bool waiting() const override { return options_.serial != nullptr && options_.serial->waiting(); }

  const MachineOptions options_;

  std::mutex mutex_;  // guards result_
  absl::optional<MachineResult> result_;

  // Destroyed in the reverse order.
  std::unique_ptr<Board> board_;
  PcChipset* chipset_ = nullptr;  // the first of the next
  std::vector<std::unique_ptr<Part>> own_parts_;
  std::vector<Part*> attached_;
  std::vector<Part*> busy_;  // those of them that StopParts waits for
  absl::optional<TracingExitHandler> tracing_;
  absl::optional<CrashWatch> crash_watch_;
};

PcMachine::~PcMachine() {
  crash_watch_.reset();
  for (; !attached_.empty(); attached_.pop_back()) attached_.back()->Detach();
}

absl::Status PcMachine::Build(EventLoop& loop, LoadInput& blame) {
  blame = LoadInput::kSmbios;
  RETURN_IF_ERROR(ValidateSmbiosIdentity(options_.smbios));
  ASSIGN_OR_RETURN(board_, Board::Create({.backend = options_.backend,
                                          .memory_bytes = options_.memory_bytes,
                                          .cpus = options_.cpus,
                                          .events = this,
                                          .instruction_time = options_.instruction_time},
                                         loop, blame));
  crash_watch_.emplace(*board_, options_.crash_silence_ms, options_.crash_observer,
                       [this] { End({.outcome = Outcome::kCrashed}); });
  RETURN_IF_ERROR(AttachParts());
  RETURN_IF_ERROR(WriteFirmware());
  KernelImage kernel(options_, blame);
  GuestLoader& loader = options_.loader != nullptr ? *options_.loader : kernel;
  blame = LoadInput::kKernel;
  RETURN_IF_ERROR(loader.Load(*board_));
  blame = LoadInput::kNone;
  RETURN_IF_ERROR(board_->AddProcessors());
  if (options_.tracer != nullptr) BuildTracing();
  return loader.SetInitialState(board_->engine_vp(VpIndex{0}));
}

absl::Status PcMachine::AttachParts() {
  chipset::PowerHandler& power = *this;
  auto chipset = std::make_unique<PcChipset>(power, options_.serial);
  chipset_ = chipset.get();
  own_parts_.push_back(std::move(chipset));
  if (options_.loopback_ports) own_parts_.push_back(std::make_unique<LoopbackPart>());
  if (!options_.disks.empty())
    own_parts_.push_back(std::make_unique<DiskController>(options_.disks, options_.disk_names));
  std::vector<Part*> parts;
  for (const auto& part : own_parts_) parts.push_back(part.get());
  parts.insert(parts.end(), options_.parts.begin(), options_.parts.end());
  for (Part* const part : parts) {
    RETURN_IF_ERROR(part->Attach(*board_));
    attached_.push_back(part);
  }
  return absl::OkStatus();
}

absl::Status PcMachine::WriteFirmware() {
  AcpiOptions acpi{.serial_port = options_.serial != nullptr,
                   .low_mmio = kLowMmio,
                   .high_mmio = board_->layout().high_mmio,
                   .tables = board_->acpi_tables(),
                   .devices = board_->acpi_devices()};
  for (uint32_t i = 0; i < options_.cpus; ++i) acpi.apic_ids.push_back(i);
  const std::string tables = BuildAcpiTables(acpi, kAcpiTablesGpa);
  if (kAcpiTablesGpa + tables.size() > kSmbiosGpa) {
    return absl::ResourceExhaustedError(absl::StrFormat("%d bytes of ACPI tables do not fit the %d there are room for",
                                                        tables.size(), kSmbiosGpa - kAcpiTablesGpa));
  }
  SmbiosOptions smbios{.identity = options_.smbios, .memory = board_->layout().memory, .cpus = options_.cpus};
  ASSIGN_OR_RETURN(smbios.cpuid, board_->engine().SupportedCpuid());
  const std::string smbios_tables = BuildSmbiosTables(smbios, kSmbiosGpa);
  HVSDK_CHECK(board_->memory().Write(kAcpiTablesGpa, tables.data(), tables.size()) &&
              board_->memory().Write(kSmbiosGpa, smbios_tables.data(), smbios_tables.size()) &&
              board_->memory().Write(kResetVectorGpa, kResetCode, sizeof(kResetCode)));
  return absl::OkStatus();
}

// Above all other layers, so that the trace has what they answer, too.
void PcMachine::BuildTracing() {
  Tracer& tracer = *options_.tracer;
  for (uint32_t i = 0; i < options_.cpus; ++i) tracer.NameTrack(i, absl::StrCat("VP ", i));
  tracer.NameTrack(Tracer::kVmbusTrack, "VMBus messages");
  board_->AddLayer(tracing_.emplace(tracer, *board_));
  const auto show = [&tracer](vmbus::Server::Direction direction, absl::Span<const uint8_t> message) {
    const std::string text = vmbus::FormatMessage(message);
    const bool to_root = direction == vmbus::Server::Direction::kToRoot;
    tracer.Instant(Tracer::kVmbusTrack, "vmbus", absl::string_view(text).substr(0, text.find(' ')),
                   absl::StrFormat(R"("to":"%s","message":%s)", to_root ? "root" : "child", Tracer::Quote(text)));
  };
  board_->vmbus().SetMessageObserver(show, [&tracer](uint64_t count) { tracer.Lost(count); });
}

void PcMachine::End(MachineResult result) {
  using enum Outcome;
  const absl::optional<partition::CrashReport> crash = crash_watch_->report();
  if (crash.has_value()) {
    result.crash = *crash;
    if (result.outcome == kPoweredOff || result.outcome == kReset) {
      result.after_crash = std::exchange(result.outcome, kCrashed);
    }
  }
  {
    std::lock_guard lock(mutex_);
    if (result_.has_value()) return;
    result_ = std::move(result);
  }
  board_->Stop();
}

void PcMachine::StopParts() {
  busy_ = attached_;
  for (Part* const part : attached_) {
    part->Stop([this, part] {
      std::erase(busy_, part);
      if (busy_.empty()) board_->loop().Stop();
    });
  }
  // Where nobody had to wait, this takes that Stop back.
  if (attached_.empty() || board_->loop().RunFor(options_.grace)) return;
  std::vector<std::string> silent;
  for (const Part* const part : busy_) silent.push_back(part->WaitsFor());
  std::lock_guard lock(mutex_);
  result_->outcome = Outcome::kHostFailure;
  result_->gave_up = true;
  result_->status = absl::DeadlineExceededError(
      absl::StrFormat("%s did not answer for %d ms", absl::StrJoin(silent, ", "), options_.grace.count()));
}

MachineResult PcMachine::Run() {
  board_->Run(*this);
  crash_watch_->TellNow();
  if (board_->is_deterministic()) {
    std::lock_guard lock(mutex_);
    result_->instructions = board_->runner().instructions();
    result_->state_hash = board_->runner().HashState(board_->memory());
  }
  StopParts();
  std::lock_guard lock(mutex_);
  return *result_;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Machine>> Machine::Create(const MachineOptions& options, EventLoop& loop,
                                                         LoadInput& blame) {
  try {
    auto machine = std::make_unique<PcMachine>(options);
    RETURN_IF_ERROR(machine->Build(loop, blame));
    return machine;
  } catch (const std::bad_alloc&) {
    blame = LoadInput::kNone;
    return absl::ResourceExhaustedError("the host refuses memory for the machine (limits: address space, data)");
  }
}

}  // namespace hvsdk::vmm
