// SPDX-License-Identifier: Apache-2.0
// The commands of mini_vmm ctl that ask the guest itself: kvp, copy and snapshot.

#ifndef MINI_VMM_CTL_GUEST_H_
#define MINI_VMM_CTL_GUEST_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "hvsdk/vmm/control.pb.h"

namespace mini_vmm {

inline constexpr absl::string_view kKvpArguments =
    "list [--pool=POOL]|get KEY [--pool=POOL]|set KEY VALUE|delete KEY|addresses [ADAPTER]|"
    "set-addresses ADAPTER dhcp|ADDRESS/PREFIX... [--gateway=ADDRESS]... [--name-server=ADDRESS]..., with [--json]";
inline constexpr absl::string_view kCopyArguments = "SOURCE GUEST-PATH [--overwrite] [--create-path]";
inline constexpr absl::string_view kSnapshotArguments = "[--crash-consistent|--freeze-within=SECONDS] [--json] DIR";

// A word that a command does not take.
absl::Status Unexpected(absl::string_view word, absl::string_view arguments);

// Errors are a line without the command's name.
absl::Status ParseKvp(absl::Span<const std::string> words, hvsdk::vmm::KeyValueRequest& request, bool& json);
absl::Status ParseCopy(absl::Span<const std::string> words, hvsdk::vmm::CopyFileRequest& request);
absl::Status ParseSnapshot(absl::Span<const std::string> words, hvsdk::vmm::SnapshotRequest& request, bool& json);

// What comes from the guest is escaped: it goes to a terminal.
void PrintKeyValues(const hvsdk::vmm::KeyValueRequest& request, const hvsdk::vmm::KeyValues& values);

void PrintSnapshot(const hvsdk::vmm::SnapshotResult& result);

}  // namespace mini_vmm

#endif  // MINI_VMM_CTL_GUEST_H_
