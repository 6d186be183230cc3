// SPDX-License-Identifier: Apache-2.0
// A network adapter as RNDIS' control messages have it: initialized or not, what its guest has asked for, and what it is told. A state
// machine without a channel: a message comes in, its answer goes out. The executor's own.

#ifndef HVSDK_SRC_VSP_RNDIS_DEVICE_H_
#define HVSDK_SRC_VSP_RNDIS_DEVICE_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "hvsdk/ethernet/flow_hash.h"
#include "hvsdk/ethernet/headers.h"
#include "hvsdk/hvdef/rndis.h"
#include "hvsdk/resource/network_port.h"
#include "hvsdk/vsp/network.h"

namespace hvsdk::vsp {

// What the adapter is, for as long as it is there.
struct RndisDeviceInfo {
  MacAddress mac_address{};
  uint32_t max_mtu_bytes = 1500;
  uint64_t link_bits = 0;  // a second
  uint16_t max_channels = 1;
  std::string name;
};

class RndisDevice {
 public:
  static constexpr uint32_t kMaxMessageBytes = 4096;
  static constexpr uint32_t kMaxAnswerBytes = 1024;
  static constexpr uint32_t kMaxMulticast = 32;
  static constexpr uint32_t kMaxPackets = 8;  // that a guest puts into one transfer
  // Of a large send: IP can say no more.
  static constexpr uint32_t kMaxLargeSendBytes = 62780;

  explicit RndisDevice(RndisDeviceInfo info) : info_(std::move(info)) { Reset(); }

  void Reset();

  // Answers a message on the control channel: `answer` becomes the answer, or empty if there is none. False: it is no message; nothing
  // was done.
  bool Handle(absl::Span<const uint8_t> message, const NetworkCounts& counts, bool link_is_up, uint16_t channels,
              std::vector<uint8_t>& answer);
  // What tells a guest of its link.
  static std::vector<uint8_t> LinkIndication(bool is_up);

  bool is_initialized() const { return state_.is_initialized; }
  // Frames may go to the guest.
  bool wants_frames() const { return state_.is_initialized && state_.filter != 0; }
  // Frames to that address may.
  bool Wants(const uint8_t* destination) const;
  bool wants_checksum(bool is_ipv4, bool is_tcp) const;
  // Whether the guest may ask for TCP segments that were coalesced; and whether it has, and checks no checksum of theirs.
  void OfferCoalescing(bool may_coalesce) { may_coalesce_ = may_coalesce; }
  bool wants_coalesced() const;
  // The hash of a frame by its headers, if it has one: what was hashed is a single kHash... bit.
  struct FlowHash {
    uint32_t type = 0;  // 0: none
    uint32_t value = 0;
  };
  FlowHash Hash(absl::Span<const uint8_t> start, const ethernet::FrameHeaders& headers) const;
  // The channel of a flow.
  uint16_t ChannelOf(const FlowHash& hash) const {
    return hash.type == 0 ? uint16_t{0} : state_.rss_table[hash.value % hvdef::rndis::kRssTableEntries];
  }

  struct State {
    bool is_initialized = false;
    uint32_t filter = 0;
    std::array<uint8_t, 6> mac_address{};
    std::vector<uint8_t> multicast;  // six bytes each
    uint32_t lookahead = 0;
    std::array<uint8_t, 7> offloads{};  // OffloadParameters: four checksums with a gap for IP's, large sends
    uint32_t rss_hash_info = 0;         // 0: RSS is off
    std::array<uint8_t, hvdef::rndis::kRssKeyBytes> rss_key{};
    std::array<uint8_t, hvdef::rndis::kRssTableEntries> rss_table{};
    std::array<uint8_t, 2> coalescing{};  // of IPv4 and IPv6: OffloadParameters, or 0 as nothing was said

    template <typename Visitor>
    void Fields(Visitor& visit) {
      visit(1, "is_initialized", is_initialized);
      visit(2, "filter", filter);
      visit(3, "mac_address", mac_address);
      visit(4, "multicast", multicast);
      visit(5, "lookahead", lookahead);
      visit(6, "offloads", offloads);
      visit(7, "rss_hash_info", rss_hash_info);
      visit(8, "rss_key", rss_key);
      visit(9, "rss_table", rss_table);
      visit(10, "coalescing", coalescing);
    }
  };
  const State& state() const { return state_; }
  // False: no guest could have come there with so many channels.
  bool IsPossible(const State& state, uint16_t channels) const;
  void SetState(const State& state);

 private:
  using Status = hvdef::rndis::Status;

  Status Query(hvdef::rndis::Oid oid, absl::Span<const uint8_t> in, const NetworkCounts& counts, bool link_is_up,
               std::vector<uint8_t>& info) const;
  Status QueryOffload(absl::Span<const uint8_t> in, bool is_current, std::vector<uint8_t>& info) const;
  Status Set(hvdef::rndis::Oid oid, absl::Span<const uint8_t> in, uint16_t channels);
  Status SetOffload(absl::Span<const uint8_t> in);
  Status SetRss(absl::Span<const uint8_t> in, uint16_t channels);
  Status SetConfigParameter(absl::Span<const uint8_t> in);

  const RndisDeviceInfo info_;
  bool may_coalesce_ = false;
  State state_;
  ethernet::FlowHasher hasher_{std::array<uint8_t, ethernet::kFlowKeyBytes>{}};  // by the state's key
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_SRC_VSP_RNDIS_DEVICE_H_
