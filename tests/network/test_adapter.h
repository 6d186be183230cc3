// SPDX-License-Identifier: Apache-2.0
// TestAdapter: a port's client in tests, which sends and receives, and is told of things.

#ifndef HVSDK_TESTS_NETWORK_TEST_ADAPTER_H_
#define HVSDK_TESTS_NETWORK_TEST_ADAPTER_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <iterator>
#include <memory>
#include <mutex>
#include <random>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "hvsdk/ethernet/headers.h"
#include "hvsdk/resource/network_port.h"
#include "tests/ethernet/frame_builder.h"

namespace hvsdk::network {

using Bytes = std::vector<uint8_t>;

struct TestFrame {
  Bytes bytes;
  FrameOffload offload;
};

// So long something may take on a busy host before the test gives up.
inline constexpr std::chrono::seconds kPatience(30);

// A client that sends and receives, and counts what it is told.
class TestAdapter final : public NetworkPortClient {
 public:
  explicit TestAdapter(NetworkPort& port) : port_(port) {}
  ~TestAdapter() override {
    if (attached_) Detach();
  }

  // By default it accepts frames of any kind as long as the port has them.
  void Attach() { Attach(port_.info()); }
  void Attach(const NetworkPortInfo& accepts) {
    accepts_ = accepts;
    attached_ = true;
    const absl::Status status = port_.Attach(*this, accepts);
    ASSERT_TRUE(status.ok()) << status;
  }
  void Detach() {
    port_.Detach();
    attached_ = false;
  }

  void OnFrames(uint16_t) override { Note(frames_); }
  void OnRoom(uint16_t) override { Note(room_); }
  void OnLink() override { Note(links_); }

  // Whether the port has taken it.
  bool TrySend(const TestFrame& frame, std::mt19937& random, uint16_t queue = 0) {
    // Cut as guests' pages would: into a few pieces of any length, empty ones and a longer last one among them.
    Bytes copy = frame.bytes;
    copy.resize(copy.size() + random() % 20);
    std::vector<HostBuffer> buffers;
    for (size_t at = 0; at < copy.size();) {
      const size_t piece = random() % 4 == 0 ? random() % 30 : random() % (copy.size() + 1);
      buffers.push_back({copy.data() + at, std::min(piece, copy.size() - at)});
      at += buffers.back().size_bytes;
    }
    const OutgoingFrame outgoing{.buffers = buffers, .size_bytes = frame.bytes.size(), .offload = frame.offload};
    const Inside inside(*this);
    return port_.Send(queue, {&outgoing, 1}) == 1;
  }

  // Waits for room.
  void Send(const TestFrame& frame, std::mt19937& random, uint16_t queue = 0) {
    for (;;) {
      const uint64_t seen = Count(room_);
      if (TrySend(frame, random, queue)) return;
      if (!WaitFor(room_, seen)) FAIL() << "no room, and no word of any";
    }
  }

  // Up to `most` frames that are there now. `room` is what each may have.
  std::vector<TestFrame> TryReceive(size_t most, size_t room = ethernet::kMaxFrameBytes, uint16_t queue = 0) {
    while (memory_.size() < most) memory_.push_back(std::make_unique<uint8_t[]>(ethernet::kMaxFrameBytes));
    std::vector<std::vector<HostBuffer>> buffers(most);
    std::vector<IncomingFrame> incoming(most);
    for (size_t i = 0; i < most; ++i) {
      // In two pieces, or in many.
      const size_t pieces = i % 3 == 2 ? 2 + i * 7 : 2, piece = std::min<size_t>(room / pieces, 10 + i * 7);
      for (size_t each = 0; each + 1 < pieces; ++each) buffers[i].push_back({memory_[i].get() + each * piece, piece});
      const size_t first = (pieces - 1) * piece;
      buffers[i].push_back({memory_[i].get() + first, room - first});
      incoming[i].buffers = buffers[i];
    }
    size_t count;
    {
      const Inside inside(*this);
      count = port_.Receive(queue, absl::MakeSpan(incoming));
    }
    EXPECT_LE(count, most);
    std::vector<TestFrame> frames;
    size_t others = 0;
    for (size_t i = 0; i < count; ++i) {
      EXPECT_LE(incoming[i].size_bytes, room);
      const uint8_t* const bytes = memory_[i].get();
      // A kernel's bridge between two ports speaks IGMP of its own accord, which nobody here sends.
      if (incoming[i].size_bytes > 34 && ethernet::ReadBe16(bytes + 12) == ethernet::kIp4 && bytes[23] == 2) {
        ++others;
        continue;
      }
      frames.push_back({Bytes(bytes, bytes + std::min(incoming[i].size_bytes, room)), incoming[i].offload});
    }
    if (others != 0 && count == most) {
      std::vector<TestFrame> more = TryReceive(others, room, queue);
      std::move(more.begin(), more.end(), std::back_inserter(frames));
    }
    return frames;
  }

  // `count` frames, however long they take to come; fewer: no word came of them.
  std::vector<TestFrame> Receive(size_t count, size_t room = ethernet::kMaxFrameBytes) {
    std::vector<TestFrame> frames;
    while (frames.size() < count) {
      const uint64_t seen = Count(frames_);
      const size_t ask = std::min<size_t>(count - frames.size(), 8);
      std::vector<TestFrame> some = TryReceive(ask, room);
      const bool all = some.size() == ask;
      std::move(some.begin(), some.end(), std::back_inserter(frames));
      if (!all && frames.size() < count && !WaitFor(frames_, seen)) break;
    }
    return frames;
  }

  uint64_t told_of_frames() { return Count(frames_); }
  uint64_t told_of_room() { return Count(room_); }
  bool WaitForFrames(uint64_t seen) { return WaitFor(frames_, seen); }
  bool WaitForRoom(uint64_t seen) { return WaitFor(room_, seen); }

 private:
  struct Inside {
    explicit Inside(TestAdapter& adapter) { current = &adapter; }
    ~Inside() { current = nullptr; }
    static inline thread_local TestAdapter* current = nullptr;
  };

  void Note(uint64_t& count) {
    EXPECT_NE(Inside::current, this) << "told from within a call";
    EXPECT_TRUE(attached_) << "told after Detach";
    std::lock_guard lock(mutex_);
    ++count;
    noted_.notify_all();
  }
  uint64_t Count(const uint64_t& count) {
    std::lock_guard lock(mutex_);
    return count;
  }
  bool WaitFor(const uint64_t& count, uint64_t seen) {
    std::unique_lock lock(mutex_);
    return noted_.wait_for(lock, kPatience, [&] { return count > seen; });
  }

  NetworkPort& port_;
  NetworkPortInfo accepts_;
  std::atomic<bool> attached_ = false;
  std::vector<std::unique_ptr<uint8_t[]>> memory_;  // where frames arrive
  std::mutex mutex_;
  std::condition_variable noted_;
  uint64_t frames_ = 0, room_ = 0, links_ = 0;
};

inline Bytes RandomPayload(std::mt19937& random, size_t size) {
  Bytes bytes(size);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

inline MacAddress AddressOf(int side) { return {2, 0, 0, 0, 1, static_cast<uint8_t>(side + 1)}; }

// A frame from one side to the other that carries a number.
inline ethernet::FrameSpec SpecOf(int from, uint32_t number, std::mt19937& random, size_t payload_bytes) {
  ethernet::FrameSpec spec{.to = AddressOf(1 - from), .from = AddressOf(from), .protocol = ethernet::kUdp};
  spec.payload = RandomPayload(random, std::max<size_t>(payload_bytes, 4));
  ethernet::WriteBe32(spec.payload.data(), number);
  return spec;
}

inline uint32_t NumberOf(const TestFrame& frame) {
  const ethernet::FrameHeaders headers = ethernet::ReadHeaders(frame.bytes);
  return ethernet::ReadBe32(&frame.bytes[headers.payload_offset]);
}

}  // namespace hvsdk::network

#endif  // HVSDK_TESTS_NETWORK_TEST_ADAPTER_H_
