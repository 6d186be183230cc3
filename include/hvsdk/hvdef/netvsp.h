// SPDX-License-Identifier: Apache-2.0
// NVSP: what a guest's network driver and the network service provider say to each other in the packets of their channels.
// All little-endian.
//
// Channels of class_id::kNetwork (guid.h) speak it. A packet's payload is a message type and a body; requests are in-band and ask
// for a completion, whose payload is a message, too. Frames, and the control messages of a network adapter, are RNDIS messages
// (rndis.h), which do not lie in the ring:
//
//   guest to host   kSendRndisPacket in band, the message in a section of the send buffer, or in the pages of a GPA-direct packet, or
//                   first in the one and then in the other
//   host to guest   kSendRndisPacket with transfer pages, each range of which is a message in the receive buffer. They are the guest's
//                   until it completes the packet
//
// Sources: Linux drivers/net/hyperv/hyperv_net.h and netvsc.c (struct nvsp_message), FreeBSD sys/dev/hyperv/netvsc/if_hnreg.h, OpenVMM
// vm/devices/net/netvsp/src/protocol.rs.

#ifndef HVSDK_HVDEF_NETVSP_H_
#define HVSDK_HVDEF_NETVSP_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace hvsdk::hvdef::netvsp {

// Major version in the high half, minor in the low one, but for the first.
enum class Version : uint32_t {
  k1 = 0x00000002,   // Windows Server 2008
  k2 = 0x00030002,   // Windows Server 2008 R2: the MTU and VLANs
  k4 = 0x00040000,   // Windows Server 2012
  k5 = 0x00050000,   // Windows Server 2012 R2: subchannels
  k6 = 0x00060000,   // Windows Server 2016
  k61 = 0x00060001,  // Windows Server 2019: longer messages
};

enum class MessageType : uint32_t {
  kNone = 0,
  kInit = 1,
  kInitComplete = 2,
  kSendNdisVersion = 100,
  kSendReceiveBuffer = 101,
  kSendReceiveBufferComplete = 102,
  kRevokeReceiveBuffer = 103,
  kSendSendBuffer = 104,
  kSendSendBufferComplete = 105,
  kRevokeSendBuffer = 106,
  kSendRndisPacket = 107,
  kSendRndisPacketComplete = 108,
  // Since version 2; others up to 127 were for offloads that are no more.
  kSendNdisConfig = 125,
  // Since version 4.
  kSendVfAssociation = 128,
  kSwitchDataPath = 129,
  // Since version 5.
  kOidQueryEx = 131,
  kOidQueryExComplete = 132,
  kSubchannel = 133,  // request and completion
  kSendIndirectionTable = 134,
  // Since version 6.1.
  kPdApi = 135,  // PacketDirect; request and completion
};

enum class Status : uint32_t {
  kNone = 0,
  kSuccess = 1,
  kFailure = 2,
  kProtocolTooNew = 3,
  kProtocolTooOld = 4,
  kInvalidRndisPacket = 5,
  kBusy = 6,
  kProtocolUnsupported = 7,
};

// The body of kInit: twice the version that the guest wants, once lowest and highest.
// Source: Linux, nvsp_message_init.
struct Init {
  Version min_version;  // 0x00
  Version max_version;  // 0x04
};
static_assert(sizeof(Init) == 8);
static_assert(offsetof(Init, min_version) == 0x00 && offsetof(Init, max_version) == 0x04);

// Source: Linux, nvsp_message_init_complete.
struct InitComplete {
  Version version;         // 0x00
  uint32_t max_mdl_chain;  // 0x04  ranges of a GPA-direct packet
  Status status;           // 0x08
};
static_assert(sizeof(InitComplete) == 12);
static_assert(offsetof(InitComplete, version) == 0x00 && offsetof(InitComplete, max_mdl_chain) == 0x04 &&
              offsetof(InitComplete, status) == 0x08);

// Source: Linux, nvsp_1_message_send_ndis_version.
struct SendNdisVersion {
  uint32_t major;  // 0x00
  uint32_t minor;  // 0x04
};
static_assert(sizeof(SendNdisVersion) == 8);
static_assert(offsetof(SendNdisVersion, major) == 0x00 && offsetof(SendNdisVersion, minor) == 0x04);

// The body of kSendReceiveBuffer and kSendSendBuffer.
// Source: Linux, nvsp_1_message_send_receive_buffer.
struct SendBuffer {
  uint32_t gpadl_id;  // 0x00
  uint16_t id;        // 0x04  the transfer page set of a receive buffer
  uint16_t reserved;  // 0x06
};
static_assert(sizeof(SendBuffer) == 8);
static_assert(offsetof(SendBuffer, gpadl_id) == 0x00 && offsetof(SendBuffer, id) == 0x04 &&
              offsetof(SendBuffer, reserved) == 0x06);
inline constexpr uint16_t kReceiveBufferId = 0xCAFE;  // what Linux and FreeBSD call theirs
inline constexpr uint16_t kSendBufferId = 0;

// Source: Linux, nvsp_1_receive_buffer_section.
struct ReceiveBufferSection {
  uint32_t offset;               // 0x00
  uint32_t suballocation_bytes;  // 0x04
  uint32_t suballocations;       // 0x08
  uint32_t end_offset;           // 0x0C
};
static_assert(sizeof(ReceiveBufferSection) == 16);
static_assert(offsetof(ReceiveBufferSection, offset) == 0x00 &&
              offsetof(ReceiveBufferSection, suballocation_bytes) == 0x04 &&
              offsetof(ReceiveBufferSection, suballocations) == 0x08 &&
              offsetof(ReceiveBufferSection, end_offset) == 0x0C);

// Guests take exactly one section (Linux netvsc_init_buf).
// Source: Linux, nvsp_1_message_send_receive_buffer_complete.
struct SendReceiveBufferComplete {
  Status status;                 // 0x00
  uint32_t sections;             // 0x04
  ReceiveBufferSection section;  // 0x08
};
static_assert(sizeof(SendReceiveBufferComplete) == 24);
static_assert(offsetof(SendReceiveBufferComplete, status) == 0x00 &&
              offsetof(SendReceiveBufferComplete, sections) == 0x04 &&
              offsetof(SendReceiveBufferComplete, section) == 0x08);

// Source: Linux, nvsp_1_message_send_send_buffer_complete.
struct SendSendBufferComplete {
  Status status;           // 0x00
  uint32_t section_bytes;  // 0x04
};
static_assert(sizeof(SendSendBufferComplete) == 8);
static_assert(offsetof(SendSendBufferComplete, status) == 0x00 &&
              offsetof(SendSendBufferComplete, section_bytes) == 0x04);

// The body of kRevokeReceiveBuffer and kRevokeSendBuffer.
// Source: Linux, nvsp_1_message_revoke_receive_buffer.
struct RevokeBuffer {
  uint16_t id;        // 0x00
  uint16_t reserved;  // 0x02
};
static_assert(sizeof(RevokeBuffer) == 4);
static_assert(offsetof(RevokeBuffer, id) == 0x00 && offsetof(RevokeBuffer, reserved) == 0x02);

enum class RndisChannel : uint32_t { kData = 0, kControl = 1 };
inline constexpr uint32_t kNoSection = 0xFFFFFFFF;

// Source: Linux, nvsp_1_message_send_rndis_packet.
struct SendRndisPacket {
  RndisChannel channel;        // 0x00
  uint32_t send_section;       // 0x04  index, or kNoSection
  uint32_t send_section_size;  // 0x08  bytes of the message in it
};
static_assert(sizeof(SendRndisPacket) == 12);
static_assert(offsetof(SendRndisPacket, channel) == 0x00 && offsetof(SendRndisPacket, send_section) == 0x04 &&
              offsetof(SendRndisPacket, send_section_size) == 0x08);

// Source: Linux, nvsp_1_message_send_rndis_packet_complete.
struct SendRndisPacketComplete {
  Status status;  // 0x00
};
static_assert(sizeof(SendRndisPacketComplete) == 4);
static_assert(offsetof(SendRndisPacketComplete, status) == 0x00);

// Source: Linux, nvsp_2_send_ndis_config.
struct SendNdisConfig {
  uint32_t max_frame_bytes;        // 0x00  the MTU and an Ethernet header
  uint32_t reserved;               // 0x04
  uint32_t capabilities;           // 0x08
  uint32_t reserved_capabilities;  // 0x0C
};
static_assert(sizeof(SendNdisConfig) == 16);
static_assert(offsetof(SendNdisConfig, max_frame_bytes) == 0x00 && offsetof(SendNdisConfig, reserved) == 0x04 &&
              offsetof(SendNdisConfig, capabilities) == 0x08 &&
              offsetof(SendNdisConfig, reserved_capabilities) == 0x0C);
inline constexpr uint32_t kCapabilityVmq = 1 << 0;
inline constexpr uint32_t kCapabilityChimney = 1 << 1;
inline constexpr uint32_t kCapabilitySriov = 1 << 2;
inline constexpr uint32_t kCapabilityVlan = 1 << 3;
inline constexpr uint32_t kCapabilityCorrelationId = 1 << 4;
inline constexpr uint32_t kCapabilityTeaming = 1 << 5;
inline constexpr uint32_t kCapabilityVirtualSubnetId = 1 << 6;
inline constexpr uint32_t kCapabilityRscOverVmbus = 1 << 7;

// Source: Linux, nvsp_4_send_vf_association.
struct SendVfAssociation {
  uint32_t allocated;      // 0x00
  uint32_t serial_number;  // 0x04
};
static_assert(sizeof(SendVfAssociation) == 8);
static_assert(offsetof(SendVfAssociation, allocated) == 0x00 && offsetof(SendVfAssociation, serial_number) == 0x04);

// Source: Linux, nvsp_4_sw_datapath.
struct SwitchDataPath {
  uint32_t data_path;  // 0x00
};
static_assert(sizeof(SwitchDataPath) == 4);
static_assert(offsetof(SwitchDataPath, data_path) == 0x00);
inline constexpr uint32_t kDataPathSynthetic = 0;
inline constexpr uint32_t kDataPathVf = 1;

// NTSTATUS.
// Source: OpenVMM, Message5OidQueryExComplete.
struct OidQueryExComplete {
  uint32_t status;  // 0x00
  uint32_t bytes;   // 0x04
};
static_assert(sizeof(OidQueryExComplete) == 8);
static_assert(offsetof(OidQueryExComplete, status) == 0x00 && offsetof(OidQueryExComplete, bytes) == 0x04);

inline constexpr uint32_t kSubchannelAllocate = 1;
// Source: Linux, nvsp_5_subchannel_request.
struct SubchannelRequest {
  uint32_t operation;    // 0x00
  uint32_t subchannels;  // 0x04
};
static_assert(sizeof(SubchannelRequest) == 8);
static_assert(offsetof(SubchannelRequest, operation) == 0x00 && offsetof(SubchannelRequest, subchannels) == 0x04);

// Source: Linux, nvsp_5_subchannel_complete.
struct SubchannelComplete {
  Status status;         // 0x00
  uint32_t subchannels;  // 0x04  how many there will be
};
static_assert(sizeof(SubchannelComplete) == 8);
static_assert(offsetof(SubchannelComplete, status) == 0x00 && offsetof(SubchannelComplete, subchannels) == 0x04);

// Which channel the guest shall send a flow on, by the low bits of its hash: the host's wish.
// Source: Linux, nvsp_5_send_indirect_table.
struct SendIndirectionTable {
  uint32_t count;   // 0x00
  uint32_t offset;  // 0x04  of the table, from the message's beginning
};
static_assert(sizeof(SendIndirectionTable) == 8);
static_assert(offsetof(SendIndirectionTable, count) == 0x00 && offsetof(SendIndirectionTable, offset) == 0x04);
inline constexpr uint32_t kSendTableEntries = 16;  // guests know no other number

// The beginning of kPdApi's bodies; NTSTATUS in a completion.
// Source: OpenVMM, NVSP_6_MESSAGE_PD_API_COMPLETE.
struct PdApi {
  uint32_t operation;  // 0x00
  uint32_t status;     // 0x04
};
static_assert(sizeof(PdApi) == 8);
static_assert(offsetof(PdApi, operation) == 0x00 && offsetof(PdApi, status) == 0x04);

// A whole message: struct nvsp_message. A guest sends as much of it as its version has, or all.
// Source: Linux, nvsp_message.
struct Message {
  MessageType type;  // 0x00
  union {            // 0x04
    Init init;
    InitComplete init_complete;
    SendNdisVersion ndis_version;
    SendBuffer send_buffer;
    SendReceiveBufferComplete send_receive_buffer_complete;
    SendSendBufferComplete send_send_buffer_complete;
    RevokeBuffer revoke_buffer;
    SendRndisPacket rndis_packet;
    SendRndisPacketComplete rndis_packet_complete;
    SendNdisConfig ndis_config;
    SendVfAssociation vf_association;
    SwitchDataPath data_path;
    OidQueryExComplete oid_query_ex_complete;
    SubchannelRequest subchannel_request;
    SubchannelComplete subchannel_complete;
    SendIndirectionTable indirection_table;
    PdApi pd_api;
    uint8_t bytes[36];
  };
};
static_assert(sizeof(Message) == 40);
static_assert(offsetof(Message, type) == 0x00 && offsetof(Message, bytes) == 0x04 && offsetof(Message, init) == 0x04 &&
              offsetof(Message, send_receive_buffer_complete) == 0x04 && offsetof(Message, rndis_packet) == 0x04);
static_assert(offsetof(Message, init_complete) == 0x04 && offsetof(Message, ndis_version) == 0x04 &&
              offsetof(Message, send_buffer) == 0x04 && offsetof(Message, send_send_buffer_complete) == 0x04 &&
              offsetof(Message, revoke_buffer) == 0x04 && offsetof(Message, rndis_packet_complete) == 0x04 &&
              offsetof(Message, ndis_config) == 0x04 && offsetof(Message, vf_association) == 0x04 &&
              offsetof(Message, data_path) == 0x04 && offsetof(Message, oid_query_ex_complete) == 0x04 &&
              offsetof(Message, subchannel_request) == 0x04 && offsetof(Message, subchannel_complete) == 0x04 &&
              offsetof(Message, indirection_table) == 0x04 && offsetof(Message, pd_api) == 0x04);
static_assert(std::is_trivially_copyable_v<Message> && alignof(Message) == 4);
inline constexpr uint32_t kMessageBytesV1 = 28;  // up to version 6
inline constexpr uint32_t kMessageBytesV61 = sizeof(Message);

// kSendIndirectionTable with its table. Hosts up to version 6 said a wrong offset, so Linux takes this one if a message of these
// versions is long enough for it (netvsc_send_table).
// Source: OpenVMM, NVSP_SEND_INDIRECTION_TABLE_MESSAGE.
struct IndirectionTableMessage {
  Message message;                    // 0x00
  uint32_t table[kSendTableEntries];  // 0x28
};
static_assert(sizeof(IndirectionTableMessage) == 104);
static_assert(offsetof(IndirectionTableMessage, message) == 0x00 && offsetof(IndirectionTableMessage, table) == 0x28);

// The ranges of one transfer-page packet that a guest takes (Linux NETVSC_MAX_XFER_PAGE_RANGES).
inline constexpr uint32_t kMaxRanges = 375;

}  // namespace hvsdk::hvdef::netvsp

#endif  // HVSDK_HVDEF_NETVSP_H_
