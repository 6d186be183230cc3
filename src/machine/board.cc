// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/machine/board.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "hvsdk/backend/port_hypercall.h"
#include "hvsdk/hvdef/hypercall.h"
#include "hvsdk/hvdef/privilege.h"
#include "hvsdk/interrupt/pic8259.h"
#include "hvsdk/machine/cpuid.h"
#include "machine/engine_components.h"
#include "machine/io_threads.h"

namespace hvsdk::machine {
namespace {

// Memory grows in pieces, each of them a range of the engine's and of GuestMemory's, which both have few of.
constexpr uint64_t kGrowthPiece = uint64_t{128} << 20;
constexpr uint64_t kMostGrowthPieces = 32;

uint64_t RoundUp(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

}  // namespace

// How far the memory has grown: restored before all that may be in it.
class GrownMemory final : public state::Component {
 public:
  explicit GrownMemory(Board& board) : board_(board) {}

  std::string StateName() const override { return "memory"; }
  absl::Status Save(state::StateWriter& writer) const override {
    State state{.grown_bytes = board_.grown_bytes_};
    writer.Write(state);
    return absl::OkStatus();
  }
  absl::Status Restore(state::StateReader& reader) override {
    State state;
    RETURN_IF_ERROR(reader.Read(state));
    if (state.grown_bytes > board_.layout_.growth.size_bytes || state.grown_bytes % kPageSize != 0) {
      return reader.Invalid("grown_bytes", "more than there is room for, or not whole pages");
    }
    if (state.grown_bytes < board_.grown_bytes_) RETURN_IF_ERROR(board_.ShrinkMemory());
    return board_.GrowMemory(state.grown_bytes);
  }
  // Board::Reset asks by itself, and hears of errors.
  void Reset() override { (void)board_.ShrinkMemory(); }

 private:
  struct State {
    static constexpr uint32_t kSchema = 1;
    uint64_t grown_bytes = 0;

    template <typename Visitor>
    void Fields(Visitor& visit) {
      visit(1, "grown_bytes", grown_bytes);
    }
  };
  Board& board_;
};

absl::StatusOr<std::unique_ptr<Board>> Board::Create(const BoardOptions& options, os::EventLoop& loop,
                                                     boot::LoadInput& blame) {
  std::unique_ptr<Board> board(new Board(options, loop));
  RETURN_IF_ERROR(board->Build(blame));
  return board;
}

Board::Board(const BoardOptions& options, os::EventLoop& loop) : options_(options), loop_(loop) {}
Board::~Board() = default;

void Board::StopIoThreads() { io_threads_->Stop(); }

// What no processor of this engine could have is refused before anything is allocated for it.
absl::Status Board::Build(boot::LoadInput& blame) {
  blame = boot::LoadInput::kCpus;
  if (options_.cpus < 1 || options_.cpus > caps().max_vps) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s runs 1 to %d processors", options_.backend->name(), caps().max_vps));
  }
  blame = boot::LoadInput::kMemory;
  ASSIGN_OR_RETURN(layout_,
                   boot::MemoryLayout::ForSize(options_.memory_bytes, options_.video_bytes, options_.max_memory_bytes));
  blame = boot::LoadInput::kNone;
  ASSIGN_OR_RETURN(engine_, options_.backend->CreatePartition(memory_));
  ASSIGN_OR_RETURN(processor_cpuid_, engine_->SupportedCpuid());
  if (options_.processor == Processor::kPortable) {
    blame = boot::LoadInput::kProcessor;
    ASSIGN_OR_RETURN(processor_cpuid_, PortableCpuid(processor_cpuid_));
  }
  blame = boot::LoadInput::kMemory;
  if (const uint32_t bits = PhysicalAddressBits(processor_cpuid_); bits < 64 && layout_.end() > uint64_t{1} << bits) {
    return absl::InvalidArgumentError(absl::StrFormat("%d MiB are more than the processor's %d address bits reach",
                                                      std::max(options_.memory_bytes, options_.max_memory_bytes) >> 20,
                                                      bits));
  }
  RETURN_IF_ERROR(BuildMemory());
  blame = boot::LoadInput::kNone;
  ASSIGN_OR_RETURN(io_threads_, IoThreads::Create(options_.io_threads));
  io_executors_ = io_threads_->executors();
  return BuildPartition();
}

absl::Status Board::BuildMemory() {
  ASSIGN_OR_RETURN(os::HostMemory reserved,
                   os::HostMemory::Reserve(options_.memory_bytes + options_.video_bytes + layout_.growth.size_bytes));
  host_memory_ = std::make_shared<os::HostMemory>(std::move(reserved));
  memory_.SetOwner(host_memory_);
  memory_.SetDiscarder([host = host_memory_.get()](uint8_t* from, uint64_t size_bytes) {
    return host->Discard(static_cast<uint64_t>(from - host->bytes().data()), size_bytes);
  });
  absl::Span<uint8_t> rest = host_memory_->bytes();
  for (const boot::GpaRange& range : layout_.memory) {
    const absl::Span<uint8_t> host = rest.subspan(0, range.size_bytes);
    RETURN_IF_ERROR(engine_->AddMemory(range.gpa, host));
    rest.remove_prefix(range.size_bytes);
  }
  if (layout_.video.size_bytes == 0) return absl::OkStatus();
  return engine_->AddMemory(layout_.video.gpa, rest.subspan(0, layout_.video.size_bytes));
}

absl::Status Board::GrowMemory(uint64_t size_bytes) {
  const boot::GpaRange& growth = layout_.growth;
  if (size_bytes > growth.size_bytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("memory has room to grow by %d MiB, and not by %d", growth.size_bytes >> 20, size_bytes >> 20));
  }
  const uint64_t piece = std::max(kGrowthPiece, RoundUp(growth.size_bytes / kMostGrowthPieces, kGrowthPiece));
  const absl::Span<uint8_t> host = host_memory_->bytes().last(growth.size_bytes);
  while (grown_bytes_ < size_bytes) {
    const uint64_t next = std::min(piece - grown_bytes_ % piece, growth.size_bytes - grown_bytes_);
    RETURN_IF_ERROR(engine_->AddMemory(growth.gpa + grown_bytes_, host.subspan(grown_bytes_, next)));
    grown_bytes_ += next;
  }
  return absl::OkStatus();
}

absl::Status Board::ShrinkMemory() {
  while (grown_bytes_ != 0) {
    const GuestMemory::Range last = memory_.ranges().back();
    RETURN_IF_ERROR(engine_->RemoveLastMemory());
    grown_bytes_ = last.gpa - layout_.growth.gpa;
  }
  return absl::OkStatus();
}

absl::Status Board::BuildPartition() {
  ASSIGN_OR_RETURN(clock_, partition::ReferenceClock::Create(*engine_, caps().tsc_frequency_hz));
  if (options_.instruction_time != nullptr) {
    runner_ = CreateInTurnRunner(loop_, *options_.instruction_time);
  } else {
    ASSIGN_OR_RETURN(runner_, CreateThreadRunner(loop_, *clock_));
  }
  partition::Config wanted = options_.partition;
  offered_ = caps();
  if (options_.processor == Processor::kPortable) {
    // The portable processor has no invariant TSC that a guest could ask for: its time is that of the reference TSC page.
    wanted.privileges &= ~hvdef::privilege::kAccessTscInvariantControls;
    // It may be saved within the hypercall page, and goes on there.
    offered_.hypercall_code.assign(std::begin(backend::kPortHypercallCode), std::end(backend::kPortHypercallCode));
  }
  ASSIGN_OR_RETURN(partition_, partition::Partition::Create(wanted, {.backend = *engine_,
                                                                     .caps = offered_,
                                                                     .memory = memory_,
                                                                     .clock = *clock_,
                                                                     .timers = timers(),
                                                                     .events = *options_.events,
                                                                     .vp_runtime = runner_.get()}));
  hypervisor_ = std::make_unique<PartitionHypervisor>(*partition_, loop_);
  vmbus_ = std::make_unique<vmbus::Server>(
      memory_, *hypervisor_, vmbus::ServerOptions{.vp_count = options_.cpus},
      vmbus::ServerResources{.executor = &loop_, .timers = &timers(), .clock = clock_.get()});
  return vmbus_->Start();
}

absl::Status Board::AddProcessors() {
  CpuidTable cpuid = ComposeCpuid(processor_cpuid_, partition_->Cpuid(), options_.cpus);
  for (auto& edit : cpuid_edits_) edit(cpuid);
  vps_.resize(options_.cpus);
  exits_.Resize(options_.cpus);
  for (uint32_t i = 0; i < options_.cpus; ++i) {
    ASSIGN_OR_RETURN(vps_[i].engine, engine_->CreateVp(VpIndex{i}, i, cpuid));
    ASSIGN_OR_RETURN(vps_[i].partition, partition_->AddVp(*vps_[i].engine));
    runner_->AddProcessor({.backend = vps_[i].engine.get(), .partition = vps_[i].partition});
  }
  if (layout_.growth.size_bytes != 0) own_components_.push_back(std::make_unique<GrownMemory>(*this));
  own_components_.push_back(std::make_unique<EngineComponent>(*engine_));
  for (const VpState& vp : vps_) own_components_.push_back(std::make_unique<VpComponent>(*vp.engine));
  return absl::OkStatus();
}

std::vector<state::Component*> Board::components() {
  std::vector<state::Component*> all;
  if (state::Component* const time = runner_->component(); time != nullptr) all.push_back(time);
  for (const auto& component : own_components_) all.push_back(component.get());
  for (state::Component* const component : partition_->components()) all.push_back(component);
  return all;
}

absl::Status Board::Reset() {
  vmbus_->Reset();
  partition_->Reset();
  RETURN_IF_ERROR(host_memory_->Clear());
  for (const GuestMemory::Range& range : memory_.ranges()) memory_.MarkWritten(range.gpa, range.size_bytes);
  RETURN_IF_ERROR(ShrinkMemory());
  RETURN_IF_ERROR(engine_->ResetInterruptControllers());
  for (const VpState& vp : vps_) RETURN_IF_ERROR(vp.engine->Reset());
  return absl::OkStatus();
}

absl::Status Board::MapPorts(uint16_t first, uint32_t count, Device& device, uint64_t offset) {
  if (count > 0x10000u - first) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: ports %#x+%#x go beyond 0xffff", device.Name(), first, count));
  }
  for (uint32_t port = first; port < first + count; ++port) {
    if (interrupt::Pic8259Pair::OffsetOf(static_cast<uint16_t>(port)) < 0) continue;
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: ports %#x+%#x overlap the 8259s at %#x", device.Name(), first, count, port));
  }
  return ports_.Map(first, count, &device, offset);
}

absl::Status Board::MapMmio(uint64_t gpa, uint64_t size_bytes, Device& device, uint64_t offset) {
  const uint64_t last = gpa + (size_bytes - 1);
  const auto clash = [&](const boot::GpaRange& range, absl::string_view what) {
    // What is empty or wraps around, the bus refuses.
    if (last < gpa || gpa >= range.end() || range.gpa > last) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrFormat("%s at %#x+%#x overlaps %s at %#x+%#x", device.Name(), gpa,
                                                      size_bytes, what, range.gpa, range.size_bytes));
  };
  for (const boot::GpaRange& range : layout_.memory) RETURN_IF_ERROR(clash(range, "memory"));
  if (layout_.video.size_bytes != 0) RETURN_IF_ERROR(clash(layout_.video, "the frame buffer"));
  RETURN_IF_ERROR(clash({boot::kIoApicGpa, kPageSize}, "the I/O APIC"));
  RETURN_IF_ERROR(clash({boot::kLocalApicGpa, kPageSize}, "the local APICs"));
  return mmio_.Map(gpa, size_bytes, &device, offset);
}

void Board::Unmap(Device& device) {
  const uint64_t ports = ports_.Unmap(&device);
  const uint64_t mmio = mmio_.Unmap(&device);
  runner_->Quiesce();
  ports_.Reclaim(ports);
  mmio_.Reclaim(mmio);
}

std::function<void(bool)> Board::IrqLine(uint32_t irq) {
  return [engine = engine_.get(), irq](bool level) { engine->SetIrqLine(irq, level); };
}

absl::Status Board::InjectNmi(VpIndex vp) {
  // A message to one local APIC by its id, bits 31:8 of which are in the address's upper half (Intel SDM volume 3, 11.11; Linux
  // Documentation/virt/kvm/api.rst, KVM_SIGNAL_MSI).
  constexpr uint64_t kMsiBase = 0xFEE00000;
  constexpr uint32_t kMsiModeShift = 8;
  if (ToInt(vp) >= options_.cpus) {
    return absl::InvalidArgumentError(
        absl::StrFormat("there is no processor %u; the last one is %u", ToInt(vp), options_.cpus - 1));
  }
  const uint64_t apic_id = ToInt(vp);
  engine_->SignalMsi(kMsiBase | (apic_id & 0xFF) << 12 | (apic_id & ~uint64_t{0xFF}) << 32,
                     static_cast<uint32_t>(hvdef::InterruptType::kNmi) << kMsiModeShift);
  return absl::OkStatus();
}

void Board::AddLayer(ExitLayer& layer) {
  router_.Push(layer);
  runner_->Quiesce();
}

void Board::RemoveLayer(ExitLayer& layer) {
  router_.Remove(layer);
  runner_->Quiesce();
}

}  // namespace hvsdk::machine
