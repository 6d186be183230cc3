// SPDX-License-Identifier: Apache-2.0
// An engine without a processor: registers are variables, interrupts a list, the TSC a clock that tests turn. For tests
// of whatever stands on the backend interface.

#ifndef HVSDK_TESTS_PARTITION_FAKE_BACKEND_H_
#define HVSDK_TESTS_PARTITION_FAKE_BACKEND_H_

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "hvsdk/backend/backend.h"
#include "hvsdk/base/fake_clock.h"
#include "hvsdk/hvdef/message.h"

namespace hvsdk::fake {

inline hvdef::RegisterValue SegmentValue(uint16_t selector, uint16_t attributes) {
  const hvdef::SegmentRegister segment{.base = 0, .limit = 0xFFFFFFFF, .selector = selector, .attributes = attributes};
  hvdef::RegisterValue value;
  std::memcpy(&value, &segment, sizeof(value));
  return value;
}

class FakeVp : public backend::Vp {
 public:
  absl::Status SetAutoEoiVector(Sint sint, uint8_t vector) override {
    if (vector != 0 && vector == refused_auto_eoi_vector) return absl::InternalError("refused");
    auto_eoi_vectors[ToInt(sint)] = vector;
    return absl::OkStatus();
  }
  uint8_t refused_auto_eoi_vector = 0;
  std::array<uint8_t, hvdef::kSintCount> auto_eoi_vectors{};
  FakeVp(VpIndex index, uint32_t apic_id) : Vp(index, apic_id) {
    if (ToInt(index) != 0) activity = backend::Activity::kWaitForSipi;
    SetMode(/*protection=*/true, /*long_mode=*/true, /*cpl=*/0);
    // What XMM registers and the like begin with.
    for (uint32_t i = 0; i < 16; ++i) {
      registers[static_cast<hvdef::RegisterName>(static_cast<uint32_t>(hvdef::RegisterName::kXmm0) + i)] = {};
    }
    for (const auto name :
         {hvdef::RegisterName::kRip, hvdef::RegisterName::kRsp, hvdef::RegisterName::kRflags, hvdef::RegisterName::kDs,
          hvdef::RegisterName::kEs, hvdef::RegisterName::kFs, hvdef::RegisterName::kGs, hvdef::RegisterName::kTr,
          hvdef::RegisterName::kLdtr, hvdef::RegisterName::kIdtr, hvdef::RegisterName::kGdtr, hvdef::RegisterName::kCr3,
          hvdef::RegisterName::kCr4, hvdef::RegisterName::kPat}) {
      registers[name] = {};
    }
  }

  // The processor mode of the hypercalls to come.
  void SetMode(bool protection, bool long_mode, uint8_t cpl) {
    constexpr uint16_t kPresentSegment = 0x90, kLong = 1 << 13;
    registers[hvdef::RegisterName::kCr0] = {protection ? 1u : 0u, 0};
    registers[hvdef::RegisterName::kEfer] = {long_mode ? 0x500u : 0u, 0};
    registers[hvdef::RegisterName::kCs] =
        SegmentValue(0x10 | cpl, kPresentSegment | 0xB | cpl << 5 | (long_mode ? kLong : 0));
    registers[hvdef::RegisterName::kSs] = SegmentValue(0x18 | cpl, kPresentSegment | 0x3 | cpl << 5);
  }

  absl::StatusOr<backend::StopReason> Run(backend::ExitHandler&) override {
    std::unique_lock lock(mutex_);
    kicked_.wait(lock, [&] { return kick_pending_; });
    kick_pending_ = false;
    return backend::StopReason::kKicked;
  }
  void Kick() override {
    std::lock_guard lock(mutex_);
    ++kicks;
    kick_pending_ = true;
    kicked_.notify_all();
  }

  uint64_t GetGpr(backend::Gpr gpr) const override { return gprs[static_cast<size_t>(gpr)]; }
  void SetGpr(backend::Gpr gpr, uint64_t value) override { gprs[static_cast<size_t>(gpr)] = value; }

  absl::Status GetRegisters(absl::Span<const hvdef::RegisterName> names,
                            absl::Span<hvdef::RegisterValue> values) override {
    for (size_t i = 0; i < names.size(); ++i) {
      if (hvdef::RegisterValue* value = Find(names[i])) {
        values[i] = *value;
      } else if (const int gpr = GprIndex(names[i]); gpr >= 0) {
        values[i] = {gprs[gpr], 0};
      } else {
        return absl::InvalidArgumentError("no such register");
      }
    }
    return absl::OkStatus();
  }
  // Refuses RFLAGS without its fixed bit, so that tests see a value that is impossible.
  absl::Status SetRegisters(absl::Span<const hvdef::RegisterName> names,
                            absl::Span<const hvdef::RegisterValue> values) override {
    for (size_t i = 0; i < names.size(); ++i) {
      if (Find(names[i]) == nullptr && GprIndex(names[i]) < 0) return absl::InvalidArgumentError("no such register");
      if (names[i] == hvdef::RegisterName::kRflags && (values[i].low & 2) == 0) {
        return absl::InvalidArgumentError("impossible value");
      }
    }
    for (size_t i = 0; i < names.size(); ++i) {
      if (const int gpr = GprIndex(names[i]); gpr >= 0) {
        gprs[gpr] = values[i].low;
      } else {
        *Find(names[i]) = values[i];
      }
    }
    return absl::OkStatus();
  }

  absl::Status Reset() override { return absl::UnimplementedError("no power-on state"); }
  void InjectException(const backend::Exception& exception) override { exceptions.push_back(exception.vector); }
  absl::Status SetActivity(backend::Activity to) override {
    activity = to;
    return absl::OkStatus();
  }
  absl::StatusOr<backend::Activity> GetActivity() override { return activity; }

  backend::Translation TranslateGva(uint64_t gva, backend::TranslateAccess access, bool user) override {
    const auto found = pages.find(gva >> kPageShift);
    if (found == pages.end()) return {};
    backend::Translation translation = found->second;
    translation.gpa |= gva & (kPageSize - 1);
    translation.privilege_violation = (user && !translation.user) ||
                                      (access == backend::TranslateAccess::kWrite && !translation.writable) ||
                                      (access == backend::TranslateAccess::kExecute && !translation.executable);
    return translation;
  }

  std::array<uint64_t, 16> gprs{};
  std::map<hvdef::RegisterName, hvdef::RegisterValue> registers;
  std::map<uint64_t, backend::Translation> pages;  // by page number
  std::vector<uint8_t> exceptions;
  backend::Activity activity = backend::Activity::kRunning;
  std::atomic<int> kicks{0};

 private:
  static int GprIndex(hvdef::RegisterName name) {
    const uint32_t index = static_cast<uint32_t>(name) - static_cast<uint32_t>(hvdef::RegisterName::kRax);
    return index < 16 ? static_cast<int>(index) : -1;
  }
  hvdef::RegisterValue* Find(hvdef::RegisterName name) {
    const auto found = registers.find(name);
    return found == registers.end() ? nullptr : &found->second;
  }

  std::mutex mutex_;
  std::condition_variable kicked_;
  bool kick_pending_ = false;
};

class FakePartition : public backend::Partition {
 public:
  struct Interrupt {
    uint32_t vp;
    uint8_t vector;
    bool auto_eoi;
    bool operator==(const Interrupt&) const = default;
  };

  // The TSC counts `tsc_per_100ns` in each unit of `clock`.
  FakePartition(const FakeClock& clock, uint64_t tsc_per_100ns) : clock_(clock), tsc_per_100ns_(tsc_per_100ns) {}

  absl::Status AddMemory(uint64_t, absl::Span<uint8_t>) override { return absl::OkStatus(); }
  absl::Status RemoveLastMemory() override { return absl::OkStatus(); }
  absl::Status MapMemory(uint64_t, absl::Span<uint8_t>, backend::MapAccess) override { return absl::OkStatus(); }
  absl::Status UnmapMemory(uint64_t, uint64_t) override { return absl::OkStatus(); }
  absl::StatusOr<std::unique_ptr<backend::Vp>> CreateVp(VpIndex index, uint32_t apic_id,
                                                        absl::Span<const backend::CpuidEntry>) override {
    return std::make_unique<FakeVp>(index, apic_id);
  }
  absl::StatusOr<std::vector<backend::CpuidEntry>> SupportedCpuid() const override {
    return std::vector<backend::CpuidEntry>{};
  }
  void SignalMsi(uint64_t address, uint32_t data) override {
    std::lock_guard lock(mutex_);
    msis_.emplace_back(address, data);
  }
  void RequestInterrupt(VpIndex vp, uint8_t vector, bool auto_eoi) override {
    interrupt_count_.fetch_add(1, std::memory_order_relaxed);
    if (!record_) return;
    std::lock_guard lock(mutex_);
    interrupts_.push_back({ToInt(vp), vector, auto_eoi});
  }
  void SetIrqLine(uint32_t, bool) override {}
  absl::Status ResetInterruptControllers() override { return absl::OkStatus(); }
  uint64_t GuestTsc() const override { return tsc_base_ + (clock_.Now100ns() - base_100ns_) * tsc_per_100ns_; }
  absl::Status SaveState(backend::PartitionState& state) override {
    state.tsc_frequency_hz = tsc_per_100ns_ * 10'000'000;
    state.guest_tsc = GuestTsc();
    return absl::OkStatus();
  }
  // The TSC goes on from the saved one; at the saved frequency, unless a test has it that it cannot be scaled.
  absl::Status RestoreState(const backend::PartitionState& state) override {
    tsc_base_ = state.guest_tsc;
    base_100ns_ = clock_.Now100ns();
    if (scales_tsc) tsc_per_100ns_ = state.tsc_frequency_hz / 10'000'000;
    return absl::OkStatus();
  }
  bool scales_tsc = true;
  void FlushTlb(absl::Span<const VpIndex> vps) override {
    std::lock_guard lock(mutex_);
    flushes_.emplace_back();
    for (VpIndex vp : vps) flushes_.back().push_back(ToInt(vp));
  }
  absl::Status AssignSignalEvent(ConnectionId, int) override { return absl::UnimplementedError("no kernel"); }
  absl::Status UnassignSignalEvent(ConnectionId, int) override { return absl::UnimplementedError("no kernel"); }
  absl::Status EnableDirtyLog(bool) override { return absl::UnimplementedError("no log"); }
  absl::Status TakeDirtyLog(uint64_t, uint64_t, absl::Span<uint64_t>) override {
    return absl::UnimplementedError("no log");
  }

  // What was asked of it since the last time.
  std::vector<Interrupt> TakeInterrupts() {
    std::lock_guard lock(mutex_);
    return std::exchange(interrupts_, {});
  }
  std::vector<std::pair<uint64_t, uint32_t>> TakeMsis() {
    std::lock_guard lock(mutex_);
    return std::exchange(msis_, {});
  }
  std::vector<std::vector<uint32_t>> TakeFlushes() {
    std::lock_guard lock(mutex_);
    return std::exchange(flushes_, {});
  }
  // Only counts interrupts, for benchmarks.
  void StopRecording() { record_ = false; }
  uint64_t interrupt_count() const { return interrupt_count_.load(std::memory_order_relaxed); }

 private:
  const FakeClock& clock_;
  uint64_t tsc_per_100ns_;
  uint64_t tsc_base_ = 0, base_100ns_ = 0;
  std::mutex mutex_;
  std::vector<Interrupt> interrupts_;
  std::vector<std::pair<uint64_t, uint32_t>> msis_;
  std::vector<std::vector<uint32_t>> flushes_;
  std::atomic<uint64_t> interrupt_count_{0};
  bool record_ = true;
};

}  // namespace hvsdk::fake

#endif  // HVSDK_TESTS_PARTITION_FAKE_BACKEND_H_
