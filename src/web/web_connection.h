// SPDX-License-Identifier: Apache-2.0
// WebConnection: HTTP and WebSocket with one client, without its sockets: bytes from it, bytes for it, and of a WebSocket bytes from and for
// the stream that it leads to.
//
// Whatever a client sends costs no more than kMaxWaiting and a piece in each direction, a request, and an answer of the handler's, which is not
// copied. Who it is is told from the path's token, in a time that does not depend on how much of it is right.
//
// Thread class: the loop's thread.

#ifndef HVSDK_SRC_WEB_WEB_CONNECTION_H_
#define HVSDK_SRC_WEB_WEB_CONNECTION_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "hvsdk/web/web_server.h"
#include "web/frames.h"
#include "web/http_request.h"

namespace hvsdk::web {

class WebConnection {
 public:
  static constexpr size_t kMaxWaiting = 64 << 10;

  enum class Phase : uint8_t {
    kRequest,     // a request is awaited
    kAnswering,   // the handler has it
    kResponding,  // the answer is on its way
    kStream,      // a WebSocket
    kLingering,  // all is said once the output is sent; what the client still sends is read, or it would not see the last of it
    kEnd,
  };

  // Both outlive it. `on_change` is called when an answer comes later.
  WebConnection(const std::string& token, WebHandler& handler, std::function<void()> on_change);

  Phase phase() const { return phase_; }
  bool is_trusted() const { return is_trusted_; }

  bool wants_input() const;
  void Receive(absl::string_view bytes);
  // The client sends no more.
  void ReceiveEnd() { phase_ = Phase::kEnd; }

  // What is to be sent next; empty: nothing. More may follow when this has been sent.
  absl::string_view output() const;
  void Sent(size_t size);
  uint64_t sent_bytes() const { return sent_bytes_; }

  // The stream of a WebSocket that has just been opened, which is the caller's from then on; -1: none.
  int TakeStream() { return std::exchange(stream_fd_, -1); }
  // For it.
  absl::string_view stream_output() const { return stream_output_; }
  void StreamSent(size_t size);
  // From it.
  bool wants_stream_input() const { return phase_ == Phase::kStream && output_.size() < kMaxWaiting; }
  void ReceiveFromStream(absl::string_view bytes) { AppendFrame(FrameType::kBinary, bytes, output_); }
  void ReceiveStreamEnd() { CloseStream(CloseCode::kGoingAway); }

 private:
  void Advance();
  void Handle(const HttpRequest& request);
  void Upgrade(const HttpRequest& request, absl::string_view path);
  void Answer(const WebResponse& response);
  // Says no, and ends.
  void Refuse(int status);
  void TakeFrames();
  void CloseStream(CloseCode code);

  const std::string& token_;
  WebHandler& handler_;
  const std::function<void()> on_change_;

  Phase phase_ = Phase::kRequest;
  bool is_trusted_ = false;
  std::string input_;  // that is not taken yet
  std::unique_ptr<HttpRequestReader> reader_;
  bool keeps_alive_ = false;
  std::string host_;  // of the request
  std::string output_;
  std::shared_ptr<const std::string> body_;  // goes behind `output_`
  size_t body_at_ = 0;
  uint64_t sent_bytes_ = 0;

  FrameReader frames_;
  int stream_fd_ = -1;
  std::string stream_output_;

  // Answers that come when the connection is gone find it gone.
  std::shared_ptr<WebConnection*> self_ = std::make_shared<WebConnection*>(this);
};

}  // namespace hvsdk::web

#endif  // HVSDK_SRC_WEB_WEB_CONNECTION_H_
