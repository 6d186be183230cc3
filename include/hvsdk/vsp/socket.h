// SPDX-License-Identifier: Apache-2.0
// SocketProvider: Hyper-V sockets, between programs in the guest and streams of the host's (resource/socket_service.h).
//
// Each connection is a VMBus channel. Bytes are copied once in this process: from a stream's Read through a buffer that all connections
// share into the guest's ring, and from the ring into the buffer of the connection that a stream's Write is called with. Whoever does not
// read stops the other end by a full ring; nothing else is queued.
//
// Limits: max_connections at once, those that the guest has not opened yet included, each with a buffer of 16 KiB; 256 requests that wait
// to be looked at. More are refused. A guest that does not open what it was offered has `open_within` for it.
//
// Saved state: which connections there are. A restored machine has them as ones whose host's end is gone: its guest is told so as soon as
// it runs. Counts are not part of it.
//
// Thread class: the executor's; a guest's requests come on any thread and wait for it. Errors: see each function.
//
// Source: hvdef/socket.h.
//
//   auto sockets = vsp::SocketProvider::Create(server, {.executor = loop, .timers = timers, .clock = clock}, {});
//   if (!sockets.ok()) return sockets.status();
//   absl::Status status = (*sockets)->Listen(hvdef::socket::ServiceOfPort(1234), service);

#ifndef HVSDK_VSP_SOCKET_H_
#define HVSDK_VSP_SOCKET_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hvsdk/base/clock.h"
#include "hvsdk/base/executor.h"
#include "hvsdk/resource/socket_service.h"
#include "hvsdk/state/component.h"
#include "hvsdk/vmbus/server.h"

namespace hvsdk::vsp {

// All outlive the provider.
struct SocketResources {
  Executor& executor;
  TimerQueue& timers;
  const Clock& clock;
};

struct SocketOptions {
  uint32_t max_connections = 1024;  // at most 1800, as VMBus has 2047 channels
  std::chrono::milliseconds open_within{5000};
};

struct SocketCounts {
  uint32_t connections = 0;  // that there are, opened by the guest or not
  // Since the provider was made:
  uint64_t from_guest = 0, from_host = 0;  // that were opened
  uint64_t refused = 0;                    // of the guest's requests
  uint64_t not_accepted = 0;               // not opened in time
  uint64_t broken = 0;                     // ended otherwise than by both ends
  uint64_t bytes_to_guest = 0, bytes_to_host = 0;
};

class SocketProvider final : public SocketHub, public state::Component {
 public:
  // Takes the server's requests for connections from now on; before the guest runs. InvalidArgument: options.
  static absl::StatusOr<std::unique_ptr<SocketProvider>> Create(vmbus::Server& server, const SocketResources& resources,
                                                                const SocketOptions& options);
  // The guest does not run.
  ~SocketProvider() override;

  // SocketHub.
  absl::Status Listen(const hvdef::Guid& service_id, SocketService& service) override;
  void Unlisten(const hvdef::Guid& service_id) override;
  void ListenToOthers(SocketService* service) override;
  absl::StatusOr<uint32_t> Connect(const hvdef::Guid& service_id, std::unique_ptr<SocketStream> stream) override;

  // Of a guest that does not run: until Resume nothing is carried or offered. Who connects meanwhile waits.
  void Pause();
  void Resume();
  // Ends all connections.
  void Stop();

  SocketCounts counts() const;

  // state::Component.
  std::string StateName() const override { return "sockets"; }
  absl::Status Save(state::StateWriter& writer) const override;
  absl::Status Restore(state::StateReader& reader) override;
  void Reset() override;

 private:
  class Core;
  explicit SocketProvider(std::unique_ptr<Core> core);
  const std::unique_ptr<Core> core_;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_VSP_SOCKET_H_
