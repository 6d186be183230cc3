// SPDX-License-Identifier: Apache-2.0
// Integration components: what the host and a guest's utility driver say to each other about the machine as a whole: that it is to shut
// down, that it is alive, what time it is. All little-endian.
//
// Each component is a channel of its own, in the messages of a named pipe: a packet's payload is a PipeHeader, a Header and a body. The
// host asks, and the guest sends the same message back as its answer. The first message is kNegotiate, whose body is a Negotiate and the
// versions that the host speaks: so many of the framework, then so many of the component's. The guest answers with one of each; or
// with none, and then the host has nothing more to say. It may negotiate anew at any time, and does so after each opening.
//
// Sources: Linux include/linux/hyperv.h (icmsg_hdr and what follows) and drivers/hv/hv_util.c, OpenVMM
// vm/devices/hyperv_ic_protocol/src.

#ifndef HVSDK_HVDEF_INTEGRATION_H_
#define HVSDK_HVDEF_INTEGRATION_H_

#include <compare>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace hvsdk::hvdef::integration {

// Source: Linux, vmbuspipe_hdr; OpenVMM, vmbus_channel's PipeHeader.
struct PipeHeader {
  uint32_t type;        // 0x00
  uint32_t size_bytes;  // 0x04  of what follows
};
static_assert(sizeof(PipeHeader) == 8);
static_assert(offsetof(PipeHeader, type) == 0x00 && offsetof(PipeHeader, size_bytes) == 0x04);
inline constexpr uint32_t kPipeData = 1;

// Source: Linux, ic_version.
struct Version {
  uint16_t major;  // 0x00
  uint16_t minor;  // 0x02

  friend constexpr bool operator==(Version, Version) = default;
  friend constexpr auto operator<=>(Version, Version) = default;
};
static_assert(sizeof(Version) == 4);
static_assert(offsetof(Version, major) == 0x00 && offsetof(Version, minor) == 0x02);

inline constexpr Version kFrameworkVersions[] = {{1, 0}, {3, 0}};  // Windows Server 2008; since 2008 R2

enum class MessageType : uint16_t {
  kNegotiate = 0,
  kHeartbeat = 1,
  kKeyValuePair = 2,
  kShutdown = 3,
  kTimeSync = 4,
  kBackup = 5,
  kFileCopy = 7,
};

// HRESULTs, of which guests know these.
enum class Status : uint32_t {
  kOk = 0,
  kFail = 0x80004005,          // E_FAIL
  kNotSupported = 0x80070032,  // ERROR_NOT_SUPPORTED
  kNotFound = 0x80041002,
  kNoMoreItems = 0x80070103,      // ERROR_NO_MORE_ITEMS
  kAlreadyExists = 0x80070050,    // ERROR_FILE_EXISTS
  kInvalidArgument = 0x80070057,  // E_INVALIDARG
  kDiskFull = 0x80070070,         // ERROR_DISK_FULL
};

inline constexpr uint8_t kFlagTransaction = 1;  // it is, or wants, an answer
inline constexpr uint8_t kFlagRequest = 2;
inline constexpr uint8_t kFlagResponse = 4;

// Source: Linux, icmsg_hdr.
struct Header {
  Version framework;       // 0x00
  MessageType type;        // 0x04
  Version version;         // 0x06  of the component
  uint16_t size_bytes;     // 0x0A  of the body
  Status status;           // 0x0C  of an answer
  uint8_t transaction_id;  // 0x10  an answer's is its request's
  uint8_t flags;           // 0x11
  uint8_t reserved[2];     // 0x12
};
static_assert(sizeof(Header) == 20);
static_assert(offsetof(Header, framework) == 0x00 && offsetof(Header, type) == 0x04 &&
              offsetof(Header, version) == 0x06 && offsetof(Header, size_bytes) == 0x0A &&
              offsetof(Header, status) == 0x0C && offsetof(Header, transaction_id) == 0x10 &&
              offsetof(Header, flags) == 0x11 && offsetof(Header, reserved) == 0x12);
static_assert(std::is_trivially_copyable_v<Header>);

// Source: Linux, icmsg_negotiate.
struct Negotiate {
  uint16_t framework_versions;  // 0x00  how many follow
  uint16_t versions;            // 0x02  and then of these
  uint32_t reserved;            // 0x04
};
static_assert(sizeof(Negotiate) == 8);
static_assert(offsetof(Negotiate, framework_versions) == 0x00 && offsetof(Negotiate, versions) == 0x02 &&
              offsetof(Negotiate, reserved) == 0x04);

// ---- heartbeat ----

inline constexpr Version kHeartbeatVersions[] = {{1, 0}, {3, 0}};

enum class GuestHealth : uint32_t {
  kUnknown = 0,  // what Linux says, as it says nothing
  kHealthy = 1,
  kCritical = 2,
  kStopped = 3,
};

// Both ways; the guest's answer has the number raised by one.
// Source: Linux, heartbeat_msg_data; OpenVMM, HeartbeatMessage.
struct Heartbeat {
  uint64_t sequence;   // 0x00
  GuestHealth health;  // 0x08
  uint32_t reserved;   // 0x0C
};
static_assert(sizeof(Heartbeat) == 16);
static_assert(offsetof(Heartbeat, sequence) == 0x00 && offsetof(Heartbeat, health) == 0x08 &&
              offsetof(Heartbeat, reserved) == 0x0C);

// ---- shutdown ----

inline constexpr Version kShutdownVersions[] = {{1, 0}, {3, 0}, {3, 1}, {3, 2}};
inline constexpr Version kShutdownRestartVersion = {3, 1};    // from which on a guest can be asked to restart
inline constexpr Version kShutdownHibernateVersion = {3, 2};  // and to hibernate

inline constexpr uint32_t kShutdownForce = 1;
inline constexpr uint32_t kShutdownRestart = 2;
inline constexpr uint32_t kShutdownHibernate = 4;
inline constexpr uint32_t kShutdownReasonPlanned = 0x80000000;  // SHTDN_REASON_FLAG_PLANNED
inline constexpr size_t kShutdownTextBytes = 2048;

// Source: Linux, shutdown_msg_data.
struct Shutdown {
  uint32_t reason;                   // 0x00
  uint32_t timeout_seconds;          // 0x04
  uint32_t flags;                    // 0x08
  uint8_t text[kShutdownTextBytes];  // 0x0C  for whoever looks at the guest
};
static_assert(sizeof(Shutdown) == 2060);
static_assert(offsetof(Shutdown, reason) == 0x00 && offsetof(Shutdown, timeout_seconds) == 0x04 &&
              offsetof(Shutdown, flags) == 0x08 && offsetof(Shutdown, text) == 0x0C);

// ---- time synchronisation ----

inline constexpr Version kTimeSyncVersions[] = {{1, 0}, {3, 0}, {4, 0}};
inline constexpr Version kTimeSyncReferenceVersion = {4, 0};  // from which on it is a TimeSyncV4

inline constexpr uint8_t kTimeSyncSet = 1;     // ICTIMESYNCFLAG_SYNC: set the clock
inline constexpr uint8_t kTimeSyncSample = 2;  // ICTIMESYNCFLAG_SAMPLE: for whoever disciplines it

// Times are in units of 100 ns since 1601-01-01 00:00 UTC.
inline constexpr uint64_t kUnixEpoch100ns = 116'444'736'000'000'000;

// Source: Linux, ictimesync_data.
struct TimeSync {
  uint64_t host_time;        // 0x00
  uint64_t guest_time;       // 0x08  not used
  uint64_t round_trip_time;  // 0x10
  uint8_t flags;             // 0x18
  uint8_t reserved[7];       // 0x19
};
static_assert(sizeof(TimeSync) == 32);
static_assert(offsetof(TimeSync, host_time) == 0x00 && offsetof(TimeSync, guest_time) == 0x08 &&
              offsetof(TimeSync, round_trip_time) == 0x10 && offsetof(TimeSync, flags) == 0x18 &&
              offsetof(TimeSync, reserved) == 0x19);

// Source: Linux, ictimesync_ref_data.
struct TimeSyncV4 {
  uint64_t host_time;       // 0x00
  uint64_t reference_time;  // 0x08  the partition's, at that moment
  uint8_t flags;            // 0x10
  uint8_t leap_indicator;   // 0x11  NTP's
  uint8_t stratum;          // 0x12  NTP's; 0: not known
  uint8_t reserved[5];      // 0x13
};
static_assert(sizeof(TimeSyncV4) == 24);
static_assert(offsetof(TimeSyncV4, host_time) == 0x00 && offsetof(TimeSyncV4, reference_time) == 0x08 &&
              offsetof(TimeSyncV4, flags) == 0x10 && offsetof(TimeSyncV4, leap_indicator) == 0x11 &&
              offsetof(TimeSyncV4, stratum) == 0x12 && offsetof(TimeSyncV4, reserved) == 0x13);

}  // namespace hvsdk::hvdef::integration

#endif  // HVSDK_HVDEF_INTEGRATION_H_
