// SPDX-License-Identifier: Apache-2.0
// What mini_vmm says on standard error. A terminal that nobody reads holds up nothing, least of all the end.

#ifndef HVSDK_EXAMPLES_MINI_VMM_MESSAGES_H_
#define HVSDK_EXAMPLES_MINI_VMM_MESSAGES_H_

#include "absl/strings/string_view.h"

namespace mini_vmm {

// "mini_vmm: " and one line, whatever bytes the user's names have.
void Say(absl::string_view message);

// Text as it is.
void SayText(absl::string_view text);

// Before the program ends: waits until all was read, at most a quarter of a second.
void FinishMessages();

}  // namespace mini_vmm

#endif  // HVSDK_EXAMPLES_MINI_VMM_MESSAGES_H_
