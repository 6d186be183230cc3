// SPDX-License-Identifier: Apache-2.0
#include "machine/socket_part.h"

#include "base/status_macros.h"

namespace hvsdk::machine {

absl::Status SocketPart::Attach(Board& board) {
  if (board.is_deterministic()) return absl::UnimplementedError("a deterministic machine has no sockets");
  ASSIGN_OR_RETURN(
      provider_,
      vsp::SocketProvider::Create(
          board.vmbus(), {.executor = board.loop(), .timers = board.timers(), .clock = board.clock()}, options_));
  return absl::OkStatus();
}

}  // namespace hvsdk::machine
