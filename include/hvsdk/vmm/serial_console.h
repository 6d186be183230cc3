// SPDX-License-Identifier: Apache-2.0
// Where a machine's serial port leads on the host: a file, a pipe, a terminal with Ctrl-A as the escape.
//
// No byte is lost in either direction while both sides live. A receiver that does not read makes the guest's port wait,
// and nothing else; what the guest does not read stays where it comes from, but for a look-ahead of 64 KiB.
//
// Thread class: one thread, the loop's; Attach, Detach and Flush while the loop does not run.

#ifndef HVSDK_VMM_SERIAL_CONSOLE_H_
#define HVSDK_VMM_SERIAL_CONSOLE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "hvsdk/chipset/uart16550.h"
#include "hvsdk/machine/serial_endpoint.h"
#include "hvsdk/os/event_loop.h"
#include "hvsdk/os/output_writer.h"

namespace hvsdk::vmm {

// Writes to a descriptor and reads from another, of any kind. A receiver that fails or is gone gets nothing more.
class SerialConsole final : public machine::SerialEndpoint {
 public:
  struct Options {
    int output_fd = -1;
    int input_fd = -1;  // -1: no input
    // Not null: Ctrl-A is the input's escape. It is called for Ctrl-A x; Ctrl-A Ctrl-A and Ctrl-A a send Ctrl-A. Null:
    // every byte is the guest's.
    absl::AnyInvocable<void()> on_quit = nullptr;
  };
  // Somebody who sees what the guest says and types besides. On the loop's thread.
  class Onlooker {
   public:
    virtual ~Onlooker() = default;
    // What was taken from the port, and is for all.
    virtual void OnOutput(absl::string_view output) = 0;
    // There is room after Type took less than all. Called from within the console.
    virtual void OnInputRoom() = 0;
  };
  // The descriptors outlive the console; the loop, too.
  SerialConsole(os::EventLoop& loop, Options options);
  ~SerialConsole() override;

  absl::Status Attach(chipset::Uart16550& uart) override;
  void Detach() override;
  bool waiting() const override { return waiting_; }

  // There is one, or none (null), which it is told before that goes.
  void SetOnlooker(Onlooker* onlooker) { onlooker_ = onlooker; }
  // Puts bytes for the guest behind what has been read, and returns how many there was room for.
  size_t Type(absl::Span<const uint8_t> data);

  // Hands on what is left in the port of a machine that has ended, while the receiver takes something at least every
  // two seconds. `go_on` is asked between. False: some is left.
  bool Flush(absl::FunctionRef<bool()> go_on);

  // Why output was lost: the error of the first write that failed, or DeadlineExceeded if a machine has ended before
  // the receiver had taken everything. A reader that went away (EPIPE) wants no more, and is none.
  absl::Status output_status() const;

 private:
  void Run() override;
  bool CopyOutput();
  void SetReading(bool reading);
  void Read(uint32_t events);
  void HandleInput(absl::Span<const uint8_t> data);
  void CopyInput();

  static constexpr size_t kMaxPendingInput = 65536;

  os::EventLoop& loop_;
  Options options_;
  chipset::Uart16550* uart_ = nullptr;
  Onlooker* onlooker_ = nullptr;

  std::unique_ptr<os::OutputWriter> writer_;  // since the first Attach
  std::string output_;                        // taken from the port, refused by the writer
  bool waiting_ = false;                      // for the writer
  uint64_t lost_bytes_ = 0;                   // left in ports that are gone

  enum class Input : uint8_t { kNone, kWatched, kAlwaysReady };
  Input input_ = Input::kNone;
  bool input_is_terminal_ = false;
  bool reading_ = false;  // the descriptor is watched
  bool escaped_ = false;  // Ctrl-A was the last byte
  std::string pending_;   // read, not yet taken by the port; what is before pending_at_ was
  size_t pending_at_ = 0;
  bool was_full_ = false;  // for what was typed
};

// Standard input as a raw terminal while it lives, if it is one, from which a read never waits. The settings come back
// at the end, also when the program dies of a signal. One at a time.
class RawTerminal {
 public:
  RawTerminal();
  ~RawTerminal();
  // For a program that ends without destructors. Safe in a signal handler.
  static void Restore();
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;
};

}  // namespace hvsdk::vmm

#endif  // HVSDK_VMM_SERIAL_CONSOLE_H_
