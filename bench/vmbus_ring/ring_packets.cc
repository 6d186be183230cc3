// SPDX-License-Identifier: Apache-2.0
// Many 64-byte packets, in and out, committed one by one or in batches of 32: what callgrind counts the
// instructions of.
//
//   ring_packets one|batch|in-place|minimal count

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "bench/vmbus_ring/minimal_ring.h"
#include "hvsdk/vmbus/ring/owned_ring.h"
#include "hvsdk/vmbus/ring/reader.h"
#include "hvsdk/vmbus/ring/writer.h"

using namespace hvsdk::vmbus;  // NOLINT

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fputs("usage: ring_packets one|batch|in-place|minimal count\n", stderr);
    return 2;
  }
  const char* mode = argv[1];
  const uint64_t count = std::strtoull(argv[2], nullptr, 0);
  alignas(64) static uint8_t from[64], to[4096];
  uint64_t signals = 0, sum = 0;

  if (std::strcmp(mode, "minimal") == 0) {
    hvsdk::bench::MinimalRing ring(1 << 18);
    for (uint64_t i = 0; i < count; ++i) {
      if (!ring.Write(from, 64) || ring.Read(to) != 64) return 1;
    }
    return 0;
  }
  OwnedRing ring(64);
  RingWriter<MirroredMemory> writer(ring.memory());
  RingReader<MirroredMemory> reader(ring.memory());
  if (!ring.is_valid() || writer.Attach() != RingStatus::kOk || reader.Attach() != RingStatus::kOk) return 1;
  const uint64_t batch = std::strcmp(mode, "batch") == 0 ? 32 : 1;
  const bool in_place = std::strcmp(mode, "in-place") == 0;
  for (uint64_t i = 0; i < count; i += batch) {
    for (uint64_t n = 0; n < batch; ++n) {
      if (writer.StageInBand(PacketHeader::InBand(i, true), from, 64) != RingStatus::kOk) return 1;
    }
    signals += writer.Publish() == Signal::kNeeded;
    for (uint64_t n = 0; n < batch; ++n) {
      if (in_place) {
        RingReader<MirroredMemory>::View view;
        if (reader.Peek(view) != RingStatus::kOk) return 1;
        sum += view.payload()[0];
        reader.Release(view);
      } else {
        Packet packet;
        if (reader.Read(to, sizeof(to), packet) != RingStatus::kOk) return 1;
        sum += packet.payload[0];
      }
    }
    signals += reader.Commit() == Signal::kNeeded;
  }
  return signals + sum == UINT64_MAX ? 1 : 0;  // keeps both alive
}
