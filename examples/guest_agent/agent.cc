// SPDX-License-Identifier: Apache-2.0
// guest_agent: runs commands for the host of this guest, and for nobody else; as root, as who it should be started.
//
// It listens on a port of Hyper-V sockets (Linux: AF_VSOCK by hv_sock) and has a process for each connection, which is one command
// (hvsdk/vmm/exec_protocol.h). `mini_vmm ctl PATH exec COMMAND` is at the other end.

#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "command.h"
#include "hvsdk/vmm/exec_protocol.h"

namespace {

constexpr int kMaxCommands = 64;

int Listen() {
  const int listener = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_cid = VMADDR_CID_ANY;
  address.svm_port = hvsdk::vmm::exec::kPort;
  if (listener >= 0 && bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 &&
      listen(listener, kMaxCommands) == 0) {
    return listener;
  }
  std::fprintf(stderr, "guest_agent: port %u: %s\n", hvsdk::vmm::exec::kPort, std::strerror(errno));
  return -1;
}

}  // namespace

int main() {
  // Numbers 0 to 2 are a command's own.
  int lowest = 0;
  while (lowest >= 0 && lowest <= STDERR_FILENO) lowest = open("/dev/null", O_RDWR | O_CLOEXEC);
  close(lowest);
  const int listener = Listen();
  if (listener < 0) return 1;
  signal(SIGPIPE, SIG_IGN);
  int commands = 0;
  for (;;) {
    // The limit holds the next connection up, which waits in the backlog.
    for (int status; waitpid(-1, &status, commands < kMaxCommands ? WNOHANG : 0) > 0;) --commands;
    sockaddr_vm peer{};
    socklen_t size = sizeof(peer);
    const int connection = accept4(listener, reinterpret_cast<sockaddr*>(&peer), &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (connection < 0) {
      if (errno != EINTR) sleep(1);  // of descriptors or memory there are none for now
      continue;
    }
    // Others are programs of this guest, by its loopback.
    if (peer.svm_cid == VMADDR_CID_HOST) {
      const pid_t child = fork();
      if (child == 0) {
        close(listener);
        guest_agent::RunCommand(connection);
        _exit(0);
      }
      if (child > 0) ++commands;
    }
    close(connection);
  }
}
