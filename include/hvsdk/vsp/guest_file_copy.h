// SPDX-License-Identifier: Apache-2.0
// GuestFileCopy: the integration component by which the host writes a file in a guest. Linux' hv_fcopy_daemon (from Linux 6.10 on
// hv_fcopy_uio_daemon) and Windows' guest service interface take it, as whom they run.
//
// A file goes over in pieces of 6 KiB, each of which the guest answers; what is read of it is read right before, on the executor. A copy that ends before it
// is complete is cancelled in the guest, which removes what it has of the file; that of a machine whose state was saved meanwhile, when
// the machine goes on. hv_fcopy_uio_daemon removes nothing, and the error then says so.
//
// Thread class: the executor. Source: hvdef/file_copy.h.
//
//   const auto files = vsp::GuestFileCopy::Create(server, {.executor = loop, .timers = timers, .clock = clock}, {});
//   if (!files.ok()) return files.status();
//   vsp::FileCopyRequest request{.guest_path = "/etc/motd", .overwrite = true, .size_bytes = text.size()};
//   request.read = [text](uint64_t offset, absl::Span<uint8_t> to) {
//     std::memcpy(to.data(), text.data() + offset, to.size());
//     return absl::OkStatus();
//   };
//   (*files)->Copy(std::move(request), [](const absl::Status& status) { Tell(status); });

#ifndef HVSDK_VSP_GUEST_FILE_COPY_H_
#define HVSDK_VSP_GUEST_FILE_COPY_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "hvsdk/vmbus/server.h"
#include "hvsdk/vsp/integration.h"

namespace hvsdk::vsp {

struct FileCopyRequest {
  // In the guest: a directory and a file name, each less than 260 bytes. The last slash is between them, or backslash, if there is no slash.
  std::string guest_path;
  bool overwrite = false;    // a file that is there
  bool create_path = false;  // directories that are not
  uint64_t size_bytes = 0;
  // Fills `to` from `offset`, within size_bytes. An error ends the copy.
  absl::AnyInvocable<absl::Status(uint64_t offset, absl::Span<uint8_t> to)> read;
  // After each piece; false: the copy is to end, with Cancelled. May be null.
  absl::AnyInvocable<bool(uint64_t done_bytes)> on_progress;
};

struct GuestFileCopyOptions {
  // Each piece. Linux gives up after 30 s by itself.
  std::chrono::milliseconds answer_within{35'000};
};

class GuestFileCopy : public IntegrationComponent {
 public:
  // As vmbus::Server::OfferChannel.
  static absl::StatusOr<std::unique_ptr<GuestFileCopy>> Create(vmbus::Server& server,
                                                               const IntegrationResources& resources,
                                                               const GuestFileCopyOptions& options);
  // Takes it off the bus. On the executor, or on any thread once that has stopped for good.
  ~GuestFileCopy() override;

  // `done` is called once, here or later on the executor, and must not destroy this. One after another if there are several. AlreadyExists: the
  // guest has a file there, and is not to overwrite it. ResourceExhausted: its disk is full, or too many requests wait. FailedPrecondition:
  // it fails, has no driver or service for it, or has not answered an earlier request. DeadlineExceeded: it did not answer. InvalidArgument: the
  // path is none, or too long. Cancelled: on_progress said so, or the machine was reset or goes. Others are `read`'s.
  using Done = absl::AnyInvocable<void(const absl::Status&)>;
  void Copy(FileCopyRequest request, Done done);

  // While the guest does not run it is asked nothing; a copy waits, and so does its time.
  void Pause() override;
  void Resume() override;

  // state::Component, while paused; restored before vmbus::Server. A copy is not saved; that it is to be cancelled is.
  std::string StateName() const override { return "integration/file-copy"; }
  absl::Status Save(state::StateWriter& writer) const override;
  absl::Status Restore(state::StateReader& reader) override;
  void Reset() override;

 private:
  class Core;
  explicit GuestFileCopy(std::unique_ptr<Core> core);
  const std::unique_ptr<Core> core_;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_VSP_GUEST_FILE_COPY_H_
