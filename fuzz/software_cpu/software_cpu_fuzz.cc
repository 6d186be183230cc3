// SPDX-License-Identifier: Apache-2.0
// Random bytes as code on the software processor, in every mode: it must come back within its budget and touch nothing
// outside guest memory.
//
// Input: a byte that picks the mode, one that picks registers, then the code, loaded at 0x8000.
#include <cstdlib>
#include <cstring>
#include <memory>

#include "hvsdk/backend_software/software_backend.h"
#include "hvsdk/memory/guest_memory.h"

namespace hvsdk {
namespace {

using hvdef::RegisterName;
using hvdef::RegisterValue;

constexpr uint64_t kMemorySize = 0x20000;
constexpr uint64_t kPml4 = 0x1000, kPdpt = 0x2000, kPd = 0x3000, kPt = 0x4000, kGdt = 0x5000, kIdt = 0x6000;
constexpr uint64_t kCode = 0x8000;
constexpr uint64_t kBudget = 20'000;  // instructions

class QuietHandler final : public backend::ExitHandler {
 public:
  void OnPortRead(backend::Vp&, uint16_t, absl::Span<uint8_t> data) override {
    std::fill(data.begin(), data.end(), 0x5A);
  }
  void OnPortWrite(backend::Vp&, uint16_t, absl::Span<const uint8_t>) override {}
  void OnMmioRead(backend::Vp&, uint64_t, absl::Span<uint8_t> data) override {
    std::fill(data.begin(), data.end(), 0xA5);
  }
  void OnMmioWrite(backend::Vp&, uint64_t, absl::Span<const uint8_t>) override {}
  backend::MsrOutcome OnMsrRead(backend::Vp&, uint32_t, uint64_t&) override { return backend::MsrOutcome::kFault; }
  backend::MsrOutcome OnMsrWrite(backend::Vp&, uint32_t, uint64_t) override { return backend::MsrOutcome::kFault; }
  backend::HypercallOutcome OnHypercall(backend::Vp&) override { return backend::HypercallOutcome::kDone; }
};

void Set(backend::Vp& vp, RegisterName name, uint64_t low, uint64_t high = 0) {
  const RegisterValue value{low, high};
  if (!vp.SetRegisters({&name, 1}, {&value, 1}).ok()) std::abort();
}
void SetSegment(backend::Vp& vp, RegisterName name, uint16_t selector, uint16_t attributes, uint32_t limit) {
  const hvdef::SegmentRegister segment{0, limit, selector, attributes};
  RegisterValue value;
  std::memcpy(&value, &segment, sizeof(value));
  Set(vp, name, value.low, value.high);
}

void Fuzz(const uint8_t* data, size_t size) {
  struct Free {
    void operator()(uint8_t* p) const { std::free(p); }
  };
  const std::unique_ptr<uint8_t, Free> host(static_cast<uint8_t*>(std::aligned_alloc(4096, kMemorySize)));
  std::memset(host.get(), 0, kMemorySize);
  GuestMemory memory;
  if (!memory.AddRange(0, {host.get(), kMemorySize}).ok()) std::abort();
  backend::InstructionTime time;
  auto engine = backend::CreateSoftwareBackend({.instruction_time = &time});
  if (!engine.ok()) return;
  auto partition = (*engine)->CreatePartition(memory);
  if (!partition.ok() ||
      !(*partition)->MapMemory(0, {host.get(), kMemorySize}, backend::MapAccess::kReadWriteExecute).ok()) {
    std::abort();
  }
  const auto cpuid = (*partition)->SupportedCpuid();
  auto vp_or = (*partition)->CreateVp(VpIndex{0}, 0, *cpuid);
  if (!vp_or.ok()) std::abort();
  backend::Vp& vp = **vp_or;

  const uint8_t mode = data[0] % 5;  // real, protected 16 and 32, 64 supervisor and user
  const uint8_t choice = data[1];
  std::memcpy(host.get() + kCode, data + 2, std::min<size_t>(size - 2, 0x4000));
  const auto put = [&](uint64_t at, uint64_t value) { std::memcpy(host.get() + at, &value, 8); };
  const uint64_t user = mode == 4 ? 7 : 3;
  put(kPml4, kPdpt | user);
  put(kPdpt, kPd | user);
  put(kPd, kPt | user);
  put(kPd + 8, 0x80 | user);  // a large page, for the most part beyond memory
  for (uint64_t page = 0; page < kMemorySize / 4096; ++page) put(kPt + 8 * page, page * 4096 | user);
  put(kGdt + 8, 0x00AF9B000000FFFF);
  put(kGdt + 16, 0x00CF93000000FFFF);
  put(kGdt + 24, 0x00CF9B000000FFFF);
  put(kGdt + 32, 0x00AFFB000000FFFF);
  put(kGdt + 40, 0x00CFF3000000FFFF);
  for (uint64_t vector = 0; vector < 32; ++vector) {
    put(kIdt + 16 * vector, kCode | uint64_t{8} << 16 | uint64_t{0x8E00} << 32);
  }
  if (mode != 0) {
    Set(vp, RegisterName::kGdtr, uint64_t{47} << 48, kGdt);
    Set(vp, RegisterName::kIdtr, uint64_t{511} << 48, kIdt);
    if (mode >= 3) {
      Set(vp, RegisterName::kCr3, kPml4);
      Set(vp, RegisterName::kCr4, 0x6A0 | ((choice & 1) ? 0x340000 : 0));
      Set(vp, RegisterName::kEfer, 0xD01);
      Set(vp, RegisterName::kCr0, 0x80000031 | ((choice & 2) ? 0x10000 : 0));
    } else {
      Set(vp, RegisterName::kCr4, 0x600);
      Set(vp, RegisterName::kCr0, 0x31);
    }
    const bool wide = mode >= 3;
    const uint16_t ring = mode == 4 ? 3 : 0;
    const uint16_t dpl = static_cast<uint16_t>(ring << 5);
    SetSegment(vp, RegisterName::kCs, static_cast<uint16_t>((wide ? (ring ? 32 : 8) : 24) | ring),
               static_cast<uint16_t>((wide        ? 0xA09B
                                      : mode == 2 ? 0xC09B
                                                  : 0x809B) |
                                     dpl),
               0xFFFFFFFF);
    SetSegment(vp, RegisterName::kSs, static_cast<uint16_t>((ring ? 40 : 16) | ring),
               static_cast<uint16_t>(0xC093 | dpl), 0xFFFFFFFF);
    for (const RegisterName name : {RegisterName::kDs, RegisterName::kEs, RegisterName::kFs, RegisterName::kGs}) {
      SetSegment(vp, name, 16, 0xC093, 0xFFFFFFFF);
    }
    Set(vp, RegisterName::kRip, kCode);
  } else {
    SetSegment(vp, RegisterName::kCs, 0, 0x9B, 0xFFFF);
    Set(vp, RegisterName::kRip, kCode);
  }
  for (int i = 0; i < 16; ++i) {
    vp.SetGpr(static_cast<backend::Gpr>(i), (choice & 4) ? 0x9000 + 0x321 * i : 0x1F000 + 0xFF0 * i);
  }
  vp.SetGpr(backend::Gpr::kRsp, (choice & 8) ? 0x10 : 0xFF00);

  QuietHandler handler;
  const backend::DeterministicMachine::Processor processor{&vp, &handler};
  backend::DeterministicMachine machine(time, {&processor, 1}, 500);
  (void)machine.Run(kBudget);
}

}  // namespace
}  // namespace hvsdk

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size >= 3) hvsdk::Fuzz(data, size);
  return 0;
}
