// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/machine_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hvsdk/os/event_loop.h"

namespace hvsdk::vmm {
namespace {

using testing::HasSubstr;

// Refuses all but what it is told to do, and keeps what was asked.
class Control final : public ControlHandler {
 public:
  void OnRequest(const ControlRequest& request, Reply reply) override {
    asked.push_back(request);
    ControlReply done;
    if (request.command() == STATUS) done.mutable_status()->set_state("paused");
    if (request.command() == INSERT) {
      done.set_code(5);
      done.set_error("no <b>such</b> file");
    }
    reply(std::move(done));
  }
  std::vector<ControlRequest> asked;
};

class MachinePageTest : public testing::Test {
 protected:
  MachinePageTest() : folder_(std::filesystem::path(testing::TempDir()) / "hvsdk_page") {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_ / "part");
    for (const char* name : {"index.html", "page.js", "part/style.css", "part/module.mjs", "secret.key", ".lock"}) {
      std::ofstream(folder_ / name) << "this is " << name;
    }
    files_ = *PageFiles::Load(folder_);
    page_ = std::make_unique<MachinePage>(*loop_, files_, control_, MachinePage::Options{});
  }
  ~MachinePageTest() override { std::filesystem::remove_all(folder_); }

  web::WebResponse Ask(bool is_post, const std::string& path, const std::string& body = "") {
    web::WebResponse got{.status = 0};
    page_->OnRequest({.is_post = is_post, .path = path, .body = body},
                     [&](web::WebResponse response) { got = std::move(response); });
    return got;
  }
  static std::string BodyOf(const web::WebResponse& response) { return response.body == nullptr ? "" : *response.body; }

  const std::filesystem::path folder_;
  std::unique_ptr<os::EventLoop> loop_ = *os::EventLoop::Create();
  PageFiles files_;
  Control control_;
  std::unique_ptr<MachinePage> page_;
};

TEST_F(MachinePageTest, HasThePagesFilesAlone) {
  EXPECT_EQ(BodyOf(Ask(false, "")), "this is index.html");
  EXPECT_EQ(Ask(false, "").type, "text/html; charset=utf-8");
  EXPECT_EQ(Ask(false, "part/style.css").type, "text/css; charset=utf-8");
  EXPECT_EQ(Ask(false, "part/module.mjs").type, "text/javascript; charset=utf-8");
  for (const char* path :
       {"secret.key", ".lock", "../hvsdk_page/page.js", "part", "part/", "/index.html", "page.js/", "nothing"}) {
    EXPECT_EQ(Ask(false, path).status, 404) << path;
  }
  EXPECT_EQ(Ask(false, "screenshot.png").status, 404);  // there is no display
  for (const char* path : {"screen", "console", "page.js"})
    EXPECT_TRUE(absl::IsNotFound(page_->Connect(path).status()));
}

TEST_F(MachinePageTest, NeedsAPage) {
  EXPECT_TRUE(absl::IsNotFound(PageFiles::Load(folder_ / "part").status()));
  EXPECT_TRUE(absl::IsNotFound(PageFiles::Load(folder_ / "missing").status()));
  std::ofstream(folder_ / "large.js") << std::string(17 << 20, ' ');
  EXPECT_THAT(std::string(PageFiles::Load(folder_).status().message()), HasSubstr("more than a page has"));
}

TEST_F(MachinePageTest, TellsTheStatus) {
  const web::WebResponse response = Ask(false, "status");
  EXPECT_EQ(response.type, "application/json");
  EXPECT_THAT(BodyOf(response), HasSubstr("{\"screen\":false,\"console\":false,\"machine\":{\"state\":\"paused\""));
}

TEST_F(MachinePageTest, HasButtonsThatAreCommands) {
  const std::pair<const char*, ControlCommand> buttons[] = {{"pause", PAUSE},
                                                            {"resume", RESUME},
                                                            {"reset", RESET},
                                                            {"power-button", POWER_BUTTON},
                                                            {"ctrl-alt-delete", TYPE}};
  for (const auto& [path, command] : buttons) {
    EXPECT_EQ(Ask(true, path).status, 200) << path;
    EXPECT_EQ(control_.asked.back().command(), command) << path;
  }
  EXPECT_EQ(control_.asked.back().typing().keys(0), "ctrl-alt-delete");
  EXPECT_EQ(Ask(true, "eject/storage/3").status, 200);
  EXPECT_EQ(control_.asked.back().device(), "storage/3");
  const web::WebResponse refused = Ask(true, "insert/a name", "/a file.iso");
  EXPECT_EQ(refused.status, 409);
  EXPECT_EQ(refused.type, "text/plain; charset=utf-8");
  EXPECT_EQ(BodyOf(refused), "no <b>such</b> file");
  EXPECT_EQ(control_.asked.back().device(), "a name");
  EXPECT_EQ(control_.asked.back().path(), "/a file.iso");

  const size_t asked = control_.asked.size();
  for (const std::string& path : {std::string("file.iso"), std::string(), std::string("/a\0b", 4)}) {
    EXPECT_EQ(Ask(true, "insert/storage/0", path).status, 409);
  }
  for (const char* path : {"", "stop", "save", "dump", "status", "pause/", "index.html"}) {
    EXPECT_EQ(Ask(true, path).status, 404) << path;
  }
  EXPECT_EQ(Ask(false, "pause").status, 404);
  EXPECT_EQ(control_.asked.size(), asked);
}

}  // namespace
}  // namespace hvsdk::vmm
