// SPDX-License-Identifier: Apache-2.0
// Whatever is asked of a machine, by whomever and in whatever order, is answered; and it ends when it is told to.

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "hvsdk/backend_software/software_backend.h"
#include "hvsdk/base/fake_clock.h"
#include "hvsdk/image/memory_disk.h"
#include "hvsdk/machine/machine.h"
#include "hvsdk/network/switch.h"
#include "tests/boot/kernel_images.h"
#include "tests/machine/small_guest.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"

namespace hvsdk::machine {
namespace {

// Counts in memory for ever, and resets itself now and then.
std::string CountAndReset() {
  std::string code("\xB9\0\0\x20\0", 5);  //    mov ecx, 0x200000
  code += "\x49\x75\xFD";                 // 1: dec ecx; jnz 1b
  return code + Out(0x602, 1) + kHalt;
}

// What was asked of one machine, and what came of it.
struct Tally {
  std::atomic<uint32_t> asked{0}, answered{0}, attached{0}, gone{0};
  FakeClock clock;
  network::Switch lan{clock};
  std::mutex mutex;  // guards errors
  std::set<std::string> errors;

  Controller::Done Answer() {
    ++asked;
    return [this](const absl::Status& status) {
      if (!status.ok()) {
        std::lock_guard lock(mutex);
        errors.insert(std::string(status.message()));
      }
      ++answered;
    };
  }
};

void AskAnything(Machine& machine, Tally& tally, std::mt19937& random) {
  Controller& controller = machine.controller();
  switch (random() % 9) {
    case 0:
      return controller.Pause(tally.Answer());
    case 1:
      return controller.Resume(tally.Answer());
    case 2:
      return controller.Reset(tally.Answer());
    case 3:
      return controller.WhilePaused([&machine] { return SavedMachine::Of(machine.components()).status(); },
                                    tally.Answer());
    case 4:
    case 5:
      return controller.InTurn(
          [&machine, &tally] {
            const absl::StatusOr<uint8_t> lun =
                machine.AttachDisk(std::make_shared<MemoryDisk>(std::vector<uint8_t>(4096)));
            if (lun.ok()) ++tally.attached;
            return lun.status();
          },
          tally.Answer());
    case 6:
      return controller.InTurn(
          [&machine, &tally, address = static_cast<uint8_t>(1 + random() % 255)]() -> absl::Status {
            auto port = tally.lan.AddPort({});
            if (!port.ok()) return port.status();
            const absl::StatusOr<uint8_t> number =
                machine.AttachNetwork({.port = *std::move(port), .mac_address = {2, 0, 0, 0, 0, address}});
            if (number.ok()) ++tally.attached;
            return number.status();
          },
          tally.Answer());
    case 7:
      return controller.InTurn(
          [&machine, &tally, number = static_cast<uint8_t>(random() % 8)] {
            return machine.DetachNetwork(number, [&tally] { ++tally.gone; });
          },
          tally.Answer());
    default:
      return controller.InTurn(
          [&machine, &tally, lun = static_cast<uint8_t>(random() % 8)] {
            return machine.DetachDisk(lun, [&tally] { ++tally.gone; });
          },
          tally.Answer());
  }
}

// HVSDK_LIVES machines, 50 by default.
uint32_t Lives() {
  const char* const text = std::getenv("HVSDK_LIVES");
  return text == nullptr ? ScaledCount(50) : static_cast<uint32_t>(std::strtoul(text, nullptr, 10));
}

TEST(LifeTest, WhateverIsAskedIsAnswered) {
  const uint32_t seed = TestSeed(), lives = Lives();
  const std::vector<uint8_t> image = [] {
    std::vector<uint8_t> elf = boot::MakePvhElf(true);
    const std::string code = CountAndReset();
    std::copy(code.begin(), code.end(), elf.begin() + 0x1010);
    return elf;
  }();
  const boot::MemorySource kernel(image);
  const auto backend = backend::CreateSoftwareBackend({});
  ASSERT_TRUE(backend.ok()) << backend.status();
  for (uint32_t round = 0; round < lives; ++round) {
    SCOPED_TRACE(testing::Message() << "seed " << seed << ", round " << round);
    const auto loop = os::EventLoop::Create();
    ASSERT_TRUE(loop.ok());
    std::vector<std::string> events;
    const MachineOptions options{.backend = backend->get(),
                                 .kernel = &kernel,
                                 .memory_bytes = 8 << 20,
                                 .cpus = 2,
                                 .on_reset = ResetAction::kRestart,
                                 .on_event = [&](const MachineEvent& event) { events.push_back(event.name); }};
    boot::LoadInput blame;
    auto machine = Machine::Create(options, **loop, blame);
    ASSERT_TRUE(machine.ok()) << machine.status();
    Tally tally;
    std::thread runner([&] { EXPECT_EQ((*machine)->Run().outcome, Outcome::kStopped); });
    std::vector<std::thread> askers;
    for (uint32_t t = 0; t < 4; ++t) {
      askers.emplace_back([&, t] {
        std::mt19937 random(seed + round * 4 + t);
        for (uint32_t steps = 5 + random() % 20; steps > 0; --steps) {
          AskAnything(**machine, tally, random);
          if (random() % 3 == 0) std::this_thread::yield();
        }
        if (t == round % 4) (*machine)->Stop();
      });
    }
    for (std::thread& asker : askers) asker.join();
    runner.join();
    machine->reset();
    EXPECT_EQ(tally.answered.load(), tally.asked.load());
    // What was pulled out is let go of by the machine's end; the others were never pulled.
    EXPECT_LE(tally.gone.load(), tally.attached.load());
    for (const std::string& error : tally.errors) {
      EXPECT_TRUE(error == "the machine has ended" || error == "the machine has no disks" ||
                  error == "the machine has no network adapters" || error.substr(0, 19) == "no disk at SCSI LUN" ||
                  error.substr(0, 27) == "there is no network adapter" || error.substr(0, 3) == "all")
          << error;
    }
    ASSERT_FALSE(events.empty());
    EXPECT_EQ(events.front(), "started");
    EXPECT_EQ(events.back(), "ended");
  }
}

// Pulled out while it runs, paused, and left where it is: each disk is let go of once, at the machine's end at the latest.
TEST(LifeTest, DisksAreLetGoOf) {
  const std::vector<uint8_t> image = [] {
    std::vector<uint8_t> elf = boot::MakePvhElf(true);
    std::copy(kLoop.begin(), kLoop.end(), elf.begin() + 0x1010);
    return elf;
  }();
  const boot::MemorySource kernel(image);
  const auto backend = backend::CreateSoftwareBackend({});
  ASSERT_TRUE(backend.ok()) << backend.status();
  const auto loop = os::EventLoop::Create();
  ASSERT_TRUE(loop.ok());
  std::vector<std::shared_ptr<MemoryDisk>> disks;
  for (int i = 0; i < 3; ++i) disks.push_back(std::make_shared<MemoryDisk>(std::vector<uint8_t>(4096)));
  MachineOptions options{
      .backend = backend->get(), .kernel = &kernel, .memory_bytes = 8 << 20, .cpus = 1, .disks = {disks[0]}};
  boot::LoadInput blame;
  auto made = Machine::Create(options, **loop, blame);
  ASSERT_TRUE(made.ok()) << made.status();
  options.disks.clear();
  Machine& machine = **made;
  std::atomic<int> gone{0};
  const auto detach = [&](uint8_t lun) {
    machine.controller().InTurn([&machine, &gone, lun] { return machine.DetachDisk(lun, [&gone] { ++gone; }); },
                                [](const absl::Status& status) { EXPECT_TRUE(status.ok()) << status; });
  };
  detach(0);
  machine.controller().InTurn([&] {
    const absl::StatusOr<uint8_t> first = machine.AttachDisk(disks[1]), second = machine.AttachDisk(disks[2]);
    EXPECT_EQ(first.value_or(99), 1) << "not the place that has just been empty";
    EXPECT_EQ(second.value_or(99), 2);
    EXPECT_EQ(machine.AttachDisk({disks[2], "", 2}).status().code(), absl::StatusCode::kAlreadyExists);
    return absl::OkStatus();
  });
  machine.controller().Pause();
  detach(2);
  machine.controller().InTurn([&] {
    EXPECT_EQ(machine.disk_counts().size(), 1u);
    EXPECT_EQ(machine.DetachDisk(2, [] {}).code(), absl::StatusCode::kNotFound);
    EXPECT_EQ(machine.DetachDisk(200, [] {}).code(), absl::StatusCode::kNotFound);
    machine.Stop();
    return absl::OkStatus();
  });
  EXPECT_EQ(machine.Run().outcome, Outcome::kStopped);
  EXPECT_EQ(gone, 2);
  EXPECT_EQ(disks[0].use_count(), 1);
  EXPECT_EQ(disks[2].use_count(), 1);
  EXPECT_GT(disks[1].use_count(), 1);
  made->reset();
  EXPECT_EQ(disks[1].use_count(), 1);
  EXPECT_EQ(gone, 2);
}

// Likewise network adapters, each with a number of its own.
TEST(LifeTest, NetworkAdaptersAreLetGoOf) {
  const std::vector<uint8_t> image = [] {
    std::vector<uint8_t> elf = boot::MakePvhElf(true);
    std::copy(kLoop.begin(), kLoop.end(), elf.begin() + 0x1010);
    return elf;
  }();
  const boot::MemorySource kernel(image);
  const auto backend = backend::CreateSoftwareBackend({});
  ASSERT_TRUE(backend.ok()) << backend.status();
  const auto loop = os::EventLoop::Create();
  ASSERT_TRUE(loop.ok());
  FakeClock clock;
  network::Switch lan(clock);
  const auto network = [&](uint8_t address) {
    return MachineNetwork{.port = *lan.AddPort({}), .mac_address = {2, 0, 0, 0, 0, address}};
  };
  MachineNetwork first = network(1);
  const std::weak_ptr<NetworkPort> port = first.port;
  MachineOptions options{.backend = backend->get(),
                         .kernel = &kernel,
                         .memory_bytes = 8 << 20,
                         .cpus = 2,
                         .io_threads = 2,
                         .networks = {std::move(first)}};
  options.networks.push_back({.mac_address = {2, 0, 0, 0, 0, 9}, .number = 5});  // without a cable
  boot::LoadInput blame;
  auto made = Machine::Create(options, **loop, blame);
  ASSERT_TRUE(made.ok()) << made.status();
  options.networks.clear();
  Machine& machine = **made;
  int gone = 0;
  machine.controller().Pause();
  machine.controller().InTurn([&]() -> absl::Status {
    const std::vector<MachineNetworkStatus> there = machine.networks();
    EXPECT_TRUE(there.size() == 2 && there[0].agreement.is_link_up && there[1].number == 5 &&
                !there[1].agreement.is_link_up);
    EXPECT_TRUE(machine.DetachNetwork(5, nullptr).ok());
    EXPECT_EQ(machine.AttachNetwork(network(2)).value_or(99), 6) << "not behind the last";
    EXPECT_TRUE(machine.DetachNetwork(6, nullptr).ok());
    MachineNetwork second = network(2);
    second.number = 1;
    EXPECT_EQ(machine.AttachNetwork(std::move(second)).value_or(99), 1);
    EXPECT_TRUE(machine.DetachNetwork(0, [&] { ++gone; }).ok());
    EXPECT_EQ(gone, 1);
    EXPECT_TRUE(port.expired());
    EXPECT_EQ(machine.DetachNetwork(0, [] {}).code(), absl::StatusCode::kNotFound);
    EXPECT_EQ(machine.DetachNetwork(200, [] {}).code(), absl::StatusCode::kNotFound);
    MachineNetwork taken = network(3);
    taken.number = 1;
    EXPECT_EQ(machine.AttachNetwork(std::move(taken)).status().code(), absl::StatusCode::kAlreadyExists);
    MachineNetwork beyond = network(3);
    beyond.number = kMaxNetworks;
    EXPECT_EQ(machine.AttachNetwork(std::move(beyond)).status().code(), absl::StatusCode::kOutOfRange);
    EXPECT_EQ(machine.AttachNetwork({.port = *lan.AddPort({})}).status().code(), absl::StatusCode::kInvalidArgument);
    for (uint8_t number = 2; number < kMaxNetworks; ++number) {
      EXPECT_EQ(machine.AttachNetwork(network(number)).value_or(99), number);
    }
    EXPECT_EQ(machine.AttachNetwork(network(20)).value_or(99), 0);
    EXPECT_EQ(machine.AttachNetwork(network(21)).status().code(), absl::StatusCode::kResourceExhausted);
    machine.Stop();
    return absl::OkStatus();
  });
  EXPECT_EQ(machine.Run().outcome, Outcome::kStopped);
  EXPECT_EQ(gone, 1);
}

}  // namespace
}  // namespace hvsdk::machine
