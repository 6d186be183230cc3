// SPDX-License-Identifier: Apache-2.0
// The ring on one thread: each packet written, then read. Beside each figure, in the same run, memcpy of the same
// bytes, in and out, at the same places, and the minimal ring.
//
// Names: what/payload size. scripts/bench-ring prints the ratios.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#include "bench/vmbus_ring/minimal_ring.h"
#include "benchmark/benchmark.h"
#include "hvsdk/vmbus/ring/owned_ring.h"
#include "hvsdk/vmbus/ring/reader.h"
#include "hvsdk/vmbus/ring/writer.h"

namespace hvsdk::bench {
namespace {

using namespace hvsdk::vmbus;  // NOLINT: a benchmark of nothing else

constexpr uint32_t kDataPages = 64;  // 256 KiB, a usual size for a storage channel
constexpr uint32_t kRingBytes = kDataPages * hvdef::kRingPageSize;
constexpr uint32_t kBatch = 32;

// Bytes that begin a cache line, whatever the heap does.
class AlignedBytes {
 public:
  AlignedBytes(uint32_t size, uint8_t value)
      : size_((size + 63) / 64 * 64), bytes_(static_cast<uint8_t*>(std::aligned_alloc(64, size_))) {
    if (bytes_ == nullptr) std::abort();
    std::memset(bytes_.get(), value, size_);
  }
  uint8_t* data() { return bytes_.get(); }
  uint32_t size() const { return size_; }

 private:
  struct Free {
    void operator()(uint8_t* bytes) const { std::free(bytes); }
  };
  uint32_t size_;
  std::unique_ptr<uint8_t, Free> bytes_;
};

struct Buffers {
  explicit Buffers(uint32_t size) : from(size + 64, 0x5A), to(size + 4096, 0) {}
  AlignedBytes from;
  AlignedBytes to;
};

// Pages of which none follows another: a guest's ring that is not one piece.
class ScatteredMemory : public PagedMemory {
 public:
  using PagedMemory::PagedMemory;
};

// The same pages, reached in each way that hvsdk/vmbus/ring/memory.h has.
struct Pages {
  Pages() : ring(kDataPages), in_one_piece(kDataPages + 1), scattered(kDataPages + 1) {
    if (!ring.is_valid()) std::abort();
    for (uint32_t i = 0; i <= kDataPages; ++i) list.push_back(ring.base() + i * hvdef::kRingPageSize);
    DescribeRingPages(list.data(), kDataPages + 1, in_one_piece.data());
    for (uint32_t i = 0; i <= kDataPages; ++i) scattered[i] = {list[i], hvdef::kRingPageSize};
  }
  template <typename Memory>
  Memory As() const {
    if constexpr (std::is_same_v<Memory, MirroredMemory>) return ring.memory();
    if constexpr (std::is_same_v<Memory, FlatMemory>) return {list[0], list[1], kRingBytes};
    if constexpr (std::is_same_v<Memory, PagedMemory>) return {in_one_piece.data(), kDataPages};
    if constexpr (std::is_same_v<Memory, ScatteredMemory>) return {scattered.data(), kDataPages};
  }
  OwnedRing ring;
  std::vector<uint8_t*> list;
  std::vector<RingPage> in_one_piece, scattered;
};

template <typename Memory>
struct PairOf {
  PairOf() : writer(pages.As<Memory>()), reader(pages.As<Memory>()) {
    if (writer.Attach() != RingStatus::kOk || reader.Attach() != RingStatus::kOk) std::abort();
  }
  Pages pages;
  RingWriter<Memory> writer;
  RingReader<Memory> reader;
};
using Pair = PairOf<MirroredMemory>;

void Count(benchmark::State& state, uint32_t payload, uint32_t packets) {
  state.SetItemsProcessed(state.iterations() * packets);
  state.SetBytesProcessed(state.iterations() * packets * payload);
}

// The yardstick for copies: `size` bytes in and out again, to the places where the ring puts the payload of a packet
// that is `total` long.
void CopyInAndOut(benchmark::State& state, uint32_t size, uint32_t total) {
  Buffers buffers(size);
  OwnedRing ring(kDataPages);
  if (!ring.is_valid()) std::abort();
  uint8_t* data = ring.base() + hvdef::kRingPageSize;
  uint32_t at = 0;
  for (auto _ : state) {
    uint8_t* middle = data + at + sizeof(hvdef::PacketDescriptor);
    std::memcpy(middle, buffers.from.data(), size);
    benchmark::ClobberMemory();
    std::memcpy(buffers.to.data(), middle, size);
    benchmark::DoNotOptimize(buffers.to.data());
    benchmark::ClobberMemory();
    at += total;
    if (at >= kRingBytes) at -= kRingBytes;
  }
  Count(state, size, 1);
}

void Memcpy(benchmark::State& state) {
  const auto size = static_cast<uint32_t>(state.range(0));
  CopyInAndOut(state, size, PacketSize(size));
}

void Minimal(benchmark::State& state) {
  const auto size = static_cast<uint32_t>(state.range(0));
  Buffers buffers(size);
  MinimalRing ring(kRingBytes);
  for (auto _ : state) {
    if (!ring.Write(buffers.from.data(), size)) state.SkipWithError("full");
    if (ring.Read(buffers.to.data()) < 0) state.SkipWithError("empty");
    benchmark::DoNotOptimize(buffers.to.data());
    benchmark::ClobberMemory();
  }
  Count(state, size, 1);
}

void MinimalBatch(benchmark::State& state) {
  const auto size = static_cast<uint32_t>(state.range(0));
  Buffers buffers(size);
  MinimalRing ring(kRingBytes);
  for (auto _ : state) {
    for (uint32_t i = 0; i < kBatch; ++i) {
      if (!ring.Write(buffers.from.data(), size)) state.SkipWithError("full");
    }
    for (uint32_t i = 0; i < kBatch; ++i) {
      if (ring.Read(buffers.to.data()) < 0) state.SkipWithError("empty");
      benchmark::DoNotOptimize(buffers.to.data());
      benchmark::ClobberMemory();
    }
  }
  Count(state, size, kBatch);
}

// Written by copy, read by copy, committed packet by packet at both ends.
template <typename Memory>
void RingIn(benchmark::State& state) {
  const auto size = static_cast<uint32_t>(state.range(0));
  Buffers buffers(size);
  PairOf<Memory> pair;
  Packet packet;
  uint64_t signals = 0, id = 0;
  for (auto _ : state) {
    if (pair.writer.StageInBand(PacketHeader::InBand(++id, true), buffers.from.data(), size) != RingStatus::kOk) {
      state.SkipWithError("full");
    }
    signals += pair.writer.Publish() == Signal::kNeeded;
    if (pair.reader.Read(buffers.to.data(), buffers.to.size(), packet) != RingStatus::kOk) state.SkipWithError("empty");
    signals += pair.reader.Commit() == Signal::kNeeded;
    benchmark::DoNotOptimize(packet.payload);
    benchmark::ClobberMemory();
  }
  benchmark::DoNotOptimize(signals);
  Count(state, size, 1);
}

void Ring(benchmark::State& state) { RingIn<MirroredMemory>(state); }
void RingFlat(benchmark::State& state) { RingIn<FlatMemory>(state); }
void RingPaged(benchmark::State& state) { RingIn<PagedMemory>(state); }  // what a channel of vmbus::Server has
void RingScattered(benchmark::State& state) { RingIn<ScatteredMemory>(state); }

template <typename Memory>
void RingBatchIn(benchmark::State& state) {
  const auto size = static_cast<uint32_t>(state.range(0));
  Buffers buffers(size);
  PairOf<Memory> pair;
  Packet packet;
  uint64_t signals = 0, id = 0;
  for (auto _ : state) {
    for (uint32_t i = 0; i < kBatch; ++i) {
      if (pair.writer.StageInBand(PacketHeader::InBand(++id, true), buffers.from.data(), size) != RingStatus::kOk) {
        state.SkipWithError("full");
      }
    }
    signals += pair.writer.Publish() == Signal::kNeeded;
    for (uint32_t i = 0; i < kBatch; ++i) {
      if (pair.reader.Read(buffers.to.data(), buffers.to.size(), packet) != RingStatus::kOk) {
        state.SkipWithError("empty");
      }
      benchmark::DoNotOptimize(packet.payload);
      benchmark::ClobberMemory();
    }
    signals += pair.reader.Commit() == Signal::kNeeded;
  }
  benchmark::DoNotOptimize(signals);
  Count(state, size, kBatch);
}

void RingBatch(benchmark::State& state) { RingBatchIn<MirroredMemory>(state); }
void RingPagedBatch(benchmark::State& state) { RingBatchIn<PagedMemory>(state); }

// Written by copy; the reader looks at the packet where it is, one load for every 64 bytes, and lets it go.
void RingReadInPlace(benchmark::State& state) {
  const auto size = static_cast<uint32_t>(state.range(0));
  Buffers buffers(size);
  Pair pair;
  RingReader<MirroredMemory>::View view;
  uint64_t signals = 0, id = 0, sum = 0;
  for (auto _ : state) {
    if (pair.writer.StageInBand(PacketHeader::InBand(++id, true), buffers.from.data(), size) != RingStatus::kOk) {
      state.SkipWithError("full");
    }
    signals += pair.writer.Publish() == Signal::kNeeded;
    if (pair.reader.Peek(view) != RingStatus::kOk) state.SkipWithError("empty");
    const uint8_t* payload = view.payload();
    for (uint32_t at = 0; at < view.payload_size(); at += 64) sum += payload[at];
    pair.reader.Release(view);
    signals += pair.reader.Commit() == Signal::kNeeded;
    benchmark::ClobberMemory();
  }
  benchmark::DoNotOptimize(signals);
  benchmark::DoNotOptimize(sum);
  Count(state, size, 1);
}

// Both ends in place: the writer fills the slot, the reader looks.
void RingInPlace(benchmark::State& state) {
  const auto size = static_cast<uint32_t>(state.range(0));
  Pair pair;
  RingWriter<MirroredMemory>::Slot slot;
  RingReader<MirroredMemory>::View view;
  uint64_t signals = 0, id = 0, sum = 0;
  for (auto _ : state) {
    if (pair.writer.Reserve(PacketHeader::InBand(++id, true), size, slot) != RingStatus::kOk) {
      state.SkipWithError("full");
    }
    uint8_t* fill = slot.payload();
    for (uint32_t at = 0; at < size; at += 64) fill[at] = static_cast<uint8_t>(id);
    pair.writer.Commit(slot);
    signals += pair.writer.Publish() == Signal::kNeeded;
    if (pair.reader.Peek(view) != RingStatus::kOk) state.SkipWithError("empty");
    const uint8_t* payload = view.payload();
    for (uint32_t at = 0; at < view.payload_size(); at += 64) sum += payload[at];
    pair.reader.Release(view);
    signals += pair.reader.Commit() == Signal::kNeeded;
    benchmark::ClobberMemory();
  }
  benchmark::DoNotOptimize(signals);
  benchmark::DoNotOptimize(sum);
  Count(state, size, 1);
}

// Page lists: range(0) guest pages and 64 bytes of payload. The yardsticks move as many bytes as the packet has.
uint32_t PageListBytes(int64_t pages) { return static_cast<uint32_t>(8 + 16 * pages + 64); }

void RingPageList(benchmark::State& state) {
  const auto pages = static_cast<uint32_t>(state.range(0));
  Buffers buffers(PageListBytes(pages));
  Pair pair;
  std::vector<uint64_t> pfns(pages);
  std::vector<GpaBuffer> list;
  for (uint32_t i = 0; i < pages; ++i) {
    pfns[i] = 0x1000 + 3 * i;
    list.push_back({hvdef::kRingPageSize, 0, &pfns[i]});
  }
  Packet packet;
  uint64_t signals = 0, id = 0, sum = 0;
  for (auto _ : state) {
    if (pair.writer.StageGpaDirect(++id, true, list.data(), pages, buffers.from.data(), 64) != RingStatus::kOk) {
      state.SkipWithError("full");
    }
    signals += pair.writer.Publish() == Signal::kNeeded;
    if (pair.reader.Read(buffers.to.data(), buffers.to.size(), packet) != RingStatus::kOk) state.SkipWithError("empty");
    GpaBufferWalk walk(packet.extension, packet.extension_size);
    for (GpaBuffer buffer; walk.Next(buffer);) sum += buffer.pfns[0];
    signals += pair.reader.Commit() == Signal::kNeeded;
    benchmark::ClobberMemory();
  }
  benchmark::DoNotOptimize(signals);
  benchmark::DoNotOptimize(sum);
  Count(state, PageListBytes(pages), 1);
}

void MinimalPageList(benchmark::State& state) {
  const uint32_t size = PageListBytes(state.range(0));
  Buffers buffers(size);
  MinimalRing ring(kRingBytes);
  for (auto _ : state) {
    if (!ring.Write(buffers.from.data(), size)) state.SkipWithError("full");
    if (ring.Read(buffers.to.data()) < 0) state.SkipWithError("empty");
    benchmark::DoNotOptimize(buffers.to.data());
    benchmark::ClobberMemory();
  }
  Count(state, size, 1);
}

void MemcpyPageList(benchmark::State& state) {
  const uint32_t size = PageListBytes(state.range(0));
  CopyInAndOut(state, size, PacketSize(size));
}

void Sizes(benchmark::internal::Benchmark* benchmark) {
  for (const int size : {16, 64, 256, 1024, 4096, 16384, 65536}) benchmark->Arg(size);
}
void BatchSizes(benchmark::internal::Benchmark* benchmark) {
  for (const int size : {16, 64, 256, 1024, 4096}) benchmark->Arg(size);  // 32 of them fit
}

BENCHMARK(Memcpy)->Apply(Sizes);
BENCHMARK(Minimal)->Apply(Sizes);
BENCHMARK(Ring)->Apply(Sizes);
BENCHMARK(RingFlat)->Apply(Sizes);
BENCHMARK(RingPaged)->Apply(Sizes);
BENCHMARK(RingScattered)->Apply(Sizes);
BENCHMARK(RingReadInPlace)->Apply(Sizes);
BENCHMARK(RingInPlace)->Apply(Sizes);
BENCHMARK(MinimalBatch)->Apply(BatchSizes);
BENCHMARK(RingBatch)->Apply(BatchSizes);
BENCHMARK(RingPagedBatch)->Apply(BatchSizes);
BENCHMARK(MemcpyPageList)->Arg(1)->Arg(8)->Arg(32);
BENCHMARK(MinimalPageList)->Arg(1)->Arg(8)->Arg(32);
BENCHMARK(RingPageList)->Arg(1)->Arg(8)->Arg(32);

}  // namespace
}  // namespace hvsdk::bench
