// SPDX-License-Identifier: Apache-2.0
#include "os/linux/acceptor.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

namespace hvsdk::os {
namespace {

int OpenSpare() { return open("/dev/null", O_RDONLY | O_CLOEXEC); }

}  // namespace

Acceptor::Acceptor() : spare_fd_(OpenSpare()) {}

Acceptor::~Acceptor() {
  if (spare_fd_ >= 0) close(spare_fd_);
}

int Acceptor::Accept(int listen_fd) {
  const int fd = accept4(listen_fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd >= 0 || (errno != EMFILE && errno != ENFILE)) return fd;
  close(spare_fd_);
  close(accept4(listen_fd, nullptr, nullptr, SOCK_CLOEXEC));
  spare_fd_ = OpenSpare();
  return -1;
}

}  // namespace hvsdk::os
