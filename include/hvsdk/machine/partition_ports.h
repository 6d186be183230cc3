// SPDX-License-Identifier: Apache-2.0
// PartitionPorts: what lets the guests of two machines in one process send each other messages (HvCallPostMessage) and
// events (HvCallSignalEvent). Each machine has one among its parts; the embedding program, which is the root here,
// decides who reaches whom:
//
//   PartitionPorts alice, bob;  // outlive the machines
//   MachineOptions a{.parts = {&alice}}, b{.parts = {&bob}};
//   const absl::Status status = alice.Connect(ConnectionId{0x20000}, bob, {.id = 7, .sint = Sint{3}});
//
// Now the first machine's guest posts to connection 0x20000, and the message arrives on SINT 3 of the second one's VP 0,
// with 7 as its origin. Guests can neither make ports nor connections of their own.
//
// Either machine may begin, end, be reset or be restored first, any number of times; what its guest sends meets a machine
// that is
//   not begun or ended   HV_STATUS_INVALID_PORT_ID
//   paused               messages: HV_STATUS_INSUFFICIENT_BUFFERS, and it tries again; an event is kept until it goes on,
//                        and is saved with the machine
//   running              whatever the SynIC answers, as PostMessage and SignalEvent in base/hypervisor.h say
// Connections are the program's, not the guest's: they outlive a reset. A saved machine remembers which it had: those
// that are not there when it is restored are lost() until somebody makes them anew, and answer
// HV_STATUS_INVALID_CONNECTION_ID.
//
// Limits: 16 messages wait behind a SINT, whoever sent them; so a SINT should be one sender's. VMBus' own is refused.
// Thread class: Connect, Disconnect and lost are thread-safe, but Disconnect is not for the thread of a VP that is
// sending. What a guest sends is delivered on its VP's thread; the only lock that is held meanwhile is the receiver's.
//
// Source: TLFS, chapter "Inter-Partition Communication"; HvCallCreatePort and HvCallConnectPort in one.

#ifndef HVSDK_MACHINE_PARTITION_PORTS_H_
#define HVSDK_MACHINE_PARTITION_PORTS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/machine/part.h"
#include "hvsdk/state/component.h"

namespace hvsdk::machine {

// Where something arrives (HV_PORT_INFO).
struct PartitionPort {
  enum class Type : uint8_t {
    kMessage,  // HvPortTypeMessage
    kEvent,    // HvPortTypeEvent
  };

  uint32_t id = 0;  // 24 bits: what the receiver finds in a message's header
  Type type = Type::kMessage;
  VpIndex vp{0};
  Sint sint{0};
  // Of events: a sender's flag 0 is the receiver's base_flag, and it has flag_count of them. Together at most 2048.
  uint16_t base_flag = 0;
  uint16_t flag_count = 1;
};

class PartitionPorts final : public Part, private state::Component {
 public:
  PartitionPorts();
  ~PartitionPorts() override;

  // What this machine's guest sends to `connection` goes to `port` of `to`'s machine, which may be the same.
  // InvalidArgument: there is no such port, as the message says. AlreadyExists: the connection is in use.
  absl::Status Connect(ConnectionId connection, PartitionPorts& to, const PartitionPort& port);
  // When it returns, nothing comes by this connection any more. Nothing if there is none.
  void Disconnect(ConnectionId connection);

  // Connections that this machine's guest had when it was saved, and has not now.
  std::vector<ConnectionId> lost() const;

  // Part.
  absl::Status Attach(Board& board) override;
  std::vector<state::Component*> components() override { return {this}; }
  void Start() override;
  void Pause(absl::AnyInvocable<void()> done) override;
  void Resume() override;
  void Stop(absl::AnyInvocable<void()> done) override;
  void Detach() override;

 private:
  class Receiver;
  struct Connection;

  // state::Component.
  std::string StateName() const override { return "ports"; }
  absl::Status Save(state::StateWriter& writer) const override;
  absl::Status Restore(state::StateReader& reader) override;
  void Reset() override;

  // This machine's end of what others send; theirs to keep, so that it outlives this.
  const std::shared_ptr<Receiver> receiver_;

  mutable std::mutex mutex_;  // guards what follows; never held while something is delivered
  partition::Partition* partition_ = nullptr;
  std::map<ConnectionId, std::unique_ptr<Connection>> connections_;
  std::set<ConnectionId> lost_;
};

}  // namespace hvsdk::machine

#endif  // HVSDK_MACHINE_PARTITION_PORTS_H_
