// SPDX-License-Identifier: Apache-2.0
// NetworkAdapter: the network service provider. An Ethernet adapter on VMBus, which a guest finds by the class
// f8615163-df3e-46c5-913f-f2d2f965ed0e and drives with netvsc (Linux hv_netvsc, FreeBSD hn, iPXE) or netvsc.sys (Windows).
//
// It speaks NVSP from 1 to 6.1 and RNDIS, offers as many subchannels as allowed, and moves frames between guest memory and a port
// (resource/network_port.h) without a copy of its own: what the guest sends goes to the port from where it lies, headers that an
// offload changes apart, and what comes is put by the port into the guest's receive buffer. Checksums and the cutting of large sends
// it does itself where the port does not. Flows that come are spread over the channels by the guest's table (RSS).
//
// Limits: an MTU up to the port's and 9000; 63 subchannels; 32 multicast addresses, more of which a guest gets by asking for all.
// Memory is allocated when a channel opens and when the guest lends its buffers, and for control messages; nothing for a frame.
//
// Threads: one executor runs the adapter; counts() is thread-safe. The port may tell of frames on any thread. With more executors
// (NetworkOptions::executors) channels and the port's queues are spread over all of them, and what is under way on another than the
// adapter's is waited for, a turn at most, when channels come and go, at control messages, and by what is called here.
//
// A guest that breaks the protocol is not read any more until it closes the channel; what a port has no room for waits in the guest's
// ring, and what the guest has no room for waits in the port.
//
// Source: hvdef/netvsp.h, hvdef/rndis.h; docs/network.md.
//
//   const vsp::NetworkOptions options{.instance_id = id, .mac_address = mac, .max_subchannels = 3};
//   const auto network = vsp::NetworkAdapter::Create(server, executor, port, options);
//   if (!network.ok()) return network.status();

#ifndef HVSDK_VSP_NETWORK_H_
#define HVSDK_VSP_NETWORK_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hvsdk/base/executor.h"
#include "hvsdk/hvdef/guid.h"
#include "hvsdk/hvdef/netvsp.h"
#include "hvsdk/resource/network_port.h"
#include "hvsdk/state/component.h"
#include "hvsdk/vmbus/server.h"

namespace hvsdk::vsp {

struct NetworkOptions {
  hvdef::Guid instance_id{};
  MacAddress mac_address{};             // of the adapter, not a group's; the guest may take another for itself
  std::string name;                     // for the guest's user, if it has one
  uint16_t max_subchannels = 0;         // besides the primary channel; the number of VPs less one is a good choice
  uint64_t link_bits = 10'000'000'000;  // a second; what the guest is told
  hvdef::netvsp::Version newest_version = hvdef::netvsp::Version::k61;
  uint32_t number = 0;  // of several in one machine: "network/0" in its saved state
  // Beside the adapter's own, which it shares with none of them: where subchannels have their turns. Each runs tasks on a thread of its
  // own, and outlives the adapter. None: all is done on the adapter's.
  std::vector<Executor*> executors;
};

// Frames and bytes (Ethernet headers included) since the adapter was made.
struct NetworkCounts {
  struct Direction {
    uint64_t unicast_frames = 0, unicast_bytes = 0;
    uint64_t multicast_frames = 0, multicast_bytes = 0;
    uint64_t broadcast_frames = 0, broadcast_bytes = 0;
    uint64_t frames() const { return unicast_frames + multicast_frames + broadcast_frames; }
    uint64_t bytes() const { return unicast_bytes + multicast_bytes + broadcast_bytes; }
  };
  Direction transmitted;  // by the guest
  Direction received;     // by the guest
  // Frames that are none, that ask for an offload which there is not, or that were dropped while the port was full.
  uint64_t transmit_errors = 0;
  uint64_t receive_errors = 0;  // frames that did not fit into what the guest takes
};

// What the guest's driver has agreed on with the adapter so far.
struct NetworkAgreement {
  hvdef::netvsp::Version version{};  // 0: no driver has asked yet
  uint32_t mtu_bytes = 0;
  uint16_t channels = 0;      // that are open
  bool takes_frames = false;  // the guest has its interface up
  bool is_unplugged = false;  // see NetworkAdapter::Unplug
  bool is_link_up = false;    // as the guest sees it, or would if it asked
};

class NetworkAdapter : public state::Component {
 public:
  static constexpr uint16_t kMaxSubchannels = 63;
  static constexpr uint32_t kMaxMtuBytes = 9000;

  // Puts the adapter on the bus and attaches it to the port. Server and executor outlive it. InvalidArgument: an option is beyond its
  // limits. Otherwise as NetworkPort::Attach and vmbus::Server::OfferChannel.
  static absl::StatusOr<std::unique_ptr<NetworkAdapter>> Create(vmbus::Server& server, Executor& executor,
                                                                std::shared_ptr<NetworkPort> port,
                                                                const NetworkOptions& options);

  // Takes the adapter off the bus and the port. On the executor, or on any thread once the executor has stopped for good. Waits for
  // nothing but a turn that is under way on another executor.
  ~NetworkAdapter() override;

  // Ends all work because the guest runs no more. Calls `on_idle` once on the executor. Once, on the executor.
  void Stop(absl::AnyInvocable<void()> on_idle);
  // Takes no more packets, which wait in their rings, and no frames, which wait in the port; what the port had no room for is dropped.
  // Calls `on_paused` once on the executor. Resume goes on. On the executor.
  void Pause(absl::AnyInvocable<void()> on_paused);
  void Resume();

  // Before an adapter is taken from a guest that runs: its link is down from now on, so that the guest ends what it has under way.
  // A driver that is told of the adapter's end in the middle of that may wait for it for ever (Linux' rndis_filter_halt_device waits
  // for completions of all that it has sent, and looks at no ring of an offer that was rescinded). On the executor.
  void Unplug();
  // The adapter has nothing under way, and the guest has given back all that it was lent. On the executor.
  bool is_quiet() const;

  // On the executor.
  NetworkAgreement agreement() const;

  // state::Component, while paused. Saved is what guest and adapter agreed on, what the guest has set, the buffers that it lent by
  // their GPADLs, which of their sections are the guest's, and what found no room in a ring. Restored before vmbus::Server, for it
  // puts the guest's subchannels up again, which the server then opens. After a reset the server is reset too. The MAC address is the
  // adapter's own: a state of one with another is refused.
  std::string StateName() const override;
  absl::Status Save(state::StateWriter& writer) const override;
  absl::Status Restore(state::StateReader& reader) override;
  void Reset() override;

  NetworkCounts counts() const;

 private:
  class Core;
  explicit NetworkAdapter(std::unique_ptr<Core> core);

  const std::unique_ptr<Core> core_;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_VSP_NETWORK_H_
