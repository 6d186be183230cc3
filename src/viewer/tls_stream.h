// SPDX-License-Identifier: Apache-2.0
// TLS for a server's connections, without their sockets: bytes that came go in, bytes to be sent come out. OpenSSL's, which is loaded when
// it is first wanted.
//
// Shapes: TLS 1.2 and 1.3, no session is taken up again. Limits: what came and is less than a record, 16 KiB, and of a handshake 100 KiB;
// what a peer is owed that takes nothing, 100 KiB.
// Thread class: external.

#ifndef HVSDK_SRC_VIEWER_TLS_STREAM_H_
#define HVSDK_SRC_VIEWER_TLS_STREAM_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace hvsdk::viewer {

class TlsStream {
 public:
  virtual ~TlsStream() = default;

  // What came; appends what was in it. False: the peer has ended the stream, does not speak TLS, or asks on and takes no answers.
  virtual bool Receive(absl::Span<const uint8_t> bytes, std::string& plain) = 0;
  // The handshake is over, so there may be something to say.
  virtual bool is_ready() const = 0;
  // False: it is broken.
  virtual bool Send(absl::string_view plain) = 0;
  // Appends what is to be sent.
  virtual void TakeOutput(std::string& output) = 0;
};

class TlsCredentials {
 public:
  virtual ~TlsCredentials() = default;

  // Of a folder, as QEMU's tls-creds-x509 and libvirt have it: server-cert.pem and server-key.pem, and if the peer is to show a certificate
  // ca-cert.pem, by which that has to be signed. InvalidArgument: names the file. Unimplemented: OpenSSL is not there.
  static absl::StatusOr<std::unique_ptr<const TlsCredentials>> Load(const std::string& folder);

  virtual bool asks_for_certificate() const = 0;
  // For a new connection; null: the host has no memory. The credentials outlive it.
  virtual std::unique_ptr<TlsStream> Accept() const = 0;
};

}  // namespace hvsdk::viewer

#endif  // HVSDK_SRC_VIEWER_TLS_STREAM_H_
