// SPDX-License-Identifier: Apache-2.0
// Sockets between a guest and programs on the host, as the host's side has them: SocketStream is the host's end of one connection,
// SocketService what a guest connects to, SocketHub where services are found and where the host connects to the guest's. The socket VSP
// (vsp/socket.h) is a hub; network/unix_sockets.h leads to Unix sockets, and a program that links the SDK brings streams of its own.
//
// Shapes: bytes in order, either way, and an end of each direction for itself. A service is named by its GUID;
// hvdef::socket::ServiceOfPort makes one of a port of Linux' AF_VSOCK.
//
// The hub pulls and pushes: it asks a stream for bytes when the guest has room, and gives it some when the guest has sent them. Nothing
// is kept for a stream that takes less than it was given: what is left stays with the guest, whose program waits then.
//
// Thread class: all calls are on the hub's executor and none waits. SocketWaker::Wake alone is thread-safe. A stream does not call the
// hub from within a call of the hub's.
//
//   class Daytime : public SocketService {
//     absl::StatusOr<std::unique_ptr<SocketStream>> Accept(const hvdef::Guid&) override { return std::make_unique<TimeOfDay>(); }
//   };
//   static Daytime daytime;
//   absl::Status status = hub.Listen(hvdef::socket::ServiceOfPort(13), daytime);

#ifndef HVSDK_RESOURCE_SOCKET_SERVICE_H_
#define HVSDK_RESOURCE_SOCKET_SERVICE_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "hvsdk/hvdef/guid.h"

namespace hvsdk {

// The guest's end, as the stream sees it.
class SocketWaker {
 public:
  virtual ~SocketWaker() = default;
  // The stream has bytes again after it had none, takes some again after it took less than it was given, or has ended. More calls than
  // needed do no harm. Thread-safe, until OnClosed.
  virtual void Wake() = 0;
};

struct SocketTransfer {
  enum class State : uint8_t {
    kOpen,    // with less than was asked for: there will be more, and Wake is called then
    kEnded,   // Read: these bytes are the last
    kBroken,  // the host's end is gone, and the guest is told so
  };
  size_t bytes = 0;
  State state = State::kOpen;
};

// The host's end of a connection. It lives until OnClosed.
class SocketStream {
 public:
  virtual ~SocketStream() = default;

  // The guest has opened its end. Once, before all that follows; not if it never does.
  virtual void OnOpen(SocketWaker& waker) = 0;
  // Puts bytes for the guest into `to`.
  virtual SocketTransfer Read(absl::Span<uint8_t> to) = 0;
  // Takes bytes of the guest's, which are at least one.
  virtual SocketTransfer Write(absl::Span<const uint8_t> from) = 0;
  // The guest sends no more; all that it has sent was written.
  virtual void OnGuestEnded() = 0;
  // It is over, and the stream is destroyed. OK: both directions had ended. DeadlineExceeded: nobody in the guest accepts.
  // Unavailable: the guest's end is gone, or the host's was. InvalidArgument: the guest has broken the protocol.
  virtual void OnClosed(const absl::Status& status) = 0;
};

// What guests connect to.
class SocketService {
 public:
  virtual ~SocketService() = default;
  // A guest connects. An error refuses it.
  virtual absl::StatusOr<std::unique_ptr<SocketStream>> Accept(const hvdef::Guid& service_id) = 0;
};

class SocketHub {
 public:
  virtual ~SocketHub() = default;

  // Guests that connect to `service_id` come to `service`, which lives until Unlisten. AlreadyExists: another one does.
  virtual absl::Status Listen(const hvdef::Guid& service_id, SocketService& service) = 0;
  virtual void Unlisten(const hvdef::Guid& service_id) = 0;
  // Those that connect to services nobody listens on; nullptr: they are refused.
  virtual void ListenToOthers(SocketService* service) = 0;

  // Connects to a service in the guest, and answers by which number the host's end goes; whether the guest accepts, the stream is told.
  // Unavailable: the guest has no sockets, or is not so far. ResourceExhausted: there are too many connections. With an error the stream
  // is destroyed without being told.
  virtual absl::StatusOr<uint32_t> Connect(const hvdef::Guid& service_id, std::unique_ptr<SocketStream> stream) = 0;
};

}  // namespace hvsdk

#endif  // HVSDK_RESOURCE_SOCKET_SERVICE_H_
