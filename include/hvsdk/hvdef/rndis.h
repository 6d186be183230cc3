// SPDX-License-Identifier: Apache-2.0
// RNDIS: a network adapter's messages, and the objects (OIDs) that are asked and set by them, as guests of Hyper-V use them. All
// little-endian.
//
//   message := MessageHeader body
//
// Offsets in bodies count from the end of the MessageHeader. Each request has a completion, with kCompletion in its type, but for
// kHalt and the guest's frames.
//
// Sources: [MS-RNDIS] 2.2; Linux drivers/net/hyperv/hyperv_net.h and include/linux/rndis.h; FreeBSD sys/net/rndis.h and
// sys/dev/hyperv/netvsc/ndis.h; the NDIS reference (ntddndis.h) for what is in objects.

#ifndef HVSDK_HVDEF_RNDIS_H_
#define HVSDK_HVDEF_RNDIS_H_

#include <cstddef>
#include <cstdint>

namespace hvsdk::hvdef::rndis {

inline constexpr uint32_t kCompletion = 0x80000000;

enum class MessageType : uint32_t {
  kPacket = 1,
  kInitialize = 2,
  kHalt = 3,
  kQuery = 4,
  kSet = 5,
  kReset = 6,
  kIndicateStatus = 7,
  kKeepalive = 8,
  kInitializeComplete = kCompletion | 2,
  kQueryComplete = kCompletion | 4,
  kSetComplete = kCompletion | 5,
  kResetComplete = kCompletion | 6,
  kKeepaliveComplete = kCompletion | 8,
};

enum class Status : uint32_t {
  kSuccess = 0x00000000,
  kMediaConnect = 0x4001000B,
  kMediaDisconnect = 0x4001000C,
  kLinkSpeedChange = 0x40010013,
  kFailure = 0xC0000001,
  kNotSupported = 0xC00000BB,
  kMulticastFull = 0xC0010009,
  kInvalidLength = 0xC0010014,
  kInvalidData = 0xC0010015,
  kBufferTooShort = 0xC0010016,
};

// Source: Linux, rndis_message.
struct MessageHeader {
  MessageType type;  // 0x00
  uint32_t length;   // 0x04  of the whole message
};
static_assert(sizeof(MessageHeader) == 8);
static_assert(offsetof(MessageHeader, type) == 0x00 && offsetof(MessageHeader, length) == 0x04);

inline constexpr uint32_t kMajorVersion = 1;
inline constexpr uint32_t kMinorVersion = 0;

// Source: Linux, rndis_initialize_request.
struct Initialize {
  uint32_t request_id;          // 0x00
  uint32_t major_version;       // 0x04
  uint32_t minor_version;       // 0x08
  uint32_t max_transfer_bytes;  // 0x0C  of messages in one piece, towards the guest
};
static_assert(sizeof(Initialize) == 16);
static_assert(offsetof(Initialize, request_id) == 0x00 && offsetof(Initialize, major_version) == 0x04 &&
              offsetof(Initialize, minor_version) == 0x08 && offsetof(Initialize, max_transfer_bytes) == 0x0C);

inline constexpr uint32_t kConnectionless = 1;
inline constexpr uint32_t kMedium8023 = 0;

// Source: Linux, rndis_initialize_complete.
struct InitializeComplete {
  uint32_t request_id;              // 0x00
  Status status;                    // 0x04
  uint32_t major_version;           // 0x08
  uint32_t minor_version;           // 0x0C
  uint32_t device_flags;            // 0x10
  uint32_t medium;                  // 0x14
  uint32_t max_packets;             // 0x18  in one piece, towards the host
  uint32_t max_transfer_bytes;      // 0x1C  likewise
  uint32_t packet_alignment_shift;  // 0x20  of all but the first of them
  uint32_t af_list_offset;          // 0x24
  uint32_t af_list_size;            // 0x28
};
static_assert(sizeof(InitializeComplete) == 44);
static_assert(offsetof(InitializeComplete, request_id) == 0x00 && offsetof(InitializeComplete, status) == 0x04 &&
              offsetof(InitializeComplete, major_version) == 0x08 &&
              offsetof(InitializeComplete, minor_version) == 0x0C &&
              offsetof(InitializeComplete, device_flags) == 0x10 && offsetof(InitializeComplete, medium) == 0x14 &&
              offsetof(InitializeComplete, max_packets) == 0x18 &&
              offsetof(InitializeComplete, max_transfer_bytes) == 0x1C &&
              offsetof(InitializeComplete, packet_alignment_shift) == 0x20 &&
              offsetof(InitializeComplete, af_list_offset) == 0x24 &&
              offsetof(InitializeComplete, af_list_size) == 0x28);

// Objects. Those of statistics count since the adapter was made.
enum class Oid : uint32_t {
  kGenSupportedList = 0x00010101,
  kGenHardwareStatus = 0x00010102,
  kGenMediaSupported = 0x00010103,
  kGenMediaInUse = 0x00010104,
  kGenMaximumLookahead = 0x00010105,
  kGenMaximumFrameSize = 0x00010106,  // the MTU
  kGenLinkSpeed = 0x00010107,         // in 100 bits a second
  kGenTransmitBufferSpace = 0x00010108,
  kGenReceiveBufferSpace = 0x00010109,
  kGenTransmitBlockSize = 0x0001010A,
  kGenReceiveBlockSize = 0x0001010B,
  kGenVendorId = 0x0001010C,
  kGenVendorDescription = 0x0001010D,
  kGenCurrentPacketFilter = 0x0001010E,
  kGenCurrentLookahead = 0x0001010F,
  kGenDriverVersion = 0x00010110,
  kGenMaximumTotalSize = 0x00010111,
  kGenMacOptions = 0x00010113,
  kGenMediaConnectStatus = 0x00010114,
  kGenMaximumSendPackets = 0x00010115,
  kGenVendorDriverVersion = 0x00010116,
  kGenNetworkLayerAddresses = 0x00010118,
  kGenPhysicalMedium = 0x00010202,
  kGenReceiveScaleCapabilities = 0x00010203,
  kGenReceiveScaleParameters = 0x00010204,
  kGenMaxLinkSpeed = 0x00010206,
  kGenLinkState = 0x00010207,
  kGenRndisConfigParameter = 0x0001021B,
  kGenTransmitOk = 0x00020101,
  kGenReceiveOk = 0x00020102,
  kGenTransmitError = 0x00020103,
  kGenReceiveError = 0x00020104,
  kGenReceiveNoBuffer = 0x00020105,
  kGenDirectedBytesTransmit = 0x00020201,
  kGenDirectedFramesTransmit = 0x00020202,
  kGenMulticastBytesTransmit = 0x00020203,
  kGenMulticastFramesTransmit = 0x00020204,
  kGenBroadcastBytesTransmit = 0x00020205,
  kGenBroadcastFramesTransmit = 0x00020206,
  kGenDirectedBytesReceive = 0x00020207,
  kGenDirectedFramesReceive = 0x00020208,
  kGenMulticastBytesReceive = 0x00020209,
  kGenMulticastFramesReceive = 0x0002020A,
  kGenBroadcastBytesReceive = 0x0002020B,
  kGenBroadcastFramesReceive = 0x0002020C,
  kGenFriendlyName = 0x00020216,
  kGenBytesReceive = 0x00020219,
  kGenBytesTransmit = 0x0002021A,
  k8023PermanentAddress = 0x01010101,
  k8023CurrentAddress = 0x01010102,
  k8023MulticastList = 0x01010103,
  k8023MaximumListSize = 0x01010104,
  k8023MacOptions = 0x01010105,
  kOffloadEncapsulation = 0x0101010A,
  k8023ReceiveErrorAlignment = 0x01020101,
  k8023TransmitOneCollision = 0x01020102,
  k8023TransmitMoreCollisions = 0x01020103,
  kTcpOffloadCurrentConfig = 0xFC01020B,
  kTcpOffloadParameters = 0xFC01020C,
  kTcpOffloadHardwareCapabilities = 0xFC01020D,
};

// kGenCurrentPacketFilter: which frames the guest wants.
inline constexpr uint32_t kFilterDirected = 0x01;
inline constexpr uint32_t kFilterMulticast = 0x02;  // of the list
inline constexpr uint32_t kFilterAllMulticast = 0x04;
inline constexpr uint32_t kFilterBroadcast = 0x08;
inline constexpr uint32_t kFilterPromiscuous = 0x20;

// kGenMediaConnectStatus
inline constexpr uint32_t kMediaConnected = 0;
inline constexpr uint32_t kMediaDisconnected = 1;

// kGenMacOptions
inline constexpr uint32_t kMacOptionCopyLookahead = 0x001;
inline constexpr uint32_t kMacOptionTransfersNotPending = 0x004;
inline constexpr uint32_t kMacOptionNoLoopback = 0x008;
inline constexpr uint32_t kMacOption8021pPriority = 0x040;
inline constexpr uint32_t kMacOption8021qVlan = 0x200;

// Query and Set have the same body.
// Source: Linux, rndis_query_request.
struct Request {
  uint32_t request_id;   // 0x00
  Oid oid;               // 0x04
  uint32_t info_length;  // 0x08
  uint32_t info_offset;  // 0x0C
  uint32_t vc_handle;    // 0x10
};
static_assert(sizeof(Request) == 20);
static_assert(offsetof(Request, request_id) == 0x00 && offsetof(Request, oid) == 0x04 &&
              offsetof(Request, info_length) == 0x08 && offsetof(Request, info_offset) == 0x0C &&
              offsetof(Request, vc_handle) == 0x10);

// Source: Linux, rndis_query_complete.
struct QueryComplete {
  uint32_t request_id;   // 0x00
  Status status;         // 0x04
  uint32_t info_length;  // 0x08
  uint32_t info_offset;  // 0x0C
};
static_assert(sizeof(QueryComplete) == 16);
static_assert(offsetof(QueryComplete, request_id) == 0x00 && offsetof(QueryComplete, status) == 0x04 &&
              offsetof(QueryComplete, info_length) == 0x08 && offsetof(QueryComplete, info_offset) == 0x0C);

// Set's and Keepalive's.
// Source: Linux, rndis_set_complete.
struct Complete {
  uint32_t request_id;  // 0x00
  Status status;        // 0x04
};
static_assert(sizeof(Complete) == 8);
static_assert(offsetof(Complete, request_id) == 0x00 && offsetof(Complete, status) == 0x04);

// Source: Linux, rndis_reset_complete.
struct ResetComplete {
  Status status;              // 0x00
  uint32_t addressing_reset;  // 0x04  not zero: filter and multicast list are to be set again
};
static_assert(sizeof(ResetComplete) == 8);
static_assert(offsetof(ResetComplete, status) == 0x00 && offsetof(ResetComplete, addressing_reset) == 0x04);

// Source: Linux, rndis_indicate_status.
struct IndicateStatus {
  Status status;           // 0x00
  uint32_t buffer_length;  // 0x04
  uint32_t buffer_offset;  // 0x08
};
static_assert(sizeof(IndicateStatus) == 12);
static_assert(offsetof(IndicateStatus, status) == 0x00 && offsetof(IndicateStatus, buffer_length) == 0x04 &&
              offsetof(IndicateStatus, buffer_offset) == 0x08);

// The body of kPacket: one frame. What is said beside it lies at per_packet_info_offset.
// Source: Linux, rndis_packet.
struct Packet {
  uint32_t data_offset;             // 0x00
  uint32_t data_length;             // 0x04
  uint32_t oob_data_offset;         // 0x08
  uint32_t oob_data_length;         // 0x0C
  uint32_t oob_data_elements;       // 0x10
  uint32_t per_packet_info_offset;  // 0x14  0: none
  uint32_t per_packet_info_length;  // 0x18
  uint32_t vc_handle;               // 0x1C
  uint32_t reserved;                // 0x20
};
static_assert(sizeof(Packet) == 36);
static_assert(offsetof(Packet, data_offset) == 0x00 && offsetof(Packet, data_length) == 0x04 &&
              offsetof(Packet, oob_data_offset) == 0x08 && offsetof(Packet, oob_data_length) == 0x0C &&
              offsetof(Packet, oob_data_elements) == 0x10 && offsetof(Packet, per_packet_info_offset) == 0x14 &&
              offsetof(Packet, per_packet_info_length) == 0x18 && offsetof(Packet, vc_handle) == 0x1C &&
              offsetof(Packet, reserved) == 0x20);

enum class InfoType : uint32_t {
  kChecksum = 0,
  kLargeSend = 2,
  kVlan = 6,
  kHashValue = 8,
  kHashInfo = 9,
  kPacketId = 0x80000001,  // of the two ends' own
};

// Source: Linux, rndis_per_packet_info.
struct PerPacketInfo {
  uint32_t size;    // 0x00  with the value
  InfoType type;    // 0x04  the highest bit: of the two ends' own
  uint32_t offset;  // 0x08  of the value, from this structure
};
static_assert(sizeof(PerPacketInfo) == 12);
static_assert(offsetof(PerPacketInfo, size) == 0x00 && offsetof(PerPacketInfo, type) == 0x04 &&
              offsetof(PerPacketInfo, offset) == 0x08);

// InfoType::kChecksum, towards the host.
inline constexpr uint32_t kChecksumIpv4 = 1 << 0;
inline constexpr uint32_t kChecksumIpv6 = 1 << 1;
inline constexpr uint32_t kChecksumTcp = 1 << 2;
inline constexpr uint32_t kChecksumUdp = 1 << 3;
inline constexpr uint32_t kChecksumIpHeader = 1 << 4;
// Bits 16 to 25: where the TCP header begins.

// InfoType::kChecksum, towards the guest.
inline constexpr uint32_t kChecksumTcpSucceeded = 1 << 3;
inline constexpr uint32_t kChecksumUdpSucceeded = 1 << 4;
inline constexpr uint32_t kChecksumIpSucceeded = 1 << 5;

// InfoType::kLargeSend: bits 0 to 19 are the largest payload of a segment, 20 to 29 where the TCP header begins.
inline constexpr uint32_t kLargeSendVersion2 = 1u << 30;
inline constexpr uint32_t kLargeSendIpv6 = 1u << 31;

// InfoType::kPacketId: of a TCP segment that was coalesced, and that comes in parts, each a packet of its own with up to a receive section's
// bytes; all of them in one transfer. Only the first has the frame's headers, and what is said of it.
// Source: Linux, rndis_pktinfo_id.
struct PacketId {
  uint8_t version;  // 0x00  1
  uint8_t flags;    // 0x01
  uint16_t id;      // 0x02
};
static_assert(sizeof(PacketId) == 4);
static_assert(offsetof(PacketId, version) == 0x00 && offsetof(PacketId, flags) == 0x01 &&
              offsetof(PacketId, id) == 0x02);
inline constexpr uint8_t kPacketIdVersion = 1;
inline constexpr uint8_t kPacketIsPart = 1 << 0;
inline constexpr uint8_t kPacketIsFirstPart = 1 << 1;
inline constexpr uint8_t kPacketIsLastPart = 1 << 2;

// InfoType::kVlan: bits 0 to 2 priority, 3 canonical format, 4 to 15 VLAN id.

// Source: Linux, ndis_object_header.
struct ObjectHeader {
  uint8_t type;      // 0x00
  uint8_t revision;  // 0x01
  uint16_t size;     // 0x02
};
static_assert(sizeof(ObjectHeader) == 4);
static_assert(offsetof(ObjectHeader, type) == 0x00 && offsetof(ObjectHeader, revision) == 0x01 &&
              offsetof(ObjectHeader, size) == 0x02);
inline constexpr uint8_t kObjectDefault = 0x80;
inline constexpr uint8_t kObjectRssCapabilities = 0x88;
inline constexpr uint8_t kObjectRssParameters = 0x89;
inline constexpr uint8_t kObjectOffload = 0xA7;

// NDIS_LINK_STATE.
// Source: OpenVMM, LinkState.
struct LinkState {
  ObjectHeader header;           // 0x00
  uint32_t media_connect_state;  // 0x04  1: connected, 2: disconnected
  uint32_t media_duplex_state;   // 0x08  2: full
  uint32_t padding;              // 0x0C
  uint64_t transmit_bits;        // 0x10  a second
  uint64_t receive_bits;         // 0x18
  uint32_t pause_functions;      // 0x20
  uint32_t auto_negotiation;     // 0x24
};
static_assert(sizeof(LinkState) == 40);
static_assert(offsetof(LinkState, header) == 0x00 && offsetof(LinkState, media_connect_state) == 0x04 &&
              offsetof(LinkState, media_duplex_state) == 0x08 && offsetof(LinkState, padding) == 0x0C &&
              offsetof(LinkState, transmit_bits) == 0x10 && offsetof(LinkState, receive_bits) == 0x18 &&
              offsetof(LinkState, pause_functions) == 0x20 && offsetof(LinkState, auto_negotiation) == 0x24);

// NDIS_RECEIVE_SCALE_CAPABILITIES, revision 2.
// Source: Linux, ndis_recv_scale_cap.
struct RssCapabilities {
  ObjectHeader header;          // 0x00
  uint32_t flags;               // 0x04
  uint32_t interrupt_messages;  // 0x08
  uint32_t receive_queues;      // 0x0C
  uint16_t table_entries;       // 0x10
  uint16_t padding;             // 0x12
};
static_assert(sizeof(RssCapabilities) == 20);
static_assert(offsetof(RssCapabilities, header) == 0x00 && offsetof(RssCapabilities, flags) == 0x04 &&
              offsetof(RssCapabilities, interrupt_messages) == 0x08 &&
              offsetof(RssCapabilities, receive_queues) == 0x0C && offsetof(RssCapabilities, table_entries) == 0x10 &&
              offsetof(RssCapabilities, padding) == 0x12);
inline constexpr uint16_t kRssCapabilitiesBytes2 = offsetof(RssCapabilities, padding);
inline constexpr uint32_t kRssCapToeplitz = 0x00000001;  // the hash functions share the word
inline constexpr uint32_t kRssCapTcpIpv4 = 0x00000100;
inline constexpr uint32_t kRssCapTcpIpv6 = 0x00000200;
inline constexpr uint32_t kRssCapTcpIpv6Ex = 0x00000400;
inline constexpr uint32_t kRssCapUdpIpv4 = 0x00000800;
inline constexpr uint32_t kRssCapUdpIpv6 = 0x00001000;

// NDIS_RECEIVE_SCALE_PARAMETERS, revision 2. Table and key lie behind it, at offsets from its beginning.
// Source: Linux, ndis_recv_scale_param.
struct RssParameters {
  ObjectHeader header;    // 0x00
  uint16_t flags;         // 0x04
  uint16_t base_cpu;      // 0x06
  uint32_t hash_info;     // 0x08
  uint16_t table_bytes;   // 0x0C
  uint16_t padding0;      // 0x0E
  uint32_t table_offset;  // 0x10
  uint16_t key_bytes;     // 0x14
  uint16_t padding1;      // 0x16
  uint32_t key_offset;    // 0x18
  uint32_t masks_offset;  // 0x1C
  uint32_t masks;         // 0x20
  uint32_t mask_bytes;    // 0x24
};
static_assert(sizeof(RssParameters) == 40);
static_assert(offsetof(RssParameters, header) == 0x00 && offsetof(RssParameters, flags) == 0x04 &&
              offsetof(RssParameters, base_cpu) == 0x06 && offsetof(RssParameters, hash_info) == 0x08 &&
              offsetof(RssParameters, table_bytes) == 0x0C && offsetof(RssParameters, padding0) == 0x0E &&
              offsetof(RssParameters, table_offset) == 0x10 && offsetof(RssParameters, key_bytes) == 0x14 &&
              offsetof(RssParameters, padding1) == 0x16 && offsetof(RssParameters, key_offset) == 0x18 &&
              offsetof(RssParameters, masks_offset) == 0x1C && offsetof(RssParameters, masks) == 0x20 &&
              offsetof(RssParameters, mask_bytes) == 0x24);
inline constexpr uint16_t kRssHashInfoUnchanged = 0x0002;
inline constexpr uint16_t kRssTableUnchanged = 0x0004;
inline constexpr uint16_t kRssKeyUnchanged = 0x0008;
inline constexpr uint16_t kRssDisable = 0x0010;
inline constexpr uint32_t kHashFunctionMask = 0xFF;
inline constexpr uint32_t kHashToeplitz = 0x00000001;
inline constexpr uint32_t kHashIpv4 = 0x00000100;
inline constexpr uint32_t kHashTcpIpv4 = 0x00000200;
inline constexpr uint32_t kHashIpv6 = 0x00000400;
inline constexpr uint32_t kHashIpv6Ex = 0x00000800;
inline constexpr uint32_t kHashTcpIpv6 = 0x00001000;
inline constexpr uint32_t kHashTcpIpv6Ex = 0x00002000;
inline constexpr uint32_t kHashUdpIpv4 = 0x00004000;
inline constexpr uint32_t kHashUdpIpv6 = 0x00008000;
inline constexpr uint32_t kRssTableEntries = 128;
inline constexpr uint32_t kRssKeyBytes = 40;

// NDIS_OFFLOAD: of revision 1 the first 112 bytes, of 2 the first 144, of 3 all.
// Source: OpenVMM, NdisOffload.
struct Offload {
  ObjectHeader header;        // 0x00
  uint32_t ipv4_tx_encap;     // 0x04
  uint32_t ipv4_tx_checksum;  // 0x08
  uint32_t ipv4_rx_encap;     // 0x0C
  uint32_t ipv4_rx_checksum;  // 0x10
  uint32_t ipv6_tx_encap;     // 0x14
  uint32_t ipv6_tx_checksum;  // 0x18
  uint32_t ipv6_rx_encap;     // 0x1C
  uint32_t ipv6_rx_checksum;  // 0x20
  uint32_t lso_v1[4];         // 0x24
  uint32_t ipsec_v1[7];       // 0x34
  uint32_t lso_ipv4_encap;    // 0x50
  uint32_t lso_ipv4_max;      // 0x54  bytes of TCP payload
  uint32_t lso_ipv4_min;      // 0x58  segments
  uint32_t lso_ipv6_encap;    // 0x5C
  uint32_t lso_ipv6_max;      // 0x60
  uint32_t lso_ipv6_min;      // 0x64
  uint32_t lso_ipv6_options;  // 0x68
  uint32_t flags;             // 0x6C
  uint32_t ipsec_v2[8];       // 0x70
  uint32_t rsc;               // 0x90  a byte each for IPv4 and IPv6
  uint32_t encapsulated[2];   // 0x94
};
static_assert(sizeof(Offload) == 156);
static_assert(offsetof(Offload, header) == 0x00 && offsetof(Offload, ipv4_tx_encap) == 0x04 &&
              offsetof(Offload, ipv4_tx_checksum) == 0x08 && offsetof(Offload, ipv4_rx_encap) == 0x0C &&
              offsetof(Offload, ipv4_rx_checksum) == 0x10 && offsetof(Offload, ipv6_tx_encap) == 0x14 &&
              offsetof(Offload, ipv6_tx_checksum) == 0x18 && offsetof(Offload, ipv6_rx_encap) == 0x1C &&
              offsetof(Offload, ipv6_rx_checksum) == 0x20 && offsetof(Offload, lso_v1) == 0x24 &&
              offsetof(Offload, ipsec_v1) == 0x34 && offsetof(Offload, lso_ipv4_encap) == 0x50 &&
              offsetof(Offload, lso_ipv4_max) == 0x54 && offsetof(Offload, lso_ipv4_min) == 0x58 &&
              offsetof(Offload, lso_ipv6_encap) == 0x5C && offsetof(Offload, lso_ipv6_max) == 0x60 &&
              offsetof(Offload, lso_ipv6_min) == 0x64 && offsetof(Offload, lso_ipv6_options) == 0x68 &&
              offsetof(Offload, flags) == 0x6C && offsetof(Offload, ipsec_v2) == 0x70 &&
              offsetof(Offload, rsc) == 0x90 && offsetof(Offload, encapsulated) == 0x94);
inline constexpr uint16_t kOffloadBytes1 = 112;
inline constexpr uint16_t kOffloadBytes2 = 144;
inline constexpr uint16_t kOffloadBytes3 = sizeof(Offload);
inline constexpr uint32_t kEncap8023 = 2;
// Of IPv4's checksum words; those of IPv6 have extension headers in place of IP options, and no IP checksum.
inline constexpr uint32_t kOffloadIpOptions = 0x001;
inline constexpr uint32_t kOffloadTcpOptions = 0x004;
inline constexpr uint32_t kOffloadTcp = 0x010;
inline constexpr uint32_t kOffloadUdp = 0x040;
inline constexpr uint32_t kOffloadIpHeader = 0x100;
// Offload::lso_ipv6_options
inline constexpr uint32_t kLsoIpv6Extensions = 0x001;
inline constexpr uint32_t kLsoTcpOptions = 0x004;
// Offload::rsc
inline constexpr uint32_t kRscIpv4 = 1 << 0;
inline constexpr uint32_t kRscIpv6 = 1 << 8;

// NDIS_OFFLOAD_PARAMETERS: of revision 1 the first 20 bytes.
// Source: Linux, ndis_offload_params.
struct OffloadParameters {
  ObjectHeader header;          // 0x00
  uint8_t ipv4_checksum;        // 0x04
  uint8_t tcp_ipv4_checksum;    // 0x05
  uint8_t udp_ipv4_checksum;    // 0x06
  uint8_t tcp_ipv6_checksum;    // 0x07
  uint8_t udp_ipv6_checksum;    // 0x08
  uint8_t lso_v1;               // 0x09
  uint8_t ipsec_v1;             // 0x0A
  uint8_t lso_v2_ipv4;          // 0x0B
  uint8_t lso_v2_ipv6;          // 0x0C
  uint8_t tcp_connection_ipv4;  // 0x0D
  uint8_t tcp_connection_ipv6;  // 0x0E
  uint8_t padding;              // 0x0F
  uint32_t flags;               // 0x10
  uint8_t ipsec_v2;             // 0x14
  uint8_t ipsec_v2_ipv4;        // 0x15
  uint8_t rsc_ipv4;             // 0x16
  uint8_t rsc_ipv6;             // 0x17
  uint8_t encapsulated;         // 0x18
  uint8_t encapsulation;        // 0x19
  uint16_t padding2;            // 0x1A
};
static_assert(sizeof(OffloadParameters) == 28);
static_assert(offsetof(OffloadParameters, header) == 0x00 && offsetof(OffloadParameters, ipv4_checksum) == 0x04 &&
              offsetof(OffloadParameters, tcp_ipv4_checksum) == 0x05 &&
              offsetof(OffloadParameters, udp_ipv4_checksum) == 0x06 &&
              offsetof(OffloadParameters, tcp_ipv6_checksum) == 0x07 &&
              offsetof(OffloadParameters, udp_ipv6_checksum) == 0x08 && offsetof(OffloadParameters, lso_v1) == 0x09 &&
              offsetof(OffloadParameters, ipsec_v1) == 0x0A && offsetof(OffloadParameters, lso_v2_ipv4) == 0x0B &&
              offsetof(OffloadParameters, lso_v2_ipv6) == 0x0C &&
              offsetof(OffloadParameters, tcp_connection_ipv4) == 0x0D &&
              offsetof(OffloadParameters, tcp_connection_ipv6) == 0x0E &&
              offsetof(OffloadParameters, padding) == 0x0F && offsetof(OffloadParameters, flags) == 0x10 &&
              offsetof(OffloadParameters, ipsec_v2) == 0x14 && offsetof(OffloadParameters, ipsec_v2_ipv4) == 0x15 &&
              offsetof(OffloadParameters, rsc_ipv4) == 0x16 && offsetof(OffloadParameters, rsc_ipv6) == 0x17 &&
              offsetof(OffloadParameters, encapsulated) == 0x18 && offsetof(OffloadParameters, encapsulation) == 0x19 &&
              offsetof(OffloadParameters, padding2) == 0x1A);
// Checksums: 1 none, 2 the guest's frames, 3 those it gets, 4 both. Large sends and RSC: 1 off, 2 on. 0: as it was.
inline constexpr uint8_t kOffloadUnchanged = 0;
inline constexpr uint8_t kOffloadChecksumOff = 1;
inline constexpr uint8_t kOffloadOn = 2;  // of large sends and RSC
inline constexpr uint8_t kOffloadChecksumTransmit = 2;
inline constexpr uint8_t kOffloadChecksumReceive = 3;
inline constexpr uint8_t kOffloadChecksumBoth = 4;

}  // namespace hvsdk::hvdef::rndis

#endif  // HVSDK_HVDEF_RNDIS_H_
