// SPDX-License-Identifier: Apache-2.0
// The channel protocol on the client: any messages from the root, in any order.

#include <cstddef>
#include <cstdint>

#include "fuzz/vmbus_client/client_driver.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hvsdk::vsc::ClientDriver(absl::MakeConstSpan(data, size)).Run();
  return 0;
}
