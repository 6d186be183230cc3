// SPDX-License-Identifier: Apache-2.0
#include "partition/mailbox.h"

namespace hvsdk::partition {

void Mailbox::Open() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return owner_ == Owner::kNone; });
  owner_ = Owner::kThread;
}

void Mailbox::Close() {
  std::unique_lock lock(mutex_);
  ServeLocked(lock);
  owner_ = Owner::kNone;
  changed_.notify_all();
}

void Mailbox::Serve() {
  std::unique_lock lock(mutex_);
  ServeLocked(lock);
}

void Mailbox::ServeLocked(std::unique_lock<std::mutex>& lock) {
  while (first_ != nullptr) {
    Item& item = *first_;
    first_ = item.next;
    if (first_ == nullptr) last_ = nullptr;
    lock.unlock();
    item.work();
    {
      // Notified under the lock: once the asker sees `done`, the item and perhaps its mailbox are gone.
      std::lock_guard asker_lock(item.asker.mutex_);
      item.done = true;
      item.asker.changed_.notify_all();
    }
    lock.lock();
  }
}

void Mailbox::Ask(Mailbox& own, absl::FunctionRef<void()> work, absl::FunctionRef<void()> kick) {
  Item item{work, own};
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return owner_ != Owner::kAsker; });
    if (owner_ == Owner::kNone) {
      owner_ = Owner::kAsker;
      lock.unlock();
      work();
      lock.lock();
      owner_ = Owner::kNone;
      changed_.notify_all();
      return;
    }
    (last_ == nullptr ? first_ : last_->next) = &item;
    last_ = &item;
  }
  kick();
  std::unique_lock lock(own.mutex_);
  while (!item.done) {
    if (own.first_ != nullptr) {
      own.ServeLocked(lock);
    } else {
      own.changed_.wait(lock);
    }
  }
}

}  // namespace hvsdk::partition
