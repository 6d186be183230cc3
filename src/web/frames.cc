// SPDX-License-Identifier: Apache-2.0
#include "web/frames.h"

#include <algorithm>
#include <cstring>

#include "hvsdk/web/web_server.h"

namespace hvsdk::web {
namespace {

constexpr uint8_t kFinal = 0x80, kReserved = 0x70, kTypeBits = 0x0F;
constexpr uint8_t kMasked = 0x80, kLengthBits = 0x7F;
constexpr uint8_t kLength16 = 126, kLength64 = 127;

void AppendBe(uint64_t value, size_t bytes, std::string& output) {
  while (bytes-- != 0) output += static_cast<char>(value >> (8 * bytes));
}

bool IsControl(FrameType type) { return (static_cast<uint8_t>(type) & 0x8) != 0; }

}  // namespace

void AppendFrame(FrameType type, absl::string_view payload, std::string& output) {
  output += static_cast<char>(kFinal | static_cast<uint8_t>(type));
  if (payload.size() < kLength16) {
    output += static_cast<char>(payload.size());
  } else if (payload.size() <= 0xFFFF) {
    output += static_cast<char>(kLength16);
    AppendBe(payload.size(), 2, output);
  } else {
    output += static_cast<char>(kLength64);
    AppendBe(payload.size(), 8, output);
  }
  output.append(payload.data(), payload.size());
}

void AppendClose(CloseCode code, std::string& output) {
  std::string payload;
  AppendBe(static_cast<uint16_t>(code), 2, payload);
  AppendFrame(FrameType::kClose, payload, output);
}

size_t FrameReader::Take(absl::string_view bytes, std::string& stream) {
  size_t taken = 0;
  is_pinged_ = false;
  while (close_code_ == CloseCode::kNone && !is_pinged_) {
    if (!is_in_payload_) {
      taken += TakeHeader(bytes.substr(taken));
      if (close_code_ != CloseCode::kNone || header_size_ < header_needed_) break;
      Begin();
      continue;
    }
    const size_t size = static_cast<size_t>(std::min<uint64_t>(left_, bytes.size() - taken));
    for (size_t i = 0; i < size; ++i) {
      const char byte = static_cast<char>(bytes[taken + i] ^ mask_[mask_at_++ % mask_.size()]);
      if (IsControl(type_)) {
        control_[control_size_++] = byte;
      } else {
        stream += byte;
      }
    }
    taken += size;
    left_ -= size;
    if (left_ != 0) break;
    End();
  }
  return taken;
}

size_t FrameReader::TakeHeader(absl::string_view bytes) {
  size_t taken = 0;
  while (taken < bytes.size() && header_size_ < header_needed_) {
    header_[header_size_++] = static_cast<uint8_t>(bytes[taken++]);
    if (header_size_ != 2) continue;
    // A client's frames are masked.
    if ((header_[1] & kMasked) == 0) {
      close_code_ = CloseCode::kProtocolError;
      break;
    }
    const uint8_t length = header_[1] & kLengthBits;
    header_needed_ += (length == kLength16 ? 2 : length == kLength64 ? 8 : 0) + mask_.size();
  }
  return taken;
}

void FrameReader::Begin() {
  const bool is_final = (header_[0] & kFinal) != 0;
  type_ = static_cast<FrameType>(header_[0] & kTypeBits);
  const uint8_t short_length = header_[1] & kLengthBits;
  const size_t length_bytes = header_needed_ - 2 - mask_.size();
  left_ = length_bytes == 0 ? short_length : 0;
  for (size_t i = 0; i < length_bytes; ++i) left_ = left_ << 8 | header_[2 + i];
  std::memcpy(mask_.data(), &header_[header_needed_ - mask_.size()], mask_.size());
  header_size_ = 0;
  header_needed_ = 2;
  mask_at_ = 0;
  control_size_ = 0;
  // The shortest way to say a length is the only one.
  const bool is_short = length_bytes == 0 || left_ > (length_bytes == 2 ? kLength16 - 1u : 0xFFFFu);
  if ((header_[0] & kReserved) != 0 || !is_short) {
    close_code_ = CloseCode::kProtocolError;
    return;
  }
  switch (type_) {
    case FrameType::kClose:
    case FrameType::kPing:
    case FrameType::kPong:
      if (!is_final || left_ > kMaxControl) close_code_ = CloseCode::kProtocolError;
      break;
    case FrameType::kBinary:
    case FrameType::kContinuation:
      if ((type_ == FrameType::kContinuation) != is_fragmented_) close_code_ = CloseCode::kProtocolError;
      is_fragmented_ = !is_final;
      break;
    case FrameType::kText:
      close_code_ = is_fragmented_ ? CloseCode::kProtocolError : CloseCode::kUnsupported;
      break;
    default:
      close_code_ = CloseCode::kProtocolError;
  }
  if (close_code_ == CloseCode::kNone && left_ > kMaxWebFrame) close_code_ = CloseCode::kTooBig;
  is_in_payload_ = close_code_ == CloseCode::kNone;
}

void FrameReader::End() {
  is_in_payload_ = false;
  if (type_ == FrameType::kPing) is_pinged_ = true;
  // A code, if there is a payload, and what it says is nothing to a server.
  if (type_ == FrameType::kClose) close_code_ = control_size_ == 1 ? CloseCode::kProtocolError : CloseCode::kNormal;
}

}  // namespace hvsdk::web
