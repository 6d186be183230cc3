// SPDX-License-Identifier: Apache-2.0
// Pages of the hypervisor's that lie over the guest's: what is below stays as it was, and what is on them moves with
// them (TLFS, "GPA Overlay Pages").

#include "console.h"
#include "hypervisor.h"
#include "tests.h"

namespace {

constexpr uint8_t kPattern = 0xA5;

Page here, there;

bool IsAll(const Page& page, uint8_t value) {
  for (uint32_t i = 0; i < kPageSize; ++i) {
    if (*const_cast<volatile const uint8_t*>(&page.bytes[i]) != value) return false;
  }
  return true;
}
volatile uint64_t& WordOf(Page& page, uint32_t index) {
  return reinterpret_cast<volatile uint64_t*>(page.bytes)[index];
}

// A page that the guest may write: places it, moves it, removes it.
void TestWritableOverlay(uint32_t index, const char* name) {
  __builtin_memset(here.bytes, kPattern, kPageSize);
  __builtin_memset(there.bytes, kPattern, kPageSize);
  bool ok = TryWriteMsr(index, here.gpa() | msr::kPageEnable) && ReadMsr(index) == (here.gpa() | msr::kPageEnable);
  ok = ok && IsAll(here, 0);  // the overlay's own contents
  WordOf(here, 500) = 0x123456789;
  ok = ok && TryWriteMsr(index, there.gpa() | msr::kPageEnable);
  ok = ok && IsAll(here, kPattern) && WordOf(there, 500) == 0x123456789;
  WordOf(there, 500) = 0;
  ok = ok && TryWriteMsr(index, 0) && IsAll(there, kPattern);
  Check(ok, name);
}

}  // namespace

void TestOverlays() {
  TestWritableOverlay(msr::kSimp, "overlay: the message page hides memory, moves with its contents and goes");
  TestWritableOverlay(msr::kSiefp, "overlay: the event flags page hides memory, moves with its contents and goes");
  TestWritableOverlay(msr::kVpAssistPage, "overlay: the VP assist page hides memory, moves with its contents and goes");

  __builtin_memset(here.bytes, kPattern, kPageSize);
  Check(TryWriteMsr(msr::kReferenceTsc, here.gpa() | msr::kPageEnable) && !IsAll(here, kPattern) &&
            TryWriteMsr(msr::kReferenceTsc, 0) && IsAll(here, kPattern),
        "overlay: the reference TSC page hides memory and goes");
  const uint64_t place = ReadMsr(msr::kHypercall);
  Check(TryWriteMsr(msr::kHypercall, here.gpa() | msr::kPageEnable) && !IsAll(here, kPattern) &&
            TryWriteMsr(msr::kHypercall, place) && IsAll(here, kPattern),
        "overlay: the hypercall page hides memory and goes");
  CheckEqual(FastCall(CallCode::kNotifyLongSpinWait, 1, 0), HvStatus::kSuccess,
             "overlay: hypercalls work where it was before");
  StartSynic();
}
