// SPDX-License-Identifier: Apache-2.0
// The integration components by the suite that every component passes. Their guest is nothing but memory: it opens and closes the
// channel, reads what comes or does not, and answers it, wrongly now and then.

#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "hvsdk/base/fake_clock.h"
#include "hvsdk/resource/wall_clock.h"
#include "hvsdk/vmbus/ring/reader.h"
#include "hvsdk/vmbus/server.h"
#include "hvsdk/vsp/backup.h"
#include "hvsdk/vsp/guest_file_copy.h"
#include "hvsdk/vsp/heartbeat.h"
#include "hvsdk/vsp/key_value_exchange.h"
#include "hvsdk/vsp/shutdown.h"
#include "hvsdk/vsp/time_sync.h"
#include "tests/state/component_suite.h"
#include "tests/vsp/played_channel.h"

namespace hvsdk::vsp {
namespace {

class ClockOfTime final : public WallClock {
 public:
  explicit ClockOfTime(const Clock& clock) : clock_(clock) {}
  int64_t NowNs() const override { return static_cast<int64_t>(clock_.Now100ns() * 100); }

 private:
  const Clock& clock_;
};

// How each is made, and what its owner does.
struct HeartbeatKind {
  using Component = Heartbeat;
  static auto Make(vmbus::Server& server, const IntegrationResources& resources, const WallClock&) {
    return *Heartbeat::Create(server, resources, {});
  }
  static std::string Use(Heartbeat& heartbeat, std::mt19937_64&) {
    return absl::StrCat(TextOf(heartbeat.contact()), " ", static_cast<uint32_t>(heartbeat.health()), "\n");
  }
};
struct TimeSyncKind {
  using Component = TimeSync;
  static auto Make(vmbus::Server& server, const IntegrationResources& resources, const WallClock& wall_clock) {
    return *TimeSync::Create(server, resources, wall_clock, {.samples_only = true});
  }
  static std::string Use(TimeSync&, std::mt19937_64&) { return ""; }
};
struct ShutdownKind {
  using Component = Shutdown;
  static auto Make(vmbus::Server& server, const IntegrationResources& resources, const WallClock&) {
    return *Shutdown::Create(server, resources);
  }
  // Its answer is no matter of state: after a restore nobody waits for it.
  static std::string Use(Shutdown& shutdown, std::mt19937_64& random) {
    shutdown.Request(
        {.action = static_cast<ShutdownAction>(random() % 3), .answer_within = std::chrono::milliseconds(1)},
        [](const absl::Status&) {});
    return "";
  }
};

struct KeyValueKind {
  using Component = KeyValueExchange;
  static auto Make(vmbus::Server& server, const IntegrationResources& resources, const WallClock&) {
    return *KeyValueExchange::Create(server, resources, {.answer_within = std::chrono::milliseconds(1)});
  }
  static std::string Use(KeyValueExchange& pairs, std::mt19937_64& random) {
    if (random() % 2 == 0) {
      pairs.Set(KeyValuePool::kExternal, "key", "value", [](const absl::Status&) {});
    } else {
      pairs.List(KeyValuePool::kGuest, [](const absl::StatusOr<std::vector<KeyValue>>&) {});
    }
    return "";
  }
};
// What is not answered is taken back, and that is a matter of state.
struct FileCopyKind {
  using Component = GuestFileCopy;
  static auto Make(vmbus::Server& server, const IntegrationResources& resources, const WallClock&) {
    return *GuestFileCopy::Create(server, resources, {.answer_within = std::chrono::milliseconds(1)});
  }
  static std::string Use(GuestFileCopy& files, std::mt19937_64&) {
    FileCopyRequest request{.guest_path = "/tmp/a", .size_bytes = 1};
    request.read = [](uint64_t, absl::Span<uint8_t> to) { return to[0] = 'x', absl::OkStatus(); };
    files.Copy(std::move(request), [](const absl::Status&) {});
    return "";
  }
};

// That something is to be thawed is a matter of state, whoever has frozen it.
struct BackupKind {
  using Component = Backup;
  static auto Make(vmbus::Server& server, const IntegrationResources& resources, const WallClock&) {
    return *Backup::Create(server, resources, {.thaw_within = std::chrono::milliseconds(1)});
  }
  static std::string Use(Backup& backup, std::mt19937_64&) {
    backup.Freeze(std::chrono::milliseconds(1), [&backup](const absl::Status& status) {
      if (status.ok()) backup.Thaw([](const absl::Status&) {});
    });
    return "";
  }
};

template <typename Kind>
class IntegrationSubject : private PlayedChannel {
 public:
  IntegrationSubject() : PlayedChannel(/*pages=*/8) {
    component_ = Kind::Make(server_, {.executor = executor_, .timers = timers_, .clock = clock_}, wall_clock_);
    executor_.RunUntilIdle();
  }

  state::Component& component() { return *component_; }

  // Of all subjects: the histories are not empty.
  static inline int opens = 0, messages = 0;

  void CopyWorld(IntegrationSubject& from) { CopyWorldOf(from); }

  std::string Step(std::mt19937_64& random) {
    RestoreServer();
    // What is due is counted anew after each stop, as after a restore.
    component_->Pause();
    component_->Resume();
    executor_.RunUntilIdle();
    std::string seen;
    switch (random() % 6) {
      case 0:
        if (!is_open_) {
          seen = Open();
          opens += is_open_;
        } else if (random() % 8 == 0) {
          seen = Close();
        }
        break;
      case 1:
        timers_.AdvanceBy(random() % 130'000'000);
        executor_.RunUntilIdle();
        break;
      case 2:
        seen = Kind::Use(*component_, random);
        executor_.RunUntilIdle();
        for (uint64_t in_time = random() % 4; in_time > 0; --in_time) seen += Answer(random);
        timers_.AdvanceBy(20'000);
        executor_.RunUntilIdle();
        break;
      default:
        seen = Answer(random);
    }
    return seen + TakeMessages(hypervisor_, executor_);
  }

 private:
  // Takes a message, and mostly answers it as Linux does: as it is, but for the flags.
  std::string Answer(std::mt19937_64& random) {
    if (!is_open_) return "";
    vmbus::RingReader<vmbus::FlatMemory> ring(Ring(false));
    alignas(8) uint8_t buffer[8192];
    vmbus::Packet packet;
    if (ring.Attach() != vmbus::RingStatus::kOk ||
        ring.Read(buffer, sizeof(buffer), packet) != vmbus::RingStatus::kOk) {
      return "";
    }
    ++messages;
    std::vector<uint8_t> message(packet.payload, packet.payload + packet.payload_size);
    const size_t size = 8 + message[4];  // but for a shutdown's text; what follows is padding
    const std::string seen = absl::StrCat(
        "message ", absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(message.data()), size)),
        "\n");
    if (ring.Commit() == vmbus::Signal::kNeeded) Signal();
    if (random() % 8 == 0) return seen;
    message[25] = 5;
    if (message[12] == 0) {
      // The last of each list.
      const size_t versions = message[30];
      message[28] = message[30] = 1;
      std::memmove(&message[36], &message[40], 4);
      std::memmove(&message[40], &message[44 + 4 * (versions - 1)], 4);
    } else {
      ++message[28];
    }
    if (random() % 16 == 0) message[random() % message.size()] ^= static_cast<uint8_t>(1 << random() % 8);
    Put(message.data(), message.size());
    return seen;
  }
  ClockOfTime wall_clock_{clock_};
  std::unique_ptr<typename Kind::Component> component_;
};

template <typename Kind>
class IntegrationComponentTest : public testing::Test {};
using Kinds = testing::Types<HeartbeatKind, TimeSyncKind, ShutdownKind, KeyValueKind, FileCopyKind, BackupKind>;
TYPED_TEST_SUITE(IntegrationComponentTest, Kinds);

TYPED_TEST(IntegrationComponentTest, KeepsItsState) {
  using Subject = IntegrationSubject<TypeParam>;
  state::CheckComponent([] { return std::make_unique<Subject>(); });
  EXPECT_GT(Subject::opens, 20);
  EXPECT_GT(Subject::messages, 50);
}

}  // namespace
}  // namespace hvsdk::vsp
