// SPDX-License-Identifier: Apache-2.0
// What each message of the guest does. A message that Hyper-V would ignore is ignored and counted.

#include <cstring>
#include <utility>

#include "hvsdk/base/ids.h"
#include "hvsdk/vmbus/server_core.h"

namespace hvsdk::vmbus {

namespace wire = hvdef::vmbus;
using wire::MessageType;

namespace {

// Notices are few and the host takes them at once; this bounds them when one VP asks faster than the host's side can
// act.
constexpr size_t kMaxNotices = 2 * wire::kMaxChannels;

// Copies the fixed part of a message. Longer messages are right: some guests always send the full length.
template <typename T>
bool Parse(absl::Span<const uint8_t> message, T& to) {
  if (message.size() < sizeof(T)) return false;
  std::memcpy(&to, message.data(), sizeof(T));
  return true;
}

}  // namespace

bool ServerCore::OnMessage(absl::Span<const uint8_t> message) {
  wire::ChannelMessageHeader header;
  if (message.size() > wire::kMaxMessageSize || !Parse(message, header)) {
    if (listener_ != nullptr) listener_->OnToRoot(message);
    Ignore();
    return true;
  }
  const auto type = static_cast<MessageType>(header.message_type);
  // Two messages end a connection and drop what it had still to hear, so they are taken even when that is too much.
  if (type != MessageType::kInitiateContact && type != MessageType::kUnload &&
      messages_.size() >= options_.max_pending_messages) {
    return false;
  }
  if (notices_.size() >= kMaxNotices) return false;
  if (listener_ != nullptr) listener_->OnToRoot(message);

  if (type == MessageType::kInitiateContact) {
    OnInitiateContact(message);
    return true;
  }
  if (type == MessageType::kUnload && state_ != ConnectionState::kDisconnected) {
    if (state_ == ConnectionState::kConnected) {
      Disconnect(NextAct::kUnloadResponse);
    } else {
      next_act_ = NextAct::kUnloadResponse;
    }
    return true;
  }
  if (state_ != ConnectionState::kConnected) {
    Ignore();
    return true;
  }
  switch (type) {
    case MessageType::kRequestOffers:
      OnRequestOffers();
      break;
    case MessageType::kOpenChannel:
      OnOpenChannel(message);
      break;
    case MessageType::kCloseChannel:
      OnCloseChannel(message);
      break;
    case MessageType::kGpadlHeader:
      OnGpadlHeader(message);
      break;
    case MessageType::kGpadlBody:
      OnGpadlBody(message);
      break;
    case MessageType::kGpadlTeardown:
      OnGpadlTeardown(message);
      break;
    case MessageType::kRelidReleased:
      OnRelidReleased(message);
      break;
    case MessageType::kTlConnectRequest:
      OnTlConnectRequest(message);
      break;
    case MessageType::kModifyChannel:
      OnModifyChannel(message);
      break;
    default:  // unknown, or not a guest's to send, or of a version that we do not offer
      Ignore();
      break;
  }
  return true;
}

void ServerCore::OnInitiateContact(absl::Span<const uint8_t> message) {
  wire::InitiateContact input;
  if (!Parse(message, input)) return Ignore();
  const auto version = static_cast<wire::Version>(input.version);
  Contact contact;
  contact.version = input.version;
  if (wire::HasTargetMessageVp(version)) contact.message_vp = VpIndex{input.target_message_vp};
  if (wire::HasMessageConnectionId(version)) {
    const uint8_t sint = wire::TargetSint(input.interrupt_page_or_target);
    if (sint < 16) {
      contact.message_sint = Sint{sint};
    } else {
      contact.bad_target = true;
    }
    if (wire::HasTargetVtl(version) && wire::TargetVtl(input.interrupt_page_or_target) != 0) contact.bad_target = true;
  } else if (!wire::HasChannelInterrupts(version)) {
    contact.interrupt_page = input.interrupt_page_or_target;
    contact.bad_pages = contact.interrupt_page == 0 || contact.interrupt_page % kPageSize != 0 ||
                        memory_.Pointer(contact.interrupt_page, kPageSize) == nullptr;
  }
  contact.bad_pages |= (input.parent_to_child_monitor_page == 0) != (input.child_to_parent_monitor_page == 0);

  switch (state_) {
    case ConnectionState::kDisconnected:
      DropMessages();
      Connect(contact);
      break;
    case ConnectionState::kConnected:
      next_contact_ = contact;
      Disconnect(NextAct::kContact);
      break;
    case ConnectionState::kDisconnecting:
      next_contact_ = contact;
      next_act_ = NextAct::kContact;
      break;
  }
}

void ServerCore::OnRequestOffers() {
  if (offers_sent_) return Ignore();
  offers_sent_ = true;
  for (auto& [id, channel] : channels_) {
    if (MayShow(channel)) Show(channel);
  }
  PostEmpty(MessageType::kAllOffersDelivered);
}

void ServerCore::OnOpenChannel(absl::Span<const uint8_t> message) {
  wire::OpenChannel input;
  if (!Parse(message, input)) return Ignore();
  Channel* const channel = FindByChannelId(input.channel_id);
  if (channel == nullptr) return Ignore();

  OpenParams params;
  params.version = version_;
  params.channel_id = channel->channel_id;
  params.connection_id = ChannelConnectionId(channel->channel_id);
  params.target_vp = wire::HasChannelInterrupts(version_) ? input.target_vp : 0;
  params.ring_gpadl_id = input.ring_gpadl_id;
  params.downstream_page_offset = input.downstream_page_offset;
  params.interrupt_page = interrupt_page_;
  std::memcpy(params.user_data.data(), input.user_data, sizeof(input.user_data));

  switch (channel->state) {
    case ChannelState::kClosed:
      if (!BeginOpen(*channel, params, input.open_id)) {
        PostOpenResult(channel->channel_id, input.open_id, wire::kStatusUnsuccessful);
      }
      break;
    case ChannelState::kClosing:  // a guest cannot know when closing ends
      channel->state = ChannelState::kReopening;
      channel->reopen = params;
      channel->reopen_id = input.open_id;
      break;
    case ChannelState::kRevoked:  // the guest will find out
      break;
    default:
      Ignore();
      break;
  }
}

void ServerCore::OnCloseChannel(absl::Span<const uint8_t> message) {
  wire::ChannelMessage input;
  if (!Parse(message, input)) return Ignore();
  Channel* const channel = FindByChannelId(input.channel_id);
  if (channel == nullptr) return Ignore();
  if (channel->state == ChannelState::kOpen) {
    channel->state = ChannelState::kClosing;
    AddNotice(Notice::Kind::kClose, channel->id);
  } else if (channel->state != ChannelState::kRevoked) {
    Ignore();
  }
}

void ServerCore::OnGpadlHeader(absl::Span<const uint8_t> message) {
  wire::GpadlHeader input;
  if (!Parse(message, input)) return Ignore();
  Channel* const channel = FindByChannelId(input.channel_id);
  const size_t bytes = input.range_buffer_bytes;
  const bool well_formed = bytes != 0 && bytes % sizeof(uint64_t) == 0 && input.range_count != 0;
  if (channel == nullptr || !well_formed || gpadls_.count(input.gpadl_id) != 0 ||
      gpadls_.size() >= options_.max_gpadls || bytes > options_.max_gpadl_bytes - gpadl_bytes_) {
    return PostGpadlCreated(input.channel_id, input.gpadl_id, wire::kStatusUnsuccessful);
  }
  const auto it = gpadls_.emplace(input.gpadl_id, GpadlEntry{}).first;
  it->second.offer = channel->id;
  it->second.range_count = input.range_count;
  it->second.total_words = bytes / sizeof(uint64_t);
  gpadl_bytes_ += bytes;
  AddGpadlWords(it, message.subspan(sizeof(input)));
}

void ServerCore::OnGpadlBody(absl::Span<const uint8_t> message) {
  wire::GpadlBody input;
  if (!Parse(message, input)) return Ignore();
  // The message does not name a channel, so a number that is not under way cannot be answered.
  const auto it = gpadls_.find(input.gpadl_id);
  if (it == gpadls_.end() || it->second.gpadl != nullptr) return Ignore();
  AddGpadlWords(it, message.subspan(sizeof(input)));
}

void ServerCore::OnGpadlTeardown(absl::Span<const uint8_t> message) {
  wire::GpadlTeardown input;
  if (!Parse(message, input)) return Ignore();
  const Channel* const channel = FindByChannelId(input.channel_id);
  const auto it = gpadls_.find(input.gpadl_id);
  if (channel == nullptr || it == gpadls_.end()) return Ignore();
  GpadlEntry& entry = it->second;
  if (entry.offer != channel->id || entry.gpadl == nullptr || entry.tearing_down || entry.orphaned) return Ignore();
  entry.tearing_down = true;
  if (entry.leases != 0) AddNotice(Notice::Kind::kGpadlTeardown, channel->id, input.gpadl_id);
  DropGpadlIfUnused(it);
}

void ServerCore::OnRelidReleased(absl::Span<const uint8_t> message) {
  wire::ChannelMessage input;
  if (!Parse(message, input)) return Ignore();
  Channel* const channel = FindByChannelId(input.channel_id);
  if (channel == nullptr) return Ignore();
  const ChannelState state = channel->state;
  if (state != ChannelState::kClosed && state != ChannelState::kClosing && state != ChannelState::kRevoked) {
    return Ignore();
  }
  const Key key = {channel->offer.class_id, channel->offer.instance_id, channel->offer.subchannel_index};
  OrphanGpadls(channel->id);
  channel->declined = true;
  ReleaseByGuest(*channel);
  if (state == ChannelState::kRevoked) ShowHeldBack(key);
}

void ServerCore::OnModifyChannel(absl::Span<const uint8_t> message) {
  wire::ModifyChannel input;
  if (!wire::HasModifyChannel(version_) || !Parse(message, input)) return Ignore();
  Channel* const channel = FindByChannelId(input.channel_id);
  if (channel == nullptr || channel->state != ChannelState::kOpen || channel->open.target_vp == wire::kNoTargetVp ||
      input.target_vp == wire::kNoTargetVp || input.target_vp >= options_.vp_count) {
    return PostModifyResponse(input.channel_id, wire::kStatusUnsuccessful);
  }
  if (!channel->retargeting) {
    BeginRetarget(*channel, input.target_vp);
  } else if (wire::HasModifyChannelResponse(version_)) {
    Ignore();  // the guest has to wait for the response
  } else {
    channel->next_target_vp = input.target_vp;
  }
}

void ServerCore::OnTlConnectRequest(absl::Span<const uint8_t> message) {
  wire::TlConnectRequest2 input = {};
  if (!wire::HasTlConnect(version_) || !Parse(message, input.base)) return Ignore();
  if (wire::HasTlConnectSilo(version_)) (void)Parse(message, input);
  Notice notice;
  notice.kind = Notice::Kind::kTlConnect;
  notice.guids = {input.base.endpoint_id, input.base.service_id, input.silo_id};
  AddNotice(std::move(notice));
}

}  // namespace hvsdk::vmbus
