// SPDX-License-Identifier: Apache-2.0
// Dynamic memory: what a host and a guest's balloon driver say to each other about the guest's memory. All little-endian.
//
// A channel of its own, whose packets' payloads are a Header and what the type says, without a pipe's header. The guest speaks first: it
// asks for a version (kVersionRequest) until the host accepts one, then says what it can do (kCapabilitiesReport). From then on it
// tells how much memory it has and wants (kStatusReport), and the host asks, one request at a time, for pages (kBalloonRequest, answered
// by any number of kBalloonResponse), or gives some of them back (kUnballoonRequest, kUnballoonResponse),
// or has it use memory that it has not had before (kHotAddRequest, kHotAddResponse).
//
// A transaction id is the sender's own count; answers do not carry their request's.
//
// Sources: Linux drivers/hv/hv_balloon.c, which names the versions' numbers and the structures (dm_*) that are named here.

#ifndef HVSDK_HVDEF_DYNAMIC_MEMORY_H_
#define HVSDK_HVDEF_DYNAMIC_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace hvsdk::hvdef::dynamic_memory {

// Major version in the upper half, minor in the lower. Protocols 1 to 3.
enum class Version : uint32_t {
  kNone = 0,
  k1 = 0x00003,  // 0.3: Windows Server 2008 R2
  k2 = 0x10000,  // 1.0: Windows Server 2012, with kInfo
  k3 = 0x20000,  // 2.0: Windows Server 2016
};
inline constexpr Version kVersions[] = {Version::k1, Version::k2, Version::k3};

enum class MessageType : uint16_t {
  kError = 0,
  kVersionRequest = 1,
  kVersionResponse = 2,
  kCapabilitiesReport = 3,
  kCapabilitiesResponse = 4,
  kStatusReport = 5,
  kBalloonRequest = 6,
  kBalloonResponse = 7,
  kUnballoonRequest = 8,
  kUnballoonResponse = 9,
  kHotAddRequest = 10,
  kHotAddResponse = 11,
  kInfo = 12,
};

// What a Linux guest reads at once, so no message of a host's is longer, and what it sends is not.
inline constexpr uint32_t kMaxMessageBytes = 4096;

// Source: Linux, dm_header.
struct Header {
  MessageType type;         // 0x00
  uint16_t size_bytes;      // 0x02  of the message, this included
  uint32_t transaction_id;  // 0x04
};
static_assert(sizeof(Header) == 8);
static_assert(offsetof(Header, type) == 0x00 && offsetof(Header, size_bytes) == 0x02 &&
              offsetof(Header, transaction_id) == 0x04);
static_assert(std::is_trivially_copyable_v<Header>);

// Pages in a row: the number of the first in bits 39:0, how many in 63:40.
// Source: Linux, dm_mem_page_range.
struct PageRange {
  uint64_t value;  // 0x00

  static constexpr uint64_t kMaxFirst = (uint64_t{1} << 40) - 1;
  static constexpr uint64_t kMaxCount = (uint64_t{1} << 24) - 1;
  static constexpr PageRange Make(uint64_t first, uint64_t count) { return {first | count << 40}; }
  constexpr uint64_t first() const { return value & kMaxFirst; }
  constexpr uint64_t count() const { return value >> 40; }
};
static_assert(sizeof(PageRange) == 8);
static_assert(offsetof(PageRange, value) == 0x00);

// Source: Linux, dm_version_request.
struct VersionRequest {
  Header header;     // 0x00
  Version version;   // 0x08
  uint32_t is_last;  // 0x0C  bit 0: the guest knows no other
};
static_assert(sizeof(VersionRequest) == 16);
static_assert(offsetof(VersionRequest, header) == 0x00 && offsetof(VersionRequest, version) == 0x08 &&
              offsetof(VersionRequest, is_last) == 0x0C);

// Of a version, or of capabilities.
// Source: Linux, dm_version_response and dm_capabilities_resp_msg.
struct Response {
  Header header;         // 0x00
  uint64_t is_accepted;  // 0x08  bit 0
};
static_assert(sizeof(Response) == 16);
static_assert(offsetof(Response, header) == 0x00 && offsetof(Response, is_accepted) == 0x08);

inline constexpr uint64_t kCanBalloon = 1;
inline constexpr uint64_t kCanHotAdd = 2;

// Source: Linux, dm_capabilities.
struct CapabilitiesReport {
  Header header;             // 0x00
  uint64_t capabilities;     // 0x08  bits 5:2: hot-added memory is aligned to 2 to that power MiB
  uint64_t min_pages;        // 0x10
  uint64_t max_page_number;  // 0x18
};
static_assert(sizeof(CapabilitiesReport) == 32);
static_assert(offsetof(CapabilitiesReport, header) == 0x00 && offsetof(CapabilitiesReport, capabilities) == 0x08 &&
              offsetof(CapabilitiesReport, min_pages) == 0x10 && offsetof(CapabilitiesReport, max_page_number) == 0x18);

// In pages. What was ballooned counts as committed; so does, in Linux, what it does not want to go below.
// Source: Linux, dm_status and post_status.
struct StatusReport {
  Header header;              // 0x00
  uint64_t available;         // 0x08
  uint64_t committed;         // 0x10
  uint64_t page_file_size;    // 0x18  Windows
  uint64_t zero_and_free;     // 0x20  Windows
  uint32_t page_file_writes;  // 0x28  Windows
  uint32_t io_difference;     // 0x2C  Windows
};
static_assert(sizeof(StatusReport) == 48);
static_assert(offsetof(StatusReport, header) == 0x00 && offsetof(StatusReport, available) == 0x08 &&
              offsetof(StatusReport, committed) == 0x10 && offsetof(StatusReport, page_file_size) == 0x18 &&
              offsetof(StatusReport, zero_and_free) == 0x20 && offsetof(StatusReport, page_file_writes) == 0x28 &&
              offsetof(StatusReport, io_difference) == 0x2C);

// Source: Linux, dm_balloon.
struct BalloonRequest {
  Header header;      // 0x00
  uint32_t pages;     // 0x08  Linux gives them in pieces of 2 MiB while it has such
  uint32_t reserved;  // 0x0C
};
static_assert(sizeof(BalloonRequest) == 16);
static_assert(offsetof(BalloonRequest, header) == 0x00 && offsetof(BalloonRequest, pages) == 0x08 &&
              offsetof(BalloonRequest, reserved) == 0x0C);

// Followed by the ranges.
// Source: Linux, dm_balloon_response.
struct BalloonResponse {
  Header header;      // 0x00
  uint32_t reserved;  // 0x08
  uint32_t ranges;    // 0x0C  bit 0: more responses follow; 31:1: how many ranges

  constexpr bool has_more() const { return (ranges & 1) != 0; }
  constexpr uint32_t range_count() const { return ranges >> 1; }
};
static_assert(sizeof(BalloonResponse) == 16);
static_assert(offsetof(BalloonResponse, header) == 0x00 && offsetof(BalloonResponse, reserved) == 0x08 &&
              offsetof(BalloonResponse, ranges) == 0x0C);

// Followed by the ranges. Answered by a header alone, unless more requests follow.
// Source: Linux, dm_unballoon_request.
struct UnballoonRequest {
  Header header;         // 0x00
  uint32_t has_more;     // 0x08  bit 0
  uint32_t range_count;  // 0x0C
};
static_assert(sizeof(UnballoonRequest) == 16);
static_assert(offsetof(UnballoonRequest, header) == 0x00 && offsetof(UnballoonRequest, has_more) == 0x08 &&
              offsetof(UnballoonRequest, range_count) == 0x0C);
inline constexpr uint32_t kMaxUnballoonRanges = (kMaxMessageBytes - sizeof(UnballoonRequest)) / sizeof(PageRange);

// Linux adds whole blocks to its map, of 128 MiB or more, and uses of each what it was told of; what follows on it may be told of later.
// Answered when it has done so, by HotAddResponse.
// Source: Linux, dm_hot_add.
struct HotAddRequest {
  Header header;    // 0x00
  PageRange range;  // 0x08
};
static_assert(sizeof(HotAddRequest) == 16);
static_assert(offsetof(HotAddRequest, header) == 0x00 && offsetof(HotAddRequest, range) == 0x08);

// Source: Linux, dm_hot_add_response and hot_add_req.
struct HotAddResponse {
  Header header;          // 0x00
  uint32_t page_count;    // 0x08  how many pages were added, from the first on
  uint32_t is_permanent;  // 0x0C  1 with fewer than were asked for: there will not be more; 0: another time there may
};
static_assert(sizeof(HotAddResponse) == 16);
static_assert(offsetof(HotAddResponse, header) == 0x00 && offsetof(HotAddResponse, page_count) == 0x08 &&
              offsetof(HotAddResponse, is_permanent) == 0x0C);

}  // namespace hvsdk::hvdef::dynamic_memory

#endif  // HVSDK_HVDEF_DYNAMIC_MEMORY_H_
