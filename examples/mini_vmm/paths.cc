// SPDX-License-Identifier: Apache-2.0
#include "paths.h"

#include <limits.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace mini_vmm {
namespace {

void Change(std::string* path) { *path = Absolute(*path); }

}  // namespace

std::string Absolute(absl::string_view path) {
  char here[PATH_MAX];
  if (path.empty() || path[0] == '/' || getcwd(here, sizeof(here)) == nullptr) return std::string(path);
  return absl::StrCat(here, "/", path);
}

void MakeAbsolute(hvsdk::vmm::NetworkConfig& network) {
  Change(network.mutable_pcap());
  if (!network.has_socket()) return;
  Change(network.mutable_socket()->mutable_path());
  Change(network.mutable_socket()->mutable_local());
}

void MakeAbsolute(hvsdk::vmm::MachineConfig& config) {
  Change(config.mutable_kernel());
  Change(config.mutable_initrd());
  Change(config.mutable_trace());
  Change(config.mutable_control());
  if (config.has_sockets()) Change(config.mutable_sockets());
  Change(config.mutable_vnc_password_file());
  Change(config.mutable_vnc_tls());
  Change(config.mutable_web_assets());
  for (std::string* const address : {config.mutable_vnc(), config.mutable_web()}) {
    absl::string_view path = *address;
    if (absl::ConsumePrefix(&path, "unix:")) *address = absl::StrCat("unix:", Absolute(path));
  }
  if (!config.serial().file().empty()) Change(config.mutable_serial()->mutable_file());
  for (hvsdk::vmm::DiskConfig& disk : *config.mutable_disks()) Change(disk.mutable_path());
  for (hvsdk::vmm::NetworkConfig& network : *config.mutable_networks()) MakeAbsolute(network);
}

}  // namespace mini_vmm
