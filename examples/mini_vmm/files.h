// SPDX-License-Identifier: Apache-2.0
// The files that a machine uses.

#ifndef HVSDK_EXAMPLES_MINI_VMM_FILES_H_
#define HVSDK_EXAMPLES_MINI_VMM_FILES_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "flags.h"
#include "hvsdk/boot/byte_source.h"
#include "hvsdk/image/image_disk.h"
#include "hvsdk/os/file_engine.h"
#include "hvsdk/vmm/output_file.h"

namespace mini_vmm {

struct Files {
  std::unique_ptr<hvsdk::boot::ByteSource> kernel, initrd;  // no initrd: null
  absl::Status missing;                              // of a restored machine without them, why: it cannot start again
  hvsdk::vmm::OutputFile serial, trace, screenshot;  // open if there is such a file
  std::vector<std::shared_ptr<hvsdk::ImageDisk>> disks;  // those of the configuration
  std::shared_ptr<hvsdk::FileEngine> engine;             // theirs, once there has been one
};

// Opens what the flags name. InvalidArgument: a file that is not there, not ours to open, in use, or that would be
// written in one role and used in another. Others: the host failed. The message is one line that names the flag and the
// file. What happens to a disk later, of which the user must know, is a line on standard error.
absl::Status OpenFiles(const Flags& flags, Files& files);

// Opens one more of `config`'s disks, its last, in the same way; it is not among `files.disks` by that.
absl::StatusOr<std::shared_ptr<hvsdk::ImageDisk>> OpenLastDisk(const std::string& config_path,
                                                               const hvsdk::vmm::MachineConfig& config, Files& files);

// A file that is written has no other role among what `config` names: a trace would destroy the disk or the kernel that it is.
// InvalidArgument.
absl::Status CheckRoles(const std::string& config_path, const hvsdk::vmm::MachineConfig& config);

// Opens a file for a trace of the running machine, which it commits to.
absl::Status OpenTrace(const std::string& config_path, const hvsdk::vmm::MachineConfig& config, const std::string& path,
                       hvsdk::vmm::OutputFile& file);

// What happens to a disk later, of which the user must know: a line on standard error. On any thread.
void TellOfDisk(const absl::Status& status);

// Opens a file for a picture, which keeps what it has until it is written.
absl::Status OpenScreenshot(const std::string& config_path, const hvsdk::vmm::MachineConfig& config,
                            const std::string& path, hvsdk::vmm::OutputFile& file);

// Each disk's size and when it was last written, for a state that is saved now; `settle`: all that was written is on its medium then.
absl::Status DescribeDisks(const Files& files, bool settle, hvsdk::vmm::SavedConfig& saved);

// An error with a file that the user named: a mistake, which another file mends, becomes InvalidArgument; the host's
// failures stay what they are. `what` stands before the message.
absl::Status FileError(absl::string_view what, const absl::Status& status);

}  // namespace mini_vmm

#endif  // HVSDK_EXAMPLES_MINI_VMM_FILES_H_
