// SPDX-License-Identifier: Apache-2.0
// Two machines in one process, whose guests send each other messages and events: a host makes both, connects a port of
// each with the other, and waits for their end. KERNEL is examples/guest_kernel, or whatever does the same if its command
// line says "peer".
//
//   two_partitions KERNEL [auto|kvm|software]
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <memory>
#include <string>

#include "hvsdk/machine/host.h"
#include "hvsdk/vmm/backends.h"
#include "hvsdk/vmm/serial_console.h"

using namespace hvsdk;

// A guest's serial port leads to a file of its own, so that the reports do not mix.
struct Report {
  std::string Text() const {
    std::string text(lseek(fileno(file), 0, SEEK_END), '\0');
    return pread(fileno(file), text.data(), text.size(), 0) < 0 ? "" : text;
  }
  FILE* const file = std::tmpfile();
  std::unique_ptr<vmm::SerialConsole> console;
};

int main(int argc, char** argv) {
  constexpr int kCannotRunHere = 77;
  const auto backend = vmm::CreateBackend(argc > 2 ? argv[2] : "auto");
  if (!backend.ok()) return std::fprintf(stderr, "%s\n", backend.status().ToString().c_str()), kCannotRunHere;
  const auto kernel = boot::OpenFileSource(argc > 1 ? argv[1] : "");
  if (!kernel.ok()) return std::fprintf(stderr, "two_partitions: cannot open the kernel\n"), 2;

  std::array<Report, 2> reports;
  std::array<machine::PartitionId, 2> ids;
  std::atomic<int> powered_off{0};
  // One thread of I/O for both machines.
  machine::Host host({.memory_bytes = 32 << 20});
  for (size_t i = 0; i < ids.size(); ++i) {
    Report& report = reports[i];
    if (report.file == nullptr) return std::fprintf(stderr, "two_partitions: no temporary file\n"), 2;
    machine::HostedMachine hosted{
        .name = i == 0 ? "alice" : "bob",
        .machine = {.backend = backend->get(),
                    .kernel = kernel->get(),
                    .command_line = "peer",
                    .memory_bytes = 16 << 20,
                    .cpus = 1},
        // What needs the machine's loop is made when that is known, and goes when the machine has gone.
        .prepare =
            [&](os::EventLoop& loop, machine::MachineOptions& options) {
              report.console = std::make_unique<vmm::SerialConsole>(
                  loop, vmm::SerialConsole::Options{.output_fd = fileno(report.file)});
              options.serial = report.console.get();
              return absl::OkStatus();
            },
        .on_end =
            [&](const machine::MachineResult& result) {
              report.console.reset();
              if (result.outcome == machine::Outcome::kPoweredOff) ++powered_off;
            }};
    boot::LoadInput blame;
    const auto id = host.Create(std::move(hosted), blame);
    if (!id.ok()) return std::fprintf(stderr, "two_partitions: %s\n", id.status().ToString().c_str()), 2;
    ids[i] = *id;
  }
  for (const machine::PartitionInfo& info : host.List()) {
    std::printf("# partition %d, %s: %d MiB\n", static_cast<int>(ToInt(info.id)), info.name.c_str(),
                static_cast<int>(info.memory_bytes >> 20));
  }

  // The root decides who reaches whom, and where it arrives.
  for (size_t i = 0; i < ids.size(); ++i) {
    using Type = machine::PartitionPort::Type;
    const machine::PartitionPort messages{.id = 7, .sint = Sint{3}};
    const machine::PartitionPort events{
        .id = 8, .type = Type::kEvent, .sint = Sint{4}, .base_flag = 16, .flag_count = 8};
    absl::Status status =
        host.Connect({.from = ids[i], .connection = ConnectionId{0x20000}, .to = ids[1 - i], .port = messages});
    if (status.ok()) {
      status = host.Connect({.from = ids[i], .connection = ConnectionId{0x20001}, .to = ids[1 - i], .port = events});
    }
    if (status.ok()) status = host.Start(ids[i]);
    if (!status.ok()) return std::fprintf(stderr, "two_partitions: %s\n", status.ToString().c_str()), 2;
  }
  host.Wait();

  bool ok = powered_off == 2;
  for (size_t i = 0; i < reports.size(); ++i) {
    const std::string text = reports[i].Text();
    std::printf("# %s says:\n%s", i == 0 ? "alice" : "bob", text.c_str());
    ok = ok && text.find("not ok") == std::string::npos && text.find("\n1..") != std::string::npos;
  }
  return ok ? 0 : 1;
}
