// SPDX-License-Identifier: Apache-2.0
#include "os/linux/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>

#include "base/status_macros.h"

namespace hvsdk::os {
namespace {

int OpenSpare() { return open("/dev/null", O_RDONLY | O_CLOEXEC); }

}  // namespace

absl::StatusOr<std::unique_ptr<Listener>> Listener::Open(EventLoop& loop, LocalAddress address,
                                                         std::function<void(int fd)> on_connection) {
  std::unique_ptr<Listener> listener(new Listener(loop, std::move(address), std::move(on_connection)));
  RETURN_IF_ERROR(listener->Listen());
  return listener;
}

Listener::Listener(EventLoop& loop, LocalAddress address, std::function<void(int fd)> on_connection)
    : loop_(loop), address_(std::move(address)), on_connection_(std::move(on_connection)), spare_fd_(OpenSpare()) {}

Listener::~Listener() {
  if (is_watched_) loop_.Unwatch(fd_);
  if (fd_ >= 0) close(fd_);
  if (spare_fd_ >= 0) close(spare_fd_);
}

absl::Status Listener::Listen() {
  const bool is_unix = !address_.path.empty();
  fd_ = socket(is_unix ? AF_UNIX : address_.internet.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd_ < 0) return absl::ErrnoToStatus(errno, "socket");
  if (is_unix) {
    RETURN_IF_ERROR(file_.Bind(fd_, SOCK_STREAM, address_.path));
  } else {
    // Connections of a server that has just ended do not keep its port.
    const int on = 1;
    setsockopt(fd_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd_, reinterpret_cast<const sockaddr*>(&address_.internet), address_.size) != 0) {
      return absl::ErrnoToStatus(errno, "cannot listen there");
    }
    getsockname(fd_, reinterpret_cast<sockaddr*>(&address_.internet), &address_.size);
  }
  if (listen(fd_, 16) != 0) return absl::ErrnoToStatus(errno, "cannot listen there");
  RETURN_IF_ERROR(loop_.Watch(fd_, EPOLLIN, [this](uint32_t) { Accept(); }));
  is_watched_ = true;
  return absl::OkStatus();
}

void Listener::Accept() {
  const int fd = accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd >= 0) return on_connection_(fd);
  if (errno != EMFILE && errno != ENFILE) return;
  close(spare_fd_);
  close(accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC));
  spare_fd_ = OpenSpare();
}

}  // namespace hvsdk::os
