// SPDX-License-Identifier: Apache-2.0
// The files that a machine uses.

#ifndef HVSDK_EXAMPLES_MINI_VMM_FILES_H_
#define HVSDK_EXAMPLES_MINI_VMM_FILES_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "flags.h"
#include "hvsdk/block_file/raw_disk.h"
#include "hvsdk/vmm/byte_source.h"
#include "output_file.h"

namespace mini_vmm {

struct Files {
  std::unique_ptr<hvsdk::vmm::ByteSource> kernel, initrd;  // no initrd: null
  OutputFile serial, trace;                                // open if there is such a file
  std::vector<std::shared_ptr<hvsdk::RawDisk>> disks;
};

// Opens what the flags name. InvalidArgument: a file that is not there, not ours to open, in use, or that would be
// written in one role and used in another. Others: the host failed. The message is one line that names the flag and the
// file. What happens to a disk later, of which the user must know, is a line on standard error.
absl::Status OpenFiles(const Flags& flags, Files& files);

// An error with a file that the user named: a mistake, which another file mends, becomes InvalidArgument; the host's
// failures stay what they are. `what` stands before the message.
absl::Status FileError(absl::string_view what, const absl::Status& status);

}  // namespace mini_vmm

#endif  // HVSDK_EXAMPLES_MINI_VMM_FILES_H_
