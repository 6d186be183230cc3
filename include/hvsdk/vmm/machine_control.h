// SPDX-License-Identifier: Apache-2.0
// MachineControl: what a control socket's clients may ask of one machine.
//
// Thread class: the loop's thread, or while it does not run.
//
//   MachineControl control(machine, {.backend = "software", .configuration = [&](bool) { return text; }});
//   auto server = ControlServer::Listen(loop, "vm.sock", control);

#ifndef HVSDK_VMM_MACHINE_CONTROL_H_
#define HVSDK_VMM_MACHINE_CONTROL_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "hvsdk/machine/machine.h"
#include "hvsdk/viewer/rfb_server.h"
#include "hvsdk/vmm/control_server.h"
#include "hvsdk/vmm/machine_saver.h"
#include "hvsdk/vmm/recording.h"
#include "hvsdk/vmm/screenshot.h"

namespace hvsdk::vmm {

// The disks of a machine, which the program that runs it opens. On the loop's thread; all changes from within Controller::InTurn.
class DiskOwner {
 public:
  virtual ~DiskOwner() = default;
  // Those that are attached.
  virtual std::vector<DiskStatus> disks() const = 0;
  // Opens a disk and puts it into the machine; what states carry has it from then on. Answers its LUN. Errors are one
  // line for the user, and have changed nothing.
  virtual absl::StatusOr<uint8_t> Attach(const DiskConfig& disk) = 0;
  // As machine::Machine::DetachDisk, and closes it then.
  virtual absl::Status Detach(uint8_t lun, absl::AnyInvocable<void()> gone) = 0;
  // Opens an ISO file and puts it into a DVD drive, and takes out what is in one; as machine::Machine has it.
  virtual absl::Status Insert(uint8_t lun, const std::string& path) = 0;
  virtual absl::Status Eject(uint8_t lun, bool force) = 0;
  // Has all disks that are written go on in new images in a directory, made if it is not there, and answers which; of all of them
  // or of none (image/snapshot.h). From within Controller::WhilePaused.
  virtual absl::StatusOr<std::vector<DiskSnapshot>> Snapshot(const std::string& directory) {
    (void)directory;
    return absl::UnimplementedError("these disks have no snapshots");
  }
  // Whether that could be, as far as it can be told before; at any time.
  virtual absl::Status CheckSnapshot() const { return absl::OkStatus(); }
};

// Likewise its network adapters.
class NetworkOwner {
 public:
  virtual ~NetworkOwner() = default;
  // `number`, `name`, `mac` and `port` of those that are attached.
  virtual std::vector<NetworkStatus> networks() const = 0;
  virtual absl::StatusOr<uint8_t> Attach(const NetworkConfig& network) = 0;
  // As machine::Machine::DetachNetwork; states have it until it is gone.
  virtual absl::Status Detach(uint8_t number, absl::AnyInvocable<void()> gone) = 0;
  // Begins to record what goes through to a file, and ends it.
  virtual absl::Status StartTrace(uint8_t number, const std::string& path) = 0;
  virtual absl::Status StopTrace(uint8_t number) = 0;
};

class MachineControl final : public ControlHandler {
 public:
  struct Options {
    std::string backend;                        // its name, for the status
    MachineSaver::Configuration configuration;  // may be null
    StateDirectory::Check* origin = nullptr;    // as the saver's; may be null
    // Told of what clients have had done that is no event of the machine's. May be null.
    std::function<void(const Event&)> tell;
    DiskOwner* disks = nullptr;              // null: none can be attached
    NetworkOwner* networks = nullptr;        // likewise
    const viewer::RfbServer* vnc = nullptr;  // for the status; null: there is none
    // Where its page for browsers is, for the status; may be null.
    std::function<std::string()> page_url;
    std::string sockets_path;            // where programs connect to the guest's sockets, for the status
    std::string keyboard_layout = "us";  // in which is typed
    // Opens a file for a picture or a recording of what the guest shows, as yet with what was there. Errors are one line for the user. Null: there are no pictures.
    std::function<absl::StatusOr<int>(const std::string& path)> open_screenshot;
    // Begins to trace to a file, and ends it. Errors are one line for the user. Null: there are no traces.
    std::function<absl::Status(const std::string& path)> start_trace;
    std::function<absl::Status()> stop_trace;
  };
  // The machine outlives it. Destroyed before Machine::Run, or after it.
  MachineControl(machine::Machine& machine, Options options)
      : machine_(machine),
        options_(std::move(options)),
        screenshot_(machine.board().loop()),
        saver_(machine, options_.configuration, options_.origin) {}

  void OnRequest(const ControlRequest& request, Reply reply) override;

 private:
  using Details = std::vector<std::pair<std::string, std::string>>;
  MachineStatus Status() const;
  std::vector<NetworkStatus> Networks() const;
  MachineStats Stats() const;
  void Tell(absl::string_view name, Details details);
  void Shutdown(const ShutdownConfig& request, Reply reply);
  void Balloon(uint32_t target_mib, Reply reply);
  void AskKeyValue(const KeyValueRequest& request, Reply reply);
  void Trace(const ControlRequest& request, Reply reply);
  // Answers which device's, or nothing for the machine's own.
  absl::StatusOr<std::string> TraceNow(const ControlRequest& request);
  void Attach(const ControlRequest& request, Reply reply);
  absl::StatusOr<std::string> AttachNow(const ControlRequest& request);
  void Detach(const std::string& device, Reply reply);
  // Answers which it was.
  absl::StatusOr<std::string> DetachNow(const std::string& device, absl::AnyInvocable<void()> gone);
  void ChangeMedium(const ControlRequest& request, Reply reply);
  absl::StatusOr<DiskStatus> FindDisk(const std::string& device) const;
  void Save(const ControlRequest& request, Reply reply);
  void Dump(const std::string& path, Reply reply);
  void TakeScreenshot(const std::string& path, Reply reply);
  void Record(const std::string& path, Reply reply);
  absl::Status RecordNow(const std::string& path);
  void ReadScreen(const std::string& psf, Reply reply);
  static machine::Controller::Done Answer(Reply reply);

  machine::Machine& machine_;
  const Options options_;
  Screenshot screenshot_;
  std::unique_ptr<Recording> recording_;
  std::string recording_path_;  // empty: there is none, or it has ended by itself
  MachineSaver saver_;
};

// For ControlServer::Tell.
Event ToControlEvent(const machine::MachineEvent& event);

}  // namespace hvsdk::vmm

#endif  // HVSDK_VMM_MACHINE_CONTROL_H_
