// SPDX-License-Identifier: Apache-2.0
// The machine's page for browsers, of --web.

#ifndef HVSDK_EXAMPLES_MINI_VMM_WEB_PAGE_H_
#define HVSDK_EXAMPLES_MINI_VMM_WEB_PAGE_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "hvsdk/machine/machine.h"
#include "hvsdk/vmm/config.h"
#include "hvsdk/vmm/console_viewers.h"
#include "hvsdk/vmm/machine_page.h"
#include "hvsdk/web/web_server.h"

namespace mini_vmm {

class WebPage {
 public:
  // All outlive it; no screen or console: null. The error is one line that names the flag.
  absl::Status Open(const hvsdk::vmm::MachineConfig& config, hvsdk::os::EventLoop& loop,
                    hvsdk::vmm::ControlHandler& control, hvsdk::machine::Machine& machine,
                    hvsdk::viewer::RfbServer* screen, hvsdk::vmm::SerialConsole* console);
  // Empty: it is not open.
  std::string url() const { return server_ == nullptr ? "" : server_->url(); }

 private:
  hvsdk::vmm::PageFiles files_;
  absl::optional<hvsdk::vmm::ConsoleViewers> console_;
  std::unique_ptr<hvsdk::vmm::MachinePage> page_;
  std::unique_ptr<hvsdk::web::WebServer> server_;
};

}  // namespace mini_vmm

#endif  // HVSDK_EXAMPLES_MINI_VMM_WEB_PAGE_H_
