// SPDX-License-Identifier: Apache-2.0
#include "ctl_exec.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "ctl_guest.h"
#include "hvsdk/vmm/exec_session.h"

namespace mini_vmm {
namespace {

namespace exec = hvsdk::vmm::exec;

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};

absl::Status NoAgent() {
  return absl::UnavailableError(absl::StrCat("exec: nobody answers at port ", exec::kPort,
                                             " in the guest; does its agent run (examples/guest_agent)?"));
}

// Of descriptors none is made non-blocking, for the shell shares them: each is read and written once poll says that this does not block.
class Exec {
 public:
  explicit Exec(absl::Span<const std::string> arguments)
      : host_(std::vector<std::string>(arguments.begin(), arguments.end())) {}
  ~Exec() {
    if (socket_ >= 0) close(socket_);
    if (signals_ >= 0) close(signals_);
  }

  absl::StatusOr<int> Run(const std::string& path) {
    signal(SIGPIPE, SIG_IGN);
    sigset_t set;
    sigemptyset(&set);
    for (const int number : kSignals) {
      // Whoever started this may have it ignore some.
      struct sigaction action;
      if (sigaction(number, nullptr, &action) != 0 || action.sa_handler != SIG_IGN) sigaddset(&set, number);
    }
    sigprocmask(SIG_BLOCK, &set, nullptr);
    signals_ = signalfd(-1, &set, SFD_CLOEXEC);
    if (signals_ < 0) return absl::ErrnoToStatus(errno, "exec: signalfd");
    if (const absl::Status status = Connect(path); !status.ok()) return status;
    for (;;) {
      if (const absl::Status status = Turn(); !status.ok()) return status;
      if (signal_ != 0) return 128 + signal_;
      if (host_.status() && shown_.empty()) return *host_.status();
    }
  }

 private:
  struct Shown {
    int descriptor;
    std::string bytes;
  };

  absl::Status Connect(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.empty() || path.size() >= sizeof(address.sun_path))
      return absl::InvalidArgumentError("exec: no such socket");
    std::memcpy(address.sun_path, path.data(), path.size());
    socket_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (socket_ < 0 || connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("exec: cannot connect to ", absl::CHexEscape(path)));
    }
    host_.outgoing().insert(0, absl::StrCat("CONNECT ", exec::kPort, "\n"));
    return absl::OkStatus();
  }

  absl::Status Turn() {
    const auto wait = [](int descriptor, bool is_wanted, short events) {
      return pollfd{is_wanted ? descriptor : -1, events, 0};
    };
    const bool may_receive = shown_.empty() && !host_.status();
    std::array<pollfd, 4> waits = {
        wait(signals_, true, POLLIN),
        wait(socket_, true, static_cast<short>((may_receive ? POLLIN : 0) | (host_.outgoing().empty() ? 0 : POLLOUT))),
        // Input is the command's, so it is read when there is one.
        wait(STDIN_FILENO, is_accepted_ && host_.input_room() != 0, POLLIN),
        wait(shown_.empty() ? -1 : shown_[0].descriptor, !shown_.empty(), POLLOUT),
    };
    if (poll(waits.data(), waits.size(), -1) < 0 && errno != EINTR) return absl::ErrnoToStatus(errno, "exec: poll");
    if (waits[0].revents != 0) TakeSignal();
    if ((waits[1].revents & POLLOUT) != 0) Send();
    if (may_receive && (waits[1].revents & (POLLIN | POLLHUP | POLLERR)) != 0) {
      if (const absl::Status status = Receive(); !status.ok()) return status;
    }
    if (waits[2].revents != 0) ReadInput();
    if (waits[3].revents != 0) Show();
    return absl::OkStatus();
  }

  // The first goes to the command; with the second this end is left, and the agent kills what is still there.
  void TakeSignal() {
    signalfd_siginfo info;
    if (read(signals_, &info, sizeof(info)) != sizeof(info)) return;
    const int number = static_cast<int>(info.ssi_signo);
    if (is_signalled_ || !is_accepted_) {
      signal_ = number;
    } else {
      host_.Signal(static_cast<uint32_t>(number));
      is_signalled_ = true;
    }
  }

  void Send() {
    std::string& outgoing = host_.outgoing();
    const ssize_t size = send(socket_, outgoing.data(), outgoing.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    // What is wrong with it is found by Receive.
    outgoing.erase(0, size > 0 ? static_cast<size_t>(size) : 0);
  }

  absl::Status Receive() {
    const ssize_t size = recv(socket_, buffer_.data(), buffer_.size(), MSG_DONTWAIT);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return absl::OkStatus();
    if (size <= 0) return is_accepted_ ? absl::UnavailableError("exec: the guest's agent has gone") : NoAgent();
    std::span<const uint8_t> bytes(buffer_.data(), static_cast<size_t>(size));
    while (!is_accepted_ && !bytes.empty()) {
      // "OK NUMBER" and a line's end.
      answer_ += static_cast<char>(bytes[0]);
      bytes = bytes.subspan(1);
      is_accepted_ = answer_.back() == '\n' && absl::StartsWith(answer_, "OK ");
      if (!is_accepted_ && (answer_.back() == '\n' || answer_.size() > 64)) return NoAgent();
    }
    const bool is_kept = host_.Receive(bytes, [this](bool is_error, std::span<const uint8_t> output) {
      shown_.push_back({is_error ? STDERR_FILENO : STDOUT_FILENO,
                        std::string(reinterpret_cast<const char*>(output.data()), output.size())});
    });
    if (is_kept || host_.status()) return absl::OkStatus();
    return absl::UnavailableError("exec: the guest's agent does not keep to the protocol");
  }

  void ReadInput() {
    const ssize_t size = read(STDIN_FILENO, buffer_.data(), std::min<size_t>(buffer_.size(), host_.input_room()));
    if (size > 0) {
      host_.Input(std::span(buffer_.data(), static_cast<size_t>(size)));
    } else if (size == 0 || (errno != EAGAIN && errno != EINTR)) {
      host_.EndInput();
    }
  }

  // No more at once than a pipe takes that poll calls writable.
  void Show() {
    Shown& front = shown_[0];
    const ssize_t size = write(front.descriptor, front.bytes.data(), std::min<size_t>(front.bytes.size(), PIPE_BUF));
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (size < 0) {
      signal_ = SIGPIPE;  // as of a program that writes to where nobody reads
      return;
    }
    front.bytes.erase(0, static_cast<size_t>(size));
    if (front.bytes.empty()) shown_.erase(shown_.begin());
  }

  exec::Host host_;
  int socket_ = -1, signals_ = -1;
  std::string answer_;
  bool is_accepted_ = false;   // the agent is at the other end
  bool is_signalled_ = false;  // the command was
  int signal_ = 0;             // that ends this process
  std::vector<Shown> shown_;   // the command's output, which this process has not written yet
  std::array<uint8_t, 65536> buffer_;
};

}  // namespace

absl::StatusOr<absl::Span<const std::string>> ParseExec(absl::Span<const std::string> words) {
  if (!words.empty() && words[0] == "--") {
    words = words.subspan(1);
  } else if (!words.empty() && absl::StartsWith(words[0], "-")) {
    return Unexpected(words[0], kExecArguments);
  }
  if (words.empty() || words[0].empty()) return absl::InvalidArgumentError("a command is needed");
  if (!exec::Host::CanStart(std::vector<std::string>(words.begin(), words.end()))) {
    return absl::InvalidArgumentError(absl::StrCat("the command is longer than ", exec::kMaxStart >> 10, " KiB"));
  }
  return words;
}

absl::StatusOr<int> RunExec(const std::string& sockets_path, absl::Span<const std::string> arguments) {
  return Exec(arguments).Run(sockets_path);
}

}  // namespace mini_vmm
