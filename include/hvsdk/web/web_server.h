// SPDX-License-Identifier: Apache-2.0
// WebServer: a page for its owner's browser, over HTTP and WebSocket, on the loop's own thread. What the page is, a WebHandler says.
//
// Shapes: HTTP/1.1, GET and POST; WebSockets whose messages are bytes of a stream, in binary frames. Whatever is asked for stands behind a token
// of 128 random bits, the first part of the path: who does not have it is told nothing (404). Browsers are kept from taking it elsewhere:
// no referrer, no other origin, no host but one of the loopback (403), nothing from elsewhere within the page, nothing stored.
//
// A client that is slow, dead or hostile costs itself alone: it is read when what it asked before is answered, and is let go if its request
// is not there after ten seconds, or if it takes nothing of its answer for so long. While nobody asks there is neither a timer nor a turn of the loop.
//
// Limits: 32 connections; a further one takes the place of one that has not shown the token or asks for nothing, or is turned away. 16 KiB of
// headers, 64 KiB of a request's body and of a WebSocket's frame; 64 KiB of a stream's bytes wait in each direction.
// Thread class: the loop's thread, or while it does not run.
// Sources: RFC 9110, 9112 (HTTP), 6455 (WebSocket); W3C's Content Security Policy, level 3.
//
//   absl::StatusOr<std::unique_ptr<web::WebServer>> server = web::WebServer::Listen(loop, "127.0.0.1:6080", handler);
//   if (!server.ok()) return server.status();
//   std::cout << (*server)->url() << std::endl;

#ifndef HVSDK_WEB_WEB_SERVER_H_
#define HVSDK_WEB_WEB_SERVER_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "hvsdk/os/event_loop.h"

namespace hvsdk::web {

inline constexpr size_t kMaxWebConnections = 32;
inline constexpr size_t kMaxWebHeaders = 16 << 10;
inline constexpr size_t kMaxWebBody = 64 << 10;
inline constexpr size_t kMaxWebFrame = 64 << 10;

struct WebRequest {
  bool is_post = false;  // else GET
  std::string path;      // behind the token and its slash, as it was sent, without a query
  std::string body;
};

struct WebResponse {
  int status = 200;
  std::string type = "text/plain; charset=utf-8";
  std::shared_ptr<const std::string> body;  // null: empty
};

// What is behind the token. On the loop's thread.
class WebHandler {
 public:
  // Called once, at once or later; also when the client is gone, or the server.
  using Reply = absl::AnyInvocable<void(WebResponse)>;

  virtual ~WebHandler() = default;
  virtual void OnRequest(const WebRequest& request, Reply reply) = 0;
  // The end of a stream socket that does not block, which is the server's from then on, for a WebSocket at `path`. NotFound: there is none.
  virtual absl::StatusOr<int> Connect(absl::string_view path) = 0;
};

// Whether `address` is one for Listen: "unix:PATH", or "HOST:PORT" of the loopback, as in "127.0.0.1:6080" and "[::1]:0". InvalidArgument: says why not.
absl::Status CheckWebAddress(absl::string_view address);

class WebServer {
 public:
  // Port 0 is any that is free. `handler` outlives the server. FailedPrecondition, AlreadyExists and others: the address is taken, or the
  // host refuses. Unimplemented: the library was built without Boost.Beast.
  static absl::StatusOr<std::unique_ptr<WebServer>> Listen(os::EventLoop& loop, absl::string_view address,
                                                           WebHandler& handler);
  // All connections are cut off.
  virtual ~WebServer() = default;

  // Where the page is, with the token: "http://127.0.0.1:6080/TOKEN/". Of a Unix socket it is what a browser asks for once ssh leads there, with
  // the port left to whoever does that: "http://localhost/TOKEN/".
  virtual std::string url() const = 0;
  virtual size_t connections() const = 0;
};

}  // namespace hvsdk::web

#endif  // HVSDK_WEB_WEB_SERVER_H_
