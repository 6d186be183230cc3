// SPDX-License-Identifier: Apache-2.0
// The balloon by the suite that every component passes. Its guest is nothing but memory: it says what comes next, or something else, and
// gives up pages that it has, or does not.

#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "hvsdk/hvdef/dynamic_memory.h"
#include "hvsdk/vmbus/ring/reader.h"
#include "hvsdk/vsp/balloon.h"
#include "tests/state/component_suite.h"
#include "tests/vsp/played_channel.h"

namespace hvsdk::vsp {
namespace {

namespace wire = hvdef::dynamic_memory;
using wire::MessageType;

class BalloonSubject : private PlayedChannel {
 public:
  BalloonSubject() : PlayedChannel(kPages) {
    memory_.SetDiscarder([](uint8_t* host, uint64_t size_bytes) {
      std::memset(host, 0, size_bytes);
      return size_bytes;
    });
    BalloonOptions options{.growth = {.first_page = kGrowthFirst, .pages = kGrowthPages}};
    options.growth.grow = [this](uint64_t pages) { return Grow(pages); };
    balloon_ = *Balloon::Create(server_, memory_, {.executor = executor_, .timers = timers_, .clock = clock_},
                                std::move(options));
    executor_.RunUntilIdle();
  }

  state::Component& component() { return *balloon_; }

  // Of all subjects: the histories are not empty.
  static inline int opens = 0, ready = 0, given = 0, got_back = 0, added = 0;

  void CopyWorld(BalloonSubject& from) {
    CopyWorldOf(from);
    last_ = from.last_;
    asked_ = from.asked_;
    EXPECT_TRUE(Grow(from.grown_).ok());
    growth_bytes_ = from.growth_bytes_;
  }

  std::string Step(std::mt19937_64& random) {
    RestoreServer();
    balloon_->Pause();
    balloon_->Resume();
    executor_.RunUntilIdle();
    std::string seen;
    const uint64_t what = random() % 16;
    if (!is_open_ && what < 12) {
      seen = Open();
      opens += is_open_;
      last_ = MessageType::kError;
    } else if (what == 0) {
      seen = Close();
    } else if (what == 1) {
      timers_.AdvanceBy(random() % 130'000'000);
    } else if (what < 5) {
      // Its answer is no matter of state: after a restore nobody waits for it.
      balloon_->SetTarget({.pages = random() % 2 == 0 ? kPages : random() % (kPages + kGrowthPages + 1)},
                          [](const absl::Status&) {});
    } else {
      seen = TakePacket();
      if (random() % 8 != 0) Say(random);
    }
    executor_.RunUntilIdle();
    const BalloonStatus status = balloon_->status();
    ready += status.version != wire::Version::kNone;
    given += status.assigned < status.memory;
    added += status.memory > kPages;
    return absl::StrCat(seen, TakeMessages(hypervisor_, executor_), "version ", static_cast<uint32_t>(status.version),
                        " assigned ", status.assigned, " memory ", status.memory, " promised ", status.promised,
                        " target ", status.target, " available ", status.available, " demand ", status.demand, "\n");
  }

 private:
  static constexpr uint64_t kPages = 72, kFirst = 8;
  static constexpr uint64_t kGrowthFirst = 1024, kGrowthPages = 40, kGrowthPiece = 8;

  // As the machine does it that the balloon is part of.
  absl::Status Grow(uint64_t pages) {
    for (; grown_ < pages; grown_ += kGrowthPiece) {
      const absl::Status status =
          memory_.AddRange((kGrowthFirst + grown_) * kPageSize,
                           absl::MakeSpan(&growth_bytes_[grown_ * kPageSize], kGrowthPiece * kPageSize));
      EXPECT_TRUE(status.ok()) << status;
    }
    return absl::OkStatus();
  }

  std::string TakePacket() {
    if (!is_open_) return "";
    vmbus::RingReader<vmbus::FlatMemory> ring(Ring(false));
    alignas(8) uint8_t buffer[4096];
    vmbus::Packet packet;
    if (ring.Attach() != vmbus::RingStatus::kOk ||
        ring.Read(buffer, sizeof(buffer), packet) != vmbus::RingStatus::kOk) {
      return "";
    }
    std::memcpy(&last_, packet.payload, sizeof(last_));
    got_back += last_ == MessageType::kUnballoonRequest;
    if (last_ == MessageType::kHotAddRequest) {
      wire::HotAddRequest request;
      std::memcpy(&request, packet.payload, sizeof(request));
      asked_ = static_cast<uint32_t>(request.range.count());
    }
    const std::string seen = absl::StrCat(
        "packet ", absl::BytesToHexString({reinterpret_cast<const char*>(packet.payload), packet.payload_size}), "\n");
    if (ring.Commit() == vmbus::Signal::kNeeded) Signal();
    return seen;
  }
  // What is due after the host's last word, mostly.
  void Say(std::mt19937_64& random) {
    if (!is_open_) return;
    MessageType type = MessageType::kStatusReport;
    if (last_ == MessageType::kError) type = MessageType::kVersionRequest;
    if (last_ == MessageType::kVersionResponse) type = MessageType::kCapabilitiesReport;
    if (last_ == MessageType::kBalloonRequest) type = MessageType::kBalloonResponse;
    if (last_ == MessageType::kUnballoonRequest) type = MessageType::kUnballoonResponse;
    if (last_ == MessageType::kHotAddRequest) type = MessageType::kHotAddResponse;
    if (random() % 64 == 0) type = static_cast<MessageType>(random() % 13);
    union {
      wire::Header header;
      wire::VersionRequest version;
      wire::CapabilitiesReport capabilities;
      wire::StatusReport status;
      wire::HotAddResponse hot_add;
      struct {
        wire::BalloonResponse response;
        wire::PageRange ranges[4];
      } balloon;
    } message;
    std::memset(&message, 0, sizeof(message));
    size_t size = sizeof(message.header);
    switch (type) {
      case MessageType::kVersionRequest:
        message.version.version = random() % 8 == 0 ? static_cast<wire::Version>(9) : wire::kVersions[random() % 3];
        message.version.is_last = random() % 32 == 0;
        size = sizeof(message.version);
        break;
      case MessageType::kCapabilitiesReport:
        message.capabilities.capabilities = random() % 8 == 0 ? 0 : wire::kCanBalloon | wire::kCanHotAdd;
        size = sizeof(message.capabilities);
        break;
      case MessageType::kStatusReport:
        message.status.available = random() % 100;
        message.status.committed = random() % 100;
        size = sizeof(message.status);
        break;
      case MessageType::kBalloonResponse: {
        // In one place of four, so that few were given up before.
        const uint32_t count = random() % 5;
        uint64_t at = kFirst + random() % 4 * 16;
        for (uint32_t i = 0; i < count; ++i) {
          const uint64_t pages = 1 + random() % 3;
          message.balloon.ranges[i] = wire::PageRange::Make(at, pages);
          at += pages;
        }
        message.balloon.response.ranges = count << 1 | (random() % 2);
        if ((message.balloon.response.ranges & 1) == 0) last_ = MessageType::kCapabilitiesResponse;
        size = sizeof(message.balloon.response) + count * sizeof(wire::PageRange);
        break;
      }
      case MessageType::kHotAddResponse:
        message.hot_add.page_count = random() % 4 == 0 ? random() % (asked_ + 1) : asked_;
        message.hot_add.is_permanent = random() % 4 != 0;
        size = sizeof(message.hot_add);
        last_ = MessageType::kCapabilitiesResponse;
        break;
      default:
        break;
    }
    if (type == MessageType::kUnballoonResponse) last_ = MessageType::kCapabilitiesResponse;
    message.header.type = type;
    message.header.size_bytes = static_cast<uint16_t>(size);
    Put(&message, size);
  }
  std::unique_ptr<Balloon> balloon_;
  MessageType last_ = MessageType::kError;  // of the host's
  uint32_t asked_ = 0;                      // how many new pages it has told of last
  std::vector<uint8_t> growth_bytes_ = std::vector<uint8_t>(kGrowthPages * kPageSize);
  uint64_t grown_ = 0;
};

TEST(BalloonComponentTest, KeepsItsState) {
  state::CheckComponent([] { return std::make_unique<BalloonSubject>(); });
  EXPECT_GT(BalloonSubject::opens, 5);
  EXPECT_GT(BalloonSubject::ready, 50);
  EXPECT_GT(BalloonSubject::given, 10);
  EXPECT_GT(BalloonSubject::got_back, 0);
  EXPECT_GT(BalloonSubject::added, 10);
}

}  // namespace
}  // namespace hvsdk::vsp
