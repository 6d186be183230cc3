// SPDX-License-Identifier: Apache-2.0
#include "web_page.h"

#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "files.h"

namespace mini_vmm {
namespace {

// Where they are installed, seen from a program beside them, or where scripts/web-assets makes them, seen from a build's.
std::string FindAssets() {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  const std::string installed = (program / "../share/hvsdk/web").lexically_normal().string();
  if (std::filesystem::exists(installed, error)) return installed;
  return (program / "../../web").lexically_normal().string();
}

}  // namespace

absl::Status WebPage::Open(const hvsdk::vmm::MachineConfig& config, hvsdk::os::EventLoop& loop,
                           hvsdk::vmm::ControlHandler& control, hvsdk::machine::Machine& machine,
                           hvsdk::viewer::RfbServer* screen, hvsdk::vmm::SerialConsole* console) {
  const std::string assets = config.web_assets().empty() ? FindAssets() : config.web_assets();
  absl::StatusOr<hvsdk::vmm::PageFiles> files = hvsdk::vmm::PageFiles::Load(assets);
  if (absl::IsNotFound(files.status())) {
    return absl::NotFoundError(absl::StrCat("--web-assets=", files.status().message(),
                                            "; scripts/web-assets makes one, and --web-assets=DIR says where"));
  }
  if (!files.ok()) return FileError("--web-assets", files.status());
  files_ = *std::move(files);
  if (console != nullptr) console_.emplace(loop, *console);
  page_ = std::make_unique<hvsdk::vmm::MachinePage>(
      loop, files_, control,
      hvsdk::vmm::MachinePage::Options{
          .screen = screen, .display = machine.display(), .console = console_.has_value() ? &*console_ : nullptr});
  auto server = hvsdk::web::WebServer::Listen(loop, config.web(), *page_);
  if (!server.ok()) return FileError(absl::StrCat("--web=", config.web()), server.status());
  server_ = *std::move(server);
  return absl::OkStatus();
}

}  // namespace mini_vmm
