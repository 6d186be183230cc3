// SPDX-License-Identifier: Apache-2.0
// The provider on its own thread, a port that tells of frames and room on others, and a guest on the test's.

#include <atomic>
#include <chrono>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/ethernet/frame_builder.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"
#include "tests/vsp/network_fixture.h"

namespace hvsdk::vsp {
namespace {

// A scripted port that may be used from several threads.
class SharedPort : public NetworkPort {
 public:
  NetworkPortInfo info() const override { return {}; }
  bool link_is_up() const override { return is_up.load(); }
  absl::Status Attach(NetworkPortClient& client, const NetworkPortInfo&) override {
    std::lock_guard lock(mutex_);
    client_ = &client;
    return absl::OkStatus();
  }
  void ChangeAccepted(const NetworkPortInfo&) override {}
  // Whoever tells holds the other mutex, so nothing is told behind this.
  void Detach() override {
    std::lock_guard telling(telling_);
    std::lock_guard lock(mutex_);
    client_ = nullptr;
  }
  size_t Send(uint16_t, absl::Span<const OutgoingFrame> frames) override {
    std::lock_guard lock(mutex_);
    const size_t taken = std::min(room_, frames.size());
    room_ -= taken;
    for (const OutgoingFrame& frame : frames.first(taken)) {
      for (const HostBuffer& buffer : frame.buffers) bytes += buffer.size_bytes;
    }
    sent += taken;
    return taken;
  }
  size_t Receive(uint16_t, absl::Span<IncomingFrame> frames) override {
    std::lock_guard lock(mutex_);
    size_t count = 0;
    while (count < frames.size() && !waiting_.empty()) {
      const Bytes& frame = waiting_.front();
      size_t at = 0;
      for (const HostBuffer& buffer : frames[count].buffers) {
        const size_t size = std::min(buffer.size_bytes, frame.size() - at);
        std::memcpy(buffer.data, frame.data() + at, size);
        at += size;
      }
      frames[count++].size_bytes = at;
      waiting_.pop_front();
    }
    return count;
  }

  // On any thread. False: enough wait already.
  bool Give(const Bytes& frame) {
    std::lock_guard telling(telling_);
    {
      std::lock_guard lock(mutex_);
      if (client_ == nullptr || waiting_.size() >= 100) return false;
      waiting_.push_back(frame);
    }
    client_->OnFrames(0);
    return true;
  }
  void MakeRoom(size_t frames) {
    std::lock_guard telling(telling_);
    {
      std::lock_guard lock(mutex_);
      room_ += frames;
      if (client_ == nullptr) return;
    }
    client_->OnRoom(0);
  }
  void SetLink(bool up) {
    std::lock_guard telling(telling_);
    is_up = up;
    if (client_ != nullptr) client_->OnLink();
  }

  std::atomic<bool> is_up{true};
  std::atomic<uint64_t> sent{0}, bytes{0};

 private:
  std::mutex telling_, mutex_;
  NetworkPortClient* client_ = nullptr;
  std::deque<Bytes> waiting_;
  size_t room_ = 0;
};

class NetworkThreadsTest : public NetworkFixture {
 protected:
  void StartExecutor() {
    stop_ = false;
    thread_ = std::thread([this] {
      while (!stop_.load(std::memory_order_acquire)) {
        if (!executor_.RunOne()) std::this_thread::yield();
      }
    });
  }
  void StopExecutor() {
    stop_.store(true, std::memory_order_release);
    if (thread_.joinable()) thread_.join();
  }
  void TearDown() override {
    StopExecutor();
    NetworkFixture::TearDown();
  }

  std::atomic<bool> stop_{false};
  std::thread thread_;
};

TEST_F(NetworkThreadsTest, CarriesEveryFrameBothWays) {
  const uint32_t frames = ScaledCount(4000);
  const auto shared = std::make_shared<SharedPort>();
  std::mt19937 random(TestSeed());
  // The fixture's own port is not the one that is used.
  Make();
  network_.reset();
  Pump();
  network_ = *NetworkAdapter::Create(*server_, executor_, shared, {.instance_id = kInstance, .mac_address = kMac});
  Pump();
  auto opened = OpenReady();
  StartExecutor();

  ethernet::FrameSpec spec;
  spec.to = kMac;
  spec.payload.assign(200, 3);
  const Bytes in = ethernet::MakeFrame(spec);
  std::thread giver([&] {
    for (uint32_t given = 0; given < frames;) {
      if (shared->Give(in)) {
        ++given;
      } else {
        std::this_thread::yield();
      }
    }
  });
  std::atomic<bool> done{false};
  std::thread roomy([&] { MakeRoomUntil(done, *shared); });
  std::swap(spec.to, spec.from);
  const Bytes out = ethernet::MakeFrame(spec);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(120);
  uint32_t sent = 0;
  while (sent < frames || received_.size() < frames || opened->client->in_flight() != 0) {
    for (uint32_t burst = random() % 8; burst-- != 0 && sent < frames;) {
      if (!opened->client->Send({.data = out.data(), .size_bytes = static_cast<uint32_t>(out.size())})) break;
      ++sent;
    }
    opened->client->Publish();
    if (!child_->Poll()) std::this_thread::yield();
    if (std::chrono::steady_clock::now() > deadline) break;
  }
  done = true;
  giver.join();
  roomy.join();
  StopExecutor();
  EXPECT_EQ(sent, frames);
  EXPECT_EQ(received_.size(), frames);
  for (const Received& frame : received_) ASSERT_EQ(frame.bytes, in);
  // Some may be dropped while port and receive buffer are both full.
  EXPECT_EQ(shared->sent + network_->counts().transmit_errors, frames);
  EXPECT_GT(shared->sent, frames / 2);
  EXPECT_EQ(shared->bytes, shared->sent * out.size());
  EXPECT_EQ(network_->counts().transmitted.frames(), frames);
}

}  // namespace
}  // namespace hvsdk::vsp
