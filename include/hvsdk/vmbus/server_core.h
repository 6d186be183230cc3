// SPDX-License-Identifier: Apache-2.0
// ServerCore: everything VMBus' root side decides, as a state machine without threads, locks or I/O. Messages of the
// guest and acts of the host go in; messages for the guest and notices for the providers come out, for the caller to
// deliver. The same input always gives the same output. Server is the caller in a machine; tests, fuzzers and the
// replay of a record drive it directly.
//
// The guest is hostile: any message in any order is valid input. What Hyper-V would ignore is ignored and counted; what
// it would refuse is refused. Memory that a guest can make it use is bounded by ServerOptions.
//
// Thread-compatible.
//
// Source: hvdef/vmbus.h. The states of a channel are drawn in docs/vmbus.md.
//
//   ServerCore core(memory, {.vp_count = 4});
//   const absl::StatusOr<OfferId> id = core.AddOffer(offer);
//   if (!id.ok()) return id.status();
//   core.OnMessage(from_the_guest);
//   for (Notice notice; core.TakeNotice(notice);) {
//     if (notice.kind == Notice::Kind::kOpen) core.CompleteOpen(notice.offer, true);
//   }
//   for (; const OutgoingMessage* message = core.FirstMessage(); core.PopMessage()) Post(*message);

#ifndef HVSDK_VMBUS_SERVER_CORE_H_
#define HVSDK_VMBUS_SERVER_CORE_H_

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <tuple>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/hvdef/vmbus.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/state/reader.h"
#include "hvsdk/vmbus/gpadl.h"
#include "hvsdk/vmbus/offer.h"

namespace hvsdk::vmbus {

struct ServerOptions {
  hvdef::vmbus::Version newest_version = hvdef::vmbus::kNewestVersion;
  // Target VPs at or above it are refused.
  uint32_t vp_count = 0xFFFFFFFF;
  // What a guest may make the root remember: GPADLs, and bytes of page numbers in them.
  uint32_t max_gpadls = 8192;
  uint64_t max_gpadl_bytes = 16 << 20;
  // Messages that wait for the guest; beyond it the guest's own posts are refused until it has taken some. A list of
  // offers may overshoot it once.
  uint32_t max_pending_messages = 1024;
};

// A host's offer, for as long as the host keeps it up. Never reused.
enum class OfferId : uint32_t {};

// A message for the guest.
struct OutgoingMessage {
  VpIndex vp{};
  Sint sint{};
  uint8_t size = 0;
  std::array<uint8_t, hvdef::vmbus::kMaxMessageSize> bytes{};

  absl::Span<const uint8_t> payload() const { return absl::MakeConstSpan(bytes.data(), size); }
};

// Something the host's side has to do.
struct Notice {
  enum class Kind : uint8_t {
    kOpen,           // open, ring: build the rings, ask the provider, then CompleteOpen
    kClose,          // stop the provider, then CompleteClose
    kRetarget,       // target_vp: interrupt this VP from now on, then CompleteRetarget
    kGpadlTeardown,  // gpadl_id: the guest waits for its leases to be given up
    kTlConnect,      // guids: endpoint, service, silo
  };
  Kind kind{};
  OfferId offer{};
  uint32_t gpadl_id = 0;
  uint32_t target_vp = 0;
  OpenParams open;
  std::shared_ptr<const Gpadl> ring;
  std::array<hvdef::Guid, 3> guids{};
};

struct ServerState;

// What the host did to a ServerCore.
struct HostAct {
  enum class Kind : uint8_t {
    kAddOffer,  // offer
    kRemoveOffer,
    kCompleteOpen,  // accepted
    kCompleteClose,
    kCompleteRetarget,
    kAcquireGpadl,  // gpadl_id, and so for kReleaseGpadl
    kReleaseGpadl,
    kRefuseTlConnect,  // guids: endpoint, service
    kReset,
  };
  Kind kind{};
  OfferId id{};
  uint32_t gpadl_id = 0;
  bool accepted = false;
  const Offer* offer = nullptr;
  std::array<hvdef::Guid, 2> guids{};
};

// Told of all that goes in and comes out, in the order it was decided; see transcript.h.
class ServerCoreListener {
 public:
  virtual ~ServerCoreListener() = default;
  virtual void OnToRoot(absl::Span<const uint8_t> message) = 0;
  virtual void OnToChild(absl::Span<const uint8_t> message) = 0;
  virtual void OnHostAct(const HostAct& act) = 0;
  virtual void OnNotice(const Notice& notice) = 0;
};

class ServerCore {
 public:
  ServerCore(GuestMemory& memory, const ServerOptions& options);

  // --- The guest's acts. ---

  // A channel message. False: too many messages wait for the guest; the message has had no effect and may come again.
  bool OnMessage(absl::Span<const uint8_t> message);

  // --- The host's acts. ---

  // AlreadyExists, ResourceExhausted: as Server::OfferChannel.
  absl::StatusOr<OfferId> AddOffer(const Offer& offer);
  // The provider is gone: no notice for it comes any more, and it has no leases.
  void RemoveOffer(OfferId id);
  // After kOpen, kClose and kRetarget, once each and in their order. If the guest has gone meanwhile, kClose follows an
  // open that was accepted.
  void CompleteOpen(OfferId id, bool accepted);
  void CompleteClose(OfferId id);
  void CompleteRetarget(OfferId id);
  // nullptr: no such GPADL of this channel, or it is being torn down. Each success is paired with one ReleaseGpadl.
  std::shared_ptr<const Gpadl> AcquireGpadl(OfferId id, uint32_t gpadl_id);
  void ReleaseGpadl(OfferId id, uint32_t gpadl_id);
  void RefuseTlConnect(const hvdef::Guid& endpoint_id, const hvdef::Guid& service_id);
  // As if no guest had ever connected; channels that are open get kClose.
  void Reset();

  // --- What comes out. ---

  // The oldest message for the guest, or nullptr; valid until the next call of anything.
  const OutgoingMessage* FirstMessage() const { return messages_.empty() ? nullptr : &messages_.front(); }
  void PopMessage() { messages_.pop_front(); }
  // Changes when messages are dropped because their connection ended.
  uint64_t message_epoch() const { return message_epoch_; }
  // The oldest notice. Notices never wait for messages.
  bool TakeNotice(Notice& notice);

  // At most one; nullptr takes it away.
  void SetListener(ServerCoreListener* listener) { listener_ = listener; }

  // --- For a look from outside. ---

  absl::optional<hvdef::vmbus::Version> version() const;
  // Before version 1.1 guests signal through the interrupt page. 0: there is none.
  uint64_t interrupt_page() const { return interrupt_page_; }
  // The offer behind a channel id, or nothing.
  absl::optional<OfferId> FindChannel(uint32_t channel_id) const;
  // 0 while the guest does not see the offer.
  uint32_t channel_id(OfferId id) const;
  bool is_open(OfferId id) const;
  size_t gpadl_count() const { return gpadls_.size(); }
  uint64_t gpadl_bytes() const { return gpadl_bytes_; }
  size_t pending_messages() const { return messages_.size(); }
  uint64_t ignored_messages() const { return ignored_messages_; }

  // The connection that a guest signals for a channel; as Hyper-V forms it: SINT in bits 12-15, channel id below.
  static constexpr uint32_t ChannelConnectionId(uint32_t channel_id) {
    return uint32_t{hvdef::vmbus::kMessageSint} << 12 | channel_id;
  }

  // --- For saving; see Server. ---

  // Whether all is carried out that the host has to do, and no channel is between two states: else FailedPrecondition.
  absl::Status CheckSettled() const;
  // Fills in all but the rings.
  void Save(ServerState& state) const;
  // What `state` means here, for Restore: its channels' ids here and its GPADLs.
  struct Restoration {
    std::vector<absl::optional<OfferId>> ids;          // of each of its channels; nothing for one that was rescinded
    std::vector<std::shared_ptr<const Gpadl>> gpadls;  // of each of its GPADLs; nullptr for one that is not complete
    std::vector<size_t> rings;                         // of each of its channels: its ring among the GPADLs
  };
  // No guest has connected since this was made or reset. InvalidArgument: the state is at fault.
  absl::StatusOr<Restoration> CheckState(const ServerState& state, const state::StateReader& reader) const;
  void Restore(const ServerState& state, const Restoration& restoration);
  OpenParams open_params(OfferId id) const { return channels_.at(id).open; }
  std::shared_ptr<const Gpadl> ring(OfferId id) const { return channels_.at(id).ring; }
  bool has_notices() const { return !notices_.empty(); }

  // Ends the program if the tables disagree. For tests; takes time in proportion to their size.
  void CheckInvariants() const;

 private:
  enum class ChannelState : uint8_t {
    kHidden,   // the guest does not see it
    kClosed,   // offered
    kOpening,  // kOpen is out
    kOpen,
    kClosing,          // kClose is out
    kReopening,        // kClose is out, and the guest asked to open it again
    kRevoked,          // the host is gone; the guest has not let go of the channel id
    kOpeningReleased,  // kOpen is out, and the guest is gone
    kClosingReleased,  // kClose is out, and the guest is gone
  };

  struct Key {
    hvdef::Guid class_id;
    hvdef::Guid instance_id;
    uint16_t subchannel_index;
    friend bool operator<(const Key& a, const Key& b) {
      return std::tie(a.class_id, a.instance_id, a.subchannel_index) <
             std::tie(b.class_id, b.instance_id, b.subchannel_index);
    }
  };

  struct Channel {
    OfferId id{};
    Offer offer;
    ChannelState state = ChannelState::kHidden;
    bool declined = false;  // the guest released it of its own accord: no new offer on this connection
    uint32_t channel_id = 0;
    uint32_t held_id = 0;  // the one it had: no other channel's before the provider has finished with it
    OpenParams open;       // of the open in effect, or asked for
    uint32_t open_id = 0;
    OpenParams reopen;  // kReopening
    uint32_t reopen_id = 0;
    std::shared_ptr<const Gpadl> ring;  // from kOpen until CompleteClose
    bool retargeting = false;
    absl::optional<uint32_t> next_target_vp;
  };

  struct GpadlEntry {
    OfferId offer{};
    uint32_t range_count = 0;
    size_t total_words = 0;
    std::vector<uint64_t> words;         // until complete
    std::shared_ptr<const Gpadl> gpadl;  // when complete
    uint32_t leases = 0;
    bool in_ring = false;
    bool tearing_down = false;  // the guest waits for GpadlTorndown
    bool orphaned = false;      // the guest let go of it all; nobody waits
  };
  using GpadlMap = std::map<uint32_t, GpadlEntry>;

  struct Contact {
    uint32_t version = 0;
    VpIndex message_vp{};
    Sint message_sint{hvdef::vmbus::kMessageSint};
    uint64_t interrupt_page = 0;
    bool bad_target = false;  // a SINT or VTL there is not
    bool bad_pages = false;   // an interrupt page that is not memory, or one monitor page of two
  };
  enum class ConnectionState : uint8_t { kDisconnected, kConnected, kDisconnecting };
  enum class NextAct : uint8_t { kNothing, kUnloadResponse, kContact };

  // The guest's messages: server_core_messages.cc.
  void OnInitiateContact(absl::Span<const uint8_t> message);
  void OnRequestOffers();
  void OnOpenChannel(absl::Span<const uint8_t> message);
  void OnCloseChannel(absl::Span<const uint8_t> message);
  void OnGpadlHeader(absl::Span<const uint8_t> message);
  void OnGpadlBody(absl::Span<const uint8_t> message);
  void OnGpadlTeardown(absl::Span<const uint8_t> message);
  void OnRelidReleased(absl::Span<const uint8_t> message);
  void OnModifyChannel(absl::Span<const uint8_t> message);
  void OnTlConnectRequest(absl::Span<const uint8_t> message);
  void Ignore() { ++ignored_messages_; }

  // The rest: server_core.cc.
  void Connect(const Contact& contact);
  void Disconnect(NextAct next);
  void FinishDisconnectIfDone();
  template <typename T>
  void Post(hvdef::vmbus::MessageType type, T message);
  void PostEmpty(hvdef::vmbus::MessageType type);
  void PostChannelMessage(hvdef::vmbus::MessageType type, uint32_t channel_id);
  void PostGpadlCreated(uint32_t channel_id, uint32_t gpadl_id, int32_t status);
  void PostOpenResult(uint32_t channel_id, uint32_t open_id, int32_t status);
  void PostModifyResponse(uint32_t channel_id, int32_t status);

  OpenParams RestoredOpen(const ServerState& state, size_t channel) const;
  Channel* Find(OfferId id);
  const Channel* Find(OfferId id) const;
  Channel* FindByChannelId(uint32_t channel_id);
  bool MayShow(const Channel& channel) const;
  void Show(Channel& channel);
  void ShowHeldBack(const Key& key);
  void ReleaseByGuest(Channel& channel);  // the channel may be erased by it
  void FreeHeldId(Channel& channel);
  void Erase(Channel& channel);
  bool BeginOpen(Channel& channel, const OpenParams& params, uint32_t open_id);
  void BeginRetarget(Channel& channel, uint32_t target_vp);
  void EndRing(Channel& channel);
  void AddGpadlWords(GpadlMap::iterator it, absl::Span<const uint8_t> bytes);
  void DropGpadlIfUnused(GpadlMap::iterator it);
  GpadlMap::iterator EraseGpadl(GpadlMap::iterator it);
  void OrphanGpadls(absl::optional<OfferId> offer);
  void AddNotice(Notice notice);
  void AddNotice(Notice::Kind kind, OfferId offer, uint32_t gpadl_id = 0, uint32_t target_vp = 0);
  void DropMessages();
  template <typename Predicate>
  void DropNotices(Predicate predicate);
  void Tell(const HostAct& act) {
    if (listener_ != nullptr) listener_->OnHostAct(act);
  }

  GuestMemory& memory_;
  const ServerOptions options_;

  // The connection.
  ConnectionState state_ = ConnectionState::kDisconnected;
  Contact contact_;                  // the one in effect
  hvdef::vmbus::Version version_{};  // kConnected
  bool offers_sent_ = false;
  NextAct next_act_ = NextAct::kNothing;  // kDisconnecting
  Contact next_contact_;
  uint64_t interrupt_page_ = 0;

  // Channels. Invariants: by_key_ has every channel; relids_[i] == c.id where i, its channel_id or held_id, is not 0; at most
  // one channel of a key is not revoked, and at most one is.
  std::map<OfferId, Channel> channels_;
  std::set<std::pair<Key, OfferId>> by_key_;
  std::array<absl::optional<OfferId>, hvdef::vmbus::kMaxChannelId + 1> relids_;
  uint32_t next_offer_id_ = 1;
  size_t busy_channels_ = 0;  // those whose provider has not finished with a guest that left

  // GPADLs, by the guest's number. gpadl_bytes_ is the sum of total_words * 8.
  GpadlMap gpadls_;
  uint64_t gpadl_bytes_ = 0;

  std::deque<OutgoingMessage> messages_;
  uint64_t message_epoch_ = 0;
  std::deque<Notice> notices_;
  uint64_t ignored_messages_ = 0;
  ServerCoreListener* listener_ = nullptr;
};

}  // namespace hvsdk::vmbus

#endif  // HVSDK_VMBUS_SERVER_CORE_H_
