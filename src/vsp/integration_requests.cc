// SPDX-License-Identifier: Apache-2.0
#include "vsp/integration_requests.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"

namespace hvsdk::vsp {

using hvdef::integration::Status;

absl::Status GuestStatus(Status status) {
  const auto number = static_cast<uint32_t>(status);
  switch (status) {
    case Status::kOk:
      return absl::OkStatus();
    case Status::kNotFound:
    case Status::kNoMoreItems:
      return absl::NotFoundError("the guest has none of that name");
    case Status::kAlreadyExists:
      return absl::AlreadyExistsError("the guest has it already");
    case Status::kDiskFull:
      return absl::ResourceExhaustedError("the guest's disk is full");
    case Status::kInvalidArgument:
      return absl::InvalidArgumentError("the guest calls it invalid");
    case Status::kNotSupported:
      return absl::UnimplementedError("the guest does not support it");
    case Status::kFail:
      return absl::FailedPreconditionError(
          absl::StrFormat("the guest fails (%#x); its log says why, or the service for it does not run there", number));
  }
  return absl::FailedPreconditionError(absl::StrFormat("the guest fails (%#x)", number));
}

IntegrationRequests::IntegrationRequests(const Protocol& protocol, const IntegrationResources& resources,
                                         std::chrono::milliseconds answer_within)
    : IntegrationChannel(protocol),
      answer_within_(answer_within),
      late_(resources.timers, resources.clock, resources.executor, [this] { OnLate(); }) {}

IntegrationRequests::~IntegrationRequests() {
  Rescind();
  RestoreState({});
  FailAll(absl::CancelledError("the machine has ended"));
}

absl::Status IntegrationRequests::CheckReady() const {
  if (!is_ready()) {
    return absl::FailedPreconditionError("the guest has no driver for it, or its service does not run yet");
  }
  // What is undone in the guest is an earlier request's.
  if (is_waiting() && !is_front_asked_) {
    return absl::FailedPreconditionError("the guest has not answered an earlier request");
  }
  if (operations_.size() >= kMaxOperations) return absl::ResourceExhaustedError("too many requests wait already");
  return absl::OkStatus();
}

void IntegrationRequests::Submit(std::unique_ptr<Operation> operation) {
  if (const absl::Status ready = CheckReady(); !ready.ok()) {
    Remind();
    return operation->Fail(ready);
  }
  Push(std::move(operation));
}

void IntegrationRequests::Push(std::unique_ptr<Operation> operation) {
  operations_.push_back(std::move(operation));
  if (operations_.size() == 1) AskFront();
}

void IntegrationRequests::AskFront() {
  is_front_asked_ = false;
  late_.ArmIn(answer_within_);
  Ask();
}

void IntegrationRequests::Pause() {
  SetPaused(true);
  late_.Pause();
}

void IntegrationRequests::Resume() {
  SetPaused(false);
  late_.Resume();
}

void IntegrationRequests::FailAll(const absl::Status& status) {
  late_.Cancel();
  TakeBack();
  is_front_asked_ = is_undoing_ = false;
  // They may ask anew.
  const auto operations = std::exchange(operations_, {});
  for (const auto& operation : operations) {
    if (operation != nullptr) operation->Fail(status);
  }
}

void IntegrationRequests::OnLate() {
  if (operations_.empty()) return;
  // What is to be undone and could not be asked yet, for the guest has not answered what came before, waits as long as that takes: nothing
  // else is asked meanwhile.
  if (is_undoing_ && !is_front_asked_) return;
  const std::unique_ptr<Operation> first = std::move(operations_.front());
  operations_.pop_front();
  const bool is_owed = is_front_asked();
  const absl::Status status = absl::DeadlineExceededError("the guest does not answer");
  first->Fail(status);
  FailAll(status);
  std::unique_ptr<Operation> undo = first->Undo(is_owed);
  if (undo == nullptr || !is_ready()) return;
  operations_.push_front(std::move(undo));
  is_undoing_ = true;
  AskFront();
}

uint32_t IntegrationRequests::WriteRequest(absl::Span<uint8_t> body) {
  is_front_asked_ = true;
  if (!late_.is_armed()) late_.ArmIn(answer_within_);
  return operations_.front()->Write(body);
}

void IntegrationRequests::OnAnswer(Status status, absl::Span<const uint8_t> body) {
  if (!std::exchange(is_front_asked_, false)) {
    // One that comes too late is nobody's, but may say that nothing is left to be undone; whoever is first in line is asked now.
    if (!is_undoing_ || !operations_.front()->OnOwedAnswer(status)) return;
    TakeBack();
    operations_.pop_front();
    is_undoing_ = false;
    if (operations_.empty()) return late_.Cancel();
    return AskFront();
  }
  // Its place is kept: whoever is told may submit more, or end them all.
  std::unique_ptr<Operation> front = std::move(operations_.front());
  const bool has_ended = front->OnAnswer(status, body);
  if (operations_.empty() || operations_.front() != nullptr) {
    if (!has_ended) front->Fail(absl::CancelledError("the machine was reset"));
    return;
  }
  if (has_ended) {
    operations_.pop_front();
    is_undoing_ = false;
  } else {
    operations_.front() = std::move(front);
  }
  if (operations_.empty()) return late_.Cancel();
  AskFront();
}

IntegrationChannel::State IntegrationRequests::state() const {
  State state = SaveState();
  state.is_wanted = false;
  return state;
}

absl::Status IntegrationRequests::Check(const State& state, const state::StateReader& reader) const {
  RETURN_IF_ERROR(CheckState(state, reader));
  if (state.is_wanted) return reader.Invalid("channel.is_wanted", "a request that nobody made");
  return absl::OkStatus();
}

void IntegrationRequests::Restore(const State& state, std::unique_ptr<Operation> undo, bool is_asked) {
  FailAll(absl::CancelledError("another state was restored"));
  RestoreState(state);
  if (undo == nullptr) return;
  operations_.push_back(std::move(undo));
  is_undoing_ = true;
  // A machine that is being restored has not been paused, and does not run either.
  late_.Pause();
  late_.ArmIn(answer_within_);
  is_front_asked_ = is_asked;
  if (!is_asked) Ask();
}

void IntegrationRequests::Reset() {
  RestoreState({});
  FailAll(absl::CancelledError("the machine was reset"));
}

}  // namespace hvsdk::vsp
