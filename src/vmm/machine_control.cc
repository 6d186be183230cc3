// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/machine_control.h"

#include <unistd.h>

#include <memory>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/os/lost_memory.h"
#include "hvsdk/vmm/machine_stats.h"

namespace hvsdk::vmm {

using machine::Controller;

namespace {

ControlReply ReplyOf(const absl::Status& status) {
  ControlReply reply;
  reply.set_code(static_cast<uint32_t>(status.code()));
  reply.set_error(std::string(status.message()));
  return reply;
}

std::string DeviceOf(uint32_t lun) { return absl::StrCat("storage/", lun); }

}  // namespace

void MachineControl::OnRequest(const ControlRequest& request, Reply reply) {
  Controller& controller = machine_.controller();
  ControlReply done;
  switch (request.command()) {
    case STATUS:
      *done.mutable_status() = Status();
      return reply(std::move(done));
    case STATS:
      *done.mutable_stats() = Stats();
      return reply(std::move(done));
    case EVENTS:
      return reply(std::move(done));
    case PAUSE:
      return controller.Pause(Answer(std::move(reply)));
    case RESUME:
      return controller.Resume(Answer(std::move(reply)));
    case RESET:
      return controller.Reset(Answer(std::move(reply)));
    case POWER_BUTTON:
      machine_.PressPowerButton();
      return reply(std::move(done));
    case NMI:
      return Answer(std::move(reply))(machine_.InjectNmi(VpIndex{request.vp()}));
    case LOSE_PAGE: {
      const uint64_t gpa = request.gpa() & ~(kPageSize - 1);
      uint8_t* const page = machine_.board().memory().Pointer(gpa, kPageSize);
      // A KVM does not tell of a page that a file lacks (docs/failures.md).
      const bool by_kernel = options_.backend == "kvm";
      return Answer(std::move(reply))(
          page != nullptr ? os::LosePage(page, by_kernel)
                          : absl::InvalidArgumentError(absl::StrFormat("there is no memory at %#x", request.gpa())));
    }
    case STOP:
      reply(std::move(done));
      return machine_.Stop();
    case SAVE:
      return Save(request, std::move(reply));
    case TRACE_ON:
    case TRACE_OFF:
      return Trace(request, std::move(reply));
    case ATTACH:
      return Attach(request.disk(), std::move(reply));
    case DETACH:
      return Detach(request.device(), std::move(reply));
    default:
      done.set_code(static_cast<uint32_t>(absl::StatusCode::kUnimplemented));
      done.set_error(absl::StrCat("command ", request.command(), " is unknown here"));
      return reply(std::move(done));
  }
}

Controller::Done MachineControl::Answer(Reply reply) {
  return [reply = std::move(reply)](const absl::Status& status) mutable { reply(ReplyOf(status)); };
}

void MachineControl::Tell(absl::string_view name, absl::string_view key, absl::string_view value) {
  if (!options_.tell) return;
  options_.tell(ToControlEvent({.name = std::string(name),
                                .details = {{std::string(key), std::string(value)}},
                                .time_100ns = machine_.board().clock().Now100ns()}));
}

Event ToControlEvent(const machine::MachineEvent& event) {
  Event told;
  told.set_name(event.name);
  told.set_reference_time_ns(event.time_100ns * 100);
  for (const auto& [key, value] : event.details) (*told.mutable_details())[key] = absl::CEscape(value);
  return told;
}

void MachineControl::Trace(const ControlRequest& request, Reply reply) {
  absl::Status status = absl::UnimplementedError("trace: there is none here");
  if (request.command() == TRACE_ON) {
    if (options_.start_trace) status = options_.start_trace(request.path());
    if (status.ok()) Tell("traced", "path", request.path());
  } else {
    if (options_.stop_trace) status = options_.stop_trace();
    if (status.ok()) Tell("trace-ended", "", "");
  }
  reply(ReplyOf(status));
}

void MachineControl::Attach(const DiskConfig& disk, Reply reply) {
  auto device = std::make_shared<std::string>();
  machine_.controller().InTurn(
      [this, disk, device]() -> absl::Status {
        if (options_.disks == nullptr) return absl::UnimplementedError("disks cannot be attached here");
        ASSIGN_OR_RETURN(const uint8_t lun, options_.disks->Attach(disk));
        *device = DeviceOf(lun);
        return absl::OkStatus();
      },
      [this, device, reply = std::move(reply)](const absl::Status& status) mutable {
        ControlReply done = ReplyOf(status);
        done.set_device(*device);
        reply(std::move(done));
        if (status.ok()) Tell("attached", "device", *device);
      });
}

void MachineControl::Detach(const std::string& device, Reply reply) {
  // Answered by whichever comes last: the request, or the disk's end. Nobody is left to be told of one that comes at the machine's.
  struct Detaching {
    ~Detaching() { reply(ReplyOf(status)); }
    Reply reply;
    absl::Status status;
  };
  auto detaching = std::make_shared<Detaching>();
  detaching->reply = std::move(reply);
  auto found = std::make_shared<uint32_t>();
  machine_.controller().InTurn(
      [this, device, detaching, found]() -> absl::Status {
        if (options_.disks == nullptr) return absl::UnimplementedError("disks cannot be detached here");
        for (const DiskStatus& disk : options_.disks->disks()) {
          if (device != DeviceOf(disk.lun()) && (device.empty() || device != disk.name())) continue;
          *found = disk.lun();
          return options_.disks->Detach(static_cast<uint8_t>(disk.lun()), [detaching] {});
        }
        return absl::NotFoundError(absl::StrCat("detach: there is no disk \"", absl::CEscape(device), "\""));
      },
      [this, detaching, found](const absl::Status& status) {
        detaching->status = status;
        if (status.ok()) Tell("detached", "device", DeviceOf(*found));
      });
}

void MachineControl::Save(const ControlRequest& request, Reply reply) {
  // Once for the request, and before for how far it has come.
  auto replies = std::make_shared<Reply>(std::move(reply));
  saver_.Save({.directory = request.directory(),
               .base = request.base(),
               .live = request.live(),
               .pause = request.pause(),
               .on_progress =
                   [replies](uint64_t done_bytes, uint64_t total_bytes) {
                     ControlReply progress;
                     progress.mutable_progress()->set_done_bytes(done_bytes);
                     progress.mutable_progress()->set_total_bytes(total_bytes);
                     (*replies)(std::move(progress));
                   }},
              [this, replies, directory = request.directory()](const absl::StatusOr<MachineSaver::Saved>& saved) {
                ControlReply done = ReplyOf(saved.status());
                if (saved.ok()) {
                  SaveResult& result = *done.mutable_saved();
                  result.set_stood_still_ns(saved->stood_still.count());
                  result.set_written_bytes(saved->written_bytes);
                  result.set_rounds(saved->rounds);
                  result.set_difference(saved->is_difference);
                }
                (*replies)(std::move(done));
                if (saved.ok()) Tell("saved", "directory", directory);
              });
}

MachineStatus MachineControl::Status() const {
  MachineStatus status;
  machine::Board& board = machine_.board();
  status.set_state(machine_.controller().state() == Controller::State::kPaused ? "paused" : "running");
  status.set_backend(options_.backend);
  status.set_cpus(board.cpus());
  status.set_memory_mib(static_cast<uint32_t>(board.memory().size_bytes() >> 20));
  status.set_resets(static_cast<uint32_t>(machine_.resets()));
  status.set_reference_time_ns(board.clock().Now100ns() * 100);
  status.set_process(static_cast<uint32_t>(getpid()));
  if (options_.disks != nullptr) {
    for (DiskStatus& disk : options_.disks->disks()) {
      disk.set_device(DeviceOf(disk.lun()));
      *status.add_disks() = std::move(disk);
    }
  }
  return status;
}

MachineStats MachineControl::Stats() const { return CollectStats(machine_, options_.disks); }

}  // namespace hvsdk::vmm
