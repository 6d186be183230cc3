// SPDX-License-Identifier: Apache-2.0
// IntegrationClient: the child side of an integration component on one open channel. It agrees on versions, hands out the host's
// requests, and sends what the caller makes of them as answers.
//
// Freestanding: no heap, no exceptions, no RTTI, no library but memcpy and memset. Nothing here waits: OnSignal, which the channel's
// signal calls, takes what has come.
//
// Thread-compatible: the caller keeps interrupts and everything else apart.
//
// The host is not trusted to be right: a request of another kind or before the versions is answered with Status::kFail; what is none,
// and a broken ring, make the client fail. A client serves one opening of its channel.
//
// Source: hvdef/integration.h.
//
//   vsc::IntegrationClient shutdown(bus, channel, rings, integration::MessageType::kShutdown, integration::kShutdownVersions);
//   shutdown.on_request = [](void*, vsc::IntegrationRequest& request) { PowerOffSoon(); };

#ifndef HVSDK_VSC_INTEGRATION_CLIENT_H_
#define HVSDK_VSC_INTEGRATION_CLIENT_H_

#include <cstddef>
#include <cstdint>

#include "hvsdk/hvdef/integration.h"
#include "hvsdk/vmbus/ring/packet.h"
#include "hvsdk/vsc/client_rings.h"
#include "hvsdk/vsc/vmbus_client.h"

namespace hvsdk::vsc {

// A request, and then its answer, which has as many bytes.
struct IntegrationRequest {
  uint8_t* body = nullptr;
  uint32_t size_bytes = 0;
  hvdef::integration::Status status = hvdef::integration::Status::kOk;
};

class IntegrationClient {
 public:
  enum class State : uint8_t {
    kStarting,  // until the host has offered versions
    kReady,
    kRefused,  // none in common; the host may offer others
    kFailed,   // the host broke the protocol or a ring; close the channel
    kEnded,    // the channel is no more
  };

  // Takes the channel's signals and its end. `versions`, ascending, are those that the caller speaks.
  template <size_t kCount>
  IntegrationClient(VmbusClient& bus, Channel& channel, const ClientRings& rings, hvdef::integration::MessageType type,
                    const hvdef::integration::Version (&versions)[kCount])
      : IntegrationClient(bus, channel, rings, type, versions, kCount) {}
  IntegrationClient(VmbusClient& bus, Channel& channel, const ClientRings& rings, hvdef::integration::MessageType type,
                    const hvdef::integration::Version* versions, size_t count);
  IntegrationClient(const IntegrationClient&) = delete;
  IntegrationClient& operator=(const IntegrationClient&) = delete;

  State state() const { return state_; }
  hvdef::integration::Version version() const { return version_; }  // kReady

  // Called with each request; what it leaves in there is the answer.
  void* context = nullptr;
  void (*on_request)(void* context, IntegrationRequest& request) = nullptr;

  void OnSignal();

 private:
  static constexpr uint32_t kMaxPacketBytes = 7680;

  bool is_over() const { return state_ == State::kFailed || state_ == State::kEnded; }
  void OnPacket(uint64_t transaction_id, uint8_t* message, uint32_t size_bytes);
  void Negotiate(hvdef::integration::Header& header, uint8_t* body, uint32_t size_bytes);

  VmbusClient& bus_;
  Channel& channel_;
  ClientRings rings_;
  const hvdef::integration::MessageType type_;
  const hvdef::integration::Version* const versions_;
  const size_t version_count_;
  State state_ = State::kStarting;
  hvdef::integration::Version version_{};
  alignas(8) uint8_t buffer_[kMaxPacketBytes];
};

}  // namespace hvsdk::vsc

#endif  // HVSDK_VSC_INTEGRATION_CLIENT_H_
