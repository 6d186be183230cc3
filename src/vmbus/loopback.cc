// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "hvsdk/vmbus/loopback_hypervisor.h"

namespace hvsdk::vmbus {

using hvdef::HvStatus;

LoopbackHypervisor::LoopbackHypervisor(uint32_t vp_count, size_t queue_limit)
    : queue_limit_(queue_limit), vps_(vp_count) {}

LoopbackHypervisor::Source* LoopbackHypervisor::Find(VpIndex vp, Sint sint) {
  return ToInt(vp) < vps_.size() && ToInt(sint) < 16 ? &vps_[ToInt(vp)][ToInt(sint)] : nullptr;
}

HvStatus LoopbackHypervisor::PostMessage(VpIndex vp, Sint sint, uint32_t message_type,
                                         absl::Span<const uint8_t> payload) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    Source* const source = Find(vp, sint);
    if (source == nullptr) return HvStatus::kInvalidVpIndex;
    if (source->messages.size() > queue_limit_) {
      source->was_full = true;
      return HvStatus::kInsufficientBuffers;
    }
    source->messages.push_back({message_type, {payload.begin(), payload.end()}});
    if (source->messages.size() > 1) return HvStatus::kSuccess;
  }
  if (interrupt_ != nullptr) interrupt_(vp, sint);
  return HvStatus::kSuccess;
}

void LoopbackHypervisor::SetMessageSlotObserver(MessageSlotObserver* observer) {
  std::lock_guard<std::mutex> lock(mutex_);
  observer_ = observer;
}

HvStatus LoopbackHypervisor::SignalEvent(VpIndex vp, Sint sint, uint16_t flag) {
  if (flag >= kEventWords * 64) return HvStatus::kInvalidParameter;
  const uint64_t bit = uint64_t{1} << flag % 64;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    Source* const source = Find(vp, sint);
    if (source == nullptr) return HvStatus::kInvalidVpIndex;
    uint64_t& word = source->flags[flag / 64];
    if ((word & bit) != 0) return HvStatus::kSuccess;
    word |= bit;
  }
  if (interrupt_ != nullptr) interrupt_(vp, sint);
  return HvStatus::kSuccess;
}

absl::Status LoopbackHypervisor::RegisterPort(ConnectionId connection, PortHandler* handler) {
  std::lock_guard<std::mutex> lock(mutex_);
  Port& port = ports_[connection];
  if (port.handler != nullptr) {
    return absl::AlreadyExistsError(absl::StrCat("connection ", ToInt(connection), " is taken"));
  }
  port.handler = handler;
  return absl::OkStatus();
}

void LoopbackHypervisor::UnregisterPort(ConnectionId connection) {
  std::unique_lock<std::mutex> lock(mutex_);
  ports_[connection].closing = true;
  port_idle_.wait(lock, [&] { return ports_[connection].running == 0; });
  ports_.erase(connection);
}

template <typename Call>
HvStatus LoopbackHypervisor::CallPort(ConnectionId connection, Call call) {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto it = ports_.find(connection);
  if (it == ports_.end() || it->second.closing) return HvStatus::kInvalidConnectionId;
  Port& port = it->second;
  ++port.running;
  lock.unlock();
  const HvStatus status = call(*port.handler);
  lock.lock();
  if (--port.running == 0) port_idle_.notify_all();
  return status;
}

HvStatus LoopbackHypervisor::ChildPostMessage(ConnectionId connection, uint32_t message_type,
                                              absl::Span<const uint8_t> payload) {
  return CallPort(connection, [&](PortHandler& handler) { return handler.OnMessage(message_type, payload); });
}

HvStatus LoopbackHypervisor::ChildSignalEvent(ConnectionId connection, uint16_t flag) {
  return CallPort(connection, [&](PortHandler& handler) { return handler.OnEvent(flag); });
}

bool LoopbackHypervisor::TakeMessage(VpIndex vp, Sint sint, Message& message) {
  MessageSlotObserver* observer = nullptr;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    Source* const source = Find(vp, sint);
    if (source == nullptr || source->messages.empty()) return false;
    message = std::move(source->messages.front());
    source->messages.pop_front();
    if (std::exchange(source->was_full, false)) observer = observer_;
  }
  if (observer != nullptr) observer->OnMessageSlotFree(vp, sint);
  return true;
}

bool LoopbackHypervisor::TakeEvents(VpIndex vp, Sint sint, absl::Span<uint64_t> words) {
  std::lock_guard<std::mutex> lock(mutex_);
  Source* const source = Find(vp, sint);
  if (source == nullptr) return false;
  bool any = false;
  for (size_t i = 0; i < std::min(words.size(), kEventWords); ++i) {
    words[i] = std::exchange(source->flags[i], 0);
    any |= words[i] != 0;
  }
  return any;
}

}  // namespace hvsdk::vmbus
