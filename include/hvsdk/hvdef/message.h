// SPDX-License-Identifier: Apache-2.0
// What the SynIC shares with a guest: message slots, event flags, the reference TSC page and the VP assist page
// (TLFS, chapters "Inter-Partition Communication", "Timers" and "Virtual Processors").

#ifndef HVSDK_HVDEF_MESSAGE_H_
#define HVSDK_HVDEF_MESSAGE_H_

#include <cstddef>
#include <cstdint>

namespace hvsdk::hvdef {

inline constexpr uint32_t kSintCount = 16;
inline constexpr uint32_t kStimerCount = 4;

// HV_MESSAGE_TYPE, an open set: a guest posts any type whose top bit is clear, but zero.
enum class MessageType : uint32_t {
  kNone = 0x00000000,                    // HvMessageTypeNone: the slot is empty
  kUnmappedGpa = 0x80000000,             // HvMessageTypeUnmappedGpa
  kGpaIntercept = 0x80000001,            // HvMessageTypeGpaIntercept
  kTimerExpired = 0x80000010,            // HvMessageTimerExpired
  kInvalidVpRegisterValue = 0x80000020,  // HvMessageTypeInvalidVpRegisterValue
  kUnrecoverableException = 0x80000021,  // HvMessageTypeUnrecoverableException
  kUnsupportedFeature = 0x80000022,      // HvMessageTypeUnsupportedFeature
  kEventLogBufferComplete = 0x80000040,  // HvMessageTypeEventLogBufferComplete
};
inline constexpr uint32_t kHypervisorMessageBit = 0x80000000;

inline constexpr uint32_t kMessageSizeBytes = 256;        // HV_MESSAGE_SIZE
inline constexpr uint32_t kMessageMaxPayloadBytes = 240;  // HV_MESSAGE_MAX_PAYLOAD_BYTE_COUNT
inline constexpr uint8_t kMessagePending = 1;             // HV_MESSAGE_FLAGS: more messages wait; the guest writes EOM

// HV_MESSAGE_HEADER.
struct MessageHeader {
  uint32_t message_type;  // written last, with release
  uint8_t payload_size;
  uint8_t flags;
  uint16_t reserved;
  uint64_t origin;  // the port id of a posted message; zero for a timer's
};
static_assert(sizeof(MessageHeader) == 16);
static_assert(offsetof(MessageHeader, message_type) == 0 && offsetof(MessageHeader, payload_size) == 4 &&
              offsetof(MessageHeader, flags) == 5 && offsetof(MessageHeader, reserved) == 6 &&
              offsetof(MessageHeader, origin) == 8);

// HV_MESSAGE.
struct Message {
  MessageHeader header;
  uint8_t payload[kMessageMaxPayloadBytes];
};
static_assert(sizeof(Message) == kMessageSizeBytes);
static_assert(offsetof(Message, header) == 0 && offsetof(Message, payload) == 16);
static_assert(sizeof(Message) * kSintCount == 4096, "the SIM page");

// HV_TIMER_MESSAGE_PAYLOAD.
struct TimerMessagePayload {
  uint32_t timer_index;
  uint32_t reserved;
  uint64_t expiration_time_100ns;
  uint64_t delivery_time_100ns;
};
static_assert(sizeof(TimerMessagePayload) == 24);
static_assert(offsetof(TimerMessagePayload, timer_index) == 0 && offsetof(TimerMessagePayload, reserved) == 4 &&
              offsetof(TimerMessagePayload, expiration_time_100ns) == 8 &&
              offsetof(TimerMessagePayload, delivery_time_100ns) == 16);

// HV_SYNIC_EVENT_FLAGS: 2048 flags of each SINT, least significant bit first; 16 of these are the SIEF page.
inline constexpr uint32_t kEventFlagsPerSint = 2048;
inline constexpr uint32_t kEventFlagsBytesPerSint = kEventFlagsPerSint / 8;
static_assert(kEventFlagsBytesPerSint * kSintCount == 4096, "the SIEF page");

// HV_REFERENCE_TSC_PAGE, the part that is used. Time in 100 ns units is ((TSC * scale) >> 64) + offset.
struct ReferenceTscPage {
  uint32_t sequence;  // 0: not valid now, read the counter MSR
  uint32_t reserved;
  uint64_t scale;
  int64_t offset;
};
static_assert(sizeof(ReferenceTscPage) == 24);
static_assert(offsetof(ReferenceTscPage, sequence) == 0 && offsetof(ReferenceTscPage, reserved) == 4 &&
              offsetof(ReferenceTscPage, scale) == 8 && offsetof(ReferenceTscPage, offset) == 16);

// HV_VP_ASSIST_PAGE, the field that a guest without VTLs and nesting looks at.
struct VpAssistPage {
  uint32_t apic_assist;  // bit 0: no EOI required
  uint32_t reserved;
};
static_assert(sizeof(VpAssistPage) == 8);
static_assert(offsetof(VpAssistPage, apic_assist) == 0 && offsetof(VpAssistPage, reserved) == 4);

}  // namespace hvsdk::hvdef

#endif  // HVSDK_HVDEF_MESSAGE_H_
