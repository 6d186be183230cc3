// SPDX-License-Identifier: Apache-2.0
// mini_vmm ctl PATH exec: a command in the guest, by its agent (examples/guest_agent), with this process' input, output and signals.

#ifndef MINI_VMM_CTL_EXEC_H_
#define MINI_VMM_CTL_EXEC_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace mini_vmm {

inline constexpr absl::string_view kExecArguments = "[--] COMMAND [ARGUMENT]...";

// What is run, of the words behind exec.
absl::StatusOr<absl::Span<const std::string>> ParseExec(absl::Span<const std::string> words);

// Runs it by the machine's sockets at that path (hvsdk/network/unix_sockets.h). Returns the exit status for this process: the command's, or 128 + N if
// signal N ended this one's part. Unavailable: there is no agent, or it has gone.
absl::StatusOr<int> RunExec(const std::string& sockets_path, absl::Span<const std::string> arguments);

}  // namespace mini_vmm

#endif  // MINI_VMM_CTL_EXEC_H_
