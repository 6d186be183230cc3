// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vsc/vmbus_client.h"

namespace hvsdk::vsc {

namespace wire = hvdef::vmbus;
using hvdef::HvStatus;
using wire::MessageType;

namespace {

uint64_t PageNumber(const PageList& pages, uint32_t index) {
  return pages.pfns != nullptr ? pages.pfns[index] : pages.first_pfn + index;
}

// Word `index` of the GPADL's range buffer: one range of whole pages.
uint64_t RangeWord(const PageList& pages, uint32_t index) {
  return index == 0 ? uint64_t{pages.page_count} * 4096 : PageNumber(pages, index - 1);
}

// The only refusals that pass by themselves.
bool IsBusy(HvStatus status) {
  return status == HvStatus::kInsufficientBuffers || status == HvStatus::kInsufficientMemory;
}

bool IsChannelId(uint32_t channel_id) { return channel_id != 0 && channel_id <= wire::kMaxChannelId; }

template <typename T>
bool Parse(const void* payload, size_t size, T& to) {
  if (size < sizeof(T)) return false;
  __builtin_memcpy(&to, payload, sizeof(T));
  return true;
}

}  // namespace

// --- Sending. ---

bool VmbusClient::Post(const void* message, size_t size) {
  const HvStatus status =
      config_.hypercalls.post_message(config_.hypercalls.context, connection_, message, static_cast<uint32_t>(size));
  // Once connected, a host that is sent too much may answer with an invalid connection id (Linux, vmbus_post_msg).
  if (!IsBusy(status) && status != HvStatus::kSuccess && status != HvStatus::kInvalidConnectionId) Fail();
  return status == HvStatus::kSuccess;
}

void VmbusClient::Fail() {
  state_ = State::kFailed;
  ForgetAll(Channel::State::kFailed);
}

template <typename T>
bool VmbusClient::Post(MessageType type, T message) {
  const wire::ChannelMessageHeader header = {static_cast<uint32_t>(type), 0};
  __builtin_memcpy(&message, &header, sizeof(header));
  return Post(&message, sizeof(message));
}

bool VmbusClient::Poll() {
  switch (state_) {
    case State::kDisconnected:
    case State::kFailed:
      return true;
    case State::kConnecting:
      return SendContact();
    case State::kUnloading:
      if (!wire::HasUnload(version_)) break;
      if (!unload_sent_) unload_sent_ = Post(MessageType::kUnload, wire::EmptyMessage{});
      return unload_sent_;
    case State::kConnected:
      break;
  }
  if (offers_wanted_) {
    if (!Post(MessageType::kRequestOffers, wire::EmptyMessage{})) return false;
    offers_wanted_ = false;
  }
  if (!SendReleases()) return false;
  for (Gpadl *gpadl = gpadls_, *next = nullptr; gpadl != nullptr; gpadl = next) {
    next = gpadl->next_;
    if (!Drive(*gpadl)) return false;
  }
  for (Channel *channel = channels_, *next = nullptr; channel != nullptr; channel = next) {
    next = channel->next_;
    if (!Drive(*channel)) return false;
  }
  if (state_ == State::kUnloading && channels_ == nullptr) {
    state_ = State::kDisconnected;
    ForgetAll(Channel::State::kNone);
  }
  return true;
}

// --- The connection. ---

void VmbusClient::Connect() {
  state_ = State::kDisconnected;
  ForgetAll(Channel::State::kNone);
  if (config_.interrupt_page != nullptr) __builtin_memset(config_.interrupt_page, 0, 4096);
  state_ = State::kConnecting;
  version_ = config_.newest_version;
  contact_sent_ = false;
  (void)Poll();
}

// Tries version_, and older ones while the root does not even have the connection for it.
bool VmbusClient::SendContact() {
  if (contact_sent_) return true;
  for (size_t i = sizeof(wire::kVersions) / sizeof(wire::kVersions[0]); i-- > 0;) {
    const wire::Version version = wire::kVersions[i];
    if (version > version_ || version < config_.oldest_version) continue;
    if (!wire::HasChannelInterrupts(version) && config_.interrupt_page == nullptr) break;
    version_ = version;
    connection_ = wire::HasMessageConnectionId(version) ? wire::kMessageConnectionId4 : wire::kMessageConnectionId;
    wire::InitiateContact message = {};
    message.header.message_type = static_cast<uint32_t>(MessageType::kInitiateContact);
    message.version = static_cast<uint32_t>(version);
    message.target_message_vp = config_.message_vp;
    if (wire::HasMessageConnectionId(version)) {
      message.interrupt_page_or_target = config_.message_sint;
    } else if (config_.interrupt_page != nullptr) {
      message.interrupt_page_or_target = config_.interrupt_page_gpa;
    }
    const HvStatus status =
        config_.hypercalls.post_message(config_.hypercalls.context, connection_, &message, sizeof(message));
    if (status == HvStatus::kSuccess) {
      contact_sent_ = true;
      return true;
    }
    if (IsBusy(status)) return false;
    if (status != HvStatus::kInvalidConnectionId) break;
  }
  Fail();
  return true;
}

void VmbusClient::OnVersionResponse(const wire::VersionResponse& message) {
  if (state_ != State::kConnecting || !contact_sent_) return;
  contact_sent_ = false;
  if (message.version_supported != 0) {
    const bool good = message.connection_state == wire::kConnectionSuccessful;
    state_ = good ? State::kConnected : State::kFailed;
    if (good && wire::HasMessageConnectionId(version_)) connection_ = message.message_connection_id;
    return;
  }
  const auto older = static_cast<uint32_t>(version_) - 1;  // SendContact finds the next one below
  version_ = static_cast<wire::Version>(older);
  (void)Poll();
}

void VmbusClient::RequestOffers() {
  offers_wanted_ = true;
  (void)Poll();
}

void VmbusClient::Unload() {
  if (state_ != State::kConnected) return;
  state_ = State::kUnloading;
  unload_sent_ = false;
  if (!wire::HasUnload(version_)) {
    for (Channel* channel = channels_; channel != nullptr; channel = channel->next_) CloseSoon(*channel);
  }
  (void)Poll();
}

void VmbusClient::ForgetAll(Channel::State state) {
  while (channels_ != nullptr) Leave(*channels_, state);
  while (gpadls_ != nullptr) Leave(*gpadls_, Gpadl::State::kNone);
  __builtin_memset(releases_, 0, sizeof(releases_));
  offers_wanted_ = false;
}

bool VmbusClient::TlConnect(const hvdef::Guid& endpoint_id, const hvdef::Guid& service_id) {
  if (state_ != State::kConnected || !wire::HasTlConnect(version_)) return false;
  return Post(MessageType::kTlConnectRequest, wire::TlConnectRequest{{}, endpoint_id, service_id});
}

// --- GPADLs. ---

void VmbusClient::BeginGpadl(Gpadl& gpadl, Channel& channel, const PageList& pages) {
  gpadl = Gpadl();
  gpadl.channel_ = &channel;
  gpadl.pages_ = pages;
  gpadl.state_ = Gpadl::State::kCreating;
  gpadl.id_ = next_gpadl_id_++;
  gpadl.next_ = gpadls_;
  gpadls_ = &gpadl;
}

void VmbusClient::BeginTeardown(Gpadl& gpadl) {
  gpadl.state_ = Gpadl::State::kTearingDown;
  gpadl.teardown_sent_ = false;
}

bool VmbusClient::CreateGpadl(Gpadl& gpadl, Channel& channel, const PageList& pages) {
  const bool is_free = gpadl.state_ == Gpadl::State::kNone || gpadl.state_ == Gpadl::State::kFailed;
  if (channel.state_ != Channel::State::kOpen || !is_free) return false;
  if (pages.page_count == 0 || pages.page_count > kMaxGpadlPages) return false;
  BeginGpadl(gpadl, channel, pages);
  (void)Drive(gpadl);
  return true;
}

void VmbusClient::TeardownGpadl(Gpadl& gpadl) {
  if (gpadl.state_ != Gpadl::State::kCreated) return;
  BeginTeardown(gpadl);
  (void)Drive(gpadl);
}

bool VmbusClient::Drive(Gpadl& gpadl) {
  if (!is_talking()) return false;
  if (gpadl.state_ == Gpadl::State::kCreating) return SendPages(gpadl);
  if (gpadl.state_ == Gpadl::State::kTearingDown && !gpadl.teardown_sent_) {
    gpadl.teardown_sent_ =
        Post(MessageType::kGpadlTeardown, wire::GpadlTeardown{{}, gpadl.channel_->offer_.channel_id, gpadl.id_});
    return gpadl.teardown_sent_;
  }
  return true;
}

bool VmbusClient::SendPages(Gpadl& gpadl) {
  const uint32_t words = 1 + gpadl.pages_.page_count;
  while (!gpadl.header_sent_ || gpadl.words_sent_ < words) {
    alignas(8) uint8_t bytes[wire::kMaxMessageSize];
    size_t size = 0;
    size_t room = 0;
    if (!gpadl.header_sent_) {
      wire::GpadlHeader header = {};
      header.header.message_type = static_cast<uint32_t>(MessageType::kGpadlHeader);
      header.channel_id = gpadl.channel_->offer_.channel_id;
      header.gpadl_id = gpadl.id_;
      header.range_buffer_bytes = static_cast<uint16_t>(words * sizeof(uint64_t));
      header.range_count = 1;
      __builtin_memcpy(bytes, &header, size = sizeof(header));
      room = wire::kMaxGpadlHeaderWords;
    } else {
      wire::GpadlBody body = {};
      body.header.message_type = static_cast<uint32_t>(MessageType::kGpadlBody);
      body.message_number = (gpadl.words_sent_ - wire::kMaxGpadlHeaderWords) / wire::kMaxGpadlBodyWords;
      body.gpadl_id = gpadl.id_;
      __builtin_memcpy(bytes, &body, size = sizeof(body));
      room = wire::kMaxGpadlBodyWords;
    }
    uint32_t sent = gpadl.words_sent_;
    for (; room != 0 && sent < words; --room, ++sent) {
      const uint64_t word = RangeWord(gpadl.pages_, sent);
      __builtin_memcpy(bytes + size, &word, sizeof(word));
      size += sizeof(word);
    }
    if (!Post(bytes, size)) return false;
    gpadl.header_sent_ = true;
    gpadl.words_sent_ = sent;
  }
  return true;
}

void VmbusClient::Leave(Gpadl& gpadl, Gpadl::State state) {
  for (Gpadl** link = &gpadls_; *link != nullptr; link = &(*link)->next_) {
    if (*link != &gpadl) continue;
    *link = gpadl.next_;
    break;
  }
  gpadl.next_ = nullptr;
  gpadl.state_ = state;
}

Gpadl* VmbusClient::FindGpadl(uint32_t gpadl_id) {
  Gpadl* gpadl = gpadls_;
  while (gpadl != nullptr && gpadl->id_ != gpadl_id) gpadl = gpadl->next_;
  return gpadl;
}

void VmbusClient::OnGpadlCreated(const wire::GpadlCreated& message) {
  Gpadl* const gpadl = FindGpadl(message.gpadl_id);
  if (gpadl == nullptr || gpadl->state_ != Gpadl::State::kCreating) return;
  Channel& channel = *gpadl->channel_;
  if (message.status >= 0) {
    gpadl->state_ = Gpadl::State::kCreated;
    (void)Drive(channel);
    return;
  }
  const bool is_ring = gpadl == &channel.ring_;
  Leave(*gpadl, Gpadl::State::kFailed);
  if (is_ring) {
    Leave(channel, channel.close_wanted_ ? Channel::State::kNone : Channel::State::kFailed);
  } else {
    LeaveIfTornDown(channel);
  }
}

void VmbusClient::OnGpadlTorndown(const wire::GpadlTorndown& message) {
  Gpadl* const gpadl = FindGpadl(message.gpadl_id);
  if (gpadl == nullptr || gpadl->state_ != Gpadl::State::kTearingDown || !gpadl->teardown_sent_) return;
  Leave(*gpadl, Gpadl::State::kNone);
  LeaveIfTornDown(*gpadl->channel_);
}

// A channel that closes, or was refused, lasts until the root has let go of all that was lent for it.
void VmbusClient::LeaveIfTornDown(Channel& channel) {
  if (channel.state_ != Channel::State::kClosing && !channel.refused_) return;
  for (const Gpadl* gpadl = gpadls_; gpadl != nullptr; gpadl = gpadl->next_) {
    if (gpadl->channel_ == &channel) return;
  }
  Leave(channel, channel.refused_ ? Channel::State::kFailed : Channel::State::kNone);
}

// --- Channels. ---

bool VmbusClient::Open(Channel& channel, const wire::OfferChannel& offer, const RingPages& ring, uint32_t target_vp,
                       const void* user_data, uint32_t user_data_size) {
  const bool is_free = channel.state_ == Channel::State::kNone || channel.state_ == Channel::State::kFailed ||
                       channel.state_ == Channel::State::kRescinded;
  if (state_ != State::kConnected || !is_free) return false;
  if (!IsChannelId(offer.channel_id) || FindChannel(offer.channel_id) != nullptr) return false;
  if (!ring.is_valid() || user_data_size > wire::kUserDefinedSize) return false;

  Channel fresh;
  fresh.context = channel.context;
  fresh.on_signal = channel.on_signal;
  fresh.on_end = channel.on_end;
  channel = fresh;
  channel.offer_ = offer;
  channel.state_ = Channel::State::kOpening;
  channel.target_vp_ = target_vp;
  channel.downstream_page_offset_ = ring.outgoing_pages;
  channel.user_data_ = static_cast<const uint8_t*>(user_data);
  channel.user_data_size_ = user_data_size;
  channel.next_ = channels_;
  channels_ = &channel;
  BeginGpadl(channel.ring_, channel, ring.pages);
  (void)Drive(channel.ring_);
  return true;
}

bool VmbusClient::Drive(Channel& channel) {
  if (!is_talking()) return false;
  const uint32_t channel_id = channel.offer_.channel_id;
  if (channel.state_ == Channel::State::kOpening && channel.ring_.state_ == Gpadl::State::kCreated) {
    if (channel.close_wanted_ && !channel.open_sent_) {  // changed its mind in time
      channel.state_ = Channel::State::kClosing;
      channel.close_sent_ = true;
    } else if (!channel.open_sent_) {
      wire::OpenChannel message = {};
      message.channel_id = channel_id;
      message.open_id = channel_id;
      message.ring_gpadl_id = channel.ring_.id_;
      message.target_vp = channel.target_vp_;
      message.downstream_page_offset = channel.downstream_page_offset_;
      if (channel.user_data_size_ != 0) {
        __builtin_memcpy(message.user_data, channel.user_data_, channel.user_data_size_);
      }
      channel.open_sent_ = Post(MessageType::kOpenChannel, message);
      return channel.open_sent_;
    }
  }
  if (channel.modify_wanted_ && channel.state_ == Channel::State::kOpen) {
    if (!Post(MessageType::kModifyChannel, wire::ModifyChannel{{}, channel_id, channel.target_vp_})) return false;
    channel.modify_wanted_ = false;
    channel.modify_waiting_ = wire::HasModifyChannelResponse(version_);
  }
  if (channel.state_ == Channel::State::kClosing) {
    if (!channel.close_sent_) {
      channel.close_sent_ = Post(MessageType::kCloseChannel, wire::ChannelMessage{{}, channel_id});
      if (!channel.close_sent_) return false;
    }
    // Whatever was lent for the channel goes with it. What is still being made goes when it is.
    for (Gpadl* gpadl = gpadls_; gpadl != nullptr; gpadl = gpadl->next_) {
      if (gpadl->channel_ != &channel) continue;
      if (gpadl->state_ == Gpadl::State::kCreated) BeginTeardown(*gpadl);
      if (!Drive(*gpadl)) return false;
    }
  }
  return true;
}

void VmbusClient::Close(Channel& channel) {
  if (CloseSoon(channel)) (void)Drive(channel);
}

// True: there is something to be said at once.
bool VmbusClient::CloseSoon(Channel& channel) {
  if (channel.state_ == Channel::State::kOpening) channel.close_wanted_ = true;
  if (channel.state_ != Channel::State::kOpen) return false;
  channel.state_ = Channel::State::kClosing;
  return true;
}

bool VmbusClient::Modify(Channel& channel, uint32_t target_vp) {
  if (channel.state_ != Channel::State::kOpen || !wire::HasModifyChannel(version_)) return false;
  if (modify_pending(channel)) return false;
  channel.target_vp_ = target_vp;
  channel.modify_wanted_ = true;
  channel.modify_failed_ = false;
  (void)Drive(channel);
  return true;
}

void VmbusClient::Signal(Channel& channel) {
  if (channel.state_ != Channel::State::kOpen) return;
  const Hypercalls& calls = config_.hypercalls;
  const bool has_connection = wire::HasChannelConnections(version_);
  const bool is_dedicated = has_connection && (channel.offer_.is_dedicated_interrupt & 1) != 0;
  if (!is_dedicated && config_.interrupt_page != nullptr) {
    const uint32_t bit = channel.offer_.channel_id;
    // Release pairs with the root's exchange: whoever sees the bit sees the packet.
    __atomic_fetch_or(config_.interrupt_page + wire::kInterruptPageToRoot + bit / 8, uint8_t(1 << bit % 8),
                      __ATOMIC_RELEASE);
  }
  (void)calls.signal_event(calls.context, has_connection ? channel.offer_.connection_id : wire::kEventConnectionId);
}

void VmbusClient::Release(uint32_t channel_id) {
  if (state_ != State::kConnected || !IsChannelId(channel_id) || FindChannel(channel_id) != nullptr) return;
  releases_[channel_id / 64] |= uint64_t{1} << channel_id % 64;
  (void)SendReleases();
}

bool VmbusClient::SendReleases() {
  for (uint32_t i = 0; i < 32; ++i) {
    while (releases_[i] != 0) {
      const uint32_t channel_id = i * 64 + static_cast<uint32_t>(__builtin_ctzll(releases_[i]));
      if (!Post(MessageType::kRelidReleased, wire::ChannelMessage{{}, channel_id})) return false;
      releases_[i] &= releases_[i] - 1;
    }
  }
  return true;
}

void VmbusClient::Leave(Channel& channel, Channel::State state) {
  for (Channel** link = &channels_; *link != nullptr; link = &(*link)->next_) {
    if (*link != &channel) continue;
    *link = channel.next_;
    break;
  }
  channel.next_ = nullptr;
  channel.state_ = state;
  // After a rescind, or when the connection ends, the root has let go of whatever was lent for this channel.
  for (Gpadl *gpadl = gpadls_, *next = nullptr; gpadl != nullptr; gpadl = next) {
    next = gpadl->next_;
    if (gpadl->channel_ == &channel) Leave(*gpadl, Gpadl::State::kNone);
  }
  if (channel.on_end != nullptr) channel.on_end(channel.context, channel);
}

Channel* VmbusClient::FindChannel(uint32_t channel_id) {
  Channel* channel = channels_;
  while (channel != nullptr && channel->offer_.channel_id != channel_id) channel = channel->next_;
  return channel;
}

void VmbusClient::OnOpenResult(const wire::OpenResult& message) {
  Channel* const channel = FindChannel(message.channel_id);
  if (channel == nullptr || channel->state_ != Channel::State::kOpening || !channel->open_sent_) return;
  if (channel->refused_ || message.open_id != message.channel_id) return;
  if (message.status < 0) {
    channel->refused_ = true;
    BeginTeardown(channel->ring_);
    (void)Drive(channel->ring_);
    return;
  }
  channel->state_ = Channel::State::kOpen;
  if (channel->close_wanted_) {
    Close(*channel);
  } else if (channel->on_signal != nullptr) {
    channel->on_signal(channel->context, *channel);
  }
}

void VmbusClient::OnModifyResponse(const wire::ModifyChannelResponse& message) {
  Channel* const channel = FindChannel(message.channel_id);
  if (channel == nullptr || !channel->modify_waiting_) return;
  channel->modify_waiting_ = false;
  channel->modify_failed_ = message.status < 0;
}

void VmbusClient::OnRescind(uint32_t channel_id) {
  Channel* const channel = FindChannel(channel_id);
  if (channel != nullptr) Leave(*channel, Channel::State::kRescinded);
  if (config_.handlers.on_rescind != nullptr) config_.handlers.on_rescind(config_.handlers.context, channel_id);
}

// --- What comes from the root. ---

void VmbusClient::OnMessage(const void* payload, size_t size) {
  union {
    wire::ChannelMessageHeader header;
    wire::OfferChannel offer;
    wire::ChannelMessage channel;
    wire::OpenResult open_result;
    wire::GpadlCreated gpadl_created;
    wire::GpadlTorndown gpadl_torndown;
    wire::VersionResponse version_response;
    wire::ModifyChannelResponse modify_response;
    wire::TlConnectResult tl_result;
  } message;
  if (!Parse(payload, size, message.header)) return;
  const auto type = static_cast<MessageType>(message.header.message_type);
  const ClientHandlers& handlers = config_.handlers;

  if (type == MessageType::kVersionResponse) {
    if (Parse(payload, size, message.version_response)) OnVersionResponse(message.version_response);
    return;
  }
  if (type == MessageType::kUnloadResponse) {
    if (state_ != State::kUnloading || !unload_sent_) return;
    state_ = State::kDisconnected;
    ForgetAll(Channel::State::kNone);
    return;
  }
  if (!is_talking()) return;
  switch (type) {
    case MessageType::kOfferChannel:
      if (Parse(payload, size, message.offer) && IsChannelId(message.offer.channel_id) &&
          handlers.on_offer != nullptr) {
        handlers.on_offer(handlers.context, message.offer);
      }
      break;
    case MessageType::kRescindOffer:
      if (Parse(payload, size, message.channel) && IsChannelId(message.channel.channel_id)) {
        OnRescind(message.channel.channel_id);
      }
      break;
    case MessageType::kAllOffersDelivered:
      if (handlers.on_all_offers != nullptr) handlers.on_all_offers(handlers.context);
      break;
    case MessageType::kOpenResult:
      if (Parse(payload, size, message.open_result)) OnOpenResult(message.open_result);
      break;
    case MessageType::kGpadlCreated:
      if (Parse(payload, size, message.gpadl_created)) OnGpadlCreated(message.gpadl_created);
      break;
    case MessageType::kGpadlTorndown:
      if (Parse(payload, size, message.gpadl_torndown)) OnGpadlTorndown(message.gpadl_torndown);
      break;
    case MessageType::kModifyChannelResponse:
      if (Parse(payload, size, message.modify_response)) OnModifyResponse(message.modify_response);
      break;
    case MessageType::kTlConnectResult:
      if (Parse(payload, size, message.tl_result) && handlers.on_tl_connect_result != nullptr) {
        handlers.on_tl_connect_result(handlers.context, message.tl_result);
      }
      break;
    default:
      break;
  }
  if (state_ == State::kUnloading) (void)Poll();  // perhaps that was the last
}

void VmbusClient::OnEvents(uint64_t* words, size_t word_count) { TakeFlags(words, word_count, false); }

void VmbusClient::TakeFlags(uint64_t* words, size_t word_count, bool from_page) {
  const bool uses_page = state_ == State::kConnected && !wire::HasChannelInterrupts(version_);
  for (size_t i = 0; i < word_count; ++i) {
    if (__atomic_load_n(&words[i], __ATOMIC_RELAXED) == 0) continue;
    // Acquire pairs with the root's setting the bit: whoever sees the bit sees the packet.
    for (uint64_t bits = __atomic_exchange_n(&words[i], 0, __ATOMIC_ACQ_REL); bits != 0; bits &= bits - 1) {
      const auto flag = static_cast<uint32_t>(i * 64 + static_cast<uint32_t>(__builtin_ctzll(bits)));
      if (uses_page && !from_page) {
        if (flag != 0) continue;
        TakeFlags(reinterpret_cast<uint64_t*>(config_.interrupt_page + wire::kInterruptPageToChild),
                  wire::kInterruptPageWords, true);
        continue;
      }
      Channel* const channel = FindChannel(flag);
      if (channel == nullptr || channel->state_ != Channel::State::kOpen || channel->on_signal == nullptr) continue;
      channel->on_signal(channel->context, *channel);
    }
  }
}

}  // namespace hvsdk::vsc
