// SPDX-License-Identifier: Apache-2.0
// A ServerCore's state, out and in. What is between two states is not described: a save waits until it is over.

#include <algorithm>
#include <cstring>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/guid_text.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/vmbus/server_core.h"
#include "vmbus/server_state.h"

namespace hvsdk::vmbus {

namespace wire = hvdef::vmbus;

namespace {

// A list of offers may overshoot the limit of messages once (ServerOptions).
constexpr size_t kMostOvershoot = 2 * wire::kMaxChannels;

std::array<uint8_t, 16> Bytes(const hvdef::Guid& guid) {
  std::array<uint8_t, 16> bytes;
  static_assert(sizeof(guid) == sizeof(bytes));
  std::memcpy(bytes.data(), &guid, sizeof(guid));
  return bytes;
}

hvdef::Guid GuidOf(const std::array<uint8_t, 16>& bytes) {
  hvdef::Guid guid;
  std::memcpy(&guid, bytes.data(), sizeof(guid));
  return guid;
}

std::string Name(const hvdef::Guid& instance_id, uint16_t subchannel_index) {
  return absl::StrFormat("VMBus instance %s, subchannel %d,", GuidText(instance_id), subchannel_index);
}

}  // namespace

absl::Status ServerCore::CheckSettled() const {
  if (!notices_.empty() || state_ == ConnectionState::kDisconnecting) {
    return absl::FailedPreconditionError("VMBus has work left to do for the guest");
  }
  for (const auto& [id, channel] : channels_) {
    const bool is_between = channel.state != ChannelState::kHidden && channel.state != ChannelState::kClosed &&
                            channel.state != ChannelState::kOpen && channel.state != ChannelState::kRevoked;
    if (is_between || channel.retargeting) {
      return absl::FailedPreconditionError(
          absl::StrCat(Name(channel.offer.instance_id, channel.offer.subchannel_index), " is opening or closing"));
    }
  }
  for (const auto& [gpadl_id, entry] : gpadls_) {
    if (entry.orphaned || (entry.tearing_down && entry.leases != 0)) {
      return absl::FailedPreconditionError(absl::StrCat("a provider owes the guest GPADL ", gpadl_id));
    }
  }
  return absl::OkStatus();
}

void ServerCore::Save(ServerState& state) const {
  state.connected = state_ == ConnectionState::kConnected;
  if (state.connected) {
    state.offers_sent = offers_sent_;
    state.version = static_cast<uint32_t>(version_);
    state.message_vp = ToInt(contact_.message_vp);
    state.message_sint = static_cast<uint8_t>(ToInt(contact_.message_sint));
    state.interrupt_page = interrupt_page_;
  }
  std::vector<const Channel*> channels;
  for (const auto& [key, id] : by_key_) channels.push_back(Find(id));
  const auto order = [](const Channel* channel) {
    return std::make_tuple(channel->offer.class_id, channel->offer.instance_id, channel->offer.subchannel_index,
                           channel->state != ChannelState::kRevoked);
  };
  std::sort(channels.begin(), channels.end(), [&](const auto* a, const auto* b) { return order(a) < order(b); });
  for (const Channel* channel : channels) {
    ChannelStateRecord& record = state.channels.emplace_back();
    record.class_id = Bytes(channel->offer.class_id);
    record.instance_id = Bytes(channel->offer.instance_id);
    record.subchannel_index = channel->offer.subchannel_index;
    record.declined = channel->declined;
    record.channel_id = channel->channel_id;
    switch (channel->state) {
      case ChannelState::kClosed:
        record.kind = ChannelStateRecord::Kind::kClosed;
        break;
      case ChannelState::kRevoked:
        record.kind = ChannelStateRecord::Kind::kRevoked;
        break;
      case ChannelState::kOpen:
        record.kind = ChannelStateRecord::Kind::kOpen;
        record.open.target_vp = channel->open.target_vp;
        record.open.ring_gpadl_id = channel->open.ring_gpadl_id;
        record.open.downstream_page_offset = channel->open.downstream_page_offset;
        record.open.user_data = channel->open.user_data;
        break;
      default:
        record.kind = ChannelStateRecord::Kind::kHidden;
        break;
    }
  }
  for (const auto& [gpadl_id, entry] : gpadls_) {
    GpadlState& gpadl = state.gpadls.emplace_back();
    gpadl.gpadl_id = gpadl_id;
    gpadl.channel_id = Find(entry.offer)->channel_id;
    gpadl.range_count = entry.range_count;
    gpadl.total_words = static_cast<uint32_t>(entry.total_words);
    gpadl.tearing_down = entry.tearing_down;
    const absl::Span<const uint64_t> words =
        entry.gpadl != nullptr ? entry.gpadl->words() : absl::MakeConstSpan(entry.words);
    gpadl.words.resize(words.size() * sizeof(uint64_t));
    if (!words.empty()) std::memcpy(gpadl.words.data(), words.data(), gpadl.words.size());
  }
  for (const OutgoingMessage& message : messages_) {
    state.messages.push_back({ToInt(message.vp),
                              static_cast<uint8_t>(ToInt(message.sint)),
                              {message.payload().begin(), message.payload().end()}});
  }
}

absl::StatusOr<ServerCore::Restoration> ServerCore::CheckState(const ServerState& state,
                                                               const state::StateReader& reader) const {
  const auto version = static_cast<wire::Version>(state.version);
  if (state.connected) {
    const bool known =
        std::find(std::begin(wire::kVersions), std::end(wire::kVersions), version) != std::end(wire::kVersions);
    if (!known || version > options_.newest_version) return reader.Invalid("version", "not one that is offered here");
    const bool has_page = !wire::HasChannelInterrupts(version);
    if (has_page != (state.interrupt_page != 0) || state.interrupt_page % kPageSize != 0 ||
        (has_page && memory_.Pointer(state.interrupt_page, kPageSize) == nullptr)) {
      return reader.Invalid("interrupt_page", "not a page of memory, or not of this version");
    }
    if (state.message_sint >= 16) return reader.Invalid("message_sint", "not below 16");
  } else {
    if (state.offers_sent) return reader.Invalid("offers_sent", "without a connection");
    if (state.version != 0) return reader.Invalid("version", "without a connection");
    if (state.message_vp != 0) return reader.Invalid("message_vp", "without a connection");
    if (state.message_sint != 0) return reader.Invalid("message_sint", "without a connection");
    if (state.interrupt_page != 0) return reader.Invalid("interrupt_page", "without a connection");
    if (!state.gpadls.empty()) return reader.Invalid("gpadls", "without a connection");
  }

  using Kind = ChannelStateRecord::Kind;
  Restoration restoration;
  if (state.channels.size() > wire::kMaxChannels) return reader.Invalid("channels", "too many");
  std::set<OfferId> matched;
  std::map<uint32_t, size_t> by_channel_id;
  const ChannelStateRecord* last = nullptr;
  const auto order = [](const ChannelStateRecord& record) {
    return std::make_tuple(GuidOf(record.class_id), GuidOf(record.instance_id), record.subchannel_index,
                           record.kind != Kind::kRevoked);
  };
  for (const ChannelStateRecord& record : state.channels) {
    const std::string name = Name(GuidOf(record.instance_id), record.subchannel_index);
    const auto invalid = [&](absl::string_view field, absl::string_view why) {
      return reader.Invalid(absl::StrCat("channels.", field), absl::StrCat(name, " ", why));
    };
    if (record.kind > Kind::kRevoked) return invalid("kind", "is in a state that there is not");
    if (last != nullptr && !(order(*last) < order(record))) return invalid("instance_id", "is out of order");
    last = &record;
    if ((record.kind == Kind::kHidden) != (record.channel_id == 0)) return invalid("channel_id", "is seen, or is not");
    if (record.channel_id != 0) {
      if (!state.connected) return invalid("channel_id", "is seen without a connection");
      if (record.channel_id > wire::kMaxChannelId) return invalid("channel_id", "is beyond all ids");
      if (!by_channel_id.emplace(record.channel_id, restoration.ids.size()).second) {
        return invalid("channel_id", "has another's");
      }
    }
    if (record.declined && (!state.connected || record.kind != Kind::kHidden)) {
      return invalid("declined", "is declined, and seen");
    }
    absl::optional<OfferId> id;
    if (record.kind != Kind::kRevoked) {
      const Key key = {GuidOf(record.class_id), GuidOf(record.instance_id), record.subchannel_index};
      const auto it = by_key_.lower_bound({key, OfferId{0}});
      if (it == by_key_.end() || key < it->first) return invalid("instance_id", "is not offered here");
      id = it->second;
      matched.insert(it->second);
    }
    restoration.ids.push_back(id);
  }
  for (const auto& [id, channel] : channels_) {
    if (matched.count(id) == 0) {
      return reader.Invalid("channels", absl::StrCat(Name(channel.offer.instance_id, channel.offer.subchannel_index),
                                                     " is offered here and not in the state"));
    }
  }

  if (state.gpadls.size() > options_.max_gpadls) return reader.Invalid("gpadls", "too many");
  uint64_t gpadl_bytes = 0;
  std::map<uint32_t, size_t> by_gpadl_id;
  for (const GpadlState& gpadl : state.gpadls) {
    if (!by_gpadl_id.empty() && gpadl.gpadl_id <= by_gpadl_id.rbegin()->first) {
      return reader.Invalid("gpadls.gpadl_id", "out of order");
    }
    by_gpadl_id[gpadl.gpadl_id] = restoration.gpadls.size();
    if (by_channel_id.count(gpadl.channel_id) == 0) return reader.Invalid("gpadls.channel_id", "not a channel's");
    if (gpadl.range_count == 0) return reader.Invalid("gpadls.range_count", "zero");
    const uint64_t total_bytes = uint64_t{gpadl.total_words} * sizeof(uint64_t);
    gpadl_bytes += total_bytes;
    if (total_bytes == 0 || gpadl_bytes > options_.max_gpadl_bytes) {
      return reader.Invalid("gpadls.total_words", "zero, or more than may be remembered");
    }
    if (gpadl.words.size() % sizeof(uint64_t) != 0 || gpadl.words.size() > total_bytes) {
      return reader.Invalid("gpadls.words", "not whole words, or more than there are");
    }
    std::shared_ptr<const Gpadl> made;
    if (gpadl.words.size() == total_bytes) {
      std::vector<uint64_t> words(gpadl.total_words);
      std::memcpy(words.data(), gpadl.words.data(), gpadl.words.size());
      made = Gpadl::Create(memory_, std::move(words), gpadl.range_count);
      if (made == nullptr) return reader.Invalid("gpadls.words", "malformed, or pages that are not memory");
    }
    restoration.gpadls.push_back(std::move(made));
  }

  std::set<size_t> rings;
  for (size_t i = 0; i < state.channels.size(); ++i) {
    restoration.rings.push_back(0);
    const ChannelStateRecord& record = state.channels[i];
    if (record.kind != Kind::kOpen) continue;
    const auto it = by_gpadl_id.find(record.open.ring_gpadl_id);
    if (it == by_gpadl_id.end() || state.gpadls[it->second].channel_id != record.channel_id ||
        restoration.gpadls[it->second] == nullptr || !rings.insert(it->second).second) {
      return reader.Invalid("channels.open.ring_gpadl_id", "not a GPADL of the channel's, or in use");
    }
    const size_t pages = restoration.gpadls[it->second]->pages().size();
    const uint32_t downstream = record.open.downstream_page_offset;
    if (downstream < 2 || pages < 4 || downstream > pages - 2) {
      return reader.Invalid("channels.open.downstream_page_offset", "leaves a ring without room");
    }
    if (record.open.target_vp != wire::kNoTargetVp && record.open.target_vp >= options_.vp_count) {
      return reader.Invalid("channels.open.target_vp", "there is no such VP");
    }
    restoration.rings.back() = it->second;
  }
  for (size_t i = 0; i < state.gpadls.size(); ++i) {
    if (state.gpadls[i].tearing_down && rings.count(i) == 0) {
      return reader.Invalid("gpadls.tearing_down", "without anybody who uses it");
    }
  }

  if (state.messages.size() > options_.max_pending_messages + kMostOvershoot) {
    return reader.Invalid("messages", "too many");
  }
  for (const MessageState& message : state.messages) {
    if (message.sint >= 16) return reader.Invalid("messages.sint", "not below 16");
    if (message.bytes.size() < sizeof(wire::ChannelMessageHeader) || message.bytes.size() > wire::kMaxMessageSize) {
      return reader.Invalid("messages.bytes", "not a message's size");
    }
  }
  return restoration;
}

OpenParams ServerCore::RestoredOpen(const ServerState& state, size_t channel) const {
  const ChannelStateRecord& record = state.channels[channel];
  OpenParams open;
  open.version = version_;
  open.channel_id = record.channel_id;
  open.connection_id = ChannelConnectionId(record.channel_id);
  open.target_vp = record.open.target_vp;
  open.ring_gpadl_id = record.open.ring_gpadl_id;
  open.downstream_page_offset = record.open.downstream_page_offset;
  open.interrupt_page = interrupt_page_;
  open.user_data = record.open.user_data;
  return open;
}

void ServerCore::Restore(const ServerState& state, const Restoration& restoration) {
  using Kind = ChannelStateRecord::Kind;
  state_ = state.connected ? ConnectionState::kConnected : ConnectionState::kDisconnected;
  version_ = static_cast<wire::Version>(state.version);
  contact_ = {};
  contact_.version = state.version;
  if (state.connected) {
    contact_.message_vp = VpIndex{state.message_vp};
    contact_.message_sint = Sint{state.message_sint};
  }
  contact_.interrupt_page = interrupt_page_ = state.interrupt_page;
  offers_sent_ = state.offers_sent;

  std::map<uint32_t, OfferId> by_channel_id;
  for (size_t i = 0; i < state.channels.size(); ++i) {
    const ChannelStateRecord& record = state.channels[i];
    OfferId id{};
    if (restoration.ids[i].has_value()) {
      id = *restoration.ids[i];
    } else {
      id = OfferId{next_offer_id_++};
      Offer& offer = channels_[id].offer;
      offer.class_id = GuidOf(record.class_id);
      offer.instance_id = GuidOf(record.instance_id);
      offer.subchannel_index = record.subchannel_index;
      by_key_.insert({{offer.class_id, offer.instance_id, offer.subchannel_index}, id});
    }
    Channel& channel = channels_[id];
    channel.id = id;
    channel.declined = record.declined;
    channel.channel_id = record.channel_id;
    if (record.channel_id != 0) {
      relids_[record.channel_id] = id;
      by_channel_id[record.channel_id] = id;
    }
    switch (record.kind) {
      case Kind::kHidden:
        channel.state = ChannelState::kHidden;
        break;
      case Kind::kClosed:
        channel.state = ChannelState::kClosed;
        break;
      case Kind::kRevoked:
        channel.state = ChannelState::kRevoked;
        break;
      case Kind::kOpen:
        channel.state = ChannelState::kOpen;
        channel.open = RestoredOpen(state, i);
        channel.ring = restoration.gpadls[restoration.rings[i]];
        break;
    }
  }
  for (size_t i = 0; i < state.gpadls.size(); ++i) {
    const GpadlState& gpadl = state.gpadls[i];
    GpadlEntry& entry = gpadls_[gpadl.gpadl_id];
    entry.offer = by_channel_id.at(gpadl.channel_id);
    entry.range_count = gpadl.range_count;
    entry.total_words = gpadl.total_words;
    entry.gpadl = restoration.gpadls[i];
    if (entry.gpadl == nullptr && !gpadl.words.empty()) {
      entry.words.resize(gpadl.words.size() / sizeof(uint64_t));
      std::memcpy(entry.words.data(), gpadl.words.data(), gpadl.words.size());
    }
    entry.tearing_down = gpadl.tearing_down;
    gpadl_bytes_ += entry.total_words * sizeof(uint64_t);
  }
  for (const auto& [id, channel] : channels_) {
    if (channel.state == ChannelState::kOpen) gpadls_[channel.open.ring_gpadl_id].in_ring = true;
  }
  for (const MessageState& message : state.messages) {
    OutgoingMessage& out = messages_.emplace_back();
    out.vp = VpIndex{message.vp};
    out.sint = Sint{message.sint};
    out.size = static_cast<uint8_t>(message.bytes.size());
    std::copy(message.bytes.begin(), message.bytes.end(), out.bytes.begin());
  }
}

}  // namespace hvsdk::vmbus
