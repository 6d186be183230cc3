// SPDX-License-Identifier: Apache-2.0
#include "tests/backend/engines.h"

#include <cstdlib>

#include "tests/backend/test_machine.h"

#ifdef HVSDK_HAVE_BACKEND_KVM
#include "hvsdk/backend_kvm/kvm_backend.h"
#endif
#ifdef HVSDK_HAVE_BACKEND_SOFTWARE
#include "hvsdk/backend_software/software_backend.h"
#endif

namespace hvsdk::backend {

#ifdef HVSDK_HAVE_BACKEND_KVM
namespace {

// A KVM without hardware virtualisation may have paging in long mode only: CR0.PG does not stay set elsewhere.
bool LacksLegacyPaging(Backend& backend) {
  static const bool lacks = [&] {
    absl::StatusOr<std::unique_ptr<TestMachine>> machine = TestMachine::Create(backend);
    if (!machine.ok()) return false;
    (*machine)->Start(Mode::kProtected, kCodeGpa);
    (*machine)->Set(hvdef::RegisterName::kCr0, 0x80000031);
    return ((*machine)->Get(hvdef::RegisterName::kCr0) & 0x80000000) == 0;
  }();
  return lacks;
}

std::string KvmHostDefect(Backend& backend, const std::string& test) {
  if ((test == "LegacyPaging" || test == "TranslationsOutsideLongMode") && LacksLegacyPaging(backend)) {
    return "this host's KVM has paging in long mode only";
  }
  if ((test == "InterruptsMayPushOntoCode" || test == "AnInstructionSeesWhatAVectorStoreWrote") &&
      LacksLegacyPaging(backend)) {
    return "this host's KVM lacks software interrupts in long mode, and most of SSE";
  }
  if ((test == "WhatCpuidHidesFaults" || test == "InstructionsThatCpuidHides" ||
       test == "ControlRegistersCannotBeSetToWhatIsHidden") &&
      LacksLegacyPaging(backend)) {
    return "this host's KVM has every feature that its processor has, whatever CPUID says";
  }
  if (test == "AnNmiWaitsForTheEndOfTheLastAndNoLonger" && LacksLegacyPaging(backend)) {
    return "this host's KVM does not end an NMI at its IRET";
  }
  if (test == "LocalTablesAndReturnsGoByTheDescriptorToo" && LacksLegacyPaging(backend)) {
    return "this host's KVM keeps the attributes of segments that a return makes null";
  }
  if ((test == "WhatWaitsArrivesOnce" || test == "ALevelStaysUp" || test == "AnInitialisationOfThe8259GoesOn" ||
       test == "TheTscGoesOn" || test == "ANmiWaitsForTheHandlerOfTheLast" ||
       test == "AnInterruptShadowLastsOneInstruction" || test == "FloatingPointGoesOn") &&
      LacksLegacyPaging(backend)) {
    return "this host's KVM takes interrupts where it likes, lacks most of SSE, and its guests' TSC is the host's";
  }
  const char* const qemu = std::getenv("HVSDK_NESTED");
  if (test == "AnInterruptShadowLastsOneInstruction" && qemu != nullptr && std::atoi(qemu) < 10) {
    return "QEMU before 10, the processor below this KVM, loses interrupt shadows at a #VMEXIT";
  }
  if ((test == "AnInstructionSeesWhatTheOneBeforeItWrote" || test == "AnInstructionSeesWhatAVectorStoreWrote" ||
       test == "ALoopMayChangeItself" || test == "FlagsAreThereBehindAStoreIntoCode") &&
      qemu != nullptr) {
    return "QEMU, the processor below this KVM, runs on in old code behind some stores";
  }
  return "";
}

}  // namespace
#endif

#ifdef HVSDK_HAVE_BACKEND_SOFTWARE
namespace {

std::string SoftwareHostDefect(Backend&, const std::string& test) {
  if (test == "AnInstructionSeesWhatAVectorStoreWrote" && std::getenv("HVSDK_NESTED") != nullptr) {
    return "QEMU, the processor below, raises x87 exceptions that no processor raises there";
  }
  return "";
}

}  // namespace
#endif

std::vector<Engine> Engines() {
  std::vector<Engine> engines;
#ifdef HVSDK_HAVE_BACKEND_KVM
  engines.push_back({"kvm", [] { return CreateKvmBackend({}); }, KvmHostDefect});
#endif
#ifdef HVSDK_HAVE_BACKEND_SOFTWARE
  engines.push_back({"software", [] { return CreateSoftwareBackend({}); }, SoftwareHostDefect});
#endif
  return engines;
}

std::vector<Engine> EnginesAndVariants() {
  std::vector<Engine> engines = Engines();
#ifdef HVSDK_HAVE_BACKEND_SOFTWARE
  // Forgets all code every few blocks.
  engines.push_back({"software_with_smallest_code_cache",
                     [] { return CreateSoftwareBackend({.code_cache_bytes = kMinCodeCacheBytes}); },
                     SoftwareHostDefect});
#endif
  return engines;
}

}  // namespace hvsdk::backend
