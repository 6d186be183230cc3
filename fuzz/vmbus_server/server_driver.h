// SPDX-License-Identifier: Apache-2.0
// Turns bytes into a guest and a host that talk to a ServerCore: the guest says anything at all, the host keeps the
// rules. The fuzz target feeds it mutated files, the unit test random seeds.

#ifndef HVSDK_FUZZ_VMBUS_SERVER_SERVER_DRIVER_H_
#define HVSDK_FUZZ_VMBUS_SERVER_SERVER_DRIVER_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "base/check.h"
#include "hvsdk/hvdef/vmbus.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/vmbus/server_core.h"

namespace hvsdk::vmbus {

class ServerDriver {
 public:
  // Checks the core's invariants at the end, and every `check_interval` steps.
  ServerDriver(absl::Span<const uint8_t> input, uint32_t check_interval)
      : input_(input), check_interval_(check_interval) {}

  void Run() {
    AddOffer();
    AddOffer();
    if (Take() % 8 != 0) {  // most of what is worth saying needs a connection
      SayContact();
      Say(hvdef::vmbus::MessageType::kRequestOffers, {});
    }
    for (uint32_t step = 1; !input_.empty(); ++step) {
      Step();
      if (step % check_interval_ == 0) core_.CheckInvariants();
    }
    core_.CheckInvariants();
    CheckThatItStillWorks();
  }

 private:
  static constexpr uint64_t kPages = 16;

  uint8_t Take() {
    if (input_.empty()) return 0;
    const uint8_t byte = input_.front();
    input_.remove_prefix(1);
    return byte;
  }
  uint32_t Take32() { return Take() | Take() << 8 | Take() << 16 | uint32_t{Take()} << 24; }

  void Step() {
    const uint8_t op = Take();
    switch (op % 24) {
      case 0: {  // bytes
        std::vector<uint8_t> message(Take() % 250);
        for (uint8_t& byte : message) byte = Take();
        (void)core_.OnMessage(message);
        break;
      }
      case 1: {  // a type there is, and bytes
        std::vector<uint8_t> message(std::max<size_t>(8, Take() % 241));
        for (uint8_t& byte : message) byte = Take();
        const uint32_t type = Take() % 30;
        std::memcpy(message.data(), &type, sizeof(type));
        (void)core_.OnMessage(message);
        break;
      }
      case 2:
        SayContact();
        break;
      case 3:
        Say(hvdef::vmbus::MessageType::kRequestOffers, {});
        break;
      case 4:
        if (Take() % 4 == 0) Say(hvdef::vmbus::MessageType::kUnload, {});
        break;
      case 5:
      case 6:
      case 7:
        SayGpadlHeader();
        break;
      case 8:
        SayGpadlBody();
        break;
      case 9:
        Say(hvdef::vmbus::MessageType::kGpadlTeardown, {Channel(), GpadlId()});
        break;
      case 10:
      case 11: {
        const uint32_t open_id = Take();
        Say(hvdef::vmbus::MessageType::kOpenChannel, {Channel(), open_id, GpadlId(), uint32_t{Take()} % 6, Take() % 8u},
            sizeof(hvdef::vmbus::OpenChannel));
        break;
      }
      case 12:
        Say(hvdef::vmbus::MessageType::kCloseChannel, {Channel()});
        break;
      case 13:
        Say(hvdef::vmbus::MessageType::kModifyChannel, {Channel(), Take() % 6u});
        break;
      case 14:
        Say(hvdef::vmbus::MessageType::kRelidReleased, {Channel()});
        break;
      case 15:
        Say(hvdef::vmbus::MessageType::kTlConnectRequest, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12});
        break;
      case 16:
        if (core_.FirstMessage() != nullptr) core_.PopMessage();
        break;
      case 17:
        AddOffer();
        break;
      case 18:
        if (!hosts_.empty()) RemoveOffer(Take() % hosts_.size());
        break;
      case 19:
      case 20:
      case 21:
        TakeNotices();
        if (!waiting_.empty()) Complete(Take() % waiting_.size(), Take() % 4 != 0);
        break;
      case 22:
        if (!hosts_.empty()) Lease(Take() % hosts_.size());
        break;
      case 23:
        if (Take() % 16 == 0) {
          core_.Reset();
        } else if (!leases_.empty()) {
          ReleaseLease(Take() % leases_.size());
        }
        break;
    }
    while (core_.pending_messages() > 40) core_.PopMessage();
  }

  // --- The guest. ---

  uint32_t Channel() { return Take() % 8; }
  uint32_t GpadlId() { return Take() % 8; }

  void Say(hvdef::vmbus::MessageType type, std::vector<uint32_t> words, size_t size = 0) {
    alignas(4) uint8_t message[256] = {};
    std::memcpy(message, &type, 4);
    std::copy(words.begin(), words.end(), reinterpret_cast<uint32_t*>(message + 8));
    (void)core_.OnMessage(absl::MakeConstSpan(message, std::max(size, 8 + words.size() * 4)));
  }
  void SayContact() {
    const auto version = hvdef::vmbus::kVersions[Take() % std::size(hvdef::vmbus::kVersions)];
    const uint32_t target = hvdef::vmbus::HasChannelInterrupts(version) ? 2 : 0x1000;
    Say(hvdef::vmbus::MessageType::kInitiateContact,
        {static_cast<uint32_t>(version), Take() % 4u, target, 0, 0, 0, 0, 0});
  }
  // A range of pages that is right, or nearly so.
  void SayGpadlHeader() {
    const uint32_t pages = Take() % 8;
    const uint32_t told = Take() % 16 == 0 ? Take() % 9 : pages;
    const uint32_t channel = Channel();
    std::vector<uint32_t> words = {channel, GpadlId(), (8 + told * 8) | 1u << 16, pages * 4096, 0};
    for (uint32_t i = 0; i < pages; ++i) {
      words.push_back(Take() % (kPages + 1));
      words.push_back(0);
    }
    if (Take() % 8 == 0) words.resize(3 + Take() % words.size());
    Say(hvdef::vmbus::MessageType::kGpadlHeader, words);
  }
  void SayGpadlBody() {
    std::vector<uint32_t> words = {0, GpadlId()};
    for (uint32_t i = Take() % 8; i != 0; --i) {
      words.push_back(Take() % kPages);
      words.push_back(0);
    }
    Say(hvdef::vmbus::MessageType::kGpadlBody, words);
  }

  // --- The host. ---

  struct Lent {
    OfferId id;
    uint32_t gpadl_id;
  };

  void AddOffer() {
    Offer offer;
    offer.instance_id.data1 = Take() % 4;
    offer.subchannel_index = Take() % 3;
    const auto id = core_.AddOffer(offer);
    if (id.ok()) hosts_.push_back(*id);
  }
  void RemoveOffer(size_t index) {
    const OfferId id = hosts_[index];
    for (size_t i = leases_.size(); i-- > 0;) {
      if (leases_[i].id == id) ReleaseLease(i);
    }
    TakeNotices();
    waiting_.erase(std::remove_if(waiting_.begin(), waiting_.end(), [&](const Notice& n) { return n.offer == id; }),
                   waiting_.end());
    core_.RemoveOffer(id);
    hosts_.erase(hosts_.begin() + index);
  }
  void TakeNotices() {
    Notice notice;
    while (core_.TakeNotice(notice)) {
      if (notice.kind == Notice::Kind::kTlConnect) {
        core_.RefuseTlConnect(notice.guids[0], notice.guids[1]);
      } else if (notice.kind != Notice::Kind::kGpadlTeardown) {
        waiting_.push_back(std::move(notice));
      }
    }
  }
  // Completes a notice; those of one offer in their order.
  void Complete(size_t index, bool accepted) {
    const OfferId id = waiting_[index].offer;
    const auto first = std::find_if(waiting_.begin(), waiting_.end(), [&](const Notice& n) { return n.offer == id; });
    const Notice notice = std::move(*first);
    waiting_.erase(first);
    switch (notice.kind) {
      case Notice::Kind::kOpen:
        // What the core promises the host: two rings, each with room for data.
        HVSDK_CHECK(notice.open.downstream_page_offset >= 2);
        HVSDK_CHECK(notice.ring->pages().size() >= notice.open.downstream_page_offset + 2u);
        core_.CompleteOpen(id, accepted);
        break;
      case Notice::Kind::kClose:
        for (size_t i = leases_.size(); i-- > 0;) {
          if (leases_[i].id == id) ReleaseLease(i);
        }
        core_.CompleteClose(id);
        break;
      case Notice::Kind::kRetarget:
        core_.CompleteRetarget(id);
        break;
      default:
        break;
    }
  }
  void Lease(size_t index) {
    const uint32_t gpadl_id = GpadlId();
    const auto gpadl = core_.AcquireGpadl(hosts_[index], gpadl_id);
    if (gpadl == nullptr) return;
    leases_.push_back({hosts_[index], gpadl_id});
    uint64_t bytes = 0;
    HVSDK_CHECK(gpadl->ForEachPiece(0, gpadl->size_bytes(), [&](uint64_t, uint8_t* host, uint64_t size) {
      host[0] = host[size - 1] = 1;
      bytes += size;
    }));
    HVSDK_CHECK(bytes == gpadl->size_bytes());
  }
  void ReleaseLease(size_t index) {
    core_.ReleaseGpadl(leases_[index].id, leases_[index].gpadl_id);
    leases_.erase(leases_.begin() + index);
  }

  // Whatever was said: a guest that starts anew is served.
  void CheckThatItStillWorks() {
    Say(hvdef::vmbus::MessageType::kInitiateContact,
        {static_cast<uint32_t>(hvdef::vmbus::kNewestVersion), 0, 2, 0, 0, 0, 0, 0});
    while (!leases_.empty()) ReleaseLease(0);
    for (TakeNotices(); !waiting_.empty(); TakeNotices()) Complete(0, true);
    core_.CheckInvariants();
    HVSDK_CHECK(core_.version() == hvdef::vmbus::kNewestVersion);
    HVSDK_CHECK(core_.gpadl_count() == 0);
    HVSDK_CHECK(core_.pending_messages() == 1);
    Say(hvdef::vmbus::MessageType::kRequestOffers, {});
    size_t shown = 0;
    for (const OfferId id : hosts_) shown += core_.channel_id(id) != 0;
    HVSDK_CHECK(core_.pending_messages() == 1 + shown + 1);
  }

  absl::Span<const uint8_t> input_;
  const uint32_t check_interval_;
  // Memory of the driver's own, not cleared between runs: its contents do not matter.
  static GuestMemory& Memory() {
    static std::vector<uint8_t> bytes(kPages * 4096);
    static GuestMemory* const memory = [] {
      auto* fresh = new GuestMemory;
      HVSDK_CHECK(fresh->AddRange(0, absl::MakeSpan(bytes)).ok());
      return fresh;
    }();
    return *memory;
  }
  ServerCore core_{Memory(), {.vp_count = 4, .max_gpadls = 6, .max_gpadl_bytes = 512, .max_pending_messages = 32}};
  std::vector<OfferId> hosts_;
  std::deque<Notice> waiting_;
  std::vector<Lent> leases_;
};

}  // namespace hvsdk::vmbus

#endif  // HVSDK_FUZZ_VMBUS_SERVER_SERVER_DRIVER_H_
