// SPDX-License-Identifier: Apache-2.0
// What the component tests of providers with one channel stand on: a server, and a child that the test plays message by message. All
// that the child has is in its memory, so a copy of that and of the server's state is a copy of the world.

#ifndef HVSDK_TESTS_VSP_PLAYED_CHANNEL_H_
#define HVSDK_TESTS_VSP_PLAYED_CHANNEL_H_

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "gtest/gtest.h"
#include "hvsdk/base/fake_clock.h"
#include "hvsdk/base/queue_executor.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/vmbus/loopback_hypervisor.h"
#include "hvsdk/vmbus/ring/memory.h"
#include "hvsdk/vmbus/ring/writer.h"
#include "hvsdk/vmbus/server.h"
#include "tests/state/component_suite.h"
#include "tests/vsp/child_messages.h"

namespace hvsdk::vsp {

class PlayedChannel {
 protected:
  // Page 0, the rings, and what the test wants.
  explicit PlayedChannel(uint64_t pages) : bytes_(pages * kPageSize) {
    EXPECT_TRUE(memory_.AddRange(0, absl::MakeSpan(bytes_)).ok());
    EXPECT_TRUE(server_.Start().ok());
  }
  ~PlayedChannel() = default;

  void CopyWorldOf(PlayedChannel& from) {
    bytes_ = from.bytes_;  // as many, so they stay where they are
    is_open_ = from.is_open_;
    is_connected_ = from.is_connected_;
    clock_.Set(from.clock_.Now100ns());
    server_state_ = state::SaveOf(from.server_);
    has_server_state_ = true;
  }
  // Once the component is restored.
  void RestoreServer() {
    if (!std::exchange(has_server_state_, false)) return;
    const absl::Status status = state::RestoreOf(server_, server_state_);
    EXPECT_TRUE(status.ok()) << status;
    executor_.RunUntilIdle();
  }

  // The rings are all in memory: each use attaches anew. Both have a control page and two of data.
  vmbus::FlatMemory Ring(bool to_root) {
    uint8_t* const page = &bytes_[(to_root ? 1 : 4) * kPageSize];
    return {page, page + kPageSize, 2 * kPageSize};
  }
  std::string Post(absl::string_view text) { return PostMessage(hypervisor_, executor_, is_connected_, text); }
  std::string Open() {
    std::string seen;
    if (!is_connected_) {
      seen = Post("initiate-contact version=5.3 target_vp=0 target=0x2");
      is_connected_ = true;
      seen += Post("request-offers");
    }
    std::memset(&bytes_[kPageSize], 0, 6 * kPageSize);
    seen += Post("gpadl-teardown channel=1 gpadl=1");
    seen += Post("gpadl-header channel=1 gpadl=1 bytes=56 ranges=1 words=24576,1,2,3,4,5,6");
    const std::string answer = Post("open-channel channel=1 open_id=1 gpadl=1 downstream=3 target_vp=0");
    is_open_ = absl::StrContains(answer, "message 0600000000000000");
    return seen + answer;
  }
  std::string Close() {
    is_open_ = false;
    return Post("close-channel channel=1");
  }
  void Put(const void* message, size_t size_bytes) {
    vmbus::RingWriter<vmbus::FlatMemory> out(Ring(true));
    if (out.Attach() == vmbus::RingStatus::kOk) {
      (void)out.StageInBand(vmbus::PacketHeader::InBand(1, false), message, static_cast<uint32_t>(size_bytes));
      (void)out.Publish();
    }
    Signal();
  }
  void Signal() {
    (void)hypervisor_.ChildSignalEvent(ConnectionId{0x2001});
    executor_.RunUntilIdle();
  }

  std::vector<uint8_t> bytes_;
  GuestMemory memory_;
  QueueExecutor executor_;
  FakeClock clock_;
  FakeTimerQueue timers_{clock_};
  vmbus::LoopbackHypervisor hypervisor_{1, 64};
  vmbus::Server server_{memory_, hypervisor_, {}, {.executor = &executor_, .timers = &timers_, .clock = &clock_}};
  bool is_connected_ = false, is_open_ = false;

 private:
  state::SavedState server_state_;
  bool has_server_state_ = false;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_TESTS_VSP_PLAYED_CHANNEL_H_
