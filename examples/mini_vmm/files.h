// SPDX-License-Identifier: Apache-2.0
// The files that a machine uses.

#ifndef HVSDK_EXAMPLES_MINI_VMM_FILES_H_
#define HVSDK_EXAMPLES_MINI_VMM_FILES_H_

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "flags.h"
#include "hvsdk/base/block_device.h"
#include "hvsdk/vmm/byte_source.h"
#include "output_file.h"

namespace mini_vmm {

struct Files {
  std::unique_ptr<hvsdk::vmm::ByteSource> kernel, initrd;  // no initrd: null
  OutputFile serial, trace;                                // open if there is such a file
  std::vector<std::shared_ptr<hvsdk::BlockDevice>> disks;
};

// Opens what the flags name. InvalidArgument: a file that cannot be opened, or that would be written in one role and used in
// another. Others: the host failed. The message is one line that names the flag and the file.
absl::Status OpenFiles(const Flags& flags, Files& files);

}  // namespace mini_vmm

#endif  // HVSDK_EXAMPLES_MINI_VMM_FILES_H_
