// SPDX-License-Identifier: Apache-2.0
// What a program's start alone has needed of its files.

#ifndef HVSDK_EXAMPLES_MINI_VMM_START_PAGES_H_
#define HVSDK_EXAMPLES_MINI_VMM_START_PAGES_H_

namespace mini_vmm {

// Lets go of all pages of the program and its libraries that are as they are in their files: flags, configuration and loaders are not wanted any
// more, and around each page that was touched Linux has mapped 64 KiB. What is wanted comes again from the page cache. Pages that a debugger or a
// probe has written to stay.
void LetGoOfStart();

}  // namespace mini_vmm

#endif  // HVSDK_EXAMPLES_MINI_VMM_START_PAGES_H_
