// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmbus/server.h"

#include <atomic>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/guid_text.h"
#include "base/status_macros.h"

namespace hvsdk::vmbus {

namespace wire = hvdef::vmbus;
using hvdef::HvStatus;

namespace {

// What one call of a guest carries out, its own and others' doings.
constexpr int kStepsPerCall = 32;

}  // namespace

// Keeps what the core decides for the observer, who is called without the lock. A guest that sends faster than the
// observer looks must not make us remember without bound.
class Server::Recorder : public ServerCoreListener {
 public:
  static constexpr size_t kMaxRecords = 1024;

  explicit Recorder(Server& server) : server_(server) {}
  void OnToRoot(absl::Span<const uint8_t> message) override { Keep(Direction::kToRoot, message); }
  void OnToChild(absl::Span<const uint8_t> message) override { Keep(Direction::kToChild, message); }
  void OnHostAct(const HostAct&) override {}
  void OnNotice(const Notice&) override {}

 private:
  void Keep(Direction direction, absl::Span<const uint8_t> message) {
    if (server_.records_.size() == kMaxRecords) {
      ++server_.records_lost_;
    } else {
      server_.records_.push_back({direction, {message.begin(), message.end()}});
    }
  }

  Server& server_;
};

Server::Server(GuestMemory& memory, Hypervisor& hypervisor, const ServerOptions& options,
               const ServerResources& resources)
    : memory_(memory),
      hypervisor_(hypervisor),
      resources_(resources),
      has_connection_4_(wire::HasMessageConnectionId(options.newest_version)),
      core_(memory, options) {
  HVSDK_CHECK((resources.timers == nullptr) == (resources.clock == nullptr));
}

Server::~Server() {
  if (!channels_.empty()) {
    const Offer& offer = channels_.begin()->second->offer_;
    const std::string text = absl::StrFormat(
        "VMBus channel of class %s, instance %s, is gone before its server (a Part lets its channels go in Detach)",
        GuidText(offer.class_id), GuidText(offer.instance_id));
    ::hvsdk::internal::CheckFailed(text.c_str(), __FILE__, __LINE__);
  }
  if (started_) {
    hypervisor_.UnregisterPort(ConnectionId{wire::kMessageConnectionId});
    hypervisor_.UnregisterPort(ConnectionId{wire::kEventConnectionId});
    if (has_connection_4_) hypervisor_.UnregisterPort(ConnectionId{wire::kMessageConnectionId4});
    hypervisor_.SetMessageSlotObserver(nullptr);
  }
  if (resources_.executor != nullptr) resources_.executor->Drain(rest_);
}

absl::Status Server::Start() {
  RETURN_IF_ERROR(hypervisor_.RegisterPort(ConnectionId{wire::kMessageConnectionId}, &message_port_));
  absl::Status status = hypervisor_.RegisterPort(ConnectionId{wire::kEventConnectionId}, &event_port_);
  if (status.ok() && has_connection_4_) {
    status = hypervisor_.RegisterPort(ConnectionId{wire::kMessageConnectionId4}, &message_port_);
    if (!status.ok()) hypervisor_.UnregisterPort(ConnectionId{wire::kEventConnectionId});
  }
  if (!status.ok()) {
    hypervisor_.UnregisterPort(ConnectionId{wire::kMessageConnectionId});
    return status;
  }
  hypervisor_.SetMessageSlotObserver(this);
  started_ = true;
  return absl::OkStatus();
}

void Server::SetMessageObserver(MessageObserver observer, LossObserver losses) {
  std::unique_lock<std::mutex> lock(mutex_);
  acted_.wait(lock, [this] { return !showing_; });
  records_.clear();
  records_lost_ = 0;
  message_observer_ = std::move(observer);
  loss_observer_ = std::move(losses);
  recorder_ = message_observer_ ? std::make_unique<Recorder>(*this) : nullptr;
  core_.SetListener(recorder_.get());
}

void Server::SetTlConnectHandler(TlConnectHandler handler) { tl_connect_handler_ = std::move(handler); }

void Server::RefuseTlConnect(const hvdef::Guid& endpoint_id, const hvdef::Guid& service_id) {
  Do([&](ServerCore& core) { core.RefuseTlConnect(endpoint_id, service_id); });
}

absl::optional<wire::Version> Server::version() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return core_.version();
}

std::vector<Server::ChannelCounts> Server::channel_counts() const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<ChannelCounts> all;
  for (const auto& [id, channel] : channels_) {
    all.push_back({.offer = channel->offer_,
                   .channel_id = core_.channel_id(id),
                   .is_open = core_.is_open(id),
                   .signals = channel->signals_.load(std::memory_order_relaxed),
                   .interrupts = channel->interrupts_.load(std::memory_order_relaxed)});
  }
  return all;
}

// --- Channels. ---

absl::StatusOr<std::unique_ptr<Channel>> Server::OfferChannel(const Offer& offer, ChannelHandler& handler,
                                                              Executor& executor, Executor* turns) {
  std::unique_ptr<Channel> channel;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ASSIGN_OR_RETURN(const OfferId id, core_.AddOffer(offer));
    channel.reset(new Channel(*this, id, offer, handler, executor, turns));
    channels_[id] = channel.get();
  }
  Act();
  return channel;
}

void Server::Remove(Channel& channel) {
  std::unique_lock<std::mutex> lock(mutex_);
  acted_.wait(lock, [&] { return acting_on_ != &channel; });
  channels_.erase(channel.id_);
  wakes_.erase(channel.id_);
  core_.RemoveOffer(channel.id_);
  lock.unlock();
  Act();
}

void Server::TakeNotices(Channel& channel, std::vector<Notice>& notices) {
  std::lock_guard<std::mutex> lock(mutex_);
  channel.has_notices_.store(false, std::memory_order_relaxed);  // the lock orders it
  notices.swap(channel.notices_);
}

// --- Acting on what the core decided. ---

void Server::Act() {
  std::unique_lock<std::mutex> lock(mutex_);
  if (acting_) return;
  acting_ = true;
  bool may_have_more = true;
  for (int steps = 0; may_have_more && (steps < kStepsPerCall || resources_.executor == nullptr); ++steps) {
    may_have_more = ActOnce(lock);
  }
  acting_ = false;
  lock.unlock();
  if (may_have_more) resources_.executor->Schedule(rest_);
}

bool Server::ActOnce(std::unique_lock<std::mutex>& lock) {
  if (records_lost_ != 0 || !records_.empty()) {
    Show(lock);
    return true;
  }
  if (ActOnNotice(lock)) return true;
  if (!wakes_.empty()) {
    Channel& channel = *channels_.at(*wakes_.begin());
    wakes_.erase(wakes_.begin());
    WakeChannel(channel, &Channel::Wake, lock);
    return true;
  }
  return ActOnMessage(lock);
}

// What has been recorded longest, or how much was lost.
void Server::Show(std::unique_lock<std::mutex>& lock) {
  showing_ = true;
  if (records_lost_ >= Recorder::kMaxRecords || records_.empty()) {
    const uint64_t lost = std::exchange(records_lost_, 0);
    lock.unlock();
    if (loss_observer_) loss_observer_(lost);
  } else {
    const Record record = std::move(records_.front());
    records_.pop_front();
    lock.unlock();
    message_observer_(record.direction, record.message);
  }
  lock.lock();
  showing_ = false;
  acted_.notify_all();
}

void Server::WakeChannel(Channel& channel, void (Channel::*wake)(), std::unique_lock<std::mutex>& lock) {
  acting_on_ = &channel;  // Remove waits
  lock.unlock();
  (channel.*wake)();
  lock.lock();
  acting_on_ = nullptr;
  acted_.notify_all();
}

bool Server::ActOnNotice(std::unique_lock<std::mutex>& lock) {
  Notice notice;
  if (!core_.TakeNotice(notice)) return false;
  if (notice.kind != Notice::Kind::kTlConnect) {
    Channel& channel = *channels_.at(notice.offer);
    channel.notices_.push_back(std::move(notice));
    channel.has_notices_.store(true, std::memory_order_release);  // pairs with the load in Channel::Run
    WakeChannel(channel, &Channel::WakeForNotices, lock);
  } else if (tl_connect_handler_ == nullptr) {
    core_.RefuseTlConnect(notice.guids[0], notice.guids[1]);
  } else {
    lock.unlock();
    tl_connect_handler_(notice.guids[0], notice.guids[1], notice.guids[2]);
    lock.lock();
  }
  return true;
}

bool Server::ActOnMessage(std::unique_lock<std::mutex>& lock) {
  const uint64_t epoch = core_.message_epoch();
  const OutgoingMessage* const first = core_.FirstMessage();
  if (first == nullptr || (blocked_ && blocked_epoch_ == epoch)) return false;
  blocked_ = false;
  const OutgoingMessage message = *first;
  const uint64_t slots_freed = slots_freed_;
  lock.unlock();
  const HvStatus status = hypervisor_.PostMessage(message.vp, message.sint, wire::kSynicMessageType, message.payload());
  lock.lock();
  if (core_.message_epoch() != epoch) return true;  // the message was dropped meanwhile
  if (status == HvStatus::kInsufficientBuffers) {
    // Unless there was room again before we could wait for it.
    blocked_ = slots_freed_ == slots_freed;
    blocked_epoch_ = epoch;
    return true;
  }
  // Any other failure is the guest's doing: it named a VP there is not, or took its message page away.
  core_.PopMessage();
  return true;
}

void Server::OnMessageSlotFree(VpIndex, Sint) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ++slots_freed_;
    blocked_ = false;
  }
  Act();
}

// --- What the guest sends. ---

HvStatus Server::MessagePort::OnMessage(uint32_t message_type, absl::Span<const uint8_t> payload) {
  if (message_type != wire::kSynicMessageType) return HvStatus::kSuccess;  // nothing that VMBus knows
  bool taken = false;
  absl::optional<wire::Version> before, after;
  server_.Do([&](ServerCore& core) {
    before = core.version();
    taken = core.OnMessage(payload);
    after = core.version();
  });
  if (server_.observer_ != nullptr && before != after) {
    if (after.has_value()) {
      server_.observer_->OnConnected(*after);
    } else {
      server_.observer_->OnDisconnected();
    }
  }
  return taken ? HvStatus::kSuccess : HvStatus::kInsufficientBuffers;
}

HvStatus Server::EventPort::OnEvent(uint16_t flag) {
  if (flag != 0) return HvStatus::kInvalidParameter;  // it has one
  server_.Do([&](ServerCore& core) {
    if (core.interrupt_page() == 0) return;
    auto* const words = reinterpret_cast<uint64_t*>(
        server_.memory_.Pointer(core.interrupt_page() + wire::kInterruptPageToRoot, kPageSize / 2));
    for (size_t i = 0; i < wire::kInterruptPageWords; ++i) {
      std::atomic_ref<uint64_t> word(words[i]);
      if (word.load(std::memory_order_relaxed) == 0) continue;
      // Acquire pairs with the guest's locked bit set: whoever sees the bit sees the packet.
      uint64_t bits = word.exchange(0, std::memory_order_acq_rel);
      server_.memory_.MarkWritten(core.interrupt_page() + wire::kInterruptPageToRoot + i * 8, 8);
      for (; bits != 0; bits &= bits - 1) {
        const auto id = core.FindChannel(static_cast<uint32_t>(i * 64 + __builtin_ctzll(bits)));
        if (id.has_value() && core.is_open(*id)) server_.wakes_.insert(*id);
      }
    }
  });
  return HvStatus::kSuccess;
}

}  // namespace hvsdk::vmbus
