// SPDX-License-Identifier: Apache-2.0
// two_guests KERNEL INITRD BACKEND MTU COMMAND_LINE CONSOLE COMMAND_LINE CONSOLE: two guests in one process, each with an adapter on
// one switch and a thread of I/O of its own. Their consoles go into files. Exit status: 0 if both powered off.

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "hvsdk/boot/byte_source.h"
#include "hvsdk/machine/host.h"
#include "hvsdk/network/switch.h"
#include "hvsdk/os/host_clock.h"
#include "hvsdk/vmm/backends.h"
#include "hvsdk/vmm/serial_console.h"

namespace {

using namespace hvsdk;

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "two_guests: %s\n", status.ToString().c_str());
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 9) return Fail(absl::InvalidArgumentError("eight arguments are needed"));
  const auto kernel = boot::OpenFileSource(argv[1]), initrd = boot::OpenFileSource(argv[2]);
  if (!kernel.ok() || !initrd.ok()) return Fail(kernel.ok() ? initrd.status() : kernel.status());
  const auto backend = vmm::CreateBackend(argv[3]);
  if (!backend.ok()) return Fail(backend.status());
  const auto mtu = static_cast<uint32_t>(std::strtoul(argv[4], nullptr, 10));

  const os::HostClock clock;
  network::Switch lan(clock);
  std::array<std::unique_ptr<vmm::SerialConsole>, 2> consoles;
  std::array<int, 2> outputs;
  std::atomic<int> powered_off{0};
  machine::Host host({.io_threads = 2});
  for (int i = 0; i < 2; ++i) {
    outputs[i] = open(argv[6 + 2 * i], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    auto port = lan.AddPort({.mtu_bytes = mtu, .queues = 2});
    if (!port.ok()) return Fail(port.status());
    machine::HostedMachine hosted;
    hosted.machine = {.backend = backend->get(),
                      .kernel = kernel->get(),
                      .initrd = initrd->get(),
                      .command_line = argv[5 + 2 * i],
                      .memory_bytes = 256 << 20,
                      .cpus = 2};
    hosted.machine.networks.push_back(
        {.port = *std::move(port), .mac_address = {2, 0x15, 0x5D, 0, 0, static_cast<uint8_t>(i + 1)}});
    hosted.prepare = [&consoles, &outputs, i](os::EventLoop& loop, machine::MachineOptions& options) {
      consoles[i] = std::make_unique<vmm::SerialConsole>(loop, vmm::SerialConsole::Options{.output_fd = outputs[i]});
      options.serial = consoles[i].get();
      return absl::OkStatus();
    };
    hosted.on_end = [&consoles, &powered_off, i](const machine::MachineResult& result) {
      consoles[i].reset();
      if (result.outcome == machine::Outcome::kPoweredOff) ++powered_off;
    };
    boot::LoadInput blame;
    const auto id = host.Create(std::move(hosted), blame);
    if (!id.ok()) return Fail(id.status());
    if (const absl::Status started = host.Start(*id); !started.ok()) return Fail(started);
  }
  host.Wait();
  for (const int output : outputs) close(output);
  return powered_off == 2 ? 0 : 1;
}
