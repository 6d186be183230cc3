// SPDX-License-Identifier: Apache-2.0
// Many machines in one process: what becomes of them, their memory and their threads; and what their guests send each
// other.

#include "hvsdk/machine/host.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/backend_software/software_backend.h"
#include "hvsdk/vmm/backends.h"
#include "hvsdk/vmm/serial_console.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"

namespace hvsdk::machine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// As examples/guest_kernel/peer_tests.cc has them.
constexpr ConnectionId kMessageConnection{0x20000}, kEventConnection{0x20001};
constexpr PartitionPort kMessagePort{.id = 7, .sint = Sint{3}};
constexpr PartitionPort kEventPort{
    .id = 8, .type = PartitionPort::Type::kEvent, .sint = Sint{4}, .base_flag = 16, .flag_count = 8};

// A guest kernel, its console and how it ended.
struct Guest {
  ~Guest() {
    if (output >= 0) close(output);
  }
  std::string Output() const {
    std::string text(lseek(output, 0, SEEK_END), '\0');
    EXPECT_EQ(pread(output, text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
    return text;
  }
  int output = memfd_create("console", 0);
  std::unique_ptr<vmm::SerialConsole> console;
  MachineResult result;
  std::atomic<bool> has_ended{false};
};

class HostTest : public ::testing::Test {
 protected:
  HostedMachine Kernel(Guest& guest, std::string command_line = "peer", uint64_t memory_bytes = 8 << 20) {
    HostedMachine hosted;
    hosted.machine.backend = backend_.get();
    hosted.machine.kernel = kernel_.get();
    hosted.machine.command_line = std::move(command_line);
    hosted.machine.memory_bytes = memory_bytes;
    hosted.machine.cpus = 1;
    hosted.prepare = [&guest](os::EventLoop& loop, MachineOptions& options) {
      guest.console =
          std::make_unique<vmm::SerialConsole>(loop, vmm::SerialConsole::Options{.output_fd = guest.output});
      options.serial = guest.console.get();
      return absl::OkStatus();
    };
    hosted.on_end = [&guest](const MachineResult& result) {
      guest.console.reset();
      guest.result = result;
      guest.has_ended = true;
    };
    return hosted;
  }
  static PartitionId Create(Host& host, HostedMachine machine) {
    boot::LoadInput blame;
    const absl::StatusOr<PartitionId> id = host.Create(std::move(machine), blame);
    EXPECT_TRUE(id.ok()) << id.status();
    return id.value_or(PartitionId{});
  }
  static void ConnectPeers(Host& host, PartitionId from, PartitionId to) {
    const absl::Status messages =
        host.Connect({.from = from, .connection = kMessageConnection, .to = to, .port = kMessagePort});
    EXPECT_TRUE(messages.ok()) << messages;
    const absl::Status events =
        host.Connect({.from = from, .connection = kEventConnection, .to = to, .port = kEventPort});
    EXPECT_TRUE(events.ok()) << events;
  }
  static void ExpectAllIsWell(const Guest& guest) {
    EXPECT_TRUE(guest.has_ended);
    EXPECT_EQ(guest.result.outcome, Outcome::kPoweredOff) << guest.result.status;
    EXPECT_THAT(guest.Output(), HasSubstr("1..9"));
    EXPECT_THAT(guest.Output(), Not(HasSubstr("not ok")));
  }

  std::unique_ptr<backend::Backend> backend_ = *vmm::CreateBackend("software");
  std::unique_ptr<boot::ByteSource> kernel_ = *boot::OpenFileSource(GUEST_KERNEL);
};

TEST_F(HostTest, TwoGuestsTalk) {
  Guest a, b;
  Host host({});
  const PartitionId first = Create(host, Kernel(a)), second = Create(host, Kernel(b));
  ConnectPeers(host, first, second);
  ConnectPeers(host, second, first);
  EXPECT_TRUE(host.Start(first).ok());
  EXPECT_TRUE(host.Start(second).ok());
  host.Wait();
  ExpectAllIsWell(a);
  ExpectAllIsWell(b);
}

// In a ring: each sends to the next.
TEST_F(HostTest, ManyShareOneThreadOfIo) {
  const size_t count = ScaledCount(64);
  std::vector<Guest> guests(count);
  Host host({.memory_bytes = count * (8 << 20)});
  std::vector<PartitionId> ids;
  for (Guest& guest : guests) ids.push_back(Create(host, Kernel(guest)));
  EXPECT_EQ(host.List().size(), count);
  EXPECT_EQ(host.memory_left(), 0u);
  for (size_t i = 0; i < count; ++i) ConnectPeers(host, ids[i], ids[(i + 1) % count]);
  for (const PartitionId id : ids) EXPECT_TRUE(host.Start(id).ok());
  host.Wait();
  for (const Guest& guest : guests) ExpectAllIsWell(guest);
  EXPECT_TRUE(host.List().empty());
  EXPECT_EQ(host.memory_left(), count * (8 << 20));
}

TEST_F(HostTest, MemoryHasALimit) {
  Guest a, b, c;
  Host host({.memory_bytes = 20 << 20});
  const PartitionId first = Create(host, Kernel(a, "peer chatter", 12 << 20));
  boot::LoadInput blame{};
  const absl::StatusOr<PartitionId> second = host.Create(Kernel(b, "peer", 12 << 20), blame);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(second.status().message(), "12 MiB of guest memory: of the host's 20 MiB, 8 are left");
  EXPECT_EQ(blame, boot::LoadInput::kMemory);
  EXPECT_TRUE(b.has_ended);
  EXPECT_EQ(b.result.outcome, Outcome::kHostFailure);
  EXPECT_EQ(host.memory_left(), 8u << 20);
  // One that fails for another reason gives its memory back.
  HostedMachine bad = Kernel(b, "peer", 4 << 20);
  bad.machine.cpus = 0;
  EXPECT_EQ(host.Create(std::move(bad), blame).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(blame, boot::LoadInput::kCpus);
  EXPECT_EQ(host.memory_left(), 8u << 20);
  EXPECT_TRUE(host.End(first).ok());
  host.Wait();
  EXPECT_EQ(a.result.outcome, Outcome::kStopped);
  EXPECT_EQ(host.memory_left(), 20u << 20);
  EXPECT_NE(Create(host, Kernel(c, "peer", 12 << 20)), first);
}

TEST_F(HostTest, WhatIsNotThere) {
  Guest guest;
  Host host({});
  const PartitionId id = Create(host, Kernel(guest));
  const PartitionId none{ToInt(id) + 1};
  EXPECT_EQ(host.Start(none).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(host.End(none).message(), "there is no partition 2");
  EXPECT_EQ(host.WithMachine(none, [](Machine&) { FAIL(); }).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(host.Disconnect(none, kMessageConnection).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(host.Connect({.from = id, .connection = kMessageConnection, .to = none, .port = kMessagePort}).code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(host.Connect({.from = none, .connection = kMessageConnection, .to = id, .port = kMessagePort}).code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(host.Connect({.from = id, .connection = kMessageConnection, .to = id, .port = {.sint = Sint{2}}}).code(),
            absl::StatusCode::kInvalidArgument);
  backend::SoftwareTime time;
  HostedMachine deterministic = Kernel(guest);
  deterministic.machine.instruction_time = &time;
  boot::LoadInput blame;
  EXPECT_EQ(host.Create(std::move(deterministic), blame).status().code(), absl::StatusCode::kInvalidArgument);
}

// One that never ran ends like any other; the rest talk on.
TEST_F(HostTest, TheEndOfOneIsNotThatOfOthers) {
  Guest a, b, chatter, idle;
  Host host({.io_threads = 2});
  const PartitionId first = Create(host, Kernel(a)), second = Create(host, Kernel(b));
  const PartitionId third = Create(host, Kernel(chatter, "peer chatter")), fourth = Create(host, Kernel(idle));
  ConnectPeers(host, first, second);
  ConnectPeers(host, second, first);
  ConnectPeers(host, third, fourth);
  ConnectPeers(host, fourth, third);
  EXPECT_TRUE(host.Start(third).ok());
  std::vector<PartitionInfo> list = host.List();
  ASSERT_EQ(list.size(), 4u);
  EXPECT_EQ(list[2].id, third);
  EXPECT_EQ(list[2].state, PartitionInfo::State::kRunning);
  EXPECT_EQ(list[3].state, PartitionInfo::State::kCreated);
  EXPECT_EQ(list[3].memory_bytes, 8u << 20);
  EXPECT_TRUE(host.Start(first).ok());
  EXPECT_TRUE(host.End(fourth).ok());
  EXPECT_TRUE(host.Start(second).ok());
  EXPECT_TRUE(host.Start(second).ok());
  while (!a.has_ended || !b.has_ended) std::this_thread::yield();
  EXPECT_TRUE(host.End(third).ok());
  host.Wait();
  ExpectAllIsWell(a);
  ExpectAllIsWell(b);
  EXPECT_EQ(chatter.result.outcome, Outcome::kStopped);
  EXPECT_EQ(idle.result.outcome, Outcome::kStopped);
  EXPECT_EQ(idle.Output(), "");
}

// A machine's end may make the next, as a supervisor does; and the end of the host ends that.
TEST_F(HostTest, TheNextIsMadeWhereTheLastOneEnds) {
  std::vector<Guest> guests(5);
  std::atomic<size_t> ended{0};
  Host host({.memory_bytes = 8 << 20});
  std::function<void(size_t)> begin = [&](size_t i) {
    HostedMachine hosted = Kernel(guests[i], "peer chatter");
    hosted.on_end = [&, i](const MachineResult& result) {
      guests[i].console.reset();
      guests[i].result = result;
      ++ended;
      if (i + 1 < guests.size()) begin(i + 1);
    };
    boot::LoadInput blame;
    const absl::StatusOr<PartitionId> id = host.Create(std::move(hosted), blame);
    ASSERT_TRUE(id.ok()) << id.status();
    EXPECT_TRUE(host.Start(*id).ok());
    EXPECT_TRUE(host.End(*id).ok());
  };
  begin(0);
  host.Wait();
  EXPECT_EQ(ended, guests.size());
}

// Saved while another talks to it, and restored: its connections are lost, are said to be, and come back by the program.
TEST_F(HostTest, ARestoredGuestIsConnectedAnew) {
  Guest a, b, again;
  Host host({});
  const PartitionId first = Create(host, Kernel(a, "peer chatter")), second = Create(host, Kernel(b, "peer chatter"));
  ConnectPeers(host, first, second);
  ConnectPeers(host, second, first);
  EXPECT_TRUE(host.Start(first).ok());
  EXPECT_TRUE(host.Start(second).ok());
  SavedMachine saved;
  std::vector<uint8_t> memory;
  std::atomic<bool> is_saved{false};
  EXPECT_TRUE(host.WithMachine(second,
                               [&](Machine& machine) {
                                 machine.controller().WhilePaused(
                                     [&] {
                                       saved = *SavedMachine::Of(machine.components());
                                       const absl::Span<uint8_t> bytes = machine.board().host_memory().bytes();
                                       memory.assign(bytes.begin(), bytes.end());
                                       return absl::OkStatus();
                                     },
                                     [&](const absl::Status& status) { is_saved = status.ok(); });
                               })
                  .ok());
  while (!is_saved) std::this_thread::yield();
  EXPECT_TRUE(host.End(second).ok());
  while (!b.has_ended) std::this_thread::yield();

  HostedMachine restored = Kernel(again, "peer chatter");
  restored.machine.saved = &saved;
  restored.machine.map_memory = [&](os::HostMemory& to) {
    std::copy(memory.begin(), memory.end(), to.bytes().begin());
    return absl::OkStatus();
  };
  const PartitionId third = Create(host, std::move(restored));
  ASSERT_EQ(host.List().size(), 2u);
  EXPECT_THAT(host.List()[1].lost_connections, ElementsAre(kMessageConnection, kEventConnection));
  ConnectPeers(host, first, third);
  ConnectPeers(host, third, first);
  EXPECT_THAT(host.List()[1].lost_connections, IsEmpty());
  EXPECT_TRUE(host.Start(third).ok());
  // What comes now comes from the restored guest.
  for (const PartitionId id : {first, third}) {
    uint64_t before = 0, now = 0;
    do {
      EXPECT_TRUE(host.WithMachine(id,
                                   [&](Machine& machine) {
                                     now = machine.board().exits().Sum(ExitReason::kHypercall);
                                     if (before == 0) before = now;
                                   })
                      .ok());
    } while (now < before + 1000);
  }
}

// Whatever is done to machines that talk with each other, from several threads at once.
TEST_F(HostTest, RandomLives) {
  constexpr size_t kSlots = 6;
  const uint32_t seed = TestSeed();
  std::atomic<int> made{0}, gone{0};
  {
    Host host({.memory_bytes = kSlots * (8 << 20), .io_threads = 2});
    std::array<std::atomic<uint64_t>, kSlots> slots{};
    std::vector<std::thread> threads;
    for (uint32_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        std::mt19937 random(seed + t);
        for (uint32_t i = 0; i < ScaledCount(400); ++i) {
          std::atomic<uint64_t>& slot = slots[random() % kSlots];
          const PartitionId id{slot.load()}, other{slots[random() % kSlots].load()};
          switch (random() % 10) {
            case 0:
            case 1: {
              HostedMachine hosted;
              hosted.machine = {.backend = backend_.get(),
                                .kernel = kernel_.get(),
                                .command_line = "peer chatter",
                                .memory_bytes = 8 << 20,
                                .cpus = 1,
                                .on_reset = ResetAction::kRestart};
              hosted.on_end = [&gone](const MachineResult& result) {
                ++gone;
                if (result.outcome != Outcome::kStopped) {
                  EXPECT_EQ(result.status.code(), absl::StatusCode::kResourceExhausted) << result.status;
                }
              };
              boot::LoadInput blame;
              const absl::StatusOr<PartitionId> created = host.Create(std::move(hosted), blame);
              ++made;
              if (created.ok()) {
                (void)host.Start(*created);
                if (const uint64_t old = slot.exchange(ToInt(*created)); old != 0) (void)host.End(PartitionId{old});
              }
              break;
            }
            case 2:
              (void)host.End(id);
              break;
            case 3:
            case 4:
              (void)host.Connect({.from = id, .connection = kMessageConnection, .to = other, .port = kMessagePort});
              (void)host.Connect({.from = id, .connection = kEventConnection, .to = other, .port = kEventPort});
              break;
            case 5:
              (void)host.Disconnect(id, random() % 2 == 0 ? kMessageConnection : kEventConnection);
              break;
            case 6:
              (void)host.WithMachine(id, [](Machine& machine) { machine.controller().Reset(); });
              break;
            case 7:
              (void)host.WithMachine(id, [](Machine& machine) { machine.controller().Pause(); });
              break;
            case 8:
              (void)host.WithMachine(id, [](Machine& machine) { machine.controller().Resume(); });
              break;
            default:
              for (const PartitionInfo& info : host.List()) EXPECT_EQ(info.memory_bytes, 8u << 20);
          }
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  EXPECT_EQ(gone, made);
}

}  // namespace
}  // namespace hvsdk::machine
