// SPDX-License-Identifier: Apache-2.0
// What several threads do to one partition: work on other VPs' registers, ports that come and go, timers beside VPs.
#include <atomic>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "partition/mailbox.h"
#include "partition/port_table.h"
#include "tests/partition/fake_machine.h"

namespace hvsdk::partition {
namespace {

namespace msr = hvdef::msr;
using fake::FakeMachine;
using hvdef::HvStatus;

struct NullHandler : backend::ExitHandler {
  void OnPortRead(backend::Vp&, uint16_t, absl::Span<uint8_t>) override {}
  void OnPortWrite(backend::Vp&, uint16_t, absl::Span<const uint8_t>) override {}
  void OnMmioRead(backend::Vp&, uint64_t, absl::Span<uint8_t>) override {}
  void OnMmioWrite(backend::Vp&, uint64_t, absl::Span<const uint8_t>) override {}
  backend::MsrOutcome OnMsrRead(backend::Vp&, uint32_t, uint64_t&) override { return backend::MsrOutcome::kFault; }
  backend::MsrOutcome OnMsrWrite(backend::Vp&, uint32_t, uint64_t) override { return backend::MsrOutcome::kFault; }
  backend::HypercallOutcome OnHypercall(backend::Vp&) override { return backend::HypercallOutcome::kUndefinedOpcode; }
};

// A VP's thread as the machine runs it: sleeping in the guest, kicked, serving.
class VpThread {
 public:
  explicit VpThread(Vp& vp)
      : thread_([this, &vp] {
          NullHandler handler;
          Vp::Session session(vp);
          while (!stop_) {
            if (!vp.backend().Run(handler).ok()) break;
            vp.RunPendingWork();
          }
        }),
        vp_(vp) {}
  ~VpThread() {
    stop_ = true;
    vp_.backend().Kick();
    thread_.join();
  }
  std::thread::id id() const { return thread_.get_id(); }

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
  Vp& vp_;
};

TEST(RunOn, WithoutAThreadItRunsHere) {
  FakeMachine machine;
  std::thread::id ran;
  machine.vps[1]->RunOn(machine.vps[0], [&] { ran = std::this_thread::get_id(); });
  EXPECT_EQ(ran, std::this_thread::get_id());
  machine.vps[1]->RunOn(nullptr, [&] { ran = {}; });
  EXPECT_EQ(ran, std::thread::id());
}

TEST(RunOn, AVpsThreadDoesIt) {
  FakeMachine machine;
  VpThread thread(*machine.vps[1]);
  // Its session may not be open yet; then it runs here, which is right too.
  std::thread::id ran;
  do {
    machine.vps[1]->RunOn(nullptr, [&] { ran = std::this_thread::get_id(); });
  } while (ran != thread.id());
  EXPECT_GT(machine.fake_vps[1]->kicks, 0);
}

// Each VP's thread asks all the others, over and over; circles of them must not lock up.
TEST(RunOn, VpsAskEachOtherAtOnce) {
  FakeMachine::Options options;
  options.vps = 3;
  FakeMachine machine(options);
  constexpr int kRounds = 3000;
  std::atomic<int> done{0}, running{3};
  std::vector<std::unique_ptr<std::atomic<int>>> in_use;  // a VP's registers have one user at a time
  for (int i = 0; i < 3; ++i) in_use.push_back(std::make_unique<std::atomic<int>>(0));
  std::vector<std::thread> threads;
  for (uint32_t self = 0; self < 3; ++self) {
    threads.emplace_back([&, self] {
      for (int round = 0; round < kRounds; ++round) {
        Vp::Session session(*machine.vps[self]);  // opened and closed all the time
        for (int call = 0; call < 2; ++call) {
          const uint32_t target = (self + 1 + (round + call) % 2) % 3;
          machine.vps[target]->RunOn(machine.vps[self], [&, target] {
            EXPECT_EQ(in_use[target]->fetch_add(1), 0);
            machine.fake_vps[target]->SetGpr(backend::Gpr::kRbx, self);
            in_use[target]->fetch_sub(1);
            ++done;
          });
        }
        machine.vps[self]->RunPendingWork();
      }
      --running;
    });
  }
  for (int round = 0; running != 0; ++round) {  // and a thread that is no VP's
    machine.vps[round % 3]->RunOn(nullptr, [] {});
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(done, 3 * kRounds * 2);
}

TEST(RunOn, HypercallReachesAVpInTheGuest) {
  FakeMachine machine;
  VpThread thread(*machine.vps[1]);
  hvdef::StartVirtualProcessorInput input{.partition_id = hvdef::kPartitionIdSelf, .vp_index = 1};
  input.context.rflags = 2;
  input.context.rip = 0x100000;
  EXPECT_EQ(machine.StatusOf(hvdef::CallCode::kStartVirtualProcessor, input), HvStatus::kSuccess);
  backend::Activity activity{};
  machine.vps[1]->RunOn(nullptr, [&] { activity = machine.fake_vps[1]->activity; });
  EXPECT_EQ(activity, backend::Activity::kRunning);
}

TEST(PortTable, UnregisterWaitsForTheHandler) {
  struct Slow : PortHandler {
    HvStatus OnEvent(uint16_t) override {
      inside = true;
      while (!release) std::this_thread::yield();
      inside = false;
      return HvStatus::kSuccess;
    }
    std::atomic<bool> inside{false}, release{false};
  } slow;
  PortTable table;
  ASSERT_TRUE(table.Register(ConnectionId{3}, &slow).ok());
  std::thread caller([&] { table.Use(ConnectionId{3}, [](PortHandler& port) { return port.OnEvent(0); }); });
  while (!slow.inside) std::this_thread::yield();
  std::thread releaser([&] { slow.release = true; });
  table.Unregister(ConnectionId{3});
  EXPECT_FALSE(slow.inside);
  caller.join();
  releaser.join();
}

TEST(PortTable, PortsComeAndGoWhileTheyAreUsed) {
  struct Counting : PortHandler {
    ~Counting() override { alive = false; }
    HvStatus OnEvent(uint16_t) override {
      EXPECT_TRUE(alive);
      ++calls;
      return HvStatus::kSuccess;
    }
    std::atomic<bool> alive{true};
    std::atomic<int> calls{0};
  };
  PortTable table;
  std::atomic<bool> stop{false};
  std::atomic<int> hits{0};
  std::vector<std::thread> users;
  for (int i = 0; i < 2; ++i) {
    users.emplace_back([&] {
      for (uint32_t n = 0; !stop; ++n) {
        const HvStatus status =
            table.Use(ConnectionId{0x10000 + n % 4}, [](PortHandler& port) { return port.OnEvent(0); });
        EXPECT_TRUE(status == HvStatus::kSuccess || status == HvStatus::kInvalidConnectionId);
        hits += status == HvStatus::kSuccess;
      }
    });
  }
  for (uint32_t round = 0; round < 3000 || hits < 100; ++round) {
    auto port = std::make_unique<Counting>();
    ASSERT_TRUE(table.Register(ConnectionId{0x10000 + round % 4}, port.get()).ok());
    if (round % 16 == 0) std::this_thread::yield();
    table.Unregister(ConnectionId{0x10000 + round % 4});
  }
  stop = true;
  for (auto& user : users) user.join();
}

// Afterwards each timer still fires, once, when it is due.
TEST(Threads, TimersFireWhileTheirVpsReprogramThem) {
  FakeMachine machine;
  machine.backend.StopRecording();
  machine.EnableSynic(0);
  machine.EnableSynic(1);
  std::atomic<bool> stop{false};
  std::vector<std::thread> vps;
  for (uint32_t vp = 0; vp < 2; ++vp) {
    vps.emplace_back([&, vp] {
      for (uint64_t n = 0; n < 20000; ++n) {
        const uint32_t timer = n % 4;
        machine.Write(msr::kStimer0Config + 2 * timer, n % 3 == 0 ? 0x4000A : 0x1308 | (n & 3), vp);
        machine.Write(msr::kStimer0Count + 2 * timer, 1 + n % 2000, vp);
        if (n % 16 == 0) machine.Write(msr::kEom, 0, vp);
        if (n % 64 == 0) machine.Write(msr::kSimp, FakeMachine::MessagePage(vp) | (n / 64 & 1), vp);
      }
    });
  }
  std::thread clock([&] {
    while (!stop) machine.timers.AdvanceBy(700);
  });
  for (auto& vp : vps) vp.join();
  stop = true;
  clock.join();

  constexpr uint32_t kTimerSint = 4;
  for (uint32_t vp = 0; vp < 2; ++vp) {
    machine.Write(msr::kSimp, FakeMachine::MessagePage(vp) | 1, vp);
    for (uint32_t timer = 0; timer < 4; ++timer) machine.Write(msr::kStimer0Config + 2 * timer, 0, vp);
    const auto take = [&] {
      machine.EmptySlot(kTimerSint, vp);
      machine.Write(msr::kEom, 0, vp);
      return machine.Slot(kTimerSint, vp);
    };
    for (int i = 0; i < 4; ++i) take();  // at most one message for each timer waits
    for (uint32_t timer = 0; timer < 4; ++timer) {
      ASSERT_EQ(take().header.message_type, 0u);
      machine.Write(msr::kStimer0Config + 2 * timer, kTimerSint << msr::kStimerSintShift | msr::kStimerAutoEnable, vp);
      const uint64_t due = machine.clock.Now100ns() + 1000;
      machine.Write(msr::kStimer0Count + 2 * timer, due, vp);
      machine.timers.AdvanceBy(999);
      EXPECT_EQ(machine.Slot(kTimerSint, vp).header.message_type, 0u);
      machine.timers.AdvanceBy(5000);
      const hvdef::Message message = machine.Slot(kTimerSint, vp);
      ASSERT_EQ(message.header.message_type, static_cast<uint32_t>(hvdef::MessageType::kTimerExpired));
      hvdef::TimerMessagePayload payload;
      std::memcpy(&payload, message.payload, sizeof(payload));
      EXPECT_EQ(payload.timer_index, timer);
      EXPECT_EQ(payload.expiration_time_100ns, due);
    }
  }
}

TEST(Threads, SignalsFromManyThreadsSetEveryFlag) {
  FakeMachine machine;
  machine.EnableSynic(0);
  std::vector<std::thread> threads;
  for (uint16_t first = 0; first < 4; ++first) {
    threads.emplace_back([&, first] {
      for (uint16_t flag = first; flag < 2048; flag += 4) {
        EXPECT_EQ(machine.partition->SignalEvent(VpIndex{0}, Sint{2}, flag), HvStatus::kSuccess);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  for (uint32_t i = 0; i < 256; ++i) EXPECT_EQ(machine.host[FakeMachine::FlagsPage(0) + 512 + i], 0xFF);
  EXPECT_EQ(machine.backend.interrupt_count(), 2048u);
}

}  // namespace
}  // namespace hvsdk::partition
