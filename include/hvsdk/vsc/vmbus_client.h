// SPDX-License-Identifier: Apache-2.0
// VmbusClient: VMBus' child side. It finds a version, takes offers, lends memory to the root, opens and closes
// channels, and leaves the bus in order.
//
// Freestanding: no heap, no exceptions, no RTTI, no library but memcpy and memset; a guest kernel links it as it is.
// Nothing here waits: each call sends what it can and returns; answers come in through OnMessage and OnEvents, which
// the guest's interrupt handler (or a polling loop) calls, and show in state(). A message that the root is too busy to
// take (HV_STATUS_INSUFFICIENT_BUFFERS, _INSUFFICIENT_MEMORY) is kept; Poll sends it again. Any other refusal is final.
//
// Channels and GPADLs are objects of the caller's that the client links together while they are in use; they may be
// reused, and must stay where they are. Up to 2047 channels.
//
// Thread-compatible: the caller keeps interrupts and everything else apart. Handlers may call the client.
//
// The root is not trusted to be right: an answer that nobody waits for is ignored.
//
// Source: hvdef/vmbus.h; docs/vmbus.md.
//
//   vsc::VmbusClient client({.hypercalls = calls, .handlers = handlers});
//   client.Connect();
//   while (client.state() == vsc::VmbusClient::State::kConnecting) WaitForInterrupt();
//   client.RequestOffers();                       // handlers.on_offer(...) for each
//   if (!client.Open(channel, offer, ring)) return;
//   while (channel.state() == vsc::Channel::State::kOpening) WaitForInterrupt();

#ifndef HVSDK_VSC_VMBUS_CLIENT_H_
#define HVSDK_VSC_VMBUS_CLIENT_H_

#include <cstddef>
#include <cstdint>

#include "hvsdk/hvdef/status.h"
#include "hvsdk/hvdef/vmbus.h"

namespace hvsdk::vsc {

// HvCallPostMessage and HvCallSignalEvent, as the guest makes them. The message type is 1.
struct Hypercalls {
  void* context = nullptr;
  hvdef::HvStatus (*post_message)(void* context, uint32_t connection, const void* payload, uint32_t size) = nullptr;
  hvdef::HvStatus (*signal_event)(void* context, uint32_t connection) = nullptr;
};

// Called from within OnMessage. Any may be left out.
struct ClientHandlers {
  void* context = nullptr;
  void (*on_offer)(void* context, const hvdef::vmbus::OfferChannel& offer) = nullptr;
  // The device is gone. Its channel, if it was opened, has ended (on_end was called, it is kRescinded) and its memory
  // is the caller's again: there is nothing to close. Release gives the channel id back; then the device may be
  // offered anew. The id is in range, but the client does not remember offers: ignore one that was not offered or is
  // gone already.
  void (*on_rescind)(void* context, uint32_t channel_id) = nullptr;
  void (*on_all_offers)(void* context) = nullptr;
  // A connection to a host's socket was refused.
  void (*on_tl_connect_result)(void* context, const hvdef::vmbus::TlConnectResult& result) = nullptr;
};

inline constexpr uint32_t kMaxGpadlPages = 8190;  // a range buffer is less than 64 KiB

// Guest pages to lend: a list, or `page_count` pages in a row from `first_pfn`. Borrowed until the GPADL is made. At
// most kMaxGpadlPages.
struct PageList {
  const uint64_t* pfns = nullptr;  // nullptr: in a row
  uint64_t first_pfn = 0;
  uint32_t page_count = 0;
};

class Channel;

// Memory lent to the root under a number.
class Gpadl {
 public:
  enum class State : uint8_t {
    kNone,
    kCreating,
    kCreated,
    kFailed,  // refused; may be tried again
    kTearingDown,
  };
  State state() const { return state_; }
  uint32_t id() const { return id_; }

 private:
  friend class VmbusClient;
  Gpadl* next_ = nullptr;
  Channel* channel_ = nullptr;
  PageList pages_;
  State state_ = State::kNone;
  uint32_t id_ = 0;
  uint32_t words_sent_ = 0;
  bool header_sent_ = false;
  bool teardown_sent_ = false;
};

// One open channel, or one on its way.
class Channel {
 public:
  enum class State : uint8_t {
    kNone,
    kOpening,
    kOpen,
    kFailed,     // the root refused, and the ring is the caller's again; or the client failed
    kClosing,    // until the root gives the ring and all other memory back; then kNone
    kRescinded,  // the device is gone; the ring is the caller's again
  };
  State state() const { return state_; }
  const hvdef::vmbus::OfferChannel& offer() const { return offer_; }
  void* context = nullptr;
  // Called when the channel has opened and whenever the root signals.
  void (*on_signal)(void* context, Channel& channel) = nullptr;
  // Called once for each successful Open, when the channel has ended, whoever ended it: state() is kNone, kFailed or
  // kRescinded. The channel may be opened again from in here.
  void (*on_end)(void* context, Channel& channel) = nullptr;

 private:
  friend class VmbusClient;
  Channel* next_ = nullptr;
  hvdef::vmbus::OfferChannel offer_{};
  Gpadl ring_;
  State state_ = State::kNone;
  uint32_t target_vp_ = 0;
  uint32_t downstream_page_offset_ = 0;
  const uint8_t* user_data_ = nullptr;
  uint32_t user_data_size_ = 0;
  bool open_sent_ = false;
  bool refused_ = false;
  bool close_wanted_ = false;
  bool close_sent_ = false;
  bool modify_wanted_ = false;
  bool modify_waiting_ = false;
  bool modify_failed_ = false;
};

// The memory of a channel's rings, page aligned: first the one that the guest writes, `outgoing_pages` with its control
// page, then the one that the root writes. Control pages are zero.
struct RingPages {
  PageList pages;
  uint32_t outgoing_pages = 0;

  // Each ring has a control page and a page of data at least, and a GPADL can hold them.
  constexpr bool is_valid() const {
    const uint32_t count = pages.page_count;
    return outgoing_pages >= 2 && count >= 4 && count <= kMaxGpadlPages && outgoing_pages <= count - 2;
  }
};

class VmbusClient {
 public:
  struct Config {
    Hypercalls hypercalls;
    ClientHandlers handlers;
    hvdef::vmbus::Version oldest_version = hvdef::vmbus::Version::kV0_13;
    hvdef::vmbus::Version newest_version = hvdef::vmbus::kNewestVersion;
    uint32_t message_vp = 0;  // whose message slot answers come to, from version 3.0 on
    uint8_t message_sint = hvdef::vmbus::kMessageSint;
    // A zeroed page for versions before 2.4; without one those are not tried. Up to 4.1 the root is told of it, too,
    // for channels without an interrupt of their own.
    uint8_t* interrupt_page = nullptr;
    uint64_t interrupt_page_gpa = 0;
  };

  enum class State : uint8_t {
    kDisconnected,
    kConnecting,
    kConnected,
    // No version in common, or the hypervisor refuses our messages for good. All channels are kFailed then; memory that
    // was lent may still be the root's, until a new connection is made.
    kFailed,
    kUnloading,  // until the root has let go of everything; then kDisconnected
  };

  explicit VmbusClient(const Config& config) : config_(config) {}
  VmbusClient(const VmbusClient&) = delete;
  VmbusClient& operator=(const VmbusClient&) = delete;

  State state() const { return state_; }
  hvdef::vmbus::Version version() const { return version_; }  // kConnected

  // Looks for the newest version that both know. Any connection before, of another kernel say, ends.
  void Connect();
  // Asks for offers; later ones come by themselves. Once a connection.
  void RequestOffers();
  // Leaves the bus: when it has, all channels and GPADLs are the caller's again. Before version 3.0 there is no message
  // for this, and the client closes its channels instead.
  void Unload();

  // Lends the ring and opens a channel. It must be kNone, kFailed or kRescinded. `user_data`, up to 120 bytes, is
  // borrowed until it is open. False: the client is not connected, or the pages cannot be two rings.
  [[nodiscard]] bool Open(Channel& channel, const hvdef::vmbus::OfferChannel& offer, const RingPages& ring,
                          uint32_t target_vp = 0, const void* user_data = nullptr, uint32_t user_data_size = 0);
  // Closes it and takes back the ring and the channel's GPADLs, those that are still being made included.
  void Close(Channel& channel);
  // Moves its interrupts, from version 4.1 on. False: not in this version or state, or an earlier move still waits.
  [[nodiscard]] bool Modify(Channel& channel, uint32_t target_vp);
  bool modify_pending(const Channel& channel) const { return channel.modify_wanted_ || channel.modify_waiting_; }
  bool modify_failed(const Channel& channel) const { return channel.modify_failed_; }
  // Tells the root that its packets are there, or that there is room for its own.
  void Signal(Channel& channel);
  // Gives up a channel id: of an offer that nobody wants, or after a rescind. Nothing happens while its channel is
  // in use.
  void Release(uint32_t channel_id);

  // Lends a buffer for a channel's packets to refer to.
  [[nodiscard]] bool CreateGpadl(Gpadl& gpadl, Channel& channel, const PageList& pages);
  // Takes it back, when it is kCreated.
  void TeardownGpadl(Gpadl& gpadl);

  // A connection to a host's socket, from version 4.0 on. It comes as an offer.
  [[nodiscard]] bool TlConnect(const hvdef::Guid& endpoint_id, const hvdef::Guid& service_id);

  // A message from the slot of the message SINT, private copy or not.
  void OnMessage(const void* payload, size_t size);
  // The event flags of SINT 2: takes them and calls on_signal.
  void OnEvents(uint64_t* words, size_t word_count = 32);
  // Sends again what the root was too busy to take. True: nothing is left.
  bool Poll();

 private:
  bool Post(const void* message, size_t size);
  template <typename T>
  bool Post(hvdef::vmbus::MessageType type, T message);
  // Whether channels and GPADLs may still send and hear: connected, or leaving a host that knows no Unload.
  bool is_talking() const {
    return state_ == State::kConnected || (state_ == State::kUnloading && !hvdef::vmbus::HasUnload(version_));
  }
  bool SendContact();
  bool SendReleases();
  // What an object still has to say. False: the root is too busy.
  bool Drive(Channel& channel);
  bool Drive(Gpadl& gpadl);
  bool CloseSoon(Channel& channel);
  bool SendPages(Gpadl& gpadl);
  void BeginGpadl(Gpadl& gpadl, Channel& channel, const PageList& pages);
  void BeginTeardown(Gpadl& gpadl);
  void Fail();
  void ForgetAll(Channel::State state);
  void Leave(Channel& channel, Channel::State state);
  void Leave(Gpadl& gpadl, Gpadl::State state);
  void LeaveIfTornDown(Channel& channel);
  Channel* FindChannel(uint32_t channel_id);
  Gpadl* FindGpadl(uint32_t gpadl_id);
  void TakeFlags(uint64_t* words, size_t word_count, bool from_page);

  void OnVersionResponse(const hvdef::vmbus::VersionResponse& message);
  void OnRescind(uint32_t channel_id);
  void OnOpenResult(const hvdef::vmbus::OpenResult& message);
  void OnGpadlCreated(const hvdef::vmbus::GpadlCreated& message);
  void OnGpadlTorndown(const hvdef::vmbus::GpadlTorndown& message);
  void OnModifyResponse(const hvdef::vmbus::ModifyChannelResponse& message);

  const Config config_;
  State state_ = State::kDisconnected;
  hvdef::vmbus::Version version_{};
  uint32_t connection_ = 0;  // for messages
  uint32_t next_gpadl_id_ = 0xE1E10;
  bool contact_sent_ = false;
  bool unload_sent_ = false;
  bool offers_wanted_ = false;
  Channel* channels_ = nullptr;
  Gpadl* gpadls_ = nullptr;
  // Channel ids to be given back that the root was too busy to hear of.
  uint64_t releases_[32] = {};
};

}  // namespace hvsdk::vsc

#endif  // HVSDK_VSC_VMBUS_CLIENT_H_
