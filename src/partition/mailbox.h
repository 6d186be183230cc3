// SPDX-License-Identifier: Apache-2.0
// Mailbox: work that other threads want done on a VP's thread.
//
// Who waits for an answer serves its own mailbox meanwhile; so VPs that ask each other at once, in any circle, all get
// their answers. A VP without a thread has its work done by whoever asks, one at a time.
//
// Thread-safe. No lock is held while work runs. Items live on their askers' stacks: nothing is allocated.

#ifndef HVSDK_SRC_PARTITION_MAILBOX_H_
#define HVSDK_SRC_PARTITION_MAILBOX_H_

#include <condition_variable>
#include <mutex>

#include "absl/functional/function_ref.h"

namespace hvsdk::partition {

class Mailbox {
 public:
  // The thread of the VP begins and ends. Open waits for an asker that does work in its place; Close does what
  // is queued.
  void Open();
  void Close();

  // Does what is queued; on the VP's thread.
  void Serve();

  // Gets `work` done by the owner, and waits for it. `own` is the asker's mailbox, or one made for the occasion. `kick`
  // makes the owner call Serve soon.
  void Ask(Mailbox& own, absl::FunctionRef<void()> work, absl::FunctionRef<void()> kick);

 private:
  struct Item {
    absl::FunctionRef<void()> work;
    Mailbox& asker;
    bool done = false;  // guarded by the asker's mutex
    Item* next = nullptr;
  };
  enum class Owner { kNone, kAsker, kThread };

  void ServeLocked(std::unique_lock<std::mutex>& lock);

  std::mutex mutex_;
  std::condition_variable changed_;
  Owner owner_ = Owner::kNone;
  Item* first_ = nullptr;
  Item* last_ = nullptr;
};

}  // namespace hvsdk::partition

#endif  // HVSDK_SRC_PARTITION_MAILBOX_H_
