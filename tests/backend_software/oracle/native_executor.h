// SPDX-License-Identifier: Apache-2.0
// Runs instructions on the host's own processor, in this process, fenced in: code and data lie alone at fixed
// addresses, every fault arrives as a signal on a stack of its own, and the signal's context carries all registers in
// and out.

#ifndef HVSDK_TESTS_BACKEND_SOFTWARE_ORACLE_NATIVE_EXECUTOR_H_
#define HVSDK_TESTS_BACKEND_SOFTWARE_ORACLE_NATIVE_EXECUTOR_H_

#include <memory>

#include "tests/backend_software/oracle/user_state.h"

namespace hvsdk::oracle {

// One at a time in a process: it owns the signals SIGILL, SIGSEGV, SIGBUS, SIGFPE, SIGTRAP and SIGUSR2 while it lives.
// nullptr if the fixed addresses are taken.
std::unique_ptr<Executor> CreateNativeExecutor();

}  // namespace hvsdk::oracle

#endif  // HVSDK_TESTS_BACKEND_SOFTWARE_ORACLE_NATIVE_EXECUTOR_H_
