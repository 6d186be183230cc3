// SPDX-License-Identifier: Apache-2.0
// A GUID as text, for messages. Private to the libraries' sources.

#ifndef HVSDK_SRC_BASE_GUID_TEXT_H_
#define HVSDK_SRC_BASE_GUID_TEXT_H_

#include <string>

#include "hvsdk/hvdef/guid.h"

namespace hvsdk {

// "ba6163d9-04a1-4d29-b605-72e2ffb1dc7f"
inline std::string GuidText(const hvdef::Guid& guid) {
  char text[hvdef::kGuidTextSize];
  hvdef::FormatGuid(guid, text);
  return std::string(text, sizeof(text));
}

}  // namespace hvsdk

#endif  // HVSDK_SRC_BASE_GUID_TEXT_H_
