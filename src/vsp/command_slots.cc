// SPDX-License-Identifier: Apache-2.0
#include "vsp/command_slots.h"

#include <set>

namespace hvsdk::vsp {
namespace {

thread_local const CommandSlots* t_looking = nullptr;

}  // namespace

CommandSlots::Looking::Looking(const CommandSlots& slots) { t_looking = &slots; }
CommandSlots::Looking::~Looking() { t_looking = nullptr; }

CommandSlots::CommandSlots(uint32_t count, StorageChannel& channel, Executor& executor, Task& task)
    : executor_(executor), slots_(std::make_unique<CommandSlot[]>(count)), task_(&task) {
  for (uint32_t i = count; i-- > 0;) {
    slots_[i].slots = this;
    slots_[i].channel = &channel;
    slots_[i].on_complete = &OnComplete;
    Free(slots_[i]);
  }
}

CommandSlot* CommandSlots::TakeCompleted() {
  // Sequentially consistent, for the look that follows SetExpected(false).
  if (completed_.load(std::memory_order_seq_cst) == nullptr) return nullptr;
  CommandSlot* newest = completed_.exchange(nullptr, std::memory_order_acquire);  // pairs with the push in OnComplete
  CommandSlot* oldest = nullptr;
  while (newest != nullptr) {
    CommandSlot* const next = newest->next;
    newest->next = oldest;
    oldest = newest;
    newest = next;
    --at_disks_;
  }
  return oldest;
}

void CommandSlots::OnComplete(BlockRequest& request, BlockStatus status) {
  auto& slot = static_cast<CommandSlot&>(request);
  CommandSlots& self = *slot.slots;
  slot.outcome = status;
  // Whoever puts the first one into an empty list sees to it that somebody looks. As soon as the slot is in the list,
  // the executor may take it and let go of all this.
  const bool is_looking = t_looking == &self;
  std::shared_ptr<CommandSlots> hold;
  CommandSlot* head = self.completed_.load(std::memory_order_relaxed);
  do {
    if (head == nullptr && !is_looking && hold == nullptr) hold = self.shared_from_this();
    slot.next = head;
  } while (!self.completed_.compare_exchange_weak(head, &slot, std::memory_order_seq_cst, std::memory_order_relaxed));
  if (head != nullptr || is_looking) return;
  // Either this sees that nobody expects it any more, or the look that follows SetExpected(false) sees the slot.
  if (!hold->is_expected_.load(std::memory_order_seq_cst)) hold->Wake();
}

void CommandSlots::Wake() {
  // Let go of without the lock, and so is the memory.
  std::shared_ptr<CommandSlots> self;
  std::shared_ptr<const void> memory;
  std::vector<std::shared_ptr<BlockDevice>> disks;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (task_ != nullptr) {
      // Under the lock, because Disown waits for it: afterwards there may be no executor.
      executor_.Schedule(*task_);
      return;
    }
    Count();
    if (at_disks_ != 0) return;
    self = std::move(self_);
    memory = std::move(memory_);
    disks.swap(disks_);
    returned_.notify_all();
  }
  if (!disks.empty()) Retain(std::move(disks));
}

void CommandSlots::Count() {
  // Pairs with the push in OnComplete; as in TakeCompleted.
  for (CommandSlot* slot = completed_.exchange(nullptr, std::memory_order_seq_cst); slot != nullptr;
       slot = slot->next) {
    --at_disks_;
  }
}

// This is a disk's own thread, on which the disk cannot be destroyed: it would wait for itself. A disk that was given up and answers after
// all stays for good; whoever attached it may have it still.
void CommandSlots::Retain(std::vector<std::shared_ptr<BlockDevice>> disks) {
  static std::mutex mutex;
  static auto& retained = *new std::set<std::shared_ptr<BlockDevice>>;
  std::lock_guard<std::mutex> lock(mutex);
  retained.insert(disks.begin(), disks.end());
}

void CommandSlots::Disown(std::shared_ptr<const void> memory, std::vector<std::shared_ptr<BlockDevice>> disks) {
  std::unique_lock<std::mutex> lock(mutex_);
  task_ = nullptr;
  SetExpected(false);
  Count();
  if (at_disks_ == 0) return;
  if (memory == nullptr) {
    returned_.wait(lock, [this] { return at_disks_ == 0; });
    return;
  }
  self_ = shared_from_this();
  memory_ = std::move(memory);
  disks_ = std::move(disks);
}

}  // namespace hvsdk::vsp
