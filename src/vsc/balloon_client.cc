// SPDX-License-Identifier: Apache-2.0
// Freestanding.
#include "hvsdk/vsc/balloon_client.h"

#include "vsc/client_messages.h"

namespace hvsdk::vsc {

namespace wire = hvdef::dynamic_memory;
using vmbus::RingStatus;
using wire::MessageType;

namespace {

wire::Version Before(wire::Version version) {
  if (version == wire::Version::k3) return wire::Version::k2;
  return version == wire::Version::k2 ? wire::Version::k1 : wire::Version::kNone;
}

}  // namespace

BalloonClient::BalloonClient(VmbusClient& bus, Channel& channel, const ClientRings& rings, Version newest)
    : bus_(bus), channel_(channel), rings_(rings), version_(newest) {
  if (!rings_.is_valid()) Fail();
  channel.context = this;
  channel.on_signal = [](void* self, Channel&) { static_cast<BalloonClient*>(self)->OnSignal(); };
  channel.on_end = [](void* self, Channel&) { static_cast<BalloonClient*>(self)->state_ = State::kEnded; };
}

bool BalloonClient::HasRoom() {
  return rings_.outgoing.WaitForRoom(vmbus::PacketSize(kMaxPacketBytes)) != RingStatus::kFull;
}

bool BalloonClient::Send(MessageType type, void* message, uint32_t size_bytes) {
  const wire::Header header{
      .type = type, .size_bytes = static_cast<uint16_t>(size_bytes), .transaction_id = ++transaction_id_};
  __builtin_memcpy(message, &header, sizeof(header));
  if (rings_.outgoing.StageInBand(vmbus::PacketHeader::InBand(0, false), message, size_bytes) != RingStatus::kOk) {
    Fail();
    return false;
  }
  if (rings_.outgoing.Publish() == vmbus::Signal::kNeeded) bus_.Signal(channel_);
  return true;
}

void BalloonClient::Start() {
  if (is_over() || is_asking_) return;
  AskVersion();
}

void BalloonClient::AskVersion() {
  wire::VersionRequest request{.version = version_, .is_last = Before(version_) == Version::kNone};
  is_asking_ = Send(MessageType::kVersionRequest, &request, sizeof(request));
}

bool BalloonClient::Report(uint64_t available_pages, uint64_t committed_pages) {
  if (state_ != State::kReady || !HasRoom()) return false;
  wire::StatusReport report{.available = available_pages, .committed = committed_pages};
  return Send(MessageType::kStatusReport, &report, sizeof(report));
}

void BalloonClient::OnSignal() {
  const bool is_good = ReadInBand(
      bus_, channel_, rings_, buffer_, sizeof(buffer_),
      [this] {
        // What is read is answered, by one message or several.
        while (!is_over() && HasRoom()) {
          if (!is_giving_) return true;
          GiveUp();
        }
        return false;
      },
      [this](const vmbus::Packet& packet) { OnMessage(packet.payload, packet.payload_size); });
  if (!is_good) Fail();
}

void BalloonClient::OnMessage(const uint8_t* message, uint32_t size_bytes) {
  wire::Header header;
  if (!ReadMessage(message, size_bytes, header) || header.size_bytes < sizeof(header) ||
      header.size_bytes > size_bytes) {
    return Fail();
  }
  size_bytes = header.size_bytes;
  switch (header.type) {
    case MessageType::kVersionResponse:
    case MessageType::kCapabilitiesResponse: {
      wire::Response response;
      if (!ReadMessage(message, size_bytes, response)) return Fail();
      return OnResponse(header.type, (response.is_accepted & 1) != 0);
    }
    case MessageType::kBalloonRequest: {
      wire::BalloonRequest request;
      if (state_ != State::kReady || !ReadMessage(message, size_bytes, request)) return Fail();
      is_giving_ = true;
      wanted_ = request.pages;
      return;
    }
    case MessageType::kUnballoonRequest:
      if (state_ != State::kReady) return Fail();
      return TakeBack(message, size_bytes);
    case MessageType::kHotAddRequest: {
      wire::HotAddRequest request;
      if (state_ != State::kReady || !ReadMessage(message, size_bytes, request)) return Fail();
      return TakeNew(request);
    }
    default:
      return;  // what later versions may say
  }
}

void BalloonClient::OnResponse(MessageType type, bool is_accepted) {
  if (type == MessageType::kCapabilitiesResponse) {
    if (!is_telling_) return Fail();
    is_telling_ = false;
    state_ = is_accepted ? State::kReady : State::kRefused;
    return;
  }
  if (!is_asking_) return Fail();
  is_asking_ = false;
  if (is_accepted) {
    const uint64_t can_take = take_new != nullptr ? wire::kCanHotAdd : 0;
    wire::CapabilitiesReport report{.capabilities = wire::kCanBalloon | can_take, .max_page_number = ~uint64_t{0}};
    is_telling_ = Send(MessageType::kCapabilitiesReport, &report, sizeof(report));
  } else if (version_ = Before(version_); version_ != Version::kNone) {
    AskVersion();
  } else {
    state_ = State::kRefused;
  }
}

void BalloonClient::TakeBack(const uint8_t* message, uint32_t size_bytes) {
  wire::UnballoonRequest request;
  if (!ReadMessage(message, size_bytes, request)) return Fail();
  if (request.range_count > (size_bytes - sizeof(request)) / sizeof(PageRange)) return Fail();
  for (uint32_t i = 0; i < request.range_count; ++i) {
    PageRange range;
    __builtin_memcpy(&range, message + sizeof(request) + i * sizeof(range), sizeof(range));
    if (take_back != nullptr) take_back(context, range);
  }
  if ((request.has_more & 1) != 0) return;
  wire::Header response;
  (void)Send(MessageType::kUnballoonResponse, &response, sizeof(response));
}

void BalloonClient::TakeNew(const wire::HotAddRequest& request) {
  const auto pages = static_cast<uint32_t>(request.range.count());
  const uint32_t taken = take_new != nullptr ? take_new(context, request.range) : 0;
  // By Linux' word: of a guest that has taken some, what it has not will not be taken later either.
  wire::HotAddResponse response{.page_count = taken < pages ? taken : pages,
                                .is_permanent = taken != 0 || take_new == nullptr};
  (void)Send(MessageType::kHotAddResponse, &response, sizeof(response));
}

void BalloonClient::GiveUp() {
  constexpr uint32_t kMaxRanges = (kMaxPacketBytes - sizeof(wire::BalloonResponse)) / sizeof(PageRange);
  auto* const ranges = reinterpret_cast<PageRange*>(answer_ + sizeof(wire::BalloonResponse));
  uint32_t count = 0;
  if (give_up != nullptr && wanted_ != 0) count = give_up(context, wanted_, ranges, kMaxRanges);
  if (count > kMaxRanges) count = kMaxRanges;
  for (uint32_t i = 0; i < count; ++i) {
    const auto pages = static_cast<uint32_t>(ranges[i].count());
    wanted_ = pages < wanted_ ? wanted_ - pages : 0;
  }
  is_giving_ = count != 0 && wanted_ != 0;
  const wire::BalloonResponse response{.ranges = count << 1 | static_cast<uint32_t>(is_giving_)};
  __builtin_memcpy(answer_, &response, sizeof(response));
  (void)Send(MessageType::kBalloonResponse, answer_, sizeof(response) + count * sizeof(PageRange));
}

}  // namespace hvsdk::vsc
