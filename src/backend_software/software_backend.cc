// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/backend_software/software_backend.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_format.h"
#include "backend_software/code/code_cache.h"
#include "backend_software/instruction_time.h"
#include "backend_software/machine.h"
#include "backend_software/partition_state.h"
#include "backend_software/processor/cpuid.h"
#include "backend_software/software_vp.h"
#include "base/status_macros.h"

namespace hvsdk::software {
namespace {

class SoftwarePartition final : public backend::Partition {
 public:
  SoftwarePartition(GuestMemory& memory, std::shared_ptr<Machine> machine)
      : memory_(memory), machine_(std::move(machine)) {}

  absl::Status AddMemory(uint64_t gpa, absl::Span<uint8_t> host) override {
    RETURN_IF_ERROR(MapMemory(gpa, host, backend::MapAccess::kReadWriteExecute));
    absl::Status status = WatchLostMemory(host, *machine_) ? memory_.AddRange(gpa, host)
                                                           : absl::ResourceExhaustedError("too many ranges of memory");
    if (!status.ok()) {
      UnwatchLostMemory(*machine_, host.data());
      UnmapMemory(gpa, host.size()).IgnoreError();
    }
    return status;
  }
  absl::Status RemoveLastMemory() override {
    const GuestMemory::Range last = memory_.ranges().back();
    RETURN_IF_ERROR(UnmapMemory(last.gpa, last.size_bytes));
    UnwatchLostMemory(*machine_, last.host);
    memory_.RemoveLastRange();
    return absl::OkStatus();
  }
  absl::Status MapMemory(uint64_t gpa, absl::Span<uint8_t> host, backend::MapAccess access) override {
    RETURN_IF_ERROR(machine_->memory().Map(gpa, host, access == backend::MapAccess::kReadWriteExecute));
    // What was MMIO in some TLB is memory now.
    machine_->RequestAndWait(nullptr, machine_->all_vps(), kRequestFlush);
    return absl::OkStatus();
  }
  absl::Status UnmapMemory(uint64_t gpa, uint64_t size_bytes) override {
    RETURN_IF_ERROR(machine_->memory().Unmap(gpa, size_bytes));
    machine_->RequestAndWait(nullptr, machine_->all_vps(), kRequestFlush | kRequestDropAll);
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<backend::Vp>> CreateVp(VpIndex index, uint32_t apic_id,
                                                        absl::Span<const backend::CpuidEntry> cpuid) override {
    if (ToInt(index) >= kMaxVps) {
      return absl::InvalidArgumentError(absl::StrFormat("VP %d: there may be %d", ToInt(index), kMaxVps));
    }
    if (machine_->cpu(ToInt(index)) != nullptr) {
      return absl::AlreadyExistsError(absl::StrFormat("VP %d exists already", ToInt(index)));
    }
    auto cpu = std::make_unique<Cpu>(*machine_, machine_->memory(), machine_->counting(), ToInt(index), apic_id, cpuid);
    auto code = std::make_unique<CodeCache>(*cpu, machine_->code_cache_bytes());
    if (!code->has_memory()) {
      return absl::ResourceExhaustedError(
          absl::StrFormat("the host refuses VP %d a code cache of %d bytes (limits: "
                          "address space, data)",
                          ToInt(index), machine_->code_cache_bytes()));
    }
    return std::unique_ptr<backend::Vp>(std::make_unique<SoftwareVp>(machine_, std::move(cpu), std::move(code)));
  }

  absl::StatusOr<std::vector<backend::CpuidEntry>> SupportedCpuid() const override {
    return software::SupportedCpuid();
  }

  void SignalMsi(uint64_t address, uint32_t data) override { machine_->bus().DeliverMsi(address, data); }
  void RequestInterrupt(VpIndex vp, uint8_t vector, bool auto_eoi) override {
    if (machine_->cpu(ToInt(vp)) == nullptr) return;
    interrupt::InterruptMessage message;
    message.vector = vector;
    message.auto_eoi = auto_eoi;
    machine_->apic(ToInt(vp)).Accept(message);
  }
  void SetIrqLine(uint32_t irq, bool level) override { machine_->SetIrqLine(irq, level); }
  absl::Status ResetInterruptControllers() override {
    machine_->io_apic().Reset();
    machine_->pic().Reset();
    return absl::OkStatus();
  }
  uint64_t GuestTsc() const override { return machine_->Tsc(); }

  absl::Status SaveState(backend::PartitionState& state) override {
    SavePartition(*machine_, state);
    return absl::OkStatus();
  }
  absl::Status RestoreState(const backend::PartitionState& state) override {
    return RestorePartition(*machine_, state);
  }

  void FlushTlb(absl::Span<const VpIndex> vps) override {
    uint64_t mask = 0;
    for (const VpIndex vp : vps) {
      if (ToInt(vp) < kMaxVps) mask |= uint64_t{1} << ToInt(vp);
    }
    machine_->RequestAndWait(nullptr, mask, kRequestFlush);
  }

  absl::Status AssignSignalEvent(ConnectionId, int) override {
    return absl::UnimplementedError("this engine signals no file descriptor");
  }
  absl::Status UnassignSignalEvent(ConnectionId, int) override {
    return absl::UnimplementedError("this engine signals no file descriptor");
  }

  absl::Status EnableDirtyLog(bool enable) override {
    machine_->memory().SetDirtyLog(enable);
    // Fast write entries of before say nothing about what is written from now on.
    machine_->RequestAndWait(nullptr, machine_->all_vps(), kRequestPurge);
    return absl::OkStatus();
  }
  absl::Status TakeDirtyLog(uint64_t gpa, uint64_t size_bytes, absl::Span<uint64_t> bitmap) override {
    const Region* const region = machine_->memory().FindRegion(gpa, size_bytes);
    if (region == nullptr || region->gpa != gpa || region->size_bytes != size_bytes) {
      return absl::InvalidArgumentError(absl::StrFormat("nothing is mapped at exactly %#x+%#x", gpa, size_bytes));
    }
    const uint64_t pages = size_bytes >> kPageShift;
    if (bitmap.size() * 64 < pages) return absl::InvalidArgumentError("the bitmap is too short for the range");
    PageState* const first = region->pages;
    for (uint64_t i = 0; i < pages; ++i) {
      if (first[i].dirty.load(std::memory_order_relaxed) && first[i].dirty.exchange(0, std::memory_order_acq_rel)) {
        bitmap[i / 64] |= uint64_t{1} << (i % 64);
      }
    }
    // A write before the purge is in a page that was taken; one after it marks the page again.
    machine_->RequestAndWait(nullptr, machine_->all_vps(), kRequestPurge);
    return absl::OkStatus();
  }

 private:
  GuestMemory& memory_;
  std::shared_ptr<Machine> machine_;
};

class SoftwareBackend final : public backend::Backend {
 public:
  explicit SoftwareBackend(const backend::SoftwareOptions& options) : options_(options) {
    caps_.max_vps = kMaxVps;
    caps_.tsc_frequency_hz = kTscHz;
    caps_.apic_frequency_hz = kApicHz;
    caps_.hypercall_code = {0x0F, 0x01, 0xD9, 0xC3};  // vmmcall; ret
    caps_.auto_eoi = caps_.cheap_auto_eoi = true;
    caps_.invariant_tsc = true;
    caps_.apic_msrs = true;
    caps_.cheap_tlb_flush = true;
    caps_.dirty_log = true;
    caps_.hides_instructions = true;
  }
  absl::string_view name() const override { return "software"; }
  const backend::BackendCaps& caps() const override { return caps_; }
  absl::StatusOr<std::unique_ptr<backend::Partition>> CreatePartition(GuestMemory& memory) override {
    auto machine = std::make_shared<Machine>(memory, options_);
    RETURN_IF_ERROR(machine->StartTimers());
    return std::unique_ptr<backend::Partition>(std::make_unique<SoftwarePartition>(memory, std::move(machine)));
  }

 private:
  const backend::SoftwareOptions options_;
  backend::BackendCaps caps_;
};

}  // namespace
}  // namespace hvsdk::software

namespace hvsdk::backend {

absl::StatusOr<std::unique_ptr<Backend>> CreateSoftwareBackend(const SoftwareOptions& options) {
  if (!__builtin_cpu_supports("sse4.2") || !__builtin_cpu_supports("popcnt")) {
    return absl::UnavailableError("the software processor needs a host with SSE4.2");
  }
  if (options.code_cache_bytes < kMinCodeCacheBytes || options.code_cache_bytes > kMaxCodeCacheBytes) {
    return absl::InvalidArgumentError(absl::StrFormat("code_cache_bytes is %d: %d to %d", options.code_cache_bytes,
                                                      kMinCodeCacheBytes, kMaxCodeCacheBytes));
  }
  return std::unique_ptr<Backend>(std::make_unique<software::SoftwareBackend>(options));
}

}  // namespace hvsdk::backend
