// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/console_viewers.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"

namespace hvsdk::vmm {

ConsoleViewers::ConsoleViewers(os::EventLoop& loop, SerialConsole& console) : loop_(loop), console_(console) {
  console_.SetOnlooker(this);
}

ConsoleViewers::~ConsoleViewers() {
  console_.SetOnlooker(nullptr);
  while (!viewers_.empty()) Drop(viewers_.begin()->first);
  loop_.Drain(*this);
}

absl::StatusOr<int> ConsoleViewers::Connect() {
  if (viewers_.size() >= kMaxViewers) {
    return absl::ResourceExhaustedError(absl::StrCat("there are ", kMaxViewers, " viewers of the console already"));
  }
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) != 0) {
    return absl::ErrnoToStatus(errno, "socketpair");
  }
  const uint64_t id = next_id_++;
  viewers_[id] = {.fd = fds[0], .position = end_ - std::min(backlog_.size(), kBacklog)};
  Settle(id);
  return fds[1];
}

void ConsoleViewers::OnOutput(absl::string_view output) {
  backlog_.append(output.data(), output.size());
  end_ += output.size();
  if (backlog_.size() > 2 * kBacklog) backlog_.erase(0, backlog_.size() - kBacklog);
  if (!viewers_.empty()) loop_.Schedule(*this);
}

void ConsoleViewers::Run() {
  for (auto at = viewers_.begin(); at != viewers_.end();) Settle((at++)->first);
}

void ConsoleViewers::OnReady(uint64_t id, uint32_t events) {
  const auto at = viewers_.find(id);
  if (at == viewers_.end()) return;
  Viewer& viewer = at->second;
  if ((events & EPOLLIN) != 0 && viewer.typed.empty()) {
    char buffer[4096];
    const ssize_t got = recv(viewer.fd, buffer, sizeof(buffer), 0);
    if (got > 0) viewer.typed.assign(buffer, static_cast<size_t>(got));
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) return Drop(id);
  } else if ((events & (EPOLLERR | EPOLLHUP)) != 0) {
    return Drop(id);
  }
  Settle(id);
}

void ConsoleViewers::Settle(uint64_t id) {
  Viewer& viewer = viewers_.at(id);
  if (!viewer.typed.empty()) {
    viewer.typed.erase(0, console_.Type({reinterpret_cast<const uint8_t*>(viewer.typed.data()), viewer.typed.size()}));
  }
  if (!Send(viewer)) return Drop(id);
  const bool has_more = viewer.position != end_ || !viewer.notice.empty() || viewer.missed != 0;
  const uint32_t wanted = (viewer.typed.empty() ? EPOLLIN : 0u) | (has_more ? EPOLLOUT : 0u) | EPOLLERR;
  if (viewer.watched == wanted) return;
  if (viewer.watched != 0) loop_.Unwatch(viewer.fd);
  viewer.watched = wanted;
  const absl::Status watched = loop_.Watch(viewer.fd, wanted, [this, id](uint32_t events) { OnReady(id, events); });
  if (watched.ok()) return;
  viewer.watched = 0;
  Drop(id);
}

// False: it is gone.
bool ConsoleViewers::Send(Viewer& viewer) {
  for (;;) {
    const uint64_t begin = end_ - backlog_.size();
    if (viewer.position < begin) {
      viewer.missed += begin - viewer.position;
      viewer.position = begin;
    }
    // How much it is may change until some of it has been sent.
    const std::string notice = viewer.notice.empty() && viewer.missed != 0
                                   ? absl::StrCat("\r\n[", viewer.missed, " bytes are left out here]\r\n")
                                   : viewer.notice;
    const absl::string_view next =
        notice.empty() ? absl::string_view(backlog_).substr(viewer.position - begin) : absl::string_view(notice);
    if (next.empty()) return true;
    const ssize_t sent = send(viewer.fd, next.data(), next.size(), MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN || errno == EINTR;
    if (notice.empty()) {
      viewer.position += static_cast<uint64_t>(sent);
    } else {
      if (viewer.notice.empty()) viewer.missed = 0;
      viewer.notice = notice.substr(static_cast<size_t>(sent));
    }
  }
}

void ConsoleViewers::Drop(uint64_t id) {
  const auto at = viewers_.find(id);
  if (at->second.watched != 0) loop_.Unwatch(at->second.fd);
  close(at->second.fd);
  viewers_.erase(at);
}

}  // namespace hvsdk::vmm
