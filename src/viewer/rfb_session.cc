// SPDX-License-Identifier: Apache-2.0
#include "viewer/rfb_session.h"

#include <algorithm>
#include <cctype>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace hvsdk::viewer {
namespace {

// Before there is a frame.
constexpr uint32_t kFirstWidth = 640, kFirstHeight = 480;
constexpr size_t kMostName = 256;

// RFC 6143, 7.6.4: bits of what is held; the wheel's are pressed and let go of for each detent.
constexpr uint16_t kLeft = 1, kMiddle = 2, kRight = 4, kWheelUp = 8, kWheelDown = 16, kWheelLeft = 32, kWheelRight = 64;
constexpr uint16_t kBack = 128, kForward = 256;

uint8_t ButtonsOf(uint16_t held) {
  return static_cast<uint8_t>(
      ((held & kLeft) != 0 ? PointerEvent::kLeft : 0) | ((held & kMiddle) != 0 ? PointerEvent::kMiddle : 0) |
      ((held & kRight) != 0 ? PointerEvent::kRight : 0) | ((held & kBack) != 0 ? PointerEvent::kBack : 0) |
      ((held & kForward) != 0 ? PointerEvent::kForward : 0));
}

uint16_t PlaceOf(uint32_t at, uint32_t size) {
  return static_cast<uint16_t>(size < 2 ? 0 : std::min(at, size - 1) * PointerEvent::kMax / (size - 1));
}

}  // namespace

RfbSession::RfbSession(Display& display, KeySink* keys, PointerSink* pointer, const input::KeyboardLayout& layout,
                       RfbGuard* guard, std::string name, std::function<void()> on_change)
    : display_(display),
      layout_(layout),
      guard_(guard),
      name_(name.substr(0, kMostName)),
      on_change_(std::move(on_change)),
      source_(keys, pointer),
      greeting_(kRfbVersion) {}

RfbSession::~RfbSession() {
  if (is_viewer_) display_.RemoveViewer(*this);
}

void RfbSession::OnChange() {
  has_changes_ = true;
  on_change_();
}

bool RfbSession::Receive(absl::Span<const uint8_t> bytes) {
  return tls_ != nullptr ? ReceiveSealed(bytes) : ReceivePlain(bytes);
}

bool RfbSession::ReceiveSealed(absl::Span<const uint8_t> bytes) {
  std::string plain;
  const bool was_ready = tls_->is_ready();
  // What OpenSSL has to say of an end is sent yet.
  if (!is_ending() && !tls_->Receive(bytes, plain)) state_ = State::kEnding;
  if (is_ending()) return true;
  if (!was_ready && tls_->is_ready() && !Challenge()) return false;
  return plain.empty() || ReceivePlain({reinterpret_cast<const uint8_t*>(plain.data()), plain.size()});
}

bool RfbSession::ReceivePlain(absl::Span<const uint8_t> bytes) {
  // What is left of the last time is less than a message, and those are short.
  std::string joined;
  if (!input_.empty()) {
    joined = std::move(input_);
    joined.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    bytes = {reinterpret_cast<const uint8_t*>(joined.data()), joined.size()};
    input_.clear();
  }
  while (!bytes.empty()) {
    if (skipped_ != 0) {
      const uint64_t now = std::min<uint64_t>(skipped_, bytes.size());
      skipped_ -= now;
      bytes.remove_prefix(now);
      continue;
    }
    if (is_ending()) return true;  // nobody listens any more
    const bool was_plain = tls_ == nullptr;
    const absl::optional<size_t> taken = is_admitted() ? TakeMessage(bytes) : TakeHandshake(bytes);
    if (!taken.has_value()) return false;
    if (*taken == 0) break;
    bytes.remove_prefix(*taken);
    if (was_plain && tls_ != nullptr) return bytes.empty() || ReceiveSealed(bytes);
  }
  input_.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return true;
}

absl::optional<size_t> RfbSession::TakeHandshake(absl::Span<const uint8_t> bytes) {
  switch (state_) {
    case State::kVersion: {
      // 7.1.1: "RFB xxx.yyy\n"; what is not 3.7 or 3.8 counts as 3.3, and what is later as 3.8.
      if (bytes.size() < kRfbVersion.size()) return 0;
      const auto digits = [&](size_t at) -> int {
        int number = 0;
        for (size_t i = at; i < at + 3; ++i) {
          if (std::isdigit(bytes[i]) == 0) return -1;
          number = number * 10 + (bytes[i] - '0');
        }
        return number;
      };
      const int major = digits(4), minor = digits(8);
      if (!std::equal(bytes.begin(), bytes.begin() + 4, kRfbVersion.begin()) || bytes[7] != '.' || bytes[11] != '\n' ||
          major < 3 || minor < 0) {
        return absl::nullopt;
      }
      minor_ = major == 3 && minor < 7 ? 3 : major == 3 && minor == 7 ? 7 : 8;
      const bool has_tls = guard_ != nullptr && guard_->tls() != nullptr;
      const bool has_password = guard_ != nullptr && guard_->asks_for_password();
      const uint8_t security = has_tls ? kSecurityVeNCrypt : has_password ? kSecurityVnc : kSecurityNone;
      if (minor_ >= 7) {
        PutBe8(greeting_, 1);
        PutBe8(greeting_, security);
        state_ = State::kSecurity;
      } else if (has_tls) {  // 7.1.2: no type, and why
        constexpr absl::string_view kReason = "TLS needs RFB 3.7";
        PutBe32(greeting_, 0);
        PutBe32(greeting_, kReason.size());
        absl::StrAppend(&greeting_, kReason);
        state_ = State::kEnding;
      } else {
        PutBe32(greeting_, security);
        if (!Challenge()) return absl::nullopt;
      }
      return kRfbVersion.size();
    }
    case State::kSecurity:
      if (guard_ != nullptr && guard_->tls() != nullptr) {
        if (bytes[0] != kSecurityVeNCrypt) return absl::nullopt;
        PutBe16(greeting_, 0x0002);
        state_ = State::kSecureVersion;
        return 1;
      }
      if (bytes[0] != (guard_ != nullptr && guard_->asks_for_password() ? kSecurityVnc : kSecurityNone)) {
        return absl::nullopt;
      }
      if (!Challenge()) return absl::nullopt;
      return 1;
    case State::kSecureVersion:
      if (bytes.size() < 2) return 0;
      if (GetBe16(bytes.data()) != 0x0002) return absl::nullopt;
      PutBe8(greeting_, 0);  // agreed
      PutBe8(greeting_, 1);
      PutBe32(greeting_, guard_->asks_for_password() ? kX509Vnc : kX509None);
      state_ = State::kSecureType;
      return 2;
    case State::kSecureType:
      if (bytes.size() < 4) return 0;
      if (GetBe32(bytes.data()) != (guard_->asks_for_password() ? kX509Vnc : kX509None)) return absl::nullopt;
      tls_ = guard_->tls()->Accept();
      if (tls_ == nullptr) return absl::nullopt;
      PutBe8(greeting_, 1);  // TLS begins
      clear_ = std::exchange(greeting_, {});
      return 4;
    case State::kResponse: {
      if (bytes.size() < RfbGuard::kChallengeBytes) return 0;
      const RfbGuard::Verdict verdict = guard_->Check(challenge_, bytes.subspan(0, RfbGuard::kChallengeBytes));
      if (verdict == RfbGuard::Verdict::kRight) {
        PutBe32(greeting_, 0);  // 7.1.3: OK
        state_ = State::kInit;
      } else {
        Refuse(verdict == RfbGuard::Verdict::kWrong ? "the password is wrong"
                                                    : "too many wrong passwords, try again in some seconds");
      }
      return RfbGuard::kChallengeBytes;
    }
    case State::kInit:
      // 7.3.1: whether it would share, as all do here.
      Admit();
      return 1;
    case State::kReady:
    case State::kEnding:
      break;
  }
  return absl::nullopt;
}

bool RfbSession::Challenge() {
  if (guard_ != nullptr && guard_->asks_for_password()) {
    const absl::StatusOr<RfbGuard::Challenge> challenge = guard_->NewChallenge();
    if (!challenge.ok()) return false;
    challenge_ = *challenge;
    greeting_.append(reinterpret_cast<const char*>(challenge_.data()), challenge_.size());
    state_ = State::kResponse;
    return true;
  }
  // 7.1.3: OK; before 3.8 nothing is said of no security, unless it is in TLS.
  if (minor_ >= 8 || tls_ != nullptr) PutBe32(greeting_, 0);
  state_ = State::kInit;
  return true;
}

// 7.1.3: failed; since 3.8 with a reason.
void RfbSession::Refuse(absl::string_view reason) {
  PutBe32(greeting_, 1);
  if (minor_ >= 8) {
    PutBe32(greeting_, static_cast<uint32_t>(reason.size()));
    absl::StrAppend(&greeting_, reason);
  }
  state_ = State::kEnding;
}

void RfbSession::Admit() {
  const Frame frame = display_.frame();
  width_ = frame.empty() ? kFirstWidth : frame.width;
  height_ = frame.empty() ? kFirstHeight : frame.height;
  dirty_ = DirtyRegion(width_, height_);
  PutBe16(greeting_, width_);
  PutBe16(greeting_, height_);
  const PixelLayout layout;
  PutBe8(greeting_, layout.bits);
  PutBe8(greeting_, layout.depth);
  PutBe8(greeting_, layout.is_big_endian);
  PutBe8(greeting_, 1);  // true colour
  for (const uint16_t max : layout.max) PutBe16(greeting_, max);
  for (const uint8_t shift : layout.shift) PutBe8(greeting_, shift);
  greeting_.append(3, '\0');
  PutBe32(greeting_, static_cast<uint32_t>(name_.size()));
  greeting_ += name_;
  state_ = State::kReady;
  is_viewer_ = true;
  display_.AddViewer(*this);
}

absl::optional<size_t> RfbSession::TakeMessage(absl::Span<const uint8_t> bytes) {
  if (encodings_left_ != 0) {
    if (bytes.size() < 4) return 0;
    --encodings_left_;
    TakeEncoding(static_cast<int32_t>(GetBe32(bytes.data())));
    return 4;
  }
  const uint8_t* const message = bytes.data();
  const auto has = [&](size_t size) { return bytes.size() >= size; };
  switch (message[0]) {
    case kSetPixelFormat: {
      constexpr size_t kSize = 4 + kPixelLayoutBytes;
      if (!has(kSize)) return 0;
      const uint8_t* const from = message + 4;
      PixelLayout layout{.bits = from[0], .depth = from[1], .is_big_endian = from[2] != 0};
      for (size_t i = 0; i < 3; ++i) {
        layout.max[i] = GetBe16(from + 4 + 2 * i);
        layout.shift[i] = from[10 + i];
      }
      if (from[3] == 0 || !PixelEncoder::IsLayout(layout)) return absl::nullopt;
      next_layout_ = layout;  // what is under way is in the one before
      return kSize;
    }
    case kSetEncodings:
      if (!has(4)) return 0;
      encodings_left_ = GetBe16(message + 2);
      encoding_ = kRaw;
      has_encoding_ = takes_size_ = takes_cursor_ = takes_key_codes_ = takes_more_buttons_ = false;
      is_new_cursor_ = false;
      return 4;
    case kUpdateRequest:
      if (!has(10)) return 0;
      is_asked_ = true;
      if (message[1] == 0) {
        dirty_.Add({GetBe16(message + 2), GetBe16(message + 4), GetBe16(message + 6), GetBe16(message + 8)});
      }
      return 10;
    case kKeyEvent:
      if (!has(8)) return 0;
      TakeKey(message[1] != 0, GetBe32(message + 4));
      return 8;
    case kPointerEvent:
      if (!has(6)) return 0;
      if (was_told_of_more_buttons_ && (message[1] & kMoreButtons) != 0) {
        if (!has(7)) return 0;
        TakePointer(static_cast<uint16_t>((message[1] & ~kMoreButtons) | message[6] << 7), GetBe16(message + 2),
                    GetBe16(message + 4));
        return 7;
      }
      TakePointer(message[1], GetBe16(message + 2), GetBe16(message + 4));
      return 6;
    case kClientCutText:
      if (!has(8)) return 0;
      skipped_ = GetBe32(message + 4);  // Hyper-V's protocols have no clipboard
      return 8;
    case kQemuMessage:
      if (!has(12)) return has(2) && message[1] != kQemuKeyEvent ? absl::nullopt : absl::optional<size_t>(0);
      if (message[1] != kQemuKeyEvent) return absl::nullopt;
      TakeScanCode(GetBe16(message + 2) != 0, GetBe32(message + 8));
      return 12;
    default:
      return absl::nullopt;
  }
}

void RfbSession::TakeEncoding(int32_t encoding) {
  // The first that is known is the one that it likes best.
  if ((encoding == kRaw || (encoding == kZrle && encoder_.StartZrle())) && !has_encoding_) {
    encoding_ = encoding;
    has_encoding_ = true;
  }
  if (encoding == kDesktopSize) {
    takes_size_ = true;
    has_changes_ = true;  // perhaps it could not be told of a size before
  } else if (encoding == kCursor) {
    if (!std::exchange(takes_cursor_, true)) is_new_cursor_ = is_cursor_known_ || is_cursor_shown();
  } else if (encoding == kQemuExtendedKeys) {
    takes_key_codes_ = true;
  } else if (encoding == kExtendedMouseButtons) {
    takes_more_buttons_ = true;
  }
}

void RfbSession::TakeKey(bool is_pressed, uint32_t keysym) {
  const absl::optional<uint16_t> code = layout_.CodeOfKeysym(keysym);
  if (code.has_value()) source_.Key({.code = *code, .is_pressed = is_pressed});
}

void RfbSession::TakeScanCode(bool is_pressed, uint32_t code) {
  // A key with the prefix 0xE0 has its highest bit set; those two have codes of their own, as QEMU's table of "qnum" has it.
  constexpr uint32_t kQemuPause = 0xC6, kQemuPrint = 0x54, kPrint = 0xE037;
  if (code > 0xFF) return;
  uint32_t ours = (code & 0x80) != 0 ? 0xE000 | (code & 0x7F) : code;
  if (code == kQemuPause) ours = KeyEvent::kPause;
  if (code == kQemuPrint) ours = kPrint;
  if (IsScanCode(static_cast<uint16_t>(ours))) {
    source_.Key({.code = static_cast<uint16_t>(ours), .is_pressed = is_pressed});
  }
}

void RfbSession::TakePointer(uint16_t buttons, uint16_t x, uint16_t y) {
  const uint16_t pressed = static_cast<uint16_t>(buttons & ~buttons_);
  buttons_ = buttons;
  const auto is_pressed = [&](uint16_t button) { return (pressed & button) != 0 ? 1 : 0; };
  source_.Point({.x = PlaceOf(x, width_),
                 .y = PlaceOf(y, height_),
                 .buttons = ButtonsOf(buttons),
                 .wheel = static_cast<int8_t>(is_pressed(kWheelUp) - is_pressed(kWheelDown)),
                 .pan = static_cast<int8_t>(is_pressed(kWheelRight) - is_pressed(kWheelLeft))});
}

bool RfbSession::wants_update() const {
  return is_admitted() && is_asked_ && !is_updating() && encodings_left_ == 0 &&
         (has_changes_ || !dirty_.empty() || is_new_cursor_ || (takes_key_codes_ && !was_told_of_key_codes_) ||
          (takes_more_buttons_ && !was_told_of_more_buttons_));
}

void RfbSession::Produce(std::string& output, bool may_begin) {
  output += std::exchange(clear_, {});
  if (tls_ == nullptr) return ProducePlain(output, kMaxOutput, may_begin);
  if (tls_->is_ready()) {
    std::string plain;
    ProducePlain(plain, kMaxOutput - std::min(output.size(), kMaxOutput), may_begin);
    if (!tls_->Send(plain)) state_ = State::kEnding;
  }
  tls_->TakeOutput(output);
}

void RfbSession::ProducePlain(std::string& output, size_t most, bool may_begin) {
  output += std::exchange(greeting_, {});
  if (may_begin && wants_update()) Begin(output);
  if (!is_updating()) return;
  const Frame frame = display_.frame();
  for (size_t pixels = 0; is_updating() && output.size() < most && pixels < kMaxPixels;) {
    const Rectangle& rectangle = update_[next_++];
    pixels += size_t{rectangle.width} * rectangle.height;
    AppendHeader(rectangle, encoding_, output);
    if (encoding_ == kZrle) {
      encoder_.AppendZrle(frame, rectangle, output);
    } else {
      encoder_.AppendRaw(frame, rectangle, output);
    }
  }
  if (!is_updating()) {
    update_ = {};
    next_ = 0;
  }
}

void RfbSession::Begin(std::string& output) {
  if (next_layout_.has_value()) encoder_.SetLayout(*std::exchange(next_layout_, absl::nullopt));
  if (std::exchange(has_changes_, false)) {
    const DisplayChanges changes = display_.TakeChanges(*this);
    if (changes.has_new_frame) dirty_.AddAll();
    for (const Rectangle& rectangle : changes.dirty) dirty_.Add(rectangle);
    // Where the pointer is, its viewer knows.
    if (takes_cursor_ && (changes.has_new_image || (changes.has_new_place && is_cursor_known_ != is_cursor_shown()))) {
      is_new_cursor_ = is_cursor_known_ || is_cursor_shown();
    }
  }
  const Frame frame = display_.frame();
  if (takes_size_ && !frame.empty() && (frame.width != width_ || frame.height != height_)) {
    // By itself: what the viewer has of the old size is nothing now, and it asks again.
    width_ = frame.width;
    height_ = frame.height;
    dirty_ = DirtyRegion(width_, height_);
    dirty_.AddAll();
    is_asked_ = false;
    PutBe16(output, kFramebufferUpdate);  // and a byte of nothing
    PutBe16(output, 1);
    AppendHeader({0, 0, width_, height_}, kDesktopSize, output);
    return;
  }
  for (const Rectangle& rectangle : dirty_.Rectangles()) {
    for (uint32_t y = 0; y < rectangle.height; y += PixelEncoder::kMaxHeight) {
      for (uint32_t x = 0; x < rectangle.width; x += PixelEncoder::kMaxWidth) {
        update_.push_back({rectangle.x + x, rectangle.y + y, std::min(PixelEncoder::kMaxWidth, rectangle.width - x),
                           std::min(PixelEncoder::kMaxHeight, rectangle.height - y)});
      }
    }
  }
  dirty_.Clear();
  const bool tells_of_key_codes = takes_key_codes_ && !std::exchange(was_told_of_key_codes_, takes_key_codes_);
  const bool tells_of_more_buttons = takes_more_buttons_ && !std::exchange(was_told_of_more_buttons_, true);
  const bool is_new_cursor = std::exchange(is_new_cursor_, false);
  const size_t count = update_.size() + tells_of_key_codes + tells_of_more_buttons + is_new_cursor;
  if (count == 0) return;
  HVSDK_CHECK(count <= 0xFFFF);  // a frame has at most 32768 tiles
  is_asked_ = false;
  PutBe16(output, kFramebufferUpdate);
  PutBe16(output, static_cast<uint32_t>(count));
  if (tells_of_key_codes) AppendHeader({}, kQemuExtendedKeys, output);
  if (tells_of_more_buttons) AppendHeader({}, kExtendedMouseButtons, output);
  if (is_new_cursor) {
    is_cursor_known_ = is_cursor_shown();
    AppendCursor(output);
  }
}

void RfbSession::AppendHeader(const Rectangle& rectangle, int32_t encoding, std::string& output) const {
  PutBe16(output, rectangle.x);
  PutBe16(output, rectangle.y);
  PutBe16(output, rectangle.width);
  PutBe16(output, rectangle.height);
  PutBe32(output, static_cast<uint32_t>(encoding));
}

// 7.8.1: pixels, and a bit for each of them that is there.
void RfbSession::AppendCursor(std::string& output) const {
  static const PointerImage kNone;
  const PointerImage& image = is_cursor_known_ ? display_.pointer_image() : kNone;
  AppendHeader({image.hot_x, image.hot_y, image.width, image.height}, kCursor, output);
  std::string mask;
  for (uint32_t y = 0; y < image.height; ++y) {
    uint32_t byte = 0;
    for (uint32_t x = 0; x < image.width; ++x) {
      const uint8_t* const pixel = &image.pixels[(size_t{y} * image.width + x) * 4];
      encoder_.AppendPixel(uint32_t{pixel[2]} << 16 | uint32_t{pixel[1]} << 8 | pixel[0], output);
      byte |= (pixel[3] >= 128 ? 0x80u : 0u) >> x % 8;
      if (x % 8 == 7 || x + 1 == image.width) PutBe8(mask, std::exchange(byte, 0));
    }
  }
  output += mask;
}

}  // namespace hvsdk::viewer
