// SPDX-License-Identifier: Apache-2.0
// The same world as a guest of an engine: a kernel of three instructions enters an address space, or forgets a page of
// it, and returns to user mode; every fault ends in a port write that stops the processor. What the engine remembers of
// one step is there in the next. Interrupts may come meanwhile, from another thread and as often as it can: their
// handler counts them and returns, so no result changes.

#ifndef HVSDK_TESTS_BACKEND_SOFTWARE_CODE_ORACLE_ENGINE_WORLD_H_
#define HVSDK_TESTS_BACKEND_SOFTWARE_CODE_ORACLE_ENGINE_WORLD_H_

#include <memory>

#include "hvsdk/backend/backend.h"
#include "tests/backend_software/code_oracle/world.h"

namespace hvsdk::code_oracle {

class EngineWorld : public World {
 public:
  // Begins to send interrupts, to the end of this object's life.
  virtual void SendInterrupts() = 0;
  virtual uint64_t interrupts() const = 0;  // that the guest has taken
};

// nullptr, after a test failure, if the engine refuses.
std::unique_ptr<EngineWorld> CreateEngineWorld(backend::Backend& engine);

}  // namespace hvsdk::code_oracle

#endif  // HVSDK_TESTS_BACKEND_SOFTWARE_CODE_ORACLE_ENGINE_WORLD_H_
