// SPDX-License-Identifier: Apache-2.0
// Server: VMBus' root side for one partition. It negotiates with the guest, offers channels, keeps the guest's GPADLs
// and carries interrupts between the guest and the service providers.
//
// It binds the state machine in server_core.h, which decides everything, to a Hypervisor (messages and events), to
// GuestMemory and to the executors of the providers. It starts no thread.
//
// Limits: 2047 channels; GPADLs and messages that wait for the guest are bounded (ServerOptions). Versions 0.13 ("1.0")
// to 5.3.
//
// Thread-safe, except for what is said to be set before the guest runs. No lock is held while it calls out.
//
// Source: hvdef/vmbus.h; docs/vmbus.md has the messages and states.
//
//   vmbus::Server server(memory, hypervisor, {});
//   if (const absl::Status status = server.Start(); !status.ok()) return status;
//   const auto channel = server.OfferChannel({.class_id = kMine, .instance_id = kFirst}, handler, executor);
//   if (!channel.ok()) return channel.status();

#ifndef HVSDK_VMBUS_SERVER_H_
#define HVSDK_VMBUS_SERVER_H_

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "hvsdk/base/clock.h"
#include "hvsdk/base/executor.h"
#include "hvsdk/base/hypervisor.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/state/component.h"
#include "hvsdk/vmbus/channel.h"
#include "hvsdk/vmbus/offer.h"
#include "hvsdk/vmbus/server_core.h"

namespace hvsdk::vmbus {

// What a server may use of the program around it. Each may be missing; all outlive the server.
struct ServerResources {
  // Goes on with what a guest's calls have left over: a call then does a bounded part, however many others come
  // meanwhile. Without it the call that found something to do does all there is.
  Executor* executor = nullptr;
  // Both or neither. See Channel::WaitForRoom.
  TimerQueue* timers = nullptr;
  const Clock* clock = nullptr;
};

// Told what becomes of the bus. On whichever thread it happens, without a lock of the server's; it must not wait, nor call the server.
class ServerObserver {
 public:
  virtual ~ServerObserver() = default;
  virtual void OnConnected(hvdef::vmbus::Version version) = 0;
  virtual void OnDisconnected() = 0;
  virtual void OnChannelOpened(const Offer& offer, uint32_t channel_id) = 0;
  // By the guest, or because the offer goes.
  virtual void OnChannelClosed(const Offer& offer, uint32_t channel_id) = 0;
};

class Server : public state::Component, private MessageSlotObserver {
 public:
  Server(GuestMemory& memory, Hypervisor& hypervisor, const ServerOptions& options,
         const ServerResources& resources = {});
  // All channels are gone, and the guest does not run.
  ~Server() override;
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Registers the connections that a guest knows beforehand (1, 2 and 4). AlreadyExists: somebody else has them.
  absl::Status Start();

  // Puts up an offer; a connected guest is told at once. The handler and the executor outlive the channel.
  // AlreadyExists: the same class, instance and subchannel index are offered already. ResourceExhausted: 2047 channels,
  // among them those that were rescinded and that the guest has not yet let go.
  //
  // `turns`, which outlives the channel, too, is where its turns run, if that is not the executor (channel.h).
  absl::StatusOr<std::unique_ptr<Channel>> OfferChannel(const Offer& offer, ChannelHandler& handler, Executor& executor,
                                                        Executor* turns = nullptr);

  // state::Component. The executors have nothing left to do, but for turns that do nothing because their providers have paused; what
  // providers have to do is done on the caller's thread.
  std::string StateName() const override { return "vmbus"; }
  // Whether a state could be saved now, as far as it is up to the host: nothing is left to its executors.
  bool IsSettled() const;
  // FailedPrecondition: a channel is closing, a provider owes an answer or a GPADL, or something is left to do.
  absl::Status Save(state::StateWriter& writer) const override;
  // The same offers have been put up as when it was saved, subchannels too, in an order that decides which channel ids
  // later connections give out; a guest's provider restores its own state before, and puts up its subchannels then.
  // Memory is restored. Channels that were open are open: ChannelHandler::OnRestored. InvalidArgument names an offer
  // that is missing on either side.
  absl::Status Restore(state::StateReader& reader) override;
  // The guest was reset: every channel is closed, and it is as if no guest had ever connected.
  void Reset() override;

  // The version of the connection, or nothing while no guest is connected.
  absl::optional<hvdef::vmbus::Version> version() const;

  // As ServerCore::CheckInvariants. For tests.
  void CheckInvariants() const;

  // What has gone over the channels, each since it was offered. Thread-safe.
  struct ChannelCounts {
    Offer offer;
    uint32_t channel_id = 0;  // 0 while the guest does not see it
    bool is_open = false;
    uint64_t signals = 0;     // of the guest's
    uint64_t interrupts = 0;  // asked for, for the guest
  };
  std::vector<ChannelCounts> channel_counts() const;

  // At most one, before the guest runs; it outlives the channels.
  void SetObserver(ServerObserver* observer) { observer_ = observer; }

  // Shown every channel message in the order in which they were decided; at most one observer. nullptr takes it away: when this
  // returns, it is not called any more. Not from within an observer.
  // Up to 1024 messages wait for it. Behind an observer that is slower than the guest others are lost, and `losses` is
  // told how many.
  enum class Direction : uint8_t { kToRoot, kToChild };
  using MessageObserver = absl::AnyInvocable<void(Direction, absl::Span<const uint8_t>)>;
  using LossObserver = absl::AnyInvocable<void(uint64_t count)>;
  void SetMessageObserver(MessageObserver observer, LossObserver losses = nullptr);

  // Asked for sockets to the host (hvdef::vmbus::TlConnectRequest2, silo id zero if the guest sent none). Without a
  // handler, and with RefuseTlConnect, the guest is told that the connection was refused. Before the guest runs.
  using TlConnectHandler = absl::AnyInvocable<void(const hvdef::Guid& endpoint_id, const hvdef::Guid& service_id,
                                                   const hvdef::Guid& silo_id)>;
  void SetTlConnectHandler(TlConnectHandler handler);
  void RefuseTlConnect(const hvdef::Guid& endpoint_id, const hvdef::Guid& service_id);

 private:
  friend class Channel;
  friend class GpadlLease;

  class MessagePort : public PortHandler {
   public:
    explicit MessagePort(Server& server) : server_(server) {}
    hvdef::HvStatus OnMessage(uint32_t message_type, absl::Span<const uint8_t> payload) override;

   private:
    Server& server_;
  };
  // The connection that guests before version 1.1 signal for all channels.
  class EventPort : public PortHandler {
   public:
    explicit EventPort(Server& server) : server_(server) {}
    hvdef::HvStatus OnEvent(uint16_t flag) override;

   private:
    Server& server_;
  };
  struct Record {
    Direction direction;
    std::vector<uint8_t> message;
  };
  class Recorder;
  // What is left over of Act.
  class Rest final : public Task {
   public:
    explicit Rest(Server& server) : server_(server) {}
    void Run() override { server_.Act(); }

   private:
    Server& server_;
  };

  void OnMessageSlotFree(VpIndex vp, Sint sint) override;

  // Carries out what the core decided. One thread does so at a time, because messages have to keep their order; another
  // one that comes meanwhile leaves its part to it. So that no call goes on for as long as others come, it ends after
  // some steps and leaves the rest to the executor, where one turn after another does the same.
  void Act();
  bool ActOnce(std::unique_lock<std::mutex>& lock);
  void Show(std::unique_lock<std::mutex>& lock);
  bool ActOnNotice(std::unique_lock<std::mutex>& lock);
  bool ActOnMessage(std::unique_lock<std::mutex>& lock);
  void WakeChannel(Channel& channel, void (Channel::*wake)(), std::unique_lock<std::mutex>& lock);
  // Decides under the lock, then acts.
  template <typename Decide>
  void Do(Decide decide) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      decide(core_);
    }
    Act();
  }

  void Remove(Channel& channel);
  absl::Status CheckSettled() const;
  void TakeNotices(Channel& channel, std::vector<Notice>& notices);

  GuestMemory& memory_;
  Hypervisor& hypervisor_;
  const ServerResources resources_;
  const bool has_connection_4_;
  Rest rest_{*this};
  MessagePort message_port_{*this};
  EventPort event_port_{*this};
  bool started_ = false;
  bool resetting_ = false;  // within Reset, while nobody else calls

  // Set before the guest runs.
  ServerObserver* observer_ = nullptr;
  TlConnectHandler tl_connect_handler_;

  // Changed under mutex_ while nobody calls them.
  MessageObserver message_observer_;
  LossObserver loss_observer_;

  mutable std::mutex mutex_;
  std::condition_variable acted_;  // acting_on_ or showing_ has changed
  // Guarded by mutex_:
  ServerCore core_;
  std::map<OfferId, Channel*> channels_;
  std::set<OfferId> wakes_;             // signalled through the interrupt page
  std::unique_ptr<Recorder> recorder_;  // while there is a message observer
  std::deque<Record> records_;          // for it
  uint64_t records_lost_ = 0;           // of them
  bool showing_ = false;                // a message observer is being called
  bool acting_ = false;                 // a thread is in Act
  Channel* acting_on_ = nullptr;        // what it touches without the lock
  bool blocked_ = false;                // the guest's message slot is full ...
  uint64_t blocked_epoch_ = 0;          // ... of this epoch's messages
  uint64_t slots_freed_ = 0;            // how often there was room again
};

}  // namespace hvsdk::vmbus

#endif  // HVSDK_VMBUS_SERVER_H_
