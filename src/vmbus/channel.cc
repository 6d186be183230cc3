// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmbus/channel.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "base/check.h"
#include "hvsdk/vmbus/server.h"

namespace hvsdk::vmbus {

namespace wire = hvdef::vmbus;
using hvdef::HvStatus;

GpadlLease& GpadlLease::operator=(GpadlLease&& other) noexcept {
  if (this == &other) return *this;
  Release();
  channel_ = std::exchange(other.channel_, nullptr);
  id_ = other.id_;
  gpadl_ = std::move(other.gpadl_);
  return *this;
}

void GpadlLease::Release() {
  if (gpadl_ == nullptr) return;
  gpadl_.reset();
  Channel& channel = *std::exchange(channel_, nullptr);
  --channel.leases_;
  channel.server_.Do([&](ServerCore& core) { core.ReleaseGpadl(channel.id_, id_); });
}

Channel::Channel(Server& server, OfferId id, const Offer& offer, ChannelHandler& handler, Executor& executor,
                 Executor* turns)
    : server_(server),
      hypervisor_(server.hypervisor_),
      memory_(server.memory_),
      id_(id),
      offer_(offer),
      handler_(handler),
      executor_(executor),
      turns_(turns == nullptr || turns == &executor ? nullptr : std::make_unique<Turns>(*this, *turns)) {
  if (server.resources_.timers == nullptr) return;
  room_timer_ = server.resources_.timers->CreateTimer([this] {
    room_timer_armed_.store(false, std::memory_order_relaxed);  // scheduling orders it
    Wake();
  });
}

Channel::~Channel() {
  HVSDK_CHECK(leases_ == 0);
  HoldTurns();
  room_timer_.reset();
  server_.Remove(*this);
  if (is_open()) TellClosed(), DropRings();
  executor_.Drain(*this);
}

const Clock* Channel::clock() const { return server_.resources_.clock; }
bool Channel::is_reset() const { return server_.resetting_; }

void Channel::SignalGuest() {
  interrupts_.store(interrupts_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  if (interrupt_bits_ != nullptr) {
    const uint32_t bit = open_.channel_id;
    // Release pairs with the guest's test-and-clear: whoever sees the bit sees the packet.
    std::atomic_ref<uint8_t>(interrupt_bits_[bit / 8])
        .fetch_or(static_cast<uint8_t>(1 << bit % 8), std::memory_order_release);
    memory_.MarkWritten(open_.interrupt_page + wire::kInterruptPageToChild + bit / 8, 1);
    (void)hypervisor_.SignalEvent(VpIndex{0}, Sint{wire::kMessageSint}, 0);
    return;
  }
  if (open_.target_vp == wire::kNoTargetVp || !is_open()) return;
  // A failure is the guest's doing: it took its event page away.
  (void)hypervisor_.SignalEvent(VpIndex{open_.target_vp}, Sint{wire::kMessageSint},
                                static_cast<uint16_t>(open_.channel_id));
}

bool Channel::AskForRoom(uint32_t packet_size) {
  Publish();
  const RingStatus status = outgoing_.WaitForRoom(packet_size);
  if (status == RingStatus::kOk) return true;
  if (incoming_.PeerSignalsRoom() || status != RingStatus::kFull) {
    SignalGuest(incoming_.Commit());
  } else {
    // Its next packet is a reason to look, too, so that has to come with a signal.
    SignalGuest(incoming_.Arm().signal);
    LookForRoomLater();
  }
  return false;
}

void Channel::LookForRoomLater() {
  constexpr uint64_t kFirstInterval100ns = 1'000;
  constexpr uint64_t kLastInterval100ns = 1'000'000;
  if (room_timer_ == nullptr || room_timer_armed_.exchange(true, std::memory_order_relaxed)) return;
  const bool is_stuck = room_published_ == outgoing_.published_index() && room_free_ == outgoing_.free_bytes();
  room_interval_100ns_ =
      is_stuck ? std::clamp(room_interval_100ns_ * 2, kFirstInterval100ns, kLastInterval100ns) : kFirstInterval100ns;
  room_published_ = outgoing_.published_index();
  room_free_ = outgoing_.free_bytes();
  room_timer_->Arm(server_.resources_.clock->Now100ns() + room_interval_100ns_);
}

GpadlLease Channel::AcquireGpadl(uint32_t gpadl_id) {
  std::shared_ptr<const Gpadl> gpadl;
  server_.Do([&](ServerCore& core) { gpadl = core.AcquireGpadl(id_, gpadl_id); });
  if (gpadl == nullptr) return GpadlLease();
  ++leases_;
  return GpadlLease(*this, gpadl_id, std::move(gpadl));
}

absl::StatusOr<std::unique_ptr<Channel>> Channel::OfferSubchannel(uint16_t subchannel_index, ChannelHandler& handler,
                                                                  Executor& executor, Executor* turns) {
  if (!is_open() || closing_) return absl::FailedPreconditionError("the primary channel is not open");
  if (!wire::HasSubchannels(open_.version)) {
    return absl::FailedPreconditionError("the guest's VMBus version has no subchannels");
  }
  Offer offer = offer_;
  offer.subchannel_index = subchannel_index;
  return server_.OfferChannel(offer, handler, executor, turns);
}

// --- On the executor. ---

void Channel::HandleNotices() {
  // Acquire pairs with the store in Server::ActOnNotice.
  if (has_notices_.load(std::memory_order_acquire)) {
    std::vector<Notice> notices;
    server_.TakeNotices(*this, notices);
    HoldTurns();
    for (const Notice& notice : notices) HandleNotice(notice);
    ReleaseTurns();
  }
}

void Channel::Run() {
  HandleNotices();
  if (!is_open()) return;
  if (closing_) {
    handler_.OnClosing(*this);
  } else if (turns_ == nullptr) {
    handler_.OnSignal(*this);
  }
}

// On the executor for turns, while they are not held.
void Channel::TakeTurn() {
  if (!is_open()) return;
  closing_ ? executor_.Schedule(*this) : handler_.OnSignal(*this);
}

void Channel::HandleNotice(const Notice& notice) {
  switch (notice.kind) {
    case Notice::Kind::kOpen: {
      const bool accepted = Open(notice) && handler_.OnOpen(*this);
      if (!accepted && is_open()) DropRings();
      if (accepted && server_.observer_ != nullptr) server_.observer_->OnChannelOpened(offer_, open_.channel_id);
      server_.Do([&](ServerCore& core) { core.CompleteOpen(id_, accepted); });
      break;
    }
    case Notice::Kind::kClose:
      closing_ = true;
      handler_.OnClose(*this);
      break;
    case Notice::Kind::kRetarget:
      open_.target_vp = notice.target_vp;
      server_.Do([&](ServerCore& core) { core.CompleteRetarget(id_); });
      break;
    case Notice::Kind::kGpadlTeardown:
      handler_.OnGpadlTeardown(*this, notice.gpadl_id);
      break;
    case Notice::Kind::kTlConnect:
      break;
  }
}

void Channel::MakeRings(const Gpadl& ring, uint32_t downstream_page_offset) {
  const auto pages = ring.pages();
  const auto outgoing_pages = static_cast<uint32_t>(pages.size()) - downstream_page_offset;
  page_runs_.resize(pages.size());
  RingPage* const outgoing = page_runs_.data() + downstream_page_offset;
  DescribeRingPages(pages.data(), downstream_page_offset, page_runs_.data());
  DescribeRingPages(pages.data() + downstream_page_offset, outgoing_pages, outgoing);
  incoming_ = IncomingRing(PagedMemory(page_runs_.data(), downstream_page_offset - 1));
  outgoing_ = OutgoingRing(PagedMemory(outgoing, outgoing_pages - 1));
  // The control page of the one, and all of the other.
  std::vector<uint64_t> written;
  uint32_t page = 0;
  for (const GpaBuffer& range : ring.ranges()) {
    for (uint32_t i = 0; i < range.pfn_count(); ++i, ++page) {
      if (page == 0 || page >= downstream_page_offset) written.push_back(range.pfns[i] << kPageShift);
    }
  }
  ring_pages_ = SharedPages(memory_, std::move(written));
}

bool Channel::Open(const Notice& notice) {
  MakeRings(*notice.ring, notice.open.downstream_page_offset);
  if (incoming_.Attach() != RingStatus::kOk || outgoing_.Attach() != RingStatus::kOk ||
      !hypervisor_.RegisterPort(ConnectionId{notice.open.connection_id}, this).ok()) {
    DropRingMemory();
    return false;
  }
  TakeOpen(notice.open, notice.ring);
  return true;
}

void Channel::TakeOpen(const OpenParams& open, std::shared_ptr<const Gpadl> ring) {
  open_ = open;
  ring_ = std::move(ring);
  if (open_.interrupt_page != 0) {
    interrupt_bits_ = memory_.Pointer(open_.interrupt_page + wire::kInterruptPageToChild, kPageSize / 2);
  }
}

void Channel::DropRings() {
  hypervisor_.UnregisterPort(ConnectionId{open_.connection_id});
  if (room_timer_ != nullptr) room_timer_->Cancel();
  room_timer_armed_.store(false, std::memory_order_relaxed);
  room_interval_100ns_ = 0;
  interrupt_bits_ = nullptr;
  DropRingMemory();
  ring_.reset();
  closing_ = false;
}

void Channel::DropRingMemory() {
  incoming_ = IncomingRing();
  outgoing_ = OutgoingRing();
  ring_pages_ = SharedPages();
}

void Channel::TellClosed() {
  if (server_.observer_ != nullptr) server_.observer_->OnChannelClosed(offer_, open_.channel_id);
}

void Channel::FinishClose() {
  HVSDK_CHECK(closing_ && leases_ == 0);
  HoldTurns();
  TellClosed();
  DropRings();
  ReleaseTurns();
  server_.Do([&](ServerCore& core) { core.CompleteClose(id_); });
}

// --- The guest signals; on its VP's thread. ---

HvStatus Channel::OnEvent(uint16_t flag) {
  if (flag != 0) return HvStatus::kInvalidParameter;  // it has one
  signals_.fetch_add(1, std::memory_order_relaxed);
  Wake();
  return HvStatus::kSuccess;
}

}  // namespace hvsdk::vmbus
