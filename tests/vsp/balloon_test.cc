// SPDX-License-Identifier: Apache-2.0
// The balloon against its client over real rings, by a model of who has which page, and against guests that lie.

#include "hvsdk/vsp/balloon.h"

#include <sys/mman.h>

#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/hvdef/dynamic_memory.h"
#include "hvsdk/vsc/balloon_client.h"
#include "tests/random_seed.h"
#include "tests/vsp/provider_fixture.h"

namespace hvsdk::vsp {
namespace {

namespace wire = hvdef::dynamic_memory;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using wire::MessageType;
using wire::PageRange;
using wire::Version;

class BalloonTest : public ProviderFixture<vsc::BalloonClient> {
 protected:
  static constexpr uint64_t kMemoryBytes = 16 << 20, kPages = kMemoryBytes >> kPageShift;
  static constexpr uint32_t kRingPages = 5;
  static constexpr uint64_t kFirst = 64;  // pages below are the bus' and the rings'

  void SetUp() override {
    MakeServer(kMemoryBytes);
    memory_.SetDiscarder([this](uint8_t* host, uint64_t size_bytes) {
      discarded_ += size_bytes >> kPageShift;
      return madvise(host, size_bytes, MADV_DONTNEED) == 0 ? size_bytes : 0;
    });
    MakeBalloon({.min_pages = 256});
  }
  // Room for memory beyond what there is, which becomes memory in pieces.
  static constexpr uint64_t kGrowthFirst = 64 << 20 >> kPageShift, kGrowthPages = 8 << 20 >> kPageShift;
  static constexpr uint64_t kGrowthPiece = 2 << 20 >> kPageShift;
  BalloonOptions Growing() {
    BalloonOptions options{.min_pages = 256, .growth = {.first_page = kGrowthFirst, .pages = kGrowthPages}};
    options.growth.grow = [this](uint64_t pages) {
      if (!host_status_.ok()) return host_status_;
      for (; grown_ < pages; grown_ += kGrowthPiece) {
        const absl::Status status =
            memory_.AddRange((kGrowthFirst + grown_) << kPageShift,
                             absl::MakeSpan(growth_.get() + (grown_ << kPageShift), kGrowthPiece << kPageShift));
        EXPECT_TRUE(status.ok()) << status;
      }
      return absl::OkStatus();
    };
    options.budget = budget_;
    return options;
  }
  // In place of the one that SetUp has made.
  void Remake(BalloonOptions options) {
    child_.reset();
    balloon_.reset();
    server_->Reset();
    MakeBalloon(std::move(options));
  }
  // A machine that may grow, whose guest knows how to.
  void BeginGrowing() {
    Remake(Growing());
    OpenChannel();
    Agree(wire::kCanBalloon | wire::kCanHotAdd);
  }
  void MakeBalloon(const BalloonOptions& options) {
    balloon_ =
        *Balloon::Create(*server_, memory_, {.executor = executor_, .timers = timers_, .clock = clock_}, options);
    MakeChild();
    const uint64_t gpa = child_->AllocatePages(2 * kRingPages);
    ring_ = {.pages = {.pfns = nullptr, .first_pfn = gpa / kPageSize, .page_count = 2 * kRingPages},
             .outgoing_pages = kRingPages};
  }
  void TearDown() override {
    balloon_.reset();
    ProviderFixture::TearDown();
  }

  void OpenChannel() {
    rings_ = vsc::ClientRings::Create(child_->host(ring_.pages.first_pfn * kPageSize), ring_);
    for (const auto& offer : child_->offers()) {
      if (offer.class_id == hvdef::class_id::kDynamicMemory) {
        EXPECT_TRUE(child_->client().Open(channel_, offer, ring_));
      }
    }
    Pump();
    ASSERT_EQ(channel_.state(), vsc::Channel::State::kOpen);
  }
  void CloseChannel() {
    child_->client().Close(channel_);
    Pump();
    channel_ = vsc::Channel();
  }

  // What it answers soon; what it answers later is nobody's.
  std::vector<std::string> SetTarget(uint64_t pages) {
    const auto answers = std::make_shared<std::vector<std::string>>();
    balloon_->SetTarget({.pages = pages},
                        [answers](const absl::Status& status) { answers->push_back(status.ToString()); });
    Pump();
    // A guest that gives nothing is asked again after a while.
    for (int i = 0; i < 4 && answers->empty(); ++i) {
      timers_.AdvanceBy(5'000'000);
      Pump();
    }
    return *answers;
  }

  // --- A guest without a client, which says what it likes. ---

  std::string Take() {
    alignas(8) uint8_t buffer[wire::kMaxMessageBytes];
    vmbus::Packet packet;
    if (rings_.incoming.Read(buffer, sizeof(buffer), packet) != vmbus::RingStatus::kOk) return "";
    (void)rings_.incoming.Commit();
    return absl::BytesToHexString({reinterpret_cast<const char*>(packet.payload), packet.payload_size});
  }
  void Put(const void* message, size_t size_bytes) {
    ASSERT_EQ(
        rings_.outgoing.StageInBand(vmbus::PacketHeader::InBand(7, false), message, static_cast<uint32_t>(size_bytes)),
        vmbus::RingStatus::kOk);
    (void)rings_.outgoing.Publish();
    child_->client().Signal(channel_);
    Pump();
  }
  void Agree(uint64_t capabilities = wire::kCanBalloon) {
    const wire::VersionRequest version{.header = {MessageType::kVersionRequest, sizeof(version), 1},
                                       .version = Version::k3};
    Put(&version, sizeof(version));
    const wire::CapabilitiesReport report{.header = {MessageType::kCapabilitiesReport, sizeof(report), 2},
                                          .capabilities = capabilities};
    Put(&report, sizeof(report));
    while (!Take().empty()) {
    }
    ASSERT_EQ(balloon_->status().version, Version::k3);
  }
  void PutRanges(const std::vector<PageRange>& ranges, bool has_more = false, int size_off = 0, int count_off = 0) {
    const size_t size = sizeof(wire::BalloonResponse) + ranges.size() * sizeof(PageRange);
    const wire::BalloonResponse response{
        .header = {MessageType::kBalloonResponse, static_cast<uint16_t>(size + size_off), 3},
        .ranges = static_cast<uint32_t>(ranges.size() + count_off) << 1 | has_more};
    std::vector<uint8_t> message(size);
    std::memcpy(message.data(), &response, sizeof(response));
    std::memcpy(message.data() + sizeof(response), ranges.data(), ranges.size() * sizeof(PageRange));
    Put(message.data(), size);
  }
  uint64_t given_up() const { return kPages - balloon_->status().assigned; }
  void PutAdded(uint32_t pages, uint32_t is_permanent) {
    const wire::HotAddResponse response{.header = {MessageType::kHotAddResponse, sizeof(response), 4},
                                        .page_count = pages,
                                        .is_permanent = is_permanent};
    Put(&response, sizeof(response));
  }

  const std::shared_ptr<uint8_t> growth_ = MakeZeroPages(kGrowthPages << kPageShift);
  uint64_t grown_ = 0;
  absl::Status host_status_;
  MemoryBudget* budget_ = nullptr;

  std::unique_ptr<Balloon> balloon_;
  uint64_t discarded_ = 0;
  vsc::Channel channel_;
  vsc::RingPages ring_;
  vsc::ClientRings rings_;
};

// As Linux says it (drivers/hv/hv_balloon.c, balloon_connect_vsp), and what it wants to hear.
TEST_F(BalloonTest, GoldenBytes) {
  OpenChannel();
  const auto put = [&](const std::string& hex) {
    const std::string bytes = absl::HexStringToBytes(hex);
    Put(bytes.data(), bytes.size());
  };
  put("0100"
      "1000"
      "01000000"
      "00000300"
      "00000000");  // version 3.0, which nobody knows
  EXPECT_EQ(Take(),
            "0200100001000000"
            "0000000000000000");
  put("0100"
      "1000"
      "02000000"
      "00000200"
      "00000000");
  EXPECT_EQ(Take(),
            "0200100002000000"
            "0100000000000000");
  put("0300"
      "2000"
      "03000000"
      "1d00000000000000"
      "0000000000000000"
      "ffffffffffffffff");
  EXPECT_EQ(Take(),
            "0400100003000000"
            "0100000000000000");
  EXPECT_EQ(balloon_->status().version, Version::k3);
  EXPECT_FALSE(balloon_->status().has_report);
  put("0500"
      "3000"
      "04000000"
      "0010000000000000"
      "0020000000000000"
      "0000000000000000"
      "0000000000000000"
      "0000000000000000");
  EXPECT_TRUE(balloon_->status().has_report);
  EXPECT_EQ(balloon_->status().available, 0x1000u);
  EXPECT_EQ(balloon_->status().demand, 0x2000u);
  EXPECT_EQ(balloon_->status().pressure(), 200u);
  EXPECT_THAT(SetTarget(kPages - 512), IsEmpty());
  EXPECT_EQ(Take(),
            "0600100004000000"
            "00020000"
            "00000000");
  put("0700"
      "2000"
      "05000000"
      "00000000"
      "05000000"
      "0004000000000100"
      "0006000000ff0000");
  EXPECT_EQ(Take(), "");
  EXPECT_EQ(given_up(), 511u);
  EXPECT_EQ(discarded_, 511u);
  put("0700"
      "1800"
      "06000000"
      "00000000"
      "02000000"
      "0008000000010000");
  EXPECT_EQ(given_up(), 512u);
  EXPECT_EQ(balloon_->status().demand, 0x2000u - 512u);
  EXPECT_THAT(SetTarget(kPages), IsEmpty());
  EXPECT_EQ(Take(),
            "0800280005000000"
            "00000000"
            "03000000"
            "0004000000000100"
            "0006000000ff0000"
            "0008000000010000");
  EXPECT_EQ(given_up(), 0u);
  put("0900"
      "0800"
      "07000000");
  EXPECT_THAT(SetTarget(kPages), ElementsAre("OK"));
  CloseChannel();
}

TEST_F(BalloonTest, AGuestThatSpeaksNoVersionIsRefused) {
  OpenChannel();
  wire::VersionRequest version{
      .header = {MessageType::kVersionRequest, sizeof(version), 1}, .version = static_cast<Version>(7), .is_last = 1};
  Put(&version, sizeof(version));
  EXPECT_THAT(Take(), HasSubstr("0200100001000000"));
  EXPECT_EQ(balloon_->status().version, Version::kNone);
  EXPECT_THAT(SetTarget(kPages / 2), ElementsAre(HasSubstr("no driver")));
  CloseChannel();
}

// Whatever the target, and whatever the guest is willing to give: both sides have the same idea of who has what, and what was given
// up is gone.
TEST_F(BalloonTest, AgreesWithAModelOfPages) {
  const uint32_t seed = TestSeed();
  std::mt19937 random(seed);
  Remake(Growing());
  struct Guest {
    std::mt19937& random;
    GuestMemory& memory;
    std::set<uint64_t> own, given;
    uint64_t willing = kPages, added = 0;
    int errors = 0;
  } guest{random, memory_, {}, {}};
  const auto stamp = [&](uint64_t page) { return page * 0x9E3779B97F4A7C15 | 1; };
  for (uint64_t page = kFirst; page < kPages; ++page) {
    guest.own.insert(page);
    ASSERT_TRUE(memory_.WriteObject(page << kPageShift, stamp(page)));
  }
  for (const Version newest : wire::kVersions) {
    OpenChannel();
    vsc::BalloonClient client(child_->client(), channel_, rings_, newest);
    client.context = &guest;
    client.give_up = [](void* context, uint32_t pages, PageRange* ranges, uint32_t most) -> uint32_t {
      auto& guest = *static_cast<Guest*>(context);
      uint32_t count = 0;
      uint64_t left = std::min<uint64_t>(pages, guest.willing);
      most = std::min<uint32_t>(most, 1 + guest.random() % 40);
      while (left != 0 && count < most && !guest.own.empty()) {
        auto at =
            guest.own.lower_bound(guest.random() % (guest.random() % 4 == 0 ? kGrowthFirst + kGrowthPages : kPages));
        if (at == guest.own.end()) at = guest.own.begin();
        const uint64_t first = *at;
        const uint64_t wanted = std::min<uint64_t>(left, 1 + guest.random() % 700);
        uint64_t run = 0;
        while (run < wanted && at != guest.own.end() && *at == first + run) {
          guest.given.insert(*at);
          at = guest.own.erase(at);
          ++run;
        }
        ranges[count++] = PageRange::Make(first, run);
        left -= run;
        guest.willing -= run;
      }
      return count;
    };
    client.take_back = [](void* context, PageRange range) {
      auto& guest = *static_cast<Guest*>(context);
      for (uint64_t page = range.first(); page < range.first() + range.count(); ++page) {
        guest.errors += guest.given.erase(page) != 1;
        guest.own.insert(page);
        // As whoever gets it.
        guest.errors += !guest.memory.WriteObject(page << kPageShift, page * 0x9E3779B97F4A7C15 | 1);
      }
    };
    client.take_new = [](void* context, PageRange range) -> uint32_t {
      auto& guest = *static_cast<Guest*>(context);
      guest.errors += range.first() != kGrowthFirst + guest.added;
      for (uint64_t page = range.first(); page < range.first() + range.count(); ++page) {
        uint64_t word = 1;
        guest.errors += !guest.memory.ReadObject(page << kPageShift, word) || word != 0;
        guest.own.insert(page);
        guest.errors += !guest.memory.WriteObject(page << kPageShift, page * 0x9E3779B97F4A7C15 | 1);
      }
      guest.added += range.count();
      return static_cast<uint32_t>(range.count());
    };
    client.Start();
    Pump();
    ASSERT_EQ(client.state(), vsc::BalloonClient::State::kReady);
    ASSERT_EQ(client.version(), newest);
    int reached = 0;
    for (int step = 0; step < 12; ++step) {
      guest.willing = random() % 4 == 0 ? random() % 2000 : kPages;
      const uint64_t before = balloon_->status().assigned;
      const uint64_t target = 256 + random() % (kPages + kGrowthPages - 255);
      const std::vector<std::string> answers = SetTarget(target);
      ASSERT_EQ(answers.size(), 1u) << "seed " << seed;
      const uint64_t assigned = balloon_->status().assigned;
      reached += answers[0] == "OK";
      if (answers[0] == "OK") {
        ASSERT_EQ(assigned, target);
      } else {
        ASSERT_THAT(answers[0], HasSubstr("gives up no more"));
        ASSERT_TRUE(assigned > target && assigned <= before);
        ASSERT_EQ(balloon_->status().target, assigned);
      }
      ASSERT_EQ(kPages + guest.added - assigned, guest.given.size()) << "seed " << seed;
      ASSERT_EQ(balloon_->status().memory, kPages + guest.added);
      ASSERT_EQ(guest.errors, 0) << "seed " << seed;
      ASSERT_TRUE(client.Report(guest.own.size(), 1000 + guest.given.size()));
      Pump();
      ASSERT_EQ(balloon_->status().available, guest.own.size());
      ASSERT_EQ(balloon_->status().demand, 1000u);
    }
    EXPECT_GT(reached, 2);
    uint64_t word;
    for (uint64_t page = kFirst; page < kGrowthFirst + guest.added; ++page) {
      if (page == kPages) page = kGrowthFirst;
      if (page == kGrowthFirst + guest.added) break;
      ASSERT_TRUE(memory_.ReadObject(page << kPageShift, word));
      ASSERT_EQ(word, guest.given.contains(page) ? 0 : stamp(page)) << page << ", seed " << seed;
    }
    CloseChannel();
    // What the driver had given up is the guest's, who has forgotten it.
    EXPECT_EQ(balloon_->status().assigned, kPages + guest.added);
    for (const uint64_t page : guest.given) ASSERT_TRUE(memory_.WriteObject(page << kPageShift, stamp(page)));
    guest.own.merge(guest.given);
    guest.given.clear();
  }
  EXPECT_GT(guest.added, 0u);
}

TEST_F(BalloonTest, LiesAreNotBelieved) {
  const std::vector<uint8_t> short_one = {7, 0, 8};
  const std::vector<std::pair<const char*, std::function<void()>>> lies = {
      {"too short to be a message", [&] { Put(short_one.data(), short_one.size()); }},
      {"longer than its packet", [&] { PutRanges({PageRange::Make(100, 1)}, false, 8); }},
      {"shorter than its header", [&] { PutRanges({PageRange::Make(100, 1)}, false, -20); }},
      {"more ranges than there are", [&] { PutRanges({PageRange::Make(100, 1)}, false, 0, 1); }},
      {"2^31 ranges", [&] { PutRanges({PageRange::Make(100, 1)}, false, 0, 0x7FFFFFFE); }},
      {"behind the end of memory", [&] { PutRanges({PageRange::Make(kPages - 1, 2)}); }},
      {"far from memory", [&] { PutRanges({PageRange::Make(PageRange::kMaxFirst, 1)}); }},
      {"all there is", [&] { PutRanges({PageRange::Make(0, PageRange::kMaxCount)}); }},
      {"twice in a message",
       [&] {
         PutRanges({PageRange::Make(300, 4), PageRange::Make(303, 2)});
       }},
      {"given up before",
       [&] {
         PutRanges({PageRange::Make(300, 4)}, /*has_more=*/true);
         PutRanges({PageRange::Make(290, 20)});
       }},
      {"more than was asked for", [&] { PutRanges({PageRange::Make(300, 1024 + 512)}); }},
      {"an answer to another question",
       [&] {
         const wire::Header header{MessageType::kUnballoonResponse, sizeof(header), 5};
         Put(&header, sizeof(header));
       }},
      {"a version in the middle",
       [&] {
         const wire::VersionRequest version{.header = {MessageType::kVersionRequest, sizeof(version), 1},
                                            .version = Version::k3};
         Put(&version, sizeof(version));
       }},
  };
  for (const auto& [name, lie] : lies) {
    SCOPED_TRACE(name);
    OpenChannel();
    Agree();
    std::vector<std::string> answers;
    balloon_->SetTarget({.pages = kPages - 1024},
                        [&](const absl::Status& status) { answers.push_back(status.ToString()); });
    Pump();
    ASSERT_NE(Take(), "");
    const uint64_t word = 0x0123456789ABCDEF;
    ASSERT_TRUE(memory_.WriteObject(290 << kPageShift, word));
    lie();
    const uint64_t kept = given_up();
    EXPECT_TRUE(kept == 0 || kept == 4);
    // Nothing of it was done, and nothing more is heard.
    uint64_t now = 0;
    EXPECT_TRUE(memory_.ReadObject(290 << kPageShift, now));
    EXPECT_EQ(now, word);
    PutRanges({PageRange::Make(500, 10)});
    EXPECT_EQ(given_up(), kept);
    EXPECT_THAT(answers, ElementsAre(HasSubstr("has broken the protocol")));
    EXPECT_THAT(SetTarget(kPages - 512), ElementsAre(HasSubstr("no driver")));
    CloseChannel();
  }
}

// Rings are what the guest says they are; it may say that it gives them up.
TEST_F(BalloonTest, WhatTheHostReliesOnKeepsItsBytes) {
  OpenChannel();
  Agree();
  EXPECT_THAT(SetTarget(kPages - 1024), IsEmpty());
  ASSERT_NE(Take(), "");
  const uint64_t ring = ring_.pages.first_pfn;
  PutRanges({PageRange::Make(ring - 1, 2 * kRingPages + 2)}, /*has_more=*/true);
  EXPECT_EQ(given_up(), 2 * kRingPages + 2);
  EXPECT_EQ(discarded_, 2u);
  // They still are what messages go through.
  PutRanges({PageRange::Make(1000, 1024 - 2 * kRingPages - 2)});
  EXPECT_EQ(given_up(), 1024u);
  EXPECT_THAT(SetTarget(kPages), IsEmpty());
  EXPECT_NE(Take(), "");
  CloseChannel();
}

// One that always does a little of it never is late.
TEST_F(BalloonTest, AGuestMayBeTooSlow) {
  OpenChannel();
  Agree();
  std::vector<std::string> told;
  balloon_->SetTarget({.pages = kPages - 1024, .within = std::chrono::seconds(20)},
                      [&](const absl::Status& status) { told.push_back(status.ToString()); });
  Pump();
  ASSERT_NE(Take(), "");
  for (uint64_t page = 1000; page < 1003; ++page) {
    timers_.AdvanceBy(6 * 10'000'000);
    Pump();
    EXPECT_THAT(told, IsEmpty());
    PutRanges({PageRange::Make(page, 1)}, /*has_more=*/true);
  }
  timers_.AdvanceBy(6 * 10'000'000);
  Pump();
  EXPECT_THAT(told, ElementsAre("DEADLINE_EXCEEDED: the guest is too slow: it has 15 MiB"));
  PutRanges({PageRange::Make(1003, 1)}, /*has_more=*/true);
  EXPECT_EQ(given_up(), 4u) << "what it may do yet is taken";
  CloseChannel();
}

TEST_F(BalloonTest, ALateGuestIsTakenAtItsWordYet) {
  OpenChannel();
  Agree();
  std::vector<std::string> first, second;
  balloon_->SetTarget({.pages = kPages - 512}, [&](const absl::Status& status) { first.push_back(status.ToString()); });
  Pump();
  timers_.AdvanceBy(11 * 10'000'000);
  Pump();
  EXPECT_THAT(first, ElementsAre(HasSubstr("does not answer")));
  balloon_->SetTarget({.pages = kPages - 1024},
                      [&](const absl::Status& status) { second.push_back(status.ToString()); });
  Pump();
  EXPECT_NE(Take(), "");
  EXPECT_EQ(Take(), "") << "one request at a time";
  PutRanges({PageRange::Make(1024, 512)});
  EXPECT_NE(Take(), "");
  PutRanges({PageRange::Make(2048, 512)});
  EXPECT_THAT(second, ElementsAre("OK"));
  // Out of bounds, and another one's.
  EXPECT_THAT(SetTarget(255), ElementsAre(HasSubstr("0 MiB is not between 1 and 16 MiB")));
  EXPECT_THAT(SetTarget(kPages + 1), ElementsAre(HasSubstr("not between")));
  std::vector<std::string> third;
  balloon_->SetTarget({.pages = kPages}, [&](const absl::Status& status) { third.push_back(status.ToString()); });
  balloon_->SetTarget({.pages = kPages - 512}, [](const absl::Status&) {});
  EXPECT_THAT(third, ElementsAre(HasSubstr("ABORTED: another target")));
  // A guest that stands still is asked nothing.
  balloon_->Pause();
  Pump();
  EXPECT_EQ(Take(), "");
  balloon_->Resume();
  Pump();
  EXPECT_NE(Take(), "");
  CloseChannel();
}

// Nobody is late who stands still.
TEST_F(BalloonTest, TimeToAnswerStandsStillWithTheGuest) {
  OpenChannel();
  Agree();
  std::vector<std::string> told;
  balloon_->SetTarget({.pages = kPages - 1024}, [&](const absl::Status& status) { told.push_back(status.ToString()); });
  Pump();
  EXPECT_NE(Take(), "");
  for (int i = 0; i < 3; ++i) {
    timers_.AdvanceBy(30'000'000);
    balloon_->Pause();
    timers_.AdvanceBy(1'000'000'000);
    Pump();
    balloon_->Resume();
    Pump();
  }
  EXPECT_THAT(told, IsEmpty());
  EXPECT_EQ(Take(), "") << "it was asked already";
  timers_.AdvanceBy(9'000'000);
  Pump();
  EXPECT_THAT(told, IsEmpty());
  timers_.AdvanceBy(2'000'000);
  Pump();
  EXPECT_THAT(told, ElementsAre(HasSubstr("does not answer")));
  CloseChannel();
}

// As a frame buffer is: memory, and not the guest's to give.
TEST_F(BalloonTest, ADevicesMemoryIsNotAmongIt) {
  constexpr uint64_t kDeviceGpa = 64 << 20, kDeviceBytes = 2 << 20;
  const std::shared_ptr<uint8_t> device = MakeZeroPages(kDeviceBytes);
  child_.reset();
  balloon_.reset();
  ASSERT_TRUE(memory_.AddRange(kDeviceGpa, absl::MakeSpan(device.get(), kDeviceBytes)).ok());
  server_->Reset();
  MakeBalloon({.min_pages = 256, .device_gpa = kDeviceGpa, .device_bytes = kDeviceBytes});
  EXPECT_EQ(balloon_->status().memory, kPages);
  OpenChannel();
  Agree();
  balloon_->SetTarget({.pages = kPages - 1024}, [](const absl::Status&) {});
  Pump();
  EXPECT_NE(Take(), "");
  PutRanges({PageRange::Make(kDeviceGpa >> kPageShift, 1)});
  EXPECT_EQ(discarded_, 0u);
  EXPECT_EQ(balloon_->status().assigned, kPages);
  EXPECT_EQ(balloon_->status().version, Version::kNone) << "it is heard no more";
}

// As Linux' answers are (hot_add_req).
TEST_F(BalloonTest, GoldenBytesOfNewMemory) {
  BeginGrowing();
  EXPECT_EQ(balloon_->status().max, kPages + kGrowthPages);
  EXPECT_THAT(SetTarget(kPages + kGrowthPages + 1), ElementsAre(HasSubstr("is not between 1 and 24 MiB")));
  std::vector<std::string> told;
  balloon_->SetTarget({.pages = kPages + 0x300},
                      [&](const absl::Status& status) { told.push_back(status.ToString()); });
  Pump();
  EXPECT_EQ(Take(),
            "0a00100003000000"
            "0040000000000300");  // 0x300 pages from page 0x4000 on
  EXPECT_EQ(grown_, 0x400u) << "in pieces";
  EXPECT_EQ(balloon_->status().assigned, kPages);
  EXPECT_EQ(balloon_->status().promised, kPages + 0x300);
  const std::string answer = absl::HexStringToBytes(
      "0b001000"
      "08000000"
      "00030000"
      "01000000");
  Put(answer.data(), answer.size());
  EXPECT_THAT(told, ElementsAre("OK"));
  EXPECT_EQ(balloon_->status().assigned, kPages + 0x300);
  EXPECT_EQ(balloon_->status().memory, kPages + 0x300);
  CloseChannel();
  EXPECT_EQ(balloon_->status().assigned, kPages + 0x300) << "though the driver is gone";
  balloon_->Reset();
  EXPECT_EQ(balloon_->status().memory, kPages);
}

TEST_F(BalloonTest, NewMemoryFollowsOnWhatTheGuestHas) {
  BeginGrowing();
  // First comes back what was given up.
  EXPECT_THAT(SetTarget(kPages - 512), IsEmpty());
  ASSERT_NE(Take(), "");
  PutRanges({PageRange::Make(1024, 512)});
  EXPECT_THAT(SetTarget(kPages + 100), IsEmpty());
  EXPECT_THAT(Take(), HasSubstr("0800"));
  const wire::Header thanks{MessageType::kUnballoonResponse, sizeof(thanks), 5};
  Put(&thanks, sizeof(thanks));
  EXPECT_THAT(Take(), HasSubstr("0040000000640000"));
  PutAdded(100, 1);
  // It gives up what is new as it does the rest; but what it was not told of is not its own, though it is memory.
  EXPECT_THAT(SetTarget(kPages - 300), IsEmpty());
  ASSERT_NE(Take(), "");
  PutRanges({PageRange::Make(kGrowthFirst, 100), PageRange::Make(2048, 300)});
  EXPECT_EQ(given_up(), 300u);
  EXPECT_THAT(SetTarget(kPages - 600), IsEmpty());
  ASSERT_NE(Take(), "");
  PutRanges({PageRange::Make(kGrowthFirst + 100, 1)});
  EXPECT_EQ(balloon_->status().version, Version::kNone) << "it is heard no more";
  CloseChannel();
}

TEST_F(BalloonTest, AGuestMayTakeLessOfNewMemory) {
  BeginGrowing();
  // Not now: it is asked again, and at last no more.
  std::vector<std::string> told;
  const auto tell = [&](const absl::Status& status) { told.push_back(status.ToString()); };
  balloon_->SetTarget({.pages = kPages + 600}, tell);
  Pump();
  for (int i = 0; i < 4; ++i) {
    EXPECT_THAT(Take(), HasSubstr("0040000000580200")) << i;
    PutAdded(0, 0);
    timers_.AdvanceBy(5'000'000);
    Pump();
  }
  EXPECT_EQ(Take(), "");
  EXPECT_THAT(told, ElementsAre(HasSubstr("takes no more memory now: it has 16 MiB")));
  EXPECT_EQ(balloon_->status().target, kPages);
  // Some, and no more for good.
  told.clear();
  balloon_->SetTarget({.pages = kPages + 600}, tell);
  Pump();
  ASSERT_NE(Take(), "");
  PutAdded(512, 1);
  EXPECT_THAT(told, ElementsAre(HasSubstr("takes no more memory: it has 18 MiB")));
  EXPECT_EQ(balloon_->status().assigned, kPages + 512);
  EXPECT_EQ(Take(), "");
  EXPECT_THAT(SetTarget(kPages + 600), ElementsAre(HasSubstr("takes no more memory: it has 18 MiB")));
  EXPECT_THAT(SetTarget(kPages + 512), ElementsAre("OK"));
  CloseChannel();
  // One that says at once that it takes none.
  OpenChannel();
  Agree();
  EXPECT_THAT(SetTarget(kPages + 600), ElementsAre(HasSubstr("takes no more memory: it has 18 MiB")));
  CloseChannel();
  // The host has none.
  OpenChannel();
  Agree(wire::kCanBalloon | wire::kCanHotAdd);
  host_status_ = absl::ResourceExhaustedError("the host refuses");
  EXPECT_THAT(SetTarget(kPages + 600), ElementsAre(HasSubstr("the host refuses")));
  EXPECT_EQ(Take(), "");
  CloseChannel();
}

TEST_F(BalloonTest, LiesAboutNewMemoryAreNotBelieved) {
  Remake(Growing());
  const uint32_t short_one[] = {0x000C000B, 1, 600};
  const std::vector<std::pair<const char*, std::function<void()>>> lies = {
      {"more than it was told of", [&] { PutAdded(601, 1); }},
      {"2^32 - 1 pages", [&] { PutAdded(~0u, 1); }},
      {"too short to be an answer", [&] { Put(short_one, sizeof(short_one)); }},
      {"an answer to another question", [&] { PutRanges({PageRange::Make(300, 4)}); }},
  };
  uint64_t has = kPages;
  for (const auto& [name, lie] : lies) {
    SCOPED_TRACE(name);
    OpenChannel();
    Agree(wire::kCanBalloon | wire::kCanHotAdd);
    std::vector<std::string> told;
    balloon_->SetTarget({.pages = has + 400}, [&](const absl::Status& status) { told.push_back(status.ToString()); });
    Pump();
    ASSERT_NE(Take(), "");
    lie();
    EXPECT_THAT(told, ElementsAre(HasSubstr("has broken the protocol")));
    // It may use what it was told of, whatever it says.
    has += 400;
    EXPECT_EQ(balloon_->status().assigned, has);
    CloseChannel();
    EXPECT_EQ(balloon_->status().assigned, has);
  }
  OpenChannel();
  Agree(wire::kCanBalloon | wire::kCanHotAdd);
  PutAdded(1, 1);
  EXPECT_EQ(balloon_->status().version, Version::kNone) << "nobody has asked";
  EXPECT_EQ(balloon_->status().assigned, has);
  CloseChannel();
}

// Who never answers is told of nothing more, and counts as having it.
TEST_F(BalloonTest, ANewPageIsTheGuestsOnceItWasToldOfIt) {
  BeginGrowing();
  std::vector<std::string> told;
  balloon_->SetTarget({.pages = kPages + 100}, [&](const absl::Status& status) { told.push_back(status.ToString()); });
  Pump();
  ASSERT_NE(Take(), "");
  timers_.AdvanceBy(110'000'000);
  Pump();
  EXPECT_THAT(told, ElementsAre(HasSubstr("does not answer")));
  balloon_->SetTarget({.pages = kPages + 200}, [](const absl::Status&) {});
  Pump();
  EXPECT_EQ(Take(), "") << "one request at a time";
  EXPECT_EQ(balloon_->status().promised, kPages + 100);
  CloseChannel();
  EXPECT_EQ(balloon_->status().assigned, kPages + 100);
}

// A host that has a word in it: what a guest is to get it asks for, and it hears of all that it has.
TEST_F(BalloonTest, ABudgetHasTheLastWord) {
  struct Budget : MemoryBudget {
    uint64_t Take(uint64_t pages) override {
      const uint64_t taken = std::min(pages, left);
      left -= taken;
      has += taken;
      return taken;
    }
    void OnChange(const BalloonStatus& status) override {
      left += has - status.promised;
      has = status.promised;
    }
    void OnReport(const BalloonStatus& status) override { needed = status.demand; }
    uint64_t left = 700, has = kPages, needed = 0;
  } budget;
  budget_ = &budget;
  BeginGrowing();
  EXPECT_THAT(SetTarget(kPages - 512), IsEmpty());
  ASSERT_NE(Take(), "");
  PutRanges({PageRange::Make(1024, 512)});
  EXPECT_EQ(budget.has, kPages - 512);
  EXPECT_EQ(budget.left, 1212u);
  budget.left = 300;
  std::vector<std::string> told;
  balloon_->SetTarget({.pages = kPages + 512}, [&](const absl::Status& status) { told.push_back(status.ToString()); });
  Pump();
  EXPECT_THAT(Take(), HasSubstr("00040000002c0100")) << "300 pages from 1024 on";
  EXPECT_EQ(budget.left, 0u);
  const wire::Header thanks{MessageType::kUnballoonResponse, sizeof(thanks), 5};
  Put(&thanks, sizeof(thanks));
  EXPECT_THAT(told,
              ElementsAre(HasSubstr("RESOURCE_EXHAUSTED: the host has no more memory for the guest: it has 15 MiB")));
  EXPECT_EQ(budget.has, kPages - 212);
  budget.left = 500;
  told.clear();
  balloon_->SetTarget({.pages = kPages + 512}, [&](const absl::Status& status) { told.push_back(status.ToString()); });
  Pump();
  ASSERT_NE(Take(), "");
  Put(&thanks, sizeof(thanks));
  EXPECT_THAT(Take(), HasSubstr("0040000000200100")) << "and 288 new ones";
  EXPECT_EQ(budget.has, kPages + 288);
  EXPECT_EQ(budget.left, 0u);
  PutAdded(100, 1);
  EXPECT_EQ(budget.has, kPages + 100);
  EXPECT_EQ(budget.left, 188u);
  EXPECT_THAT(told, ElementsAre(HasSubstr("takes no more memory")));
  const wire::StatusReport report{.header = {MessageType::kStatusReport, sizeof(report), 9}, .committed = 77};
  Put(&report, sizeof(report));
  EXPECT_EQ(budget.needed, 77u);
  // What it has back without asking is counted all the same.
  EXPECT_THAT(SetTarget(kPages), IsEmpty());
  ASSERT_NE(Take(), "");
  PutRanges({PageRange::Make(1024, 100)});
  EXPECT_EQ(budget.has, kPages);
  CloseChannel();
  EXPECT_EQ(budget.has, kPages + 100);
}

// Who is told that another target was set may set one in turn, in place of that one.
TEST_F(BalloonTest, EverybodyIsToldOnce) {
  OpenChannel();
  Agree();
  std::vector<std::string> told;
  const auto tell = [&](const std::string& who) {
    return [&told, who](const absl::Status& status) { told.push_back(who + ": " + status.ToString()); };
  };
  balloon_->SetTarget({.pages = kPages - 512}, [&](const absl::Status& status) {
    tell("first")(status);
    balloon_->SetTarget({.pages = kPages}, tell("third"));
  });
  balloon_->SetTarget({.pages = kPages - 1024}, tell("second"));
  Pump();
  EXPECT_THAT(told, ElementsAre(HasSubstr("first: ABORTED"), HasSubstr("second: ABORTED"), "third: OK"));
  CloseChannel();
}

}  // namespace
}  // namespace hvsdk::vsp
