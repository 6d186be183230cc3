// SPDX-License-Identifier: Apache-2.0
// The channel protocol on the server: any messages from the guest, in any order.

#include <cstddef>
#include <cstdint>

#include "fuzz/vmbus_server/server_driver.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hvsdk::vmbus::ServerDriver(absl::MakeConstSpan(data, size), /*check_interval=*/16).Run();
  return 0;
}
