// SPDX-License-Identifier: Apache-2.0
// Transcript: a record of what went through a ServerCore, as text that a person can read, a test can compare and a
// program can replay. One line each:
//
//   > initiate-contact version=5.3 target_vp=0 target=0x2     a message to the root
//   < version-response supported=1 state=0 connection=4       a message to the child
//   ! add-offer id=1 class=ba6163d9-... instance=...          an act of the host
//   @ open id=1 channel=1 gpadl=0xe1e10 downstream=4 vp=0     a notice for the host
//   # anything                                                a comment
//
// Numbers are decimal or, with 0x, hexadecimal; a field that is left out is zero. A message that its fields cannot
// express in full (unknown type, odd length, bytes set where they are reserved) is written `raw` with its bytes in
// hexadecimal, so every message of up to 240 bytes comes back as it was.
//
// Thread-compatible.

#ifndef HVSDK_VMBUS_TRANSCRIPT_H_
#define HVSDK_VMBUS_TRANSCRIPT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/vmbus/server_core.h"

namespace hvsdk::vmbus {

// A channel message as "name field=value ...", without the direction.
std::string FormatMessage(absl::Span<const uint8_t> message);

// The reverse. InvalidArgument says what is wrong with the text.
absl::StatusOr<std::vector<uint8_t>> ParseMessage(absl::string_view text);

// Writes down what a ServerCore is given and gives: core.SetListener(&transcript).
class Transcript : public ServerCoreListener {
 public:
  const std::string& text() const { return text_; }
  void Clear() { text_.clear(); }

  void OnToRoot(absl::Span<const uint8_t> message) override;
  void OnToChild(absl::Span<const uint8_t> message) override;
  void OnHostAct(const HostAct& act) override;
  void OnNotice(const Notice& notice) override;

 private:
  std::string text_;
};

// Carries out the `>` and `!` lines of a transcript on a new ServerCore, and answers the transcript of that, which is
// the same (comments aside) if nothing has changed. InvalidArgument names the line that is wrong or out of order.
absl::StatusOr<std::string> ReplayTranscript(absl::string_view text, GuestMemory& memory, const ServerOptions& options);

}  // namespace hvsdk::vmbus

#endif  // HVSDK_VMBUS_TRANSCRIPT_H_
