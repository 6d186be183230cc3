// SPDX-License-Identifier: Apache-2.0
#include "vsp/rndis_device.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace hvsdk::vsp {

using hvdef::rndis::MessageHeader;
using hvdef::rndis::MessageType;
using hvdef::rndis::Oid;
using hvdef::rndis::Request;
namespace rndis = hvdef::rndis;

namespace {

constexpr Oid kSupported[] = {Oid::kGenSupportedList,
                              Oid::kGenHardwareStatus,
                              Oid::kGenMediaSupported,
                              Oid::kGenMediaInUse,
                              Oid::kGenMaximumLookahead,
                              Oid::kGenMaximumFrameSize,
                              Oid::kGenLinkSpeed,
                              Oid::kGenTransmitBufferSpace,
                              Oid::kGenReceiveBufferSpace,
                              Oid::kGenTransmitBlockSize,
                              Oid::kGenReceiveBlockSize,
                              Oid::kGenVendorId,
                              Oid::kGenVendorDescription,
                              Oid::kGenCurrentPacketFilter,
                              Oid::kGenCurrentLookahead,
                              Oid::kGenDriverVersion,
                              Oid::kGenMaximumTotalSize,
                              Oid::kGenMacOptions,
                              Oid::kGenMediaConnectStatus,
                              Oid::kGenMaximumSendPackets,
                              Oid::kGenVendorDriverVersion,
                              Oid::kGenNetworkLayerAddresses,
                              Oid::kGenPhysicalMedium,
                              Oid::kGenReceiveScaleCapabilities,
                              Oid::kGenReceiveScaleParameters,
                              Oid::kGenMaxLinkSpeed,
                              Oid::kGenLinkState,
                              Oid::kGenRndisConfigParameter,
                              Oid::kGenTransmitOk,
                              Oid::kGenReceiveOk,
                              Oid::kGenTransmitError,
                              Oid::kGenReceiveError,
                              Oid::kGenReceiveNoBuffer,
                              Oid::kGenDirectedBytesTransmit,
                              Oid::kGenDirectedFramesTransmit,
                              Oid::kGenMulticastBytesTransmit,
                              Oid::kGenMulticastFramesTransmit,
                              Oid::kGenBroadcastBytesTransmit,
                              Oid::kGenBroadcastFramesTransmit,
                              Oid::kGenDirectedBytesReceive,
                              Oid::kGenDirectedFramesReceive,
                              Oid::kGenMulticastBytesReceive,
                              Oid::kGenMulticastFramesReceive,
                              Oid::kGenBroadcastBytesReceive,
                              Oid::kGenBroadcastFramesReceive,
                              Oid::kGenFriendlyName,
                              Oid::kGenBytesReceive,
                              Oid::kGenBytesTransmit,
                              Oid::k8023PermanentAddress,
                              Oid::k8023CurrentAddress,
                              Oid::k8023MulticastList,
                              Oid::k8023MaximumListSize,
                              Oid::k8023MacOptions,
                              Oid::kOffloadEncapsulation,
                              Oid::k8023ReceiveErrorAlignment,
                              Oid::k8023TransmitOneCollision,
                              Oid::k8023TransmitMoreCollisions,
                              Oid::kTcpOffloadCurrentConfig,
                              Oid::kTcpOffloadParameters,
                              Oid::kTcpOffloadHardwareCapabilities};

constexpr uint32_t kFilters = rndis::kFilterDirected | rndis::kFilterMulticast | rndis::kFilterAllMulticast |
                              rndis::kFilterBroadcast | rndis::kFilterPromiscuous;
constexpr uint32_t kHashes = rndis::kHashIpv4 | rndis::kHashTcpIpv4 | rndis::kHashIpv6 | rndis::kHashIpv6Ex |
                             rndis::kHashTcpIpv6 | rndis::kHashTcpIpv6Ex | rndis::kHashUdpIpv4 | rndis::kHashUdpIpv6;
constexpr char kVendor[] = "hvsdk";

// Where State::offloads keeps a field of OffloadParameters.
enum OffloadIndex : size_t { kIpv4, kTcp4, kUdp4, kTcp6, kUdp6, kLso4, kLso6 };

template <typename T>
void Append(std::vector<uint8_t>& to, const T& object) {
  const auto* const bytes = reinterpret_cast<const uint8_t*>(&object);
  to.insert(to.end(), bytes, bytes + sizeof(T));
}

// What the bytes have of a structure; zeros behind them.
template <typename T>
T Load(absl::Span<const uint8_t> from) {
  T object = {};
  std::copy_n(from.begin(), std::min(from.size(), sizeof(T)), reinterpret_cast<uint8_t*>(&object));
  return object;
}

void Answer(std::vector<uint8_t>& to, MessageType type, const auto& body, absl::Span<const uint8_t> info = {}) {
  to.clear();
  Append(to, MessageHeader{type, static_cast<uint32_t>(sizeof(MessageHeader) + sizeof(body) + info.size())});
  Append(to, body);
  to.insert(to.end(), info.begin(), info.end());
}

bool IsMulticast(const uint8_t* address) { return (address[0] & 1) != 0; }

}  // namespace

void RndisDevice::Reset() {
  state_ = {};
  state_.mac_address = info_.mac_address;
  state_.offloads.fill(rndis::kOffloadChecksumOff);
  hasher_ = ethernet::FlowHasher(state_.rss_key);
}

bool RndisDevice::IsPossible(const State& state, uint16_t channels) const {
  if ((state.filter & ~kFilters) != 0 || state.multicast.size() % 6 != 0) return false;
  if (state.multicast.size() > size_t{kMaxMulticast} * 6 || (state.rss_hash_info & ~(kHashes | 1u)) != 0) return false;
  if (std::any_of(state.offloads.begin(), state.offloads.end(), [](uint8_t value) {
        return value < rndis::kOffloadChecksumOff || value > rndis::kOffloadChecksumBoth;
      })) {
    return false;
  }
  if (std::any_of(state.coalescing.begin(), state.coalescing.end(),
                  [](uint8_t value) { return value > rndis::kOffloadOn; })) {
    return false;
  }
  return std::all_of(state.rss_table.begin(), state.rss_table.end(),
                     [&](uint8_t channel) { return channel < channels; });
}

bool RndisDevice::wants_coalesced() const {
  return may_coalesce_ && state_.coalescing[0] == rndis::kOffloadOn && state_.coalescing[1] == rndis::kOffloadOn &&
         wants_checksum(/*is_ipv4=*/true, /*is_tcp=*/true) && wants_checksum(/*is_ipv4=*/false, /*is_tcp=*/true);
}

void RndisDevice::SetState(const State& state) {
  state_ = state;
  hasher_ = ethernet::FlowHasher(state_.rss_key);
}

bool RndisDevice::Handle(absl::Span<const uint8_t> message, const NetworkCounts& counts, bool link_is_up,
                         uint16_t channels, std::vector<uint8_t>& answer) {
  answer.clear();
  if (message.size() < sizeof(MessageHeader)) return false;
  const auto header = Load<MessageHeader>(message);
  if (header.length < sizeof(MessageHeader) || header.length > message.size()) return false;
  const absl::Span<const uint8_t> body = message.subspan(sizeof(header), header.length - sizeof(header));
  switch (header.type) {
    case MessageType::kInitialize: {
      if (body.size() < sizeof(rndis::Initialize)) return false;
      const auto request = Load<rndis::Initialize>(body);
      rndis::InitializeComplete complete = {};
      complete.request_id = request.request_id;
      if (request.major_version != rndis::kMajorVersion) complete.status = Status::kFailure;
      complete.major_version = rndis::kMajorVersion;
      complete.minor_version = rndis::kMinorVersion;
      complete.device_flags = rndis::kConnectionless;
      complete.medium = rndis::kMedium8023;
      complete.max_packets = kMaxPackets;
      complete.max_transfer_bytes = 0x4000;
      complete.packet_alignment_shift = 3;
      if (complete.status == Status::kSuccess) {
        Reset();
        state_.is_initialized = true;
      }
      Answer(answer, MessageType::kInitializeComplete, complete);
      return true;
    }
    case MessageType::kHalt:
      Reset();
      return true;
    case MessageType::kReset:
      state_.filter = 0;
      state_.multicast.clear();
      Answer(answer, MessageType::kResetComplete, rndis::ResetComplete{Status::kSuccess, 1});
      return true;
    case MessageType::kKeepalive:
      if (body.size() < sizeof(uint32_t)) return false;
      Answer(answer, MessageType::kKeepaliveComplete, rndis::Complete{Load<uint32_t>(body), Status::kSuccess});
      return true;
    case MessageType::kQuery:
    case MessageType::kSet: {
      if (body.size() < sizeof(Request)) return false;
      const auto request = Load<Request>(body);
      // Without information its offset may say anything.
      absl::Span<const uint8_t> in;
      if (request.info_length != 0) {
        if (request.info_offset > body.size() || request.info_length > body.size() - request.info_offset) return false;
        in = body.subspan(request.info_offset, request.info_length);
      }
      if (header.type == MessageType::kSet) {
        const Status status = state_.is_initialized ? Set(request.oid, in, channels) : Status::kFailure;
        Answer(answer, MessageType::kSetComplete, rndis::Complete{request.request_id, status});
        return true;
      }
      std::vector<uint8_t> info;
      const Status status = state_.is_initialized ? Query(request.oid, in, counts, link_is_up, info) : Status::kFailure;
      if (status != Status::kSuccess) info.clear();
      rndis::QueryComplete complete = {request.request_id, status, static_cast<uint32_t>(info.size()), 0};
      if (!info.empty()) complete.info_offset = sizeof(complete);
      Answer(answer, MessageType::kQueryComplete, complete, info);
      return true;
    }
    default:
      return false;
  }
}

std::vector<uint8_t> RndisDevice::LinkIndication(bool is_up) {
  std::vector<uint8_t> message;
  Answer(message, MessageType::kIndicateStatus,
         rndis::IndicateStatus{is_up ? Status::kMediaConnect : Status::kMediaDisconnect, 0, 0});
  return message;
}

rndis::Status RndisDevice::Query(Oid oid, absl::Span<const uint8_t> in, const NetworkCounts& counts, bool link_is_up,
                                 std::vector<uint8_t>& info) const {
  const auto words = [&](auto... values) {
    (Append(info, static_cast<uint32_t>(values)), ...);
    return Status::kSuccess;
  };
  // Counts are 64 bits wide; guests take four bytes or eight, by what they find.
  const auto count = [&](uint64_t value) {
    Append(info, value);
    return Status::kSuccess;
  };
  const uint32_t max_frame_bytes = info_.max_mtu_bytes + static_cast<uint32_t>(ethernet::kHeaderBytes);
  switch (oid) {
    case Oid::kGenSupportedList:
      for (const Oid supported : kSupported) Append(info, supported);
      return Status::kSuccess;
    case Oid::kGenHardwareStatus:  // ready
    case Oid::kGenMediaSupported:
    case Oid::kGenMediaInUse:
    case Oid::kGenPhysicalMedium:
    case Oid::k8023MacOptions:
    case Oid::k8023ReceiveErrorAlignment:
    case Oid::k8023TransmitOneCollision:
    case Oid::k8023TransmitMoreCollisions:
      return words(0);
    case Oid::kGenMaximumLookahead:
    case Oid::kGenMaximumFrameSize:
      return words(info_.max_mtu_bytes);
    case Oid::kGenCurrentLookahead:
      return words(state_.lookahead != 0 ? state_.lookahead : info_.max_mtu_bytes);
    case Oid::kGenTransmitBlockSize:
    case Oid::kGenReceiveBlockSize:
    case Oid::kGenMaximumTotalSize:
      return words(max_frame_bytes);
    case Oid::kGenTransmitBufferSpace:
    case Oid::kGenReceiveBufferSpace:
      return words(max_frame_bytes * 256);
    case Oid::kGenLinkSpeed:
      return words(std::min<uint64_t>(info_.link_bits / 100, 0xFFFFFFFF));
    case Oid::kGenMaxLinkSpeed:
      Append(info, info_.link_bits);
      return count(info_.link_bits);
    case Oid::kGenLinkState: {
      rndis::LinkState state = {};
      state.header = {rndis::kObjectDefault, 1, sizeof(state)};
      state.media_connect_state = link_is_up ? 1 : 2;
      state.media_duplex_state = 2;
      state.transmit_bits = state.receive_bits = info_.link_bits;
      Append(info, state);
      return Status::kSuccess;
    }
    case Oid::kGenVendorId:
      return words(0x00FFFFFF);  // no IEEE-registered code
    case Oid::kGenVendorDescription:
      info.assign(std::begin(kVendor), std::end(kVendor));
      return Status::kSuccess;
    case Oid::kGenVendorDriverVersion:
      return words(0x00010000);
    case Oid::kGenDriverVersion:
      Append(info, uint16_t{0x0600});
      return Status::kSuccess;
    case Oid::kGenFriendlyName:
      // NDIS takes 255 characters and a zero.
      for (const char c : info_.name.substr(0, 255)) Append(info, static_cast<uint16_t>(static_cast<uint8_t>(c)));
      Append(info, uint16_t{0});
      return Status::kSuccess;
    case Oid::kGenCurrentPacketFilter:
      return words(state_.filter);
    case Oid::kGenMacOptions:
      return words(rndis::kMacOptionCopyLookahead | rndis::kMacOptionTransfersNotPending | rndis::kMacOptionNoLoopback |
                   rndis::kMacOption8021pPriority | rndis::kMacOption8021qVlan);
    case Oid::kGenMediaConnectStatus:
      return words(link_is_up ? rndis::kMediaConnected : rndis::kMediaDisconnected);
    case Oid::kGenMaximumSendPackets:
      return words(kMaxPackets);
    case Oid::kGenTransmitOk:
      return count(counts.transmitted.frames());
    case Oid::kGenReceiveOk:
      return count(counts.received.frames());
    case Oid::kGenTransmitError:
      return count(counts.transmit_errors);
    case Oid::kGenReceiveError:
      return count(0);
    case Oid::kGenReceiveNoBuffer:
      return count(counts.receive_errors);
    case Oid::kGenDirectedBytesTransmit:
      return count(counts.transmitted.unicast_bytes);
    case Oid::kGenDirectedFramesTransmit:
      return count(counts.transmitted.unicast_frames);
    case Oid::kGenMulticastBytesTransmit:
      return count(counts.transmitted.multicast_bytes);
    case Oid::kGenMulticastFramesTransmit:
      return count(counts.transmitted.multicast_frames);
    case Oid::kGenBroadcastBytesTransmit:
      return count(counts.transmitted.broadcast_bytes);
    case Oid::kGenBroadcastFramesTransmit:
      return count(counts.transmitted.broadcast_frames);
    case Oid::kGenDirectedBytesReceive:
      return count(counts.received.unicast_bytes);
    case Oid::kGenDirectedFramesReceive:
      return count(counts.received.unicast_frames);
    case Oid::kGenMulticastBytesReceive:
      return count(counts.received.multicast_bytes);
    case Oid::kGenMulticastFramesReceive:
      return count(counts.received.multicast_frames);
    case Oid::kGenBroadcastBytesReceive:
      return count(counts.received.broadcast_bytes);
    case Oid::kGenBroadcastFramesReceive:
      return count(counts.received.broadcast_frames);
    case Oid::kGenBytesReceive:
      return count(counts.received.bytes());
    case Oid::kGenBytesTransmit:
      return count(counts.transmitted.bytes());
    case Oid::k8023PermanentAddress:
      info.assign(info_.mac_address.begin(), info_.mac_address.end());
      return Status::kSuccess;
    case Oid::k8023CurrentAddress:
      info.assign(state_.mac_address.begin(), state_.mac_address.end());
      return Status::kSuccess;
    case Oid::k8023MulticastList:
      info = state_.multicast;
      return Status::kSuccess;
    case Oid::k8023MaximumListSize:
      return words(kMaxMulticast);
    case Oid::kGenReceiveScaleCapabilities: {
      rndis::RssCapabilities capabilities = {};
      capabilities.header = {rndis::kObjectRssCapabilities, 2, rndis::kRssCapabilitiesBytes2};
      capabilities.flags = rndis::kRssCapToeplitz | rndis::kRssCapTcpIpv4 | rndis::kRssCapTcpIpv6 |
                           rndis::kRssCapUdpIpv4 | rndis::kRssCapUdpIpv6;
      capabilities.interrupt_messages = info_.max_channels;
      capabilities.receive_queues = info_.max_channels;
      capabilities.table_entries = rndis::kRssTableEntries;
      Append(info, capabilities);
      info.resize(rndis::kRssCapabilitiesBytes2);  // Linux has room for no more
      return Status::kSuccess;
    }
    case Oid::kTcpOffloadHardwareCapabilities:
      return QueryOffload(in, /*is_current=*/false, info);
    case Oid::kTcpOffloadCurrentConfig:
      return QueryOffload(in, /*is_current=*/true, info);
    default:
      return Status::kNotSupported;
  }
}

// The revision that the guest asks for, or the first.
rndis::Status RndisDevice::QueryOffload(absl::Span<const uint8_t> in, bool is_current,
                                        std::vector<uint8_t>& info) const {
  const auto asked = Load<rndis::ObjectHeader>(in);
  const uint8_t revision = in.size() < sizeof(asked) ? uint8_t{1} : std::clamp<uint8_t>(asked.revision, 1, 3);
  rndis::Offload offload = {};
  offload.header = {rndis::kObjectOffload, revision,
                    revision == 1   ? rndis::kOffloadBytes1
                    : revision == 2 ? rndis::kOffloadBytes2
                                    : rndis::kOffloadBytes3};
  const auto has = [&](OffloadIndex index, bool to_guest) {
    const uint8_t value = state_.offloads[index];
    const uint8_t one = to_guest ? rndis::kOffloadChecksumReceive : rndis::kOffloadChecksumTransmit;
    return !is_current || value == one || value == rndis::kOffloadChecksumBoth;
  };
  const auto words4 = [&](bool to_guest) {
    uint32_t word = 0;
    if (has(kTcp4, to_guest)) word |= rndis::kOffloadTcp | rndis::kOffloadTcpOptions | rndis::kOffloadIpOptions;
    if (has(kUdp4, to_guest)) word |= rndis::kOffloadUdp | rndis::kOffloadIpOptions;
    if (has(kIpv4, to_guest) && !to_guest) word |= rndis::kOffloadIpHeader | rndis::kOffloadIpOptions;
    return word;
  };
  const auto words6 = [&](bool to_guest) {
    uint32_t word = 0;
    if (has(kTcp6, to_guest)) word |= rndis::kOffloadTcp | rndis::kOffloadTcpOptions | rndis::kOffloadIpOptions;
    if (has(kUdp6, to_guest)) word |= rndis::kOffloadUdp | rndis::kOffloadIpOptions;
    return word;
  };
  const auto set = [](uint32_t& encap, uint32_t& word, uint32_t value) {
    word = value;
    if (value != 0) encap = rndis::kEncap8023;
  };
  set(offload.ipv4_tx_encap, offload.ipv4_tx_checksum, words4(false));
  set(offload.ipv4_rx_encap, offload.ipv4_rx_checksum, words4(true));
  set(offload.ipv6_tx_encap, offload.ipv6_tx_checksum, words6(false));
  set(offload.ipv6_rx_encap, offload.ipv6_rx_checksum, words6(true));
  if (!is_current || state_.offloads[kLso4] == rndis::kOffloadChecksumTransmit) {
    set(offload.lso_ipv4_encap, offload.lso_ipv4_max, kMaxLargeSendBytes);
    offload.lso_ipv4_min = 2;
  }
  if (!is_current || state_.offloads[kLso6] == rndis::kOffloadChecksumTransmit) {
    set(offload.lso_ipv6_encap, offload.lso_ipv6_max, kMaxLargeSendBytes);
    offload.lso_ipv6_min = 2;
    offload.lso_ipv6_options = rndis::kLsoIpv6Extensions | rndis::kLsoTcpOptions;
  }
  const auto coalesces = [&](size_t i) {
    return is_current ? state_.coalescing[i] == rndis::kOffloadOn : may_coalesce_;
  };
  offload.rsc = (coalesces(0) ? rndis::kRscIpv4 : 0) | (coalesces(1) ? rndis::kRscIpv6 : 0);
  Append(info, offload);
  info.resize(offload.header.size);
  return Status::kSuccess;
}

rndis::Status RndisDevice::Set(Oid oid, absl::Span<const uint8_t> in, uint16_t channels) {
  switch (oid) {
    case Oid::kGenCurrentPacketFilter:
      if (in.size() < sizeof(uint32_t)) return Status::kInvalidLength;
      if ((Load<uint32_t>(in) & ~kFilters) != 0) return Status::kNotSupported;
      state_.filter = Load<uint32_t>(in);
      return Status::kSuccess;
    case Oid::kGenCurrentLookahead:
      if (in.size() < sizeof(uint32_t)) return Status::kInvalidLength;
      state_.lookahead = std::min(Load<uint32_t>(in), info_.max_mtu_bytes);
      return Status::kSuccess;
    case Oid::k8023MulticastList:
      if (in.size() % 6 != 0) return Status::kInvalidLength;
      if (in.size() > size_t{kMaxMulticast} * 6) return Status::kMulticastFull;
      state_.multicast.assign(in.begin(), in.end());
      return Status::kSuccess;
    case Oid::kGenNetworkLayerAddresses:  // nothing of ours depends on them
    case Oid::kOffloadEncapsulation:
      return Status::kSuccess;
    case Oid::kTcpOffloadParameters:
      return SetOffload(in);
    case Oid::kGenReceiveScaleParameters:
      return SetRss(in, channels);
    case Oid::kGenRndisConfigParameter:
      return SetConfigParameter(in);
    default:
      return Status::kNotSupported;
  }
}

rndis::Status RndisDevice::SetOffload(absl::Span<const uint8_t> in) {
  if (in.size() < offsetof(rndis::OffloadParameters, padding)) return Status::kInvalidLength;
  const auto wanted = Load<rndis::OffloadParameters>(in);
  if (wanted.header.type != rndis::kObjectDefault) return Status::kInvalidData;
  const std::array<uint8_t, 7> values = {wanted.ipv4_checksum,     wanted.tcp_ipv4_checksum, wanted.udp_ipv4_checksum,
                                         wanted.tcp_ipv6_checksum, wanted.udp_ipv6_checksum, wanted.lso_v2_ipv4,
                                         wanted.lso_v2_ipv6};
  for (size_t i = 0; i < values.size(); ++i) {
    const uint8_t most = i < kLso4 ? rndis::kOffloadChecksumBoth : rndis::kOffloadChecksumTransmit;
    if (values[i] > most) return Status::kInvalidData;
  }
  const std::array<uint8_t, 2> coalescing = {wanted.rsc_ipv4, wanted.rsc_ipv6};
  for (const uint8_t value : coalescing) {
    if (value > rndis::kOffloadOn || (value == rndis::kOffloadOn && !may_coalesce_)) return Status::kInvalidData;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] != rndis::kOffloadUnchanged) state_.offloads[i] = values[i];
  }
  for (size_t i = 0; i < coalescing.size(); ++i) {
    if (coalescing[i] != rndis::kOffloadUnchanged) state_.coalescing[i] = coalescing[i];
  }
  return Status::kSuccess;
}

rndis::Status RndisDevice::SetRss(absl::Span<const uint8_t> in, uint16_t channels) {
  // The first revision ends before the masks.
  if (in.size() < offsetof(rndis::RssParameters, masks_offset)) return Status::kInvalidLength;
  const auto wanted = Load<rndis::RssParameters>(in);
  if (wanted.header.type != rndis::kObjectRssParameters) return Status::kInvalidData;
  State next = state_;
  if ((wanted.flags & rndis::kRssHashInfoUnchanged) == 0) {
    const uint32_t function = wanted.hash_info & rndis::kHashFunctionMask;
    if (function > rndis::kHashToeplitz) return Status::kInvalidData;
    next.rss_hash_info = function == 0 ? 0 : wanted.hash_info & (kHashes | rndis::kHashToeplitz);
  }
  if ((wanted.flags & rndis::kRssDisable) != 0) next.rss_hash_info = 0;
  if ((wanted.flags & rndis::kRssKeyUnchanged) == 0 && next.rss_hash_info != 0) {
    if (wanted.key_bytes != rndis::kRssKeyBytes) return Status::kInvalidData;
    if (wanted.key_offset > in.size() || wanted.key_bytes > in.size() - wanted.key_offset)
      return Status::kInvalidLength;
    std::memcpy(next.rss_key.data(), in.data() + wanted.key_offset, rndis::kRssKeyBytes);
  }
  if ((wanted.flags & rndis::kRssTableUnchanged) == 0 && next.rss_hash_info != 0) {
    // A power of two of channels' numbers, which the table repeats.
    const size_t entries = wanted.table_bytes / sizeof(uint32_t);
    if (wanted.table_bytes % sizeof(uint32_t) != 0 || entries == 0 || entries > rndis::kRssTableEntries ||
        (entries & (entries - 1)) != 0) {
      return Status::kInvalidData;
    }
    if (wanted.table_offset > in.size() || wanted.table_bytes > in.size() - wanted.table_offset) {
      return Status::kInvalidLength;
    }
    for (size_t i = 0; i < next.rss_table.size(); ++i) {
      const auto channel = Load<uint32_t>(in.subspan(wanted.table_offset + i % entries * sizeof(uint32_t)));
      if (channel >= channels) return Status::kInvalidData;
      next.rss_table[i] = static_cast<uint8_t>(channel);
    }
  }
  SetState(next);
  return Status::kSuccess;
}

// "NetworkAddress", a string of twelve hexadecimal digits, is the one parameter of adapters that guests set (Linux
// rndis_filter_set_device_mac).
rndis::Status RndisDevice::SetConfigParameter(absl::Span<const uint8_t> in) {
  struct Parameter {
    uint32_t name_offset, name_length, type, value_offset, value_length;
  };
  if (in.size() < sizeof(Parameter)) return Status::kInvalidLength;
  const auto parameter = Load<Parameter>(in);
  // UTF-16 of ASCII, without its zeros; empty if it is none, or too long.
  const auto text = [&](uint32_t offset, uint32_t length) {
    std::string ascii;
    if (offset > in.size() || length > in.size() - offset || length > 64) return ascii;
    for (uint32_t i = 0; i + 1 < length; i += 2) {
      if (in[offset + i + 1] != 0) return std::string();
      ascii.push_back(static_cast<char>(in[offset + i]));
    }
    return ascii;
  };
  constexpr uint32_t kString = 2;
  const std::string value = text(parameter.value_offset, parameter.value_length);
  if (text(parameter.name_offset, parameter.name_length) != "NetworkAddress" || parameter.type != kString) {
    return Status::kNotSupported;
  }
  if (value.size() != 12) return Status::kInvalidData;
  MacAddress address{};
  for (size_t i = 0; i < value.size(); ++i) {
    const char c = value[i];
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                             : -1;
    if (digit < 0) return Status::kInvalidData;
    address[i / 2] = static_cast<uint8_t>(address[i / 2] << 4 | digit);
  }
  if (IsMulticast(address.data())) return Status::kInvalidData;
  state_.mac_address = address;
  return Status::kSuccess;
}

bool RndisDevice::Wants(const uint8_t* destination) const {
  if ((state_.filter & rndis::kFilterPromiscuous) != 0) return true;
  if (!IsMulticast(destination)) {
    return (state_.filter & rndis::kFilterDirected) != 0 &&
           std::memcmp(destination, state_.mac_address.data(), state_.mac_address.size()) == 0;
  }
  static constexpr uint8_t kBroadcast[6] = {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF};
  if (std::memcmp(destination, kBroadcast, sizeof(kBroadcast)) == 0) {
    return (state_.filter & rndis::kFilterBroadcast) != 0;
  }
  if ((state_.filter & rndis::kFilterAllMulticast) != 0) return true;
  if ((state_.filter & rndis::kFilterMulticast) == 0) return false;
  for (size_t at = 0; at < state_.multicast.size(); at += 6) {
    if (std::memcmp(destination, &state_.multicast[at], 6) == 0) return true;
  }
  return false;
}

bool RndisDevice::wants_checksum(bool is_ipv4, bool is_tcp) const {
  const uint8_t value = state_.offloads[is_ipv4 ? (is_tcp ? kTcp4 : kUdp4) : (is_tcp ? kTcp6 : kUdp6)];
  return value == rndis::kOffloadChecksumReceive || value == rndis::kOffloadChecksumBoth;
}

RndisDevice::FlowHash RndisDevice::Hash(absl::Span<const uint8_t> start, const ethernet::FrameHeaders& headers) const {
  if (state_.rss_hash_info == 0 || headers.ip_version == 0) return {};
  const bool is_ipv4 = headers.ip_version == 4;
  const bool has_ports = headers.transport_offset != 0 && !headers.is_fragment;
  const auto has = [&](uint32_t type) { return (state_.rss_hash_info & type) != 0; };
  const ethernet::FlowPorts ports = {.tcp = has(is_ipv4 ? rndis::kHashTcpIpv4 : rndis::kHashTcpIpv6),
                                     .udp = has(is_ipv4 ? rndis::kHashUdpIpv4 : rndis::kHashUdpIpv6)};
  uint32_t type = is_ipv4 ? rndis::kHashIpv4 : rndis::kHashIpv6;
  if (has_ports && headers.protocol == ethernet::kTcp && ports.tcp) {
    type = is_ipv4 ? rndis::kHashTcpIpv4 : rndis::kHashTcpIpv6;
  } else if (has_ports && headers.protocol == ethernet::kUdp && ports.udp) {
    type = is_ipv4 ? rndis::kHashUdpIpv4 : rndis::kHashUdpIpv6;
  }
  if (!has(type)) return {};
  return {type, hasher_.Hash(start, headers, ports)};
}

}  // namespace hvsdk::vsp
