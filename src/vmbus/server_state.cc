// SPDX-License-Identifier: Apache-2.0
// Server as a component: the core's state, and the open channels' rings.

#include "vmbus/server_state.h"

#include <utility>

#include "base/status_macros.h"
#include "hvsdk/vmbus/server.h"

namespace hvsdk::vmbus {

namespace {

using Kind = ChannelStateRecord::Kind;

Channel::IncomingRing::State IncomingState(const OpenChannelState& open) {
  return {open.incoming_read, open.incoming_committed, open.incoming_fault};
}
Channel::OutgoingRing::State OutgoingState(const OpenChannelState& open) {
  return {open.outgoing_write, open.outgoing_published, open.outgoing_fault, open.outgoing_waits};
}

}  // namespace

absl::Status Server::CheckSettled() const {
  if (acting_ || !wakes_.empty()) return absl::FailedPreconditionError("VMBus has work left to do for the guest");
  for (const auto& [id, channel] : channels_) {
    if (!channel->notices_.empty()) return absl::FailedPreconditionError("a VMBus provider has work left to do");
  }
  return core_.CheckSettled();
}

bool Server::IsSettled() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return CheckSettled().ok();
}

absl::Status Server::Save(state::StateWriter& writer) const {
  std::lock_guard<std::mutex> lock(mutex_);
  RETURN_IF_ERROR(CheckSettled());
  ServerState state;
  core_.Save(state);
  for (ChannelStateRecord& record : state.channels) {
    if (record.kind != Kind::kOpen) continue;
    const Channel& channel = *channels_.at(*core_.FindChannel(record.channel_id));
    const auto incoming = channel.incoming_.state();
    record.open.incoming_read = incoming.read;
    record.open.incoming_committed = incoming.committed;
    record.open.incoming_fault = incoming.fault;
    const auto outgoing = channel.outgoing_.state();
    record.open.outgoing_write = outgoing.write;
    record.open.outgoing_published = outgoing.published;
    record.open.outgoing_fault = outgoing.fault;
    record.open.outgoing_waits = outgoing.waiting;
  }
  writer.Write(state);
  return absl::OkStatus();
}

absl::Status Server::Restore(state::StateReader& reader) {
  ServerState state;
  RETURN_IF_ERROR(reader.Read(state));
  ServerCore::Restoration restoration;
  std::vector<std::pair<size_t, Channel*>> opened;  // places in `state`, and who they are here
  {
    std::lock_guard<std::mutex> lock(mutex_);
    RETURN_IF_ERROR(CheckSettled());
    if (core_.version().has_value()) return absl::FailedPreconditionError("VMBus has a guest already");
    ASSIGN_OR_RETURN(restoration, core_.CheckState(state, reader));
    for (size_t i = 0; i < state.channels.size(); ++i) {
      const OpenChannelState& open = state.channels[i].open;
      if (state.channels[i].kind != Kind::kOpen) continue;
      const auto pages = static_cast<uint32_t>(restoration.gpadls[restoration.rings[i]]->pages().size());
      const auto bytes = [](uint32_t with_control) { return (with_control - 1) * static_cast<uint32_t>(kPageSize); };
      if (!Channel::IncomingRing::IsValidState(IncomingState(open), bytes(open.downstream_page_offset))) {
        return reader.Invalid("channels.open.incoming_read", "not in the ring");
      }
      if (!Channel::OutgoingRing::IsValidState(OutgoingState(open), bytes(pages - open.downstream_page_offset))) {
        return reader.Invalid("channels.open.outgoing_write", "not in the ring");
      }
      opened.emplace_back(i, channels_.at(*restoration.ids[i]));
    }
  }
  for (size_t i = 0; i < opened.size(); ++i) {
    const auto connection = [&](size_t at) {
      return ConnectionId{ServerCore::ChannelConnectionId(state.channels[opened[at].first].channel_id)};
    };
    const absl::Status status = hypervisor_.RegisterPort(connection(i), opened[i].second);
    if (status.ok()) continue;
    while (i-- > 0) hypervisor_.UnregisterPort(connection(i));
    return status;
  }
  for (const auto& [at, channel] : opened) channel->HoldTurns();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    core_.Restore(state, restoration);
    for (const auto& [at, channel] : opened) {
      const OpenParams open = core_.open_params(channel->id_);
      channel->MakeRings(*core_.ring(channel->id_), open.downstream_page_offset);
      channel->incoming_.Resume(IncomingState(state.channels[at].open));
      channel->outgoing_.Resume(OutgoingState(state.channels[at].open));
      channel->TakeOpen(open, core_.ring(channel->id_));
    }
  }
  for (const auto& [at, channel] : opened) {
    channel->handler_.OnRestored(*channel);
    channel->ReleaseTurns();
    channel->Wake();  // a signal may have been under way
  }
  // Whether the guest's message slot is still full, the first message finds out.
  if (resources_.executor != nullptr && !state.messages.empty()) resources_.executor->Schedule(rest_);
  return absl::OkStatus();
}

void Server::CheckInvariants() const {
  std::lock_guard<std::mutex> lock(mutex_);
  core_.CheckInvariants();
}

void Server::Reset() {
  resetting_ = true;
  Do([](ServerCore& core) { core.Reset(); });
  for (;;) {
    Act();
    Channel* channel = nullptr;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      for (const auto& [id, candidate] : channels_) {
        if (!candidate->notices_.empty()) channel = candidate;
      }
      if (channel == nullptr && !core_.has_notices()) {
        wakes_.clear();
        blocked_ = false;
        resetting_ = false;
        return;
      }
    }
    if (channel != nullptr) channel->HandleNotices();
  }
}

}  // namespace hvsdk::vmbus
