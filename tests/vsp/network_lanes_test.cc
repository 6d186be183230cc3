// SPDX-License-Identifier: Apache-2.0
// An adapter whose channels have their turns on threads of their own, a port with queues that tells of frames on others, and a guest
// that sends, receives, and opens and closes channels meanwhile, in an order of chance.

#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "hvsdk/state/component.h"
#include "tests/ethernet/frame_builder.h"
#include "tests/random_seed.h"
#include "tests/state/component_suite.h"
#include "tests/test_scale.h"
#include "tests/vsp/network_fixture.h"

namespace hvsdk::vsp {
namespace {

constexpr uint16_t kFlows = 16;
constexpr size_t kNumberAt = ethernet::kHeaderBytes + 20 + 20;  // behind IPv4's and TCP's headers

// A flow's frame of that number, of which every byte is known.
Bytes FrameOf(uint16_t flow, uint32_t number, bool to_guest) {
  ethernet::FrameSpec spec;
  spec.from_port = static_cast<uint16_t>(1000 + flow);
  spec.payload.assign(sizeof(number) + (flow * 131u + number * 17u) % 600, static_cast<uint8_t>(flow + number));
  std::memcpy(spec.payload.data(), &number, sizeof(number));
  spec.to = {0x00, 0x15, 0x5D, 0x01, 0x02, 0x03};
  if (!to_guest) std::swap(spec.to, spec.from);
  return ethernet::MakeFrame(spec);
}

// What has come of each flow: only what was sent, in its order, and nothing twice.
class Arrivals {
 public:
  void Take(const Bytes& frame, bool to_guest) {
    uint32_t number = 0;
    ASSERT_GE(frame.size(), kNumberAt + sizeof(number));
    const auto flow = static_cast<uint16_t>(ethernet::ReadBe16(frame.data() + ethernet::kHeaderBytes + 20) - 1000);
    std::memcpy(&number, frame.data() + kNumberAt, sizeof(number));
    ASSERT_LT(flow, kFlows);
    ASSERT_EQ(frame, FrameOf(flow, number, to_guest));
    ASSERT_TRUE(numbers_[flow].insert(number).second) << "flow " << flow << ": " << number << " twice";
    in_order_ = in_order_ && number == *numbers_[flow].rbegin();
    ++count_;
  }
  size_t count() const { return count_; }
  bool in_order() const { return in_order_; }

 private:
  std::array<std::set<uint32_t>, kFlows> numbers_;
  size_t count_ = 0;
  bool in_order_ = true;
};

// A port with queues, each of which is one thread's at a time, as it has to be.
class QueuedPort : public NetworkPort {
 public:
  static constexpr uint16_t kMaxQueues = 4;
  explicit QueuedPort(uint16_t queues) : queues_(queues) {}

  NetworkPortInfo info() const override { return {.queues = queues_}; }
  bool link_is_up() const override { return is_up.load(); }
  absl::Status Attach(NetworkPortClient& client, const NetworkPortInfo&) override {
    std::lock_guard telling(telling_);
    client_ = &client;
    return absl::OkStatus();
  }
  void ChangeAccepted(const NetworkPortInfo&) override {
    for (const Queue& queue : all_) EXPECT_FALSE(queue.in_use.load());
  }
  void Detach() override {
    std::lock_guard telling(telling_);
    client_ = nullptr;
  }
  size_t Send(uint16_t number, absl::Span<const OutgoingFrame> frames) override {
    Queue& queue = all_[number];
    EXPECT_LT(number, queues_);
    EXPECT_FALSE(queue.in_use.exchange(true));
    size_t taken = 0;
    while (taken < frames.size()) {
      if (limits_room.load() && room_.fetch_sub(1) <= 0) {
        room_.fetch_add(1);
        break;
      }
      Bytes bytes;
      const OutgoingFrame& frame = frames[taken++];
      for (const HostBuffer& buffer : frame.buffers) {
        const size_t size = std::min(buffer.size_bytes, frame.size_bytes - bytes.size());
        bytes.insert(bytes.end(), buffer.data, buffer.data + size);
      }
      std::lock_guard lock(mutex_);
      sent_.Take(bytes, /*to_guest=*/false);
    }
    EXPECT_TRUE(queue.in_use.exchange(false));
    return taken;
  }
  size_t Receive(uint16_t number, absl::Span<IncomingFrame> frames) override {
    Queue& queue = all_[number];
    EXPECT_LT(number, queues_);
    EXPECT_FALSE(queue.in_use.exchange(true));
    size_t count = 0;
    {
      std::lock_guard lock(mutex_);
      while (count < frames.size() && !queue.waiting.empty()) {
        const Bytes& frame = queue.waiting.front();
        size_t at = 0;
        for (const HostBuffer& buffer : frames[count].buffers) {
          const size_t size = std::min(buffer.size_bytes, frame.size() - at);
          std::memcpy(buffer.data, frame.data() + at, size);
          at += size;
        }
        frames[count++].size_bytes = at;
        queue.waiting.pop_front();
      }
    }
    EXPECT_TRUE(queue.in_use.exchange(false));
    return count;
  }

  // On any thread. False: enough wait already.
  bool Give(uint16_t flow, uint32_t number) {
    const auto queue = static_cast<uint16_t>(flow % queues_);
    std::lock_guard telling(telling_);
    {
      std::lock_guard lock(mutex_);
      if (client_ == nullptr || all_[queue].waiting.size() >= 100) return false;
      all_[queue].waiting.push_back(FrameOf(flow, number, /*to_guest=*/true));
    }
    client_->OnFrames(queue);
    return true;
  }
  void MakeRoom(int64_t frames) {
    room_.fetch_add(frames);
    Tell([&](NetworkPortClient& client) {
      for (uint16_t i = 0; i < queues_; ++i) client.OnRoom(i);
    });
  }
  void SetLink(bool up) {
    is_up = up;
    Tell([](NetworkPortClient& client) { client.OnLink(); });
  }
  size_t waiting() const {
    std::lock_guard lock(mutex_);
    size_t count = 0;
    for (const Queue& queue : all_) count += queue.waiting.size();
    return count;
  }
  Arrivals sent() const {
    std::lock_guard lock(mutex_);
    return sent_;
  }

  std::atomic<bool> is_up{true};
  std::atomic<bool> limits_room{true};

 private:
  struct Queue {
    std::atomic<bool> in_use{false};
    std::deque<Bytes> waiting;
  };
  template <typename F>
  void Tell(F tell) {
    std::lock_guard telling(telling_);
    if (client_ != nullptr) tell(*client_);
  }

  const uint16_t queues_;
  std::mutex telling_;
  NetworkPortClient* client_ = nullptr;  // changed with telling_ held
  std::atomic<int64_t> room_{0};
  mutable std::mutex mutex_;  // guards what follows
  std::array<Queue, kMaxQueues> all_;
  Arrivals sent_;
};

class NetworkLanesTest : public NetworkFixture {
 protected:
  static constexpr uint16_t kSubchannels = 3;

  void Begin(uint16_t queues, size_t executors) {
    shared_ = std::make_shared<QueuedPort>(queues);
    other_port_ = shared_;
    for (size_t i = 0; i < executors; ++i) more_executors_.emplace_back();
    Make({.max_subchannels = kSubchannels});
    StartThreads();
  }
  void StartThreads() {
    stop_ = false;
    const auto run = [this](QueueExecutor& executor) {
      threads_.emplace_back([this, &executor] {
        while (!stop_.load(std::memory_order_acquire)) {
          if (!executor.RunOne()) std::this_thread::yield();
        }
      });
    };
    run(executor_);
    for (QueueExecutor& executor : more_executors_) run(executor);
  }
  void StopThreads() {
    stop_.store(true, std::memory_order_release);
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }
  void TearDown() override {
    StopThreads();
    NetworkFixture::TearDown();
  }

  // On the adapter's executor, as whoever owns it does.
  template <typename F>
  void OnExecutor(F function) {
    struct Call final : Task {
      explicit Call(F& function) : function(function) {}
      void Run() override {
        function();
        done.store(true, std::memory_order_release);
      }
      F& function;
      std::atomic<bool> done{false};
    } call(function);
    executor_.Schedule(call);
    while (!call.done.load(std::memory_order_acquire)) std::this_thread::yield();
    executor_.Drain(call);
  }
  void Pause() {
    std::atomic<bool> paused{false};
    OnExecutor([&] { network_->Pause([&] { paused = true; }); });
    while (!paused.load()) std::this_thread::yield();
  }

  // Lets the guest look until that is so. False: it takes too long.
  template <typename Done>
  bool PollUntil(Done done) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(120);
    while (!done()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      if (!child_->Poll()) std::this_thread::yield();
    }
    return true;
  }

  void OpenAgain(Opened& opened, uint16_t index) {
    using State = vsc::Channel::State;
    opened.rings = vsc::ClientRings::Create(child_->host(opened.ring.pages.first_pfn * kPageSize), opened.ring);
    opened.client = std::make_unique<vsc::NetworkClient>(child_->client(), opened.channel, opened.rings);
    PrepareClient(*opened.client);
    ASSERT_TRUE(child_->client().Open(opened.channel, *child_->FindOffer(kInstance, index), opened.ring));
    ASSERT_TRUE(PollUntil([&] { return opened.channel.state() == State::kOpen; }));
  }
  void Close(Opened& opened) {
    child_->client().Close(opened.channel);
    ASSERT_TRUE(PollUntil([&] {
      return opened.channel.state() != vsc::Channel::State::kOpen &&
             opened.channel.state() != vsc::Channel::State::kClosing;
    }));
  }
  std::unique_ptr<Opened> NewOpened(uint16_t index) {
    auto opened = std::make_unique<Opened>();
    constexpr uint32_t kRingPages = 5;
    const uint64_t gpa = child_->AllocatePages(2 * kRingPages);
    opened->ring = {.pages = {.pfns = nullptr, .first_pfn = gpa / kPageSize, .page_count = 2 * kRingPages},
                    .outgoing_pages = kRingPages};
    OpenAgain(*opened, index);
    return opened;
  }
  void OpenSub(uint16_t index) {
    if (ends_[index] == nullptr) {
      ends_[index] = NewOpened(index);
    } else {
      OpenAgain(*ends_[index], index);
    }
    ends_[index]->client->StartSubchannel(*ends_[0]->client);
    ASSERT_EQ(ends_[index]->client->state(), vsc::NetworkClient::State::kReady);
  }
  // The whole adapter as a driver begins with it: its buffers, its subchannels, and flows on all of them.
  void OpenAll() {
    if (ends_[0] == nullptr) {
      ends_[0] = NewOpened(0);
    } else {
      OpenAgain(*ends_[0], 0);
    }
    vsc::NetworkClient& primary = *ends_[0]->client;
    primary.Start(buffers_);
    ASSERT_TRUE(PollUntil([&] {
      primary.OnSignal();
      return primary.state() == vsc::NetworkClient::State::kReady;
    }));
    ASSERT_TRUE(primary.RequestSubchannels(kSubchannels));
    primary.Publish();
    ASSERT_TRUE(PollUntil([&] { return child_->FindOffer(kInstance, kSubchannels) != nullptr; }));
    for (uint16_t i = 1; i <= kSubchannels; ++i) ASSERT_NO_FATAL_FAILURE(OpenSub(i));
    ASSERT_NO_FATAL_FAILURE(SetRss(1 + kSubchannels));
  }
  void CloseAll() {
    for (uint16_t i = kSubchannels; i != 0; --i) {
      if (!IsOpen(i)) continue;
      ASSERT_NO_FATAL_FAILURE(Close(*ends_[i]));
    }
    ASSERT_NO_FATAL_FAILURE(Close(*ends_[0]));
    ASSERT_TRUE(PollUntil([&] { return child_->FindOffer(kInstance, 1) == nullptr; }));
  }
  bool IsOpen(uint16_t i) const {
    return ends_[i] != nullptr && ends_[i]->client->state() == vsc::NetworkClient::State::kReady;
  }
  void SetRss(uint32_t channels) {
    vsc::NetworkClient& primary = *ends_[0]->client;
    const RssRequest rss(channels);
    ASSERT_TRUE(
        PollUntil([&] { return primary.Set(hvdef::rndis::Oid::kGenReceiveScaleParameters, &rss, sizeof(rss)); }));
    primary.Publish();
    ASSERT_TRUE(PollUntil([&] { return !primary.is_asking(); }));
    ASSERT_EQ(primary.answer_status(), hvdef::rndis::Status::kSuccess);
  }
  // False: there is no room at present.
  bool SendNext(uint16_t flow) {
    const uint16_t channel = flow % (1 + kSubchannels);
    if (!IsOpen(channel)) return false;
    const Bytes frame = FrameOf(flow, next_sent_[flow], /*to_guest=*/false);
    if (!ends_[channel]->client->Send({.data = frame.data(), .size_bytes = static_cast<uint32_t>(frame.size())})) {
      return false;
    }
    ++next_sent_[flow];
    ++sends_;
    return true;
  }
  void PublishAll() {
    for (uint16_t i = 0; i <= kSubchannels; ++i) {
      if (IsOpen(i)) ends_[i]->client->Publish();
    }
  }
  void TakeReceived() {
    for (const Received& frame : std::exchange(received_, {})) {
      ASSERT_NO_FATAL_FAILURE(arrived_.Take(frame.bytes, /*to_guest=*/true));
    }
  }
  bool HasInFlight() const {
    for (uint16_t i = 0; i <= kSubchannels; ++i) {
      if (IsOpen(i) && ends_[i]->client->in_flight() != 0) return true;
    }
    return false;
  }

  std::shared_ptr<QueuedPort> shared_;
  std::array<std::unique_ptr<Opened>, 1 + kSubchannels> ends_;
  std::array<uint32_t, kFlows> next_sent_ = {};
  size_t sends_ = 0;
  Arrivals arrived_;

 private:
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

class NetworkLanesCountTest : public NetworkLanesTest,
                              public testing::WithParamInterface<std::pair<uint16_t, size_t>> {};
// Port queues, and executors beside the adapter's: as many queues as lanes, fewer, more.
INSTANTIATE_TEST_SUITE_P(QueuesAndExecutors, NetworkLanesCountTest,
                         testing::Values(std::pair(4, 3), std::pair(1, 3), std::pair(3, 1)));

TEST_P(NetworkLanesCountTest, CarryEveryFrameInItsFlowsOrder) {
  const uint32_t frames = ScaledCount(1500);
  std::mt19937 random(TestSeed());
  ASSERT_NO_FATAL_FAILURE(Begin(GetParam().first, GetParam().second));
  ASSERT_NO_FATAL_FAILURE(OpenAll());
  std::thread giver([&] {
    std::array<uint32_t, kFlows> next = {};
    for (uint32_t given = 0; given < frames;) {
      const auto flow = static_cast<uint16_t>(given % kFlows);
      if (shared_->Give(flow, next[flow])) {
        ++next[flow];
        ++given;
      } else {
        std::this_thread::yield();
      }
    }
  });
  std::atomic<bool> done{false};
  std::thread roomy([&] { MakeRoomUntil(done, *shared_); });
  const bool all = PollUntil([&] {
    for (uint32_t burst = random() % 8; burst-- != 0 && sends_ < frames;) {
      if (!SendNext(static_cast<uint16_t>(random() % kFlows))) break;
    }
    PublishAll();
    return sends_ >= frames && arrived_.count() + received_.size() >= frames && !HasInFlight();
  });
  done = true;
  giver.join();
  roomy.join();
  StopThreads();
  EXPECT_TRUE(all);
  ASSERT_NO_FATAL_FAILURE(TakeReceived());
  EXPECT_EQ(arrived_.count(), frames);
  EXPECT_TRUE(arrived_.in_order());
  const NetworkCounts counts = network_->counts();
  EXPECT_EQ(counts.received.frames(), frames);
  EXPECT_EQ(counts.transmitted.frames(), frames);
  // Some may be dropped while port and receive buffer are both full.
  EXPECT_EQ(shared_->sent().count() + counts.transmit_errors, frames);
  EXPECT_GT(shared_->sent().count(), frames / 2);
  EXPECT_TRUE(shared_->sent().in_order());
}

// Nothing comes that was not sent, twice, or out of its turn on its channel, whatever the guest and the adapter's owner do meanwhile.
TEST_F(NetworkLanesTest, ChannelsComeAndGoUnderTraffic) {
  const uint32_t steps = ScaledCount(1500);
  std::mt19937 random(TestSeed());
  ASSERT_NO_FATAL_FAILURE(Begin(/*queues=*/3, /*executors=*/3));
  ASSERT_NO_FATAL_FAILURE(OpenAll());
  std::atomic<bool> done{false};
  std::thread giver([&] {
    std::array<uint32_t, kFlows> next = {};
    for (uint16_t flow = 0; !done; flow = static_cast<uint16_t>((flow + 1) % kFlows)) {
      if (shared_->Give(flow, next[flow])) ++next[flow];
      std::this_thread::yield();
    }
  });
  std::thread roomy([&] {
    for (uint32_t i = 0; !done; ++i) {
      if (i % 8 < 6) shared_->MakeRoom(1 + i % 7);
      if (i % 64 == 0) shared_->SetLink(i / 64 % 2 == 0);
      std::this_thread::yield();
    }
  });
  bool is_waiting_in_vain = false;
  size_t reopened = 0, restarted = 0, saved = 0, reset = 0;
  const auto step = [&] {
    const auto sub = static_cast<uint16_t>(1 + random() % kSubchannels);
    switch (random() % 64) {
      case 0:
      case 1:
        if (IsOpen(sub)) {
          // Of what is under way on it the guest is never told.
          const bool waits = random() % 2 == 0 && !is_waiting_in_vain;
          ASSERT_TRUE(PollUntil([&] { return !waits || !HasInFlight(); }));
          is_waiting_in_vain = is_waiting_in_vain || HasInFlight();
          Close(*ends_[sub]);
        } else {
          OpenSub(sub);
          ++reopened;
        }
        break;
      case 2:
        if (random() % 2 != 0) break;
        CloseAll();
        if (testing::Test::HasFatalFailure()) return;
        OpenAll();
        is_waiting_in_vain = false;
        ++restarted;
        break;
      case 3:
        Pause();
        OnExecutor([&] { (void)state::SaveOf(*network_); });
        OnExecutor([&] { network_->Resume(); });
        ++saved;
        break;
      case 4:
        SetRss(1 + static_cast<uint32_t>(random() % (1 + kSubchannels)));
        break;
      case 5:
        OnExecutor([&] {
          (void)network_->is_quiet();
          EXPECT_GE(network_->agreement().channels, 1);
        });
        break;
      case 6:
        // The guest begins anew, and knows nothing of what was.
        if (random() % 4 != 0) break;
        Pause();
        for (const auto& end : ends_) end->channel.on_signal = nullptr;
        OnExecutor([&] {
          server_->Reset();
          network_->Reset();
          network_->Resume();
        });
        while (child_->Poll()) {  // nothing of this is the next guest's
        }
        for (auto& end : ends_) end.reset();
        received_.clear();
        child_ = std::make_unique<vsc::LoopbackChild>(*hypervisor_, memory_);
        child_->Connect();
        ASSERT_TRUE(PollUntil([&] { return child_->client().state() == vsc::VmbusClient::State::kConnected; }));
        child_->client().RequestOffers();
        ASSERT_TRUE(PollUntil([&] { return child_->FindOffer(kInstance) != nullptr; }));
        (void)child_->AllocatePages(2 * kBufferPages);  // those that buffers_ has
        OpenAll();
        is_waiting_in_vain = false;
        ++reset;
        break;
      default:
        for (uint32_t burst = random() % 8; burst-- != 0;) (void)SendNext(static_cast<uint16_t>(random() % kFlows));
        PublishAll();
        for (uint32_t polls = random() % 4; polls-- != 0;) (void)child_->Poll();
        TakeReceived();
    }
  };
  for (uint32_t i = 0; i < steps && !testing::Test::HasFailure(); ++i) step();
  done = true;
  giver.join();
  roomy.join();
  // What there still is comes, and all sends are answered.
  shared_->limits_room = false;
  shared_->MakeRoom(0);
  EXPECT_TRUE(PollUntil([&] { return shared_->waiting() == 0 && (is_waiting_in_vain || !HasInFlight()); }));
  StopThreads();
  TakeReceived();
  EXPECT_LE(shared_->sent().count(), sends_);
  EXPECT_GT(shared_->sent().count(), 0u);
  EXPECT_GT(arrived_.count(), 0u);
  printf("%zu sent, %zu arrived; %zu subchannels opened again, %zu restarts, %zu states, %zu resets\n",
         shared_->sent().count(), arrived_.count(), reopened, restarted, saved, reset);
  // The adapter goes with whatever its channels have.
  StartThreads();
  OnExecutor([&] { network_.reset(); });
}

}  // namespace
}  // namespace hvsdk::vsp
