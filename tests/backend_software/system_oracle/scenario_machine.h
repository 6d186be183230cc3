// SPDX-License-Identifier: Apache-2.0
// The parts that a scenario is made of: tables and start state (scenario_machine.cc), code (scenario_code.cc).

#ifndef HVSDK_TESTS_BACKEND_SOFTWARE_SYSTEM_ORACLE_SCENARIO_MACHINE_H_
#define HVSDK_TESTS_BACKEND_SOFTWARE_SYSTEM_ORACLE_SCENARIO_MACHINE_H_

#include <cstring>

#include "tests/backend_software/oracle/random.h"
#include "tests/backend_software/system_oracle/scenario.h"

namespace hvsdk::oracle {

template <typename T>
void Put(Scenario& scenario, uint64_t address, T value) {
  std::memcpy(scenario.memory.data() + address, &value, sizeof(value));
}
template <typename T>
T Peek(const Scenario& scenario, uint64_t address) {
  T value;
  std::memcpy(&value, scenario.memory.data() + address, sizeof(value));
  return value;
}

inline bool IsLongMode(StartMode mode) { return mode >= StartMode::kCompatibility && mode < StartMode::kModes; }
inline bool IsUserMode(StartMode mode) {
  return mode == StartMode::kProtectedUser || mode == StartMode::kPaged32User || mode == StartMode::kPaeUser ||
         mode == StartMode::kCompatibilityUser || mode == StartMode::kLongUser;
}
// The width of the code that a scenario begins with.
int StartBits(StartMode mode);

void BuildTables(Random& random, const SystemFeatures& features, Scenario& scenario);
void BuildStartState(Random& random, const SystemFeatures& features, Scenario& scenario);
// The fragments; `next_operand` and what is there grow with them.
void BuildCode(Random& random, const SystemFeatures& features, Scenario& scenario);

}  // namespace hvsdk::oracle

#endif  // HVSDK_TESTS_BACKEND_SOFTWARE_SYSTEM_ORACLE_SCENARIO_MACHINE_H_
