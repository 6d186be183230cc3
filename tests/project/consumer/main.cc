// SPDX-License-Identifier: Apache-2.0
// A virtual machine monitor: boots the kernel that its argument names.
#include <unistd.h>

#include <iostream>

#include "hvsdk/machine/machine.h"
#include "hvsdk/vmm/backends.h"
#include "hvsdk/vmm/serial_console.h"

int main(int argc, char** argv) {
  if (argc < 2) return std::cerr << "usage: vmm KERNEL [BACKEND]\n", 2;
  const auto kernel = hvsdk::boot::OpenFileSource(argv[1]);
  const auto backend = hvsdk::vmm::CreateBackend(argc > 2 ? argv[2] : "auto");
  const auto loop = hvsdk::os::EventLoop::Create();
  if (!kernel.ok()) return std::cerr << argv[1] << ": " << kernel.status() << '\n', 2;
  for (const absl::Status& status : {backend.status(), loop.status()}) {
    if (!status.ok()) return std::cerr << status << '\n', 3;
  }
  hvsdk::vmm::SerialConsole console(**loop, {.output_fd = STDOUT_FILENO});
  hvsdk::boot::LoadInput blame;
  const auto machine = hvsdk::machine::Machine::Create({.backend = backend->get(),
                                                        .kernel = kernel->get(),
                                                        .command_line = "console=ttyS0 panic=-1",
                                                        .serial = &console},
                                                       **loop, blame);
  if (!machine.ok()) return std::cerr << argv[1] << ": " << machine.status() << '\n', 2;
  const hvsdk::machine::MachineResult result = (*machine)->Run();
  return result.outcome == hvsdk::machine::Outcome::kPoweredOff ? 0 : 10;
}
