// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/console_viewers.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/optional.h"
#include "gtest/gtest.h"
#include "hvsdk/chipset/uart16550.h"

namespace hvsdk::vmm {
namespace {

using chipset::Uart16550;
using std::chrono::milliseconds;

// A guest, which is the test, and a console that leads to /dev/null.
class ConsoleViewersTest : public testing::Test {
 protected:
  ConsoleViewersTest() : loop_(*os::EventLoop::Create()), null_fd_(open("/dev/null", O_RDWR | O_CLOEXEC)) {
    console_.emplace(*loop_, SerialConsole::Options{.output_fd = null_fd_});
    viewers_.emplace(*loop_, *console_);
    const auto look = [this] { loop_->Schedule(*console_); };
    uart_ = std::make_unique<Uart16550>(Uart16550::Hooks{.irq = nullptr, .output_ready = look, .input_room = look});
    EXPECT_TRUE(console_->Attach(*uart_).ok());
  }
  ~ConsoleViewersTest() override {
    for (const int fd : fds_) close(fd);
    viewers_.reset();
    console_->Detach();
    console_.reset();
    close(null_fd_);
  }

  int Connect() {
    fds_.push_back(*viewers_->Connect());
    return fds_.back();
  }
  void Settle() {
    for (int i = 0; i < 10; ++i) loop_->RunFor(milliseconds(1));
  }
  void Say(const std::string& text) {
    for (const char byte : text) {
      uint8_t status = 0;
      while (uart_->Read(5, {&status, 1}), (status & 0x20) == 0) loop_->RunFor(milliseconds(1));
      uint8_t value = static_cast<uint8_t>(byte);
      uart_->Write(0, {&value, 1});
    }
    Settle();
  }
  // What the guest reads, until it has so much or nothing comes.
  std::string Hear(size_t size) {
    std::string heard;
    for (int idle = 0; heard.size() < size && idle < 100;) {
      uint8_t status = 0, byte = 0;
      uart_->Read(5, {&status, 1});
      if ((status & 1) == 0) {
        loop_->RunFor(milliseconds(1));
        ++idle;
        continue;
      }
      idle = 0;
      uart_->Read(0, {&byte, 1});
      heard += static_cast<char>(byte);
      loop_->RunOnce(/*wait=*/false);
    }
    return heard;
  }
  // All that a viewer has been sent by now.
  std::string Seen(int fd) {
    std::string seen;
    char buffer[65536];
    for (int idle = 0; idle < 5;) {
      const ssize_t got = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT);
      idle = got > 0 ? 0 : idle + 1;
      if (got > 0) seen.append(buffer, static_cast<size_t>(got));
      loop_->RunFor(milliseconds(1));
    }
    return seen;
  }

  std::unique_ptr<os::EventLoop> loop_;
  const int null_fd_;
  absl::optional<SerialConsole> console_;
  absl::optional<ConsoleViewers> viewers_;
  std::unique_ptr<Uart16550> uart_;
  std::vector<int> fds_;
};

std::string Numbered(size_t bytes) {
  std::string text;
  for (size_t line = 0; text.size() < bytes; ++line) text += "line " + std::to_string(line) + "\n";
  return text;
}

TEST_F(ConsoleViewersTest, SeeWhatWasSaidLatelyAndWhatIsSaid) {
  const int early = Connect();
  Say("hello\n");
  EXPECT_EQ(Seen(early), "hello\n");
  const int late = Connect();
  EXPECT_EQ(Seen(late), "hello\n");
  const std::string text = Numbered(200'000);
  std::string seen;
  for (size_t at = 0; at < text.size(); at += 20'000) {
    Say(text.substr(at, 20'000));
    seen += Seen(early);
    (void)Seen(late);
  }
  EXPECT_TRUE(seen == text);
  EXPECT_TRUE(Seen(Connect()) == text.substr(text.size() - ConsoleViewers::kBacklog));
}

TEST_F(ConsoleViewersTest, AreToldHowMuchTheyHaveMissed) {
  const int stalled = Connect();
  const std::string text = Numbered(1 << 20);
  Say(text);  // whoever reads nothing holds nobody up
  std::string seen = Seen(stalled);
  const size_t notice = seen.find("\r\n[");
  ASSERT_NE(notice, seen.npos);
  const std::string before = seen.substr(0, notice);
  const size_t missed = std::stoull(seen.substr(notice + 3));
  const std::string behind = seen.substr(seen.find("here]\r\n") + 7);
  EXPECT_TRUE(before == text.substr(0, before.size()));
  EXPECT_TRUE(behind == text.substr(text.size() - behind.size()));
  EXPECT_EQ(before.size() + missed + behind.size(), text.size());
  EXPECT_GE(behind.size(), ConsoleViewers::kBacklog);
}

TEST_F(ConsoleViewersTest, TypeAndWaitForTheGuest) {
  const int one = Connect(), other = Connect();
  ASSERT_EQ(send(one, "ab", 2, 0), 2);
  EXPECT_EQ(Hear(2), "ab");
  ASSERT_EQ(send(other, "c", 1, 0), 1);
  EXPECT_EQ(Hear(1), "c");
  // More than waits at the port: none of it is lost, and the other's comes in between or afterwards.
  const std::string text = Numbered(150'000);
  std::string heard;
  size_t sent = 0;
  for (int idle = 0; idle < 50;) {
    const ssize_t took = send(one, text.data() + sent, text.size() - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (took > 0) sent += static_cast<size_t>(took);
    idle = took > 0 ? 0 : idle + 1;
    loop_->RunFor(milliseconds(1));
  }
  while (heard.size() < text.size()) {
    const std::string more = Hear(10'000);
    if (more.empty()) break;
    heard += more;
    const ssize_t took = send(one, text.data() + sent, text.size() - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (took > 0) sent += static_cast<size_t>(took);
  }
  EXPECT_TRUE(heard == text) << heard.size();
}

TEST_F(ConsoleViewersTest, ComeAndGo) {
  for (size_t i = 0; i < ConsoleViewers::kMaxViewers; ++i) Connect();
  EXPECT_TRUE(absl::IsResourceExhausted(viewers_->Connect().status()));
  close(fds_.back());
  fds_.pop_back();
  Settle();
  EXPECT_EQ(viewers_->viewers(), ConsoleViewers::kMaxViewers - 1);
  const int last = Connect();
  viewers_.reset();
  char byte;
  EXPECT_EQ(recv(last, &byte, 1, 0), 0);
  Say("to nobody\n");
}

}  // namespace
}  // namespace hvsdk::vmm
