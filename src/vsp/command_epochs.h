// SPDX-License-Identifier: Apache-2.0
// CommandEpochs: which commands of a disk began before a reset. A reset begins a new epoch, and has been obeyed when
// all commands of the epochs before have ended; those that came later do not hold it up.
//
//   const uint64_t epoch = epochs.Begin();             // a command
//   const uint64_t reset = epochs.BeginNext();
//   epochs.End(epoch);  ... epochs.HasBegun(reset)     // nothing is left from before

#ifndef HVSDK_SRC_VSP_COMMAND_EPOCHS_H_
#define HVSDK_SRC_VSP_COMMAND_EPOCHS_H_

#include <cstddef>
#include <cstdint>
#include <deque>

namespace hvsdk::vsp {

class CommandEpochs {
 public:
  // A command begins. Answers its epoch.
  uint64_t Begin() {
    ++counts_.back();
    return Latest();
  }
  void End(uint64_t epoch) {
    --counts_[static_cast<size_t>(epoch - first_)];
    while (counts_.size() > 1 && counts_.front() == 0) counts_.pop_front(), ++first_;
  }
  // Answers the epoch of the commands to come. An epoch without commands serves again, so there are never more
  // than commands.
  uint64_t BeginNext() {
    if (counts_.back() != 0) counts_.push_back(0);
    return Latest();
  }
  // Whether all commands of earlier epochs have ended.
  bool HasBegun(uint64_t epoch) const { return first_ >= epoch; }
  bool is_idle() const { return counts_.size() == 1 && counts_.front() == 0; }

 private:
  uint64_t Latest() const { return first_ + counts_.size() - 1; }

  uint64_t first_ = 0;              // the oldest epoch with commands, or the only one
  std::deque<uint32_t> counts_{0};  // commands under way, of that one and those behind it
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_SRC_VSP_COMMAND_EPOCHS_H_
