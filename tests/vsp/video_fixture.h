// SPDX-License-Identifier: Apache-2.0
// The messages of a guest's display driver, for tests and fuzzers of the video provider.

#ifndef HVSDK_TESTS_VSP_VIDEO_FIXTURE_H_
#define HVSDK_TESTS_VSP_VIDEO_FIXTURE_H_

#include <cstdint>
#include <cstring>
#include <vector>

#include "hvsdk/hvdef/video.h"

namespace hvsdk::vsp {

// A message: headers, `body`, and what stands behind it.
inline std::vector<uint8_t> VideoMessage(hvdef::video::MessageType type, const void* body, size_t size_bytes,
                                         const std::vector<uint8_t>& behind = {}) {
  namespace wire = hvdef::video;
  const auto size = static_cast<uint32_t>(sizeof(wire::Header) + size_bytes + behind.size());
  const wire::PipeHeader pipe{.type = wire::kPipeData, .size_bytes = size};
  const wire::Header header{.type = type, .size_bytes = size};
  std::vector<uint8_t> message(sizeof(pipe) + sizeof(header) + size_bytes);
  std::memcpy(message.data(), &pipe, sizeof(pipe));
  std::memcpy(message.data() + sizeof(pipe), &header, sizeof(header));
  if (size_bytes != 0) std::memcpy(message.data() + sizeof(pipe) + sizeof(header), body, size_bytes);
  message.insert(message.end(), behind.begin(), behind.end());
  return message;
}
template <typename Body>
std::vector<uint8_t> VideoMessage(hvdef::video::MessageType type, const Body& body,
                                  const std::vector<uint8_t>& behind = {}) {
  return VideoMessage(type, &body, sizeof(body), behind);
}

inline std::vector<uint8_t> VersionMessage(hvdef::video::Version version) {
  return VideoMessage(hvdef::video::MessageType::kVersionRequest, hvdef::video::VersionRequest{version});
}
inline std::vector<uint8_t> VramMessage(uint64_t context, bool has_gpa, uint64_t gpa) {
  namespace wire = hvdef::video;
  return VideoMessage(wire::MessageType::kVramLocation,
                      wire::VramLocation{.user_context = wire::Unaligned<uint64_t>::Of(context),
                                         .has_gpa = has_gpa,
                                         .gpa = wire::Unaligned<uint64_t>::Of(gpa)});
}

struct ShownFrame {
  uint32_t width = 64, height = 48, stride_bytes = 256, offset_bytes = 0;
  uint8_t depth_bits = 32, is_active = 1, outputs = 1;
};
inline std::vector<uint8_t> SituationMessage(uint64_t context, const ShownFrame& shown) {
  namespace wire = hvdef::video;
  using Word = wire::Unaligned<uint32_t>;
  return VideoMessage(wire::MessageType::kSituation,
                      wire::Situation{.user_context = wire::Unaligned<uint64_t>::Of(context),
                                      .output_count = shown.outputs,
                                      .output = {.is_active = shown.is_active,
                                                 .offset_bytes = Word::Of(shown.offset_bytes),
                                                 .depth_bits = shown.depth_bits,
                                                 .width = Word::Of(shown.width),
                                                 .height = Word::Of(shown.height),
                                                 .stride_bytes = Word::Of(shown.stride_bytes)}});
}

struct Corners {
  int32_t left, top, right, bottom;
};
inline std::vector<uint8_t> DirtMessage(const std::vector<Corners>& rectangles, int count_off = 0) {
  namespace wire = hvdef::video;
  std::vector<uint8_t> behind(rectangles.size() * sizeof(wire::Rectangle));
  if (!behind.empty()) std::memcpy(behind.data(), rectangles.data(), behind.size());
  return VideoMessage(wire::MessageType::kDirt,
                      wire::Dirt{.output = 0, .count = static_cast<uint8_t>(rectangles.size() + count_off)}, behind);
}
static_assert(sizeof(Corners) == sizeof(hvdef::video::Rectangle));

inline std::vector<uint8_t> PointerMessage(bool is_visible, int32_t x, int32_t y) {
  namespace wire = hvdef::video;
  return VideoMessage(wire::MessageType::kPointerPosition, wire::PointerPosition{.is_visible = is_visible,
                                                                                 .x = wire::Unaligned<int32_t>::Of(x),
                                                                                 .y = wire::Unaligned<int32_t>::Of(y)});
}
inline std::vector<uint8_t> ShapeMessage(uint8_t part, bool has_colours, uint32_t width, uint32_t height,
                                         const std::vector<uint8_t>& pixels) {
  namespace wire = hvdef::video;
  using Word = wire::Unaligned<uint32_t>;
  return VideoMessage(wire::MessageType::kPointerShape,
                      wire::PointerShape{.part = part,
                                         .has_colours = has_colours,
                                         .width = Word::Of(width),
                                         .height = Word::Of(height),
                                         .hot_x = Word::Of(1),
                                         .hot_y = Word::Of(2)},
                      pixels);
}

}  // namespace hvsdk::vsp

#endif  // HVSDK_TESTS_VSP_VIDEO_FIXTURE_H_
