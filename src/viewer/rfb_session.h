// SPDX-License-Identifier: Apache-2.0
// RfbSession: the protocol with one viewer, without its socket: bytes from it, and bytes for it whenever there is room for them.
//
// Whatever a viewer sends costs no more than kMaxOutput and a region of tiles. At most one update is under way, of which a viewer has been told
// how many rectangles there are; each is read from the frame when it is sent.
//
// Thread class: the display's executor.

#ifndef HVSDK_SRC_VIEWER_RFB_SESSION_H_
#define HVSDK_SRC_VIEWER_RFB_SESSION_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "hvsdk/input/keyboard_layout.h"
#include "hvsdk/resource/display.h"
#include "hvsdk/resource/input_source.h"
#include "viewer/pixel_encoder.h"
#include "viewer/rfb_guard.h"
#include "viewer/tls_stream.h"

namespace hvsdk::viewer {

class RfbSession final : private DisplayViewer {
 public:
  // What waits for the viewer is at most this and one rectangle of PixelEncoder's.
  static constexpr size_t kMaxOutput = 64 << 10;

  // All of which outlive it; `keys` and `pointer` may be null, and `guard` if anybody is let in. `on_change` is called when there may be something to send; from within
  // the display, so it must not call the session.
  RfbSession(Display& display, KeySink* keys, PointerSink* pointer, const input::KeyboardLayout& layout,
             RfbGuard* guard, std::string name, std::function<void()> on_change);
  ~RfbSession() override;

  // False: it does not speak RFB, and is to go.
  bool Receive(absl::Span<const uint8_t> bytes);

  // What is encoded of a frame at once, so that others have their turn before more: where little has many pixels, kMaxOutput alone would let
  // a viewer have all of them.
  static constexpr size_t kMaxPixels = 16 * PixelEncoder::kMaxWidth * PixelEncoder::kMaxHeight;

  // Appends what there is to send, until `output` has kMaxOutput or kMaxPixels are in it. A new update begins only if it may.
  void Produce(std::string& output, bool may_begin);
  // The viewer has asked for an update, and there is something for it.
  bool wants_update() const;
  // An update is under way.
  bool is_updating() const { return next_ < update_.size(); }
  // It has been told what there is, and gets it.
  bool is_admitted() const { return state_ == State::kReady; }
  // It was refused, and is to go once it has all that there is to send.
  bool is_ending() const { return state_ == State::kEnding; }

 private:
  enum class State : uint8_t { kVersion, kSecurity, kSecureVersion, kSecureType, kResponse, kInit, kReady, kEnding };

  void OnChange() override;

  // How much of what begins with `bytes` is one message, which it has carried out; 0: there is less than that. Nothing: it is none.
  absl::optional<size_t> TakeMessage(absl::Span<const uint8_t> bytes);
  absl::optional<size_t> TakeHandshake(absl::Span<const uint8_t> bytes);
  // What is in TLS, and what is not, or was.
  bool ReceiveSealed(absl::Span<const uint8_t> bytes);
  bool ReceivePlain(absl::Span<const uint8_t> bytes);
  void ProducePlain(std::string& output, size_t most, bool may_begin);
  // What follows once a viewer has chosen how it is let in.
  bool Challenge();
  void Refuse(absl::string_view reason);
  void Admit();
  void TakeEncoding(int32_t encoding);
  void TakeKey(bool is_pressed, uint32_t keysym);
  void TakeScanCode(bool is_pressed, uint32_t code);
  void TakePointer(uint16_t buttons, uint16_t x, uint16_t y);
  void Begin(std::string& output);
  void AppendHeader(const Rectangle& rectangle, int32_t encoding, std::string& output) const;
  void AppendCursor(std::string& output) const;
  bool is_cursor_shown() const { return display_.pointer_place().is_visible && display_.pointer_image().width != 0; }

  Display& display_;
  const input::KeyboardLayout& layout_;
  RfbGuard* const guard_;
  const std::string name_;
  const std::function<void()> on_change_;
  InputSource source_;

  State state_ = State::kVersion;
  bool is_viewer_ = false;  // the display's
  int minor_ = 8;           // of RFB 3
  std::unique_ptr<TlsStream> tls_;
  RfbGuard::Challenge challenge_{};
  std::string input_;     // less than a message
  uint64_t skipped_ = 0;  // bytes to come that nobody wants
  uint32_t encodings_left_ = 0;
  std::string greeting_;  // to be sent before all else
  std::string clear_;     // and before that, without TLS

  // What the viewer takes.
  PixelEncoder encoder_;
  absl::optional<PixelLayout> next_layout_;  // from the next update on
  int32_t encoding_ = 0;
  bool has_encoding_ = false;
  bool takes_size_ = false, takes_cursor_ = false, takes_key_codes_ = false, takes_more_buttons_ = false;
  bool was_told_of_key_codes_ = false, was_told_of_more_buttons_ = false;

  uint32_t width_ = 0, height_ = 0;  // as the viewer knows them
  DirtyRegion dirty_;                // what it has not been sent
  bool has_changes_ = false;         // the display has
  bool is_new_cursor_ = false, is_cursor_known_ = false;
  bool is_asked_ = false;
  std::vector<Rectangle> update_;
  size_t next_ = 0;
  uint16_t buttons_ = 0;
};

}  // namespace hvsdk::viewer

#endif  // HVSDK_SRC_VIEWER_RFB_SESSION_H_
