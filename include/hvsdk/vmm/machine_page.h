// SPDX-License-Identifier: Apache-2.0
// MachinePage: a running machine in its owner's browser: what it shows, its serial console, its status, and buttons. Each button is a
// command of the control socket's (proto/hvsdk/vmm/control.proto), and carried out by the same ControlHandler.
//
// Behind the token of web::WebServer there are:
//
//   GET  FILE                     of the page's files; nothing: index.html
//   GET  status                   JSON: whether there are a screen and a console, and MachineStatus as "machine"
//   GET  screenshot.png
//   POST pause, resume, reset, power-button, ctrl-alt-delete, insert/DEVICE (the body is a path of the machine's), eject/DEVICE
//   WebSockets screen (RFB) and console (bytes of the serial port)
//
// What a machine refuses is a response 409 with one line that says why.
//
// Limits: 512 files, 16 MiB together. Thread class: the loop's thread, or while it does not run.
//
//   absl::StatusOr<PageFiles> files = PageFiles::Load("share/hvsdk/web");
//   if (!files.ok()) return files.status();
//   MachinePage page(loop, *files, control, {.screen = &rfb_server, .display = &display});
//   auto server = web::WebServer::Listen(loop, "127.0.0.1:0", page);

#ifndef HVSDK_VMM_MACHINE_PAGE_H_
#define HVSDK_VMM_MACHINE_PAGE_H_

#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "hvsdk/base/executor.h"
#include "hvsdk/resource/display.h"
#include "hvsdk/viewer/rfb_server.h"
#include "hvsdk/vmm/console_viewers.h"
#include "hvsdk/vmm/control_server.h"
#include "hvsdk/vmm/screenshot.h"
#include "hvsdk/web/web_server.h"

namespace hvsdk::vmm {

// What a page is made of, as it was when it was loaded.
class PageFiles {
 public:
  struct File {
    std::shared_ptr<const std::string> contents;
    std::string type;
  };

  // Reads all files below a folder that a browser takes, by their names' endings. NotFound: there is no index.html. Others: the host refuses, or
  // there is more than a page has.
  static absl::StatusOr<PageFiles> Load(const std::string& folder);

  // By its path below the folder; null: there is none.
  const File* Find(absl::string_view path) const;

 private:
  std::map<std::string, File, std::less<>> files_;
};

class MachinePage final : public web::WebHandler {
 public:
  struct Options {
    viewer::RfbServer* screen = nullptr;  // these outlive the page; null: the machine has none
    const Display* display = nullptr;
    ConsoleViewers* console = nullptr;
  };
  // All outlive the page; the executor runs on the thread that calls.
  MachinePage(Executor& executor, const PageFiles& files, ControlHandler& control, Options options)
      : files_(files), control_(control), options_(options), screenshot_(executor) {}

  void OnRequest(const web::WebRequest& request, Reply reply) override;
  absl::StatusOr<int> Connect(absl::string_view path) override;

 private:
  void Get(absl::string_view path, Reply reply);
  void GetStatus(Reply reply);
  void TakeScreenshot(Reply reply);
  void Press(const web::WebRequest& request, Reply reply);

  const PageFiles& files_;
  ControlHandler& control_;
  const Options options_;
  Screenshot screenshot_;
};

}  // namespace hvsdk::vmm

#endif  // HVSDK_VMM_MACHINE_PAGE_H_
