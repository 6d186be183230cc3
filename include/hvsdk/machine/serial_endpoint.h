// SPDX-License-Identifier: Apache-2.0
// SerialEndpoint: where a machine's serial port leads. vmm/serial_console.h has one for a host's descriptors.

#ifndef HVSDK_MACHINE_SERIAL_ENDPOINT_H_
#define HVSDK_MACHINE_SERIAL_ENDPOINT_H_

#include "absl/status/status.h"
#include "hvsdk/base/executor.h"
#include "hvsdk/chipset/uart16550.h"

namespace hvsdk::machine {

// What a machine connects its serial port to. It outlives the machine and then serves the next.
class SerialEndpoint : public Task {
 public:
  // `uart` has output from now on until Detach. ResourceExhausted: the host refuses what that needs.
  // FailedPrecondition: another machine's port leads here.
  virtual absl::Status Attach(chipset::Uart16550& uart) = 0;
  // Hands on what is left in the port, and waits for a slow receiver no longer than half a second.
  virtual void Detach() = 0;
  // Has output that it cannot hand on yet.
  virtual bool waiting() const = 0;
};

}  // namespace hvsdk::machine

#endif  // HVSDK_MACHINE_SERIAL_ENDPOINT_H_
