// SPDX-License-Identifier: Apache-2.0
#include "machine/event_queue.h"

#include "absl/strings/str_format.h"
#include "base/guid_text.h"

namespace hvsdk::machine {
namespace {

// As their components are called, without a number; "": an embedding program's own.
const char* DeviceOf(const hvdef::Guid& class_id) {
  namespace ids = hvdef::class_id;
  if (class_id == ids::kScsi) return "storage";
  if (class_id == ids::kNetwork) return "network";
  if (class_id == ids::kKeyboard) return "input/keyboard";
  if (class_id == ids::kMouse) return "input/mouse";
  if (class_id == ids::kShutdown) return "integration/shutdown";
  if (class_id == ids::kHeartbeat) return "integration/heartbeat";
  if (class_id == ids::kTimeSync) return "integration/time-sync";
  if (class_id == ids::kDynamicMemory) return "integration/balloon";
  if (class_id == ids::kKeyValuePair) return "integration/key-value";
  if (class_id == ids::kFileCopy) return "integration/file-copy";
  if (class_id == ids::kBackup) return "integration/backup";
  return "";
}

}  // namespace

void EventQueue::OnConnected(hvdef::vmbus::Version version) {
  const auto value = static_cast<uint32_t>(version);
  Put({.name = "connected", .details = {{"version", absl::StrFormat("%d.%d", value >> 16, value & 0xFFFF)}}});
}

void EventQueue::PutChannel(const char* name, const vmbus::Offer& offer, uint32_t channel_id) {
  if ((offer.flags & hvdef::vmbus::kOfferTlnpiProvider) != 0) return;  // a socket's, which come and go
  Put({.name = name,
       .details = {{"device", DeviceOf(offer.class_id)},
                   {"class", GuidText(offer.class_id)},
                   {"instance", GuidText(offer.instance_id)},
                   {"subchannel", absl::StrCat(offer.subchannel_index)},
                   {"channel", absl::StrCat(channel_id)}}});
}

void EventQueue::Run() {
  std::deque<MachineEvent> events;
  uint64_t lost;
  {
    std::lock_guard lock(mutex_);
    events.swap(events_);
    lost = std::exchange(lost_, 0);
  }
  for (const MachineEvent& event : events) tell_(event);
  if (lost != 0) {
    tell_({.name = "lost", .details = {{"count", absl::StrCat(lost)}}, .time_100ns = clock_.Now100ns()});
  }
}

}  // namespace hvsdk::machine
