// SPDX-License-Identifier: Apache-2.0
// A partition on the fake engine, with memory, time and everything else it needs, for tests, fuzzing and benchmarks.

#ifndef HVSDK_TESTS_PARTITION_FAKE_MACHINE_H_
#define HVSDK_TESTS_PARTITION_FAKE_MACHINE_H_

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "hvsdk/hvdef/hypercall.h"
#include "hvsdk/hvdef/message.h"
#include "hvsdk/hvdef/msr.h"
#include "hvsdk/partition/partition.h"
#include "tests/partition/fake_backend.h"

namespace hvsdk::fake {

class FakeMachine : public partition::PartitionEvents, public partition::VpRuntimeSource {
 public:
  static constexpr uint64_t kMemoryBytes = 64 * kPageSize;
  static constexpr uint64_t kHypercallPage = 1 * kPageSize;
  static constexpr uint64_t kInput = 2 * kPageSize;   // where Call puts input
  static constexpr uint64_t kOutput = 3 * kPageSize;  // and expects output
  static constexpr uint64_t kTscPer100ns = 250;       // 2.5 GHz

  struct Options {
    uint32_t vps = 2;
    uint64_t privileges = ~uint64_t{0};
    backend::BackendCaps caps = DefaultCaps();
    bool vp_runtime = true;
    bool enable_hypercalls = true;
  };

  static backend::BackendCaps DefaultCaps() {
    return {.max_vps = 64,
            .tsc_frequency_hz = kTscPer100ns * 10'000'000,
            .apic_frequency_hz = 1'000'000'000,
            .hypercall_code = {0x0F, 0x01, 0xC1, 0xC3},
            .auto_eoi = true,
            .cheap_auto_eoi = true};
  }

  FakeMachine() : FakeMachine(Options{}) {}
  explicit FakeMachine(Options options)
      : options(options),
        host(kMemoryBytes),
        backend(clock, options.caps.tsc_frequency_hz / 10'000'000),
        timers(clock) {
    if (!memory.AddRange(0, absl::MakeSpan(host)).ok()) std::abort();
    reference_clock = *partition::ReferenceClock::Create(backend, this->options.caps.tsc_frequency_hz);
    const partition::Environment environment{.backend = backend,
                                             .caps = this->options.caps,
                                             .memory = memory,
                                             .clock = *reference_clock,
                                             .timers = timers,
                                             .events = *this,
                                             .vp_runtime = options.vp_runtime ? this : nullptr};
    partition = *partition::Partition::Create({.privileges = options.privileges}, environment);
    for (uint32_t i = 0; i < options.vps; ++i) {
      fake_vps.push_back(std::make_unique<FakeVp>(VpIndex{i}, 2 * i));
      vps.push_back(*partition->AddVp(*fake_vps.back()));
    }
    if (options.enable_hypercalls) {
      Write(hvdef::msr::kGuestOsId, 0x8100'0006'0001'0000);
      Write(hvdef::msr::kHypercall, kHypercallPage | hvdef::msr::kPageEnable);
    }
  }

  // MSRs of one VP. A value is returned where the access is allowed.
  backend::MsrOutcome Write(uint32_t msr, uint64_t value, uint32_t vp = 0) { return vps[vp]->OnMsrWrite(msr, value); }
  uint64_t Read(uint32_t msr, uint32_t vp = 0) {
    uint64_t value = 0xDEADDEADDEADDEAD;
    outcome = vps[vp]->OnMsrRead(msr, value);
    return value;
  }
  bool Allows(uint32_t msr, uint64_t value, uint32_t vp = 0) {
    return Write(msr, value, vp) == backend::MsrOutcome::kDone;
  }

  // A 64-bit caller's hypercall with its blocks in memory; continued until it is done. The result value.
  template <typename... Parts>
  uint64_t Call(hvdef::Control control, const Parts&... parts) {
    std::vector<uint8_t> input;
    (Append(input, parts), ...);
    std::copy(input.begin(), input.end(), host.begin() + kInput);
    return CallAt(control, kInput, kOutput);
  }
  uint64_t CallAt(hvdef::Control control, uint64_t rdx, uint64_t r8, uint32_t vp = 0) {
    FakeVp& fake = *fake_vps[vp];
    fake.SetGpr(backend::Gpr::kRcx, control.value);
    fake.SetGpr(backend::Gpr::kRdx, rdx);
    fake.SetGpr(backend::Gpr::kR8, r8);
    fake.SetGpr(backend::Gpr::kRax, ~uint64_t{0});
    retries = 0;
    while ((hypercall_outcome = vps[vp]->OnHypercall(&record)) == backend::HypercallOutcome::kRetry) ++retries;
    return fake.GetGpr(backend::Gpr::kRax);
  }
  template <typename... Parts>
  hvdef::HvStatus StatusOf(hvdef::CallCode code, const Parts&... parts) {
    return hvdef::ResultStatus(Call(hvdef::Control::Make(static_cast<uint16_t>(code)), parts...));
  }
  template <typename T>
  T Output(uint64_t offset = 0) const {
    T value;
    std::memcpy(&value, &host[kOutput + offset], sizeof(value));
    return value;
  }

  // The SIM and SIEF pages of VP n, once EnableSynic has run.
  static uint64_t MessagePage(uint32_t vp) { return (8 + 2 * vp) * kPageSize; }
  static uint64_t FlagsPage(uint32_t vp) { return (9 + 2 * vp) * kPageSize; }
  // With SINT n at vector 0x40 + n, unmasked.
  void EnableSynic(uint32_t vp = 0) {
    Write(hvdef::msr::kSimp, MessagePage(vp) | 1, vp);
    Write(hvdef::msr::kSiefp, FlagsPage(vp) | 1, vp);
    for (uint32_t sint = 0; sint < 16; ++sint) Write(hvdef::msr::kSint0 + sint, 0x40 + sint, vp);
    Write(hvdef::msr::kScontrol, 1, vp);
  }
  // What the guest finds in a slot, and its emptying of it.
  hvdef::Message Slot(uint32_t sint, uint32_t vp = 0) const {
    hvdef::Message message;
    std::memcpy(&message, &host[MessagePage(vp) + sint * sizeof(message)], sizeof(message));
    return message;
  }
  void EmptySlot(uint32_t sint, uint32_t vp = 0) {
    std::memset(&host[MessagePage(vp) + sint * sizeof(hvdef::Message)], 0, sizeof(uint32_t));
  }

  // What a machine restores before its partition: the engine, memory as the guest saw it, and the hands of the clock.
  void TakeWorldOf(FakeMachine& other) {
    backend::PartitionState state;
    clock.Set(other.clock.Now100ns());
    if (!other.backend.SaveState(state).ok() || !backend.RestoreState(state).ok()) std::abort();
    std::copy(other.host.begin(), other.host.end(), host.begin());
  }

  void OnResetRequested(VpIndex vp) override { resets.push_back(ToInt(vp)); }
  void OnCrash(const partition::CrashReport& report) override { crashes.push_back(report); }
  uint64_t VpRuntime100ns(VpIndex vp) override { return runtime_100ns + ToInt(vp); }

  Options options;
  std::vector<uint8_t> host;
  GuestMemory memory;
  FakeClock clock;
  FakePartition backend;
  FakeTimerQueue timers;
  std::unique_ptr<partition::ReferenceClock> reference_clock;
  std::vector<std::unique_ptr<FakeVp>> fake_vps;
  std::unique_ptr<partition::Partition> partition;
  std::vector<partition::Vp*> vps;

  backend::MsrOutcome outcome{};
  backend::HypercallOutcome hypercall_outcome{};
  hypercall::CallRecord record;
  int retries = 0;
  uint64_t runtime_100ns = 1000;
  std::vector<uint32_t> resets;
  std::vector<partition::CrashReport> crashes;

 private:
  template <typename T>
  static void Append(std::vector<uint8_t>& to, const T& part) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(&part);
    to.insert(to.end(), bytes, bytes + sizeof(part));
  }
  template <typename T>
  static void Append(std::vector<uint8_t>& to, const std::vector<T>& parts) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(parts.data());
    to.insert(to.end(), bytes, bytes + parts.size() * sizeof(T));
  }
};

}  // namespace hvsdk::fake

#endif  // HVSDK_TESTS_PARTITION_FAKE_MACHINE_H_
