// SPDX-License-Identifier: Apache-2.0
// Snapshots that a client asks a machine for: when its disks are put aside, and when not. The guest has no drivers; what becomes of one that freezes
// is in tests/vsp/backup_test.cc and tests/e2e/integration.py.

#include <algorithm>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/vmm/backends.h"
#include "hvsdk/vmm/machine_control.h"
#include "tests/boot/kernel_images.h"

namespace hvsdk::vmm {
namespace {

using machine::Machine;
using machine::MachineOptions;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class Disks final : public DiskOwner {
 public:
  std::vector<DiskStatus> disks() const override { return {}; }
  absl::StatusOr<uint8_t> Attach(const DiskConfig&) override { return absl::UnimplementedError(""); }
  absl::Status Detach(uint8_t, absl::AnyInvocable<void()>) override { return absl::UnimplementedError(""); }
  absl::Status Insert(uint8_t, const std::string&) override { return absl::UnimplementedError(""); }
  absl::Status Eject(uint8_t, bool) override { return absl::UnimplementedError(""); }

  absl::StatusOr<std::vector<DiskSnapshot>> Snapshot(const std::string& directory) override {
    directories.push_back(directory);
    if (!outcome.ok()) return outcome;
    DiskSnapshot snapshot;
    snapshot.set_device("storage/7");
    return std::vector<DiskSnapshot>{snapshot};
  }
  absl::Status CheckSnapshot() const override { return possible; }

  std::vector<std::string> directories;
  absl::Status possible, outcome;
};

// Calls a function on the loop's thread.
class LoopCall final : public Task {
 public:
  LoopCall(os::EventLoop& loop, std::function<void()> call) : call_(std::move(call)) { loop.Schedule(*this); }

 private:
  void Run() override { call_(); }
  std::function<void()> call_;
};

class MachineSnapshotTest : public testing::Test {
 protected:
  void Start(bool has_backup = true) {
    // Runs round and round.
    image_ = boot::MakePvhElf(true);
    const std::string code = "\xEB\xFE";
    std::copy(code.begin(), code.end(), image_.begin() + 0x1010);
    source_ = std::make_unique<boot::MemorySource>(image_);
    MachineOptions options;
    options.backend = backend_.get();
    options.kernel = source_.get();
    options.memory_bytes = 16 << 20;
    options.cpus = 1;
    options.integration.backup = has_backup;
    boot::LoadInput blame;
    auto machine = Machine::Create(options, *loop_, blame);
    ASSERT_TRUE(machine.ok()) << machine.status();
    machine_ = *std::move(machine);
    control_ = std::make_unique<MachineControl>(
        *machine_, MachineControl::Options{
                       .tell = [this](const Event& event) { events_.push_back(event.name()); },
                       .disks = &disks_,
                   });
    thread_ = std::thread([this] { machine_->Run(); });
  }
  void TearDown() override {
    if (machine_ == nullptr) return;
    machine_->Stop();
    thread_.join();
    control_.reset();
    machine_.reset();
  }
  ControlReply Ask(const ControlRequest& request, bool is_wanted = true) {
    std::promise<ControlReply> promise;
    LoopCall call(*loop_, [&] {
      control_->OnRequest(request,
                          ControlHandler::Reply([&](ControlReply reply) { promise.set_value(std::move(reply)); },
                                                [is_wanted] { return is_wanted; }));
    });
    ControlReply reply = promise.get_future().get();
    loop_->Drain(call);
    return reply;
  }
  ControlReply Snapshot(bool crash_consistent, const std::string& directory = "/x", bool is_wanted = true) {
    ControlRequest request;
    request.set_command(SNAPSHOT);
    request.mutable_snapshot()->set_directory(directory);
    request.mutable_snapshot()->set_crash_consistent(crash_consistent);
    return Ask(request, is_wanted);
  }

  std::unique_ptr<backend::Backend> backend_ = *CreateBackend("software");
  std::unique_ptr<os::EventLoop> loop_ = *os::EventLoop::Create();
  std::vector<uint8_t> image_;
  std::unique_ptr<boot::MemorySource> source_;
  Disks disks_;
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<MachineControl> control_;
  std::thread thread_;
  std::vector<std::string> events_;
};

TEST_F(MachineSnapshotTest, WithoutAskingTheGuest) {
  Start();
  const ControlReply reply = Snapshot(/*crash_consistent=*/true);
  EXPECT_EQ(reply.code(), 0u) << reply.error();
  ASSERT_EQ(reply.snapshot().disks_size(), 1);
  EXPECT_EQ(reply.snapshot().disks(0).device(), "storage/7");
  EXPECT_GT(reply.snapshot().stood_still_ns(), 0u);
  EXPECT_EQ(reply.snapshot().frozen_ns(), 0u);
  EXPECT_THAT(disks_.directories, ElementsAre("/x"));
  EXPECT_THAT(events_, ElementsAre("snapshot"));
  EXPECT_EQ(machine_->controller().state(), machine::Controller::State::kRunning);
}

TEST_F(MachineSnapshotTest, WhatCannotBeIsNotBegun) {
  Start();
  EXPECT_THAT(Snapshot(/*crash_consistent=*/false).error(), HasSubstr("snapshot: the guest has no driver"));
  EXPECT_THAT(Snapshot(true, "").error(), HasSubstr("a directory is needed"));
  EXPECT_THAT(Snapshot(true, "/x", /*is_wanted=*/false).error(), HasSubstr("has gone"));
  disks_.possible = absl::InvalidArgumentError("a raw disk");
  EXPECT_THAT(Snapshot(true).error(), HasSubstr("snapshot: a raw disk"));
  disks_.possible = absl::OkStatus();
  ControlRequest request;
  request.set_command(SNAPSHOT);
  request.mutable_snapshot()->set_directory("/x");
  request.mutable_snapshot()->set_freeze_seconds(901);
  EXPECT_THAT(Ask(request).error(), HasSubstr("900 s at most"));
  request.Clear();
  request.set_command(PAUSE);
  EXPECT_EQ(Ask(request).code(), 0u);
  EXPECT_THAT(Snapshot(false).error(), HasSubstr("is paused"));
  EXPECT_THAT(disks_.directories, IsEmpty());
  // A machine that is paused stays so.
  EXPECT_EQ(Snapshot(true).code(), 0u);
  EXPECT_EQ(machine_->controller().state(), machine::Controller::State::kPaused);
  EXPECT_THAT(events_, ElementsAre("snapshot"));
}

TEST_F(MachineSnapshotTest, OneThatFailsLetsTheMachineGoOn) {
  Start();
  disks_.outcome = absl::ResourceExhaustedError("no space");
  EXPECT_THAT(Snapshot(true).error(), HasSubstr("snapshot: no space"));
  EXPECT_THAT(events_, IsEmpty());
  EXPECT_EQ(machine_->controller().state(), machine::Controller::State::kRunning);
}

TEST_F(MachineSnapshotTest, AMachineWithoutTheComponent) {
  Start(/*has_backup=*/false);
  EXPECT_THAT(Snapshot(false).error(), HasSubstr("no backup component"));
  EXPECT_EQ(Snapshot(true).code(), 0u);
}

}  // namespace
}  // namespace hvsdk::vmm
