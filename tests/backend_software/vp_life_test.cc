// SPDX-License-Identifier: Apache-2.0
// What a VP leaves behind when it goes before its partition does.
#include <bit>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>

#include "gtest/gtest.h"
#include "hvsdk/backend_software/software_backend.h"
#include "hvsdk/memory/guest_memory.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;
using hvdef::RegisterValue;
using hvdef::SegmentRegister;

constexpr uint64_t kCode = 0x1000;

// Real mode, with the local APIC's page as DS: its timer fires once, 20 ms from now.
constexpr uint8_t kProgram[] = {
    0x66, 0xC7, 0x06, 0xF0, 0x00, 0xFF, 0x01, 0x00, 0x00,  // mov dword [0xF0], 0x1FF        spurious vector, enabled
    0x66, 0xC7, 0x06, 0xE0, 0x03, 0x0B, 0x00, 0x00, 0x00,  // mov dword [0x3E0], 0xB         divide by 1
    0x66, 0xC7, 0x06, 0x20, 0x03, 0x40, 0x00, 0x00, 0x00,  // mov dword [0x320], 0x40        one-shot, vector 0x40
    0x66, 0xC7, 0x06, 0x80, 0x03, 0x00, 0x2D, 0x31, 0x01,  // mov dword [0x380], 20000000    at 1 GHz
    0xE6, 0x80,                                            // out 0x80, al
    0xF4,                                                  // hlt
};

class KickAtOut final : public ExitHandler {
 public:
  void OnPortRead(Vp&, uint16_t, absl::Span<uint8_t>) override {}
  void OnPortWrite(Vp& vp, uint16_t, absl::Span<const uint8_t>) override { vp.Kick(); }
  void OnMmioRead(Vp&, uint64_t, absl::Span<uint8_t>) override {}
  void OnMmioWrite(Vp&, uint64_t, absl::Span<const uint8_t>) override {}
  MsrOutcome OnMsrRead(Vp&, uint32_t, uint64_t&) override { return MsrOutcome::kFault; }
  MsrOutcome OnMsrWrite(Vp&, uint32_t, uint64_t) override { return MsrOutcome::kFault; }
  HypercallOutcome OnHypercall(Vp&) override { return HypercallOutcome::kUndefinedOpcode; }
};

TEST(VpLifeTest, ATimerMayFireWhenItsVpIsGone) {
  alignas(4096) static uint8_t host[0x2000];
  std::memcpy(host + kCode, kProgram, sizeof(kProgram));
  GuestMemory memory;
  const auto engine = CreateSoftwareBackend({});
  ASSERT_TRUE(engine.ok()) << engine.status();
  const auto partition = (*engine)->CreatePartition(memory);
  ASSERT_TRUE(partition.ok());
  ASSERT_TRUE((*partition)->AddMemory(0, host).ok());
  const auto cpuid = (*partition)->SupportedCpuid();
  ASSERT_TRUE(cpuid.ok());
  auto vp = (*partition)->CreateVp(VpIndex{0}, 0, *cpuid);
  ASSERT_TRUE(vp.ok()) << vp.status();
  const RegisterName names[] = {RegisterName::kCs, RegisterName::kDs, RegisterName::kRip};
  const RegisterValue values[] = {std::bit_cast<RegisterValue>(SegmentRegister{0, 0xFFFF, 0, 0x9B}),
                                  std::bit_cast<RegisterValue>(SegmentRegister{0xFEE00000, 0xFFFF, 0, 0x93}),
                                  {kCode, 0}};
  ASSERT_TRUE((*vp)->SetRegisters(names, values).ok());
  KickAtOut handler;
  const absl::StatusOr<StopReason> reason = (*vp)->Run(handler);
  ASSERT_TRUE(reason.ok());
  ASSERT_EQ(*reason, StopReason::kKicked);
  vp->reset();
  std::this_thread::sleep_for(std::chrono::milliseconds(60));
}

}  // namespace
}  // namespace hvsdk::backend
