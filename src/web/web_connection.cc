// SPDX-License-Identifier: Apache-2.0
#include "web/web_connection.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "web/sha1.h"

namespace hvsdk::web {
namespace {

absl::string_view ReasonOf(int status) {
  switch (status) {
    case 101:
      return "Switching Protocols";
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 409:
      return "Conflict";
    case 411:
      return "Length Required";
    case 413:
      return "Content Too Large";
    case 431:
      return "Request Header Fields Too Large";
    case 503:
      return "Service Unavailable";
    default:
      return "Error";
  }
}

// A name that nobody but this host can have: whoever makes a name of theirs point here (DNS rebinding) is told nothing. The port may be
// another one's, through which ssh leads.
bool IsLoopback(absl::string_view host) {
  if (!absl::ConsumePrefix(&host, "[::1]") && !absl::ConsumePrefix(&host, "localhost")) {
    if (!absl::ConsumePrefix(&host, "127.")) return false;
    const size_t end = host.find_first_not_of("0123456789.");
    host = end == host.npos ? "" : host.substr(end);
  }
  if (host.empty()) return true;
  return host.size() > 1 && host[0] == ':' && host.substr(1).find_first_not_of("0123456789") == host.npos;
}

bool IsSame(absl::string_view secret, absl::string_view said) {
  if (said.size() != secret.size()) return false;
  unsigned difference = 0;
  for (size_t i = 0; i < secret.size(); ++i) difference |= static_cast<unsigned char>(secret[i] ^ said[i]);
  return difference == 0;
}

bool IsWebSocketKey(const std::string& key) {
  std::string bytes;
  return key.size() == 24 && absl::Base64Unescape(key, &bytes) && bytes.size() == 16;
}

}  // namespace

WebConnection::WebConnection(const std::string& token, WebHandler& handler, std::function<void()> on_change)
    : token_(token),
      handler_(handler),
      on_change_(std::move(on_change)),
      reader_(std::make_unique<HttpRequestReader>()) {}

bool WebConnection::wants_input() const {
  switch (phase_) {
    case Phase::kRequest:
    case Phase::kLingering:
      return true;
    case Phase::kStream:
      return input_.empty();
    default:
      return false;
  }
}

void WebConnection::Receive(absl::string_view bytes) {
  if (phase_ == Phase::kLingering || phase_ == Phase::kEnd) return;
  input_.append(bytes.data(), bytes.size());
  if (phase_ == Phase::kRequest) return Advance();
  if (phase_ == Phase::kStream) TakeFrames();
}

void WebConnection::Advance() {
  const int refusal = reader_->Take(input_);
  if (refusal != 0) return Refuse(refusal);
  if (!reader_->is_done()) return;
  const HttpRequest request = reader_->Release();
  reader_ = std::make_unique<HttpRequestReader>();
  Handle(request);
}

void WebConnection::Handle(const HttpRequest& request) {
  keeps_alive_ = request.keeps_alive;
  if (request.is_repeated) return Refuse(400);
  if (!IsLoopback(request.host)) return Refuse(403);
  host_ = request.host;
  absl::string_view path = request.target;
  path = path.substr(0, path.find('?'));
  const size_t slash = path.find('/', 1);
  if (path.empty() || path[0] != '/' || slash == path.npos || !IsSame(token_, path.substr(1, slash - 1))) {
    return Refuse(404);
  }
  path.remove_prefix(slash + 1);
  // A page of another origin that has come to know the token; no browser lets it lie.
  if (request.has_origin && request.origin != absl::StrCat("http://", host_)) return Refuse(403);
  is_trusted_ = true;
  if (request.is_upgrade) return Upgrade(request, path);
  if (request.method != "GET" && request.method != "POST") return Refuse(405);

  phase_ = Phase::kAnswering;
  auto is_late = std::make_shared<bool>(false);
  handler_.OnRequest({.is_post = request.method == "POST", .path = std::string(path), .body = request.body},
                     [self = std::weak_ptr(self_), is_late](const WebResponse& response) {
                       const auto alive = self.lock();
                       if (alive == nullptr) return;
                       (*alive)->Answer(response);
                       if (*is_late) (*alive)->on_change_();
                     });
  *is_late = true;
}

void WebConnection::Answer(const WebResponse& response) {
  phase_ = Phase::kResponding;
  body_ = response.body;
  body_at_ = 0;
  absl::StrAppend(&output_, "HTTP/1.1 ", response.status, " ", ReasonOf(response.status),
                  "\r\nContent-Length: ", body_ == nullptr ? 0 : body_->size(), "\r\n");
  if (body_ != nullptr) absl::StrAppend(&output_, "Content-Type: ", response.type, "\r\n");
  if (!keeps_alive_) absl::StrAppend(&output_, "Connection: close\r\n");
  // Terminals style their letters by style sheets that they make; all else comes from here or is made by the page itself.
  absl::StrAppend(&output_,
                  "Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nX-Content-Type-Options: nosniff\r\n",
                  "Cross-Origin-Opener-Policy: same-origin\r\nCross-Origin-Resource-Policy: same-origin\r\n");
  if (is_trusted_) {
    absl::StrAppend(&output_,
                    "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
                    "img-src 'self' data: blob:; connect-src 'self' ws://",
                    host_, "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n");
  }
  output_ += "\r\n";
}

void WebConnection::Refuse(int status) {
  keeps_alive_ = false;
  Answer({.status = status});
  phase_ = Phase::kLingering;
}

void WebConnection::Upgrade(const HttpRequest& request, absl::string_view path) {
  constexpr absl::string_view kGuid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";  // RFC 6455, 1.3
  if (request.method != "GET" || request.websocket_version != "13" || !IsWebSocketKey(request.websocket_key)) {
    return Refuse(400);
  }
  const absl::StatusOr<int> stream = handler_.Connect(path);
  if (!stream.ok()) return Refuse(absl::IsNotFound(stream.status()) ? 404 : 503);
  stream_fd_ = *stream;
  phase_ = Phase::kStream;
  absl::StrAppend(&output_, "HTTP/1.1 101 ", ReasonOf(101), "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
                  "Sec-WebSocket-Accept: ", absl::Base64Escape(Sha1(absl::StrCat(request.websocket_key, kGuid))),
                  "\r\n\r\n");
  TakeFrames();
}

absl::string_view WebConnection::output() const {
  if (!output_.empty()) return output_;
  return body_ == nullptr ? absl::string_view() : absl::string_view(*body_).substr(body_at_);
}

void WebConnection::Sent(size_t size) {
  sent_bytes_ += size;
  if (!output_.empty()) {
    output_.erase(0, size);
  } else {
    body_at_ += size;
  }
  if (!output().empty()) return;
  body_ = nullptr;
  if (phase_ == Phase::kStream) return TakeFrames();  // there is room for pongs
  if (phase_ != Phase::kResponding) return;
  phase_ = keeps_alive_ ? Phase::kRequest : Phase::kLingering;
  if (phase_ == Phase::kRequest && !input_.empty()) Advance();
}

void WebConnection::StreamSent(size_t size) {
  stream_output_.erase(0, size);
  if (phase_ == Phase::kStream) TakeFrames();
}

void WebConnection::TakeFrames() {
  while (!input_.empty() && output_.size() < kMaxWaiting && stream_output_.size() < kMaxWaiting) {
    input_.erase(0, frames_.Take(input_, stream_output_));
    if (frames_.close_code() != CloseCode::kNone) return CloseStream(frames_.close_code());
    if (frames_.is_pinged()) AppendFrame(FrameType::kPong, frames_.ping(), output_);
  }
}

void WebConnection::CloseStream(CloseCode code) {
  AppendClose(code, output_);
  phase_ = Phase::kLingering;
  input_.clear();
}

}  // namespace hvsdk::web
