// SPDX-License-Identifier: Apache-2.0
// A message's text must be text: protobuf writes what is not, and reads it never again.

#ifndef HVSDK_SRC_VMM_TEXT_FIELDS_H_
#define HVSDK_SRC_VMM_TEXT_FIELDS_H_

#include <google/protobuf/message.h>

#include "absl/status/status.h"

namespace hvsdk::vmm {

// InvalidArgument: names the first `string` field, of those within it, too, that is not UTF-8.
absl::Status CheckTextFields(const google::protobuf::Message& message);

}  // namespace hvsdk::vmm

#endif  // HVSDK_SRC_VMM_TEXT_FIELDS_H_
