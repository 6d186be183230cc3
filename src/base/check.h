// SPDX-License-Identifier: Apache-2.0
// HVSDK_CHECK: ends the program on a bug of ours, and only on that. What a guest sends becomes an HvStatus or a
// fault, and what the host refuses becomes an absl::Status; neither may ever reach a check.

#ifndef HVSDK_SRC_BASE_CHECK_H_
#define HVSDK_SRC_BASE_CHECK_H_

#include <cstdio>
#include <cstdlib>

namespace hvsdk::internal {

[[noreturn, gnu::cold]] inline void CheckFailed(const char* expression, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: check failed: %s\n", file, line, expression);
  std::abort();
}

}  // namespace hvsdk::internal

#define HVSDK_CHECK(condition) \
  (__builtin_expect(!!(condition), 1) ? (void)0 : ::hvsdk::internal::CheckFailed(#condition, __FILE__, __LINE__))

#endif  // HVSDK_SRC_BASE_CHECK_H_
