// SPDX-License-Identifier: Apache-2.0
// A program in a guest that says what time it is whenever the host asks, over a Hyper-V socket: a byte is answered by CLOCK_REALTIME in nanoseconds.
//
// clock PORT

#include <linux/vm_sockets.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>

int main(int, char** arguments) {
  const int host = socket(AF_VSOCK, SOCK_STREAM, 0);
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_cid = VMADDR_CID_HOST;
  address.svm_port = static_cast<unsigned>(std::atoi(arguments[1]));
  if (host < 0 || connect(host, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    std::perror("clock");
    return 1;
  }
  for (char byte; read(host, &byte, 1) == 1;) {
    timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    const int64_t ns = int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
    if (write(host, &ns, sizeof(ns)) != sizeof(ns)) return 1;
  }
  return 0;
}
