// SPDX-License-Identifier: Apache-2.0
#include "files.h"

#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"

namespace mini_vmm {
namespace {

using hvsdk::vmm::MachineConfig;

struct Role {
  std::string flag;
  dev_t device;
  ino_t inode;
  bool written;
};

// A file that is written has no other role: a trace would destroy the disk or the kernel that it is.
absl::Status CheckRoles(const Flags& flags) {
  const MachineConfig& config = flags.config;
  std::vector<Role> roles;
  absl::Status status;
  const auto add = [&](absl::string_view name, const std::string& path, bool written) {
    struct stat info;
    if (path.empty() || stat(path.c_str(), &info) != 0 || !(S_ISREG(info.st_mode) || S_ISBLK(info.st_mode))) return;
    // A block device may have several names.
    const bool is_device = S_ISBLK(info.st_mode);
    Role role{absl::StrCat("--", name, "=", path), is_device ? info.st_rdev : info.st_dev, is_device ? 0 : info.st_ino,
              written};
    for (const Role& other : roles) {
      if (role.device == other.device && role.inode == other.inode && (role.written || other.written)) {
        status.Update(absl::InvalidArgumentError(absl::StrCat(role.flag, ": the same file as ", other.flag)));
      }
    }
    roles.push_back(std::move(role));
  };
  add("config", flags.config_path, false);
  add("kernel", config.kernel(), false);
  add("initrd", config.initrd(), false);
  for (const hvsdk::vmm::DiskConfig& disk : config.disks()) add("disk", disk.path(), !disk.read_only());
  add("serial", config.serial().file(), true);
  add("trace", config.trace(), true);
  return status;
}

// A line for the user, from a disk's thread: not at the price of the disk, should nobody read standard error.
void Tell(const absl::Status& status) {
  pollfd room = {.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
  if (poll(&room, 1, /*timeout=*/1000) != 1) return;
  const std::string line = absl::StrCat("mini_vmm: --disk: ", status.message(), "\n");
  (void)!write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace

absl::Status FileError(absl::string_view what, const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return absl::InvalidArgumentError(absl::StrCat(what, ": ", status.message()));
    default:
      return absl::Status(status.code(), absl::StrCat(what, ": ", status.message()));
  }
}

absl::Status OpenFiles(const Flags& flags, Files& files) {
  const MachineConfig& config = flags.config;
  auto kernel = hvsdk::vmm::OpenFileSource(config.kernel());
  if (!kernel.ok()) return FileError(absl::StrCat("--kernel=", config.kernel()), kernel.status());
  files.kernel = *std::move(kernel);
  if (!config.initrd().empty()) {
    auto initrd = hvsdk::vmm::OpenFileSource(config.initrd());
    if (!initrd.ok()) return FileError(absl::StrCat("--initrd=", config.initrd()), initrd.status());
    files.initrd = *std::move(initrd);
  }
  if (!config.serial().file().empty()) {
    const absl::Status opened = files.serial.Open(config.serial().file());
    if (!opened.ok()) return FileError(absl::StrCat("--serial=", config.serial().file()), opened);
  }
  if (!config.trace().empty()) {
    const absl::Status opened = files.trace.Open(config.trace());
    if (!opened.ok()) return FileError(absl::StrCat("--trace=", config.trace()), opened);
  }
  // Now that all that is not there yet was made, and before disks are locked.
  if (absl::Status status = CheckRoles(flags); !status.ok()) return status;
  if (config.disks_size() == 0) return absl::OkStatus();
  const auto engine = hvsdk::FileEngine::Create(hvsdk::FileEngineKind::kAuto);
  if (!engine.ok()) return absl::InternalError(absl::StrCat("--disk: ", engine.status().message()));
  for (const hvsdk::vmm::DiskConfig& wanted : config.disks()) {
    auto disk =
        hvsdk::RawDisk::Open(wanted.path(), {.read_only = wanted.read_only(), .on_writes_lost = &Tell}, *engine);
    if (!disk.ok()) return FileError("--disk", disk.status());
    files.disks.push_back(*std::move(disk));
  }
  return absl::OkStatus();
}

}  // namespace mini_vmm
