// SPDX-License-Identifier: Apache-2.0
// Freestanding.
#include "hvsdk/vsc/integration_client.h"

#include "vsc/client_messages.h"

namespace hvsdk::vsc {

namespace integration = hvdef::integration;
using integration::Header;
using integration::MessageType;
using integration::PipeHeader;
using integration::Version;
using vmbus::RingStatus;

namespace {

constexpr uint32_t kHeaderBytes = sizeof(PipeHeader) + sizeof(Header);

// The newest of `ours` that is among `count` others.
bool FindCommon(const Version* ours, size_t our_count, const uint8_t* others, uint32_t count, Version& common) {
  for (size_t i = our_count; i-- != 0;) {
    for (uint32_t j = 0; j < count; ++j) {
      Version other;
      __builtin_memcpy(&other, others + j * sizeof(other), sizeof(other));
      if (!(other == ours[i])) continue;
      common = other;
      return true;
    }
  }
  return false;
}

}  // namespace

IntegrationClient::IntegrationClient(VmbusClient& bus, Channel& channel, const ClientRings& rings, MessageType type,
                                     const Version* versions, size_t count)
    : bus_(bus), channel_(channel), rings_(rings), type_(type), versions_(versions), version_count_(count) {
  if (!rings_.is_valid()) state_ = State::kFailed;
  channel.context = this;
  channel.on_signal = [](void* self, Channel&) { static_cast<IntegrationClient*>(self)->OnSignal(); };
  channel.on_end = [](void* self, Channel&) { static_cast<IntegrationClient*>(self)->state_ = State::kEnded; };
}

void IntegrationClient::OnSignal() {
  const bool is_good = ReadInBand(
      bus_, channel_, rings_, buffer_, sizeof(buffer_),
      [this] {
        // What is read is answered, and an answer is as long.
        return !is_over() && rings_.outgoing.WaitForRoom(vmbus::PacketSize(kMaxPacketBytes)) != RingStatus::kFull;
      },
      [this](const vmbus::Packet& packet) {
        if (packet.payload_size < kHeaderBytes) {
          state_ = State::kFailed;
        } else {
          OnPacket(packet.transaction_id, buffer_ + (packet.payload - buffer_), packet.payload_size);
        }
      });
  if (!is_good) state_ = State::kFailed;
}

void IntegrationClient::OnPacket(uint64_t transaction_id, uint8_t* message, uint32_t size_bytes) {
  Header header;
  __builtin_memcpy(&header, message + sizeof(PipeHeader), sizeof(header));
  if (header.size_bytes > size_bytes - kHeaderBytes) {
    state_ = State::kFailed;
    return;
  }
  uint8_t* const body = message + kHeaderBytes;
  if (header.type == MessageType::kNegotiate) {
    Negotiate(header, body, header.size_bytes);
  } else {
    IntegrationRequest request{.body = body, .size_bytes = header.size_bytes};
    if (state_ != State::kReady || header.type != type_)
      request.status = integration::Status::kFail;
    else if (on_request != nullptr)
      on_request(context, request);
    header.status = request.status;
  }
  header.flags = integration::kFlagTransaction | integration::kFlagResponse;
  __builtin_memcpy(message + sizeof(PipeHeader), &header, sizeof(header));
  const auto sent =
      rings_.outgoing.StageInBand(vmbus::PacketHeader::InBand(transaction_id, false), message, size_bytes);
  if (sent != RingStatus::kOk) {
    state_ = State::kFailed;
    return;
  }
  if (rings_.outgoing.Publish() == vmbus::Signal::kNeeded) bus_.Signal(channel_);
}

void IntegrationClient::Negotiate(Header& header, uint8_t* body, uint32_t size_bytes) {
  integration::Negotiate counts{};
  Version framework{}, component{};
  bool common = false;
  if (size_bytes >= sizeof(counts)) {
    __builtin_memcpy(&counts, body, sizeof(counts));
    const uint64_t listed = (size_bytes - sizeof(counts)) / sizeof(Version);
    const uint8_t* const frameworks = body + sizeof(counts);
    common = uint64_t{counts.framework_versions} + counts.versions <= listed &&
             FindCommon(integration::kFrameworkVersions, sizeof(integration::kFrameworkVersions) / sizeof(Version),
                        frameworks, counts.framework_versions, framework) &&
             FindCommon(versions_, version_count_, frameworks + counts.framework_versions * sizeof(Version),
                        counts.versions, component);
    const integration::Negotiate chosen{.framework_versions = common, .versions = common};
    __builtin_memcpy(body, &chosen, sizeof(chosen));
  }
  state_ = common ? State::kReady : State::kRefused;
  version_ = component;
  if (!common) return;
  __builtin_memcpy(body + sizeof(counts), &framework, sizeof(framework));
  __builtin_memcpy(body + sizeof(counts) + sizeof(framework), &component, sizeof(component));
  header.size_bytes = sizeof(counts) + 2 * sizeof(Version);
}

}  // namespace hvsdk::vsc
