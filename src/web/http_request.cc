// SPDX-License-Identifier: Apache-2.0
// The one source that includes Beast, which takes long to compile.
#include "web/http_request.h"

#include <utility>  // which Boost 1.74 needs and does not include

#if defined(HVSDK_HAVE_BEAST)
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/rfc7230.hpp>
#include <boost/beast/http/string_body.hpp>
#endif

#include "hvsdk/web/web_server.h"

namespace hvsdk::web {

#if defined(HVSDK_HAVE_BEAST)

namespace {

namespace http = boost::beast::http;

std::string ToString(boost::beast::string_view text) { return std::string(text.data(), text.size()); }

int StatusOf(const boost::system::error_code& error) {
  if (error == http::error::header_limit) return 431;
  if (error == http::error::body_limit) return 413;
  return 400;
}

}  // namespace

class HttpRequestReader::Parser : public http::request_parser<http::string_body> {};

bool HttpRequestReader::IsThere() { return true; }

HttpRequestReader::HttpRequestReader() : parser_(std::make_unique<Parser>()) {
  parser_->header_limit(kMaxWebHeaders);
  parser_->body_limit(kMaxWebBody);
}

int HttpRequestReader::Take(std::string& input) {
  boost::system::error_code error;
  size_t taken = 0;
  while (!parser_->is_done() && taken < input.size()) {
    const size_t size = parser_->put(boost::asio::const_buffer(input.data() + taken, input.size() - taken), error);
    taken += size;
    if (error == http::error::need_more || (!error && size == 0)) break;
    if (error) return StatusOf(error);
    // Before anything of the body is looked at, which browsers send whole: of chunks Beast 1.74 has no limit for the lines above and behind
    // them, and an assertion that a client can make false.
    if (parser_->is_header_done() && parser_->chunked()) return 411;
  }
  input.erase(0, taken);
  return !parser_->is_header_done() && input.size() > kMaxWebHeaders ? 431 : 0;
}

bool HttpRequestReader::is_done() const { return parser_->is_done(); }

HttpRequest HttpRequestReader::Release() {
  auto message = parser_->release();
  HttpRequest request;
  request.method = ToString(message.method_string());
  request.target = ToString(message.target());
  request.body = std::move(message.body());
  request.host = ToString(message[http::field::host]);
  request.origin = ToString(message[http::field::origin]);
  request.has_origin = message.count(http::field::origin) != 0;
  request.websocket_key = ToString(message[http::field::sec_websocket_key]);
  request.websocket_version = ToString(message[http::field::sec_websocket_version]);
  request.is_upgrade = http::token_list(message[http::field::upgrade]).exists("websocket") &&
                       http::token_list(message[http::field::connection]).exists("upgrade");
  request.keeps_alive = message.keep_alive();
  request.is_repeated = message.count(http::field::host) > 1 || message.count(http::field::origin) > 1;
  return request;
}

#else

class HttpRequestReader::Parser {};

bool HttpRequestReader::IsThere() { return false; }
HttpRequestReader::HttpRequestReader() = default;
int HttpRequestReader::Take(std::string& /*input*/) { return 501; }
bool HttpRequestReader::is_done() const { return false; }
HttpRequest HttpRequestReader::Release() { return {}; }

#endif

HttpRequestReader::~HttpRequestReader() = default;

}  // namespace hvsdk::web
