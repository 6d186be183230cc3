// SPDX-License-Identifier: Apache-2.0
// The host's own processor, in this process. An address space is a set of mappings of one file's pages, made anew for
// each step.

#ifndef HVSDK_TESTS_BACKEND_SOFTWARE_CODE_ORACLE_NATIVE_WORLD_H_
#define HVSDK_TESTS_BACKEND_SOFTWARE_CODE_ORACLE_NATIVE_WORLD_H_

#include <memory>
#include <string>

#include "tests/backend_software/code_oracle/world.h"

namespace hvsdk::code_oracle {

// One at a time in a process: it owns SIGILL, SIGSEGV, SIGBUS, SIGFPE, SIGTRAP, SIGUSR2 and the local descriptor table
// while it lives. nullptr, and why, where the kernel has no local descriptor tables or the addresses are taken.
std::unique_ptr<World> CreateNativeWorld(std::string& why);

}  // namespace hvsdk::code_oracle

#endif  // HVSDK_TESTS_BACKEND_SOFTWARE_CODE_ORACLE_NATIVE_WORLD_H_
