// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/machine/exit_router.h"

namespace hvsdk::machine {

void ExitRouter::Push(ExitLayer& layer) {
  std::lock_guard lock(mutex_);
  layer.next_.store(top_.load(std::memory_order_relaxed), std::memory_order_relaxed);
  // Release pairs with the acquire in top(): whoever enters the layer finds what stands below it.
  top_.store(&layer, std::memory_order_release);
}

void ExitRouter::Remove(ExitLayer& layer) {
  std::lock_guard lock(mutex_);
  // All but the bottom are layers.
  std::atomic<backend::ExitHandler*>* link = &top_;
  while (link->load(std::memory_order_relaxed) != &layer) {
    backend::ExitHandler* const handler = link->load(std::memory_order_relaxed);
    if (handler == &bottom_) return;
    link = &static_cast<ExitLayer*>(handler)->next_;
  }
  // `layer` keeps its link, for those who are inside.
  link->store(layer.next_.load(std::memory_order_relaxed), std::memory_order_release);
}

}  // namespace hvsdk::machine
