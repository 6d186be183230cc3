// SPDX-License-Identifier: Apache-2.0
// Channel: a service provider's end of one VMBus channel, and ChannelHandler, what the provider implements.
//
// Life, from the provider's side:
//
//                       ┌──────────────── any number of times ────────────────┐
//                       ▼                                                     │
//   OfferChannel ──► offered ──OnOpen──► open ──OnClose──► closing ──FinishClose
//                       │                  │                  │
//                       └─── ~Channel: the offer is rescinded, at any time
//
// The rings, leases and ranges may be used from OnOpen until FinishClose. Closing waits for the provider: only when no
// transfer touches the guest's memory any more does it call FinishClose; only then is the guest told that it has its
// pages back.
//
// Threads: everything here runs on the executor that the channel was offered with, so a provider needs no lock. Only
// Wake may be called from anywhere. A channel that was offered with another executor for its turns has OnSignal called there, and
// nothing else; a turn uses the rings, Wake, and what else is said to be a turn's. While any other function of the handler's runs,
// and between HoldTurns and ReleaseTurns, no turn of the channel does.
//
// What a guest may do to a provider: fill one ring and not empty the other, refill the ring while it is read, write
// what is no packet or too long a one. So a provider reads no request that it has no room to answer, gives others a
// turn after some packets, and leaves a ring alone that is broken (RingStatus::kCorrupt) or whose packets are too long,
// until the guest closes it. PacketPump (packet_pump.h) is a handler that does all that; most providers derive from it.

#ifndef HVSDK_VMBUS_CHANNEL_H_
#define HVSDK_VMBUS_CHANNEL_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "hvsdk/base/clock.h"
#include "hvsdk/base/executor.h"
#include "hvsdk/base/guarded_task.h"
#include "hvsdk/base/hypervisor.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/vmbus/gpadl.h"
#include "hvsdk/vmbus/offer.h"
#include "hvsdk/vmbus/ring/memory.h"
#include "hvsdk/vmbus/ring/reader.h"
#include "hvsdk/vmbus/ring/writer.h"
#include "hvsdk/vmbus/server_core.h"

namespace hvsdk::vmbus {

class Channel;
class Server;

// Implemented by a service provider. Called on the channel's executor.
class ChannelHandler {
 public:
  virtual ~ChannelHandler() = default;

  // The guest opens the channel; its rings are in place. False refuses, and the channel stays closed.
  virtual bool OnOpen(Channel& channel) = 0;

  // As after OnOpen, but the guest has it open already: this is a machine that was restored, and the channel takes over
  // from the one that was saved (vmbus::Server::Restore). The provider attaches what it restored itself before; leases
  // have to be acquired anew. OnSignal follows once the machine goes on.
  virtual void OnRestored(Channel& channel) { (void)channel; }

  // The guest closed the channel, or vanished. No OnSignal follows. The provider calls FinishClose, from in here or
  // later.
  virtual void OnClose(Channel& channel) = 0;

  // After OnClose, until FinishClose: Wake was called. May come without reason. For a provider that waits for transfers.
  virtual void OnClosing(Channel& channel) { (void)channel; }

  // The guest signalled, Wake was called, or the channel has just been opened: look at the ring. May come without
  // reason.
  virtual void OnSignal(Channel& channel) = 0;

  // The guest wants a GPADL back that the provider holds a lease of: give the lease up soon. Until then the guest
  // waits.
  virtual void OnGpadlTeardown(Channel& channel, uint32_t gpadl_id) { (void)channel, (void)gpadl_id; }
};

// The right to use a GPADL: while it lives, the guest is not told that it has the pages back. Movable; given up on
// destruction, at the latest before FinishClose, on the channel's executor.
class GpadlLease {
 public:
  GpadlLease() = default;
  GpadlLease(GpadlLease&& other) noexcept { *this = std::move(other); }
  GpadlLease& operator=(GpadlLease&& other) noexcept;
  ~GpadlLease() { Release(); }

  explicit operator bool() const { return gpadl_ != nullptr; }
  const Gpadl* operator->() const { return gpadl_.get(); }
  const Gpadl& operator*() const { return *gpadl_; }
  uint32_t id() const { return id_; }
  void Release();

 private:
  friend class Channel;
  GpadlLease(Channel& channel, uint32_t id, std::shared_ptr<const Gpadl> gpadl)
      : channel_(&channel), id_(id), gpadl_(std::move(gpadl)) {}

  Channel* channel_ = nullptr;
  uint32_t id_ = 0;
  std::shared_ptr<const Gpadl> gpadl_;
};

class Channel : private PortHandler, private Task {
 public:
  // What the guest writes, and what it reads. The pages are guest memory, wherever they are: it is mapped once, in huge
  // pages where the host has them, which memory that can be mapped twice seldom gets.
  using IncomingRing = RingReader<PagedMemory>;
  using OutgoingRing = RingWriter<PagedMemory>;

  // Rescinds the offer. The handler is not called any more, whatever state the channel was in; the provider has ended
  // its transfers and given up its leases. On the executor, but not from within the handler's functions; or on any
  // thread once the executor has stopped for good.
  ~Channel() override;
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  const Offer& offer() const { return offer_; }
  Executor& executor() const { return executor_; }
  GuestMemory& memory() const { return memory_; }
  // The server's (ServerResources), or nullptr.
  const Clock* clock() const;

  // From OnOpen until FinishClose. A turn's, too.
  bool is_open() const { return ring_ != nullptr; }
  const OpenParams& open_params() const { return open_; }
  // In OnClose: the machine was reset (Server::Reset), and its guest has not closed anything.
  bool is_reset() const;
  IncomingRing& incoming() { return incoming_; }
  OutgoingRing& outgoing() { return outgoing_; }

  // Interrupts the guest because the ring towards it is no longer empty, or the one from it no longer full. Nothing
  // happens if the guest asked for no interrupts.
  void SignalGuest();
  void SignalGuest(Signal signal) {
    if (signal == Signal::kNeeded) SignalGuest();
  }
  // Publishes what is staged in the outgoing ring, and signals if need be.
  void Publish() { SignalGuest(outgoing_.Publish()); }
  // Whether the outgoing ring has room for a packet that takes `packet_size` bytes (see PacketSize). False: the guest
  // is asked to signal when it has made room, so OnSignal comes then; what is staged is published, and what was read
  // given back. A ring that can never have such room (at most its size less 8 bytes) is one to refuse in OnOpen.
  //
  // A guest that does not announce that it will signal (kRingFeaturePendingSendSize: Linux sets it in both rings, the
  // first guests did not know it) is looked at again by a timer of the server's (ServerResources), at intervals that
  // grow from 100 us to 100 ms while it takes nothing; a server without timers looks at its next signal.
  bool WaitForRoom(uint32_t packet_size) {
    if (outgoing_.free_bytes() >= packet_size) return true;
    return AskForRoom(packet_size);
  }
  // Arms the incoming ring, and signals if need be. True: nothing is left to read, and OnSignal will come.
  bool Arm() {
    const Armed armed = incoming_.Arm();
    SignalGuest(armed.signal);
    return armed.may_sleep;
  }

  // Makes OnSignal run soon, or OnClosing. Thread-safe; nothing happens unless the channel is open by then.
  void Wake() { turns_ != nullptr ? turns_->Schedule() : executor_.Schedule(*this); }
  // Likewise, once the host has a processor to spare, at the latest in a moment (Executor::ScheduleWhenIdle). False: the
  // executor cannot tell, and nothing happens. A turn's.
  bool WakeWhenIdle() {
    if (turns_ != nullptr) {
      if (!turns_->executor().knows_idle()) return false;
      turns_->ScheduleWhenIdle();
      return true;
    }
    if (!executor_.knows_idle()) return false;
    executor_.ScheduleWhenIdle(*this);
    return true;
  }

  // When HoldTurns returns no turn is under way on the executor for turns, and none begins until ReleaseTurns was called as often: what
  // turns use is the caller's. A channel without such an executor does nothing; its turns are the caller's anyway. On the executor.
  void HoldTurns() {
    if (turns_ != nullptr) turns_->Hold();
  }
  void ReleaseTurns() {
    if (turns_ != nullptr) turns_->Release();
  }

  // Borrows a GPADL that the guest made for this channel. Empty: there is none by that number, or it is being torn
  // down.
  GpadlLease AcquireGpadl(uint32_t gpadl_id);

  // After OnClose: no transfer touches the guest's memory, and all leases are given up. The rings are gone at once.
  void FinishClose();

  // Offers a subchannel of this primary channel: an equal channel with rings and a target VP of its own. The provider
  // destroys its subchannels when the primary closes. FailedPrecondition: the connection's version has none (before
  // 2.4), or the channel is not open. Otherwise as Server::OfferChannel.
  absl::StatusOr<std::unique_ptr<Channel>> OfferSubchannel(uint16_t subchannel_index, ChannelHandler& handler,
                                                           Executor& executor, Executor* turns = nullptr);

 private:
  friend class Server;
  friend class GpadlLease;

  class Turns final : public GuardedTask {
   public:
    Turns(Channel& channel, Executor& executor) : GuardedTask(executor), channel_(channel) {}
    ~Turns() override { Hold(); }

   private:
    void Turn() override { channel_.TakeTurn(); }

    Channel& channel_;
  };

  Channel(Server& server, OfferId id, const Offer& offer, ChannelHandler& handler, Executor& executor, Executor* turns);

  // PortHandler: the guest signals the channel's connection.
  hvdef::HvStatus OnEvent(uint16_t flag) override;
  // Task.
  void Run() override;
  void TakeTurn();
  // There are notices. Thread-safe.
  void WakeForNotices() { executor_.Schedule(*this); }

  bool AskForRoom(uint32_t packet_size);
  void LookForRoomLater();
  void HandleNotice(const Notice& notice);
  void HandleNotices();
  bool Open(const Notice& notice);
  void MakeRings(const Gpadl& ring, uint32_t downstream_page_offset);
  void TakeOpen(const OpenParams& open, std::shared_ptr<const Gpadl> ring);
  void DropRings();
  void DropRingMemory();
  void TellClosed();

  Server& server_;
  Hypervisor& hypervisor_;
  GuestMemory& memory_;
  const OfferId id_;
  const Offer offer_;
  ChannelHandler& handler_;
  Executor& executor_;
  const std::unique_ptr<Turns> turns_;  // null: the executor's, like all else

  std::atomic<uint64_t> signals_{0};     // on the line that a signal writes anyhow, the task's
  std::atomic<uint64_t> interrupts_{0};  // a turn's to count

  // Notices from the server that Run has not seen; guarded by the server's lock.
  std::vector<Notice> notices_;
  std::atomic<bool> has_notices_{false};

  // The executor's own, and while turns are not held theirs.
  OpenParams open_;
  std::shared_ptr<const Gpadl> ring_;  // set while open or closing
  std::vector<RingPage> page_runs_;    // of the one ring, then of the other
  SharedPages ring_pages_;             // those of it that this end writes
  IncomingRing incoming_;
  OutgoingRing outgoing_;
  uint8_t* interrupt_bits_ = nullptr;  // before version 2.4: the root-to-child half of the interrupt page
  bool closing_ = false;
  uint32_t leases_ = 0;

  // For guests that do not signal room; null in a server without timers.
  std::unique_ptr<Timer> room_timer_;
  std::atomic<bool> room_timer_armed_{false};  // cleared by the callback, on whichever thread that runs
  uint64_t room_interval_100ns_ = 0;
  // The outgoing ring at the last look in vain.
  uint32_t room_published_ = 0;
  uint32_t room_free_ = 0;
};

}  // namespace hvsdk::vmbus

#endif  // HVSDK_VMBUS_CHANNEL_H_
