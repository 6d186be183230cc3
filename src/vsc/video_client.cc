// SPDX-License-Identifier: Apache-2.0
// Freestanding.
#include "hvsdk/vsc/video_client.h"

#include "vsc/client_messages.h"

namespace hvsdk::vsc {

namespace wire = hvdef::video;
using vmbus::RingStatus;
using wire::MessageType;

namespace {

constexpr uint32_t kHeaderBytes = sizeof(wire::PipeHeader) + sizeof(wire::Header);
// Of what the client sends.
constexpr uint32_t kMaxBodyBytes = 64;

// The one that is asked for when a version was refused, as Linux does it.
wire::Version Before(wire::Version version) {
  if (version > wire::Version::k3_2) return wire::Version::k3_2;
  return version == wire::Version::k3_2 ? wire::Version::k3_0 : wire::Version::kNone;
}

}  // namespace

VideoClient::VideoClient(VmbusClient& bus, Channel& channel, const ClientRings& rings, Version newest)
    : bus_(bus), channel_(channel), rings_(rings), version_(newest) {
  if (!rings_.is_valid()) Fail();
  channel.context = this;
  channel.on_signal = [](void* self, Channel&) { static_cast<VideoClient*>(self)->OnSignal(); };
  channel.on_end = [](void* self, Channel&) { static_cast<VideoClient*>(self)->state_ = State::kEnded; };
}

// For the two messages that the client sends at most at once.
bool VideoClient::HasRoom() {
  return rings_.outgoing.WaitForRoom(2 * vmbus::PacketSize(kHeaderBytes + kMaxBodyBytes)) != RingStatus::kFull;
}

bool VideoClient::Send(MessageType type, const void* body, uint32_t size_bytes) {
  uint8_t message[kHeaderBytes + kMaxBodyBytes];
  const auto size = static_cast<uint32_t>(sizeof(wire::Header)) + size_bytes;
  const wire::PipeHeader pipe{.type = wire::kPipeData, .size_bytes = size};
  const wire::Header header{.type = type, .size_bytes = size};
  __builtin_memcpy(message, &pipe, sizeof(pipe));
  __builtin_memcpy(message + sizeof(pipe), &header, sizeof(header));
  __builtin_memcpy(message + kHeaderBytes, body, size_bytes);
  if (rings_.outgoing.StageInBand(vmbus::PacketHeader::InBand(0, false), message, kHeaderBytes + size_bytes) !=
      RingStatus::kOk) {
    Fail();
    return false;
  }
  if (rings_.outgoing.Publish() == vmbus::Signal::kNeeded) bus_.Signal(channel_);
  return true;
}

void VideoClient::Start() {
  if (is_over() || is_asking_ || state_ == State::kReady) return;
  AskVersion();
}

void VideoClient::AskVersion() {
  const wire::VersionRequest request{.version = version_};
  is_asking_ = Send(MessageType::kVersionRequest, &request, sizeof(request));
}

bool VideoClient::Show(const VideoScreen& screen) {
  if (state_ != State::kReady || !HasRoom()) return false;
  using Word = wire::Unaligned<uint32_t>;
  is_placed_ = is_shown_ = false;
  shown_gpa_ = screen.gpa;
  const wire::VramLocation location{.user_context = wire::Unaligned<uint64_t>::Of(screen.gpa),
                                    .has_gpa = 1,
                                    .gpa = wire::Unaligned<uint64_t>::Of(screen.gpa)};
  const wire::Situation situation{.user_context = wire::Unaligned<uint64_t>::Of(screen.gpa),
                                  .output_count = 1,
                                  .output = {.is_active = 1,
                                             .offset_bytes = Word::Of(0),
                                             .depth_bits = 32,
                                             .width = Word::Of(screen.width),
                                             .height = Word::Of(screen.height),
                                             .stride_bytes = Word::Of(screen.stride_bytes)}};
  return Send(MessageType::kVramLocation, &location, sizeof(location)) &&
         Send(MessageType::kSituation, &situation, sizeof(situation));
}

bool VideoClient::TellDrawn(uint32_t x, uint32_t y, uint32_t width, uint32_t height) {
  if (state_ != State::kReady) return false;
  if (!wants_dirt_) return true;
  if (!HasRoom()) return false;
  const auto corner = [](uint32_t at) { return wire::Unaligned<int32_t>::Of(static_cast<int32_t>(at)); };
  const struct {
    wire::Dirt dirt;
    wire::Rectangle rectangle;
  } message{{.output = 0, .count = 1}, {corner(x), corner(y), corner(x + width), corner(y + height)}};
  static_assert(sizeof(message) == sizeof(wire::Dirt) + sizeof(wire::Rectangle));
  return Send(MessageType::kDirt, &message, sizeof(message));
}

void VideoClient::OnSignal() {
  const bool is_good = ReadInBand(
      bus_, channel_, rings_, buffer_, sizeof(buffer_), [this] { return !is_over() && HasRoom(); },
      [this](const vmbus::Packet& packet) { OnMessage(packet.payload, packet.payload_size); });
  if (!is_good) Fail();
}

void VideoClient::OnMessage(const uint8_t* message, uint32_t size_bytes) {
  wire::PipeHeader pipe;
  wire::Header header;
  if (!ReadMessage(message, size_bytes, pipe) || pipe.type != wire::kPipeData ||
      pipe.size_bytes > size_bytes - sizeof(pipe) || !ReadMessage(message + sizeof(pipe), pipe.size_bytes, header)) {
    return Fail();
  }
  const uint8_t* const body = message + kHeaderBytes;
  const uint32_t body_bytes = pipe.size_bytes - static_cast<uint32_t>(sizeof(header));
  wire::Ack ack;
  wire::FeatureChange change;
  switch (header.type) {
    case MessageType::kVersionResponse: {
      wire::VersionResponse response;
      if (!is_asking_ || !ReadMessage(body, body_bytes, response)) return Fail();
      return OnVersion(response.is_accepted != 0);
    }
    case MessageType::kResolutionsResponse:
      if (!wants_sizes_) return Fail();
      return OnResolutions(body, body_bytes);
    case MessageType::kVramLocationAck:
      if (state_ != State::kReady || !ReadMessage(body, body_bytes, ack)) return Fail();
      is_placed_ = ack.user_context == shown_gpa_;
      return;
    case MessageType::kSituationAck:
      if (state_ != State::kReady || !ReadMessage(body, body_bytes, ack)) return Fail();
      is_shown_ = is_placed_ && ack.user_context == shown_gpa_;
      return;
    case MessageType::kFeatureChange:
      if (state_ != State::kReady || !ReadMessage(body, body_bytes, change)) return Fail();
      wants_dirt_ = change.wants_dirt != 0;
      return;
    default:
      return;  // what later versions may say
  }
}

void VideoClient::OnVersion(bool is_accepted) {
  is_asking_ = false;
  if (!is_accepted) {
    version_ = Before(version_);
    if (version_ != Version::kNone) return AskVersion();
    state_ = State::kRefused;
  } else if (version_ == Version::k3_5) {
    const wire::ResolutionsRequest request{.max_count = wire::kMaxResolutions};
    wants_sizes_ = Send(MessageType::kResolutionsRequest, &request, sizeof(request));
  } else {
    state_ = State::kReady;
  }
}

void VideoClient::OnResolutions(const uint8_t* body, uint32_t size_bytes) {
  wants_sizes_ = false;
  wire::ResolutionsResponse head;
  if (!ReadMessage(body, size_bytes, head) || head.count == 0 || head.default_index >= head.count ||
      size_bytes - sizeof(head) < head.count * sizeof(wire::Resolution)) {
    return Fail();
  }
  __builtin_memcpy(&wanted_, body + sizeof(head) + head.default_index * sizeof(wanted_), sizeof(wanted_));
  state_ = State::kReady;
}

}  // namespace hvsdk::vsc
