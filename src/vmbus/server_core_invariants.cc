// SPDX-License-Identifier: Apache-2.0
// What has to hold between any two calls of a ServerCore.

#include "base/check.h"
#include "hvsdk/vmbus/server_core.h"

namespace hvsdk::vmbus {

void ServerCore::CheckInvariants() const {
  size_t busy = 0;
  size_t shown = 0;
  for (const auto& [id, channel] : channels_) {
    HVSDK_CHECK(channel.id == id);
    HVSDK_CHECK(
        by_key_.count({{channel.offer.class_id, channel.offer.instance_id, channel.offer.subchannel_index}, id}) == 1);
    const bool released =
        channel.state == ChannelState::kOpeningReleased || channel.state == ChannelState::kClosingReleased;
    busy += released;
    HVSDK_CHECK((channel.channel_id == 0) == (released || channel.state == ChannelState::kHidden));
    if (channel.channel_id != 0) {
      ++shown;
      HVSDK_CHECK(relids_[channel.channel_id] == id);
      HVSDK_CHECK(state_ == ConnectionState::kConnected);
    }
    HVSDK_CHECK((channel.held_id != 0) == released);
    if (channel.held_id != 0) {
      ++shown;
      HVSDK_CHECK(relids_[channel.held_id] == id);
    }
    const bool has_ring = released || channel.state == ChannelState::kOpening || channel.state == ChannelState::kOpen ||
                          channel.state == ChannelState::kClosing || channel.state == ChannelState::kReopening;
    HVSDK_CHECK(has_ring == (channel.ring != nullptr));
    if (has_ring) {
      const auto it = gpadls_.find(channel.open.ring_gpadl_id);
      HVSDK_CHECK(it != gpadls_.end() && it->second.in_ring && it->second.offer == id);
    }
  }
  HVSDK_CHECK(by_key_.size() == channels_.size());
  HVSDK_CHECK(busy == busy_channels_);
  for (const auto& relid : relids_) shown -= relid.has_value();
  HVSDK_CHECK(shown == 0 && !relids_[0].has_value());

  uint64_t bytes = 0;
  for (const auto& [gpadl_id, entry] : gpadls_) {
    bytes += entry.total_words * sizeof(uint64_t);
    HVSDK_CHECK(Find(entry.offer) != nullptr);
    HVSDK_CHECK((entry.gpadl != nullptr) || entry.words.size() < entry.total_words);
    if (entry.orphaned || entry.tearing_down) HVSDK_CHECK(entry.in_ring || entry.leases != 0);
    if (state_ != ConnectionState::kConnected) HVSDK_CHECK(entry.orphaned);
  }
  HVSDK_CHECK(bytes == gpadl_bytes_ && bytes <= options_.max_gpadl_bytes);
  HVSDK_CHECK(gpadls_.size() <= options_.max_gpadls);
}

}  // namespace hvsdk::vmbus
