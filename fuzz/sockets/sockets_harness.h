// SPDX-License-Identifier: Apache-2.0
// A hostile guest at the socket provider, and streams that are full, empty, ended and broken as they are told: plays a string of bytes as
// requests, connections of the host's, channels that are opened, closed and opened again, packets with lies in every field, indices that
// are none, pauses, resets and the passing of time. Ends the program if a stream is called before it is open or after it was closed, gets
// what no packet holds, is closed twice or never, if there are more connections than there may be, or if the provider does not come to rest.

#ifndef HVSDK_FUZZ_SOCKETS_SOCKETS_HARNESS_H_
#define HVSDK_FUZZ_SOCKETS_SOCKETS_HARNESS_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "base/check.h"
#include "fuzz/provider_world.h"
#include "hvsdk/base/fake_clock.h"
#include "hvsdk/hvdef/socket.h"
#include "hvsdk/vsp/socket.h"

namespace hvsdk::vsp {

// What the input makes of the host's ends, all of which are alike at any moment.
struct HostEnds {
  size_t has = 0, room = 1000;
  bool is_ended = false, is_broken = false, refuses = false;
  int alive = 0;
  uint64_t taken = 0;  // of all
  uint32_t sum = 0;    // so that reads are not left out
  std::vector<SocketWaker*> wakers;
};

class FickleStream final : public SocketStream {
 public:
  explicit FickleStream(HostEnds& ends) : ends_(ends) { ++ends_.alive; }
  ~FickleStream() override {
    HVSDK_CHECK(is_closed_ || !is_open_);
    --ends_.alive;
  }
  void OnOpen(SocketWaker& waker) override {
    HVSDK_CHECK(!is_open_ && !is_closed_);
    is_open_ = true;
    waker_ = &waker;
    ends_.wakers.push_back(&waker);
  }
  SocketTransfer Read(absl::Span<uint8_t> to) override {
    HVSDK_CHECK(is_open_ && !is_closed_ && !has_ended_ && !to.empty() && to.size() <= hvdef::socket::kMaxDataBytes);
    if (ends_.is_broken) return {.state = SocketTransfer::State::kBroken};
    const size_t size = std::min(to.size(), ends_.has);
    std::fill_n(to.data(), size, uint8_t{0xA5});
    ends_.has -= size;
    has_ended_ = ends_.is_ended;
    return {.bytes = size, .state = has_ended_ ? SocketTransfer::State::kEnded : SocketTransfer::State::kOpen};
  }
  SocketTransfer Write(absl::Span<const uint8_t> from) override {
    HVSDK_CHECK(is_open_ && !is_closed_ && !guest_has_ended_);
    HVSDK_CHECK(!from.empty() && from.size() <= hvdef::socket::kMaxDataBytes);
    if (ends_.is_broken) return {.state = SocketTransfer::State::kBroken};
    for (const uint8_t byte : from) ends_.sum += byte;
    const size_t size = std::min(from.size(), ends_.room);
    ends_.room -= size;
    ends_.taken += size;
    return {.bytes = size};
  }
  void OnGuestEnded() override {
    HVSDK_CHECK(is_open_ && !is_closed_ && !guest_has_ended_);
    guest_has_ended_ = true;
  }
  void OnClosed(const absl::Status&) override {
    HVSDK_CHECK(!is_closed_);
    is_closed_ = true;
    std::erase(ends_.wakers, waker_);
  }

 private:
  HostEnds& ends_;
  SocketWaker* waker_ = nullptr;
  bool is_open_ = false, is_closed_ = false, guest_has_ended_ = false, has_ended_ = false;
};

class SocketsHarness : private ProviderWorld, private SocketService {
 public:
  SocketsHarness() {
    sockets_ = *SocketProvider::Create(*server_, {.executor = executor_, .timers = timers_, .clock = clock_},
                                       {.max_connections = kConnections});
    sockets_->ListenToOthers(this);
    Connect(absl::MakeSpan(ends_));
  }
  ~SocketsHarness() override {
    sockets_.reset();
    HVSDK_CHECK(host_.alive == 0);
  }

  // What tests see that it gets somewhere by.
  uint64_t taken() const { return host_.taken; }
  const SocketCounts counts() const { return sockets_->counts(); }

  void Play(const uint8_t* data, size_t size) {
    in_ = fuzz::Bytes({data, size});
    while (!in_.empty()) {
      Step();
      HVSDK_CHECK(sockets_->counts().connections <= kConnections);
    }
    sockets_->Resume();
    Pump();
    sockets_->Stop();
    Pump();
    HVSDK_CHECK(sockets_->counts().connections == 0 && host_.alive == 0);
  }

 private:
  static constexpr uint32_t kConnections = 4;

  absl::StatusOr<std::unique_ptr<SocketStream>> Accept(const hvdef::Guid&) override {
    if (host_.refuses) return absl::NotFoundError("");
    return std::make_unique<FickleStream>(host_);
  }

  void WakeAll() {
    for (SocketWaker* const waker : host_.wakers) waker->Wake();
  }

  void Step() {
    ChannelEnd& end = ends_[Byte() % ends_.size()];
    switch (Byte() % 16) {
      case 0:
        (void)child_->client().TlConnect(hvdef::socket::ServiceOfPort(Byte() % 4), hvdef::socket::ServiceOfPort(1));
        break;
      case 1:
        (void)sockets_->Connect(hvdef::socket::ServiceOfPort(Byte() % 4), std::make_unique<FickleStream>(host_));
        break;
      case 2: {
        const auto& offers = child_->offers();
        if (offers.empty() || !MayOpen(end)) break;
        const hvdef::vmbus::OfferChannel offer = offers[Byte() % offers.size()];
        end.rings = vsc::ClientRings::Create(child_->host(end.ring.pages.first_pfn * kPageSize), end.ring);
        (void)child_->client().Open(end.channel, offer, end.ring);
        break;
      }
      case 3:
        if (end.is_open()) child_->client().Close(end.channel);
        break;
      case 4:
      case 5:
      case 6:
        Put(end, /*lies=*/false);
        break;
      case 7:
        Put(end, /*lies=*/true);
        break;
      case 8: {
        // Room, in the ring from the host.
        if (!end.is_open()) break;
        alignas(8) uint8_t buffer[32 << 10];
        vmbus::Packet packet;
        (void)end.rings.incoming.Read(buffer, sizeof(buffer), packet);
        if (end.rings.incoming.Commit() == vmbus::Signal::kNeeded) child_->client().Signal(end.channel);
        break;
      }
      case 9: {
        if (!end.is_open()) break;
        uint8_t* const control =
            child_->host((end.ring.pages.first_pfn + (Byte() % 2) * kRingPages) * kPageSize) + Byte() % 24;
        *control = Byte();
        child_->client().Signal(end.channel);
        break;
      }
      case 10:
        host_.has = Byte() * 100u;
        host_.is_ended = Byte() % 8 == 0;
        WakeAll();
        break;
      case 11:
        host_.room = Byte() * 100u;
        WakeAll();
        break;
      case 12:
        host_.is_broken = Byte() % 8 == 0;
        host_.refuses = Byte() % 8 == 0;
        WakeAll();
        break;
      case 13:
        timers_.AdvanceBy(Byte() * 1'000'000u);
        break;
      case 14:
        Byte() % 2 == 0 ? sockets_->Pause() : sockets_->Resume();
        break;
      default:
        if (Byte() % 8 == 0) {
          server_->Reset();
          sockets_->Reset();
          for (ChannelEnd& each : ends_) each.channel = vsc::Channel();
          child_ = std::make_unique<vsc::LoopbackChild>(hypervisor_, memory_);
          Connect(absl::MakeSpan(ends_));
        }
        break;
    }
    Pump();
  }

  static bool MayOpen(const ChannelEnd& end) {
    using State = vsc::Channel::State;
    return end.channel.state() == State::kNone || end.channel.state() == State::kRescinded ||
           end.channel.state() == State::kFailed;
  }

  void Put(ChannelEnd& end, bool lies) {
    if (!end.is_open()) return;
    const uint32_t size = Byte() * 32u;
    std::vector<uint8_t> packet(sizeof(hvdef::socket::PipeHeader) + size, 0x5A);
    hvdef::socket::PipeHeader pipe{.type = hvdef::socket::kPipeData, .size_bytes = size};
    vmbus::PacketHeader header = vmbus::PacketHeader::InBand(0, Byte() % 16 == 0);
    if (lies) {
      pipe.type = Byte();
      pipe.size_bytes += Byte() - 128u;
      packet.resize(std::max<size_t>(packet.size() - std::min<size_t>(packet.size(), Byte()), 1));
      if (Byte() % 4 == 0) header.type = static_cast<hvdef::PacketType>(Byte());
    }
    std::memcpy(packet.data(), &pipe, std::min(sizeof(pipe), packet.size()));
    if (end.rings.outgoing.StageInBand(header, packet.data(), static_cast<uint32_t>(packet.size())) !=
        vmbus::RingStatus::kOk) {
      return;
    }
    if (end.rings.outgoing.Publish() == vmbus::Signal::kNeeded) child_->client().Signal(end.channel);
  }

  FakeClock clock_;
  FakeTimerQueue timers_{clock_};
  HostEnds host_;
  std::unique_ptr<SocketProvider> sockets_;
  std::array<ChannelEnd, 3> ends_;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_FUZZ_SOCKETS_SOCKETS_HARNESS_H_
