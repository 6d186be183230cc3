// SPDX-License-Identifier: Apache-2.0
// What differs between the outcomes of one scenario on two engines, and what of it is the reference's own doing.

#ifndef HVSDK_TESTS_BACKEND_SOFTWARE_SYSTEM_ORACLE_DIFFERENCES_H_
#define HVSDK_TESTS_BACKEND_SOFTWARE_SYSTEM_ORACLE_DIFFERENCES_H_

#include <string>

#include "tests/backend_software/system_oracle/system_runner.h"

namespace hvsdk::oracle {

// What the reference does otherwise than the manuals say, or where they leave it open. Changes what `theirs` left to
// what was owed where that is all the difference. `qemu`: the processor below KVM is QEMU's.
void Excuse(const Scenario& scenario, bool qemu, const SystemOutcome& ours, SystemOutcome& theirs);

// An exception that KVM itself finds, of a control register for one, QEMU does not know to be under delivery when a
// second one comes, which should then be a double fault (SDM volume 3, table 6-5).
bool MissedDoubleFault(const SystemOutcome& theirs, const SystemOutcome& ours);

// Empty if there is none.
std::string Difference(const SystemOutcome& theirs, const SystemOutcome& ours);

// How a scenario ended.
std::string Show(const SystemOutcome& outcome);
// That, and the stack there: what the last exception pushed.
std::string Stack(const SystemOutcome& outcome);

}  // namespace hvsdk::oracle

#endif  // HVSDK_TESTS_BACKEND_SOFTWARE_SYSTEM_ORACLE_DIFFERENCES_H_
