// SPDX-License-Identifier: Apache-2.0
// IntegrationChannel: what all integration components have in common: the channel, the versions, and one request at a time with its
// answer. A component derives from it and says what its requests and answers mean.
//
//   Phase: kIdle ──OnOpen──► kOffering ──sent──► kNegotiating ──answer──► kReady      (OnReady)
//                                                      └───── no version ──► kRefused
//
// A guest that does not answer costs nothing but its own request: there is one at a time, and a new one is made only when the last was
// answered, or given up and the channel opened anew. What nobody asked for is dropped.
//
// Thread class: the channel's executor. Source: hvdef/integration.h.

#ifndef HVSDK_SRC_VSP_INTEGRATION_CHANNEL_H_
#define HVSDK_SRC_VSP_INTEGRATION_CHANNEL_H_

#include <array>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "hvsdk/base/executor.h"
#include "hvsdk/hvdef/guid.h"
#include "hvsdk/hvdef/integration.h"
#include "hvsdk/state/reader.h"
#include "hvsdk/vmbus/packet_pump.h"
#include "hvsdk/vmbus/server.h"

namespace hvsdk::vsp {

class IntegrationChannel : protected vmbus::PacketPump {
 public:
  struct Protocol {
    hvdef::Guid class_id;
    hvdef::Guid instance_id;
    hvdef::integration::MessageType type;
    absl::Span<const hvdef::integration::Version> versions;  // ascending
  };
  enum class Phase : uint8_t { kIdle, kOffering, kNegotiating, kReady, kRefused };

  // What of it is saved. A request that was not answered yet is answered after the restore, to nobody.
  struct State {
    Phase phase = Phase::kIdle;
    uint16_t framework_major = 0, framework_minor = 0;
    uint16_t version_major = 0, version_minor = 0;
    uint8_t transaction_id = 0;
    bool is_waiting = false;  // for an answer
    bool is_wanted = false;   // Ask was called

    template <typename Visitor>
    void Fields(Visitor& visit) {
      visit(1, "phase", phase);
      visit(2, "framework_major", framework_major);
      visit(3, "framework_minor", framework_minor);
      visit(4, "version_major", version_major);
      visit(5, "version_minor", version_minor);
      visit(6, "transaction_id", transaction_id);
      visit(7, "is_waiting", is_waiting);
      visit(8, "is_wanted", is_wanted);
    }
  };

  // The longest body of a request or an answer, and no less than a negotiation's.
  static constexpr uint32_t kMaxBodyBytes = 7432;

  explicit IntegrationChannel(const Protocol& protocol);
  virtual ~IntegrationChannel() = default;

  absl::Status Offer(vmbus::Server& server, Executor& executor);
  // Takes it off the bus.
  void Rescind() { channel_.reset(); }

  State SaveState() const { return state_; }
  absl::Status CheckState(const State& state, const state::StateReader& reader) const;
  void RestoreState(const State& state) { state_ = state; }

  // Of a guest that does not run. Until false, nothing is sent; what was answered is taken.
  void SetPaused(bool paused);

 protected:
  Phase phase() const { return state_.phase; }
  bool is_ready() const { return state_.phase == Phase::kReady; }
  bool is_waiting() const { return state_.is_waiting; }
  // Of the component, agreed on.
  hvdef::integration::Version version() const { return {state_.version_major, state_.version_minor}; }

  // Has WriteRequest called as soon as the guest can take a request: when it is ready and has answered the last one.
  void Ask();
  // For somebody who waits for the guest: tells it again of what it has not read.
  void Remind();
  // Not any more, if it has not been sent yet.
  void TakeBack() { state_.is_wanted = false; }

  // Writes the body of a request and returns its size: in a turn, right before it is sent; once more where there was no room for it.
  virtual uint32_t WriteRequest(absl::Span<uint8_t> body) = 0;
  // The guest has it.
  virtual void OnSent() {}
  // The guest's answer to the last request.
  virtual void OnAnswer(hvdef::integration::Status status, absl::Span<const uint8_t> body) = 0;
  // The versions are agreed on.
  virtual void OnReady() {}
  // The channel has been closed, or there is no version in common; a request that was not answered never will be, and `why` is its end.
  virtual void OnLost(const absl::Status& why) { (void)why; }
  // This machine was restored, and the guest has the channel open.
  virtual void OnWentOn() {}

 private:
  // PacketPump.
  bool OnOpen(vmbus::Channel& channel) override;
  void OnRestored(vmbus::Channel& channel) override;
  void OnClosing(vmbus::Channel& channel) override;
  void OnSignal(vmbus::Channel& channel) override;
  vmbus::Take OnTurn() override;
  vmbus::Take OnPacket(const vmbus::Packet& packet) override;

  bool SendNegotiation();
  bool SendMessage(hvdef::integration::Header header, uint32_t body_bytes);
  void OnVersions(absl::Span<const uint8_t> body);
  uint8_t* body() { return message_.data() + kHeaderBytes; }

  static constexpr uint32_t kHeaderBytes = sizeof(hvdef::integration::PipeHeader) + sizeof(hvdef::integration::Header);

  const Protocol protocol_;
  State state_;
  bool is_paused_ = false;
  bool has_moved_ = false;  // something came from the guest or went to it, in this turn
  std::array<uint8_t, kHeaderBytes + kMaxBodyBytes> message_;
  std::unique_ptr<vmbus::Channel> channel_;  // last: it is gone before the rest
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_SRC_VSP_INTEGRATION_CHANNEL_H_
