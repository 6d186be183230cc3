// SPDX-License-Identifier: Apache-2.0
#include "vsp/integration_channel.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/status_macros.h"
#include "vsp/why_closed.h"

namespace hvsdk::vsp {

using hvdef::integration::Header;
using hvdef::integration::kFrameworkVersions;
using hvdef::integration::MessageType;
using hvdef::integration::Negotiate;
using hvdef::integration::PipeHeader;
using hvdef::integration::Version;
using vmbus::Take;

namespace {

// Besides what a request may have, the padding that a guest's ring adds.
constexpr uint32_t kMaxPacketBytes = 7680;

template <typename Versions>
bool Has(const Versions& versions, Version version) {
  return std::find(std::begin(versions), std::end(versions), version) != std::end(versions);
}

// Whether a guest has not taken everything, and does not mask signals.
bool MayHaveMissed(const vmbus::Channel::OutgoingRing& ring) {
  if (ring.fault() != vmbus::RingFault::kNone) return false;
  hvdef::RingControl& control = *ring.memory().control();
  // Hints both: it may be told in vain, and whatever makes its signal come later makes it look again.
  return std::atomic_ref<uint32_t>(control.interrupt_mask).load(std::memory_order_relaxed) == 0 &&
         std::atomic_ref<uint32_t>(control.read_index).load(std::memory_order_relaxed) != ring.published_index();
}

}  // namespace

IntegrationChannel::IntegrationChannel(const Protocol& protocol)
    : PacketPump({.max_packet_bytes = kMaxPacketBytes}), protocol_(protocol), message_{} {}

absl::Status IntegrationChannel::Offer(vmbus::Server& server, Executor& executor) {
  vmbus::Offer offer;
  offer.class_id = protocol_.class_id;
  offer.instance_id = protocol_.instance_id;
  offer.flags = hvdef::vmbus::kOfferNamedPipeMode | hvdef::vmbus::kOfferEnumerateDeviceInterface;
  std::memcpy(offer.user_defined.data(), &hvdef::vmbus::kPipeModeMessage, sizeof(hvdef::vmbus::kPipeModeMessage));
  ASSIGN_OR_RETURN(channel_, server.OfferChannel(offer, *this, executor));
  return absl::OkStatus();
}

absl::Status IntegrationChannel::CheckState(const State& state, const state::StateReader& reader) const {
  if (state.phase > Phase::kRefused) return reader.Invalid("channel.phase", "unknown");
  const bool is_ready = state.phase == Phase::kReady;
  if (is_ready && (!Has(kFrameworkVersions, Version{state.framework_major, state.framework_minor}) ||
                   !Has(protocol_.versions, Version{state.version_major, state.version_minor}))) {
    return reader.Invalid("channel.version_major", "no version that is spoken here");
  }
  if (state.is_waiting && !is_ready) return reader.Invalid("channel.is_waiting", "before anything was asked");
  return absl::OkStatus();
}

void IntegrationChannel::SetPaused(bool paused) {
  is_paused_ = paused;
  if (!paused && channel_ != nullptr) channel_->Wake();
}

void IntegrationChannel::Ask() {
  state_.is_wanted = true;
  if (channel_ != nullptr) channel_->Wake();
}

bool IntegrationChannel::OnOpen(vmbus::Channel& channel) {
  if (!PacketPump::OnOpen(channel)) return false;
  state_ = {.phase = Phase::kOffering, .transaction_id = state_.transaction_id};
  return true;
}

void IntegrationChannel::OnRestored(vmbus::Channel& channel) {
  PacketPump::OnRestored(channel);
  OnWentOn();
}

void IntegrationChannel::OnClosing(vmbus::Channel& channel) {
  state_ = {.transaction_id = state_.transaction_id};
  FinishClose();
  OnLost(WhyClosed(channel));
}

// A program in Linux that reads the ring itself (uio_hv_generic, tools/hv/hv_fcopy_uio_daemon.c) first answers, then unmasks signals, and signals
// itself; it does not look whether something has come in between. Its signal is what says that it may sleep now.
void IntegrationChannel::OnSignal(vmbus::Channel& channel) {
  has_moved_ = false;
  PacketPump::OnSignal(channel);
  if (!has_moved_) Remind();
}

// Such a program also unmasks them when it starts, maybe after it was sent the first message, and then signals nothing.
void IntegrationChannel::Remind() {
  if (channel_ != nullptr && channel_->is_open() && !is_paused_ && MayHaveMissed(channel_->outgoing()))
    channel_->SignalGuest();
}

Take IntegrationChannel::OnTurn() {
  if (is_paused_) return Take::kNoMore;
  if (state_.phase == Phase::kOffering && SendNegotiation()) state_.phase = Phase::kNegotiating;
  if (state_.is_wanted && is_ready() && !is_waiting()) {
    const uint32_t size = WriteRequest(absl::MakeSpan(body(), kMaxBodyBytes));
    HVSDK_CHECK(size <= kMaxBodyBytes);
    Header header{
        .framework = {state_.framework_major, state_.framework_minor}, .type = protocol_.type, .version = version()};
    header.transaction_id = ++state_.transaction_id;
    if (SendMessage(header, size)) {
      state_.is_wanted = false;
      state_.is_waiting = true;
      OnSent();
    }
  }
  return Take::kMore;
}

bool IntegrationChannel::SendNegotiation() {
  uint8_t* at = body();
  const auto put = [&at](const void* from, size_t size) {
    at = static_cast<uint8_t*>(std::memcpy(at, from, size)) + size;
  };
  const Negotiate negotiate{.framework_versions = static_cast<uint16_t>(std::size(kFrameworkVersions)),
                            .versions = static_cast<uint16_t>(protocol_.versions.size())};
  put(&negotiate, sizeof(negotiate));
  put(kFrameworkVersions, sizeof(kFrameworkVersions));
  put(protocol_.versions.data(), protocol_.versions.size() * sizeof(Version));
  return SendMessage({.type = MessageType::kNegotiate}, static_cast<uint32_t>(at - body()));
}

bool IntegrationChannel::SendMessage(Header header, uint32_t body_bytes) {
  header.size_bytes = static_cast<uint16_t>(body_bytes);
  header.flags = hvdef::integration::kFlagTransaction | hvdef::integration::kFlagRequest;
  const PipeHeader pipe{.type = hvdef::integration::kPipeData,
                        .size_bytes = static_cast<uint32_t>(sizeof(header)) + body_bytes};
  std::memcpy(message_.data(), &pipe, sizeof(pipe));
  std::memcpy(message_.data() + sizeof(pipe), &header, sizeof(header));
  const bool is_sent = Send(vmbus::PacketHeader::InBand(/*transaction_id=*/0, /*completion_requested=*/false),
                            message_.data(), kHeaderBytes + body_bytes);
  has_moved_ |= is_sent;
  return is_sent;
}

Take IntegrationChannel::OnPacket(const vmbus::Packet& packet) {
  has_moved_ = true;
  if (packet.type != hvdef::PacketType::kDataInBand || packet.payload_size < kHeaderBytes) return Take::kMalformed;
  Header header;
  std::memcpy(&header, packet.payload + sizeof(PipeHeader), sizeof(header));
  if (header.size_bytes > packet.payload_size - kHeaderBytes) return Take::kMalformed;
  const absl::Span<const uint8_t> answer(packet.payload + kHeaderBytes, header.size_bytes);
  if ((header.flags & hvdef::integration::kFlagResponse) == 0) return Take::kMore;
  if (header.type == MessageType::kNegotiate) {
    if (state_.phase == Phase::kNegotiating) OnVersions(answer);
  } else if (header.type == protocol_.type && is_waiting() && header.transaction_id == state_.transaction_id) {
    state_.is_waiting = false;
    OnAnswer(header.status, answer);
  }
  return Take::kMore;
}

void IntegrationChannel::OnVersions(absl::Span<const uint8_t> body) {
  struct {
    Negotiate counts;
    Version framework, component;
  } chosen{};
  static_assert(sizeof(chosen) == sizeof(Negotiate) + 2 * sizeof(Version));
  if (body.size() >= sizeof(chosen)) std::memcpy(&chosen, body.data(), sizeof(chosen));
  if (chosen.counts.framework_versions != 1 || chosen.counts.versions != 1 ||
      !Has(kFrameworkVersions, chosen.framework) || !Has(protocol_.versions, chosen.component)) {
    state_.phase = Phase::kRefused;
    return OnLost(absl::FailedPreconditionError("the guest's driver speaks other versions"));
  }
  state_.phase = Phase::kReady;
  state_.framework_major = chosen.framework.major;
  state_.framework_minor = chosen.framework.minor;
  state_.version_major = chosen.component.major;
  state_.version_minor = chosen.component.minor;
  OnReady();
}

}  // namespace hvsdk::vsp
