// SPDX-License-Identifier: Apache-2.0
// Server: VMBus' root side for one partition. It negotiates with the guest, offers channels, keeps the guest's GPADLs
// and carries interrupts between the guest and the service providers.
//
// It binds the state machine in server_core.h, which decides everything, to a Hypervisor (messages and events), to
// GuestMemory and to the executors of the providers. It starts no thread.
//
// Limits: 2047 channels; GPADLs and messages that wait for the guest are bounded (ServerOptions). Versions 0.13 ("1.0") to 5.3.
//
// Thread-safe, except for what is said to be set before the guest runs. No lock is held while it calls out.
//
// Source: hvdef/vmbus.h; docs/vmbus.md has the messages and states.
//
//   vmbus::Server server(memory, hypervisor, {});
//   RETURN_IF_ERROR(server.Start());
//   ASSIGN_OR_RETURN(auto channel, server.OfferChannel({.class_id = kMine, .instance_id = kFirst}, handler, executor));

#ifndef HVSDK_VMBUS_SERVER_H_
#define HVSDK_VMBUS_SERVER_H_

#include <cstdint>
#include <memory>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "hvsdk/base/executor.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/vmbus/channel.h"
#include "hvsdk/vmbus/hypervisor.h"
#include "hvsdk/vmbus/offer.h"
#include "hvsdk/vmbus/server_core.h"

namespace hvsdk::vmbus {

class Server {
 public:
  Server(GuestMemory& memory, Hypervisor& hypervisor, const ServerOptions& options);
  // All channels are gone, and the guest does not run.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Registers the connections that a guest knows beforehand (1, 2 and 4). AlreadyExists: somebody else has them.
  absl::Status Start();

  // Puts up an offer; a connected guest is told at once. The handler and the executor outlive the channel.
  // AlreadyExists: the same class, instance and subchannel index are offered already. ResourceExhausted: 2047 channels,
  // among them those that were rescinded and that the guest has not yet let go.
  absl::StatusOr<std::unique_ptr<Channel>> OfferChannel(const Offer& offer, ChannelHandler& handler,
                                                        Executor& executor);

  // The guest was reset: every channel is closed, and it is as if no guest had ever connected. VPs are stopped.
  void Reset();

  // The version of the connection, or nothing while no guest is connected.
  absl::optional<hvdef::vmbus::Version> version() const;

  // Shown every channel message in the order it was handled or posted, on the thread that does so. Before the guest runs.
  enum class Direction : uint8_t { kToRoot, kToChild };
  using MessageObserver = absl::AnyInvocable<void(Direction, absl::Span<const uint8_t>)>;
  void SetMessageObserver(MessageObserver observer);

  // Asked for sockets to the host (hvdef::vmbus::TlConnectRequest2, silo id zero if the guest sent none). Without a
  // handler, and with RefuseTlConnect, the guest is told that the connection was refused. Before the guest runs.
  using TlConnectHandler =
      absl::AnyInvocable<void(const hvdef::Guid& endpoint_id, const hvdef::Guid& service_id, const hvdef::Guid& silo_id)>;
  void SetTlConnectHandler(TlConnectHandler handler);
  void RefuseTlConnect(const hvdef::Guid& endpoint_id, const hvdef::Guid& service_id);

 private:
  friend class Channel;
  friend class GpadlLease;
  struct State;

  std::unique_ptr<State> state_;
};

}  // namespace hvsdk::vmbus

#endif  // HVSDK_VMBUS_SERVER_H_
