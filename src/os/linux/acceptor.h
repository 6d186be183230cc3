// SPDX-License-Identifier: Apache-2.0
// Acceptor: takes connections from a socket that listens, also in a process whose descriptors are used up: one that stays in the queue would
// be told of for ever, so it is turned away, by a descriptor that is kept for that.
//
// Thread-compatible.

#ifndef HVSDK_SRC_OS_LINUX_ACCEPTOR_H_
#define HVSDK_SRC_OS_LINUX_ACCEPTOR_H_

namespace hvsdk::os {

class Acceptor {
 public:
  Acceptor();
  ~Acceptor();
  Acceptor(const Acceptor&) = delete;
  Acceptor& operator=(const Acceptor&) = delete;

  // The next connection of `listen_fd`'s, which does not block and is closed at exec. -1: there is none now, or it has been turned away.
  int Accept(int listen_fd);

 private:
  int spare_fd_;
};

}  // namespace hvsdk::os

#endif  // HVSDK_SRC_OS_LINUX_ACCEPTOR_H_
