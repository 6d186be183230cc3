// SPDX-License-Identifier: Apache-2.0
// Where a machine's serial port leads on the host: a file, or standard input and output with Ctrl-A as the escape.
//
// Thread class: one thread, the loop's; Attach and Detach while the loop does not run.

#ifndef HVSDK_VMM_SERIAL_CONSOLE_H_
#define HVSDK_VMM_SERIAL_CONSOLE_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "hvsdk/base/executor.h"
#include "hvsdk/chipset/uart16550.h"
#include "hvsdk/vmm/event_loop.h"

namespace hvsdk::vmm {

// What a machine connects its serial port to. It outlives the machine and then serves the next.
class SerialEndpoint : public Task {
 public:
  // `uart` has output from now on until Detach, which first writes what is left.
  virtual void Attach(chipset::Uart16550& uart) = 0;
  virtual void Detach() = 0;
  // Has output that it cannot hand on yet.
  virtual bool waiting() const = 0;
};

// Writes to a descriptor and reads from another. A receiver that is slow is waited for without blocking; one that fails or is
// gone gets nothing more.
class SerialConsole final : public SerialEndpoint {
 public:
  struct Options {
    int output_fd = -1;
    int input_fd = -1;  // -1: no input
    // Ctrl-A x was typed. (Ctrl-A Ctrl-A and Ctrl-A a send Ctrl-A.)
    absl::AnyInvocable<void()> on_quit = nullptr;
  };
  // The descriptors outlive the console; the loop, too.
  SerialConsole(EventLoop& loop, Options options);
  ~SerialConsole() override;

  // Before the loop runs, for a file that is made late.
  void SetOutput(int fd) { options_.output_fd = fd; }

  void Attach(chipset::Uart16550& uart) override;
  void Detach() override;
  bool waiting() const override { return waiting_; }

  // Why output was lost: the error of the first write that failed. A reader that went away (EPIPE) wants no more, and is none.
  absl::Status output_status() const { return output_status_; }

 private:
  void Run() override;
  void WriteOutput(bool wait);
  void OnReadable();
  void HandleInput(const uint8_t* data, size_t size);
  void OfferInput();

  static constexpr size_t kMaxPendingInput = 4096;

  EventLoop& loop_;
  Options options_;
  chipset::Uart16550* uart_ = nullptr;
  std::string output_;    // taken from the port, not yet written
  bool waiting_ = false;  // for the receiver
  bool output_gone_ = false;
  absl::Status output_status_;
  bool reading_ = false;
  bool escaped_ = false;         // Ctrl-A was the last byte
  std::deque<uint8_t> pending_;  // typed, not yet taken by the port
};

// Standard input as a raw terminal while it lives, if it is one. The settings come back at the end, also when the
// program dies of a signal. One at a time.
class RawTerminal {
 public:
  RawTerminal();
  ~RawTerminal();
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;
};

}  // namespace hvsdk::vmm

#endif  // HVSDK_VMM_SERIAL_CONSOLE_H_
