// SPDX-License-Identifier: Apache-2.0
// The commands of mini_vmm ctl that are about the machine itself and its devices.

#ifndef MINI_VMM_CTL_MACHINE_H_
#define MINI_VMM_CTL_MACHINE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "ctl_screen.h"
#include "hvsdk/vmm/control.pb.h"

namespace mini_vmm {

// What the words of a command come to: what the machine is asked, and how its answer is shown.
struct Asked {
  hvsdk::vmm::ControlRequest request;
  bool json = false, prometheus = false;
  bool watch = false;  // again and again
  ScreenText screen_text;
};

// The words behind a command's name; `arguments` is what it takes, as its help has it. An error is a line without the command's name.
using Parse = absl::Status (*)(absl::Span<const std::string> words, absl::string_view arguments, Asked& asked);

absl::Status ParseNothing(absl::Span<const std::string> words, absl::string_view arguments, Asked& asked);
absl::Status ParseStatus(absl::Span<const std::string> words, absl::string_view arguments, Asked& asked);
absl::Status ParseStats(absl::Span<const std::string> words, absl::string_view arguments, Asked& asked);
absl::Status ParseEvents(absl::Span<const std::string> words, absl::string_view arguments, Asked& asked);
absl::Status ParseShutdown(absl::Span<const std::string> words, absl::string_view arguments, Asked& asked);
absl::Status ParseBalloon(absl::Span<const std::string> words, absl::string_view arguments, Asked& asked);
absl::Status ParseNmi(absl::Span<const std::string> words, absl::string_view arguments, Asked& asked);
absl::Status ParseLosePage(absl::Span<const std::string> words, absl::string_view arguments, Asked& asked);
absl::Status ParseSave(absl::Span<const std::string> words, absl::string_view arguments, Asked& asked);
absl::Status ParseAttach(absl::Span<const std::string> words, absl::string_view arguments, Asked& asked);
absl::Status ParseDetach(absl::Span<const std::string> words, absl::string_view arguments, Asked& asked);
absl::Status ParseInsert(absl::Span<const std::string> words, absl::string_view arguments, Asked& asked);
absl::Status ParseEject(absl::Span<const std::string> words, absl::string_view arguments, Asked& asked);
absl::Status ParseTrace(absl::Span<const std::string> words, absl::string_view arguments, Asked& asked);
// screenshot and dump: a file.
absl::Status ParseFile(absl::Span<const std::string> words, absl::string_view arguments, Asked& asked);
absl::Status ParseRecord(absl::Span<const std::string> words, absl::string_view arguments, Asked& asked);

}  // namespace mini_vmm

#endif  // MINI_VMM_CTL_MACHINE_H_
