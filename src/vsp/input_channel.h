// SPDX-License-Identifier: Apache-2.0
// InputChannel: what keyboard and mouse have in common: the channel, pauses, a guest that has broken the protocol, and how fast events go
// to a guest. A device derives from it, answers what the guest says, and sends events as long as MaySend.
//
// Thread class: the channel's executor.

#ifndef HVSDK_SRC_VSP_INPUT_CHANNEL_H_
#define HVSDK_SRC_VSP_INPUT_CHANNEL_H_

#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/executor_timer.h"
#include "base/status_macros.h"
#include "hvsdk/vmbus/packet_pump.h"
#include "hvsdk/vmbus/server.h"
#include "hvsdk/vsp/input.h"

namespace hvsdk::vsp {

class InputChannel : protected vmbus::PacketPump {
 public:
  // A program that reads Linux' events has room for 64 of them, and a key is three (evdev.c, EVDEV_MIN_BUFFER_SIZE): it may be late by
  // some 50 ms, and still loses none.
  static constexpr uint32_t kEventsPerBeat = 8;
  static constexpr std::chrono::milliseconds kBeat{20};

  void SetPaused(bool paused) {
    is_paused_ = paused;
    beat_.Cancel();
    sent_in_beat_ = 0;
    if (!paused) Wake();
  }

 protected:
  InputChannel(const InputResources& resources, uint32_t max_packet_bytes)
      : PacketPump({.max_packet_bytes = max_packet_bytes,
                    // Whoever asks for a completion gets an empty one.
                    .max_completion_bytes = sizeof(uint64_t),
                    .takes_while_waiting = true}),
        beat_(resources.timers, resources.clock, resources.executor, [this] {
          sent_in_beat_ = 0;
          TakeTurn();
        }) {}
  virtual ~InputChannel() = default;

  absl::Status Offer(vmbus::Server& server, const vmbus::Offer& offer, Executor& executor) {
    ASSIGN_OR_RETURN(channel_, server.OfferChannel(offer, *this, executor));
    return absl::OkStatus();
  }
  void Rescind() { channel_.reset(); }
  void Wake() {
    if (channel_ != nullptr) channel_->Wake();
  }

  bool is_paused() const { return is_paused_; }
  // Whether another event may go to the guest now; if not, a turn comes when one may.
  bool MaySend() const { return sent_in_beat_ < kEventsPerBeat; }
  void CountSent() {
    if (sent_in_beat_++ == 0) beat_.ArmIn(kBeat);
  }
  bool SendMessage(const void* message, size_t size_bytes) {
    return Send(vmbus::PacketHeader::InBand(/*transaction_id=*/0, /*completion_requested=*/false), message,
                static_cast<uint32_t>(size_bytes));
  }

  template <typename Message>
  static bool Read(absl::Span<const uint8_t> from, Message& message) {
    if (from.size() < sizeof(message)) return false;
    std::memcpy(&message, from.data(), sizeof(message));
    return true;
  }

  // The guest's driver was told nothing, or is gone: there is another one now, or none.
  virtual void Forget() = 0;
  virtual void OnOpened() = 0;
  virtual void OnGone(const vmbus::Channel& channel) = 0;
  // It has said what makes no sense: it is not heard any more, until it closes the channel.
  virtual void OnBroken() = 0;
  virtual vmbus::Take OnMessage(absl::Span<const uint8_t> message) = 0;

 private:
  // PacketPump.
  bool OnOpen(vmbus::Channel& channel) override {
    if (!PacketPump::OnOpen(channel)) return false;
    Forget();
    OnOpened();
    return true;
  }
  void OnClosing(vmbus::Channel& channel) override {
    Forget();
    FinishClose();
    OnGone(channel);
  }
  vmbus::Take OnLongPacket(const vmbus::Packet&) override {
    OnBroken();
    return vmbus::Take::kMalformed;
  }
  vmbus::Take OnPacket(const vmbus::Packet& packet) override {
    // A packet that is left in its ring is read again after a restore.
    vmbus::Take take = vmbus::Take::kMalformed;
    if (packet.type == hvdef::PacketType::kDataInBand) take = OnMessage({packet.payload, packet.payload_size});
    if (take == vmbus::Take::kMalformed) {
      OnBroken();
      return take;
    }
    constexpr uint64_t kNothing = 0;
    Complete(packet, &kNothing, 0);
    return take;
  }

  bool is_paused_ = false;
  uint32_t sent_in_beat_ = 0;
  ExecutorTimer beat_;
  std::unique_ptr<vmbus::Channel> channel_;  // last: it is gone before the rest
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_SRC_VSP_INPUT_CHANNEL_H_
