// SPDX-License-Identifier: Apache-2.0
// The ring between two threads, each pinned to a processor: streams of 64-byte packets, and the time there and back
// with a reader that polls and with one that sleeps. Beside them the minimal ring, which polls for ever.

#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <thread>
#include <vector>

#include "bench/vmbus_ring/minimal_ring.h"
#include "benchmark/benchmark.h"
#include "hvsdk/vmbus/ring/owned_ring.h"
#include "hvsdk/vmbus/ring/reader.h"
#include "hvsdk/vmbus/ring/writer.h"

namespace hvsdk::bench {
namespace {

using namespace hvsdk::vmbus;  // NOLINT: a benchmark of nothing else

constexpr uint32_t kDataPages = 64;
constexpr uint32_t kPayload = 64;
constexpr int kPolls = 2000;  // before an end goes to sleep, about 10 microseconds

void Pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

// The other thread, on the second processor; the first belongs to whoever made this, once that one runs.
class Partner {
 public:
  template <typename Body>
  explicit Partner(Body body)
      : thread_([this, body] {
          Pin(1);
          ready_.store(true);
          body();
        }) {
    while (!ready_.load()) std::this_thread::yield();
    Pin(0);
  }
  void Join() { thread_.join(); }

 private:
  std::atomic<bool> ready_{false};
  std::thread thread_;
};

// Two threads pinned to the same processor measure the scheduler.
bool HasTwoCpus(benchmark::State& state) {
  if (std::thread::hardware_concurrency() >= 2) return true;
  state.SkipWithError("needs two processors");
  return false;
}

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// What carries a signal: the system call a VMM makes to wake a thread.
class Event {
 public:
  Event() : fd_(eventfd(0, EFD_CLOEXEC)) {
    if (fd_ < 0) std::abort();
  }
  ~Event() { close(fd_); }
  void Signal() {
    const uint64_t one = 1;
    if (write(fd_, &one, sizeof(one)) != sizeof(one)) std::abort();
  }
  void Wait() {
    uint64_t count;
    if (read(fd_, &count, sizeof(count)) != sizeof(count)) std::abort();
  }

 private:
  int fd_;
};

struct Channel {
  Channel() : ring(kDataPages), writer(ring.memory()), reader(ring.memory()) {
    if (!ring.is_valid() || writer.Attach() != RingStatus::kOk || reader.Attach() != RingStatus::kOk) std::abort();
  }
  OwnedRing ring;
  RingWriter<MirroredMemory> writer;
  RingReader<MirroredMemory> reader;
  Event data, room;
};

// Reads packets until one with transaction id 0. Counts the signals sent, that there is room.
void DrainUntilStop(Channel& channel, bool lazily, uint64_t& signals) {
  const auto signal_room = [&] {
    ++signals;
    channel.room.Signal();
  };
  alignas(8) uint8_t buffer[256];
  Packet packet;
  channel.reader.Mask();
  for (int idle = 0;;) {
    const RingStatus status = channel.reader.Read(buffer, sizeof(buffer), packet);
    if (status == RingStatus::kOk) {
      idle = 0;
      const Signal signal = lazily ? channel.reader.CommitLazily() : channel.reader.Commit();
      if (signal == Signal::kNeeded) signal_room();
      if (packet.transaction_id == 0) return;
      benchmark::DoNotOptimize(packet);
      continue;
    }
    if (status != RingStatus::kEmpty) std::abort();
    if (++idle < kPolls) {
      Pause();
      continue;
    }
    idle = 0;
    const Armed armed = channel.reader.Arm();
    if (armed.signal == Signal::kNeeded) signal_room();
    if (armed.may_sleep) {
      channel.data.Wait();
      channel.reader.Mask();
    }
  }
}

// Stages one packet, sleeping for room if there is none. Counts the signals sent.
void Send(Channel& channel, uint64_t id, const uint8_t* payload, bool lazily, uint64_t& signals) {
  for (int idle = 0;;) {
    const RingStatus status = channel.writer.StageInBand(PacketHeader::InBand(id, false), payload, kPayload);
    if (status == RingStatus::kOk) break;
    if (status != RingStatus::kFull) std::abort();
    if (channel.writer.Publish() == Signal::kNeeded) {
      ++signals;
      channel.data.Signal();
    }
    if (++idle < kPolls) {
      Pause();
      continue;
    }
    // A quarter of the ring, so that one sleep pays for many packets.
    if (channel.writer.WaitForRoom(kDataPages * hvdef::kRingPageSize / 4) == RingStatus::kFull) channel.room.Wait();
  }
  if ((lazily ? channel.writer.PublishLazily() : channel.writer.Publish()) == Signal::kNeeded) {
    ++signals;
    channel.data.Signal();
  }
}

void StreamRing(benchmark::State& state, bool lazily) {
  if (!HasTwoCpus(state)) return;
  Channel channel;
  uint64_t room_signals = 0;  // the reader's until it is joined
  Partner reader([&] { DrainUntilStop(channel, lazily, room_signals); });
  std::vector<uint8_t> payload(kPayload, 0x5A);
  uint64_t signals = 0, id = 0;
  for (auto _ : state) Send(channel, ++id, payload.data(), lazily, signals);
  const uint64_t sent = id;
  Send(channel, 0, payload.data(), /*lazily=*/false, signals);
  reader.Join();
  state.SetItemsProcessed(state.iterations());
  const double thousands = static_cast<double>(sent) / 1000;
  state.counters["signals_per_1000"] = static_cast<double>(signals) / thousands;
  state.counters["room_signals_per_1000"] = static_cast<double>(room_signals) / thousands;
}
void StreamLazy(benchmark::State& state) { StreamRing(state, /*lazily=*/true); }
void StreamEager(benchmark::State& state) { StreamRing(state, /*lazily=*/false); }

void StreamMinimal(benchmark::State& state) {
  if (!HasTwoCpus(state)) return;
  MinimalRing ring(kDataPages * hvdef::kRingPageSize);
  Partner reader([&] {
    alignas(8) uint8_t buffer[256];
    for (;;) {
      const int64_t size = ring.Read(buffer);
      if (size == 0) return;
      if (size < 0) Pause();
      benchmark::DoNotOptimize(buffer);
    }
  });
  std::vector<uint8_t> payload(kPayload, 0x5A);
  for (auto _ : state) {
    while (!ring.Write(payload.data(), kPayload)) Pause();
  }
  while (!ring.Write(payload.data(), 0)) Pause();
  reader.Join();
  state.SetItemsProcessed(state.iterations());
}

// There and back. The far end answers each packet; both ends poll, or both sleep.
enum class Waiting { kPolls, kSleeps };

bool Receive(Channel& channel, Waiting waiting, uint64_t& id) {
  alignas(8) uint8_t buffer[256];
  Packet packet;
  for (;;) {
    const RingStatus status = channel.reader.Read(buffer, sizeof(buffer), packet);
    if (status == RingStatus::kOk) {
      (void)channel.reader.CommitLazily();
      id = packet.transaction_id;
      return true;
    }
    if (status != RingStatus::kEmpty) return false;
    if (waiting == Waiting::kPolls) {
      Pause();
      continue;
    }
    if (channel.reader.Arm().may_sleep) {
      channel.data.Wait();
      channel.reader.Mask();
    }
  }
}

void RoundTripRing(benchmark::State& state, bool lazily, Waiting waiting) {
  if (!HasTwoCpus(state)) return;
  Channel there, back;
  there.reader.Mask();
  back.reader.Mask();
  std::vector<uint8_t> payload(kPayload, 0x5A);
  Partner far_end([&] {
    uint64_t signals = 0, id = 1;
    while (id != 0 && Receive(there, waiting, id)) Send(back, id, payload.data(), lazily, signals);
  });
  uint64_t signals = 0, id = 0, answer = 0;
  for (auto _ : state) {
    Send(there, ++id, payload.data(), lazily, signals);
    if (!Receive(back, waiting, answer) || answer != id) state.SkipWithError("wrong answer");
  }
  Send(there, 0, payload.data(), lazily, signals);
  (void)Receive(back, waiting, answer);
  far_end.Join();
}
void RoundTripPollingLazy(benchmark::State& state) { RoundTripRing(state, true, Waiting::kPolls); }
void RoundTripPollingEager(benchmark::State& state) { RoundTripRing(state, false, Waiting::kPolls); }
void RoundTripSleepingLazy(benchmark::State& state) { RoundTripRing(state, true, Waiting::kSleeps); }
void RoundTripSleepingEager(benchmark::State& state) { RoundTripRing(state, false, Waiting::kSleeps); }

// The minimal ring has no signals; its sleeping reader is woken for every packet.
void RoundTripMinimal(benchmark::State& state, Waiting waiting) {
  if (!HasTwoCpus(state)) return;
  MinimalRing there(kDataPages * hvdef::kRingPageSize), back(kDataPages * hvdef::kRingPageSize);
  Event there_event, back_event;
  const auto receive = [waiting](MinimalRing& ring, Event& event) {
    alignas(8) uint8_t buffer[256];
    if (waiting == Waiting::kSleeps) event.Wait();
    int64_t size;
    while ((size = ring.Read(buffer)) < 0) Pause();
    benchmark::DoNotOptimize(buffer);
    return size;
  };
  const auto send = [waiting](MinimalRing& ring, Event& event, const uint8_t* payload, uint32_t size) {
    if (!ring.Write(payload, size)) std::abort();
    if (waiting == Waiting::kSleeps) event.Signal();
  };
  std::vector<uint8_t> payload(kPayload, 0x5A);
  Partner far_end([&] {
    for (int64_t size = 1; size != 0;) {
      size = receive(there, there_event);
      send(back, back_event, payload.data(), static_cast<uint32_t>(size));
    }
  });
  for (auto _ : state) {
    send(there, there_event, payload.data(), kPayload);
    receive(back, back_event);
  }
  send(there, there_event, payload.data(), 0);
  receive(back, back_event);
  far_end.Join();
}
void RoundTripPollingMinimal(benchmark::State& state) { RoundTripMinimal(state, Waiting::kPolls); }
void RoundTripSleepingMinimal(benchmark::State& state) { RoundTripMinimal(state, Waiting::kSleeps); }

BENCHMARK(StreamMinimal)->UseRealTime();
BENCHMARK(StreamEager)->UseRealTime();
BENCHMARK(StreamLazy)->UseRealTime();
BENCHMARK(RoundTripPollingMinimal)->UseRealTime();
BENCHMARK(RoundTripPollingEager)->UseRealTime();
BENCHMARK(RoundTripPollingLazy)->UseRealTime();
BENCHMARK(RoundTripSleepingMinimal)->UseRealTime();
BENCHMARK(RoundTripSleepingEager)->UseRealTime();
BENCHMARK(RoundTripSleepingLazy)->UseRealTime();

}  // namespace
}  // namespace hvsdk::bench
