// SPDX-License-Identifier: Apache-2.0
// RfbServer: what a machine shows, and its keyboard and mouse, for viewers that speak RFB, which is what VNC is (TigerVNC, noVNC, Remmina).
//
// Shapes: RFB 3.3, 3.7 and 3.8; without a password, with VNC's, and either in TLS with a certificate (VeNCrypt X509None, X509Vnc); encodings raw and ZRLE; pseudo-encodings DesktopSize, Cursor and QEMU's extended key
// events, by which a viewer says which key it was rather than what stands on it. True colour of 8, 16 or 32 bits in any order; no colour maps.
//
// A viewer is sent what has changed since it asked last, 40 times a second at most, right from the guest's frame: each pixel is read once
// for each viewer, when its socket has room for it. A viewer that takes nothing costs 64 KiB and a few dirty tiles and holds nobody up. While nothing
// changes there is no timer and no turn of the loop. Where the guest shows nothing there is black, at first 640 x 480 of it.
//
// Who is let in sees and types all. Without a password or viewers' certificates an address has to be one of this host's loopback, or a Unix socket,
// which only its owner can open. VNC's password is eight bytes under DES: it keeps the curious out, and whoever listens only with TLS. Passwords and TLS need
// OpenSSL 3 (libssl.so.3), which is loaded then.
//
// Limits: 32 viewers, all of whom share. A further one is turned away, but for one in whose favour one that has not said what it wants goes.
// Thread class: the loop's thread, or while it does not run. It has to be the display's executor.
// Sources: RFC 6143; the community's rfbproto, "QEMU Extended Key Event Message".
//
//   auto server = viewer::RfbServer::Create(loop, {.display = &display, .keys = keyboard, .pointer = mouse, .name = "vm"});
//   if (!server.ok()) return server.status();
//   if (const absl::Status status = (*server)->Listen("127.0.0.1:5900"); !status.ok()) return status;
//   const absl::StatusOr<int> page = (*server)->Connect();  // a viewer in this process
//   if (page.ok()) CarryToBrowser(*page);

#ifndef HVSDK_VIEWER_RFB_SERVER_H_
#define HVSDK_VIEWER_RFB_SERVER_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "hvsdk/os/event_loop.h"
#include "hvsdk/resource/display.h"
#include "hvsdk/resource/input_source.h"

namespace hvsdk::viewer {

inline constexpr size_t kMaxRfbViewers = 32;

// Whether `address` is "unix:PATH", or "HOST:PORT" with a loopback address, as in "127.0.0.1:5900", "[::1]:5900" and "localhost:0"; any address
// where viewers have to show who they are. InvalidArgument: says why not.
absl::Status CheckRfbAddress(absl::string_view address, bool is_guarded = false);

class RfbServer {
 public:
  struct Options {
    Display* display = nullptr;      // outlives the server
    KeySink* keys = nullptr;         // likewise, as `pointer`; null: viewers only look on
    PointerSink* pointer = nullptr;  //
    std::string name;                // what viewers show in their window's title
    std::string keyboard_layout = "us";
    // What viewers have to know, 1 to 8 bytes; empty: nothing.
    std::string password;
    // A folder with server-cert.pem and server-key.pem, by which all is said in TLS; and with ca-cert.pem, if viewers are to show a certificate that is signed by
    // that. Empty: no TLS.
    std::string tls;
  };

  // InvalidArgument: there is no such layout, the password is too long, or a file of `tls` is at fault. Unimplemented: OpenSSL is not there. Others: the host refuses.
  static absl::StatusOr<std::unique_ptr<RfbServer>> Create(os::EventLoop& loop, Options options);
  // All viewers are cut off; what they hold is let go of.
  virtual ~RfbServer() = default;

  // As CheckRfbAddress has it; port 0 is any that is free. Once. FailedPrecondition, AlreadyExists and others: the address is taken, or the
  // host refuses.
  virtual absl::Status Listen(absl::string_view address) = 0;
  // Where it listens, with the port that it got; empty: nowhere.
  virtual std::string address() const = 0;

  // A viewer's end of a new connection, a stream socket that does not block, for somebody in this process, who is let in just so; who closes it. ResourceExhausted: there are
  // kMaxRfbViewers. Others: the host refuses.
  virtual absl::StatusOr<int> Connect() = 0;

  // How many have been let in, and have not gone.
  virtual size_t viewers() const = 0;
};

}  // namespace hvsdk::viewer

#endif  // HVSDK_VIEWER_RFB_SERVER_H_
