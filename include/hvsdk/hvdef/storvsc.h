// SPDX-License-Identifier: Apache-2.0
// The storage protocol between a guest's storvsc driver and the storage VSP, as it stands in VMBus packets.
//
// Channels of class_id::kScsi and class_id::kIde (guid.h) speak it. Every packet is a PacketHeader and a body that the
// operation chooses. A guest that negotiated version 5.1 or later sends kPacketBytes; an older one sends
// kPacketBytesV1, without the last four fields of a SCSI request. A completion has the size of its request.
//
// Source: Linux drivers/scsi/storvsc_drv.c, FreeBSD sys/dev/hyperv/storvsc/hv_vstorage.h,
// OpenVMM vm/devices/storage/storvsp_protocol.

#ifndef HVSDK_HVDEF_STORVSC_H_
#define HVSDK_HVDEF_STORVSC_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace hvsdk::hvdef::storvsc {

enum class Operation : uint32_t {
  kCompleteIo = 1,  // the answer to all the others
  kRemoveDevice = 2,
  kExecuteSrb = 3,
  kResetLun = 4,
  kResetAdapter = 5,
  kResetBus = 6,
  kBeginInitialization = 7,
  kEndInitialization = 8,
  kQueryProtocolVersion = 9,
  kQueryProperties = 10,
  kEnumerateBus = 11,  // host to guest: look for disks that came or went
  kFcHbaData = 12,     // Fibre Channel controllers only
  kCreateSubChannels = 13,
};

// Major version in the high byte, minor in the low one.
enum class Version : uint16_t {
  kWin6 = 0x0200,   // Windows Server 2008
  kWin7 = 0x0402,   // Windows Server 2008 R2
  kWin8 = 0x0501,   // Windows Server 2012: longer SCSI requests, subchannels
  kWin81 = 0x0600,  // Windows Server 2012 R2
  kWin10 = 0x0602,  // Windows Server 2016 and later
};

// NTSTATUS values in PacketHeader::status.
enum class Status : uint32_t {
  kSuccess = 0x00000000,
  kBufferOverflow = 0x80000005,
  kDeviceBusy = 0x80000011,
  kUnsuccessful = 0xC0000001,
  kInvalidParameter = 0xC000000D,
  kInvalidDeviceRequest = 0xC0000010,
  kRevisionMismatch = 0xC0000059,
  kDeviceDoesNotExist = 0xC00000C0,
  kInvalidDeviceState = 0xC0000184,
  kIoDeviceError = 0xC0000185,
};

// The first fields of struct vstor_packet.
struct PacketHeader {
  Operation operation;  // 0x00
  uint32_t flags;       // 0x04
  Status status;        // 0x08  in completions
};
static_assert(sizeof(PacketHeader) == 12);
static_assert(offsetof(PacketHeader, operation) == 0x00 && offsetof(PacketHeader, flags) == 0x04 &&
              offsetof(PacketHeader, status) == 0x08);

inline constexpr uint32_t kFlagRequestCompletion = 0x1;

// SRB status: six bits of code, two of flags.
enum class SrbStatus : uint8_t {
  kPending = 0x00,
  kSuccess = 0x01,
  kAborted = 0x02,
  kError = 0x04,
  kBusy = 0x05,
  kInvalidRequest = 0x06,
  kNoDevice = 0x08,
  kDataOverrun = 0x12,
  kBadSrbBlockLength = 0x15,
  kRequestFlushed = 0x16,
  kInvalidLun = 0x20,
  kInvalidTargetId = 0x21,
};
inline constexpr uint8_t kSrbStatusCodeMask = 0x3F;
inline constexpr uint8_t kSrbStatusQueueFrozen = 0x40;
inline constexpr uint8_t kSrbStatusAutosenseValid = 0x80;

inline constexpr uint32_t kSrbFlagDisableAutosense = 0x00000020;
inline constexpr uint32_t kSrbFlagDataIn = 0x00000040;
inline constexpr uint32_t kSrbFlagDataOut = 0x00000080;

// ScsiRequest::data_in
inline constexpr uint8_t kDataOut = 0;   // to the device
inline constexpr uint8_t kDataIn = 1;    // from the device
inline constexpr uint8_t kDataNone = 2;  // Linux: no data, or not known

inline constexpr size_t kMaxCdbBytes = 16;
inline constexpr size_t kSenseBytes = 20;

// The body of kExecuteSrb and of its completion: struct vmscsi_request.
struct ScsiRequest {
  uint16_t length;                // 0x00  size of this structure
  uint8_t srb_status;             // 0x02
  uint8_t scsi_status;            // 0x03
  uint8_t port_number;            // 0x04
  uint8_t path_id;                // 0x05
  uint8_t target_id;              // 0x06
  uint8_t lun;                    // 0x07
  uint8_t cdb_length;             // 0x08
  uint8_t sense_info_length;      // 0x09
  uint8_t data_in;                // 0x0A
  uint8_t reserved;               // 0x0B
  uint32_t data_transfer_length;  // 0x0C
  uint8_t payload[kSenseBytes];   // 0x10  command block in, sense data out
  // Since version 5.1:
  uint16_t reserved2;       // 0x24
  uint8_t queue_tag;        // 0x26
  uint8_t queue_action;     // 0x27
  uint32_t srb_flags;       // 0x28
  uint32_t time_out_value;  // 0x2C  seconds
  uint32_t queue_sort_key;  // 0x30
};
static_assert(sizeof(ScsiRequest) == 52);
static_assert(offsetof(ScsiRequest, length) == 0x00 && offsetof(ScsiRequest, srb_status) == 0x02 &&
              offsetof(ScsiRequest, scsi_status) == 0x03 && offsetof(ScsiRequest, port_number) == 0x04 &&
              offsetof(ScsiRequest, path_id) == 0x05 && offsetof(ScsiRequest, target_id) == 0x06 &&
              offsetof(ScsiRequest, lun) == 0x07 && offsetof(ScsiRequest, cdb_length) == 0x08 &&
              offsetof(ScsiRequest, sense_info_length) == 0x09 && offsetof(ScsiRequest, data_in) == 0x0A &&
              offsetof(ScsiRequest, reserved) == 0x0B && offsetof(ScsiRequest, data_transfer_length) == 0x0C &&
              offsetof(ScsiRequest, payload) == 0x10 && offsetof(ScsiRequest, reserved2) == 0x24 &&
              offsetof(ScsiRequest, queue_tag) == 0x26 && offsetof(ScsiRequest, queue_action) == 0x27 &&
              offsetof(ScsiRequest, srb_flags) == 0x28 && offsetof(ScsiRequest, time_out_value) == 0x2C &&
              offsetof(ScsiRequest, queue_sort_key) == 0x30);
inline constexpr size_t kScsiRequestBytesV1 = 0x24;
static_assert(offsetof(ScsiRequest, reserved2) == kScsiRequestBytesV1);

// The body of kQueryProtocolVersion: struct vmstorage_protocol_version.
struct ProtocolVersion {
  Version major_minor;  // 0x00
  uint16_t revision;    // 0x02  not looked at
};
static_assert(sizeof(ProtocolVersion) == 4);
static_assert(offsetof(ProtocolVersion, major_minor) == 0x00 && offsetof(ProtocolVersion, revision) == 0x02);

// The body of kQueryProperties' completion: struct vmstorage_channel_properties.
struct ChannelProperties {
  uint32_t reserved;                   // 0x00
  uint16_t maximum_sub_channel_count;  // 0x04
  uint16_t reserved1;                  // 0x06
  uint32_t flags;                      // 0x08
  uint32_t max_transfer_bytes;         // 0x0C
  uint32_t reserved2[2];               // 0x10
};
static_assert(sizeof(ChannelProperties) == 24);
static_assert(offsetof(ChannelProperties, reserved) == 0x00 &&
              offsetof(ChannelProperties, maximum_sub_channel_count) == 0x04 &&
              offsetof(ChannelProperties, reserved1) == 0x06 && offsetof(ChannelProperties, flags) == 0x08 &&
              offsetof(ChannelProperties, max_transfer_bytes) == 0x0C &&
              offsetof(ChannelProperties, reserved2) == 0x10);
inline constexpr uint32_t kChannelSupportsMultiChannel = 0x1;

// The body of kFcHbaData's completion, struct hv_fc_wwn_packet: world-wide names of a Fibre Channel adapter.
struct FcHbaData {
  uint8_t primary_active;         // 0x00
  uint8_t reserved[3];            // 0x01
  uint8_t primary_port_wwn[8];    // 0x04
  uint8_t primary_node_wwn[8];    // 0x0C
  uint8_t secondary_port_wwn[8];  // 0x14
  uint8_t secondary_node_wwn[8];  // 0x1C
};
static_assert(sizeof(FcHbaData) == 36);
static_assert(offsetof(FcHbaData, primary_active) == 0x00 && offsetof(FcHbaData, reserved) == 0x01 &&
              offsetof(FcHbaData, primary_port_wwn) == 0x04 && offsetof(FcHbaData, primary_node_wwn) == 0x0C &&
              offsetof(FcHbaData, secondary_port_wwn) == 0x14 && offsetof(FcHbaData, secondary_node_wwn) == 0x1C);

// The body of kCreateSubChannels is one uint16_t, the number of subchannels besides the primary channel.

// A whole packet, struct vstor_packet, as a guest since Windows 8 sends it.
struct Packet {
  PacketHeader header;  // 0x00
  union {               // 0x0C
    ScsiRequest scsi;
    ProtocolVersion version;
    ChannelProperties properties;
    FcHbaData fc_hba;
    uint16_t sub_channel_count;
    uint8_t bytes[sizeof(ScsiRequest)];
  };
};
static_assert(sizeof(Packet) == 64);
static_assert(offsetof(Packet, header) == 0x00 && offsetof(Packet, scsi) == 0x0C && offsetof(Packet, version) == 0x0C &&
              offsetof(Packet, properties) == 0x0C && offsetof(Packet, fc_hba) == 0x0C &&
              offsetof(Packet, sub_channel_count) == 0x0C && offsetof(Packet, bytes) == 0x0C);
inline constexpr size_t kPacketBytesV1 = sizeof(PacketHeader) + kScsiRequestBytesV1;
inline constexpr size_t kPacketBytes = sizeof(Packet);
static_assert(kPacketBytesV1 == 48 && kPacketBytes == 64 && alignof(Packet) == 4);
static_assert(std::is_trivially_copyable_v<Packet>);

}  // namespace hvsdk::hvdef::storvsc

#endif  // HVSDK_HVDEF_STORVSC_H_
