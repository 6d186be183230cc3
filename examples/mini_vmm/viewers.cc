// SPDX-License-Identifier: Apache-2.0
#include "viewers.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"

namespace mini_vmm {
namespace {

// The first line.
absl::StatusOr<std::string> ReadPassword(const std::string& path) {
  const auto wrong = [&](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("password-file=", path, ": ", why));
  };
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return wrong(std::strerror(errno));
  struct stat info;
  char text[256];
  const bool is_file = fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  const ssize_t size = is_file ? read(fd, text, sizeof(text)) : -1;
  close(fd);
  if (!is_file) return wrong("is no file");
  if (size < 0) return wrong(std::strerror(errno));
  if ((info.st_mode & (S_IRWXG | S_IRWXO)) != 0) return wrong("others may open it; chmod 600 keeps them out");
  std::string password(text, static_cast<size_t>(size));
  password.resize(std::min(password.find('\n'), password.size()));
  if (password.empty()) return wrong("the first line is empty");
  return password;
}

}  // namespace

absl::StatusOr<std::unique_ptr<hvsdk::viewer::RfbServer>> ServeVnc(const hvsdk::vmm::MachineConfig& config,
                                                                   hvsdk::machine::Machine& machine,
                                                                   hvsdk::os::EventLoop& loop) {
  hvsdk::viewer::RfbServer::Options options;
  options.display = machine.display();
  options.keys = machine.input().keyboard;
  options.pointer = machine.input().mouse;
  options.name = "mini_vmm";
  if (!config.keyboard_layout().empty()) options.keyboard_layout = config.keyboard_layout();
  if (!config.vnc_password_file().empty()) {
    absl::StatusOr<std::string> password = ReadPassword(config.vnc_password_file());
    if (!password.ok()) return password.status();
    options.password = *std::move(password);
  }
  options.tls = config.vnc_tls();
  auto server = hvsdk::viewer::RfbServer::Create(loop, std::move(options));
  if (!server.ok()) return server.status();
  if (config.vnc().empty()) return server;  // for the page alone
  if (const absl::Status listening = (*server)->Listen(config.vnc()); !listening.ok()) return listening;
  return server;
}

}  // namespace mini_vmm
