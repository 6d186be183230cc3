// SPDX-License-Identifier: Apache-2.0
// The hypervisor from the guest's side: privileges, hypercalls, reference time and the SynIC's pages.

#ifndef HVSDK_EXAMPLES_GUEST_KERNEL_HYPERVISOR_H_
#define HVSDK_EXAMPLES_GUEST_KERNEL_HYPERVISOR_H_

#include <cstdint>

#include "cpu.h"
#include "hvsdk/hvdef/cpuid.h"
#include "hvsdk/hvdef/hypercall.h"
#include "hvsdk/hvdef/message.h"
#include "hvsdk/hvdef/msr.h"
#include "hvsdk/hvdef/privilege.h"
#include "hvsdk/hvdef/status.h"

namespace cpuid = hvsdk::hvdef::cpuid;
namespace msr = hvsdk::hvdef::msr;
namespace privilege = hvsdk::hvdef::privilege;
using hvsdk::hvdef::CallCode;
using hvsdk::hvdef::Control;
using hvsdk::hvdef::HvStatus;

inline bool HasPrivilege(uint64_t wanted) {
  const Cpuid features(cpuid::kFeatures);
  return ((uint64_t{features.ebx} << 32 | features.eax) & wanted) == wanted;
}
inline bool HasFeature(uint32_t wanted) { return (Cpuid(cpuid::kFeatures).edx & wanted) == wanted; }

extern "C" {
uint64_t CallHypervisor(uint64_t control, uint64_t input, uint64_t output);
uint64_t CallHypervisorXmm(uint64_t control, uint64_t* block);
}

// Names the guest and places the hypercall page.
bool StartHypercalls();

// CPUID 0x80000007, bit 8 of EDX (Intel SDM volume 3, "Invariant TSC").
inline bool HasInvariantTsc() { return Cpuid(0x80000000).eax >= 0x80000007 && (Cpuid(0x80000007).edx & 1u << 8) != 0; }

// A call with its input, and output, on pages. Rep calls have their elements behind the header, in `Input` already.
struct CallResult {
  HvStatus status;
  uint16_t reps;
};
CallResult Call(Control control, const void* input, uint32_t input_size, void* output = nullptr,
                uint32_t output_size = 0);
template <typename Input>
HvStatus Call(CallCode code, const Input& input) {
  return Call(Control::Make(static_cast<uint16_t>(code)), &input, sizeof(input)).status;
}
inline HvStatus FastCall(CallCode code, uint64_t first, uint64_t second) {
  return hvsdk::hvdef::ResultStatus(
      CallHypervisor(Control::Make(static_cast<uint16_t>(code), true).value, first, second));
}

// In 100 ns units, by the counter MSR.
inline uint64_t Now() { return ReadMsr(msr::kTimeRefCount); }
inline constexpr uint64_t kMillisecond = 10'000;
inline constexpr uint64_t kSecond = 1000 * kMillisecond;

// Spins, with interrupts on, until `done` or, after `timeout_100ns`, until false.
template <typename Done>
bool WaitUntil(Done done, uint64_t timeout_100ns = 20 * kSecond) {
  const uint64_t deadline = Now() + timeout_100ns;
  while (!done()) {
    if (Now() > deadline) return done();
    Pause();
  }
  return true;
}
inline void Wait(uint64_t time_100ns) {
  WaitUntil([] { return false; }, time_100ns);
}

// The SynIC, once started: both pages in place, every SINT on its own vector.
inline constexpr uint8_t kFirstSintVector = 0x50;
constexpr uint8_t SintVector(uint32_t sint) { return static_cast<uint8_t>(kFirstSintVector + sint); }
void StartSynic();
void SetSint(uint32_t sint, uint64_t extra_bits = 0);
// Takes the message of a SINT's slot, and says so to the hypervisor if more wait.
bool TakeMessage(uint32_t sint, hvsdk::hvdef::Message& message);
hvsdk::hvdef::Message* MessageSlot(uint32_t sint);
uint64_t* EventFlags(uint32_t sint);  // 32 words

#endif  // HVSDK_EXAMPLES_GUEST_KERNEL_HYPERVISOR_H_
