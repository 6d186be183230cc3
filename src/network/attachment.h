// SPDX-License-Identifier: Apache-2.0
// Attachment: a port's client, told of things by any thread until it is detached. Thread-safe.
//
//   attachment_.Tell([](NetworkPortClient& client) { client.OnFrames(0); });

#ifndef HVSDK_SRC_NETWORK_ATTACHMENT_H_
#define HVSDK_SRC_NETWORK_ATTACHMENT_H_

#include <condition_variable>
#include <mutex>

#include "absl/status/status.h"
#include "hvsdk/resource/network_port.h"

namespace hvsdk::network {

class Attachment {
 public:
  // FailedPrecondition: there is a client.
  absl::Status Attach(NetworkPortClient& client) {
    std::lock_guard lock(mutex_);
    if (client_ != nullptr) return absl::FailedPreconditionError("the network port has a client already");
    client_ = &client;
    return absl::OkStatus();
  }

  // Waits for those who are telling it something.
  void Detach() {
    std::unique_lock lock(mutex_);
    client_ = nullptr;
    told_.wait(lock, [this] { return telling_ == 0; });
  }

  bool has_client() const {
    std::lock_guard lock(mutex_);
    return client_ != nullptr;
  }

  // Calls `tell` with the client, if there is one, and without a lock.
  template <typename F>
  void Tell(F tell) {
    NetworkPortClient* client;
    {
      std::lock_guard lock(mutex_);
      client = client_;
      if (client == nullptr) return;
      ++telling_;
    }
    tell(*client);
    std::lock_guard lock(mutex_);
    if (--telling_ == 0) told_.notify_all();
  }

 private:
  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable told_;
  NetworkPortClient* client_ = nullptr;
  int telling_ = 0;
};

}  // namespace hvsdk::network

#endif  // HVSDK_SRC_NETWORK_ATTACHMENT_H_
