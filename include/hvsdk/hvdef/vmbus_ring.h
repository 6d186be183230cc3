// SPDX-License-Identifier: Apache-2.0
// The VMBus ring on the wire: one control page, then whole pages of data, shared by a writer and a reader; and the
// packets in it. All little-endian.
//
// A channel has two rings in one GPADL: the child writes the first and reads the second.
//
//   ring   := control-page data-page+
//   packet := PacketDescriptor extension* payload PacketTrailer      ; each a multiple of 8 bytes
//
// Source: the TLFS leaves VMBus out. The layout is as Linux' include/linux/hyperv.h (struct hv_ring_buffer, struct
// vmpacket_descriptor and others) and OpenVMM's vm/devices/vmbus/vmbus_ring have it.

#ifndef HVSDK_HVDEF_VMBUS_RING_H_
#define HVSDK_HVDEF_VMBUS_RING_H_

#include <cstddef>
#include <cstdint>

namespace hvsdk::hvdef {

inline constexpr uint32_t kRingPageSize = 4096;

// struct hv_ring_buffer: the first page of a ring. Indices are byte offsets into the data, multiples of 8, below the
// data's size. Equal indices mean empty; a writer therefore always leaves 8 bytes free.
struct RingControl {
  uint32_t write_index;        // 0x00  the writer's
  uint32_t read_index;         // 0x04  the reader's
  uint32_t interrupt_mask;     // 0x08  the reader's: not zero asks for no signal when data arrives
  uint32_t pending_send_size;  // 0x0C  the writer's: not zero asks for a signal once so many bytes are free
  uint32_t reserved0[12];      // 0x10
  uint32_t feature_bits;       // 0x40  the writer's
  uint8_t reserved1[kRingPageSize - 0x44];
};
static_assert(sizeof(RingControl) == kRingPageSize);
static_assert(offsetof(RingControl, write_index) == 0x00 && offsetof(RingControl, read_index) == 0x04 &&
              offsetof(RingControl, interrupt_mask) == 0x08 && offsetof(RingControl, pending_send_size) == 0x0C &&
              offsetof(RingControl, reserved0) == 0x10 && offsetof(RingControl, feature_bits) == 0x40 &&
              offsetof(RingControl, reserved1) == 0x44);

// In the ring it writes, an end says: I use pending_send_size here, and honour yours in the other ring.
inline constexpr uint32_t kRingFeaturePendingSendSize = 1;  // feat_pending_send_sz

enum class PacketType : uint16_t {
  kInvalid = 0x0,
  kSynch = 0x1,
  kAddTransferPageSet = 0x2,
  kRemoveTransferPageSet = 0x3,
  kEstablishGpadl = 0x4,
  kTeardownGpadl = 0x5,
  kDataInBand = 0x6,              // VM_PKT_DATA_INBAND
  kDataUsingTransferPages = 0x7,  // VM_PKT_DATA_USING_XFER_PAGES
  kDataUsingGpadl = 0x8,
  kDataUsingGpaDirect = 0x9,  // VM_PKT_DATA_USING_GPA_DIRECT
  kCancelRequest = 0xA,
  kCompletion = 0xB,  // VM_PKT_COMP
  kDataUsingAdditionalPackets = 0xC,
  kAdditionalData = 0xD,
};

inline constexpr uint16_t kPacketFlagCompletionRequested = 1;

// struct vmpacket_descriptor.
struct PacketDescriptor {
  PacketType type;          // 0x00
  uint16_t data_offset8;    // 0x02  from the descriptor to the payload, in 8 bytes
  uint16_t length8;         // 0x04  descriptor, extension and payload, in 8 bytes
  uint16_t flags;           // 0x06
  uint64_t transaction_id;  // 0x08
};
static_assert(sizeof(PacketDescriptor) == 16);
static_assert(offsetof(PacketDescriptor, type) == 0x00 && offsetof(PacketDescriptor, data_offset8) == 0x02 &&
              offsetof(PacketDescriptor, length8) == 0x04 && offsetof(PacketDescriptor, flags) == 0x06 &&
              offsetof(PacketDescriptor, transaction_id) == 0x08);

// Behind the payload; not counted in length8 (Linux, hv_ringbuffer_write).
struct PacketTrailer {
  uint32_t reserved;       // 0x00
  uint32_t packet_offset;  // 0x04  ring offset of this packet's descriptor
};
static_assert(sizeof(PacketTrailer) == 8);
static_assert(offsetof(PacketTrailer, reserved) == 0x00 && offsetof(PacketTrailer, packet_offset) == 0x04);

// struct vmdata_gpa_direct behind the descriptor: `range_count` times a GpaRange, each followed by its page numbers.
struct GpaDirectHeader {
  uint32_t reserved;     // 0x00  may hold anything
  uint32_t range_count;  // 0x04
};
static_assert(sizeof(GpaDirectHeader) == 8);
static_assert(offsetof(GpaDirectHeader, reserved) == 0x00 && offsetof(GpaDirectHeader, range_count) == 0x04);

// struct gpa_range, followed by one 8-byte page number for each 4 KiB page that the bytes touch.
struct GpaRange {
  uint32_t byte_count;   // 0x00
  uint32_t byte_offset;  // 0x04  into the first page
};
static_assert(sizeof(GpaRange) == 8);
static_assert(offsetof(GpaRange, byte_count) == 0x00 && offsetof(GpaRange, byte_offset) == 0x04);

// struct vmtransfer_page_packet_header behind the descriptor, followed by `range_count` TransferPageRange.
struct TransferPageHeader {
  uint16_t transfer_page_set_id;  // 0x00
  uint8_t sender_owns_set;        // 0x02
  uint8_t reserved;               // 0x03
  uint32_t range_count;           // 0x04
};
static_assert(sizeof(TransferPageHeader) == 8);
static_assert(offsetof(TransferPageHeader, transfer_page_set_id) == 0x00 &&
              offsetof(TransferPageHeader, sender_owns_set) == 0x02 && offsetof(TransferPageHeader, reserved) == 0x03 &&
              offsetof(TransferPageHeader, range_count) == 0x04);

// struct vmtransfer_page_range: bytes of a buffer that a GPADL has established before.
struct TransferPageRange {
  uint32_t byte_count;   // 0x00
  uint32_t byte_offset;  // 0x04
};
static_assert(sizeof(TransferPageRange) == 8);
static_assert(offsetof(TransferPageRange, byte_count) == 0x00 && offsetof(TransferPageRange, byte_offset) == 0x04);

}  // namespace hvsdk::hvdef

#endif  // HVSDK_HVDEF_VMBUS_RING_H_
