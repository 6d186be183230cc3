// SPDX-License-Identifier: Apache-2.0
#include "machine/video_part.h"

#include "base/status_macros.h"

namespace hvsdk::machine {

absl::Status VideoPart::Attach(Board& board) {
  if (board.is_deterministic()) return absl::UnimplementedError("a deterministic machine has no video");
  const boot::GpaRange& vram = board.layout().video;
  ASSIGN_OR_RETURN(
      video_,
      vsp::Video::Create(board.vmbus(), board.memory(), board.loop(),
                         {.vram = {vram.gpa, vram.size_bytes}, .width = options_.width, .height = options_.height}));
  return absl::OkStatus();
}

}  // namespace hvsdk::machine
