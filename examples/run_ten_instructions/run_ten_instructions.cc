// SPDX-License-Identifier: Apache-2.0
// Ten instructions in a partition, over nothing but the interface that every engine has (hvsdk/backend/backend.h):
// memory, one processor, its registers, and one exit.
//
//   run_ten_instructions [auto|kvm|software]
#include <array>
#include <cstdio>
#include <cstring>
#include <string>

#include "hvsdk/backend/backend.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/vmm/backends.h"

using namespace hvsdk;

constexpr uint64_t kCodeGpa = 0x1000;

// Real-mode code, as the processor is after reset.
constexpr uint8_t kGuest[] = {
    0xB8, 0x01, 0x00,  //  1  mov ax, 1
    0x89, 0xC3,        //  2  mov bx, ax
    0x01, 0xC3,        //  3  add bx, ax     2
    0x01, 0xD8,        //  4  add ax, bx     3
    0x01, 0xC3,        //  5  add bx, ax     5
    0x01, 0xD8,        //  6  add ax, bx     8
    0x01, 0xC3,        //  7  add bx, ax    13
    0x01, 0xD8,        //  8  add ax, bx    21
    0x01, 0xC0,        //  9  add ax, ax    42
    0xE6, 0x80,        // 10  out 0x80, al
};

// What the guest cannot do alone comes here. This one writes to a port and has then done all.
class Exits : public backend::ExitHandler {
 public:
  int answer = -1;

  void OnPortWrite(backend::Vp& vp, uint16_t, absl::Span<const uint8_t> data) override {
    answer = data[0];
    vp.Kick();
  }
  void OnPortRead(backend::Vp&, uint16_t, absl::Span<uint8_t> data) override {
    std::memset(data.data(), 0xFF, data.size());
  }
  void OnMmioRead(backend::Vp&, uint64_t, absl::Span<uint8_t> data) override {
    std::memset(data.data(), 0xFF, data.size());
  }
  void OnMmioWrite(backend::Vp&, uint64_t, absl::Span<const uint8_t>) override {}
  backend::MsrOutcome OnMsrRead(backend::Vp&, uint32_t, uint64_t&) override { return backend::MsrOutcome::kFault; }
  backend::MsrOutcome OnMsrWrite(backend::Vp&, uint32_t, uint64_t) override { return backend::MsrOutcome::kFault; }
  backend::HypercallOutcome OnHypercall(backend::Vp&) override { return backend::HypercallOutcome::kUndefinedOpcode; }
};

absl::StatusOr<int> Run(backend::Backend& engine) {
  static uint8_t host[0x10000] __attribute__((aligned(4096)));
  std::memcpy(&host[kCodeGpa], kGuest, sizeof(kGuest));
  GuestMemory memory;

  auto partition = engine.CreatePartition(memory);
  if (!partition.ok()) return partition.status();
  if (absl::Status status = (*partition)->AddMemory(0, absl::MakeSpan(host)); !status.ok()) return status;
  auto cpuid = (*partition)->SupportedCpuid();
  if (!cpuid.ok()) return cpuid.status();
  auto vp = (*partition)->CreateVp(VpIndex{0}, /*apic_id=*/0, *cpuid);
  if (!vp.ok()) return vp.status();

  const hvdef::SegmentRegister code{.base = 0, .limit = 0xFFFF, .selector = 0, .attributes = 0x9B};
  hvdef::RegisterValue cs;
  std::memcpy(&cs, &code, sizeof(cs));
  const std::array names{hvdef::RegisterName::kCs, hvdef::RegisterName::kRip};
  const std::array values{cs, hvdef::RegisterValue{kCodeGpa, 0}};
  if (absl::Status status = (*vp)->SetRegisters(names, values); !status.ok()) return status;

  Exits exits;
  const auto stop = (*vp)->Run(exits);
  if (!stop.ok()) return stop.status();
  return exits.answer;
}

int main(int argc, char** argv) {
  auto engine = vmm::CreateBackend(argc > 1 ? argv[1] : "auto");
  if (!engine.ok()) {
    std::fprintf(stderr, "run_ten_instructions: %s\n", std::string(engine.status().message()).c_str());
    return absl::IsInvalidArgument(engine.status()) ? 2 : 77;  // 77: not on this host
  }
  const absl::StatusOr<int> answer = Run(**engine);
  if (!answer.ok()) {
    std::fprintf(stderr, "run_ten_instructions: %s\n", answer.status().ToString().c_str());
    return 3;
  }
  std::printf("%s: port 0x80 got %d\n", std::string((*engine)->name()).c_str(), *answer);
  return *answer == 42 ? 0 : 1;
}
