// SPDX-License-Identifier: Apache-2.0
// A request that a test waits for, and that fails the test if it completes more than once.

#ifndef HVSDK_TESTS_IMAGE_WAITED_REQUEST_H_
#define HVSDK_TESTS_IMAGE_WAITED_REQUEST_H_

#include <atomic>
#include <cstdint>
#include <vector>

#include "gtest/gtest.h"
#include "hvsdk/resource/block_device.h"

namespace hvsdk {

struct WaitedRequest : BlockRequest {
  WaitedRequest() {
    on_complete = [](BlockRequest& request, BlockStatus status) {
      auto& self = static_cast<WaitedRequest&>(request);
      self.status = status;
      self.completions.fetch_add(1);
      self.completions.notify_one();
    };
  }
  BlockStatus Wait() {
    completions.wait(0);
    EXPECT_EQ(completions.exchange(0), 1);
    return status;
  }
  std::vector<HostBuffer> pieces;
  std::vector<uint8_t> bytes;
  BlockStatus status{};
  std::atomic<int> completions{0};
};

}  // namespace hvsdk

#endif  // HVSDK_TESTS_IMAGE_WAITED_REQUEST_H_
