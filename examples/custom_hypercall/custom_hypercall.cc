// SPDX-License-Identifier: Apache-2.0
// A hypercall of one's own. The first part adds it to a partition; the rest is a guest of a few instructions that
// makes it.
//
//   custom_hypercall [auto|kvm|software]
#include <array>
#include <cstdio>
#include <cstring>
#include <vector>

#include "hvsdk/base/fake_clock.h"
#include "hvsdk/hvdef/cpuid.h"
#include "hvsdk/hvdef/register.h"
#include "hvsdk/hypercall/dispatcher.h"
#include "hvsdk/partition/partition.h"
#include "hvsdk/vmm/backends.h"

using namespace hvsdk;

struct Numbers {
  uint64_t a, b;
};

class Calculator {
 public:
  hvdef::HvStatus Multiply(hypercall::Caller&, const Numbers& in, uint64_t& out) {
    if (in.b != 0 && in.a > ~uint64_t{0} / in.b) return hvdef::HvStatus::kInvalidParameter;
    out = in.a * in.b;
    return hvdef::HvStatus::kSuccess;
  }
};

constexpr std::array kCalls{hypercall::Describe<&Calculator::Multiply>(0x7001, "ExampleCallMultiply")};

// To use it: partition->hypercalls().Add<Calculator>(kCalls, calculator);

// 32-bit code at 0x1000: names its operating system, enables the hypercall page at 0x2000, calls 0x7001 with input at
// 0x3000 and output at 0x4000, and writes the low byte of the status to port 0x80.
constexpr uint8_t kGuest[] = {
    0xB9, 0x00, 0x00, 0x00, 0x40, 0xB8, 0x01, 0x00, 0x00, 0x00, 0x31, 0xD2,  // ECX, EDX:EAX = 1
    0x0F, 0x30,                                                              // wrmsr GUEST_OS_ID
    0xB9, 0x01, 0x00, 0x00, 0x40, 0xB8, 0x01, 0x20, 0x00, 0x00, 0x0F, 0x30,  // wrmsr HYPERCALL, 0x2001
    0xB8, 0x01, 0x70, 0x00, 0x00, 0x31, 0xDB, 0xB9, 0x00, 0x30, 0x00, 0x00,  // EDX:EAX, EBX:ECX
    0x31, 0xFF, 0xBE, 0x00, 0x40, 0x00, 0x00,                                // EDI:ESI
    0xBD, 0x00, 0x20, 0x00, 0x00, 0xFF, 0xD5,                                // call 0x2000
    0xE6, 0x80, 0xF4,                                                        // out 0x80, al; hlt
};

class Guest : public backend::ExitHandler, public partition::PartitionEvents {
 public:
  void OnPortRead(backend::Vp&, uint16_t, absl::Span<uint8_t> data) override {
    std::memset(data.data(), 0xFF, data.size());
  }
  void OnPortWrite(backend::Vp& engine_vp, uint16_t, absl::Span<const uint8_t> data) override {
    status = data[0];
    engine_vp.Kick();
  }
  void OnMmioRead(backend::Vp&, uint64_t, absl::Span<uint8_t> data) override {
    std::memset(data.data(), 0xFF, data.size());
  }
  void OnMmioWrite(backend::Vp&, uint64_t, absl::Span<const uint8_t>) override {}
  backend::MsrOutcome OnMsrRead(backend::Vp&, uint32_t msr, uint64_t& value) override {
    return vp->OnMsrRead(msr, value);
  }
  backend::MsrOutcome OnMsrWrite(backend::Vp&, uint32_t msr, uint64_t value) override {
    return vp->OnMsrWrite(msr, value);
  }
  backend::HypercallOutcome OnHypercall(backend::Vp&) override { return vp->OnHypercall(); }
  void OnResetRequested(VpIndex) override {}
  void OnCrash(const partition::CrashReport&) override {}

  partition::Vp* vp = nullptr;
  int status = -1;
};

hvdef::RegisterValue FlatSegment(uint16_t selector, uint16_t type) {
  const hvdef::SegmentRegister segment{
      .base = 0, .limit = 0xFFFFFFFF, .selector = selector, .attributes = static_cast<uint16_t>(0xC090 | type)};
  hvdef::RegisterValue value;
  std::memcpy(&value, &segment, sizeof(value));
  return value;
}

absl::Status Run(backend::Backend& engine, Numbers numbers) {
  static uint8_t host[0x10000] __attribute__((aligned(4096)));
  std::memcpy(&host[0x1000], kGuest, sizeof(kGuest));
  std::memcpy(&host[0x3000], &numbers, sizeof(numbers));
  GuestMemory memory;
  auto engine_partition = engine.CreatePartition(memory);
  if (!engine_partition.ok()) return engine_partition.status();
  if (absl::Status status = (*engine_partition)->AddMemory(0, absl::MakeSpan(host)); !status.ok()) return status;

  Guest guest;
  Calculator calculator;
  auto clock = partition::ReferenceClock::Create(**engine_partition, engine.caps().tsc_frequency_hz);
  if (!clock.ok()) return clock.status();
  FakeClock no_time;  // this guest sets no timer
  FakeTimerQueue timers(no_time);
  auto cpuid = (*engine_partition)->SupportedCpuid();
  if (!cpuid.ok()) return cpuid.status();
  auto partition = partition::Partition::Create({}, {.backend = **engine_partition,
                                                     .caps = engine.caps(),
                                                     .memory = memory,
                                                     .clock = **clock,
                                                     .timers = timers,
                                                     .events = guest});
  if (!partition.ok()) return partition.status();
  if (absl::Status status = (*partition)->hypercalls().Add<Calculator>(kCalls, calculator); !status.ok()) return status;
  for (const auto& leaf : (*partition)->Cpuid()) cpuid->push_back(leaf);
  auto engine_vp = (*engine_partition)->CreateVp(VpIndex{0}, /*apic_id=*/0, *cpuid);
  if (!engine_vp.ok()) return engine_vp.status();
  auto vp = (*partition)->AddVp(**engine_vp);
  if (!vp.ok()) return vp.status();
  guest.vp = *vp;

  using Name = hvdef::RegisterName;
  constexpr uint64_t kProtectedMode = 0x11, kFixedFlag = 2;
  constexpr std::array kNames{Name::kCr0, Name::kCs,  Name::kDs,  Name::kEs,
                              Name::kSs,  Name::kRip, Name::kRsp, Name::kRflags};
  const std::array<hvdef::RegisterValue, kNames.size()> values{hvdef::RegisterValue{kProtectedMode, 0},
                                                               FlatSegment(0x08, 0xB),
                                                               FlatSegment(0x10, 0x3),
                                                               FlatSegment(0x10, 0x3),
                                                               FlatSegment(0x10, 0x3),
                                                               {0x1000, 0},
                                                               {0x8000, 0},
                                                               {kFixedFlag, 0}};
  if (absl::Status status = (*engine_vp)->SetRegisters(kNames, values); !status.ok()) return status;
  auto reason = (*engine_vp)->Run(guest);
  if (!reason.ok()) return reason.status();

  uint64_t product = 0;
  if (!memory.ReadObject(0x4000, product)) return absl::InternalError("no output");
  std::printf("%llu * %llu = %llu, status %d\n", static_cast<unsigned long long>(numbers.a),
              static_cast<unsigned long long>(numbers.b), static_cast<unsigned long long>(product), guest.status);
  return guest.status == 0 && product == numbers.a * numbers.b ? absl::OkStatus() : absl::InternalError("wrong answer");
}

int main(int argc, char** argv) {
  constexpr int kCannotRunHere = 77;
  auto engine = vmm::CreateBackend(argc > 1 ? argv[1] : "auto");
  if (!engine.ok()) {
    std::fprintf(stderr, "custom_hypercall: %s\n", std::string(engine.status().message()).c_str());
    return absl::IsInvalidArgument(engine.status()) ? 2 : kCannotRunHere;
  }
  const absl::Status status = Run(**engine, {6, 7});
  if (!status.ok()) std::fprintf(stderr, "custom_hypercall: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
