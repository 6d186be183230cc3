// SPDX-License-Identifier: Apache-2.0
// How long after a wake-up a sleeping thread runs, beside threads that keep every processor of the host busy: what a
// halted VP waits for its interrupt. The time is that of the median wake-up; `p90_us` and `max_us` say how far they
// spread. Beside WaitWord the same with the waits of std::atomic.
//
//   build/release/bin/wait_word_bench

#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <random>
#include <thread>
#include <vector>

#include "base/wait_word.h"
#include "benchmark/benchmark.h"

namespace hvsdk {
namespace {

constexpr int kWakeUps = 1000;

struct AtomicWord {
  std::atomic<uint32_t> word{0};
  uint32_t Load() const { return word.load(std::memory_order_acquire); }
  void Wait(uint32_t expected) { word.wait(expected, std::memory_order_acquire); }
  void Advance() {
    word.fetch_add(1, std::memory_order_release);
    word.notify_one();
  }
};

struct FutexWord {
  WaitWord word;
  uint32_t Load() const { return word.load(std::memory_order_acquire); }
  void Wait(uint32_t expected) { word.Wait(expected); }
  void Advance() {
    word.fetch_add(1, std::memory_order_release);
    word.WakeOne();
  }
};

int64_t NowNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

template <typename Word>
void BM_WakeUp(benchmark::State& state) {
  const int busy = static_cast<int>(state.range(0)) * static_cast<int>(std::thread::hardware_concurrency());
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < busy; ++i) {
    threads.emplace_back([&] {
      while (!stop.load(std::memory_order_relaxed)) benchmark::DoNotOptimize(i);
    });
  }
  Word word;
  std::atomic<int64_t> woken_ns{0};
  threads.emplace_back([&] {
    for (uint32_t seen = 0; !stop.load(std::memory_order_relaxed);) {
      word.Wait(seen);
      seen = word.Load();
      woken_ns.store(NowNs(), std::memory_order_release);
    }
  });

  std::mt19937 random(1);
  std::vector<int64_t> latencies;
  for (auto _ : state) {
    latencies.clear();
    for (int i = 0; i < kWakeUps; ++i) {
      // As long as a guest that waits for a disk or another processor is halted.
      std::this_thread::sleep_for(std::chrono::microseconds(100 + random() % 900));
      woken_ns.store(0, std::memory_order_relaxed);
      const int64_t start = NowNs();
      word.Advance();
      int64_t end;
      while ((end = woken_ns.load(std::memory_order_acquire)) == 0)
        std::this_thread::sleep_for(std::chrono::microseconds(20));
      latencies.push_back(end - start);
    }
    std::sort(latencies.begin(), latencies.end());
    state.SetIterationTime(static_cast<double>(latencies[kWakeUps / 2]) * 1e-9);
  }
  state.counters["p90_us"] = static_cast<double>(latencies[kWakeUps * 9 / 10]) * 1e-3;
  state.counters["max_us"] = static_cast<double>(latencies.back()) * 1e-3;
  stop.store(true, std::memory_order_relaxed);
  word.Advance();
  for (std::thread& thread : threads) thread.join();
}
#define HVSDK_BENCH_WAKE_UP(WORD)     \
  BENCHMARK(BM_WakeUp<WORD>)          \
      ->ArgName("busy_per_processor") \
      ->Arg(0)                        \
      ->Arg(1)                        \
      ->Arg(2)                        \
      ->UseManualTime()               \
      ->Iterations(1)                 \
      ->Unit(benchmark::kMicrosecond)
HVSDK_BENCH_WAKE_UP(FutexWord);
HVSDK_BENCH_WAKE_UP(AtomicWord);

}  // namespace
}  // namespace hvsdk
