// SPDX-License-Identifier: Apache-2.0
// A hostile guest at the balloon: plays a string of bytes as messages of the protocol with lies in every field, in any order, and targets
// that its owner sets meanwhile. Ends the program if the balloon gives back a page that was not given up or gives it back twice, has another
// idea of how many there are than a guest that told the truth, discards what is no memory or holds a ring, tells of new memory that is not
// there or that it told of before, or does not come to rest.

#ifndef HVSDK_FUZZ_BALLOON_BALLOON_HARNESS_H_
#define HVSDK_FUZZ_BALLOON_BALLOON_HARNESS_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "base/check.h"
#include "fuzz/provider_world.h"
#include "hvsdk/base/fake_clock.h"
#include "hvsdk/hvdef/dynamic_memory.h"
#include "hvsdk/vsp/balloon.h"

namespace hvsdk::vsp {

class BalloonHarness : private ProviderWorld {
 public:
  BalloonHarness() {
    memory_.SetDiscarder([this](uint8_t* host, uint64_t size_bytes) {
      const bool is_new = host >= growth_.data() && host < growth_.data() + growth_.size();
      const uint64_t offset = static_cast<uint64_t>(host - (is_new ? growth_.data() : bytes_.get()));
      HVSDK_CHECK(size_bytes <= kMemoryBytes && offset + size_bytes <= (is_new ? growth_.size() : kMemoryBytes));
      std::memset(host, 0, size_bytes);
      if (is_new) return size_bytes;
      const uint64_t first = (host - bytes_.get()) / kPageSize;
      HVSDK_CHECK(!end_.is_open() || first + size_bytes / kPageSize <= end_.ring.pages.first_pfn ||
                  first >= end_.ring.pages.first_pfn + end_.ring.pages.page_count);
      return size_bytes;
    });
    BalloonOptions options{.growth = {.first_page = kGrowthFirst, .pages = kGrowthPages}};
    options.growth.grow = [this](uint64_t pages) {
      HVSDK_CHECK(pages <= kGrowthPages);
      for (; grown_ < pages; grown_ += kGrowthPiece) {
        HVSDK_CHECK(memory_
                        .AddRange((kGrowthFirst + grown_) * kPageSize,
                                  absl::MakeSpan(&growth_[grown_ * kPageSize], kGrowthPiece * kPageSize))
                        .ok());
      }
      return absl::OkStatus();
    };
    balloon_ = *Balloon::Create(*server_, memory_, {.executor = executor_, .timers = timers_, .clock = clock_},
                                std::move(options));
    Connect(absl::MakeSpan(&end_, 1));
  }

  // Tests see that it gets somewhere.
  uint64_t given = 0, given_back = 0, added = 0;

  void Play(const uint8_t* data, size_t size) {
    in_ = fuzz::Bytes({data, size});
    Open();
    lies_ = false;
    if (Byte() % 8 != 0) {
      Say(MessageType::kVersionRequest);
      Say(MessageType::kCapabilitiesReport);
    }
    while (!in_.empty()) Step();
    if (is_paused_) SetPaused(false);
    Close();
    // The next one begins with what this one began with.
    balloon_->Reset();
    for (; grown_ != 0; grown_ -= kGrowthPiece) memory_.RemoveLastRange();
    added_ = 0;
  }

 private:
  static constexpr uint64_t kPages = kMemoryBytes >> kPageShift;
  // Whose pages are the bus', or the guest's own.
  static constexpr uint64_t kFirst = 32;
  static constexpr uint64_t kGrowthFirst = 1024, kGrowthPages = 64, kGrowthPiece = 16;
  using MessageType = hvdef::dynamic_memory::MessageType;
  using PageRange = hvdef::dynamic_memory::PageRange;

  uint32_t Lie(uint32_t truth) {
    if (!lies_) return truth;
    switch (Byte() % 16) {
      case 0:
        return truth + 1;
      case 1:
        return truth - 1;
      case 2:
        return 0xFFFFFFFF - Byte();
      case 3:
        return Byte();
      default:
        return truth;
    }
  }

  void Open() {
    OpenChannelOf(end_, hvdef::class_id::kDynamicMemory, [this] { Forget(); });
  }
  void Close() {
    LookForNews();
    child_->client().Close(end_.channel);
    Pump();
    const BalloonStatus status = balloon_->status();
    HVSDK_CHECK(status.assigned == status.memory && status.memory <= status.max && status.max == kPages + kGrowthPages);
    // What it was told of last it may use, too.
    HVSDK_CHECK(has_lied_ || is_paused_ || unread_news_ || status.memory == kPages + added_ + told_);
    added_ = status.memory - kPages;
    end_.channel = vsc::Channel();
    Forget();
  }
  // Whether the guest is told of new memory in a message that it has not read.
  void LookForNews() {
    const BalloonStatus status = balloon_->status();
    unread_news_ = status.promised != status.assigned && told_ == 0;
  }
  void Forget() {
    given_.clear();
    asked_ = 0;
    told_ = 0;
    has_lied_ = owes_ = unread_news_ = false;
  }
  void SetPaused(bool paused) {
    is_paused_ = paused;
    paused ? balloon_->Pause() : balloon_->Resume();
    Pump();
  }

  void Step() {
    lies_ = Byte() % 8 == 0;
    switch (Byte() % 16) {
      case 0:
        Close();
        Open();
        break;
      case 1:
        SetPaused(!is_paused_);
        break;
      case 2:
        timers_.AdvanceBy(Byte() * 1'000'000);
        Pump();
        break;
      case 3:
      case 4:
      case 5: {
        balloon_->SetTarget({.pages = Byte() + uint64_t{1} + (Byte() % 2 == 0 ? 0 : Byte() % 80)},
                            [](const absl::Status&) {});
        Pump();
        break;
      }
      case 6:
        Say(static_cast<MessageType>(Byte() % 14));
        break;
      case 7:
        Say(MessageType::kStatusReport);
        break;
      case 8:
      case 9:
      case 10:
        Read();
        break;
      default:
        if (told_ != 0) {
          Say(MessageType::kHotAddResponse);
        } else if (asked_ != 0) {
          Say(MessageType::kBalloonResponse);
        } else if (owes_) {
          Say(MessageType::kUnballoonResponse);
        } else {
          Read();
        }
    }
    LookForNews();
    const BalloonStatus status = balloon_->status();
    // What is said to one that stands still is heard later.
    if (!has_lied_ && !is_paused_) HVSDK_CHECK(status.memory == kPages + added_);
    if (!has_lied_ && !is_paused_) HVSDK_CHECK(status.assigned + given_.size() == kPages + added_ || unread_gifts());
    HVSDK_CHECK(status.assigned <= status.memory && status.promised <= status.max && status.target <= status.max);
  }
  // What the host gave back counts as the guest's before that has read it.
  bool unread_gifts() const { return balloon_->status().assigned + given_.size() > kPages + added_; }

  void Read() {
    alignas(8) uint8_t buffer[4096];
    vmbus::Packet packet;
    if (end_.rings.incoming.Read(buffer, sizeof(buffer), packet) != vmbus::RingStatus::kOk) return;
    hvdef::dynamic_memory::Header header;
    HVSDK_CHECK(packet.payload_size >= sizeof(header));
    std::memcpy(&header, packet.payload, sizeof(header));
    HVSDK_CHECK(header.size_bytes <= packet.payload_size);
    if (header.type == MessageType::kBalloonRequest) {
      hvdef::dynamic_memory::BalloonRequest request;
      std::memcpy(&request, packet.payload, sizeof(request));
      HVSDK_CHECK(request.pages != 0 && request.pages < kPages + kGrowthPages);
      asked_ = request.pages;
    } else if (header.type == MessageType::kUnballoonRequest) {
      hvdef::dynamic_memory::UnballoonRequest request;
      std::memcpy(&request, packet.payload, sizeof(request));
      HVSDK_CHECK(request.range_count != 0 &&
                  header.size_bytes == sizeof(request) + request.range_count * sizeof(PageRange));
      for (uint32_t i = 0; i < request.range_count; ++i) {
        PageRange range;
        std::memcpy(&range, packet.payload + sizeof(request) + i * sizeof(range), sizeof(range));
        for (uint64_t page = range.first(); page < range.first() + range.count(); ++page) {
          HVSDK_CHECK(given_.erase(page) == 1);
          ++given_back;
        }
      }
      owes_ = true;
    }
    if (header.type == MessageType::kHotAddRequest) {
      hvdef::dynamic_memory::HotAddRequest request;
      HVSDK_CHECK(header.size_bytes == sizeof(request));
      std::memcpy(&request, packet.payload, sizeof(request));
      const uint64_t first = request.range.first(), count = request.range.count();
      HVSDK_CHECK(count != 0 && first >= kGrowthFirst && first + count <= kGrowthFirst + kGrowthPages);
      HVSDK_CHECK(memory_.Pointer(first * kPageSize, kPageSize) != nullptr &&
                  memory_.Pointer((first + count - 1) * kPageSize, kPageSize) != nullptr);
      HVSDK_CHECK(has_lied_ || first == kGrowthFirst + added_);
      told_ = static_cast<uint32_t>(count);
    }
    if (end_.rings.incoming.Commit() == vmbus::Signal::kNeeded) child_->client().Signal(end_.channel);
    Pump();
  }

  void Say(MessageType type) {
    using namespace hvdef::dynamic_memory;
    union {
      Header header;
      VersionRequest version;
      CapabilitiesReport capabilities;
      StatusReport status;
      HotAddResponse hot_add;
      struct {
        BalloonResponse response;
        PageRange ranges[8];
      } balloon;
    } message;
    std::memset(&message, 0, sizeof(message));
    uint32_t size = sizeof(message.header);
    std::vector<uint64_t> gives;
    uint32_t takes = 0;
    switch (type) {
      case MessageType::kVersionRequest:
        message.version.version = static_cast<Version>(Lie(static_cast<uint32_t>(Version::k3)));
        message.version.is_last = Lie(1);
        size = sizeof(message.version);
        break;
      case MessageType::kCapabilitiesReport:
        message.capabilities.capabilities = Lie(kCanBalloon | kCanHotAdd);
        size = sizeof(message.capabilities);
        break;
      case MessageType::kStatusReport:
        message.status.available = Lie(Byte());
        message.status.committed = Lie(Byte());
        size = sizeof(message.status);
        break;
      case MessageType::kBalloonResponse: {
        uint32_t count = 0;
        uint64_t left = asked_;
        // Of the new, or of what was there at first.
        const bool is_new = Byte() % 4 == 0;
        const uint64_t end = is_new ? kGrowthFirst + added_ : kPages;
        for (uint64_t at = (is_new ? kGrowthFirst : kFirst) + Byte() % 64; count < 8 && left != 0 && at < end;
             at += 1 + Byte() % 4) {
          uint64_t run = 0;
          for (const uint64_t most = 1 + Byte() % 16; run < most && left != 0 && at + run < end; ++run, --left) {
            if (given_.contains(at + run)) break;
            gives.push_back(at + run);
          }
          if (run != 0) {
            message.balloon.ranges[count++] =
                PageRange::Make(Lie(static_cast<uint32_t>(at)), Lie(static_cast<uint32_t>(run)) & 0xFFFFFF);
          }
          at += run;
        }
        const bool has_more = left != 0 && Byte() % 4 != 0;
        message.balloon.response.ranges = Lie(count << 1 | has_more);
        size = sizeof(message.balloon.response) + count * sizeof(PageRange);
        if (asked_ == 0) has_lied_ = true;
        asked_ = has_more ? left : 0;
        break;
      }
      case MessageType::kHotAddResponse:
        takes = Byte() % 4 == 0 ? Byte() % (told_ + 1) : told_;
        message.hot_add.page_count = Lie(takes);
        message.hot_add.is_permanent = Lie(Byte() % 2);
        size = sizeof(message.hot_add);
        if (told_ == 0) has_lied_ = true;
        told_ = 0;
        break;
      case MessageType::kUnballoonResponse:
        if (!owes_) has_lied_ = true;
        owes_ = false;
        break;
      default:
        break;
    }
    if (type == MessageType::kVersionRequest || type == MessageType::kCapabilitiesReport) {
      // Once each, as it should be, or who knows.
      if (balloon_->status().version != Version::kNone) has_lied_ = true;
    }
    has_lied_ |= lies_;
    message.header.type = type;
    message.header.size_bytes = static_cast<uint16_t>(Lie(size));
    if (end_.rings.outgoing.StageInBand(vmbus::PacketHeader::InBand(++next_id_, false), &message,
                                        std::min<uint32_t>(Lie(size), sizeof(message))) != vmbus::RingStatus::kOk) {
      has_lied_ = true;  // it keeps to itself what it meant to say
      return;
    }
    if (!has_lied_) {
      given_.insert(gives.begin(), gives.end());
      given += gives.size();
      added_ += takes;
      added += takes;
    } else {
      // What the host makes of it, it may give back.
      for (uint64_t page = 0; page < kPages; ++page) given_.insert(page);
      for (uint64_t page = 0; page < kGrowthPages; ++page) given_.insert(kGrowthFirst + page);
    }
    if (end_.rings.outgoing.Publish() == vmbus::Signal::kNeeded) child_->client().Signal(end_.channel);
    Pump();
  }

  FakeClock clock_;
  FakeTimerQueue timers_{clock_};
  std::unique_ptr<Balloon> balloon_;
  ChannelEnd end_;
  std::vector<uint8_t> growth_ = std::vector<uint8_t>(kGrowthPages * kPageSize);
  uint64_t grown_ = 0;        // of them, what is memory
  uint64_t added_ = 0;        // and the guest's
  uint32_t told_ = 0;         // pages that the host has told of and waits for
  bool unread_news_ = false;  // it has, and this has not read it
  std::set<uint64_t> given_;  // pages that the host may give back
  uint64_t asked_ = 0;
  bool owes_ = false;      // an answer
  bool has_lied_ = false;  // since the channel was opened: the host may be right to have another idea
  bool lies_ = false;      // in this step
  bool is_paused_ = false;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_FUZZ_BALLOON_BALLOON_HARNESS_H_
