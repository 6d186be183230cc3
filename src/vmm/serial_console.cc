// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/serial_console.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <termios.h>
#include <unistd.h>

#include <utility>

namespace hvsdk::vmm {
namespace {

constexpr uint8_t kCtrlA = 1;
// A pipe that polls as writable takes this much without blocking (POSIX PIPE_BUF).
constexpr size_t kWritePiece = 4096;

bool IsWritable(int fd, int timeout_ms) {
  pollfd poll_fd{fd, POLLOUT, 0};
  return poll(&poll_fd, 1, timeout_ms) > 0;
}

}  // namespace

SerialConsole::SerialConsole(EventLoop& loop, Options options) : loop_(loop), options_(std::move(options)) {
  if (options_.input_fd < 0) return;
  // A plain file cannot be watched (EPERM) and is no console either.
  reading_ = loop_.Watch(options_.input_fd, EPOLLIN, [this](uint32_t) { OnReadable(); }).ok();
}

SerialConsole::~SerialConsole() {
  loop_.Drain(*this);
  if (reading_) loop_.Unwatch(options_.input_fd);
  if (waiting_) loop_.Unwatch(options_.output_fd);
}

void SerialConsole::Attach(chipset::Uart16550& uart) {
  uart_ = &uart;
  OfferInput();
}

void SerialConsole::Detach() {
  loop_.Drain(*this);
  WriteOutput(/*wait=*/true);
  uart_ = nullptr;
}

void SerialConsole::Run() {
  if (uart_ == nullptr) return;
  WriteOutput(/*wait=*/false);
  OfferInput();
}

void SerialConsole::WriteOutput(bool wait) {
  // How long a receiver may keep the machine's end waiting.
  constexpr int kLastWaitMs = 1000;
  for (;;) {
    if (output_.empty() && uart_ != nullptr) {
      output_.resize(kWritePiece);
      output_.resize(uart_->TakeOutput(absl::MakeSpan(reinterpret_cast<uint8_t*>(output_.data()), output_.size())));
    }
    if (output_.empty() || output_gone_) {
      if (output_.empty()) return;
      output_.clear();
      continue;
    }
    if (!IsWritable(options_.output_fd, wait ? kLastWaitMs : 0)) {
      if (wait) return;
      if (!waiting_) {
        waiting_ = loop_
                       .Watch(options_.output_fd, EPOLLOUT,
                              [this](uint32_t) {
                                loop_.Unwatch(options_.output_fd);
                                waiting_ = false;
                                WriteOutput(/*wait=*/false);
                              })
                       .ok();
      }
      return;
    }
    const ssize_t written = write(options_.output_fd, output_.data(), output_.size());
    if (written >= 0) {
      output_.erase(0, static_cast<size_t>(written));
    } else if (errno != EINTR && errno != EAGAIN) {
      output_gone_ = true;
      if (errno != EPIPE) output_status_ = absl::ErrnoToStatus(errno, "cannot be written");
    }
  }
}

void SerialConsole::OnReadable() {
  uint8_t data[512];
  const ssize_t got = read(options_.input_fd, data, sizeof(data));
  if (got > 0) {
    HandleInput(data, static_cast<size_t>(got));
  } else if (got == 0 || (errno != EINTR && errno != EAGAIN)) {
    loop_.Unwatch(options_.input_fd);
    reading_ = false;
  }
}

void SerialConsole::HandleInput(const uint8_t* data, size_t size) {
  for (size_t i = 0; i < size; ++i) {
    const uint8_t byte = data[i];
    if (!escaped_ && byte == kCtrlA) {
      escaped_ = true;
      continue;
    }
    uint8_t sent = byte;
    if (std::exchange(escaped_, false)) {
      if (byte == 'x' || byte == 'X') {
        if (options_.on_quit) options_.on_quit();
        continue;
      }
      if (byte != kCtrlA && byte != 'a' && byte != 'A') continue;
      sent = kCtrlA;
    }
    // A guest that does not read must not make us remember without bound.
    if (pending_.size() < kMaxPendingInput) pending_.push_back(sent);
  }
  OfferInput();
}

void SerialConsole::OfferInput() {
  while (uart_ != nullptr && !pending_.empty() && uart_->PutInput({&pending_.front(), 1}) == 1) pending_.pop_front();
}

// The terminal's settings before us; what a signal handler restores.
namespace {

termios saved_settings;
volatile sig_atomic_t terminal_is_raw = 0;
constexpr int kFatalSignals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTERM, SIGHUP, SIGINT, SIGQUIT};

void RestoreTerminal() {
  if (!terminal_is_raw) return;
  terminal_is_raw = 0;
  tcsetattr(STDIN_FILENO, TCSANOW, &saved_settings);
}

void OnFatalSignal(int signal_number) {
  RestoreTerminal();
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

}  // namespace

RawTerminal::RawTerminal() {
  if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &saved_settings) != 0) return;
  termios raw = saved_settings;
  cfmakeraw(&raw);
  raw.c_oflag |= OPOST;  // our own messages still begin at the left margin
  terminal_is_raw = 1;
  for (const int number : kFatalSignals) {
    struct sigaction action {};
    if (sigaction(number, nullptr, &action) == 0 && action.sa_handler == SIG_DFL) signal(number, OnFatalSignal);
  }
  tcsetattr(STDIN_FILENO, TCSANOW, &raw);
}

RawTerminal::~RawTerminal() { RestoreTerminal(); }

}  // namespace hvsdk::vmm
