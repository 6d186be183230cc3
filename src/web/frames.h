// SPDX-License-Identifier: Apache-2.0
// A WebSocket's frames, of which here only the payload counts: bytes of a stream, whichever frames and messages they come in.
//
// Source: RFC 6455, 5 "Data Framing", 5.5 "Control Frames", 7.4.1 "Defined Status Codes".

#ifndef HVSDK_SRC_WEB_FRAMES_H_
#define HVSDK_SRC_WEB_FRAMES_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace hvsdk::web {

enum class FrameType : uint8_t {
  kContinuation = 0x0,
  kText = 0x1,
  kBinary = 0x2,
  kClose = 0x8,
  kPing = 0x9,
  kPong = 0xA,
};

enum class CloseCode : uint16_t {
  kNone = 0,  // not to be closed
  kNormal = 1000,
  kGoingAway = 1001,
  kProtocolError = 1002,
  kUnsupported = 1003,
  kTooBig = 1009,
};

// Appends a frame from the server, whole and unmasked.
void AppendFrame(FrameType type, absl::string_view payload, std::string& output);
void AppendClose(CloseCode code, std::string& output);

// Takes a client's frames apart, in whatever pieces they come.
class FrameReader {
 public:
  static constexpr size_t kMaxControl = 125;

  // Takes bytes until all are taken, something is to be answered, or the stream is to be closed, and returns how many. Appends what is the
  // stream's to `stream`.
  size_t Take(absl::string_view bytes, std::string& stream);

  // Set after Take: what is to be sent in a pong, and whether.
  bool is_pinged() const { return is_pinged_; }
  absl::string_view ping() const { return {control_.data(), control_size_}; }
  // Why it is to be closed.
  CloseCode close_code() const { return close_code_; }

 private:
  size_t TakeHeader(absl::string_view bytes);
  // What the header says, when all of it is there.
  void Begin();
  void End();

  std::array<uint8_t, 14> header_;
  size_t header_size_ = 0;    // as far as it is there
  size_t header_needed_ = 2;  // as far as it is known
  bool is_in_payload_ = false;
  bool is_fragmented_ = false;  // a message has begun, and goes on in the next frame of data
  FrameType type_ = FrameType::kBinary;
  uint64_t left_ = 0;  // of the payload
  std::array<uint8_t, 4> mask_;
  size_t mask_at_ = 0;
  std::array<char, kMaxControl> control_;
  size_t control_size_ = 0;
  bool is_pinged_ = false;
  CloseCode close_code_ = CloseCode::kNone;
};

}  // namespace hvsdk::web

#endif  // HVSDK_SRC_WEB_FRAMES_H_
