// SPDX-License-Identifier: Apache-2.0
// The local APIC by its synthetic MSRs (TLFS, "Virtual Interrupt Control"), or by its own registers on an engine whose
// CPUID does not offer those: the effects are the same, and so is the report.

#include "console.h"
#include "hypervisor.h"
#include "tests.h"

namespace {

// The higher half of a vector is its priority.
constexpr uint8_t kLowVector = 0x41, kHighVector = 0xA1;
constexpr uint32_t kToSelf = 1 << 18;  // the command's destination shorthand
constexpr uint64_t kAWhile = 2 * kMillisecond;

bool HasMsrs() { return HasPrivilege(privilege::kAccessIntrCtrlRegs); }

uint64_t ReadPriority() { return HasMsrs() ? ReadMsr(msr::kTpr) : ReadApic(kApicTaskPriority); }
bool WritePriority(uint8_t priority) {
  if (HasMsrs()) return TryWriteMsr(msr::kTpr, priority);
  WriteApic(kApicTaskPriority, priority);
  return true;
}
bool WriteCommand(uint32_t destination, uint32_t command) {
  if (HasMsrs()) return TryWriteMsr(msr::kIcr, uint64_t{destination} << 56 | command);
  WriteApic(kApicCommandHigh, destination << 24);
  WriteApic(kApicCommand, command);
  return true;
}
bool EndInterrupt() {
  if (HasMsrs()) return TryWriteMsr(msr::kEoi, 0);
  WriteApic(kApicEoi, 0);
  return true;
}

bool Comes(uint8_t vector, uint32_t before) {
  return WaitUntil([=] { return InterruptCount(vector) == before + 1; });
}
bool StaysAway(uint8_t vector, uint32_t before) {
  Wait(kAWhile);
  return InterruptCount(vector) == before;
}

}  // namespace

void TestApic() {
  Check(WritePriority(0x50) && ReadPriority() == 0x50 && ReadApic(kApicTaskPriority) == 0x50 && WritePriority(0) &&
            ReadPriority() == 0,
        "APIC: TPR is written and read back");

  uint32_t before = InterruptCount(kLowVector);
  Check(WriteCommand(0, kToSelf | kLowVector) && Comes(kLowVector, before),
        "APIC: ICR interrupts oneself by the shorthand");
  before = InterruptCount(kLowVector);
  Check(WriteCommand(0, kLowVector) && Comes(kLowVector, before), "APIC: ICR interrupts oneself by the APIC's id");
  Check((ReadApic(kApicCommand) & 0xFF) == kLowVector, "APIC: ICR holds what was sent");

  before = InterruptCount(kLowVector);
  const uint32_t high_before = InterruptCount(kHighVector);
  const bool held = WritePriority(0x50) && WriteCommand(0, kToSelf | kLowVector) && StaysAway(kLowVector, before);
  Check(held && WriteCommand(0, kToSelf | kHighVector) && Comes(kHighVector, high_before),
        "APIC: TPR holds back what is of lower priority, and nothing else");
  Check(WritePriority(0) && Comes(kLowVector, before), "APIC: TPR lets it come when it is lowered");

  before = InterruptCount(kLowVector);
  LeaveInService(true);
  bool ok = WriteCommand(0, kToSelf | kLowVector) && Comes(kLowVector, before);
  LeaveInService(false);
  ok = ok && WriteCommand(0, kToSelf | kLowVector);
  const bool holds = StaysAway(kLowVector, before + 1);
  Check(ok && (holds || !RequiresWholeApic()),
        "APIC: an interrupt in service holds back the next, if the APIC is whole");
  Check(EndInterrupt() && Comes(kLowVector, before + 1), "APIC: EOI lets it come");
}
