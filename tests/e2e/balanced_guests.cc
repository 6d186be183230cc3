// SPDX-License-Identifier: Apache-2.0
// balanced_guests KERNEL INITRD BACKEND TOTAL MEMORY MIN MAX CONSOLES COMMAND_LINE...: a guest for each command line, all in one process,
// whose host moves memory between them. Sizes in MiB; the consoles go into files CONSOLES0, CONSOLES1 and so on. Every half second a line
// says, for each guest in turn, how much memory it has and how much it needs. What comes on standard input is the first guest's; the end of
// it is the end.

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hvsdk/boot/byte_source.h"
#include "hvsdk/machine/host.h"
#include "hvsdk/vmm/backends.h"
#include "hvsdk/vmm/serial_console.h"

namespace {

using namespace hvsdk;

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "balanced_guests: %s\n", status.ToString().c_str());
  return 2;
}

uint64_t Bytes(const char* mib) { return std::strtoull(mib, nullptr, 10) << 20; }

}  // namespace

int main(int argc, char** argv) {
  constexpr int kFirstLine = 9;
  if (argc <= kFirstLine) return Fail(absl::InvalidArgumentError("nine arguments are needed, or more"));
  const auto kernel = boot::OpenFileSource(argv[1]), initrd = boot::OpenFileSource(argv[2]);
  if (!kernel.ok() || !initrd.ok()) return Fail(kernel.ok() ? initrd.status() : kernel.status());
  const auto backend = vmm::CreateBackend(argv[3]);
  if (!backend.ok()) return Fail(backend.status());

  const size_t count = static_cast<size_t>(argc - kFirstLine);
  std::vector<std::unique_ptr<vmm::SerialConsole>> consoles(count);
  int typed[2];
  if (pipe(typed) != 0) return Fail(absl::InternalError("no pipe"));
  machine::Host host({.memory_bytes = Bytes(argv[4]), .balance_memory = true});
  for (size_t i = 0; i < count; ++i) {
    const int output = open((argv[8] + std::to_string(i)).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    machine::HostedMachine hosted;
    hosted.machine = {.backend = backend->get(),
                      .kernel = kernel->get(),
                      .initrd = initrd->get(),
                      .command_line = argv[kFirstLine + i],
                      .memory_bytes = Bytes(argv[5]),
                      .max_memory_bytes = Bytes(argv[7]),
                      .cpus = 1};
    hosted.machine.integration.balloon_min_bytes = Bytes(argv[6]);
    hosted.prepare = [&consoles, output, input = i == 0 ? typed[0] : -1, i](os::EventLoop& loop,
                                                                            machine::MachineOptions& options) {
      vmm::SerialConsole::Options to;
      to.input_fd = input;
      to.output_fd = output;
      consoles[i] = std::make_unique<vmm::SerialConsole>(loop, std::move(to));
      options.serial = consoles[i].get();
      return absl::OkStatus();
    };
    hosted.on_end = [&consoles, output, i](const machine::MachineResult&) {
      consoles[i].reset();
      close(output);
    };
    boot::LoadInput blame;
    const auto id = host.Create(std::move(hosted), blame);
    if (!id.ok()) return Fail(id.status());
    if (const absl::Status started = host.Start(*id); !started.ok()) return Fail(started);
  }
  pollfd input{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
  for (;;) {
    const int found = poll(&input, 1, 500);
    if (found < 0) return Fail(absl::InternalError("no input"));
    if (found > 0) {
      char text[16];
      const ssize_t size = read(STDIN_FILENO, text, sizeof(text));
      if (size <= 0 || write(typed[1], text, static_cast<size_t>(size)) != size) return 0;
      continue;
    }
    for (const machine::PartitionInfo& info : host.List()) {
      std::printf("%d %d ", static_cast<int>(info.memory_bytes >> 20),
                  static_cast<int>(info.memory_needed_bytes >> 20));
    }
    std::printf("\n");
    std::fflush(stdout);
  }
}
