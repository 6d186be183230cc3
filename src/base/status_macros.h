// SPDX-License-Identifier: Apache-2.0
// RETURN_IF_ERROR and ASSIGN_OR_RETURN, which Debian 12's Abseil does not have. Private to the library's sources.

#ifndef HVSDK_SRC_BASE_STATUS_MACROS_H_
#define HVSDK_SRC_BASE_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define RETURN_IF_ERROR(expression)                                   \
  do {                                                                \
    absl::Status hvsdk_status = (expression);                         \
    if (__builtin_expect(!hvsdk_status.ok(), 0)) return hvsdk_status; \
  } while (false)

#define HVSDK_CONCAT_INNER(a, b) a##b
#define HVSDK_CONCAT(a, b) HVSDK_CONCAT_INNER(a, b)

#define ASSIGN_OR_RETURN(declaration, expression) \
  HVSDK_ASSIGN_OR_RETURN_INNER(HVSDK_CONCAT(hvsdk_status_or_, __LINE__), declaration, expression)
#define HVSDK_ASSIGN_OR_RETURN_INNER(temporary, declaration, expression)          \
  auto temporary = (expression);                                                  \
  if (__builtin_expect(!temporary.ok(), 0)) return std::move(temporary).status(); \
  declaration = *std::move(temporary)

#endif  // HVSDK_SRC_BASE_STATUS_MACROS_H_
