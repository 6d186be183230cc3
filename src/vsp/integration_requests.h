// SPDX-License-Identifier: Apache-2.0
// IntegrationRequests: the channel of an integration component of which things are asked: a line of operations, each of which is one
// request to the guest or several, one after another. Each ends: when the guest has answered, does not answer in time, closes the channel, or the
// machine is reset.
//
// A guest that does not answer in time fails the whole line. While it owes that answer nothing else is asked of it; what the operation has left in the
// guest by then is undone when the answer comes.
//
// Thread class: the executor. Source: hvdef/integration.h.

#ifndef HVSDK_SRC_VSP_INTEGRATION_REQUESTS_H_
#define HVSDK_SRC_VSP_INTEGRATION_REQUESTS_H_

#include <chrono>
#include <deque>
#include <memory>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/executor_timer.h"
#include "hvsdk/vsp/integration.h"
#include "vsp/integration_channel.h"

namespace hvsdk::vsp {

// A guest's status in words, on one line.
absl::Status GuestStatus(hvdef::integration::Status status);

class IntegrationRequests final : public IntegrationChannel {
 public:
  // Tells its asker how it ends, once: in OnAnswer or in Fail.
  class Operation {
   public:
    virtual ~Operation() = default;
    // Writes its next request and returns its size; more than once where the ring is full.
    virtual uint32_t Write(absl::Span<uint8_t> body) = 0;
    // The guest's answer to it. True: it has ended; else there is another request.
    virtual bool OnAnswer(hvdef::integration::Status status, absl::Span<const uint8_t> body) = 0;
    virtual void Fail(const absl::Status& status) = 0;
    // After Fail: what takes back what it did to the guest. Null: nothing has to be. `is_owed`: the guest has its last request, and has not
    // answered it.
    virtual std::unique_ptr<Operation> Undo(bool /*is_owed*/) { return nullptr; }
    // Of one that undoes: the answer that was owed has come. True: it says that there is nothing to be undone.
    virtual bool OnOwedAnswer(hvdef::integration::Status) { return false; }
  };

  IntegrationRequests(const Protocol& protocol, const IntegrationResources& resources,
                      std::chrono::milliseconds answer_within);
  // All operations are cancelled.
  ~IntegrationRequests() override;

  using IntegrationChannel::version;
  // Why nothing can be asked now: FailedPrecondition or ResourceExhausted.
  absl::Status CheckReady() const;
  // Here or later it fails or ends. Whoever is told may submit more, and must not destroy this.
  void Submit(std::unique_ptr<Operation> operation);
  // The first of the line; null: there is none. And whether its request is under way.
  const Operation* front() const { return operations_.empty() ? nullptr : operations_.front().get(); }
  bool is_front_asked() const { return is_front_asked_ && is_waiting(); }

  // Time to answer stands still meanwhile.
  void Pause();
  void Resume();
  // Without requests: those are their askers', and go with the process.
  State state() const;
  absl::Status Check(const State& state, const state::StateReader& reader) const;
  // While paused. `undo`, which may be null, is the one operation that a state has; `is_asked`: it waits for its answer.
  void Restore(const State& state, std::unique_ptr<Operation> undo, bool is_asked);
  void Reset();

 private:
  static constexpr size_t kMaxOperations = 64;

  void Push(std::unique_ptr<Operation> operation);
  void AskFront();
  void FailAll(const absl::Status& status);
  void OnLate();

  // IntegrationChannel.
  uint32_t WriteRequest(absl::Span<uint8_t> body) override;
  void OnAnswer(hvdef::integration::Status status, absl::Span<const uint8_t> body) override;
  void OnLost(const absl::Status& why) override { FailAll(why); }

  const std::chrono::milliseconds answer_within_;
  std::deque<std::unique_ptr<Operation>> operations_;
  bool is_front_asked_ = false;  // what the guest owes is the answer to the first's request
  bool is_undoing_ = false;      // the first in line is what an earlier one left to be undone
  ExecutorTimer late_;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_SRC_VSP_INTEGRATION_REQUESTS_H_
