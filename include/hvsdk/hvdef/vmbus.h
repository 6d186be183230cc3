// SPDX-License-Identifier: Apache-2.0
// VMBus' channel messages: what root and child say to each other in SynIC messages of type 1, besides the rings.
//
// Each message starts with ChannelMessageHeader and is at most 240 bytes. Child to root it is posted to connection 1,
// or 4 from version 5.0 on; root to child it arrives in the slot of SINT 2. GPADL messages are followed by an array of
// 64-bit words that starts at an odd multiple of four: read it byte-wise.
//
// Freestanding. All numbers are little-endian; every structure is naturally aligned and has no padding.
//
// Source: VMBus is not part of the TLFS. Layouts as in Linux, include/linux/hyperv.h and drivers/hv, and OpenVMM,
// vmbus_core/src/protocol.rs (types 18 to 20, 23, 25 and 26).

#ifndef HVSDK_HVDEF_VMBUS_H_
#define HVSDK_HVDEF_VMBUS_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "hvsdk/hvdef/guid.h"

namespace hvsdk::hvdef::vmbus {

inline constexpr uint32_t kSynicMessageType = 1;  // of every channel message, in both directions
inline constexpr uint8_t kMessageSint = 2;        // VMBUS_MESSAGE_SINT
inline constexpr size_t kMaxMessageSize = 240;    // HV_MESSAGE_PAYLOAD_BYTE_COUNT

// Connection ids that a guest knows beforehand.
inline constexpr uint32_t kMessageConnectionId = 1;   // VMBUS_MESSAGE_CONNECTION_ID
inline constexpr uint32_t kEventConnectionId = 2;     // VMBUS_EVENT_CONNECTION_ID: the shared one, before version 1.1
inline constexpr uint32_t kMessageConnectionId4 = 4;  // VMBUS_MESSAGE_CONNECTION_ID_4: from version 5.0 on

// A channel id ("relid") is also the number of its event flag, of which a SINT has 2048; flag 0 means the interrupt
// page.
inline constexpr uint32_t kMaxChannels = 2047;
inline constexpr uint32_t kMaxChannelId = 2047;
inline constexpr uint32_t kInvalidChannelId = 0xFFFFFFFF;

// major << 16 | minor. What a version adds is told by the functions below it.
enum class Version : uint32_t {
  kV0_13 = 0x0000000D,  // "1.0", Windows Server 2008
  kV1_1 = 0x00010001,   // Windows 7
  kV2_4 = 0x00020004,   // Windows 8
  kV3_0 = 0x00030000,   // Windows 8.1
  kV4_0 = 0x00040000,   // Windows 10
  kV4_1 = 0x00040001,   // Windows 10 version 1709
  kV5_0 = 0x00050000,
  kV5_1 = 0x00050001,  // Windows 10 version 1803
  kV5_2 = 0x00050002,  // Windows Server 2019
  kV5_3 = 0x00050003,  // Windows Server 2022
};

// All versions there are up to the newest, ascending.
inline constexpr Version kVersions[] = {Version::kV0_13, Version::kV1_1, Version::kV2_4, Version::kV3_0,
                                        Version::kV4_0,  Version::kV4_1, Version::kV5_0, Version::kV5_1,
                                        Version::kV5_2,  Version::kV5_3};
inline constexpr Version kNewestVersion = Version::kV5_3;

// The offer's connection id is the one to signal, and unless the offer says is_dedicated_interrupt the guest sets the
// channel's bit in the child-to-root half of the interrupt page first (Linux, vmbus_set_event); before, it always sets
// the bit and signals kEventConnectionId.
constexpr bool HasChannelConnections(Version v) { return v >= Version::kV1_1; }
// The root signals the channel's own event flag on the VP asked for when it was opened; before, it sets the channel's
// bit in the root-to-child half of the interrupt page and signals flag 0 on VP 0.
constexpr bool HasChannelInterrupts(Version v) { return v >= Version::kV2_4; }
constexpr bool HasSubchannels(Version v) { return v >= Version::kV2_4; }
// Messages to the guest go to the VP named in InitiateContact.
constexpr bool HasTargetMessageVp(Version v) { return v >= Version::kV3_0; }
// Unload ends a connection, so that another may follow. A guest sends none below (Linux, vmbus_initiate_unload): those
// hosts may not answer.
constexpr bool HasUnload(Version v) { return v >= Version::kV3_0; }
constexpr bool HasTlConnect(Version v) { return v >= Version::kV4_0; }
constexpr bool HasModifyChannel(Version v) { return v >= Version::kV4_1; }
// InitiateContact comes to connection 4 and names a SINT in place of an interrupt page; the response names the
// connection for all later messages.
constexpr bool HasMessageConnectionId(Version v) { return v >= Version::kV5_0; }
constexpr bool HasTargetVtl(Version v) { return v >= Version::kV5_1; }
constexpr bool HasTlConnectSilo(Version v) { return v >= Version::kV5_2; }
constexpr bool HasModifyChannelResponse(Version v) { return v >= Version::kV5_3; }

enum class MessageType : uint32_t {
  kInvalid = 0,
  kOfferChannel = 1,               // CHANNELMSG_OFFERCHANNEL, root to child
  kRescindOffer = 2,               // CHANNELMSG_RESCIND_CHANNELOFFER, root to child
  kRequestOffers = 3,              // CHANNELMSG_REQUESTOFFERS, child to root
  kAllOffersDelivered = 4,         // CHANNELMSG_ALLOFFERS_DELIVERED, root to child
  kOpenChannel = 5,                // CHANNELMSG_OPENCHANNEL, child to root
  kOpenResult = 6,                 // CHANNELMSG_OPENCHANNEL_RESULT, root to child
  kCloseChannel = 7,               // CHANNELMSG_CLOSECHANNEL, child to root
  kGpadlHeader = 8,                // CHANNELMSG_GPADL_HEADER, child to root
  kGpadlBody = 9,                  // CHANNELMSG_GPADL_BODY, child to root
  kGpadlCreated = 10,              // CHANNELMSG_GPADL_CREATED, root to child
  kGpadlTeardown = 11,             // CHANNELMSG_GPADL_TEARDOWN, child to root
  kGpadlTorndown = 12,             // CHANNELMSG_GPADL_TORNDOWN, root to child
  kRelidReleased = 13,             // CHANNELMSG_RELID_RELEASED, child to root
  kInitiateContact = 14,           // CHANNELMSG_INITIATE_CONTACT, child to root
  kVersionResponse = 15,           // CHANNELMSG_VERSION_RESPONSE, root to child
  kUnload = 16,                    // CHANNELMSG_UNLOAD, child to root
  kUnloadResponse = 17,            // CHANNELMSG_UNLOAD_RESPONSE, root to child
  kOpenReservedChannel = 18,       // child to root
  kCloseReservedChannel = 19,      // child to root
  kCloseReservedResponse = 20,     // root to child
  kTlConnectRequest = 21,          // CHANNELMSG_TL_CONNECT_REQUEST, child to root
  kModifyChannel = 22,             // CHANNELMSG_MODIFYCHANNEL, child to root
  kTlConnectResult = 23,           // CHANNELMSG_TL_CONNECT_RESULT, root to child
  kModifyChannelResponse = 24,     // CHANNELMSG_MODIFYCHANNEL_RESPONSE, root to child
  kModifyConnection = 25,          // child to root, version 6.0
  kModifyConnectionResponse = 26,  // root to child, version 6.0
};

// NTSTATUS values that occur in messages; negative means failure.
inline constexpr int32_t kStatusSuccess = 0;
inline constexpr int32_t kStatusUnsuccessful = static_cast<int32_t>(0xC0000001);
inline constexpr int32_t kStatusConnectionRefused = static_cast<int32_t>(0xC0000236);

// struct vmbus_channel_message_header.
struct ChannelMessageHeader {
  uint32_t message_type;  // MessageType; an unknown value survives
  uint32_t padding;
};
static_assert(sizeof(ChannelMessageHeader) == 8);
static_assert(offsetof(ChannelMessageHeader, message_type) == 0 && offsetof(ChannelMessageHeader, padding) == 4);

// A struct vmbus_channel_message_header that is the whole message: RequestOffers, AllOffersDelivered, Unload,
// UnloadResponse.
struct EmptyMessage {
  ChannelMessageHeader header;
};
static_assert(sizeof(EmptyMessage) == 8);
static_assert(offsetof(EmptyMessage, header) == 0);

// Offer flags.
inline constexpr uint16_t kOfferEnumerateDeviceInterface = 0x0001;  // VMBUS_CHANNEL_ENUMERATE_DEVICE_INTERFACE
inline constexpr uint16_t kOfferNamedPipeMode = 0x0010;             // VMBUS_CHANNEL_NAMED_PIPE_MODE
inline constexpr uint16_t kOfferTlnpiProvider = 0x2000;             // VMBUS_CHANNEL_TLNPI_PROVIDER_OFFER (sockets)

// The first four bytes of user_defined of an offer with kOfferNamedPipeMode.
inline constexpr uint32_t kPipeModeByte = 0;
inline constexpr uint32_t kPipeModeMessage = 4;

inline constexpr size_t kUserDefinedSize = 120;  // MAX_USER_DEFINED_BYTES

// The target VP of a channel that wants no interrupts.
inline constexpr uint32_t kNoTargetVp = 0xFFFFFFFF;

// struct vmbus_channel_offer_channel with its struct vmbus_channel_offer.
struct OfferChannel {
  ChannelMessageHeader header;
  Guid class_id;
  Guid instance_id;
  uint32_t reserved[4];
  uint16_t flags;
  uint16_t mmio_megabytes;
  uint8_t user_defined[kUserDefinedSize];
  uint16_t subchannel_index;  // 0: the primary channel
  uint16_t mmio_megabytes_optional;
  uint32_t channel_id;
  uint8_t monitor_id;               // 0xFF where monitor_allocated is 0
  uint8_t monitor_allocated;        // bit 0
  uint16_t is_dedicated_interrupt;  // bit 0: do not set a bit in the interrupt page
  uint32_t connection_id;           // to signal the root, from version 1.1 on
};
static_assert(sizeof(OfferChannel) == 196);
static_assert(offsetof(OfferChannel, header) == 0x00 && offsetof(OfferChannel, class_id) == 0x08 &&
              offsetof(OfferChannel, instance_id) == 0x18 && offsetof(OfferChannel, reserved) == 0x28 &&
              offsetof(OfferChannel, flags) == 0x38 && offsetof(OfferChannel, mmio_megabytes) == 0x3A &&
              offsetof(OfferChannel, user_defined) == 0x3C && offsetof(OfferChannel, subchannel_index) == 0xB4 &&
              offsetof(OfferChannel, mmio_megabytes_optional) == 0xB6 && offsetof(OfferChannel, channel_id) == 0xB8 &&
              offsetof(OfferChannel, monitor_id) == 0xBC && offsetof(OfferChannel, monitor_allocated) == 0xBD &&
              offsetof(OfferChannel, is_dedicated_interrupt) == 0xBE && offsetof(OfferChannel, connection_id) == 0xC0);

// A message that only names a channel: RescindOffer, CloseChannel, RelidReleased, CloseReservedResponse
// (struct vmbus_channel_rescind_offer and others).
struct ChannelMessage {
  ChannelMessageHeader header;
  uint32_t channel_id;
};
static_assert(sizeof(ChannelMessage) == 12);
static_assert(offsetof(ChannelMessage, header) == 0 && offsetof(ChannelMessage, channel_id) == 8);

// struct vmbus_channel_open_channel.
struct OpenChannel {
  ChannelMessageHeader header;
  uint32_t channel_id;
  uint32_t open_id;                 // comes back in OpenResult
  uint32_t ring_gpadl_id;           // both rings: the one towards the root first
  uint32_t target_vp;               // before version 2.4: ignored, VP 0; kNoTargetVp: no interrupts
  uint32_t downstream_page_offset;  // pages from the GPADL's start to the ring towards the child
  uint8_t user_data[kUserDefinedSize];
};
static_assert(sizeof(OpenChannel) == 148);
static_assert(offsetof(OpenChannel, header) == 0 && offsetof(OpenChannel, channel_id) == 8 &&
              offsetof(OpenChannel, open_id) == 12 && offsetof(OpenChannel, ring_gpadl_id) == 16 &&
              offsetof(OpenChannel, target_vp) == 20 && offsetof(OpenChannel, downstream_page_offset) == 24 &&
              offsetof(OpenChannel, user_data) == 28);

// struct vmbus_channel_open_result.
struct OpenResult {
  ChannelMessageHeader header;
  uint32_t channel_id;
  uint32_t open_id;
  int32_t status;
};
static_assert(sizeof(OpenResult) == 20);
static_assert(offsetof(OpenResult, header) == 0 && offsetof(OpenResult, channel_id) == 8 &&
              offsetof(OpenResult, open_id) == 12 && offsetof(OpenResult, status) == 16);

// struct vmbus_channel_gpadl_header. Followed by the first words of a range buffer of range_buffer_bytes: range_count
// times a GpaRange (vmbus_ring.h) and an 8-byte page number for each page that it touches, as in a packet.
struct GpadlHeader {
  ChannelMessageHeader header;
  uint32_t channel_id;
  uint32_t gpadl_id;
  uint16_t range_buffer_bytes;
  uint16_t range_count;
};
static_assert(sizeof(GpadlHeader) == 20);
static_assert(offsetof(GpadlHeader, header) == 0 && offsetof(GpadlHeader, channel_id) == 8 &&
              offsetof(GpadlHeader, gpadl_id) == 12 && offsetof(GpadlHeader, range_buffer_bytes) == 16 &&
              offsetof(GpadlHeader, range_count) == 18);
inline constexpr size_t kMaxGpadlHeaderWords = (kMaxMessageSize - sizeof(GpadlHeader)) / 8;

// struct vmbus_channel_gpadl_body. Followed by the next words of the range buffer.
struct GpadlBody {
  ChannelMessageHeader header;
  uint32_t message_number;  // guests fill it as they like
  uint32_t gpadl_id;
};
static_assert(sizeof(GpadlBody) == 16);
static_assert(offsetof(GpadlBody, header) == 0 && offsetof(GpadlBody, message_number) == 8 &&
              offsetof(GpadlBody, gpadl_id) == 12);
inline constexpr size_t kMaxGpadlBodyWords = (kMaxMessageSize - sizeof(GpadlBody)) / 8;

// struct vmbus_channel_gpadl_created.
struct GpadlCreated {
  ChannelMessageHeader header;
  uint32_t channel_id;
  uint32_t gpadl_id;
  int32_t status;
};
static_assert(sizeof(GpadlCreated) == 20);
static_assert(offsetof(GpadlCreated, header) == 0 && offsetof(GpadlCreated, channel_id) == 8 &&
              offsetof(GpadlCreated, gpadl_id) == 12 && offsetof(GpadlCreated, status) == 16);

// struct vmbus_channel_gpadl_teardown.
struct GpadlTeardown {
  ChannelMessageHeader header;
  uint32_t channel_id;
  uint32_t gpadl_id;
};
static_assert(sizeof(GpadlTeardown) == 16);
static_assert(offsetof(GpadlTeardown, header) == 0 && offsetof(GpadlTeardown, channel_id) == 8 &&
              offsetof(GpadlTeardown, gpadl_id) == 12);

// struct vmbus_channel_gpadl_torndown.
struct GpadlTorndown {
  ChannelMessageHeader header;
  uint32_t gpadl_id;
};
static_assert(sizeof(GpadlTorndown) == 12);
static_assert(offsetof(GpadlTorndown, header) == 0 && offsetof(GpadlTorndown, gpadl_id) == 8);

// struct vmbus_channel_initiate_contact.
struct InitiateContact {
  ChannelMessageHeader header;
  uint32_t version;
  uint32_t target_message_vp;
  // Before version 5.0 the GPA of the interrupt page (root-to-child bits in its first half, child-to-root bits in its
  // second); from 5.0 on bits 0-7 are the SINT for messages and, from 5.1 on, bits 8-15 the VTL.
  uint64_t interrupt_page_or_target;
  uint64_t parent_to_child_monitor_page;  // both monitor pages, or neither
  uint64_t child_to_parent_monitor_page;
};
static_assert(sizeof(InitiateContact) == 40);
static_assert(offsetof(InitiateContact, header) == 0 && offsetof(InitiateContact, version) == 8 &&
              offsetof(InitiateContact, target_message_vp) == 12 &&
              offsetof(InitiateContact, interrupt_page_or_target) == 16 &&
              offsetof(InitiateContact, parent_to_child_monitor_page) == 24 &&
              offsetof(InitiateContact, child_to_parent_monitor_page) == 32);

constexpr uint8_t TargetSint(uint64_t target) { return static_cast<uint8_t>(target); }
constexpr uint8_t TargetVtl(uint64_t target) { return static_cast<uint8_t>(target >> 8); }

inline constexpr uint8_t kConnectionSuccessful = 0;
inline constexpr uint8_t kConnectionFailedLowResources = 1;
inline constexpr uint8_t kConnectionFailedUnknown = 2;

// struct vmbus_channel_version_response.
struct VersionResponse {
  ChannelMessageHeader header;
  uint8_t version_supported;
  uint8_t connection_state;  // kConnectionSuccessful ..., where version_supported is 1
  uint16_t padding;
  uint32_t message_connection_id;  // from version 5.0 on; before, the selected version
};
static_assert(sizeof(VersionResponse) == 16);
static_assert(offsetof(VersionResponse, header) == 0 && offsetof(VersionResponse, version_supported) == 8 &&
              offsetof(VersionResponse, connection_state) == 9 && offsetof(VersionResponse, padding) == 10 &&
              offsetof(VersionResponse, message_connection_id) == 12);

// struct vmbus_channel_modifychannel.
struct ModifyChannel {
  ChannelMessageHeader header;
  uint32_t channel_id;
  uint32_t target_vp;
};
static_assert(sizeof(ModifyChannel) == 16);
static_assert(offsetof(ModifyChannel, header) == 0 && offsetof(ModifyChannel, channel_id) == 8 &&
              offsetof(ModifyChannel, target_vp) == 12);

// struct vmbus_channel_modifychannel_response.
struct ModifyChannelResponse {
  ChannelMessageHeader header;
  uint32_t channel_id;
  int32_t status;
};
static_assert(sizeof(ModifyChannelResponse) == 16);
static_assert(offsetof(ModifyChannelResponse, header) == 0 && offsetof(ModifyChannelResponse, channel_id) == 8 &&
              offsetof(ModifyChannelResponse, status) == 12);

// struct vmbus_channel_tl_connect_request: a guest asks for a socket to the host (Linux:
// net/vmw_vsock/hyperv_transport.c).
struct TlConnectRequest {
  ChannelMessageHeader header;
  Guid endpoint_id;
  Guid service_id;
};
static_assert(sizeof(TlConnectRequest) == 40);
static_assert(offsetof(TlConnectRequest, header) == 0 && offsetof(TlConnectRequest, endpoint_id) == 8 &&
              offsetof(TlConnectRequest, service_id) == 24);

// From version 5.2 on (OpenVMM, TlConnectRequest2); many guests still send the short form.
struct TlConnectRequest2 {
  TlConnectRequest base;
  Guid silo_id;
};
static_assert(sizeof(TlConnectRequest2) == 56);
static_assert(offsetof(TlConnectRequest2, base) == 0 && offsetof(TlConnectRequest2, silo_id) == 40);

// Sent only when the connection failed, from version 4.1 on (OpenVMM, TlConnectResult).
struct TlConnectResult {
  ChannelMessageHeader header;
  Guid endpoint_id;
  Guid service_id;
  int32_t status;
};
static_assert(sizeof(TlConnectResult) == 44);
static_assert(offsetof(TlConnectResult, header) == 0 && offsetof(TlConnectResult, endpoint_id) == 8 &&
              offsetof(TlConnectResult, service_id) == 24 && offsetof(TlConnectResult, status) == 40);

// Opens a channel outside the connection, for a crashed guest (Windows' dump storage; OpenVMM, OpenReservedChannel).
struct OpenReservedChannel {
  ChannelMessageHeader header;
  uint32_t channel_id;
  uint32_t target_vp;
  uint32_t target_sint;
  uint32_t ring_gpadl_id;
  uint32_t downstream_page_offset;
};
static_assert(sizeof(OpenReservedChannel) == 28);
static_assert(offsetof(OpenReservedChannel, header) == 0 && offsetof(OpenReservedChannel, channel_id) == 8 &&
              offsetof(OpenReservedChannel, target_vp) == 12 && offsetof(OpenReservedChannel, target_sint) == 16 &&
              offsetof(OpenReservedChannel, ring_gpadl_id) == 20 &&
              offsetof(OpenReservedChannel, downstream_page_offset) == 24);

// OpenVMM, CloseReservedChannel.
struct CloseReservedChannel {
  ChannelMessageHeader header;
  uint32_t channel_id;
  uint32_t target_vp;
  uint32_t target_sint;
};
static_assert(sizeof(CloseReservedChannel) == 20);
static_assert(offsetof(CloseReservedChannel, header) == 0 && offsetof(CloseReservedChannel, channel_id) == 8 &&
              offsetof(CloseReservedChannel, target_vp) == 12 && offsetof(CloseReservedChannel, target_sint) == 16);

// The interrupt page of versions before 2.4: one bit a channel id in each half.
inline constexpr uint64_t kInterruptPageToChild = 0;
inline constexpr uint64_t kInterruptPageToRoot = 2048;
inline constexpr size_t kInterruptPageWords = 32;  // the 64-bit words of a half that channel ids use

static_assert(std::is_trivially_copyable_v<OfferChannel> && std::is_standard_layout_v<OfferChannel>);

}  // namespace hvsdk::hvdef::vmbus

#endif  // HVSDK_HVDEF_VMBUS_H_
