// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <atomic>
#include <cstring>
#include <deque>
#include <random>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/partition/fake_machine.h"
#include "tests/random_seed.h"

namespace hvsdk::partition {
namespace {

namespace msr = hvdef::msr;
using fake::FakeMachine;
using hvdef::HvStatus;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Interrupt = fake::FakePartition::Interrupt;

class SynicTest : public ::testing::Test, public MessageSlotObserver {
 protected:
  SynicTest() {
    machine_.partition->SetMessageSlotObserver(this);
    machine_.EnableSynic(0);
    machine_.EnableSynic(1);
  }
  HvStatus Post(uint32_t sint, uint32_t type, absl::Span<const uint8_t> payload = {}, uint32_t vp = 0) {
    return machine_.partition->PostMessage(VpIndex{vp}, Sint{static_cast<uint8_t>(sint)}, type, payload);
  }
  HvStatus Signal(uint32_t sint, uint16_t flag, uint32_t vp = 0) {
    return machine_.partition->SignalEvent(VpIndex{vp}, Sint{static_cast<uint8_t>(sint)}, flag);
  }
  bool FlagIsSet(uint32_t sint, uint16_t flag, uint32_t vp = 0) {
    return (machine_.host[FakeMachine::FlagsPage(vp) + sint * 256 + flag / 8] >> flag % 8 & 1) != 0;
  }
  void OnMessageSlotFree(VpIndex vp, Sint sint) override { freed_.emplace_back(ToInt(vp), ToInt(sint)); }

  FakeMachine machine_;
  std::vector<std::pair<uint32_t, uint32_t>> freed_;
};

TEST_F(SynicTest, AMessageFillsItsSlotAndInterrupts) {
  const uint8_t payload[] = {1, 2, 3};
  machine_.host[FakeMachine::MessagePage(1) + 2 * 256 + 19] = 0x77;
  EXPECT_EQ(Post(2, 0x1234, payload, 1), HvStatus::kSuccess);
  const hvdef::Message slot = machine_.Slot(2, 1);
  EXPECT_EQ(slot.header.message_type, 0x1234u);
  EXPECT_EQ(slot.header.payload_size, 3);
  EXPECT_EQ(slot.header.flags, 0);
  EXPECT_EQ(slot.header.origin, 0u);
  EXPECT_EQ(slot.payload[2], 3);
  EXPECT_EQ(slot.payload[3], 0x77) << "no more than the payload is written";
  EXPECT_THAT(machine_.backend.TakeInterrupts(), ElementsAre(Interrupt{1, 0x42, false}));
}

TEST_F(SynicTest, ABareInterruptLeavesMemoryAlone) {
  const auto assert_sint = [&](uint32_t sint, uint32_t vp) {
    return machine_.partition->AssertSint(VpIndex{vp}, Sint{static_cast<uint8_t>(sint)});
  };
  const std::vector<uint8_t> before(machine_.host.begin(), machine_.host.end());
  EXPECT_EQ(assert_sint(2, 1), HvStatus::kSuccess);
  EXPECT_THAT(machine_.backend.TakeInterrupts(), ElementsAre(Interrupt{1, 0x42, false}));
  EXPECT_TRUE(std::equal(before.begin(), before.end(), machine_.host.begin()));

  EXPECT_EQ(assert_sint(2, 7), HvStatus::kInvalidVpIndex);
  EXPECT_EQ(assert_sint(16, 1), HvStatus::kInvalidParameter);
  machine_.Write(msr::kSint0 + 2, 0x42 | msr::kSintPolling);
  EXPECT_EQ(assert_sint(2, 0), HvStatus::kInvalidSynicState);
  machine_.Write(msr::kSint0 + 2, 0x42 | msr::kSintMasked);
  EXPECT_EQ(assert_sint(2, 0), HvStatus::kInvalidSynicState);
  machine_.Write(msr::kSint0 + 2, 0x42);
  EXPECT_EQ(assert_sint(2, 0), HvStatus::kSuccess);
  EXPECT_THAT(machine_.backend.TakeInterrupts(), ElementsAre(Interrupt{0, 0x42, false}));
  machine_.Write(msr::kScontrol, 0);
  EXPECT_EQ(assert_sint(2, 0), HvStatus::kInvalidSynicState);
  EXPECT_THAT(machine_.backend.TakeInterrupts(), IsEmpty());
}

TEST_F(SynicTest, MessagesQueueAndFollowOnEom) {
  for (uint32_t type = 1; type <= 3; ++type) EXPECT_EQ(Post(2, type), HvStatus::kSuccess);
  EXPECT_EQ(machine_.Slot(2).header.message_type, 1u);
  EXPECT_EQ(machine_.Slot(2).header.flags, hvdef::kMessagePending) << "set once another waits";
  EXPECT_EQ(machine_.backend.TakeInterrupts().size(), 1u);
  machine_.Write(msr::kEom, 0);
  EXPECT_EQ(machine_.Slot(2).header.message_type, 1u) << "the slot is full still";
  machine_.EmptySlot(2);
  machine_.Write(msr::kEom, 0);
  EXPECT_EQ(machine_.Slot(2).header.message_type, 2u);
  EXPECT_EQ(machine_.Slot(2).header.flags, hvdef::kMessagePending);
  machine_.EmptySlot(2);
  machine_.Write(msr::kEom, 0);
  EXPECT_EQ(machine_.Slot(2).header.message_type, 3u);
  EXPECT_EQ(machine_.Slot(2).header.flags, 0);
  EXPECT_EQ(machine_.backend.TakeInterrupts().size(), 2u);
}

TEST_F(SynicTest, AnotherMessagePushesTheQueueOn) {
  Post(2, 1);
  Post(2, 2);
  machine_.EmptySlot(2);
  Post(2, 3);
  EXPECT_EQ(machine_.Slot(2).header.message_type, 2u) << "in the order they were posted";
}

TEST_F(SynicTest, TheQueueIsBoundedAndItsRoomAnnouncedOnce) {
  for (uint32_t type = 1; type <= 17; ++type) EXPECT_EQ(Post(3, type), HvStatus::kSuccess) << type;
  EXPECT_EQ(Post(3, 18), HvStatus::kInsufficientBuffers);
  EXPECT_EQ(Post(3, 18), HvStatus::kInsufficientBuffers);
  EXPECT_EQ(Post(4, 1), HvStatus::kSuccess) << "another SINT has its own";
  EXPECT_THAT(freed_, IsEmpty());
  machine_.EmptySlot(3);
  machine_.Write(msr::kEom, 0);
  EXPECT_THAT(freed_, ElementsAre(std::pair(0u, 3u)));
  for (uint32_t type = 3; type <= 17; ++type) {
    machine_.EmptySlot(3);
    machine_.Write(msr::kEom, 0);
    EXPECT_EQ(machine_.Slot(3).header.message_type, type);
  }
  EXPECT_EQ(freed_.size(), 1u);
}

TEST_F(SynicTest, MaskedAndPollingSourcesTakeMessagesQuietly) {
  machine_.Write(msr::kSint0 + 5, msr::kSintMasked);
  machine_.Write(msr::kSint0 + 6, 0x50 | msr::kSintPolling);
  EXPECT_EQ(Post(5, 1), HvStatus::kSuccess);
  EXPECT_EQ(Post(6, 1), HvStatus::kSuccess);
  EXPECT_EQ(machine_.Slot(5).header.message_type, 1u);
  EXPECT_EQ(machine_.Slot(6).header.message_type, 1u);
  EXPECT_EQ(Signal(5, 0), HvStatus::kInvalidSynicState);
  EXPECT_FALSE(FlagIsSet(5, 0));
  EXPECT_EQ(Signal(6, 0), HvStatus::kSuccess);
  EXPECT_TRUE(FlagIsSet(6, 0));
  EXPECT_THAT(machine_.backend.TakeInterrupts(), IsEmpty());
}

TEST_F(SynicTest, EventFlagsInterruptOnlyWhenNewlySet) {
  EXPECT_EQ(Signal(1, 2047, 1), HvStatus::kSuccess);
  EXPECT_TRUE(FlagIsSet(1, 2047, 1));
  EXPECT_THAT(machine_.backend.TakeInterrupts(), ElementsAre(Interrupt{1, 0x41, false}));
  EXPECT_EQ(Signal(1, 2047, 1), HvStatus::kSuccess);
  EXPECT_THAT(machine_.backend.TakeInterrupts(), IsEmpty());
  EXPECT_EQ(Signal(1, 2046, 1), HvStatus::kSuccess);
  EXPECT_EQ(machine_.backend.TakeInterrupts().size(), 1u);
  machine_.host[FakeMachine::FlagsPage(1) + 256 + 255] = 0;
  EXPECT_EQ(Signal(1, 2047, 1), HvStatus::kSuccess);
  EXPECT_EQ(machine_.backend.TakeInterrupts().size(), 1u);
}

TEST_F(SynicTest, BadTargets) {
  EXPECT_EQ(Post(2, 1, {}, 2), HvStatus::kInvalidVpIndex);
  EXPECT_EQ(Post(16, 1), HvStatus::kInvalidParameter);
  EXPECT_EQ(Post(2, 0), HvStatus::kInvalidParameter);
  EXPECT_EQ(Post(2, 1, std::vector<uint8_t>(241)), HvStatus::kInvalidParameter);
  EXPECT_EQ(Signal(2, 0, 2), HvStatus::kInvalidVpIndex);
  EXPECT_EQ(Signal(16, 0), HvStatus::kInvalidParameter);
  EXPECT_EQ(Signal(2, 2048), HvStatus::kInvalidParameter);
  machine_.Write(msr::kSimp, FakeMachine::MessagePage(0));
  EXPECT_EQ(Post(2, 1), HvStatus::kInvalidSynicState);
  machine_.Write(msr::kSiefp, FakeMachine::FlagsPage(0));
  EXPECT_EQ(Signal(2, 1), HvStatus::kInvalidSynicState);
  machine_.Write(msr::kScontrol, 0, 1);
  EXPECT_EQ(Post(2, 1, {}, 1), HvStatus::kInvalidSynicState);
  EXPECT_EQ(Signal(2, 1, 1), HvStatus::kInvalidSynicState);
  EXPECT_THAT(machine_.backend.TakeInterrupts(), IsEmpty());
}

TEST_F(SynicTest, SintValues) {
  EXPECT_FALSE(machine_.Allows(msr::kSint0, 15)) << "vectors begin at 16";
  EXPECT_TRUE(machine_.Allows(msr::kSint0, 16));
  EXPECT_TRUE(machine_.Allows(msr::kSint0, msr::kSintMasked)) << "what it is after reset";
  EXPECT_TRUE(machine_.Allows(msr::kSint0, 0xFFFF'FFFF'FFF8'FF30)) << "preserved bits";
  EXPECT_EQ(machine_.Read(msr::kSint0), 0xFFFF'FFFF'FFF8'FF30u);
  EXPECT_TRUE(machine_.Allows(msr::kSint0 + 1, 0x30 | msr::kSintAutoEoi));
  Post(1, 1);
  EXPECT_THAT(machine_.backend.TakeInterrupts(), ElementsAre(Interrupt{0, 0x30, true}));
  EXPECT_FALSE(machine_.Allows(msr::kSversion, 1));

  FakeMachine::Options options;
  options.caps.auto_eoi = false;
  FakeMachine without(options);
  EXPECT_FALSE(without.Allows(msr::kSint0 + 1, 0x30 | msr::kSintAutoEoi)) << "where the engine has no AutoEOI";
}

TEST_F(SynicTest, TheEngineKnowsWhichVectorsEndByThemselves) {
  const auto& known = machine_.fake_vps[0]->auto_eoi_vectors;
  machine_.Write(msr::kSint0 + 3, 0x40 | msr::kSintAutoEoi);
  EXPECT_EQ(known[3], 0x40);
  machine_.Write(msr::kSint0 + 3, 0x41 | msr::kSintAutoEoi | msr::kSintMasked);
  EXPECT_EQ(known[3], 0x41) << "one that was requested before may be on its way";
  machine_.Write(msr::kSint0 + 3, 5 | msr::kSintAutoEoi | msr::kSintMasked);
  EXPECT_EQ(known[3], 0) << "no vector of the local APIC's";
  machine_.Write(msr::kSint0 + 3, 0x40 | msr::kSintAutoEoi);
  EXPECT_FALSE(machine_.Allows(msr::kSint0 + 3, 5 | msr::kSintAutoEoi));
  EXPECT_EQ(known[3], 0x40) << "a value that is refused changes nothing";
  machine_.Write(msr::kSint0 + 3, 0x40);
  EXPECT_EQ(known[3], 0);
  machine_.Write(msr::kSint0 + 3, 0x40 | msr::kSintAutoEoi);
  machine_.partition->Reset();
  EXPECT_EQ(known[3], 0);
}

TEST_F(SynicTest, PagesMoveAndGiveBack) {
  std::memset(&machine_.host[0x20000], 0x5A, kPageSize);
  Post(2, 7);
  Post(2, 8);
  machine_.Write(msr::kSimp, 0x20001);
  EXPECT_EQ(machine_.Slot(2).header.message_type, 0u) << "the guest's own page again";
  hvdef::MessageHeader header;
  std::memcpy(&header, &machine_.host[0x20000 + 2 * 256], sizeof(header));
  EXPECT_EQ(header.message_type, 7u) << "the message page moved with its message";
  machine_.Write(msr::kSimp, 0);
  EXPECT_EQ(machine_.host[0x20000], 0x5A);
  EXPECT_EQ(machine_.host[0x20000 + 2 * 256], 0x5A);
}

TEST_F(SynicTest, WhatWaitedComesWhenThePageIsEnabled) {
  Post(2, 7);
  Post(2, 8);
  machine_.EmptySlot(2);
  machine_.Write(msr::kSimp, 0);
  machine_.backend.TakeInterrupts();
  machine_.Write(msr::kSimp, FakeMachine::MessagePage(0) | 1);
  EXPECT_EQ(machine_.Slot(2).header.message_type, 8u);
  EXPECT_EQ(machine_.backend.TakeInterrupts().size(), 1u);
}

TEST_F(SynicTest, PagesOutsideMemorySwallow) {
  machine_.Write(msr::kSimp, FakeMachine::kMemoryBytes | 1);
  machine_.Write(msr::kSiefp, ~uint64_t{0xFFE});
  EXPECT_EQ(Post(2, 1), HvStatus::kSuccess);
  EXPECT_EQ(Signal(2, 1), HvStatus::kSuccess);
}

// One VP's SynIC against a model of its rules; three sources, so that they meet often.
class SynicModel : public SynicTest {
 protected:
  static constexpr uint32_t kSints = 3;

  bool enabled() const { return scontrol_ && simp_; }
  void Fill(uint32_t sint, uint32_t type) {
    slot_[sint] = type;
    pending_[sint] = !queue_[sint].empty();
    Raise(sint);
  }
  void Raise(uint32_t sint) {
    if ((sint_[sint] & (msr::kSintMasked | msr::kSintPolling)) != 0) return;
    expected_.push_back({0, static_cast<uint8_t>(sint_[sint]), (sint_[sint] & msr::kSintAutoEoi) != 0});
  }
  void DeliverAll() {
    if (!enabled()) return;
    for (uint32_t sint = 0; sint < kSints; ++sint) Deliver(sint);
  }
  void Deliver(uint32_t sint) {
    if (queue_[sint].empty()) return;
    if (slot_[sint] != 0) {
      pending_[sint] = true;
      return;
    }
    const uint32_t type = queue_[sint].front();
    queue_[sint].pop_front();
    if (found_full_[sint]) expected_freed_.emplace_back(0, sint);
    found_full_[sint] = false;
    Fill(sint, type);
  }

  bool scontrol_ = true, simp_ = true, siefp_ = true;
  std::array<uint64_t, kSints> sint_{0x40, 0x41, 0x42};
  std::array<uint32_t, kSints> slot_{};
  std::array<bool, kSints> pending_{}, found_full_{};
  std::array<std::deque<uint32_t>, kSints> queue_;
  std::array<bool, kSints * 4> flags_{};
  std::vector<Interrupt> expected_;
  std::vector<std::pair<uint32_t, uint32_t>> expected_freed_;
};

TEST_F(SynicModel, AgreesOnRandomSteps) {
  const uint32_t seed = TestSeed();
  std::mt19937 random(seed);
  uint32_t next_type = 1;
  for (int step = 0; step < 100000; ++step) {
    const uint32_t sint = random() % kSints;
    switch (random() % 16) {
      case 0: {
        scontrol_ = random() % 8 != 0;
        machine_.Write(msr::kScontrol, scontrol_);
        DeliverAll();
        break;
      }
      case 1: {
        simp_ = random() % 4 != 0;
        machine_.Write(msr::kSimp, FakeMachine::MessagePage(0) | (simp_ ? 1 : 0));
        DeliverAll();
        break;
      }
      case 2: {
        siefp_ = random() % 4 != 0;
        machine_.Write(msr::kSiefp, FakeMachine::FlagsPage(0) | (siefp_ ? 1 : 0));
        break;
      }
      case 3: {
        const uint64_t value = (random() % 256) | (random() % 4 == 0 ? msr::kSintMasked : 0) |
                               (random() % 4 == 0 ? msr::kSintPolling : 0) |
                               (random() % 4 == 0 ? msr::kSintAutoEoi : 0);
        const bool quiet = (value & (msr::kSintMasked | msr::kSintPolling)) != 0;
        const bool allowed = quiet || (value & 0xFF) >= 16;
        ASSERT_EQ(machine_.Allows(msr::kSint0 + sint, value), allowed);
        if (allowed) sint_[sint] = value;
        break;
      }
      case 4:
      case 5:
      case 6:  // the guest takes a message, and asks for more if it should
        if (!simp_) break;
        machine_.EmptySlot(sint);
        slot_[sint] = 0;
        if ((machine_.Slot(sint).header.flags & hvdef::kMessagePending) == 0) break;
        [[fallthrough]];
      case 7:
        machine_.Write(msr::kEom, 0);
        DeliverAll();
        break;
      case 8: {
        if (!siefp_) break;
        const uint32_t flag = random() % 4;
        machine_.host[FakeMachine::FlagsPage(0) + sint * 256] &= ~(1u << flag);
        flags_[sint * 4 + flag] = false;
        break;
      }
      case 9:
      case 10: {
        const uint32_t flag = random() % 4;
        const bool works = scontrol_ && siefp_ && (sint_[sint] & msr::kSintMasked) == 0;
        ASSERT_EQ(Signal(sint, flag), works ? HvStatus::kSuccess : HvStatus::kInvalidSynicState);
        if (!works || flags_[sint * 4 + flag]) break;
        flags_[sint * 4 + flag] = true;
        Raise(sint);
        break;
      }
      default: {
        const uint32_t type = next_type++;
        HvStatus expected = HvStatus::kSuccess;
        if (!enabled()) {
          expected = HvStatus::kInvalidSynicState;
        } else if (queue_[sint].empty() && slot_[sint] == 0) {
          Fill(sint, type);
        } else if (queue_[sint].size() == 16) {
          found_full_[sint] = true;
          expected = HvStatus::kInsufficientBuffers;
        } else {
          queue_[sint].push_back(type);
          Deliver(sint);
        }
        ASSERT_EQ(Post(sint, type), expected) << "step " << step;
        break;
      }
    }
    ASSERT_EQ(machine_.backend.TakeInterrupts(), std::exchange(expected_, {})) << "step " << step;
    ASSERT_EQ(std::exchange(freed_, {}), std::exchange(expected_freed_, {})) << "step " << step;
    for (uint32_t each = 0; each < kSints; ++each) {
      if (simp_) {
        ASSERT_EQ(machine_.Slot(each).header.message_type, slot_[each]) << "step " << step;
        if (slot_[each] != 0) {
          ASSERT_EQ(machine_.Slot(each).header.flags, pending_[each] ? 1 : 0) << "step " << step;
        }
      }
      for (uint32_t flag = 0; siefp_ && flag < 4; ++flag) ASSERT_EQ(FlagIsSet(each, flag), flags_[each * 4 + flag]);
    }
  }
}

// The guest's protocol of emptying a slot on one thread, two senders on others: every message arrives, in order for
// each sender.
TEST_F(SynicTest, NoMessageIsLostBetweenThreads) {
  constexpr uint32_t kMessages = 20000;
  machine_.backend.StopRecording();
  std::vector<std::thread> senders;
  for (uint32_t sender = 0; sender < 2; ++sender) {
    senders.emplace_back([&, sender] {
      for (uint32_t i = 1; i <= kMessages;) {
        if (Post(2, i * 2 + sender) == HvStatus::kSuccess) {
          ++i;
        } else {
          std::this_thread::yield();
        }
      }
    });
  }
  std::array<uint32_t, 2> last{};
  uint32_t received = 0;
  std::atomic_ref<uint32_t> type(*machine_.memory.Word<uint32_t>(FakeMachine::MessagePage(0) + 2 * 256));
  std::atomic_ref<uint8_t> flags(machine_.host[FakeMachine::MessagePage(0) + 2 * 256 + 5]);
  uint64_t seen_interrupts = 0;
  while (received < 2 * kMessages) {
    // A guest looks only when it is interrupted; a lost wake-up hangs here.
    const uint64_t interrupts = machine_.backend.interrupt_count();
    if (interrupts == seen_interrupts) {
      std::this_thread::yield();
      continue;
    }
    seen_interrupts = interrupts;
    while (const uint32_t message = type.load(std::memory_order_acquire)) {
      ASSERT_EQ(message / 2, last[message % 2] + 1);
      last[message % 2] = message / 2;
      ++received;
      type.store(0, std::memory_order_release);
      std::atomic_thread_fence(std::memory_order_seq_cst);
      if ((flags.load(std::memory_order_relaxed) & hvdef::kMessagePending) == 0) break;
      machine_.Write(msr::kEom, 0);
    }
  }
  for (auto& sender : senders) sender.join();
}

}  // namespace
}  // namespace hvsdk::partition
