// SPDX-License-Identifier: Apache-2.0
// Reads HTTP requests, in whatever pieces they come, by Boost.Beast's parser.

#ifndef HVSDK_SRC_WEB_HTTP_REQUEST_H_
#define HVSDK_SRC_WEB_HTTP_REQUEST_H_

#include <memory>
#include <string>

#include "absl/strings/string_view.h"

namespace hvsdk::web {

struct HttpRequest {
  std::string method;
  std::string target;
  std::string body;
  // Of headers what counts here; has_ where an empty one is another thing than none.
  std::string host, origin, websocket_key, websocket_version;
  bool has_origin = false;
  bool is_upgrade = false;  // to a WebSocket
  bool keeps_alive = false;
  bool is_repeated = false;  // a header that says who asks and where is there twice
};

class HttpRequestReader {
 public:
  // Whether the library was built with Beast.
  static bool IsThere();

  HttpRequestReader();
  ~HttpRequestReader();

  // Takes from the front of `input` what is of this request. 0: more is needed, or is_done(). Else the status of the refusal.
  int Take(std::string& input);
  bool is_done() const;
  // Once it is done; the next request needs another reader.
  HttpRequest Release();

 private:
  class Parser;
  std::unique_ptr<Parser> parser_;
};

}  // namespace hvsdk::web

#endif  // HVSDK_SRC_WEB_HTTP_REQUEST_H_
