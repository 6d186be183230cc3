// SPDX-License-Identifier: Apache-2.0
#include <iostream>
#include <vector>

#include "hvsdk/memory/guest_memory.h"

int main() {
  std::vector<uint8_t> page(4096);
  hvsdk::GuestMemory memory;
  if (!memory.AddRange(0x1000, absl::MakeSpan(page)).ok()) return 1;
  if (!memory.WriteObject<uint32_t>(0x1ffc, 42) || memory.WriteObject<uint32_t>(0x1ffd, 42)) return 1;
  std::cout << "guest memory: " << memory.size_bytes() << " bytes\n";
}
