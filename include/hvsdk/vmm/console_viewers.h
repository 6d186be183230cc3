// SPDX-License-Identifier: Apache-2.0
// ConsoleViewers: others who see what a machine says on its serial port and type there, besides whoever its console leads to.
//
// A viewer is sent the last 64 KiB of what was said, and then what is said as it comes. One that does not read holds nobody up: what it has
// missed when more than 64 KiB wait is left out, and a line says how much. What viewers type goes to the port in the order in which it comes; while the
// guest reads nothing, 64 KiB wait there and the rest where it is typed.
//
// Limits: 32 viewers. Thread class: the loop's thread, or while it does not run.
//
//   vmm::ConsoleViewers viewers(loop, console);
//   const absl::StatusOr<int> page = viewers.Connect();
//   if (page.ok()) CarryToBrowser(*page);

#ifndef HVSDK_VMM_CONSOLE_VIEWERS_H_
#define HVSDK_VMM_CONSOLE_VIEWERS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "hvsdk/base/executor.h"
#include "hvsdk/os/event_loop.h"
#include "hvsdk/vmm/serial_console.h"

namespace hvsdk::vmm {

class ConsoleViewers final : private SerialConsole::Onlooker, private Task {
 public:
  static constexpr size_t kMaxViewers = 32;
  static constexpr size_t kBacklog = 64 << 10;

  // Both outlive it. A console has one at a time.
  ConsoleViewers(os::EventLoop& loop, SerialConsole& console);
  // All are cut off.
  ~ConsoleViewers() override;

  // A viewer's end, a stream socket that does not block, for somebody in this process; who closes it. ResourceExhausted: there are kMaxViewers.
  // Others: the host refuses.
  absl::StatusOr<int> Connect();
  size_t viewers() const { return viewers_.size(); }

 private:
  struct Viewer {
    int fd = -1;
    uint32_t watched = 0;
    uint64_t position = 0;  // in all that was said
    uint64_t missed = 0;    // bytes before that, of which it is not told yet
    std::string notice;     // that tells of such, as far as it is still to be sent
    std::string typed;      // that the port has not taken
  };

  void OnOutput(absl::string_view output) override;
  void OnInputRoom() override { loop_.Schedule(*this); }
  // The task: there is something to send, or room for what was typed.
  void Run() override;
  void OnReady(uint64_t id, uint32_t events);
  // Takes and sends what can be, and sees to what the viewer is watched for. It may be gone afterwards.
  void Settle(uint64_t id);
  bool Send(Viewer& viewer);
  void Drop(uint64_t id);

  os::EventLoop& loop_;
  SerialConsole& console_;
  std::string backlog_;  // the last of what was said, up to end_
  uint64_t end_ = 0;
  uint64_t next_id_ = 1;
  std::map<uint64_t, Viewer> viewers_;
};

}  // namespace hvsdk::vmm

#endif  // HVSDK_VMM_CONSOLE_VIEWERS_H_
