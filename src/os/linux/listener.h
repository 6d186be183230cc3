// SPDX-License-Identifier: Apache-2.0
// Listener: takes connections at an address of this host's, on a loop, also in a process whose descriptors are used up: one that stays in the
// queue would be told of for ever, so it is turned away, by a descriptor that is kept for that.
//
// Thread class: the loop's thread, or while it does not run.

#ifndef HVSDK_SRC_OS_LINUX_LISTENER_H_
#define HVSDK_SRC_OS_LINUX_LISTENER_H_

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hvsdk/os/event_loop.h"
#include "os/linux/local_address.h"
#include "os/linux/unix_socket.h"

namespace hvsdk::os {

class Listener {
 public:
  // `on_connection` has each connection, which does not block and is closed at exec, for its own. The loop outlives it. FailedPrecondition,
  // AlreadyExists and others: the address is taken, or the host refuses.
  static absl::StatusOr<std::unique_ptr<Listener>> Open(EventLoop& loop, LocalAddress address,
                                                        std::function<void(int fd)> on_connection);
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  // With the port that was free, if it was to be any.
  const LocalAddress& address() const { return address_; }

 private:
  Listener(EventLoop& loop, LocalAddress address, std::function<void(int fd)> on_connection);
  absl::Status Listen();
  void Accept();

  EventLoop& loop_;
  LocalAddress address_;
  const std::function<void(int fd)> on_connection_;
  UnixSocketFile file_;
  int fd_ = -1;
  bool is_watched_ = false;
  int spare_fd_;
};

}  // namespace hvsdk::os

#endif  // HVSDK_SRC_OS_LINUX_LISTENER_H_
