// SPDX-License-Identifier: Apache-2.0
// Lost pages of guest memory become machine checks of the guest that they belong to, in place of the end of this process.
//
// A program that wants that says so once: it takes a handler for SIGBUS. Whoever touches a lost page then finds zeros there, and the page's
// engine is told (base/lost_memory.h), which reports a machine check to the guest before its processor does anything else of consequence
// (docs/failures.md). A SIGBUS of other memory goes where it went before, to the handler that was there or to the end of the process.
//
//   if (const absl::Status status = os::HandleLostMemory(); !status.ok()) return status;
//
// Source: Linux sigaction(2), BUS_MCEERR_AR, BUS_ADRERR; Documentation/mm/hwpoison.rst.

#ifndef HVSDK_OS_LOST_MEMORY_H_
#define HVSDK_OS_LOST_MEMORY_H_

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace hvsdk::os {

// Thread-safe; more than once is as good as once. Internal: the host refuses the handler.
absl::Status HandleLostMemory();

// Loses the page that begins at `page`, for tests of what follows: by the kernel's own injection (MADV_HWPOISON: CAP_SYS_ADMIN, and a kernel
// with CONFIG_MEMORY_FAILURE), which takes it from the host for good. Where that is not allowed, and not `by_kernel_alone`, by a mapping
// of a file that has ended, which a KVM does not tell its user of (docs/failures.md).
// FailedPrecondition: the kernel does not do it.
absl::Status LosePage(uint8_t* page, bool by_kernel_alone = false);

}  // namespace hvsdk::os

#endif  // HVSDK_OS_LOST_MEMORY_H_
