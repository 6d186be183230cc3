// SPDX-License-Identifier: Apache-2.0
#include "tests/backend_software/oracle/engine.h"

#include "gtest/gtest.h"
#include "hvsdk/backend_software/software_backend.h"

namespace hvsdk::oracle {

std::unique_ptr<backend::Backend> CreateEngine() {
  auto engine = backend::CreateSoftwareBackend({});
  EXPECT_TRUE(engine.ok()) << engine.status();
  return engine.ok() ? *std::move(engine) : nullptr;
}

}  // namespace hvsdk::oracle
