// SPDX-License-Identifier: Apache-2.0
// The commands of mini_vmm ctl that read what the guest's console says: screen-text and wait-for-text.

#ifndef MINI_VMM_CTL_SCREEN_H_
#define MINI_VMM_CTL_SCREEN_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "hvsdk/vmm/control_server.h"

namespace mini_vmm {

inline constexpr absl::string_view kScreenTextArguments = "[--font=FILE]";
inline constexpr absl::string_view kWaitForTextArguments = "TEXT [--timeout=SECONDS] [--font=FILE]";

struct ScreenText {
  std::string wanted;  // empty: whatever there is
  uint32_t timeout_seconds = 60;
};

// Errors are a line without the command's name.
absl::Status ParseScreenText(absl::Span<const std::string> words, bool waits, ScreenText& options,
                             hvsdk::vmm::ControlRequest& request);

// Prints what the console says, or the line that was waited for. DeadlineExceeded: it did not come. Others: of the client or the machine.
absl::Status PrintScreenText(hvsdk::vmm::ControlClient& client, const ScreenText& options,
                             const hvsdk::vmm::ControlRequest& request);

}  // namespace mini_vmm

#endif  // MINI_VMM_CTL_SCREEN_H_
