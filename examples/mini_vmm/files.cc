// SPDX-License-Identifier: Apache-2.0
#include "files.h"

#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "hvsdk/image/disk_image.h"

namespace mini_vmm {
namespace {

using hvsdk::vmm::MachineConfig;

struct Role {
  std::string flag;
  dev_t device;
  ino_t inode;
  bool written;
};

hvsdk::vmm::SavedDisk Describe(const hvsdk::ImageDisk& disk) {
  hvsdk::vmm::SavedDisk described;
  described.set_size_bytes(disk.info().size_bytes);
  struct stat info;
  if (stat(disk.path().c_str(), &info) == 0) {
    described.set_written_ns(int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec);
  }
  return described;
}

// By whatever name.
bool IsSameFile(const std::string& path, const std::string& other) {
  struct stat info, other_info;
  if (path == other) return true;
  if (stat(path.c_str(), &info) != 0 || stat(other.c_str(), &other_info) != 0) return false;
  return info.st_dev == other_info.st_dev && info.st_ino == other_info.st_ino;
}

// A guest goes on with the disks that it had: it has parts of them in its memory.
absl::Status CheckSavedDisks(const Flags& flags, const Files& files) {
  for (size_t i = 0; i < files.disks.size(); ++i) {
    // A disc that is another is told to the guest.
    if (flags.config.disks(static_cast<int>(i)).dvd()) continue;
    const hvsdk::vmm::SavedDisk now = Describe(*files.disks[i]), then = flags.saved.disks(static_cast<int>(i));
    const std::string name =
        absl::StrCat("--disk=storage/", flags.config.disks(static_cast<int>(i)).lun(), "=", files.disks[i]->path());
    if (now.size_bytes() != then.size_bytes()) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": has ", now.size_bytes(), " bytes, and ",
                                                     then.size_bytes(), " when the state was saved"));
    }
    // One that has moved, as by a copy, may have another time.
    const bool moved = !IsSameFile(flags.config.disks(static_cast<int>(i)).path(),
                                   flags.saved.machine().disks(static_cast<int>(i)).path());
    if (!moved && !flags.accept_changed_disks && now.written_ns() != then.written_ns()) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": was written since the state was saved; --changed-disks=accept takes it all the same"));
    }
  }
  return absl::OkStatus();
}

// FailedPrecondition: another has it.
absl::StatusOr<std::shared_ptr<hvsdk::ImageDisk>> OpenDisk(const hvsdk::vmm::DiskConfig& wanted, Files& files) {
  if (wanted.path().empty()) return std::shared_ptr<hvsdk::ImageDisk>();  // an empty drive
  if (files.engine == nullptr) {
    auto engine = hvsdk::FileEngine::Create(hvsdk::FileEngineKind::kAuto);
    if (!engine.ok()) return absl::InternalError(engine.status().message());
    files.engine = *std::move(engine);
  }
  hvsdk::ImageOptions options;
  options.read_only = wanted.read_only() || wanted.dvd();
  if (wanted.dvd()) options.format = hvsdk::ImageFormat::kRaw;
  options.on_failure = &TellOfDisk;
  if (!wanted.format().empty()) {
    const auto format = hvsdk::ParseImageFormat(wanted.format());
    if (!format.ok()) return format.status();
    options.format = *format;
  }
  return hvsdk::OpenImage(wanted.path(), options, files.engine);
}

absl::string_view FlagOf(const hvsdk::vmm::DiskConfig& disk) { return disk.dvd() ? "--dvd" : "--disk"; }

}  // namespace

// From a disk's thread: not at the price of the disk, should nobody read standard error.
void TellOfDisk(const absl::Status& status) {
  pollfd room = {.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
  if (poll(&room, 1, /*timeout=*/1000) != 1) return;
  const std::string line = absl::StrCat("mini_vmm: --disk: ", status.message(), "\n");
  (void)!write(STDERR_FILENO, line.data(), line.size());
}

absl::Status CheckRoles(const std::string& config_path, const MachineConfig& config) {
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
        const bool is_twice = role.flag == other.flag;
        status.Update(absl::InvalidArgumentError(is_twice
                                                     ? absl::StrCat(role.flag, ": is there twice")
                                                     : absl::StrCat(role.flag, ": the same file as ", other.flag)));
      }
    }
    roles.push_back(std::move(role));
  };
  add("config", config_path, false);
  add("kernel", config.kernel(), false);
  add("initrd", config.initrd(), false);
  for (const hvsdk::vmm::DiskConfig& disk : config.disks()) {
    add(disk.dvd() ? "dvd" : "disk", disk.path(), !disk.read_only() && !disk.dvd());
  }
  add("serial", config.serial().file(), true);
  add("trace", config.trace(), true);
  add("screenshot", config.screenshot(), true);
  for (const hvsdk::vmm::NetworkConfig& network : config.networks()) add("net: pcap", network.pcap(), true);
  return status;
}

absl::StatusOr<std::shared_ptr<hvsdk::ImageDisk>> OpenLastDisk(const std::string& config_path,
                                                               const MachineConfig& config, Files& files) {
  if (absl::Status status = CheckRoles(config_path, config); !status.ok()) return status;
  const hvsdk::vmm::DiskConfig& wanted = *config.disks().rbegin();
  auto disk = OpenDisk(wanted, files);
  if (!disk.ok()) return FileError(FlagOf(wanted), disk.status());
  return disk;
}

absl::Status OpenTrace(const std::string& config_path, const MachineConfig& config, const std::string& path,
                       hvsdk::vmm::OutputFile& file) {
  if (absl::Status status = file.Open(path); !status.ok()) return FileError(absl::StrCat("trace: ", path), status);
  MachineConfig with = config;
  with.set_trace(path);
  return CheckRoles(config_path, with);
}

absl::Status OpenScreenshot(const std::string& config_path, const MachineConfig& config, const std::string& path,
                            hvsdk::vmm::OutputFile& file) {
  absl::Status status = file.Open(path);
  // Where a write may wait for ever, so would the machine's end.
  struct stat info;
  if (status.ok() && (fstat(file.fd(), &info) != 0 || !S_ISREG(info.st_mode))) {
    status = absl::InvalidArgumentError("is no file");
  }
  if (!status.ok()) return FileError(path, status);
  MachineConfig with = config;
  with.set_screenshot(path);
  return CheckRoles(config_path, with);
}

absl::Status FileError(absl::string_view what, const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return status;
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
  auto kernel = hvsdk::boot::OpenFileSource(config.kernel());
  auto initrd = config.initrd().empty() ? nullptr : hvsdk::boot::OpenFileSource(config.initrd());
  absl::Status missing;
  if (!kernel.ok()) missing = FileError(absl::StrCat("--kernel=", config.kernel()), kernel.status());
  if (!initrd.ok()) missing.Update(FileError(absl::StrCat("--initrd=", config.initrd()), initrd.status()));
  // A restored guest needs what its state names at its next reset alone.
  if (!missing.ok() && (flags.state == nullptr || flags.names_boot_files)) return missing;
  if (missing.ok()) {
    files.kernel = *std::move(kernel);
    files.initrd = *std::move(initrd);
  }
  files.missing = missing;
  if (!config.serial().file().empty()) {
    const absl::Status opened = files.serial.Open(config.serial().file());
    if (!opened.ok()) return FileError(absl::StrCat("--serial=", config.serial().file()), opened);
  }
  if (!config.trace().empty()) {
    const absl::Status opened = files.trace.Open(config.trace());
    if (!opened.ok()) return FileError(absl::StrCat("--trace=", config.trace()), opened);
  }
  if (!config.screenshot().empty()) {
    const absl::Status opened = OpenScreenshot(flags.config_path, config, config.screenshot(), files.screenshot);
    if (!opened.ok()) return FileError("--screenshot", opened);
  }
  // Now that all that is not there yet was made, and before disks are locked.
  if (absl::Status status = CheckRoles(flags.config_path, config); !status.ok()) return status;
  for (const hvsdk::vmm::DiskConfig& wanted : config.disks()) {
    auto disk = OpenDisk(wanted, files);
    if (flags.state != nullptr && absl::IsFailedPrecondition(disk.status())) {
      return absl::InvalidArgumentError(absl::StrCat(FlagOf(wanted), ": ", disk.status().message(), "; --disk=storage/",
                                                     wanted.lun(), "=COPY gives this machine one of its own"));
    }
    if (!disk.ok()) return FileError(FlagOf(wanted), disk.status());
    files.disks.push_back(*std::move(disk));
  }
  return flags.state == nullptr ? absl::OkStatus() : CheckSavedDisks(flags, files);
}

absl::Status DescribeDisks(const Files& files, bool settle, hvsdk::vmm::SavedConfig& saved) {
  for (const auto& disk : files.disks) {
    if (disk == nullptr) {
      saved.add_disks();
      continue;
    }
    // Closing it must not write to what the state has seen, and no loss of power may take it from under the state. A file of a network file
    // system has the time of its last write only then, too.
    if (settle) {
      if (absl::Status status = disk->Settle(); !status.ok()) return status;
    }
    *saved.add_disks() = Describe(*disk);
  }
  return absl::OkStatus();
}

}  // namespace mini_vmm
