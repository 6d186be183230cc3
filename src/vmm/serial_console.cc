// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/serial_console.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"

namespace hvsdk::vmm {
namespace {

constexpr uint8_t kCtrlA = 1;

using SteadyClock = std::chrono::steady_clock;

// read(2) that does not wait, although others may read from the same pipe, socket or terminal and be faster, so that
// what poll saw is gone. O_NONBLOCK would be theirs, too.
ssize_t ReadWithoutWaiting(int fd, absl::Span<uint8_t> data) {
  iovec piece{data.data(), data.size()};
  ssize_t got = preadv2(fd, &piece, 1, /*offset=*/-1, RWF_NOWAIT);
  if (got >= 0 || errno == EAGAIN || errno == EINTR) return got;
  got = recv(fd, data.data(), data.size(), MSG_DONTWAIT);
  if (got >= 0 || errno != ENOTSOCK) return got;
  // A terminal, whose raw mode makes a read of what is not there return 0; or an old kernel.
  pollfd ready{fd, POLLIN, 0};
  if (poll(&ready, 1, /*timeout=*/0) == 0) return errno = EAGAIN, -1;
  return read(fd, data.data(), data.size());
}

}  // namespace

SerialConsole::SerialConsole(os::EventLoop& loop, Options options)
    : loop_(loop),
      options_(std::move(options)),
      input_is_terminal_(options_.input_fd >= 0 && isatty(options_.input_fd) != 0) {
  if (options_.input_fd < 0) return;
  input_ = Input::kWatched;
  SetReading(true);
}

SerialConsole::~SerialConsole() {
  writer_.reset();
  loop_.Drain(*this);
  SetReading(false);
}

absl::Status SerialConsole::Attach(chipset::Uart16550& uart) {
  if (uart_ != nullptr)
    return absl::FailedPreconditionError("the serial port of another machine leads to this console");
  if (writer_ == nullptr) {
    auto made = os::OutputWriter::Create(options_.output_fd,
                                         {.thread_name = "console", .on_room = [this] { loop_.Schedule(*this); }});
    if (!made.ok()) {
      return absl::Status(made.status().code(), absl::StrCat("the serial port's output: ", made.status().message()));
    }
    writer_ = *std::move(made);
  }
  uart_ = &uart;
  loop_.Schedule(*this);
  return absl::OkStatus();
}

void SerialConsole::Detach() {
  constexpr std::chrono::milliseconds kLimit(500);
  loop_.Drain(*this);
  const SteadyClock::time_point end = SteadyClock::now() + kLimit;
  while (!CopyOutput()) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - SteadyClock::now());
    if (left.count() <= 0 || !writer_->Flush(left)) break;
  }
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - SteadyClock::now());
  writer_->Flush(std::max(left, std::chrono::milliseconds(0)));
  uint8_t scratch[512];
  for (size_t got; (got = uart_->TakeOutput(absl::MakeSpan(scratch))) != 0;) lost_bytes_ += got;
  uart_ = nullptr;
}

bool SerialConsole::Flush(absl::FunctionRef<bool()> go_on) {
  constexpr std::chrono::seconds kPatience(2);
  if (uart_ == nullptr) return true;
  uint64_t written = writer_->written_bytes();
  SteadyClock::time_point since = SteadyClock::now();
  for (;;) {
    const bool copied = CopyOutput();
    if (writer_->Flush(std::chrono::milliseconds(20)) && copied) return true;
    if (const uint64_t now = writer_->written_bytes(); now != written) {
      written = now;
      since = SteadyClock::now();
    }
    if (SteadyClock::now() - since >= kPatience || !go_on()) return false;
  }
}

absl::Status SerialConsole::output_status() const {
  if (writer_ == nullptr) return absl::OkStatus();
  const absl::Status status = writer_->status();
  if (!status.ok()) return status == absl::ErrnoToStatus(EPIPE, "cannot be written") ? absl::OkStatus() : status;
  if (lost_bytes_ != 0 || !output_.empty() || !writer_->Flush(std::chrono::milliseconds(0))) {
    return absl::DeadlineExceededError("not all of it was taken by its reader");
  }
  return absl::OkStatus();
}

void SerialConsole::Run() {
  if (uart_ == nullptr) return;
  CopyOutput();
  CopyInput();
}

// Whether all of it has been handed to the writer.
bool SerialConsole::CopyOutput() {
  constexpr size_t kPiece = 4096;
  for (;;) {
    if (output_.empty() && uart_ != nullptr) {
      output_.resize(kPiece);
      output_.resize(uart_->TakeOutput(absl::MakeSpan(reinterpret_cast<uint8_t*>(output_.data()), output_.size())));
      if (onlooker_ != nullptr && !output_.empty()) onlooker_->OnOutput(output_);
    }
    output_.erase(0, writer_->Put(output_));
    waiting_ = !output_.empty();
    if (waiting_ || uart_ == nullptr || !uart_->has_output()) return !waiting_;
  }
}

void SerialConsole::SetReading(bool reading) {
  if (input_ != Input::kWatched || reading == reading_) return;
  reading_ = reading;
  if (!reading) {
    loop_.Unwatch(options_.input_fd);
    return;
  }
  const absl::Status watched = loop_.Watch(options_.input_fd, EPOLLIN, [this](uint32_t events) {
    Read(events);
    CopyInput();
  });
  if (watched.ok()) return;
  reading_ = false;
  // EPERM: a plain file, which has always something to read, or its end.
  input_ = absl::IsPermissionDenied(watched) ? Input::kAlwaysReady : Input::kNone;
}

void SerialConsole::Read(uint32_t events) {
  uint8_t data[4096];
  const absl::Span<uint8_t> room(data, std::min(sizeof(data), kMaxPendingInput - (pending_.size() - pending_at_)));
  const ssize_t got = input_ == Input::kAlwaysReady ? read(options_.input_fd, room.data(), room.size())
                                                    : ReadWithoutWaiting(options_.input_fd, room);
  if (got > 0) {
    HandleInput(room.subspan(0, static_cast<size_t>(got)));
  } else if (got < 0 && (errno == EINTR || errno == EAGAIN)) {
    return;
  } else if (got < 0 || !input_is_terminal_ || (events & (EPOLLHUP | EPOLLERR)) != 0) {
    // The end, which a terminal that has nothing to say has not reached.
    SetReading(false);
    input_ = Input::kNone;
  }
}

void SerialConsole::HandleInput(absl::Span<const uint8_t> data) {
  pending_.erase(0, std::exchange(pending_at_, 0));
  for (const uint8_t byte : data) {
    if (options_.on_quit == nullptr) {
      pending_.push_back(static_cast<char>(byte));
    } else if (std::exchange(escaped_, false)) {
      if (byte == 'x' || byte == 'X') options_.on_quit();
      if (byte == kCtrlA || byte == 'a' || byte == 'A') pending_.push_back(kCtrlA);
    } else if (byte == kCtrlA) {
      escaped_ = true;
    } else {
      pending_.push_back(static_cast<char>(byte));
    }
  }
}

size_t SerialConsole::Type(absl::Span<const uint8_t> data) {
  pending_.erase(0, std::exchange(pending_at_, 0));
  const size_t size = std::min(data.size(), kMaxPendingInput - pending_.size());
  pending_.append(reinterpret_cast<const char*>(data.data()), size);
  was_full_ = was_full_ || size < data.size();
  CopyInput();
  return size;
}

void SerialConsole::CopyInput() {
  if (uart_ != nullptr && input_ == Input::kAlwaysReady && pending_at_ == pending_.size()) Read(/*events=*/0);
  const absl::Span<const uint8_t> pending(reinterpret_cast<const uint8_t*>(pending_.data()) + pending_at_,
                                          pending_.size() - pending_at_);
  // A port that takes less calls for more once it has room.
  const size_t taken = uart_ == nullptr || pending.empty() ? 0 : uart_->PutInput(pending);
  pending_at_ += taken;
  const size_t left = pending.size() - taken;
  if (input_ == Input::kAlwaysReady && taken != 0 && left == 0) loop_.Schedule(*this);
  // Once it was full, it reads again at half: for each FIFO that the guest empties, a read would fetch 16 bytes.
  if (left == kMaxPendingInput || left <= kMaxPendingInput / 2) SetReading(left < kMaxPendingInput);
  if (onlooker_ != nullptr && left <= kMaxPendingInput / 2 && std::exchange(was_full_, false)) onlooker_->OnInputRoom();
}

// The terminal's settings before us; what a signal handler restores.
namespace {

termios saved_settings;
volatile sig_atomic_t terminal_is_raw = 0;
constexpr int kFatalSignals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTERM, SIGHUP, SIGINT, SIGQUIT};

void OnFatalSignal(int signal_number) {
  RawTerminal::Restore();
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

}  // namespace

RawTerminal::RawTerminal() {
  if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &saved_settings) != 0) return;
  termios raw = saved_settings;
  cfmakeraw(&raw);
  raw.c_oflag |= OPOST;  // our own messages still begin at the left margin
  raw.c_cc[VMIN] = 0;
  terminal_is_raw = 1;
  for (const int number : kFatalSignals) {
    struct sigaction action {};
    if (sigaction(number, nullptr, &action) == 0 && action.sa_handler == SIG_DFL) signal(number, OnFatalSignal);
  }
  tcsetattr(STDIN_FILENO, TCSANOW, &raw);
}

RawTerminal::~RawTerminal() { Restore(); }

void RawTerminal::Restore() {
  if (!terminal_is_raw) return;
  terminal_is_raw = 0;
  tcsetattr(STDIN_FILENO, TCSANOW, &saved_settings);
}

}  // namespace hvsdk::vmm
