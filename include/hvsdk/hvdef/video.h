// SPDX-License-Identifier: Apache-2.0
// Synthetic video: what a host and a guest's display driver say to each other. All little-endian, at any byte.
//
// A channel in pipe mode, whose packets' payloads are a PipeHeader, a Header, and what the type says. The guest speaks first: it asks for
// a version (kVersionRequest), from 3.5 on for the sizes that a display may have (kResolutionsRequest), says where its frames lie
// (kVramLocation) and what they are (kSituation), and is answered each time. From then on it tells which of their pixels it has drawn
// (kDirt), and what its pointer is, as far as the host says that somebody looks (kFeatureChange).
//
// Pixels are 32 bits, 8 each of blue, green, red and nothing, from the lowest byte on; or 16 bits, 5 of blue, 6 of green and 5 of red.
//
// Sources: Linux drivers/video/fbdev/hyperv_fb.c and drivers/gpu/drm/hyperv/hyperv_drm_proto.c, which name the versions and the
// structures (synthvid_*); OpenVMM vm/devices/uidevices/src/video/protocol.rs for the messages that Linux does not send.

#ifndef HVSDK_HVDEF_VIDEO_H_
#define HVSDK_HVDEF_VIDEO_H_

#include <cstddef>
#include <cstdint>

#include "hvsdk/hvdef/integration.h"

namespace hvsdk::hvdef::video {

// An integer that stands at any byte.
template <typename T>
struct Unaligned {
  uint8_t bytes[sizeof(T)];

  T get() const {
    T value;
    __builtin_memcpy(&value, bytes, sizeof(value));
    return value;
  }
  static Unaligned Of(T value) {
    Unaligned result;
    __builtin_memcpy(result.bytes, &value, sizeof(value));
    return result;
  }
};

// Minor version in the upper half, major in the lower.
enum class Version : uint32_t {
  kNone = 0,
  k3_0 = 0x00003,  // Windows Server 2008 R2
  k3_2 = 0x20003,  // Windows Server 2012: the version may be asked for anew at any time
  k3_3 = 0x30003,  // 2012 R2, with kBiosInfoRequest
  k3_4 = 0x40003,
  k3_5 = 0x50003,  // Windows 10, with kResolutionsRequest and kCapabilityRequest
};
inline constexpr Version kVersions[] = {Version::k3_0, Version::k3_2, Version::k3_3, Version::k3_4, Version::k3_5};

enum class MessageType : uint32_t {
  kError = 0,
  kVersionRequest = 1,   // towards the host
  kVersionResponse = 2,  // towards the guest
  kVramLocation = 3,
  kVramLocationAck = 4,
  kSituation = 5,
  kSituationAck = 6,
  kPointerPosition = 7,
  kPointerShape = 8,
  kFeatureChange = 9,  // towards the guest, at any time
  kDirt = 10,
  kBiosInfoRequest = 11,
  kBiosInfoResponse = 12,
  kResolutionsRequest = 13,
  kResolutionsResponse = 14,
  kCapabilityRequest = 15,
  kCapabilityResponse = 16,
};

// The longest packet that either side takes.
inline constexpr uint32_t kMaxMessageBytes = 0x4000;

// What stands before each message.
using integration::kPipeData;
using integration::PipeHeader;

// Source: Linux, synthvid_msg_hdr.
struct Header {
  MessageType type;     // 0x00
  uint32_t size_bytes;  // 0x04  of the message, this included
};
static_assert(sizeof(Header) == 8);
static_assert(offsetof(Header, type) == 0x00 && offsetof(Header, size_bytes) == 0x04);

// Source: Linux, synthvid_version_req.
struct VersionRequest {
  Version version;  // 0x00
};
static_assert(sizeof(VersionRequest) == 4);
static_assert(offsetof(VersionRequest, version) == 0x00);

// Source: Linux, synthvid_version_resp.
struct VersionResponse {
  Unaligned<uint32_t> version;  // 0x00
  uint8_t is_accepted;          // 0x04
  uint8_t max_outputs;          // 0x05  1
};
static_assert(sizeof(VersionResponse) == 6);
static_assert(offsetof(VersionResponse, version) == 0x00 && offsetof(VersionResponse, is_accepted) == 0x04 &&
              offsetof(VersionResponse, max_outputs) == 0x05);

inline constexpr uint32_t kEdidBytes = 128;
inline constexpr uint32_t kMaxResolutions = 64;

// Source: Linux, hvd_screen_info.
struct Resolution {
  uint16_t width;   // 0x00
  uint16_t height;  // 0x02
};
static_assert(sizeof(Resolution) == 4);
static_assert(offsetof(Resolution, width) == 0x00 && offsetof(Resolution, height) == 0x02);

// Source: Linux, synthvid_supported_resolution_req.
struct ResolutionsRequest {
  uint8_t max_count;  // 0x00  that the guest takes
};
static_assert(sizeof(ResolutionsRequest) == 1);
static_assert(offsetof(ResolutionsRequest, max_count) == 0x00);

// Followed by `count` of Resolution.
// Source: Linux, synthvid_supported_resolution_resp.
struct ResolutionsResponse {
  uint8_t edid[kEdidBytes];  // 0x00
  uint8_t count;             // 0x80
  uint8_t default_index;     // 0x81
  uint8_t is_standard;       // 0x82
};
static_assert(sizeof(ResolutionsResponse) == 131);
static_assert(offsetof(ResolutionsResponse, edid) == 0x00 && offsetof(ResolutionsResponse, count) == 0x80 &&
              offsetof(ResolutionsResponse, default_index) == 0x81 &&
              offsetof(ResolutionsResponse, is_standard) == 0x82);

// Source: Linux, synthvid_vram_location.
struct VramLocation {
  Unaligned<uint64_t> user_context;  // 0x00  comes back with the answer
  uint8_t has_gpa;                   // 0x08  else the host chooses
  Unaligned<uint64_t> gpa;           // 0x09
};
static_assert(sizeof(VramLocation) == 17);
static_assert(offsetof(VramLocation, user_context) == 0x00 && offsetof(VramLocation, has_gpa) == 0x08 &&
              offsetof(VramLocation, gpa) == 0x09);

// Of kVramLocationAck and kSituationAck. A location that cannot be is answered with another context (Linux takes that for a failure).
// Source: Linux, synthvid_vram_location_ack and synthvid_situation_update_ack.
struct Ack {
  uint64_t user_context;  // 0x00
};
static_assert(sizeof(Ack) == 8);
static_assert(offsetof(Ack, user_context) == 0x00);

// Source: Linux, video_output_situation.
struct Output {
  uint8_t is_active;                 // 0x00
  Unaligned<uint32_t> offset_bytes;  // 0x01  from the location on
  uint8_t depth_bits;                // 0x05  of a pixel
  Unaligned<uint32_t> width;         // 0x06
  Unaligned<uint32_t> height;        // 0x0A
  Unaligned<uint32_t> stride_bytes;  // 0x0E
};
static_assert(sizeof(Output) == 18);
static_assert(offsetof(Output, is_active) == 0x00 && offsetof(Output, offset_bytes) == 0x01 &&
              offsetof(Output, depth_bits) == 0x05 && offsetof(Output, width) == 0x06 &&
              offsetof(Output, height) == 0x0A && offsetof(Output, stride_bytes) == 0x0E);

// Source: Linux, synthvid_situation_update.
struct Situation {
  Unaligned<uint64_t> user_context;  // 0x00
  uint8_t output_count;              // 0x08  1
  Output output;                     // 0x09
};
static_assert(sizeof(Situation) == 27);
static_assert(offsetof(Situation, user_context) == 0x00 && offsetof(Situation, output_count) == 0x08 &&
              offsetof(Situation, output) == 0x09);

// Source: Linux, synthvid_pointer_position.
struct PointerPosition {
  uint8_t is_visible;    // 0x00
  uint8_t output;        // 0x01  0
  Unaligned<int32_t> x;  // 0x02  of the upper left pixel of its image
  Unaligned<int32_t> y;  // 0x06
};
static_assert(sizeof(PointerPosition) == 10);
static_assert(offsetof(PointerPosition, is_visible) == 0x00 && offsetof(PointerPosition, output) == 0x01 &&
              offsetof(PointerPosition, x) == 0x02 && offsetof(PointerPosition, y) == 0x06);

inline constexpr uint32_t kMaxPointerSide = 96;           // pixels
inline constexpr uint32_t kMaxPointerPartBytes = 0x2000;  // of an image, in a message
inline constexpr uint8_t kLastPointerPart = 0xFF;

// Followed by a part of the image: rows of pixels with 8 bits each of blue, green, red and opacity; or, without colours, all rows of a
// mask that says which pixels of the screen stay, and then all of one that says which are turned over, with a bit a pixel, the highest
// first, and whole bytes a row.
// Source: Linux, synthvid_pointer_shape; OpenVMM, PointerShapeMessage for the parts and for images without colours.
struct PointerShape {
  uint8_t part;                // 0x00  counts from 0; kLastPointerPart is the last
  uint8_t has_colours;         // 0x01
  Unaligned<uint32_t> width;   // 0x02
  Unaligned<uint32_t> height;  // 0x06
  Unaligned<uint32_t> hot_x;   // 0x0A  what it points at, from its upper left pixel
  Unaligned<uint32_t> hot_y;   // 0x0E
};
static_assert(sizeof(PointerShape) == 18);
static_assert(offsetof(PointerShape, part) == 0x00 && offsetof(PointerShape, has_colours) == 0x01 &&
              offsetof(PointerShape, width) == 0x02 && offsetof(PointerShape, height) == 0x06 &&
              offsetof(PointerShape, hot_x) == 0x0A && offsetof(PointerShape, hot_y) == 0x0E);

// What the guest is to tell from now on; of what it was not to tell before, it tells how that is.
// Source: Linux, synthvid_feature_change.
struct FeatureChange {
  uint8_t wants_dirt;              // 0x00
  uint8_t wants_pointer_position;  // 0x01
  uint8_t wants_pointer_shape;     // 0x02
  uint8_t wants_situation;         // 0x03
};
static_assert(sizeof(FeatureChange) == 4);
static_assert(offsetof(FeatureChange, wants_dirt) == 0x00 && offsetof(FeatureChange, wants_pointer_position) == 0x01 &&
              offsetof(FeatureChange, wants_pointer_shape) == 0x02 && offsetof(FeatureChange, wants_situation) == 0x03);

// Source: Linux, rect.
struct Rectangle {
  Unaligned<int32_t> left;    // 0x00
  Unaligned<int32_t> top;     // 0x04
  Unaligned<int32_t> right;   // 0x08  the first column beyond it
  Unaligned<int32_t> bottom;  // 0x0C  the first row
};
static_assert(sizeof(Rectangle) == 16);
static_assert(offsetof(Rectangle, left) == 0x00 && offsetof(Rectangle, top) == 0x04 &&
              offsetof(Rectangle, right) == 0x08 && offsetof(Rectangle, bottom) == 0x0C);

// Followed by `count` of Rectangle.
// Source: Linux, synthvid_dirt.
struct Dirt {
  uint8_t output;  // 0x00  0
  uint8_t count;   // 0x01
};
static_assert(sizeof(Dirt) == 2);
static_assert(offsetof(Dirt, output) == 0x00 && offsetof(Dirt, count) == 0x01);

// Source: OpenVMM, BiosInfoResponseMessage.
struct BiosInfoResponse {
  uint32_t stop_device_supported;  // 0x00  1: a machine of generation 2
  uint8_t reserved[12];            // 0x04
};
static_assert(sizeof(BiosInfoResponse) == 16);
static_assert(offsetof(BiosInfoResponse, stop_device_supported) == 0x00 &&
              offsetof(BiosInfoResponse, reserved) == 0x04);

// Source: OpenVMM, CapabilityResponseMessage.
struct CapabilityResponse {
  uint32_t lock_on_disconnect;  // 0x00
  uint32_t reserved[15];        // 0x04
};
static_assert(sizeof(CapabilityResponse) == 64);
static_assert(offsetof(CapabilityResponse, lock_on_disconnect) == 0x00 &&
              offsetof(CapabilityResponse, reserved) == 0x04);

}  // namespace hvsdk::hvdef::video

#endif  // HVSDK_HVDEF_VIDEO_H_
