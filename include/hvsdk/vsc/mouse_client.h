// SPDX-License-Identifier: Apache-2.0
// MouseClient: the child side of the synthetic mouse on one open channel. It asks for the version, takes and acknowledges what the device
// is, and hands out its reports.
//
// Freestanding: no heap, no exceptions, no RTTI, no library but memcpy and memset. Nothing here waits: OnSignal, which the channel's
// signal calls, takes what has come and goes on with what had no room.
//
// Thread-compatible: the caller keeps interrupts and everything else apart.
//
// The host is not trusted to be right: what is no message, or comes before its time, and a broken ring, make the client fail. What
// a report means stands in the host's report descriptor, which the caller reads; that of this SDK is hvdef::mouse::kReport. A client
// serves one opening of its channel.
//
// Source: hvdef/mouse.h.
//
//   vsc::MouseClient mouse(bus, channel, rings);
//   mouse.on_report = [](void*, const uint8_t* report, uint32_t size_bytes) { OnHidReport(report, size_bytes); };
//   mouse.Start();  // when the channel is open

#ifndef HVSDK_VSC_MOUSE_CLIENT_H_
#define HVSDK_VSC_MOUSE_CLIENT_H_

#include <cstdint>

#include "hvsdk/hvdef/mouse.h"
#include "hvsdk/vmbus/ring/packet.h"
#include "hvsdk/vsc/client_rings.h"
#include "hvsdk/vsc/vmbus_client.h"

namespace hvsdk::vsc {

class MouseClient {
 public:
  enum class State : uint8_t {
    kStarting,  // until the device is known
    kReady,
    kRefused,  // the host does not speak the version
    kFailed,   // the host broke the protocol or a ring; close the channel
    kEnded,    // the channel is no more
  };

  // Takes the channel's signals and its end.
  MouseClient(VmbusClient& bus, Channel& channel, const ClientRings& rings);
  MouseClient(const MouseClient&) = delete;
  MouseClient& operator=(const MouseClient&) = delete;

  State state() const { return state_; }
  // kReady: what the device is.
  const hvdef::mouse::DeviceAttributes& attributes() const { return attributes_; }
  const uint8_t* report_descriptor() const { return descriptor_; }
  uint32_t report_descriptor_bytes() const { return descriptor_bytes_; }

  void* context = nullptr;
  void (*on_report)(void* context, const uint8_t* report, uint32_t size_bytes) = nullptr;

  // Asks for the version: once, when the channel is open.
  void Start();

  void OnSignal();

 private:
  bool is_over() const { return state_ >= State::kRefused; }
  bool Send(hvdef::mouse::MessageType type, void* message, uint32_t size_bytes);
  void OnMessage(const uint8_t* message, uint32_t size_bytes);
  void OnDeviceInfo(const uint8_t* message, uint32_t size_bytes);
  void Fail() { state_ = State::kFailed; }

  VmbusClient& bus_;
  Channel& channel_;
  ClientRings rings_;
  State state_ = State::kStarting;
  bool is_asking_ = false, is_accepted_ = false;
  hvdef::mouse::DeviceAttributes attributes_{};
  uint32_t descriptor_bytes_ = 0;
  uint8_t descriptor_[hvdef::mouse::kMaxMessageBytes];
  alignas(8) uint8_t buffer_[hvdef::mouse::kMaxMessageBytes];
};

}  // namespace hvsdk::vsc

#endif  // HVSDK_VSC_MOUSE_CLIENT_H_
