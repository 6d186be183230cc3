// SPDX-License-Identifier: Apache-2.0
// HvCallSignalEvent served by the engine itself, for connections that have an eventfd.

#include <sys/eventfd.h>
#include <unistd.h>

#include "tests/backend/conformance.h"

namespace hvsdk::backend {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class EventFd {
 public:
  EventFd() : fd_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}
  ~EventFd() { ::close(fd_); }
  int fd() const { return fd_; }
  // How often it was signalled since it was last asked.
  uint64_t Take() {
    uint64_t count = 0;
    return ::read(fd_, &count, sizeof(count)) == sizeof(count) ? count : 0;
  }

 private:
  const int fd_;
};

class SignalTest : public ConformanceTest {
 protected:
  void SetUp() override {
    ConformanceTest::SetUp();
    if (!IsSkipped() && !backend().caps().signal_event_fd) GTEST_SKIP() << "the engine serves no signals itself";
  }
};
HVSDK_CONFORMANCE_SUITE(SignalTest);

// Signals as Linux does: control word in RCX, connection and flag in RDX, stale values elsewhere. The results are kept.
HVSDK_GUEST(SendSignals, 64, R"(
    mov rax, -1
    mov rcx, 0x1005D
    mov rdx, 0x10001
    mov r8, 0x8888
    mov r9, 0x9999
    call guest_SendSignals_begin - 0x1000
    mov [0x80000], rax
    mov [0x80008], rcx
    mov [0x80010], rdx
    mov [0x80018], r8
    mov [0x80020], r9
    mov rax, -1
    call guest_SendSignals_begin - 0x1000
    mov [0x80028], rax
    mov rdx, 0x10002
    call guest_SendSignals_begin - 0x1000
    mov [0x80030], rax
    mov rdx, 0x100010001
    call guest_SendSignals_begin - 0x1000
    mov [0x80038], rax
    mov rdx, 0x10001
    mov rcx, 0x000001000001005D
    call guest_SendSignals_begin - 0x1000
    mov [0x80040], rax
    mov rcx, 0x5D
    call guest_SendSignals_begin - 0x1000
    mov [0x80048], rax
    out 0xF4, al
)")
TEST_P(SignalTest, OnlyPlainSignalsOfAssignedConnectionsAreServed) {
  EventFd event;
  ASSERT_TRUE(machine().partition().AssignSignalEvent(ConnectionId{0x10001}, event.fd()).ok());
  machine().Start(Mode::kLong, SendSignals());
  uint64_t result = 0x20;
  recorder_.on_hypercall = [&](Vp& vp) {
    vp.SetGpr(Gpr::kRax, result++);
    return HypercallOutcome::kDone;
  };
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(event.Take(), 2u);
  EXPECT_THAT(recorder_.events,
              ElementsAre(Event{Event::kHypercall, 0x1005D, 0, 0x10002},        // another connection
                          Event{Event::kHypercall, 0x1005D, 0, 0x100010001},    // event flag 1
                          Event{Event::kHypercall, 0x1000001005D, 0, 0x10001},  // a rep count, which is an error
                          Event{Event::kHypercall, 0x5D, 0, 0x10001}));         // not fast
  const uint64_t results[] = {0, 0x1005D, 0x10001, 0x8888, 0x9999, 0, 0x20, 0x21, 0x22, 0x23};
  for (uint64_t i = 0; i < std::size(results); ++i) {
    EXPECT_EQ(machine().Read<uint64_t>(kDataGpa + 8 * i), results[i]) << i;
  }
  EXPECT_TRUE(machine().partition().UnassignSignalEvent(ConnectionId{0x10001}, event.fd()).ok());
}

HVSDK_GUEST(OneSignal, 64, R"(
    mov rcx, 0x1005D
    mov rdx, 0x10001
    call guest_OneSignal_begin - 0x1000
    mov [0x80000], rax
    out 0xF4, al
)")
TEST_P(SignalTest, AnUnassignedConnectionExitsAgain) {
  EventFd event;
  Partition& partition = machine().partition();
  for (int round = 0; round < 3; ++round) {
    ASSERT_TRUE(partition.AssignSignalEvent(ConnectionId{0x10001}, event.fd()).ok());
    EXPECT_FALSE(partition.AssignSignalEvent(ConnectionId{0x10001}, event.fd()).ok()) << "twice";
    machine().Start(Mode::kLong, OneSignal());
    machine().Run(recorder_);
    EXPECT_THAT(recorder_.events, IsEmpty());
    EXPECT_EQ(event.Take(), 1u);

    ASSERT_TRUE(partition.UnassignSignalEvent(ConnectionId{0x10001}, event.fd()).ok());
    EXPECT_FALSE(partition.UnassignSignalEvent(ConnectionId{0x10001}, event.fd()).ok()) << "not there";
    machine().Start(Mode::kLong, OneSignal());
    machine().Run(recorder_);
    EXPECT_THAT(recorder_.events, ElementsAre(Event{Event::kHypercall, 0x1005D, 0, 0x10001}));
    EXPECT_EQ(event.Take(), 0u);
    recorder_.events.clear();
  }
}

TEST_P(SignalTest, ManyConnections) {
  constexpr uint32_t kConnections = 256;
  std::vector<std::unique_ptr<EventFd>> events;
  for (uint32_t i = 0; i < kConnections; ++i) {
    events.push_back(std::make_unique<EventFd>());
    ASSERT_TRUE(machine().partition().AssignSignalEvent(ConnectionId{0x10000 + i}, events[i]->fd()).ok());
  }
  machine().Start(Mode::kLong, OneSignal());
  machine().Run(recorder_);
  EXPECT_THAT(recorder_.events, IsEmpty());
  for (uint32_t i = 0; i < kConnections; ++i) EXPECT_EQ(events[i]->Take(), i == 1 ? 1u : 0u);
  for (uint32_t i = 0; i < kConnections; ++i) {
    EXPECT_TRUE(machine().partition().UnassignSignalEvent(ConnectionId{0x10000 + i}, events[i]->fd()).ok());
  }
}

// A 32-bit caller has its control word in EDX:EAX and its parameter in EBX:ECX; that ECX looks like the control word of
// a signal means nothing.
HVSDK_GUEST(SignalFrom32, 32, R"(
    mov eax, 0x1005D
    mov edx, 0
    mov ebx, 0
    mov ecx, 0x1005D
    call guest_SignalFrom32_begin - 0x1000
    mov ds:[0x80000], eax
    mov eax, 0x1005C
    mov edx, 0x10001
    mov ecx, 0x1005D
    call guest_SignalFrom32_begin - 0x1000
    mov ds:[0x80004], eax
    out 0xF4, al
)")
TEST_P(SignalTest, A32BitCallerIsNotMistaken) {
  EventFd event;
  ASSERT_TRUE(machine().partition().AssignSignalEvent(ConnectionId{0x10001}, event.fd()).ok());
  machine().Start(Mode::kProtected, SignalFrom32());
  std::vector<uint64_t> controls;
  recorder_.on_hypercall = [&](Vp& vp) {
    controls.push_back(vp.GetGpr(Gpr::kRax));
    vp.SetGpr(Gpr::kRax, 0x30 + controls.size());
    return HypercallOutcome::kDone;
  };
  machine().Run(recorder_);
  EXPECT_THAT(controls, ElementsAre(0x1005D, 0x1005C));
  EXPECT_EQ(machine().Read<uint32_t>(0x80000), 0x31u);
  EXPECT_EQ(machine().Read<uint32_t>(0x80004), 0x32u);
  EXPECT_EQ(event.Take(), 0u);
  EXPECT_TRUE(machine().partition().UnassignSignalEvent(ConnectionId{0x10001}, event.fd()).ok());
}

}  // namespace
}  // namespace hvsdk::backend
