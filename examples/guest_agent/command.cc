// SPDX-License-Identifier: Apache-2.0
#include "command.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "hvsdk/vmm/exec_session.h"

namespace guest_agent {
namespace {

using hvsdk::vmm::exec::Agent;

// A descriptor of this process that closes with it.
class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    Close();
    number_ = std::exchange(other.number_, -1);
    return *this;
  }
  ~Descriptor() { Close(); }
  void Close() {
    if (number_ >= 0) close(std::exchange(number_, -1));
  }
  int get() const { return number_; }
  explicit operator bool() const { return number_ >= 0; }

 private:
  int number_;
};

struct Pipe {
  Descriptor read, write;
};

std::optional<Pipe> MakePipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return std::nullopt;
  return Pipe{Descriptor(ends[0]), Descriptor(ends[1])};
}

class Command {
 public:
  explicit Command(int connection) : connection_(connection) {}

  void Run() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    ended_ = Descriptor(signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
    while (ended_ && Turn()) {
    }
    if (process_ > 0) kill(-process_, SIGKILL);
  }

  // What the host says, for Agent.
  void OnStart(std::vector<std::string> arguments) {
    std::optional<Pipe> input = MakePipe(), output = MakePipe(), error_output = MakePipe();
    int error = EMFILE;
    if (input && output && error_output) error = Spawn(arguments, input->read, output->write, error_output->write);
    if (error != 0) {
      const std::string line = arguments[0] + ": " + std::strerror(error) + "\n";
      agent_.Output(/*is_error=*/true, std::span(reinterpret_cast<const uint8_t*>(line.data()),
                                                 std::min<size_t>(line.size(), hvsdk::vmm::exec::kMaxData)));
      agent_.DropInput();
      status_ = error == ENOENT || error == ENOTDIR ? 127 : 126;
      return;
    }
    input_ = std::move(input->write);
    streams_[0].pipe = std::move(output->read);
    streams_[1].pipe = std::move(error_output->read);
    for (const Descriptor* const end : {&input_, &streams_[0].pipe, &streams_[1].pipe}) {
      fcntl(end->get(), F_SETFL, O_NONBLOCK);
    }
  }
  void OnSignal(uint32_t number) {
    if (process_ > 0) kill(-process_, static_cast<int>(number));
  }

 private:
  // Of the command's, that the host is sent. Once it has exited, what it left in the pipe is all: others may have that open for longer.
  struct Stream {
    Descriptor pipe;
    std::optional<size_t> left;
  };

  int Spawn(const std::vector<std::string>& arguments, const Descriptor& input, const Descriptor& output,
            const Descriptor& error_output) {
    std::vector<char*> argv;
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, input.get(), STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, output.get(), STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, error_output.get(), STDERR_FILENO);
    // In a session of its own, so that a signal reaches all that it starts; with signals as a program expects them, whatever the agent's own starter
    // had ignored: shells have what they run in the background ignore SIGINT.
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    const int error = posix_spawnp(&process_, argv[0], &actions, &attributes, argv.data(), environ);
    if (error != 0) process_ = -1;
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return error;
  }

  // Waits for something to do, and does it. False: that was all.
  bool Turn() {
    const bool has_room = agent_.output_room() != 0;
    // Of one that is not waited for, poll looks at the number -1.
    const auto wait = [](const Descriptor& descriptor, bool is_wanted, short events) {
      return pollfd{is_wanted ? descriptor.get() : -1, events, 0};
    };
    std::array<pollfd, 5> waits = {
        wait(connection_, true,
             static_cast<short>((agent_.may_receive() ? POLLIN : 0) | (agent_.outgoing().empty() ? 0 : POLLOUT))),
        wait(ended_, true, POLLIN),
        wait(input_, !agent_.input().empty(), POLLOUT),
        wait(streams_[0].pipe, has_room, POLLIN),
        wait(streams_[1].pipe, has_room, POLLIN),
    };
    if (poll(waits.data(), waits.size(), -1) < 0 && errno != EINTR) return false;
    if ((waits[0].revents & (POLLIN | POLLHUP | POLLERR)) != 0 && !Receive()) return false;
    if (waits[1].revents != 0) Reap();
    if (waits[2].revents != 0) WriteInput();
    for (size_t i = 0; i < streams_.size(); ++i) {
      if (waits[3 + i].revents != 0) ReadOutput(i);
    }
    if (agent_.is_input_ended() && agent_.input().empty()) input_.Close();
    if (status_ && !streams_[0].pipe && !streams_[1].pipe) agent_.Exited(*std::exchange(status_, std::nullopt));
    return Send();
  }

  bool Receive() {
    const ssize_t size = recv(connection_.get(), buffer_.data(), buffer_.size(), 0);
    if (size < 0) return errno == EAGAIN || errno == EINTR;
    // The host closes it when it has heard the status, and before if it wants no more.
    return size > 0 && agent_.Receive(std::span(buffer_.data(), static_cast<size_t>(size)), *this);
  }

  bool Send() {
    std::string& outgoing = agent_.outgoing();
    if (outgoing.empty()) return true;
    const ssize_t size = send(connection_.get(), outgoing.data(), outgoing.size(), MSG_NOSIGNAL);
    if (size < 0) return errno == EAGAIN || errno == EINTR;
    outgoing.erase(0, static_cast<size_t>(size));
    return true;
  }

  void WriteInput() {
    const ssize_t size = write(input_.get(), agent_.input().data(), agent_.input().size());
    if (size > 0) return agent_.TakeInput(static_cast<size_t>(size));
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
    // Nobody reads it any more.
    input_.Close();
    agent_.DropInput();
  }

  void ReadOutput(size_t i) {
    Stream& stream = streams_[i];
    size_t wanted = agent_.output_room();
    if (wanted == 0) return;
    if (stream.left) wanted = std::min(wanted, *stream.left);
    const ssize_t size = wanted == 0 ? 0 : read(stream.pipe.get(), buffer_.data(), std::min(wanted, buffer_.size()));
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (size > 0) agent_.Output(/*is_error=*/i == 1, std::span(buffer_.data(), static_cast<size_t>(size)));
    if (size > 0 && stream.left) *stream.left -= static_cast<size_t>(size);
    if (size <= 0 || (stream.left && *stream.left == 0)) stream.pipe.Close();
  }

  void Reap() {
    signalfd_siginfo info;
    while (read(ended_.get(), &info, sizeof(info)) > 0) {
    }
    int status = 0;
    if (process_ <= 0 || waitpid(process_, &status, WNOHANG) != process_) return;
    process_ = -1;
    status_ = static_cast<uint8_t>(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
    input_.Close();
    agent_.DropInput();
    for (Stream& stream : streams_) {
      int left = 0;
      if (ioctl(stream.pipe.get(), FIONREAD, &left) == 0 && left > 0) {
        stream.left = static_cast<size_t>(left);
      } else {
        stream.pipe.Close();
      }
    }
  }

  const Descriptor connection_;
  Agent agent_;
  Descriptor ended_;               // a command has, by signalfd
  pid_t process_ = -1;             // and its process group
  Descriptor input_;               // its own, to write to
  std::array<Stream, 2> streams_;  // what it writes, and its errors
  std::optional<uint8_t> status_;  // it has exited, and the host has not been told
  std::array<uint8_t, hvsdk::vmm::exec::kMaxData> buffer_;
};

}  // namespace

void RunCommand(int connection) { Command(connection).Run(); }

}  // namespace guest_agent
