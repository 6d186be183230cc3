// SPDX-License-Identifier: Apache-2.0
// What keeps a file's name: a file that is new, renamed or exchanged lasts over a loss of power once its folder is synced.

#ifndef HVSDK_SRC_OS_LINUX_FOLDER_H_
#define HVSDK_SRC_OS_LINUX_FOLDER_H_

#include <string>

#include "absl/strings/string_view.h"

namespace hvsdk::internal {

// That in which `path` names something: "." for a name alone.
std::string FolderOf(absl::string_view path);

// 0, or errno. A file system that cannot sync folders needs none of it.
int SyncFolder(const std::string& folder);

}  // namespace hvsdk::internal

#endif  // HVSDK_SRC_OS_LINUX_FOLDER_H_
