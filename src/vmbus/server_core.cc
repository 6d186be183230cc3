// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmbus/server_core.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/guid_text.h"
#include "hvsdk/base/ids.h"

namespace hvsdk::vmbus {

namespace wire = hvdef::vmbus;
using wire::MessageType;

ServerCore::ServerCore(GuestMemory& memory, const ServerOptions& options) : memory_(memory), options_(options) {}

// --- Messages for the guest. ---

template <typename T>
void ServerCore::Post(MessageType type, T message) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= wire::kMaxMessageSize);
  static_assert(sizeof(wire::ChannelMessageHeader) <= sizeof(T));
  const wire::ChannelMessageHeader header = {static_cast<uint32_t>(type), 0};
  std::memcpy(&message, &header, sizeof(header));
  OutgoingMessage& out = messages_.emplace_back();
  out.vp = contact_.message_vp;
  out.sint = contact_.message_sint;
  out.size = sizeof(T);
  std::memcpy(out.bytes.data(), &message, sizeof(T));
  if (listener_ != nullptr) listener_->OnToChild(out.payload());
}

void ServerCore::PostEmpty(MessageType type) { Post(type, wire::EmptyMessage{}); }

void ServerCore::PostChannelMessage(MessageType type, uint32_t channel_id) {
  Post(type, wire::ChannelMessage{{}, channel_id});
}

void ServerCore::PostGpadlCreated(uint32_t channel_id, uint32_t gpadl_id, int32_t status) {
  Post(MessageType::kGpadlCreated, wire::GpadlCreated{{}, channel_id, gpadl_id, status});
}

void ServerCore::PostOpenResult(uint32_t channel_id, uint32_t open_id, int32_t status) {
  Post(MessageType::kOpenResult, wire::OpenResult{{}, channel_id, open_id, status});
}

void ServerCore::PostModifyResponse(uint32_t channel_id, int32_t status) {
  if (!wire::HasModifyChannelResponse(version_)) return;
  Post(MessageType::kModifyChannelResponse, wire::ModifyChannelResponse{{}, channel_id, status});
}

void ServerCore::DropMessages() {
  messages_.clear();
  ++message_epoch_;
}

void ServerCore::AddNotice(Notice notice) {
  if (listener_ != nullptr) listener_->OnNotice(notice);
  notices_.push_back(std::move(notice));
}

void ServerCore::AddNotice(Notice::Kind kind, OfferId offer, uint32_t gpadl_id, uint32_t target_vp) {
  Notice notice;
  notice.kind = kind;
  notice.offer = offer;
  notice.gpadl_id = gpadl_id;
  notice.target_vp = target_vp;
  AddNotice(std::move(notice));
}

template <typename Predicate>
void ServerCore::DropNotices(Predicate predicate) {
  notices_.erase(std::remove_if(notices_.begin(), notices_.end(), predicate), notices_.end());
}

bool ServerCore::TakeNotice(Notice& notice) {
  if (notices_.empty()) return false;
  notice = std::move(notices_.front());
  notices_.pop_front();
  return true;
}

// --- The connection. ---

void ServerCore::Connect(const Contact& contact) {
  contact_ = contact;
  state_ = ConnectionState::kDisconnected;
  interrupt_page_ = 0;
  const auto* const known =
      std::find(std::begin(wire::kVersions), std::end(wire::kVersions), static_cast<wire::Version>(contact.version));
  wire::VersionResponse response = {};
  if (known != std::end(wire::kVersions) && *known <= options_.newest_version && !contact.bad_target) {
    // Before Windows 8 a guest cannot be told that a version is right and something else is wrong.
    const bool can_tell = wire::HasChannelInterrupts(*known);
    if (!contact.bad_pages) {
      state_ = ConnectionState::kConnected;
      version_ = *known;
      interrupt_page_ = contact.interrupt_page;
    }
    if (!contact.bad_pages || can_tell) {
      response.version_supported = 1;
      response.connection_state = contact.bad_pages ? wire::kConnectionFailedUnknown : wire::kConnectionSuccessful;
      response.message_connection_id =
          wire::HasMessageConnectionId(*known) ? wire::kMessageConnectionId4 : contact.version;
    }
  }
  Post(MessageType::kVersionResponse, response);
}

void ServerCore::Disconnect(NextAct next) {
  // What the old connection had still to hear, or had asked for, would only confuse the next one.
  DropMessages();
  DropNotices([](const Notice& notice) { return notice.kind == Notice::Kind::kTlConnect; });
  state_ = ConnectionState::kDisconnecting;
  offers_sent_ = false;
  next_act_ = next;
  for (auto it = channels_.begin(); it != channels_.end();) {
    Channel& channel = it++->second;
    channel.declined = false;
    ReleaseByGuest(channel);
  }
  OrphanGpadls(absl::nullopt);
  FinishDisconnectIfDone();
}

void ServerCore::FinishDisconnectIfDone() {
  if (state_ != ConnectionState::kDisconnecting || busy_channels_ != 0 || !gpadls_.empty()) return;
  state_ = ConnectionState::kDisconnected;
  interrupt_page_ = 0;
  if (next_act_ == NextAct::kUnloadResponse) {
    PostEmpty(MessageType::kUnloadResponse);
  } else if (next_act_ == NextAct::kContact) {
    Connect(next_contact_);
  }
}

void ServerCore::Reset() {
  Tell({.kind = HostAct::Kind::kReset});
  DropMessages();
  if (state_ == ConnectionState::kConnected) {
    Disconnect(NextAct::kNothing);
  } else if (state_ == ConnectionState::kDisconnecting) {
    next_act_ = NextAct::kNothing;
  }
}

void ServerCore::RefuseTlConnect(const hvdef::Guid& endpoint_id, const hvdef::Guid& service_id) {
  Tell({.kind = HostAct::Kind::kRefuseTlConnect, .guids = {endpoint_id, service_id}});
  if (state_ != ConnectionState::kConnected || version_ < wire::Version::kV4_1) return;
  Post(MessageType::kTlConnectResult,
       wire::TlConnectResult{{}, endpoint_id, service_id, wire::kStatusConnectionRefused});
}

absl::optional<wire::Version> ServerCore::version() const {
  if (state_ != ConnectionState::kConnected) return absl::nullopt;
  return version_;
}

// --- Offers. ---

absl::StatusOr<OfferId> ServerCore::AddOffer(const Offer& offer) {
  const Key key = {offer.class_id, offer.instance_id, offer.subchannel_index};
  for (auto it = by_key_.lower_bound({key, OfferId{0}}); it != by_key_.end() && !(key < it->first); ++it) {
    if (Find(it->second)->state == ChannelState::kRevoked) continue;
    return absl::AlreadyExistsError(absl::StrFormat("VMBus instance %s, subchannel %d, is offered already",
                                                    GuidText(offer.instance_id), offer.subchannel_index));
  }
  if (channels_.size() >= wire::kMaxChannels) {
    return absl::ResourceExhaustedError(absl::StrFormat("VMBus has no more than %d channels", wire::kMaxChannels));
  }
  const OfferId id{next_offer_id_++};
  Tell({.kind = HostAct::Kind::kAddOffer, .id = id, .offer = &offer});
  Channel& channel = channels_[id];
  channel.id = id;
  channel.offer = offer;
  by_key_.insert({key, id});
  if (MayShow(channel)) Show(channel);
  return id;
}

void ServerCore::RemoveOffer(OfferId id) {
  Tell({.kind = HostAct::Kind::kRemoveOffer, .id = id});
  Channel& channel = *Find(id);
  DropNotices([&](const Notice& n) { return n.kind != Notice::Kind::kTlConnect && n.offer == id; });
  channel.ring.reset();
  for (auto it = gpadls_.begin(); it != gpadls_.end();) {
    const auto gpadl = it++;
    if (gpadl->second.offer != id) continue;
    gpadl->second.in_ring = false;
    gpadl->second.leases = 0;
    DropGpadlIfUnused(gpadl);
  }
  switch (channel.state) {
    case ChannelState::kClosed:
    case ChannelState::kOpening:
    case ChannelState::kOpen:
    case ChannelState::kClosing:
    case ChannelState::kReopening:
      channel.state = ChannelState::kRevoked;
      PostChannelMessage(MessageType::kRescindOffer, channel.channel_id);
      return;
    case ChannelState::kOpeningReleased:
    case ChannelState::kClosingReleased:
      --busy_channels_;
      [[fallthrough]];
    case ChannelState::kHidden:
      Erase(channel);
      FinishDisconnectIfDone();
      return;
    case ChannelState::kRevoked:
      HVSDK_CHECK(false && "an offer is removed once");
  }
}

ServerCore::Channel* ServerCore::Find(OfferId id) {
  const auto it = channels_.find(id);
  return it == channels_.end() ? nullptr : &it->second;
}
const ServerCore::Channel* ServerCore::Find(OfferId id) const { return const_cast<ServerCore*>(this)->Find(id); }

ServerCore::Channel* ServerCore::FindByChannelId(uint32_t channel_id) {
  const absl::optional<OfferId> id = FindChannel(channel_id);
  return id.has_value() ? Find(*id) : nullptr;
}

absl::optional<OfferId> ServerCore::FindChannel(uint32_t channel_id) const {
  if (channel_id >= relids_.size() || !relids_[channel_id].has_value()) return absl::nullopt;
  // The guest has let go of what is held.
  return Find(*relids_[channel_id])->channel_id == channel_id ? relids_[channel_id] : absl::nullopt;
}

uint32_t ServerCore::channel_id(OfferId id) const {
  const Channel* const channel = Find(id);
  return channel == nullptr ? 0 : channel->channel_id;
}

bool ServerCore::is_open(OfferId id) const {
  const Channel* const channel = Find(id);
  return channel != nullptr && channel->state == ChannelState::kOpen;
}

bool ServerCore::MayShow(const Channel& channel) const {
  if (state_ != ConnectionState::kConnected || !offers_sent_) return false;
  if (channel.state != ChannelState::kHidden || channel.declined) return false;
  Key key = {channel.offer.class_id, channel.offer.instance_id, channel.offer.subchannel_index};
  // A guest that still holds a rescinded channel would take its successor for a broken subchannel.
  for (auto it = by_key_.lower_bound({key, OfferId{0}}); it != by_key_.end() && !(key < it->first); ++it) {
    if (Find(it->second)->state == ChannelState::kRevoked) return false;
  }
  if (key.subchannel_index == 0) return true;
  if (!wire::HasSubchannels(version_)) return false;
  key.subchannel_index = 0;
  for (auto it = by_key_.lower_bound({key, OfferId{0}}); it != by_key_.end() && !(key < it->first); ++it) {
    const Channel& primary = *Find(it->second);
    if (primary.channel_id != 0 && primary.state != ChannelState::kRevoked) return true;
  }
  return false;
}

void ServerCore::Show(Channel& channel) {
  uint32_t channel_id = 1;
  while (relids_[channel_id].has_value()) ++channel_id;  // there are no more channels than ids
  relids_[channel_id] = channel.id;
  channel.channel_id = channel_id;
  channel.state = ChannelState::kClosed;

  const Offer& offer = channel.offer;
  wire::OfferChannel message = {};
  message.class_id = offer.class_id;
  message.instance_id = offer.instance_id;
  message.flags = offer.flags;
  message.mmio_megabytes = offer.mmio_megabytes;
  message.mmio_megabytes_optional = offer.mmio_megabytes_optional;
  std::memcpy(message.user_defined, offer.user_defined.data(), sizeof(message.user_defined));
  message.subchannel_index = offer.subchannel_index;
  message.channel_id = channel_id;
  message.monitor_id = 0xFF;  // no monitored notification
  message.is_dedicated_interrupt = 1;
  message.connection_id = ChannelConnectionId(channel_id);
  Post(MessageType::kOfferChannel, message);

  if (offer.subchannel_index != 0) return;
  const Key first = {offer.class_id, offer.instance_id, 1};
  for (auto it = by_key_.lower_bound({first, OfferId{0}}); it != by_key_.end(); ++it) {
    if (!(it->first.class_id == offer.class_id && it->first.instance_id == offer.instance_id)) break;
    Channel& subchannel = *Find(it->second);
    if (MayShow(subchannel)) Show(subchannel);
  }
}

void ServerCore::ShowHeldBack(const Key& key) {
  for (auto it = by_key_.lower_bound({key, OfferId{0}}); it != by_key_.end() && !(key < it->first); ++it) {
    Channel& channel = *Find(it->second);
    if (MayShow(channel)) Show(channel);
  }
}

void ServerCore::Erase(Channel& channel) {
  FreeHeldId(channel);
  by_key_.erase({{channel.offer.class_id, channel.offer.instance_id, channel.offer.subchannel_index}, channel.id});
  channels_.erase(channel.id);
}

void ServerCore::ReleaseByGuest(Channel& channel) {
  channel.held_id = std::max(channel.held_id, std::exchange(channel.channel_id, 0));
  switch (channel.state) {
    case ChannelState::kClosed:
      channel.state = ChannelState::kHidden;
      FreeHeldId(channel);
      return;
    case ChannelState::kOpening:
      channel.state = ChannelState::kOpeningReleased;
      ++busy_channels_;
      return;
    case ChannelState::kOpen:
      AddNotice(Notice::Kind::kClose, channel.id);
      [[fallthrough]];
    case ChannelState::kClosing:
    case ChannelState::kReopening:
      channel.state = ChannelState::kClosingReleased;
      ++busy_channels_;
      return;
    case ChannelState::kRevoked:
      Erase(channel);
      return;
    case ChannelState::kHidden:
    case ChannelState::kOpeningReleased:
    case ChannelState::kClosingReleased:
      return;
  }
}

void ServerCore::FreeHeldId(Channel& channel) {
  if (channel.held_id != 0) relids_[std::exchange(channel.held_id, 0)].reset();
}

// --- Opening, closing, moving interrupts. ---

bool ServerCore::BeginOpen(Channel& channel, const OpenParams& params, uint32_t open_id) {
  const auto it = gpadls_.find(params.ring_gpadl_id);
  if (it == gpadls_.end() || it->second.offer != channel.id) return false;
  GpadlEntry& entry = it->second;
  if (entry.gpadl == nullptr || entry.tearing_down || entry.orphaned || entry.in_ring) return false;
  // Each ring is a control page and at least one page of data.
  const size_t pages = entry.gpadl->pages().size();
  if (params.downstream_page_offset < 2 || pages < 4 || params.downstream_page_offset > pages - 2) return false;
  if (params.target_vp != wire::kNoTargetVp && params.target_vp >= options_.vp_count) return false;

  entry.in_ring = true;
  channel.ring = entry.gpadl;
  channel.open = params;
  channel.open_id = open_id;
  channel.state = ChannelState::kOpening;
  channel.next_target_vp.reset();
  Notice notice;
  notice.kind = Notice::Kind::kOpen;
  notice.offer = channel.id;
  notice.open = params;
  notice.ring = entry.gpadl;
  AddNotice(std::move(notice));
  return true;
}

void ServerCore::EndRing(Channel& channel) {
  channel.ring.reset();
  const auto it = gpadls_.find(channel.open.ring_gpadl_id);
  HVSDK_CHECK(it != gpadls_.end() && it->second.in_ring && it->second.offer == channel.id);
  it->second.in_ring = false;
  DropGpadlIfUnused(it);
}

void ServerCore::CompleteOpen(OfferId id, bool accepted) {
  Tell({.kind = HostAct::Kind::kCompleteOpen, .id = id, .accepted = accepted});
  Channel& channel = *Find(id);
  HVSDK_CHECK(channel.state == ChannelState::kOpening || channel.state == ChannelState::kOpeningReleased);
  if (channel.state == ChannelState::kOpening) {
    channel.state = accepted ? ChannelState::kOpen : ChannelState::kClosed;
    PostOpenResult(channel.channel_id, channel.open_id, accepted ? wire::kStatusSuccess : wire::kStatusUnsuccessful);
    if (!accepted) EndRing(channel);
    return;
  }
  if (accepted) {
    channel.state = ChannelState::kClosingReleased;
    AddNotice(Notice::Kind::kClose, id);
    return;
  }
  channel.state = ChannelState::kHidden;
  FreeHeldId(channel);
  --busy_channels_;
  EndRing(channel);
  FinishDisconnectIfDone();
}

void ServerCore::CompleteClose(OfferId id) {
  Tell({.kind = HostAct::Kind::kCompleteClose, .id = id});
  Channel& channel = *Find(id);
  switch (channel.state) {
    case ChannelState::kClosing:
      channel.state = ChannelState::kClosed;
      EndRing(channel);
      return;
    case ChannelState::kReopening:
      channel.state = ChannelState::kClosed;
      EndRing(channel);
      if (!BeginOpen(channel, channel.reopen, channel.reopen_id)) {
        PostOpenResult(channel.channel_id, channel.reopen_id, wire::kStatusUnsuccessful);
      }
      return;
    case ChannelState::kClosingReleased:
      channel.state = ChannelState::kHidden;
      FreeHeldId(channel);
      --busy_channels_;
      EndRing(channel);
      FinishDisconnectIfDone();
      return;
    default:
      HVSDK_CHECK(false && "CompleteClose answers one kClose");
  }
}

void ServerCore::BeginRetarget(Channel& channel, uint32_t target_vp) {
  channel.retargeting = true;
  channel.open.target_vp = target_vp;
  AddNotice(Notice::Kind::kRetarget, channel.id, 0, target_vp);
}

void ServerCore::CompleteRetarget(OfferId id) {
  Tell({.kind = HostAct::Kind::kCompleteRetarget, .id = id});
  Channel& channel = *Find(id);
  channel.retargeting = false;
  if (channel.channel_id == 0) return;
  // Even if the channel is closing by now: guests wait for this answer without end.
  PostModifyResponse(channel.channel_id, wire::kStatusSuccess);
  if (channel.state == ChannelState::kOpen && channel.next_target_vp.has_value()) {
    const uint32_t next = *channel.next_target_vp;
    channel.next_target_vp.reset();
    BeginRetarget(channel, next);
  }
}

// --- GPADLs. ---

std::shared_ptr<const Gpadl> ServerCore::AcquireGpadl(OfferId id, uint32_t gpadl_id) {
  Tell({.kind = HostAct::Kind::kAcquireGpadl, .id = id, .gpadl_id = gpadl_id});
  const auto it = gpadls_.find(gpadl_id);
  if (it == gpadls_.end() || it->second.offer != id) return nullptr;
  if (it->second.tearing_down || it->second.orphaned || it->second.gpadl == nullptr) return nullptr;
  ++it->second.leases;
  return it->second.gpadl;
}

void ServerCore::ReleaseGpadl(OfferId id, uint32_t gpadl_id) {
  Tell({.kind = HostAct::Kind::kReleaseGpadl, .id = id, .gpadl_id = gpadl_id});
  const auto it = gpadls_.find(gpadl_id);
  HVSDK_CHECK(it != gpadls_.end() && it->second.offer == id && it->second.leases != 0);
  --it->second.leases;
  DropGpadlIfUnused(it);
  FinishDisconnectIfDone();
}

void ServerCore::AddGpadlWords(GpadlMap::iterator it, absl::Span<const uint8_t> bytes) {
  GpadlEntry& entry = it->second;
  // Some guests always send messages of full length, so there may be bytes behind the last word.
  const size_t count = std::min(bytes.size() / sizeof(uint64_t), entry.total_words - entry.words.size());
  const size_t at = entry.words.size();
  entry.words.resize(at + count);
  if (count != 0) std::memcpy(entry.words.data() + at, bytes.data(), count * sizeof(uint64_t));
  if (entry.words.size() < entry.total_words) return;

  const uint32_t channel_id = Find(entry.offer)->channel_id;
  const uint32_t gpadl_id = it->first;
  entry.gpadl = Gpadl::Create(memory_, std::move(entry.words), entry.range_count);
  entry.words.clear();
  const bool good = entry.gpadl != nullptr;
  if (!good) EraseGpadl(it);
  PostGpadlCreated(channel_id, gpadl_id, good ? wire::kStatusSuccess : wire::kStatusUnsuccessful);
}

void ServerCore::DropGpadlIfUnused(GpadlMap::iterator it) {
  const GpadlEntry& entry = it->second;
  if (entry.in_ring || entry.leases != 0) return;
  if (entry.orphaned) {
    EraseGpadl(it);
  } else if (entry.tearing_down) {
    const uint32_t gpadl_id = it->first;
    EraseGpadl(it);
    Post(MessageType::kGpadlTorndown, wire::GpadlTorndown{{}, gpadl_id});
  }
}

ServerCore::GpadlMap::iterator ServerCore::EraseGpadl(GpadlMap::iterator it) {
  gpadl_bytes_ -= it->second.total_words * sizeof(uint64_t);
  return gpadls_.erase(it);
}

// The guest let go of one channel's GPADLs, or of all: those that a provider still uses go when it is done.
void ServerCore::OrphanGpadls(absl::optional<OfferId> offer) {
  for (auto it = gpadls_.begin(); it != gpadls_.end();) {
    GpadlEntry& entry = it->second;
    if (entry.orphaned || (offer.has_value() && entry.offer != *offer)) {
      ++it;
    } else if (!entry.in_ring && entry.leases == 0) {
      it = EraseGpadl(it);
    } else {
      entry.orphaned = true;
      if (entry.leases != 0 && !entry.tearing_down) {
        AddNotice(Notice::Kind::kGpadlTeardown, entry.offer, it->first);
      }
      ++it;
    }
  }
}

}  // namespace hvsdk::vmbus
