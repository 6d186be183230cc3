// SPDX-License-Identifier: Apache-2.0
// Ports between two machines: what they refuse, what a sender is told while its receiver is not running, and their
// state. What guests do with them is in host_test.cc.

#include "hvsdk/machine/partition_ports.h"

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/hvdef/message.h"
#include "hvsdk/hvdef/msr.h"
#include "hvsdk/machine/machine.h"
#include "hvsdk/vmm/backends.h"
#include "tests/state/component_suite.h"

namespace hvsdk::machine {
namespace {

using hvdef::HvStatus;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr ConnectionId kConnection{0x20000};
constexpr PartitionPort kMessages{.id = 7, .sint = Sint{3}};
constexpr PartitionPort kEvents{
    .type = PartitionPort::Type::kEvent, .sint = Sint{4}, .base_flag = 100, .flag_count = 8};

class NoEvents final : public partition::PartitionEvents {
 public:
  void OnResetRequested(VpIndex) override {}
  void OnCrash(const partition::CrashReport&) override {}
};

// A machine that never runs, with its ports and no guest: its SynIC is set up from here.
class Stand {
 public:
  explicit Stand(PartitionPorts& ports, uint32_t cpus = 2) : ports_(ports) {
    boot::LoadInput blame;
    auto board = Board::Create({.backend = backend_.get(), .memory_bytes = 4 << 20, .cpus = cpus, .events = &events_},
                               *loop_, blame);
    EXPECT_TRUE(board.ok()) << board.status();
    board_ = *std::move(board);
    const absl::Status attached = ports_.Attach(*board_);
    EXPECT_TRUE(attached.ok()) << attached;
    EXPECT_TRUE(board_->AddProcessors().ok());
    for (uint32_t vp = 0; vp < cpus; ++vp) {
      WriteMsr(vp, hvdef::msr::kScontrol, hvdef::msr::kScontrolEnable);
      WriteMsr(vp, hvdef::msr::kSiefp, FlagsGpa(vp) | hvdef::msr::kPageEnable);
      WriteMsr(vp, hvdef::msr::kSimp, (FlagsGpa(vp) + kPageSize) | hvdef::msr::kPageEnable);
      for (uint32_t sint = 0; sint < hvdef::kSintCount; ++sint) WriteMsr(vp, hvdef::msr::kSint0 + sint, 0x50 + sint);
    }
  }
  ~Stand() { ports_.Detach(); }

  void Pause() {
    ports_.Pause([] {});
  }
  // As the guest's hypercalls do.
  HvStatus Signal(ConnectionId connection, uint16_t flag) { return board_->partition().SignalPort(connection, flag); }
  bool TakeFlag(uint32_t vp, uint32_t sint, uint32_t flag) {
    const uint64_t at = FlagsGpa(vp) + sint * hvdef::kEventFlagsBytesPerSint + flag / 64 * 8;
    uint64_t word = 0;
    EXPECT_TRUE(board_->memory().ReadObject(at, word));
    const uint64_t bit = uint64_t{1} << flag % 64;
    const uint64_t rest = word & ~bit;
    EXPECT_TRUE(board_->memory().Write(at, &rest, sizeof(rest)));
    return (word & bit) != 0;
  }
  Board& board() { return *board_; }

 private:
  static uint64_t FlagsGpa(uint32_t vp) { return 0x100000 + vp * 2 * kPageSize; }
  void WriteMsr(uint32_t vp, uint32_t msr, uint64_t value) {
    EXPECT_EQ(board_->vp(VpIndex{vp}).OnMsrWrite(msr, value), backend::MsrOutcome::kDone) << msr;
  }

  PartitionPorts& ports_;
  NoEvents events_;
  std::unique_ptr<backend::Backend> backend_ = *vmm::CreateBackend("software");
  std::unique_ptr<os::EventLoop> loop_ = *os::EventLoop::Create();
  std::unique_ptr<Board> board_;
};

TEST(PartitionPortsTest, RefusesWhatIsNoPort) {
  PartitionPorts from, to;
  const auto refusal = [&](uint32_t connection, const PartitionPort& port) {
    const absl::Status status = from.Connect(ConnectionId{connection}, to, port);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  };
  EXPECT_THAT(refusal(1 << 24, kMessages), HasSubstr("connection id 0x1000000"));
  EXPECT_THAT(refusal(1, {.id = 1 << 24, .sint = Sint{3}}), HasSubstr("port id 0x1000000"));
  EXPECT_THAT(refusal(1, {.sint = Sint{16}}), HasSubstr("SINT 16"));
  EXPECT_THAT(refusal(1, {.sint = Sint{2}}), HasSubstr("VMBus"));
  PartitionPort events = kEvents;
  events.flag_count = 0;
  EXPECT_THAT(refusal(1, events), HasSubstr("100+0 of 2048"));
  events.flag_count = 1949;
  EXPECT_THAT(refusal(1, events), HasSubstr("100+1949 of 2048"));
  events.flag_count = 1948;
  EXPECT_TRUE(from.Connect(ConnectionId{1}, to, events).ok());
  Stand stand(to, 2);
  EXPECT_THAT(refusal(2, {.vp = VpIndex{2}, .sint = Sint{3}}), HasSubstr("no VP 2"));
  EXPECT_TRUE(from.Connect(ConnectionId{2}, to, {.vp = VpIndex{1}, .sint = Sint{3}}).ok());
  EXPECT_EQ(from.Connect(ConnectionId{2}, to, kMessages).code(), absl::StatusCode::kAlreadyExists);
  from.Disconnect(ConnectionId{2});
  from.Disconnect(ConnectionId{2});
  EXPECT_TRUE(from.Connect(ConnectionId{2}, to, kMessages).ok());
}

// A connection that something else of the sender's has already: its machine is not made, and nothing is left behind.
TEST(PartitionPortsTest, TheSendersOwnConnectionsGoFirst) {
  PartitionPorts from, to;
  ASSERT_TRUE(from.Connect(ConnectionId{0x1FFFF}, to, kMessages).ok());
  Stand sender(from);
  EXPECT_EQ(from.Connect(ConnectionId{1}, to, kMessages).code(), absl::StatusCode::kAlreadyExists) << "VMBus has it";
  EXPECT_EQ(sender.Signal(ConnectionId{0x1FFFF}, 0), HvStatus::kInvalidPortId);
  PartitionPorts clash;
  ASSERT_TRUE(clash.Connect(ConnectionId{0x20000}, to, kMessages).ok());
  ASSERT_TRUE(clash.Connect(ConnectionId{0x1FFFF}, to, kMessages).ok());
  EXPECT_EQ(clash.Attach(sender.board()).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(sender.Signal(ConnectionId{0x20000}, 0), HvStatus::kInvalidConnectionId);
}

TEST(PartitionPortsTest, WhatASenderIsTold) {
  PartitionPorts from, to;
  Stand sender(from);
  EXPECT_EQ(sender.Signal(kConnection, 0), HvStatus::kInvalidConnectionId);
  ASSERT_TRUE(from.Connect(kConnection, to, kEvents).ok());
  EXPECT_EQ(sender.Signal(kConnection, 0), HvStatus::kInvalidPortId) << "no machine";
  for (int round = 0; round < 2; ++round) {
    Stand receiver(to);
    EXPECT_EQ(sender.Signal(kConnection, 0), HvStatus::kInvalidPortId) << "not begun";
    static_cast<Part&>(to).Start();
    EXPECT_EQ(sender.Signal(kConnection, 7), HvStatus::kSuccess);
    EXPECT_TRUE(receiver.TakeFlag(0, 4, 107));
    EXPECT_EQ(sender.Signal(kConnection, 8), HvStatus::kInvalidParameter) << "eight flags";
    receiver.Pause();
    EXPECT_EQ(sender.Signal(kConnection, 1), HvStatus::kSuccess);
    EXPECT_EQ(sender.Signal(kConnection, 1), HvStatus::kSuccess);
    EXPECT_FALSE(receiver.TakeFlag(0, 4, 101)) << "paused";
    to.Resume();
    EXPECT_TRUE(receiver.TakeFlag(0, 4, 101));
    to.Stop([] {});
    EXPECT_EQ(sender.Signal(kConnection, 0), HvStatus::kInvalidPortId) << "ended";
  }
  EXPECT_EQ(sender.Signal(kConnection, 0), HvStatus::kInvalidPortId) << "gone";
  from.Disconnect(kConnection);
  EXPECT_EQ(sender.Signal(kConnection, 0), HvStatus::kInvalidConnectionId);
}

TEST(PartitionPortsTest, TheReceiverMayBeDestroyedFirst) {
  PartitionPorts from;
  Stand sender(from);
  {
    PartitionPorts to;
    ASSERT_TRUE(from.Connect(kConnection, to, kEvents).ok());
  }
  EXPECT_EQ(sender.Signal(kConnection, 0), HvStatus::kInvalidPortId);
}

// A machine that is paused before it runs stays so when it begins.
TEST(PartitionPortsTest, PausedBeforeItRuns) {
  PartitionPorts ports;
  ASSERT_TRUE(ports.Connect(kConnection, ports, kEvents).ok());
  Stand machine(ports);
  machine.Pause();
  static_cast<Part&>(ports).Start();
  EXPECT_EQ(machine.Signal(kConnection, 0), HvStatus::kSuccess);
  EXPECT_FALSE(machine.TakeFlag(0, 4, 100));
  ports.Resume();
  EXPECT_TRUE(machine.TakeFlag(0, 4, 100));
}

TEST(PartitionPortsTest, ARestoredMachineSaysWhatItLost) {
  PartitionPorts one, peer;
  ASSERT_TRUE(one.Connect(ConnectionId{0x20000}, peer, kMessages).ok());
  ASSERT_TRUE(one.Connect(ConnectionId{0x20001}, peer, kEvents).ok());
  state::SavedState saved;
  {
    Stand stand(one);
    saved = state::SaveOf(*one.components()[0]);
    // In the same ports nothing is lost.
    EXPECT_TRUE(state::RestoreOf(*one.components()[0], saved).ok());
    EXPECT_THAT(one.lost(), IsEmpty());
  }
  PartitionPorts other;
  Stand stand(other);
  ASSERT_TRUE(state::RestoreOf(*other.components()[0], saved).ok());
  EXPECT_THAT(other.lost(), ElementsAre(ConnectionId{0x20000}, ConnectionId{0x20001}));
  EXPECT_EQ(stand.Signal(ConnectionId{0x20001}, 0), HvStatus::kInvalidConnectionId);
  EXPECT_EQ(state::SaveOf(*other.components()[0]), saved);
  ASSERT_TRUE(other.Connect(ConnectionId{0x20001}, peer, kEvents).ok());
  EXPECT_THAT(other.lost(), ElementsAre(ConnectionId{0x20000}));
  EXPECT_EQ(state::SaveOf(*other.components()[0]), saved);
}

// A machine that sends itself events while it is paused and while it is not.
struct PortsSubject {
  PortsSubject() {
    EXPECT_TRUE(ports.Connect(kConnection, ports, kEvents).ok());
    EXPECT_TRUE(ports
                    .Connect(ConnectionId{0x20001}, ports,
                             {.type = PartitionPort::Type::kEvent,
                              .vp = VpIndex{1},
                              .sint = Sint{15},
                              .base_flag = 2000,
                              .flag_count = 48})
                    .ok());
    stand = std::make_unique<Stand>(ports);
    stand->Pause();
  }
  state::Component& component() { return *ports.components()[0]; }
  std::string Step(std::mt19937_64& random) {
    const uint64_t choice = random();
    if (choice % 8 == 0) {
      ports.Resume();
      stand->Pause();
    }
    const auto flag = static_cast<uint16_t>(choice >> 8) % 50;
    const HvStatus status = stand->Signal(choice % 2 == 0 ? kConnection : ConnectionId{0x20001}, flag);
    std::string seen = std::to_string(static_cast<int>(status));
    for (uint32_t at = 0; at < 8; ++at) seen += stand->TakeFlag(0, 4, 100 + at) ? '1' : '0';
    for (uint32_t at = 0; at < 48; ++at) seen += stand->TakeFlag(1, 15, 2000 + at) ? '1' : '0';
    return seen;
  }
  void CopyWorld(PortsSubject&) {}

  PartitionPorts ports;
  std::unique_ptr<Stand> stand;
};

TEST(PartitionPortsTest, KeepsItsState) {
  state::CheckComponent([] { return std::make_unique<PortsSubject>(); }, /*histories=*/5);
}

}  // namespace
}  // namespace hvsdk::machine
