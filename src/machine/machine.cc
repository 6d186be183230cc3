// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/machine/machine.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
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
#include "hvsdk/boot/acpi_tables.h"
#include "hvsdk/boot/smbios_tables.h"
#include "hvsdk/chipset/power.h"
#include "hvsdk/machine/loopback_ports.h"
#include "hvsdk/machine/serial_endpoint.h"
#include "hvsdk/machine/tracer.h"
#include "hvsdk/os/host_clock.h"
#include "hvsdk/vmbus/transcript.h"
#include "machine/crash_watch.h"
#include "machine/disk_controller.h"
#include "machine/event_queue.h"
#include "machine/input_part.h"
#include "machine/integration_part.h"
#include "machine/network_adapters.h"
#include "machine/pc_chipset.h"
#include "machine/socket_part.h"
#include "machine/tracing_exit_handler.h"
#include "machine/video_part.h"

namespace hvsdk::machine {
namespace {

// All there is of a BIOS: what stands where a PC begins after a reset. Linux jumps there in real mode to restart a
// machine by reboot=bios (arch/x86/kernel/reboot.c).
constexpr uint64_t kMostSettling100ns = 500'000;
constexpr uint64_t kResetVectorGpa = 0xFFFF0;
static_assert(boot::kSmbiosGpa + boot::kMaxSmbiosSize == kResetVectorGpa);
constexpr uint16_t kResetPort = boot::kPowerPort + chipset::AcpiPower::kReset;
// clang-format off
constexpr uint8_t kResetCode[] = {
    0xBA, kResetPort & 0xFF, kResetPort >> 8,   //    mov dx, kResetPort
    0xB0, chipset::AcpiPower::kResetValue,      //    mov al, kResetValue
    0xEE,                                       //    out dx, al
    0xF4,                                       // 1: hlt
    0xEB, 0xFD,                                 //    jmp 1b
};
// clang-format on

absl::Status FillRandomly(absl::Span<uint8_t> bytes) {
  return getrandom(bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size())
             ? absl::OkStatus()
             : absl::InternalError("the host has no random numbers");
}

// The loaders of kernel_loader.h, for the kernel that the options name.
class KernelImage final : public GuestLoader {
 public:
  KernelImage(const MachineOptions& options, boot::LoadInput& blame) : options_(options), blame_(blame) {}

  absl::Status Load(Board& board) override {
    boot::LoadRequest request{
        .kernel = *options_.kernel, .initrd = options_.initrd, .command_line = options_.command_line};
    // The seed of a deterministic machine is always the same.
    if (!board.is_deterministic()) {
      if (absl::Status status = FillRandomly(absl::MakeSpan(request.rng_seed)); !status.ok()) {
        blame_ = boot::LoadInput::kNone;
        return status;
      }
    }
    ASSIGN_OR_RETURN(state_, boot::LoadKernel(request, board.layout(), board.memory(), blame_));
    return absl::OkStatus();
  }
  absl::Status SetInitialState(backend::Vp& vp) override { return boot::SetInitialState(state_, vp); }

 private:
  const MachineOptions& options_;
  boot::LoadInput& blame_;
  boot::InitialState state_;
};

absl::string_view TextOf(BlockStatus status) {
  if (status == BlockStatus::kNoSpace) return "no space";
  return status == BlockStatus::kWritesLost ? "writes lost" : "I/O error";
}

absl::string_view TextOf(Outcome outcome) {
  constexpr absl::string_view kTexts[] = {"powered off", "reset", "crashed", "stopped", "host failure"};
  return kTexts[static_cast<size_t>(outcome)];
}

MachineEvent EventOf(const partition::CrashReport& report) {
  MachineEvent event{.name = "crashed", .details = {{"vp", absl::StrCat(ToInt(report.vp))}}};
  for (size_t i = 0; i < report.parameters.size(); ++i) {
    event.details.emplace_back(absl::StrCat("p", i), absl::StrFormat("%#x", report.parameters[i]));
  }
  event.details.emplace_back("message", report.message);
  return event;
}

class LoopbackPart final : public Part {
 public:
  absl::Status Attach(Board& board) override { return ports_.emplace(board.partition()).Register(); }
  void Detach() override { ports_.reset(); }

 private:
  absl::optional<LoopbackPorts> ports_;
};

class PcMachine final : public Machine,
                        private Controller::Life,
                        private partition::PartitionEvents,
                        private chipset::PowerHandler,
                        private Runner::Events {
 public:
  explicit PcMachine(const MachineOptions& options) : options_(options) {}
  ~PcMachine() override;

  absl::Status Build(os::EventLoop& loop, boot::LoadInput& blame);
  Board& board() override { return *board_; }
  MachineResult Run() override;
  absl::Status Start(Done done) override;
  void Stop() override { End({.outcome = Outcome::kStopped}); }
  void PressPowerButton() override { chipset_->PressPowerButton(); }
  const IntegrationComponents& integration() const override { return integration_->found(); }
  const InputComponents& input() const override {
    static const InputComponents kNone;
    return input_ == nullptr ? kNone : input_->found();
  }
  vsp::SocketProvider* sockets() const override { return sockets_ == nullptr ? nullptr : sockets_->provider(); }
  Display* display() const override { return video_ == nullptr ? nullptr : video_->video(); }
  absl::Status InjectNmi(VpIndex vp) override { return board_->InjectNmi(vp); }
  absl::StatusOr<uint8_t> AttachDisk(MachineDisk disk) override;
  absl::Status DetachDisk(uint8_t lun, absl::AnyInvocable<void()> gone) override;
  absl::Status ReplaceDisk(uint8_t lun, std::shared_ptr<BlockDevice> device, std::string name) override {
    if (disks_ == nullptr) return absl::NotFoundError("the machine has no disks");
    return disks_->Replace(lun, std::move(device), std::move(name));
  }
  absl::Status InsertMedium(uint8_t lun, std::shared_ptr<BlockDevice> medium) override {
    if (disks_ == nullptr) return absl::NotFoundError("the machine has no disks");
    return disks_->Insert(lun, std::move(medium));
  }
  absl::Status EjectMedium(uint8_t lun, bool force) override {
    if (disks_ == nullptr) return absl::NotFoundError("the machine has no disks");
    return disks_->Eject(lun, force);
  }
  std::vector<MachineDiskCounts> disk_counts() const override {
    return disks_ == nullptr ? std::vector<MachineDiskCounts>{} : disks_->counts();
  }
  absl::StatusOr<uint8_t> AttachNetwork(MachineNetwork network) override;
  absl::Status DetachNetwork(uint8_t number, absl::AnyInvocable<void()> gone) override;
  std::vector<MachineNetworkStatus> networks() const override {
    return networks_ == nullptr ? std::vector<MachineNetworkStatus>{} : networks_->status();
  }
  absl::Status StartTrace(Tracer& tracer) override;
  absl::Status StopTrace() override;
  Controller& controller() override { return *controller_; }
  std::vector<state::Component*> components() override;
  uint64_t resets() const override { return resets_.load(std::memory_order_relaxed); }

 private:
  absl::Status AttachParts();
  absl::Status AttachPart(Part& part);
  // A part that devices of a kind come to, made with the first that comes while the machine runs.
  template <typename OfPart, typename Make>
  absl::StatusOr<OfPart*> PartFor(OfPart*& part, Make make);
  bool HasDiskController() const;
  // What a PC's firmware leaves, and the guest on top of it.
  absl::Status LoadGuest(boot::LoadInput& blame);
  absl::Status WriteFirmware();
  // Into memory, where the guest looks for it.
  void WriteGenerationId();
  std::unique_ptr<DiskController> MakeDiskController(std::vector<MachineDisk> disks);
  // Ends the machine; the first reason counts.
  void End(MachineResult result);
  bool is_ending() {
    std::lock_guard lock(mutex_);
    return result_.has_value();
  }
  void StartParts();
  // No VP runs any more: has the parts end what is under way with the host, and then is done.
  void OnVpsEnded();
  void OnEndLate();
  // Asks each part for what takes it a while (Part::Stop, Part::Pause); calls `all_done` when the last has done it.
  void AskParts(void (Part::*what)(absl::AnyInvocable<void()>), absl::AnyInvocable<void()> all_done);
  // What AskParts waits for. Whoever answers when nobody waits any more finds it gone.
  struct PartsAsked {
    std::vector<Part*> busy;
    absl::AnyInvocable<void()> all_done;
  };
  // Who has not done it within the time of grace.
  absl::Status SilenceError() const;
  // The guest wants to begin anew.
  void OnGuestReset();

  // Controller::Life.
  void PauseAll(Controller::Done done) override;
  void ResumeAll() override;
  absl::Status ResetAll() override;
  void OnPaused(bool is_paused) override { events_->Put({.name = is_paused ? "paused" : "resumed"}); }
  void OnPauseLate();
  void Settle();

  // partition::PartitionEvents.
  void OnResetRequested(VpIndex) override { OnGuestReset(); }
  void OnCrash(const partition::CrashReport& report) override {
    crash_watch_->Report(report);
    if (options_.on_crash == CrashAction::kEnd) End({.outcome = Outcome::kCrashed});
  }

  // chipset::PowerHandler.
  void OnPowerOff() override { End({.outcome = Outcome::kPoweredOff}); }
  void OnReset() override { OnGuestReset(); }

  // Runner::Events.
  void OnTripleFault(VpIndex) override { OnGuestReset(); }
  void OnFailure(const absl::Status& status) override { End({.outcome = Outcome::kHostFailure, .status = status}); }
  // Work that is left to a turn of its own.
  struct Work final : Task {
    Work(PcMachine& machine, void (PcMachine::*does)()) : machine(machine), does(does) {}
    void Run() override { (machine.*does)(); }
    PcMachine& machine;
    void (PcMachine::*const does)();
  };
  // Tells whoever started it, when nothing of the machine is on the stack: it may be destroyed there.
  void CallDone();

  bool waiting() const override { return options_.serial != nullptr && options_.serial->waiting(); }

  MachineOptions options_;

  std::mutex mutex_;  // guards result_
  absl::optional<MachineResult> result_;

  // Destroyed in the reverse order.
  std::unique_ptr<Board> board_;
  absl::optional<EventQueue> events_;
  PcChipset* chipset_ = nullptr;  // the first of the next
  IntegrationPart* integration_ = nullptr;
  InputPart* input_ = nullptr;           // perhaps
  SocketPart* sockets_ = nullptr;        // perhaps
  VideoPart* video_ = nullptr;           // likewise
  DiskController* disks_ = nullptr;      // one of them, from the first disk on
  NetworkAdapters* networks_ = nullptr;  // likewise, from the first adapter on
  std::vector<std::unique_ptr<Part>> own_parts_;
  std::vector<Part*> attached_;
  std::shared_ptr<PartsAsked> asked_;
  std::unique_ptr<Controller> controller_;
  // Made with the machine, and so kept by a reset and by a pause, but not by a restore. Zero in a deterministic machine, whose copies are
  // meant to be the same.
  std::array<uint8_t, boot::kGenerationIdSize> generation_id_{};
  Controller::Done on_paused_;  // while the parts finish what is under way
  const os::HostClock host_clock_;
  std::unique_ptr<os::LoopTimers> host_timers_;
  std::unique_ptr<Timer> pause_limit_, end_limit_;
  Done done_;
  Work finish_{*this, &PcMachine::CallDone};
  Work settling_{*this, &PcMachine::Settle};
  uint64_t settle_until_100ns_ = 0;
  std::atomic<uint64_t> resets_{0};
  absl::optional<TracingExitHandler> tracing_;
  absl::optional<CrashWatch> crash_watch_;
};

PcMachine::~PcMachine() {
  if (board_ != nullptr) {
    board_->loop().Drain(finish_);
    board_->loop().Drain(settling_);
  }
  pause_limit_.reset();
  end_limit_.reset();
  if (controller_ != nullptr) controller_->End();
  controller_.reset();
  crash_watch_.reset();
  if (tracing_.has_value()) (void)StopTrace();
  for (; !attached_.empty(); attached_.pop_back()) attached_.back()->Detach();
}

absl::Status PcMachine::Build(os::EventLoop& loop, boot::LoadInput& blame) {
  blame = boot::LoadInput::kMemory;
  const bool has_balloon = options_.integration.balloon && options_.instruction_time == nullptr;
  if (options_.max_memory_bytes > options_.memory_bytes && !has_balloon) {
    return absl::InvalidArgumentError("the memory of a machine without a balloon does not grow");
  }
  blame = boot::LoadInput::kSmbios;
  RETURN_IF_ERROR(boot::ValidateSmbiosIdentity(options_.smbios));
  const uint64_t video_bytes =
      options_.video.has_value() ? vsp::VideoMemoryBytes(options_.video->width, options_.video->height) : 0;
  ASSIGN_OR_RETURN(board_, Board::Create({.backend = options_.backend,
                                          .memory_bytes = options_.memory_bytes,
                                          .max_memory_bytes = options_.max_memory_bytes,
                                          .video_bytes = video_bytes,
                                          .cpus = options_.cpus,
                                          .io_threads = options_.io_threads,
                                          .processor = options_.processor,
                                          .events = this,
                                          .instruction_time = options_.instruction_time},
                                         loop, blame));
  board_->vmbus().SetObserver(&events_.emplace(loop, board_->clock(), options_.on_event));
  const auto on_crash = [this](const partition::CrashReport& report) {
    events_->Put(EventOf(report));
    if (options_.crash_observer) options_.crash_observer(report);
  };
  crash_watch_.emplace(*board_, options_.crash_silence_ms, on_crash, [this] { End({.outcome = Outcome::kCrashed}); });
  Controller::Life& life = *this;
  controller_ = std::make_unique<Controller>(loop, life);
  ASSIGN_OR_RETURN(host_timers_, os::LoopTimers::Create(loop, host_clock_));
  pause_limit_ = host_timers_->CreateTimer([this] { OnPauseLate(); });
  end_limit_ = host_timers_->CreateTimer([this] { OnEndLate(); });
  RETURN_IF_ERROR(AttachParts());
  RETURN_IF_ERROR(board_->AddProcessors());
  if (options_.tracer != nullptr) RETURN_IF_ERROR(StartTrace(*options_.tracer));
  if (!board_->is_deterministic()) {
    blame = boot::LoadInput::kNone;
    RETURN_IF_ERROR(FillRandomly(absl::MakeSpan(generation_id_)));
  }
  if (options_.saved == nullptr) return LoadGuest(blame);
  blame = boot::LoadInput::kState;
  RETURN_IF_ERROR(options_.map_memory(board_->host_memory()));
  RETURN_IF_ERROR(options_.saved->PutInto(components()));
  if (board_->is_deterministic()) return absl::OkStatus();
  WriteGenerationId();
  chipset_->OnNewGenerationId();
  return absl::OkStatus();
}

void PcMachine::WriteGenerationId() {
  HVSDK_CHECK(board_->memory().Write(boot::kGenerationIdGpa, generation_id_.data(), generation_id_.size()));
}

absl::Status PcMachine::LoadGuest(boot::LoadInput& blame) {
  RETURN_IF_ERROR(WriteFirmware());
  KernelImage kernel(options_, blame);
  GuestLoader& loader = options_.loader != nullptr ? *options_.loader : kernel;
  blame = boot::LoadInput::kKernel;
  RETURN_IF_ERROR(loader.Load(*board_));
  blame = boot::LoadInput::kNone;
  return loader.SetInitialState(board_->engine_vp(VpIndex{0}));
}

absl::Status PcMachine::AttachParts() {
  chipset::PowerHandler& power = *this;
  auto chipset = std::make_unique<PcChipset>(power, options_.serial);
  chipset_ = chipset.get();
  own_parts_.push_back(std::move(chipset));
  if (options_.loopback_ports) own_parts_.push_back(std::make_unique<LoopbackPart>());
  auto integration = std::make_unique<IntegrationPart>(options_.integration, [this](vsp::GuestContact contact) {
    events_->Put({.name = "guest-contact", .details = {{"state", std::string(TextOf(contact))}}});
  });
  integration_ = integration.get();
  own_parts_.push_back(std::move(integration));
  if (options_.input.keyboard || options_.input.mouse) {
    auto input = std::make_unique<InputPart>(options_.input);
    input_ = input.get();
    own_parts_.push_back(std::move(input));
  }
  if (options_.sockets.has_value()) {
    auto sockets = std::make_unique<SocketPart>(*options_.sockets);
    sockets_ = sockets.get();
    own_parts_.push_back(std::move(sockets));
  }
  if (options_.video.has_value()) {
    auto video = std::make_unique<VideoPart>(*options_.video);
    video_ = video.get();
    own_parts_.push_back(std::move(video));
  }
  if (HasDiskController()) {
    std::unique_ptr<DiskController> disks = MakeDiskController(std::exchange(options_.disks, {}));
    disks_ = disks.get();
    own_parts_.push_back(std::move(disks));
  }
  if (!options_.networks.empty()) {
    auto networks = std::make_unique<NetworkAdapters>(std::exchange(options_.networks, {}));
    networks_ = networks.get();
    own_parts_.push_back(std::move(networks));
  }
  for (const auto& part : own_parts_) RETURN_IF_ERROR(AttachPart(*part));
  for (Part* const part : options_.parts) RETURN_IF_ERROR(AttachPart(*part));
  return absl::OkStatus();
}

absl::Status PcMachine::AttachPart(Part& part) {
  RETURN_IF_ERROR(part.Attach(*board_));
  attached_.push_back(&part);
  return absl::OkStatus();
}

std::unique_ptr<DiskController> PcMachine::MakeDiskController(std::vector<MachineDisk> disks) {
  const auto on_failure = [this](uint8_t lun, BlockStatus status) {
    events_->Put({.name = "disk-failed",
                  .details = {{"device", absl::StrCat("storage/", lun)}, {"error", std::string(TextOf(status))}}});
  };
  const auto on_ejected = [this](uint8_t lun) {
    events_->Put({.name = "medium-ejected", .details = {{"device", absl::StrCat("storage/", lun)}}});
  };
  return std::make_unique<DiskController>(std::move(disks), on_failure, on_ejected);
}

// Also one whose disks had all been pulled out when the machine was saved.
bool PcMachine::HasDiskController() const {
  if (!options_.disks.empty()) return true;
  if (options_.saved == nullptr) return false;
  const auto& saved = options_.saved->components;
  return std::any_of(saved.begin(), saved.end(),
                     [](const SavedComponent& component) { return component.name == DiskController::kStateName; });
}

template <typename OfPart, typename Make>
absl::StatusOr<OfPart*> PcMachine::PartFor(OfPart*& part, Make make) {
  if (part != nullptr) return part;
  std::unique_ptr<OfPart> made = make();
  RETURN_IF_ERROR(AttachPart(*made));
  part = made.get();
  own_parts_.push_back(std::move(made));
  if (controller_->state() == Controller::State::kPaused) part->Pause([] {});
  return part;
}

absl::StatusOr<uint8_t> PcMachine::AttachDisk(MachineDisk disk) {
  ASSIGN_OR_RETURN(DiskController* const disks, PartFor(disks_, [this] { return MakeDiskController({}); }));
  return disks->Plug(std::move(disk));
}

absl::Status PcMachine::DetachDisk(uint8_t lun, absl::AnyInvocable<void()> gone) {
  if (disks_ == nullptr) return absl::NotFoundError("the machine has no disks");
  return disks_->Pull(lun, std::move(gone));
}

absl::StatusOr<uint8_t> PcMachine::AttachNetwork(MachineNetwork network) {
  const auto make = [] { return std::make_unique<NetworkAdapters>(std::vector<MachineNetwork>{}); };
  ASSIGN_OR_RETURN(NetworkAdapters* const networks, PartFor(networks_, make));
  return networks->Plug(std::move(network));
}

absl::Status PcMachine::DetachNetwork(uint8_t number, absl::AnyInvocable<void()> gone) {
  if (networks_ == nullptr) return absl::NotFoundError("the machine has no network adapters");
  return networks_->Pull(number, std::move(gone));
}

absl::Status PcMachine::WriteFirmware() {
  boot::AcpiOptions acpi{.serial_port = options_.serial != nullptr,
                         .low_mmio = board_->layout().low_mmio(),
                         .high_mmio = board_->layout().high_mmio,
                         .pci_mmio = board_->layout().video,
                         .tables = board_->acpi_tables(),
                         .devices = board_->acpi_devices()};
  for (uint32_t i = 0; i < options_.cpus; ++i) acpi.apic_ids.push_back(i);
  const std::string tables = boot::BuildAcpiTables(acpi, boot::kAcpiTablesGpa);
  if (boot::kAcpiTablesGpa + tables.size() > boot::kSmbiosGpa) {
    return absl::ResourceExhaustedError(absl::StrFormat("%d bytes of ACPI tables do not fit the %d there are room for",
                                                        tables.size(), boot::kSmbiosGpa - boot::kAcpiTablesGpa));
  }
  boot::SmbiosOptions smbios{.identity = options_.smbios, .memory = board_->layout().memory, .cpus = options_.cpus};
  smbios.cpuid = board_->processor_cpuid();
  const std::string smbios_tables = boot::BuildSmbiosTables(smbios, boot::kSmbiosGpa);
  HVSDK_CHECK(board_->memory().Write(boot::kAcpiTablesGpa, tables.data(), tables.size()) &&
              board_->memory().Write(boot::kSmbiosGpa, smbios_tables.data(), smbios_tables.size()) &&
              board_->memory().Write(kResetVectorGpa, kResetCode, sizeof(kResetCode)));
  WriteGenerationId();
  return absl::OkStatus();
}

// Above all other layers, so that the trace has what they answer, too.
absl::Status PcMachine::StartTrace(Tracer& tracer) {
  if (tracing_.has_value()) return absl::FailedPreconditionError("the machine is traced already");
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
  return absl::OkStatus();
}

absl::Status PcMachine::StopTrace() {
  if (!tracing_.has_value()) return absl::FailedPreconditionError("the machine is not traced");
  board_->vmbus().SetMessageObserver(nullptr);
  board_->RemoveLayer(*tracing_);
  tracing_.reset();
  return absl::OkStatus();
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

std::vector<state::Component*> PcMachine::components() {
  std::vector<state::Component*> all = board_->components();
  for (Part* const part : attached_) {
    const std::vector<state::Component*> of_part = part->components();
    all.insert(all.end(), of_part.begin(), of_part.end());
  }
  all.push_back(&board_->vmbus());
  return all;
}

// On a VP's thread, whose VP must not go on.
void PcMachine::OnGuestReset() {
  if (options_.on_reset == ResetAction::kEnd || options_.kernel == nullptr || crash_watch_->report().has_value()) {
    return End({.outcome = Outcome::kReset});
  }
  board_->RequestPause();
  // A guest whose reset comes to nothing goes on behind it, and would have to find out by itself.
  controller_->Reset([this](const absl::Status& status) {
    if (!status.ok() && !is_ending())
      events_->Put({.name = "reset-failed", .details = {{"reason", std::string(status.message())}}});
  });
}

void PcMachine::PauseAll(Controller::Done done) {
  board_->Pause();
  on_paused_ = std::move(done);
  pause_limit_->Arm(host_clock_.Now100ns() + uint64_t(options_.grace.count()) * 10'000);
  AskParts(&Part::Pause, [this] {
    pause_limit_->Cancel();
    settle_until_100ns_ = host_clock_.Now100ns() + kMostSettling100ns;
    Settle();
  });
}

// What the guest's last messages have left to the loop and to I/O threads comes first; a guest may also owe something itself.
void PcMachine::Settle() {
  if (!on_paused_) return;
  if (!board_->vmbus().IsSettled() && host_clock_.Now100ns() < settle_until_100ns_) {
    return board_->loop().Schedule(settling_);
  }
  std::exchange(on_paused_, nullptr)(absl::OkStatus());
}

void PcMachine::OnPauseLate() {
  if (!on_paused_) return;
  const absl::Status status = SilenceError();
  asked_.reset();
  ResumeAll();
  std::exchange(on_paused_, nullptr)(status);
}

// Of one that is to end nothing goes on: what its guest has left in rings is done by the one that goes on from its state, and not by both.
void PcMachine::ResumeAll() {
  if (is_ending()) return;
  for (Part* const part : attached_) part->Resume();
  board_->Resume();
}

absl::Status PcMachine::ResetAll() {
  if (options_.kernel == nullptr) {
    return absl::FailedPreconditionError(
        "reset: the machine went on from a state, and has no kernel to begin anew with");
  }
  boot::LoadInput blame{};
  absl::Status status = board_->Reset();
  if (status.ok()) {
    for (Part* const part : attached_) {
      for (state::Component* const component : part->components()) component->Reset();
    }
    status = LoadGuest(blame);
    const absl::string_view what = blame == boot::LoadInput::kKernel   ? "kernel: "
                                   : blame == boot::LoadInput::kInitrd ? "initrd: "
                                                                       : "";
    if (!status.ok()) status = absl::Status(status.code(), absl::StrCat("reset: ", what, status.message()));
    crash_watch_->Reset();
  }
  if (!status.ok()) {
    End({.outcome = Outcome::kHostFailure, .status = status});
  } else {
    const uint64_t count = resets_.fetch_add(1, std::memory_order_relaxed) + 1;
    events_->Put({.name = "reset", .details = {{"count", absl::StrCat(count)}}});
  }
  return status;
}

void PcMachine::AskParts(void (Part::*what)(absl::AnyInvocable<void()>), absl::AnyInvocable<void()> all_done) {
  asked_ = std::make_shared<PartsAsked>(PartsAsked{attached_, std::move(all_done)});
  const std::weak_ptr<PartsAsked> asked = asked_;
  for (Part* const part : std::vector<Part*>(attached_)) {
    (part->*what)([asked, part] {
      const std::shared_ptr<PartsAsked> waiting = asked.lock();
      if (waiting == nullptr) return;
      std::erase(waiting->busy, part);
      if (waiting->busy.empty() && waiting->all_done) std::exchange(waiting->all_done, nullptr)();
    });
  }
}

absl::Status PcMachine::SilenceError() const {
  const std::string silent =
      absl::StrJoin(asked_->busy, ", ", [](std::string* text, const Part* part) { text->append(part->WaitsFor()); });
  return absl::DeadlineExceededError(absl::StrFormat("%s did not answer for %d ms", silent, options_.grace.count()));
}

MachineResult PcMachine::Run() {
  absl::optional<MachineResult> result;
  const auto done = [&](const MachineResult& end) {
    result = end;
    board_->loop().Stop();
  };
  if (board_->is_deterministic()) {
    done_ = done;
    StartParts();
    board_->Run(*this);
    OnVpsEnded();
  } else {
    HVSDK_CHECK(Start(done).ok());
  }
  while (!result.has_value()) board_->loop().Run();
  return *std::move(result);
}

void PcMachine::StartParts() {
  events_->Put({.name = "started", .details = {{"from", options_.saved == nullptr ? "power-on" : "saved state"}}});
  for (Part* const part : attached_) part->Start();
}

absl::Status PcMachine::Start(Done done) {
  if (board_->is_deterministic()) {
    return absl::FailedPreconditionError("a deterministic machine has its loop for itself");
  }
  done_ = std::move(done);
  StartParts();
  return board_->Start(*this, [this] { OnVpsEnded(); });
}

void PcMachine::OnVpsEnded() {
  pause_limit_->Cancel();
  controller_->End();
  on_paused_ = nullptr;
  crash_watch_->TellNow();
  if (board_->is_deterministic()) {
    std::lock_guard lock(mutex_);
    result_->instructions = board_->runner().instructions();
    result_->state_hash = board_->runner().HashState(board_->memory());
  }
  end_limit_->Arm(host_clock_.Now100ns() + uint64_t(options_.grace.count()) * 10'000);
  AskParts(&Part::Stop, [this] {
    end_limit_->Cancel();
    board_->loop().Schedule(finish_);
  });
}

void PcMachine::OnEndLate() {
  if (!std::exchange(asked_->all_done, nullptr)) return;
  {
    std::lock_guard lock(mutex_);
    result_->outcome = Outcome::kHostFailure;
    result_->gave_up = true;
    result_->status = SilenceError();
  }
  board_->loop().Schedule(finish_);
}

void PcMachine::CallDone() {
  board_->StopIoThreads();
  const MachineResult result = [this] {
    std::lock_guard lock(mutex_);
    return *result_;
  }();
  events_->Put({.name = "ended", .details = {{"outcome", std::string(TextOf(result.outcome))}}});
  events_->TellAll();
  Done done = std::move(done_);
  done(result);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Machine>> Machine::Create(const MachineOptions& options, os::EventLoop& loop,
                                                         boot::LoadInput& blame) {
  try {
    auto machine = std::make_unique<PcMachine>(options);
    RETURN_IF_ERROR(machine->Build(loop, blame));
    return machine;
  } catch (const std::bad_alloc&) {
    blame = boot::LoadInput::kNone;
    return absl::ResourceExhaustedError("the host refuses memory for the machine (limits: address space, data)");
  }
}

}  // namespace hvsdk::machine
