// SPDX-License-Identifier: Apache-2.0
// Runs instructions on an engine: a small guest in long mode whose user pages lie where the host's do, and whose every
// fault ends in a port write that stops the processor.

#ifndef HVSDK_TESTS_BACKEND_SOFTWARE_ORACLE_ENGINE_EXECUTOR_H_
#define HVSDK_TESTS_BACKEND_SOFTWARE_ORACLE_ENGINE_EXECUTOR_H_

#include <memory>

#include "hvsdk/backend/backend.h"
#include "tests/backend_software/oracle/user_state.h"

namespace hvsdk::oracle {

// nullptr, after a test failure, if the engine refuses.
std::unique_ptr<Executor> CreateEngineExecutor(backend::Backend& engine);

}  // namespace hvsdk::oracle

#endif  // HVSDK_TESTS_BACKEND_SOFTWARE_ORACLE_ENGINE_EXECUTOR_H_
