// SPDX-License-Identifier: Apache-2.0
// Which engine the oracle tests: decided at link time, so that the harness itself can be tried on another one.

#ifndef HVSDK_TESTS_BACKEND_SOFTWARE_ORACLE_ENGINE_H_
#define HVSDK_TESTS_BACKEND_SOFTWARE_ORACLE_ENGINE_H_

#include <memory>

#include "hvsdk/backend/backend.h"

namespace hvsdk::oracle {

std::unique_ptr<backend::Backend> CreateEngine();

}  // namespace hvsdk::oracle

#endif  // HVSDK_TESTS_BACKEND_SOFTWARE_ORACLE_ENGINE_H_
