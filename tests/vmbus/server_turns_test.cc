// SPDX-License-Identifier: Apache-2.0
// A call of a guest ends soon, however much other calls give the server to do, and nothing that was given is forgotten.

#include <atomic>
#include <chrono>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "hvsdk/base/queue_executor.h"
#include "hvsdk/hvdef/vmbus.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/vmbus/loopback_hypervisor.h"
#include "hvsdk/vmbus/server.h"

namespace hvsdk::vmbus {
namespace {

namespace wire = hvdef::vmbus;

class ServerTurnsTest : public testing::Test {
 protected:
  void Make(bool with_executor) {
    ServerResources resources;
    if (with_executor) resources.executor = &executor_;
    server_ = std::make_unique<Server>(memory_, hypervisor_, ServerOptions{}, resources);
    ASSERT_TRUE(server_->Start().ok());
  }
  // A message that the server answers at once: a version that it does not know.
  hvdef::HvStatus Post() {
    wire::InitiateContact message = {};
    message.header.message_type = static_cast<uint32_t>(wire::MessageType::kInitiateContact);
    message.version = 0x00630000;
    message.interrupt_page_or_target = wire::kMessageSint;
    uint8_t bytes[sizeof(message)];
    std::memcpy(bytes, &message, sizeof(message));
    return hypervisor_.ChildPostMessage(ConnectionId{wire::kMessageConnectionId}, wire::kSynicMessageType, bytes);
  }
  // Takes all that is there; returns how many.
  int Take() {
    LoopbackHypervisor::Message message;
    int count = 0;
    while (hypervisor_.TakeMessage(VpIndex{0}, Sint{wire::kMessageSint}, message)) ++count;
    return count;
  }

  GuestMemory memory_;
  LoopbackHypervisor hypervisor_{1};
  QueueExecutor executor_;
  std::unique_ptr<Server> server_;
};

// Whoever acts is given more to do with each step, as by other processors that call without a pause.
TEST_F(ServerTurnsTest, ACallEndsThoughOthersNeverStop) {
  Make(/*with_executor=*/true);
  int shown = 0;
  bool flooding = true;
  server_->SetMessageObserver([&](Server::Direction direction, absl::Span<const uint8_t>) {
    ++shown;
    if (flooding && direction == Server::Direction::kToRoot) (void)Post();
    ASSERT_LT(shown, 10'000) << "the call does not come back";
  });
  ASSERT_EQ(Post(), hvdef::HvStatus::kSuccess);
  EXPECT_GT(shown, 0);
  EXPECT_LE(shown, 64);
  // The rest is the executor's, a turn at a time.
  int before = shown;
  for (int turn = 0; turn < 10; ++turn) {
    ASSERT_TRUE(executor_.RunOne());
    EXPECT_GT(shown, before);
    EXPECT_LE(shown, before + 64);
    before = shown;
    (void)Take();
  }
  flooding = false;
  executor_.RunUntilIdle();
  (void)Take();
  before = shown;
  executor_.RunUntilIdle();
  EXPECT_EQ(shown, before) << "something was left over";
}

TEST_F(ServerTurnsTest, WithoutAnExecutorTheCallDoesAll) {
  Make(/*with_executor=*/false);
  int left = 1000;
  server_->SetMessageObserver([&](Server::Direction direction, absl::Span<const uint8_t>) {
    if (direction == Server::Direction::kToRoot && --left > 0) (void)Post();
    (void)Take();
  });
  ASSERT_EQ(Post(), hvdef::HvStatus::kSuccess);
  EXPECT_EQ(left, 0);
}

// An observer that is slower than the guest costs bounded memory, and is told what it did not see.
TEST_F(ServerTurnsTest, WhatTheObserverMissesIsCounted) {
  Make(/*with_executor=*/false);
  constexpr int kMessages = 50'000;
  int shown = 0;
  uint64_t lost = 0;
  const auto show = [&](Server::Direction direction, absl::Span<const uint8_t>) {
    if (direction == Server::Direction::kToRoot) ++shown;
    // All come while it looks at the first.
    for (int i = 1; shown == 1 && direction == Server::Direction::kToRoot && i < kMessages; ++i) (void)Post();
    (void)Take();
  };
  server_->SetMessageObserver(show, [&](uint64_t count) { lost += count; });
  ASSERT_EQ(Post(), hvdef::HvStatus::kSuccess);
  EXPECT_LE(shown, 1 + 1024);
  EXPECT_GE(shown + lost, kMessages) << "with the answers";
  const int before = shown;
  ASSERT_EQ(Post(), hvdef::HvStatus::kSuccess);
  EXPECT_EQ(shown, before + 1);
}

// Nothing that was left over is forgotten: whatever the others do and have done, a message is answered.
TEST_F(ServerTurnsTest, FloodingProcessorsHoldUpNobody) {
  Make(/*with_executor=*/true);
  constexpr int kThreads = 4;
  constexpr int kMessages = 5000;
  std::atomic<uint64_t> seen{0};
  std::atomic<int> taken{0};
  server_->SetMessageObserver([&](Server::Direction, absl::Span<const uint8_t>) { ++seen; },
                              [&](uint64_t lost) { seen += lost; });
  std::atomic<bool> stop{false};
  std::thread loop([&] {
    while (!stop.load(std::memory_order_acquire)) {
      if (!executor_.RunOne()) std::this_thread::yield();
    }
  });
  std::thread reader([&] {
    while (!stop.load(std::memory_order_acquire)) {
      taken += Take();
      std::this_thread::yield();
    }
  });
  std::vector<std::thread> processors;
  for (int i = 0; i < kThreads; ++i) {
    processors.emplace_back([&] {
      for (int sent = 0; sent < kMessages; ++sent) EXPECT_EQ(Post(), hvdef::HvStatus::kSuccess);
    });
  }
  for (std::thread& thread : processors) thread.join();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  const auto wait_for = [&](auto done) {
    while (!done() && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    EXPECT_TRUE(done());
  };
  wait_for([&] { return seen >= uint64_t{kThreads} * kMessages; });
  // The first of these may find an answer to the flood.
  for (int i = 0; i < 3; ++i) {
    const int before = taken;
    EXPECT_EQ(Post(), hvdef::HvStatus::kSuccess);
    wait_for([&] { return taken > before; });
  }
  stop = true;
  loop.join();
  reader.join();
}

}  // namespace
}  // namespace hvsdk::vmbus
