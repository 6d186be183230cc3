// SPDX-License-Identifier: Apache-2.0
// Random bytes as VMBus messages, and random but plausible guests and roots: whatever they say, server and client keep
// their invariants and serve the next connection.

#include <cstdint>
#include <cstring>
#include <vector>

#include "fuzz/vmbus_client/client_driver.h"
#include "fuzz/vmbus_server/server_driver.h"
#include "gtest/gtest.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"

namespace hvsdk {
namespace {

uint32_t Seeds() { return ScaledCount(100000); }

// splitmix64: cheap to seed, which a Mersenne twister is not.
std::vector<uint8_t> RandomBytes(uint64_t seed, size_t size) {
  std::vector<uint8_t> bytes((size + 7) / 8 * 8);
  for (size_t at = 0; at < bytes.size(); at += 8) {
    seed += 0x9E3779B97F4A7C15;
    uint64_t value = seed;
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9;
    value = (value ^ value >> 27) * 0x94D049BB133111EB;
    value ^= value >> 31;
    std::memcpy(&bytes[at], &value, 8);
  }
  bytes.resize(size);
  return bytes;
}

uint64_t FirstSeed() { return uint64_t{TestSeed()} << 32; }

TEST(RandomBytesTest, AsMessagesToTheServer) {
  const uint64_t first = FirstSeed();
  std::vector<uint8_t> memory_bytes(16 * 4096);
  GuestMemory memory;
  ASSERT_TRUE(memory.AddRange(0, absl::MakeSpan(memory_bytes)).ok());
  for (uint32_t i = 0; i < Seeds(); ++i) {
    vmbus::ServerCore core(memory, {});
    ASSERT_TRUE(core.AddOffer({}).ok());
    const std::vector<uint8_t> bytes = RandomBytes(first + i, 16 * 64);
    for (size_t at = 0; at + 64 <= bytes.size(); at += 64) {
      EXPECT_TRUE(core.OnMessage(absl::MakeConstSpan(&bytes[at], 1 + bytes[at] % 64)));
    }
    // Nothing of the kind is a message.
    ASSERT_FALSE(core.version().has_value()) << first + i;
    ASSERT_EQ(core.pending_messages(), 0u) << first + i;
  }
}

TEST(RandomBytesTest, AsGuestAndHostOfTheServer) {
  const uint64_t first = FirstSeed();
  for (uint32_t i = 0; i < Seeds(); ++i) {
    const std::vector<uint8_t> bytes = RandomBytes(first + i, 400);
    vmbus::ServerDriver(bytes, /*check_interval=*/64).Run();
  }
}

TEST(RandomBytesTest, AsRootOfTheClient) {
  const uint64_t first = FirstSeed();
  for (uint32_t i = 0; i < Seeds(); ++i) {
    const std::vector<uint8_t> bytes = RandomBytes(first + i, 400);
    vsc::ClientDriver(bytes).Run();
  }
}

}  // namespace
}  // namespace hvsdk
