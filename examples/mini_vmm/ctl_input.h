// SPDX-License-Identifier: Apache-2.0
// The commands of mini_vmm ctl that type and point: type, key and mouse.

#ifndef MINI_VMM_CTL_INPUT_H_
#define MINI_VMM_CTL_INPUT_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "hvsdk/vmm/control.pb.h"

namespace mini_vmm {

inline constexpr absl::string_view kTypeArguments = "TEXT [--enter] [--layout=NAME] [--unicode]";
inline constexpr absl::string_view kKeyArguments = "NAME[-NAME]... [--press|--release] [--layout=NAME]";
inline constexpr absl::string_view kMouseArguments =
    "X,Y[,left|right|middle|back|forward]...[,wheel=N][,pan=N] [--click]";

// Errors are a line without the command's name.
absl::Status ParseType(absl::Span<const std::string> words, hvsdk::vmm::TypeRequest& request);
absl::Status ParseKey(absl::Span<const std::string> words, hvsdk::vmm::TypeRequest& request);
absl::Status ParseMouse(absl::Span<const std::string> words, hvsdk::vmm::ControlRequest& request);

void PrintInput(const hvsdk::vmm::InputStatus& input);

}  // namespace mini_vmm

#endif  // MINI_VMM_CTL_INPUT_H_
