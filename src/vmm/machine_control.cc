// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/machine_control.h"

#include <errno.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/os/lost_memory.h"
#include "hvsdk/vmm/console_text.h"
#include "hvsdk/vmm/core_dump.h"
#include "hvsdk/vmm/machine_stats.h"
#include "vmm/guest_requests.h"
#include "vmm/input_requests.h"
#include "vmm/machine_snapshot.h"

namespace hvsdk::vmm {

using machine::Controller;

namespace {

std::string DeviceOf(const DiskStatus& disk) { return absl::StrCat("storage/", disk.lun()); }
std::string DeviceOf(const NetworkStatus& network) { return absl::StrCat("network/", network.number()); }

// Of several devices the one by that number or name, if there is one.
template <typename Status>
const Status* Find(const std::vector<Status>& devices, const std::string& device) {
  const auto is_meant = [&](const Status& each) {
    return device == DeviceOf(each) || (!device.empty() && device == each.name());
  };
  const auto found = std::find_if(devices.begin(), devices.end(), is_meant);
  return found == devices.end() ? nullptr : &*found;
}

// 0.2 and 3.2, the first two, are called 1 and 2.
std::string TextOf(hvdef::netvsp::Version version) {
  const auto number = static_cast<uint32_t>(version);
  if (number == 0) return "";
  if (version == hvdef::netvsp::Version::k1) return "1";
  if (version == hvdef::netvsp::Version::k2) return "2";
  return (number & 0xFFFF) == 0 ? absl::StrCat(number >> 16) : absl::StrCat(number >> 16, ".", number & 0xFFFF);
}

MemoryStatus ToMemoryStatus(const vsp::BalloonStatus& of) {
  using hvdef::dynamic_memory::kVersions;
  const auto mib = [](uint64_t pages) { return static_cast<uint32_t>(pages << kPageShift >> 20); };
  MemoryStatus status;
  for (size_t i = 0; i < std::size(kVersions); ++i) {
    if (kVersions[i] == of.version) status.set_version(static_cast<uint32_t>(i + 1));
  }
  status.set_assigned(mib(of.assigned));
  status.set_target(mib(of.target));
  status.set_reported(of.has_report);
  status.set_available(mib(std::min(of.available, of.memory)));
  status.set_demand(mib(of.demand));
  status.set_pressure(of.pressure());
  status.set_max(mib(of.max));
  return status;
}

absl::Status NoDisplay() { return absl::FailedPreconditionError("the machine has no display; --video gives it one"); }

// The name of a command that its guest has to answer; empty: it is none.
absl::string_view WhatAsksTheGuest(ControlCommand command) {
  switch (command) {
    case SHUTDOWN:
      return "shutdown";
    case BALLOON:
      return "balloon";
    case KEY_VALUE:
      return "kvp";
    case COPY_FILE:
      return "copy";
    default:
      return "";
  }
}

}  // namespace

void MachineControl::OnRequest(const ControlRequest& request, Reply reply) {
  Controller& controller = machine_.controller();
  if (const absl::string_view asks = WhatAsksTheGuest(request.command());
      !asks.empty() && controller.state() == Controller::State::kPaused) {
    return reply(
        ReplyOf(ErrorOf(asks, absl::FailedPreconditionError("the machine is paused, and its guest answers nothing"))));
  }
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
    case SHUTDOWN:
      return Shutdown(request.shutdown(), std::move(reply));
    case BALLOON:
      return Balloon(request.memory_mib(), std::move(reply));
    case KEY_VALUE:
      return AskKeyValue(request.key_value(), std::move(reply));
    case SCREENSHOT:
      return TakeScreenshot(request.path(), std::move(reply));
    case RECORD:
      return Record(request.path(), std::move(reply));
    case SCREEN_TEXT:
      return ReadScreen(request.font(), std::move(reply));
    case COPY_FILE:
      return CopyFile(machine_, request.copy_file(), std::move(reply));
    case SNAPSHOT:
      return TakeSnapshot(
          machine_, options_.disks, request.snapshot(),
          [this, directory = request.snapshot().directory()] {
            Tell("snapshot", {{"directory", directory}});
          },
          std::move(reply));
    case TYPE:
      return Type(machine_, request.typing(), options_.keyboard_layout, std::move(reply));
    case POINT:
      return reply(ReplyOf(Point(machine_, request.pointer())));
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
    case DUMP:
      return Dump(request.path(), std::move(reply));
    case TRACE_ON:
    case TRACE_OFF:
      return Trace(request, std::move(reply));
    case ATTACH:
      return Attach(request, std::move(reply));
    case DETACH:
      return Detach(request.device(), std::move(reply));
    case INSERT:
    case EJECT:
      return ChangeMedium(request, std::move(reply));
    default:
      done.set_code(static_cast<uint32_t>(absl::StatusCode::kUnimplemented));
      done.set_error(absl::StrCat("command ", request.command(), " is unknown here"));
      return reply(std::move(done));
  }
}

Controller::Done MachineControl::Answer(Reply reply) {
  return [reply = std::move(reply)](const absl::Status& status) mutable { reply(ReplyOf(status)); };
}

void MachineControl::Shutdown(const ShutdownConfig& request, Reply reply) {
  vsp::Shutdown* const shutdown = machine_.integration().shutdown;
  if (shutdown == nullptr) {
    return reply(ReplyOf(absl::FailedPreconditionError("shutdown: the machine has no such component")));
  }
  if (!ShutdownConfig::Action_IsValid(request.action())) {
    return reply(ReplyOf(absl::InvalidArgumentError("shutdown: no such action")));
  }
  shutdown->Request(
      {.action = static_cast<vsp::ShutdownAction>(request.action()),
       .force = request.force(),
       .reason = request.reason()},
      [answer = Answer(std::move(reply))](const absl::Status& status) mutable { answer(ErrorOf("shutdown", status)); });
}

void MachineControl::Balloon(uint32_t target_mib, Reply reply) {
  vsp::Balloon* const balloon = machine_.integration().balloon;
  if (balloon == nullptr) {
    return reply(ReplyOf(absl::FailedPreconditionError("balloon: the machine has no such component")));
  }
  balloon->SetTarget(
      {.pages = uint64_t{target_mib} << 20 >> kPageShift},
      [answer = Answer(std::move(reply))](const absl::Status& status) mutable { answer(ErrorOf("balloon", status)); });
}

void MachineControl::TakeScreenshot(const std::string& path, Reply reply) {
  const Display* const display = machine_.display();
  absl::Status status;
  if (display == nullptr) status = NoDisplay();
  if (status.ok() && !options_.open_screenshot) status = absl::UnimplementedError("there are no pictures here");
  if (status.ok()) status = screenshot_.Check(*display);
  if (!status.ok()) return reply(ReplyOf(ErrorOf("screenshot", status)));
  const absl::StatusOr<int> fd = options_.open_screenshot(path);
  if (!fd.ok()) return reply(ReplyOf(ErrorOf("screenshot", fd.status())));
  screenshot_.Take(*display, *fd, [answer = Answer(std::move(reply))](const absl::Status& written) mutable {
    answer(ErrorOf("screenshot", written));
  });
}

void MachineControl::Record(const std::string& path, Reply reply) {
  const absl::Status status = RecordNow(path);
  reply(ReplyOf(ErrorOf("record", status)));
  if (!status.ok()) return;
  if (path.empty()) {
    Tell("record-ended", {});
  } else {
    Tell("recorded", {{"path", path}});
  }
}

absl::Status MachineControl::RecordNow(const std::string& path) {
  if (path.empty()) {
    if (recording_path_.empty()) return absl::FailedPreconditionError("there is no recording");
    recording_.reset();
    recording_path_.clear();
    return absl::OkStatus();
  }
  Display* const display = machine_.display();
  if (display == nullptr) return NoDisplay();
  if (!recording_path_.empty()) {
    return absl::FailedPreconditionError(absl::StrCat("there is one already, to ", recording_path_));
  }
  if (!options_.open_screenshot) return absl::UnimplementedError("there are no pictures here");
  RETURN_IF_ERROR(Recording::Check(*display));
  ASSIGN_OR_RETURN(const int fd, options_.open_screenshot(path));
  if (ftruncate(fd, 0) != 0) {
    const absl::Status status = absl::ErrnoToStatus(errno, path);
    close(fd);
    return status;
  }
  ASSIGN_OR_RETURN(recording_,
                   Recording::Begin(*display, machine_.board().loop(), fd, {.on_end = [this](const absl::Status& why) {
                     recording_path_.clear();
                     Tell("record-ended", {{"reason", std::string(why.message())}});
                   }}));
  recording_path_ = path;
  return absl::OkStatus();
}

void MachineControl::ReadScreen(const std::string& psf, Reply reply) {
  const Display* const display = machine_.display();
  if (display == nullptr) {
    return reply(ReplyOf(ErrorOf("screen-text", NoDisplay())));
  }
  const absl::StatusOr<ConsoleFont> font = ConsoleFont::Parse(psf);
  if (!font.ok()) return reply(ReplyOf(ErrorOf("screen-text: the font", font.status())));
  ControlReply text = ReplyOf(absl::OkStatus());
  text.set_screen_text(font->Read(display->frame()));
  reply(std::move(text));
}

void MachineControl::AskKeyValue(const KeyValueRequest& request, Reply reply) {
  vmm::AskKeyValue(machine_, request, Networks(), std::move(reply));
}

void MachineControl::Tell(absl::string_view name, Details details) {
  if (!options_.tell) return;
  options_.tell(ToControlEvent(
      {.name = std::string(name), .details = std::move(details), .time_100ns = machine_.board().clock().Now100ns()}));
}

Event ToControlEvent(const machine::MachineEvent& event) {
  Event told;
  told.set_name(event.name);
  told.set_reference_time_ns(event.time_100ns * 100);
  for (const auto& [key, value] : event.details) (*told.mutable_details())[key] = absl::CEscape(value);
  return told;
}

void MachineControl::Trace(const ControlRequest& request, Reply reply) {
  const absl::StatusOr<std::string> device = TraceNow(request);
  if (device.ok()) {
    Details details;
    if (!device->empty()) details.emplace_back("device", *device);
    if (request.command() == TRACE_ON) details.emplace_back("path", request.path());
    Tell(request.command() == TRACE_ON ? "traced" : "trace-ended", std::move(details));
  }
  reply(ReplyOf(device.status()));
}

absl::StatusOr<std::string> MachineControl::TraceNow(const ControlRequest& request) {
  const bool is_on = request.command() == TRACE_ON;
  if (request.device().empty()) {
    if (!options_.start_trace || !options_.stop_trace) return absl::UnimplementedError("trace: there is none here");
    RETURN_IF_ERROR(is_on ? options_.start_trace(request.path()) : options_.stop_trace());
    return "";
  }
  const std::vector<NetworkStatus> networks =
      options_.networks == nullptr ? std::vector<NetworkStatus>{} : options_.networks->networks();
  const NetworkStatus* const network = Find(networks, request.device());
  if (network == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("trace: there is no network adapter \"", absl::CEscape(request.device()), "\""));
  }
  const auto number = static_cast<uint8_t>(network->number());
  RETURN_IF_ERROR(is_on ? options_.networks->StartTrace(number, request.path()) : options_.networks->StopTrace(number));
  return DeviceOf(*network);
}

void MachineControl::Attach(const ControlRequest& request, Reply reply) {
  auto device = std::make_shared<std::string>();
  machine_.controller().InTurn(
      [this, request, device]() -> absl::Status {
        ASSIGN_OR_RETURN(*device, AttachNow(request));
        return absl::OkStatus();
      },
      [this, device, reply = std::move(reply)](const absl::Status& status) mutable {
        ControlReply done = ReplyOf(status);
        done.set_device(*device);
        reply(std::move(done));
        if (status.ok()) Tell("attached", {{"device", *device}});
      });
}

absl::StatusOr<std::string> MachineControl::AttachNow(const ControlRequest& request) {
  if (request.has_network()) {
    if (options_.networks == nullptr) return absl::UnimplementedError("networks cannot be attached here");
    NetworkStatus attached;
    ASSIGN_OR_RETURN(const uint8_t number, options_.networks->Attach(request.network()));
    attached.set_number(number);
    return DeviceOf(attached);
  }
  if (options_.disks == nullptr) return absl::UnimplementedError("disks cannot be attached here");
  DiskStatus attached;
  ASSIGN_OR_RETURN(const uint8_t lun, options_.disks->Attach(request.disk()));
  attached.set_lun(lun);
  return DeviceOf(attached);
}

void MachineControl::Detach(const std::string& device, Reply reply) {
  // Answered by whichever comes last: the request, or the device's end. Nobody is left to be told of one that comes at the machine's.
  struct Detaching {
    ~Detaching() { reply(ReplyOf(status)); }
    Reply reply;
    absl::Status status;
  };
  auto detaching = std::make_shared<Detaching>();
  detaching->reply = std::move(reply);
  auto found = std::make_shared<std::string>();
  machine_.controller().InTurn(
      [this, device, detaching, found]() -> absl::Status {
        ASSIGN_OR_RETURN(*found, DetachNow(device, [detaching] {}));
        return absl::OkStatus();
      },
      [this, detaching, found](const absl::Status& status) {
        detaching->status = status;
        if (status.ok()) Tell("detached", {{"device", *found}});
      });
}

absl::StatusOr<std::string> MachineControl::DetachNow(const std::string& device, absl::AnyInvocable<void()> gone) {
  if (options_.disks != nullptr) {
    const std::vector<DiskStatus> disks = options_.disks->disks();
    if (const DiskStatus* const disk = Find(disks, device); disk != nullptr) {
      RETURN_IF_ERROR(options_.disks->Detach(static_cast<uint8_t>(disk->lun()), std::move(gone)));
      return DeviceOf(*disk);
    }
  }
  if (options_.networks != nullptr) {
    const std::vector<NetworkStatus> networks = options_.networks->networks();
    if (const NetworkStatus* const network = Find(networks, device); network != nullptr) {
      RETURN_IF_ERROR(options_.networks->Detach(static_cast<uint8_t>(network->number()), std::move(gone)));
      return DeviceOf(*network);
    }
  }
  return absl::NotFoundError(absl::StrCat("detach: there is no \"", absl::CEscape(device), "\""));
}

absl::StatusOr<DiskStatus> MachineControl::FindDisk(const std::string& device) const {
  if (options_.disks == nullptr) return absl::UnimplementedError("there are no disks here");
  const std::vector<DiskStatus> disks = options_.disks->disks();
  if (const DiskStatus* const disk = Find(disks, device); disk != nullptr) return *disk;
  return absl::NotFoundError(absl::StrCat("there is no disk \"", absl::CEscape(device), "\""));
}

void MachineControl::ChangeMedium(const ControlRequest& request, Reply reply) {
  auto found = std::make_shared<std::string>();
  const bool inserts = request.command() == INSERT;
  machine_.controller().InTurn(
      [this, request, inserts, found]() -> absl::Status {
        ASSIGN_OR_RETURN(const DiskStatus disk, FindDisk(request.device()));
        *found = DeviceOf(disk);
        const auto lun = static_cast<uint8_t>(disk.lun());
        const absl::Status status =
            inserts ? options_.disks->Insert(lun, request.path()) : options_.disks->Eject(lun, request.force());
        if (status.ok()) return status;
        return absl::Status(status.code(), absl::StrCat(*found, ": ", status.message()));
      },
      [this, inserts, found, path = request.path(), reply = std::move(reply)](const absl::Status& status) mutable {
        reply(ReplyOf(status));
        if (!status.ok()) return;
        Details details = {{"device", *found}};
        if (inserts) details.emplace_back("path", path);
        Tell(inserts ? "inserted" : "ejected", std::move(details));
      });
}

namespace {

ControlReply ProgressOf(uint64_t done_bytes, uint64_t total_bytes) {
  ControlReply reply;
  reply.mutable_progress()->set_done_bytes(done_bytes);
  reply.mutable_progress()->set_total_bytes(total_bytes);
  return reply;
}

}  // namespace

void MachineControl::Dump(const std::string& path, Reply reply) {
  auto replies = std::make_shared<Reply>(std::move(reply));
  machine_.controller().WhilePaused(
      [this, replies, path] {
        const absl::Status status = WriteCoreDump(
            machine_.board(), path,
            // The loop does nothing else meanwhile: that somebody has gone is found when he is told something.
            [&](uint64_t done_bytes, uint64_t total_bytes) {
              (*replies)(ProgressOf(done_bytes, total_bytes));
              return replies->is_wanted();
            });
        return ErrorOf("dump", status);
      },
      [this, replies, path](const absl::Status& status) {
        (*replies)(ReplyOf(status));
        if (status.ok()) Tell("dumped", {{"path", path}});
      });
}

void MachineControl::Save(const ControlRequest& request, Reply reply) {
  // Once for the request, and before for how far it has come.
  auto replies = std::make_shared<Reply>(std::move(reply));
  saver_.Save({.directory = request.directory(),
               .base = request.base(),
               .live = request.live(),
               .pause = request.pause(),
               .on_progress = [replies](uint64_t done_bytes,
                                        uint64_t total_bytes) { (*replies)(ProgressOf(done_bytes, total_bytes)); }},
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
                if (saved.ok()) Tell("saved", {{"directory", directory}});
              });
}

MachineStatus MachineControl::Status() const {
  MachineStatus status;
  machine::Board& board = machine_.board();
  status.set_state(machine_.controller().state() == Controller::State::kPaused ? "paused" : "running");
  status.set_backend(options_.backend);
  status.set_cpus(board.cpus());
  uint64_t memory_bytes = 0;
  for (const boot::GpaRange& range : board.layout().memory) memory_bytes += range.size_bytes;
  if (const vsp::Balloon* const balloon = machine_.integration().balloon; balloon != nullptr) {
    memory_bytes = balloon->status().memory << kPageShift;
  }
  status.set_memory_mib(static_cast<uint32_t>(memory_bytes >> 20));
  status.set_resets(static_cast<uint32_t>(machine_.resets()));
  status.set_reference_time_ns(board.clock().Now100ns() * 100);
  status.set_process(static_cast<uint32_t>(getpid()));
  const vsp::Heartbeat* const heartbeat = machine_.integration().heartbeat;
  status.set_contact(std::string(TextOf(heartbeat == nullptr ? vsp::GuestContact::kNone : heartbeat->contact())));
  if (const Display* const display = machine_.display(); display != nullptr) {
    status.mutable_video()->set_width(display->frame().width);
    status.mutable_video()->set_height(display->frame().height);
    status.mutable_video()->set_recording(recording_path_);
    if (options_.vnc != nullptr) {
      status.mutable_video()->set_vnc(options_.vnc->address());
      status.mutable_video()->set_vnc_viewers(static_cast<uint32_t>(options_.vnc->viewers()));
    }
  }
  if (options_.page_url) status.set_web(options_.page_url());
  if (const vsp::SocketProvider* const sockets = machine_.sockets(); sockets != nullptr) {
    status.mutable_sockets()->set_path(options_.sockets_path);
    status.mutable_sockets()->set_connections(sockets->counts().connections);
  }
  if (const machine::InputComponents& input = machine_.input(); input.keyboard != nullptr || input.mouse != nullptr) {
    *status.mutable_input() = ToInputStatus(input);
  }
  if (const vsp::Balloon* const balloon = machine_.integration().balloon; balloon != nullptr) {
    *status.mutable_memory() = ToMemoryStatus(balloon->status());
  }
  if (options_.disks != nullptr) {
    for (DiskStatus& disk : options_.disks->disks()) {
      disk.set_device(DeviceOf(disk));
      *status.add_disks() = std::move(disk);
    }
  }
  for (NetworkStatus& network : Networks()) *status.add_networks() = std::move(network);
  return status;
}

std::vector<NetworkStatus> MachineControl::Networks() const {
  if (options_.networks == nullptr) return {};
  std::vector<NetworkStatus> networks = options_.networks->networks();
  const std::vector<machine::MachineNetworkStatus> of_machine = machine_.networks();
  for (NetworkStatus& network : networks) {
    network.set_device(DeviceOf(network));
    for (const machine::MachineNetworkStatus& each : of_machine) {
      if (each.number != network.number()) continue;
      char id[hvdef::kGuidTextSize];
      hvdef::FormatGuid(each.instance_id, id);
      network.set_id(id, sizeof(id));
      network.set_link_up(each.agreement.is_link_up);
      network.set_leaving(each.agreement.is_unplugged);
      network.set_version(TextOf(each.agreement.version));
      network.set_mtu(each.agreement.mtu_bytes);
      network.set_channels(each.agreement.channels);
      network.set_up(each.agreement.takes_frames);
    }
  }
  return networks;
}

MachineStats MachineControl::Stats() const { return CollectStats(machine_, options_.disks, options_.networks); }

}  // namespace hvsdk::vmm
