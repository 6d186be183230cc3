// SPDX-License-Identifier: Apache-2.0
// What whoever waits for a guest's driver is told when its channel closes.

#ifndef HVSDK_SRC_VSP_WHY_CLOSED_H_
#define HVSDK_SRC_VSP_WHY_CLOSED_H_

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "hvsdk/vmbus/channel.h"

namespace hvsdk::vsp {

// In ChannelHandler::OnClose. Cancelled: the machine was reset. FailedPrecondition: the guest has closed it.
inline absl::Status WhyClosed(const vmbus::Channel& channel, absl::string_view driver = "the guest's driver") {
  if (channel.is_reset()) return absl::CancelledError("the machine was reset");
  return absl::FailedPreconditionError(absl::StrCat(driver, " has gone"));
}

}  // namespace hvsdk::vsp

#endif  // HVSDK_SRC_VSP_WHY_CLOSED_H_
