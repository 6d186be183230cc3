// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vsp/guest_file_copy.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "hvsdk/hvdef/file_copy.h"
#include "vsp/integration_requests.h"
#include "vsp/wire_text.h"

namespace hvsdk::vsp {

namespace wire = hvdef::file_copy;
using hvdef::integration::Status;

namespace {

constexpr IntegrationChannel::Protocol kProtocol = {
    .class_id = hvdef::class_id::kFileCopy,
    .instance_id = hvdef::MakeGuid("eb765408-105f-49b6-b4aa-c123b64d17d4"),
    .type = hvdef::integration::MessageType::kFileCopy,
    .versions = wire::kVersions,
};

struct FileCopyState {
  static constexpr uint32_t kSchema = 1;
  IntegrationChannel::State channel;
  bool is_begun = false;       // the guest has a file that nobody completes
  bool is_cancelling = false;  // and was told so
  // What the guest had been asked and had not answered, if its answer may say that there is nothing to cancel.
  wire::Operation owed = wire::Operation::kWrite;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "channel", channel);
    visit(2, "is_begun", is_begun);
    visit(3, "is_cancelling", is_cancelling);
    visit(4, "owed", owed);
  }
};

// Linux cuts what is longer in UTF-8, and then writes another file.
absl::Status CheckLength(absl::string_view name, absl::string_view text) {
  constexpr size_t kMaxBytes = wire::kMaxNameBytes / 2 - 1;
  if (text.size() <= kMaxBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the ", name, " is longer than ", kMaxBytes, " bytes"));
}

absl::StatusOr<wire::Begin> MakeBegin(const FileCopyRequest& request) {
  const absl::string_view path = request.guest_path;
  size_t last = path.rfind('/');
  if (last == absl::string_view::npos) last = path.rfind('\\');
  if (last == absl::string_view::npos || last + 1 == path.size()) {
    return absl::InvalidArgumentError("the path in the guest has no directory or no file name");
  }
  // With its slash: Linux creates what stands before one.
  const absl::string_view directory = path.substr(0, last + 1), file_name = path.substr(last + 1);
  wire::Begin begin{};
  begin.header.operation = wire::Operation::kBegin;
  begin.flags = (request.overwrite ? wire::kOverwrite : 0) | (request.create_path ? wire::kCreatePath : 0);
  begin.file_bytes = request.size_bytes;
  RETURN_IF_ERROR(CheckLength("directory in the guest", directory));
  RETURN_IF_ERROR(CheckLength("file name", file_name));
  RETURN_IF_ERROR(PutText("directory in the guest", directory, begin.directory));
  RETURN_IF_ERROR(PutText("file name", file_name, begin.file_name));
  return begin;
}

class FileOperation : public IntegrationRequests::Operation {
 public:
  // The guest may have a file that is not complete, as far as it has been asked: `is_owed` as in Undo.
  virtual bool is_begun(bool is_owed) const = 0;
  virtual bool is_undo() const = 0;
  // Its last request that is not a cancellation.
  virtual wire::Operation last() const = 0;
};

uint32_t WriteHeader(wire::Operation operation, absl::Span<uint8_t> body) {
  const wire::Header header{.operation = operation};
  std::memcpy(body.data(), &header, sizeof(header));
  return sizeof(header);
}

// A cancellation of nothing would have older daemons of Linux remove the last file that was written.
class Cancellation final : public FileOperation {
 public:
  explicit Cancellation(wire::Operation owed) : owed_(owed) {}

  bool is_begun(bool) const override { return true; }
  bool is_undo() const override { return true; }
  wire::Operation last() const override { return owed_; }
  bool OnOwedAnswer(Status status) override {
    return (owed_ == wire::Operation::kBegin && status != Status::kOk) ||
           (owed_ == wire::Operation::kComplete && status == Status::kOk);
  }
  uint32_t Write(absl::Span<uint8_t> body) override { return WriteHeader(wire::Operation::kCancel, body); }
  bool OnAnswer(Status, absl::Span<const uint8_t>) override { return true; }
  void Fail(const absl::Status&) override {}

 private:
  const wire::Operation owed_;
};

class FileCopy final : public FileOperation {
 public:
  FileCopy(FileCopyRequest request, const wire::Begin& begin, GuestFileCopy::Done done)
      : request_(std::move(request)), begin_(begin), done_(std::move(done)) {}

  // A request that found no room in the ring has not been sent.
  bool is_begun(bool is_owed) const override { return is_begun_ && (is_owed || next_ != wire::Operation::kBegin); }
  bool is_undo() const override { return next_ == wire::Operation::kCancel; }
  wire::Operation last() const override { return next_; }

  uint32_t Write(absl::Span<uint8_t> body) override {
    switch (next_) {
      case wire::Operation::kBegin:
        is_begun_ = true;
        std::memcpy(body.data(), &begin_, sizeof(begin_));
        return sizeof(begin_);
      case wire::Operation::kWrite:
        std::memcpy(body.data(), &piece_, sizeof(piece_));
        return sizeof(piece_);
      default:
        return WriteHeader(next_, body);
    }
  }

  bool OnAnswer(Status status, absl::Span<const uint8_t>) override {
    switch (next_) {
      case wire::Operation::kBegin:
        if (status != Status::kOk) return done_(GuestStatus(status)), true;
        break;
      case wire::Operation::kWrite:
        if (status != Status::kOk) return Cancel(GuestStatus(status));
        done_bytes_ += piece_.size_bytes;
        if (request_.on_progress && !request_.on_progress(done_bytes_)) {
          return Cancel(absl::CancelledError("the copy was cancelled"));
        }
        break;
      case wire::Operation::kComplete:
        return done_(GuestStatus(status)), true;
      case wire::Operation::kCancel:
        if (status != Status::kOk) {
          error_ = absl::Status(error_.code(),
                                absl::StrCat(error_.message(), "; the guest does not remove what it has of the file"));
        }
        return done_(error_), true;
    }
    return Continue();
  }

  void Fail(const absl::Status& status) override { done_(next_ == wire::Operation::kCancel ? error_ : status); }

  std::unique_ptr<Operation> Undo(bool is_owed) override {
    if (!is_begun(is_owed) || (is_undo() && is_owed)) return nullptr;
    return std::make_unique<Cancellation>(next_);
  }

 private:
  bool Continue() {
    const uint64_t left = request_.size_bytes - done_bytes_;
    next_ = left == 0 ? wire::Operation::kComplete : wire::Operation::kWrite;
    if (left == 0) return false;
    piece_.header.operation = wire::Operation::kWrite;
    piece_.offset_low = static_cast<uint32_t>(done_bytes_);
    piece_.offset_high = static_cast<uint32_t>(done_bytes_ >> 32);
    piece_.size_bytes = static_cast<uint32_t>(std::min<uint64_t>(left, sizeof(piece_.data)));
    const absl::Status status = request_.read(done_bytes_, absl::MakeSpan(piece_.data, piece_.size_bytes));
    return status.ok() ? false : Cancel(status);
  }
  bool Cancel(absl::Status error) {
    error_ = std::move(error);
    next_ = wire::Operation::kCancel;
    return false;
  }

  FileCopyRequest request_;
  const wire::Begin begin_;
  GuestFileCopy::Done done_;
  bool is_begun_ = false;
  wire::Operation next_ = wire::Operation::kBegin;
  wire::Write piece_{};
  uint64_t done_bytes_ = 0;
  absl::Status error_;  // why it is cancelled
};

}  // namespace

class GuestFileCopy::Core {
 public:
  Core(const IntegrationResources& resources, const GuestFileCopyOptions& options)
      : requests_(kProtocol, resources, options.answer_within) {}

  FileCopyState state() const {
    const auto* const front = static_cast<const FileOperation*>(requests_.front());
    const bool is_asked = requests_.is_front_asked();
    FileCopyState state{.channel = requests_.state()};
    state.is_begun = front != nullptr && front->is_begun(is_asked);
    state.is_cancelling = state.is_begun && front->is_undo() && is_asked;
    const bool is_owed = state.is_begun && state.channel.is_waiting && !state.is_cancelling;
    if (is_owed && (front->last() == wire::Operation::kBegin || front->last() == wire::Operation::kComplete)) {
      state.owed = front->last();
    }
    return state;
  }
  absl::Status Restore(state::StateReader& reader) {
    FileCopyState state;
    RETURN_IF_ERROR(reader.Read(state));
    RETURN_IF_ERROR(requests_.Check(state.channel, reader));
    if (state.is_begun && state.channel.phase != IntegrationChannel::Phase::kReady) {
      return reader.Invalid("is_begun", "without a driver");
    }
    if (state.is_cancelling && !(state.is_begun && state.channel.is_waiting)) {
      return reader.Invalid("is_cancelling", "what was not begun, or not asked");
    }
    if (state.owed >= wire::Operation::kCancel) {
      return reader.Invalid("owed", "not what a file waits for");
    }
    if (state.owed != wire::Operation::kWrite &&
        !(state.is_begun && state.channel.is_waiting && !state.is_cancelling)) {
      return reader.Invalid("owed", "an answer that the guest does not owe");
    }
    requests_.Restore(state.channel, state.is_begun ? std::make_unique<Cancellation>(state.owed) : nullptr,
                      state.is_cancelling);
    return absl::OkStatus();
  }

  IntegrationRequests requests_;
};

absl::StatusOr<std::unique_ptr<GuestFileCopy>> GuestFileCopy::Create(vmbus::Server& server,
                                                                     const IntegrationResources& resources,
                                                                     const GuestFileCopyOptions& options) {
  auto core = std::make_unique<Core>(resources, options);
  RETURN_IF_ERROR(core->requests_.Offer(server, resources.executor));
  return std::unique_ptr<GuestFileCopy>(new GuestFileCopy(std::move(core)));
}

GuestFileCopy::GuestFileCopy(std::unique_ptr<Core> core) : core_(std::move(core)) {}
GuestFileCopy::~GuestFileCopy() = default;

void GuestFileCopy::Copy(FileCopyRequest request, Done done) {
  const absl::StatusOr<wire::Begin> begin = MakeBegin(request);
  if (!begin.ok()) return done(begin.status());
  core_->requests_.Submit(std::make_unique<FileCopy>(std::move(request), *begin, std::move(done)));
}

void GuestFileCopy::Pause() { core_->requests_.Pause(); }
void GuestFileCopy::Resume() { core_->requests_.Resume(); }

absl::Status GuestFileCopy::Save(state::StateWriter& writer) const {
  FileCopyState state = core_->state();
  writer.Write(state);
  return absl::OkStatus();
}
absl::Status GuestFileCopy::Restore(state::StateReader& reader) { return core_->Restore(reader); }
void GuestFileCopy::Reset() { core_->requests_.Reset(); }

}  // namespace hvsdk::vsp
