// SPDX-License-Identifier: Apache-2.0
// Random scenarios of privileged work: a machine in some mode, with tables that are mostly right and here and there
// not, and a few system instructions whose faults and far transfers lead through those tables.
//
// The code is made of fragments at fixed places. A far transfer in one leads to the next, which is written for the
// mode that the descriptor it went through should give; where it gives another, or the transfer faults, it is the
// engines' task to agree. Every way ends in a write to a port that stops the machine, in a triple fault, or in the
// runner's patience.

#ifndef HVSDK_TESTS_BACKEND_SOFTWARE_SYSTEM_ORACLE_SCENARIO_H_
#define HVSDK_TESTS_BACKEND_SOFTWARE_SYSTEM_ORACLE_SCENARIO_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "hvsdk/hvdef/register.h"
#include "tests/backend_software/system_oracle/machine_map.h"

namespace hvsdk::oracle {

// The registers that a scenario sets and that are compared after it.
inline constexpr hvdef::RegisterName kStateNames[] = {
    hvdef::RegisterName::kCr0,          hvdef::RegisterName::kCr2,        hvdef::RegisterName::kCr3,
    hvdef::RegisterName::kCr4,          hvdef::RegisterName::kEfer,       hvdef::RegisterName::kRax,
    hvdef::RegisterName::kRcx,          hvdef::RegisterName::kRdx,        hvdef::RegisterName::kRbx,
    hvdef::RegisterName::kRsp,          hvdef::RegisterName::kRbp,        hvdef::RegisterName::kRsi,
    hvdef::RegisterName::kRdi,          hvdef::RegisterName::kR8,         hvdef::RegisterName::kR9,
    hvdef::RegisterName::kR10,          hvdef::RegisterName::kR11,        hvdef::RegisterName::kR12,
    hvdef::RegisterName::kR13,          hvdef::RegisterName::kR14,        hvdef::RegisterName::kR15,
    hvdef::RegisterName::kRip,          hvdef::RegisterName::kRflags,     hvdef::RegisterName::kEs,
    hvdef::RegisterName::kCs,           hvdef::RegisterName::kSs,         hvdef::RegisterName::kDs,
    hvdef::RegisterName::kFs,           hvdef::RegisterName::kGs,         hvdef::RegisterName::kLdtr,
    hvdef::RegisterName::kTr,           hvdef::RegisterName::kIdtr,       hvdef::RegisterName::kGdtr,
    hvdef::RegisterName::kDr0,          hvdef::RegisterName::kDr1,        hvdef::RegisterName::kDr2,
    hvdef::RegisterName::kDr3,          hvdef::RegisterName::kDr6,        hvdef::RegisterName::kDr7,
    hvdef::RegisterName::kKernelGsBase, hvdef::RegisterName::kSysenterCs, hvdef::RegisterName::kSysenterEsp,
    hvdef::RegisterName::kSysenterEip,  hvdef::RegisterName::kStar,       hvdef::RegisterName::kLstar,
    hvdef::RegisterName::kCstar,        hvdef::RegisterName::kSfmask,     hvdef::RegisterName::kPat};
inline constexpr int kStateCount = static_cast<int>(std::size(kStateNames));
constexpr int StateIndex(hvdef::RegisterName name) {
  for (int i = 0; i < kStateCount; ++i) {
    if (kStateNames[i] == name) return i;
  }
  return -1;
}

struct SystemState {
  std::array<hvdef::RegisterValue, kStateCount> values{};
  hvdef::RegisterValue& operator[](hvdef::RegisterName name) { return values[StateIndex(name)]; }
  const hvdef::RegisterValue& operator[](hvdef::RegisterName name) const { return values[StateIndex(name)]; }
};

// What a processor of ours and the engine it is compared with both have, so that a scenario may use it.
struct SystemFeatures {
  bool smep = false, smap = false, fsgsbase = false, umip = false;
  // SYSENTER works in long mode and SYSCALL in 64-bit mode alone, as on Intel's processors and ours; AMD's are the
  // other way round.
  bool intel = false;
  // The reference runs on QEMU's processor (7.2), from whose shortcuts the draw keeps away. That processor checks
  // neither limits nor types of data segments nor alignment; reads before it checks whether a read-modify-write may
  // write; ignores LOCK where it is not allowed; takes MSR values, stacks and targets of gates that are not canonical,
  // and a null selector for LTR; makes SS null with every stack of the IST; has SMAP watch what user mode pushes and
  // pops; pushes frames with a supervisor's rights though the handler is the user's, and from virtual-8086 mode to any
  // ring; takes RPL from a conforming segment's descriptor; answers #GP for a gate to an absent segment; lets IRET go
  // to virtual-8086 mode from anywhere, and return to segments that are for 32 and 64 bits at once or to null stacks of
  // another RPL; holds a single step back behind STI and LSS too; and raises #GP for stacks that are not canonical.
  bool qemu = false;
};

enum class StartMode : uint8_t {
  kReal,
  kProtected16,
  kProtected32,
  kProtectedUser,
  kPaged32,
  kPaged32User,
  kPae,
  kPaeUser,
  kVirtual86,
  kCompatibility,
  kCompatibilityUser,
  kLong,
  kLongUser,
  kModes,
};

struct Scenario {
  StartMode mode;
  SystemState start;
  std::vector<uint8_t> memory;  // kSystemMemory bytes
  bool uses_lar = false;
  std::vector<std::string> listing;  // what was put where, for whoever reads a failure
};

// Real mode at the first fragment.
void MakeRealModeState(SystemState& state);

// The same seed gives the same scenario.
void MakeScenario(uint64_t seed, const SystemFeatures& features, Scenario& scenario);

}  // namespace hvsdk::oracle

#endif  // HVSDK_TESTS_BACKEND_SOFTWARE_SYSTEM_ORACLE_SCENARIO_H_
