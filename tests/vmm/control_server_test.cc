// SPDX-License-Identifier: Apache-2.0
// The control socket against clients of every kind: polite, slow, dead, hostile.

#include "hvsdk/vmm/control_server.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"

namespace hvsdk::vmm {
namespace {

using testing::HasSubstr;

std::string Framed(const std::string& message) {
  std::string bytes;
  for (int i = 0; i < 4; ++i) bytes += static_cast<char>(message.size() >> (8 * i));
  return bytes + message;
}

Event Named(const std::string& name) {
  Event event;
  event.set_name(name);
  return event;
}

// Answers at once, or, what asks to save, when it is told to.
class Handler : public ControlHandler {
 public:
  void OnRequest(const ControlRequest& request, Reply reply) override {
    ++requests;
    if (tell_first != nullptr) tell_first->Tell(Named("asked"));
    if (request.command() == SAVE) {
      late.push_back(std::move(reply));
      return;
    }
    ControlReply answer;
    answer.set_error(request.directory());
    reply(std::move(answer));
  }
  int requests = 0;
  std::vector<Reply> late;
  ControlServer* tell_first = nullptr;
};

class ControlServerTest : public ::testing::Test {
 protected:
  ControlServerTest() {
    char pattern[] = "/tmp/hvsdk_control_XXXXXX";
    root_ = mkdtemp(pattern);
    path_ = root_ + "/socket";
  }
  ~ControlServerTest() override {
    server_.reset();
    unlink(path_.c_str());
    rmdir(root_.c_str());
  }
  absl::Status Listen() {
    auto server = ControlServer::Listen(*loop_, path_, handler_);
    if (server.ok()) server_ = *std::move(server);
    return server.status();
  }
  int Connect() {
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    Connect(fd);
    return fd;
  }
  void Connect(int fd) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path_.c_str());
    EXPECT_EQ(connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    Serve();
  }
  void ExpectThatItServes() {
    const int fd = Connect();
    Send(fd, Request(STATUS));
    Serve();
    EXPECT_NE(Received(fd), "gone");
    close(fd);
  }
  void Serve(int turns = 8) {
    for (int i = 0; i < turns; ++i) loop_->RunOnce(/*wait=*/false);
  }
  // What has come to a client; "gone" if the server has let go of it.
  std::string Received(int fd) {
    std::string bytes;
    char buffer[65536];
    for (;;) {
      const ssize_t got = recv(fd, buffer, sizeof(buffer), 0);
      if (got == 0 || (got < 0 && errno == ECONNRESET)) return "gone";
      if (got < 0) return bytes;
      bytes.append(buffer, got);
    }
  }
  // Likewise, as far as it has come at once.
  static std::string Told(int fd) {
    std::string told(4096, '\0');
    told.resize(static_cast<size_t>(std::max<ssize_t>(0, recv(fd, told.data(), told.size(), 0))));
    return told;
  }
  static std::string Request(ControlCommand command, const std::string& text = "") {
    ControlRequest request;
    request.set_command(command);
    request.set_directory(text);
    return Framed(request.SerializeAsString());
  }
  static void Send(int fd, const std::string& bytes) {
    EXPECT_EQ(send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }

  std::string root_, path_;
  std::unique_ptr<os::EventLoop> loop_ = *os::EventLoop::Create();
  Handler handler_;
  std::unique_ptr<ControlServer> server_;
};

TEST_F(ControlServerTest, OnlyTheOwnerMayOpenIt) {
  umask(0);
  ASSERT_TRUE(Listen().ok());
  struct stat info;
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  server_.reset();
  EXPECT_NE(stat(path_.c_str(), &info), 0) << "the socket is left behind";
}

TEST_F(ControlServerTest, WhatIsThereIsKept) {
  std::ofstream(path_) << "a letter";
  EXPECT_EQ(Listen().code(), absl::StatusCode::kFailedPrecondition);
  std::string text;
  std::ifstream(path_) >> text;
  EXPECT_EQ(text, "a");
  unlink(path_.c_str());
  ASSERT_TRUE(Listen().ok());
  auto first = std::move(server_);
  EXPECT_EQ(Listen().code(), absl::StatusCode::kFailedPrecondition) << "another machine's";
  EXPECT_EQ(ControlServer::Listen(*loop_, std::string(200, 'x'), handler_).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(ControlServerTest, ASocketLeftBehindIsReplaced) {
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, path_.c_str());
  ASSERT_EQ(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  close(fd);
  EXPECT_TRUE(Listen().ok());
}

TEST_F(ControlServerTest, AnswersOneAfterAnother) {
  ASSERT_TRUE(Listen().ok());
  const int fd = Connect();
  const std::string three = Request(STATUS, "a") + Request(SAVE) + Request(STATUS, "b");
  for (const char byte : three) {
    Send(fd, std::string(1, byte));
    Serve(1);
  }
  Serve();
  EXPECT_EQ(handler_.requests, 2);
  ControlReply reply;
  std::string bytes = Received(fd);
  ASSERT_TRUE(reply.ParseFromString(bytes.substr(4)));
  EXPECT_EQ(reply.error(), "a");
  ASSERT_EQ(handler_.late.size(), 1u);
  handler_.late[0]({});
  Serve();
  EXPECT_EQ(handler_.requests, 3);
  bytes = Received(fd);
  ASSERT_EQ(bytes.substr(0, 4), std::string(4, '\0')) << "the answer to the second, which says nothing";
  ASSERT_TRUE(reply.ParseFromString(bytes.substr(8)));
  EXPECT_EQ(reply.error(), "b");
  close(fd);
}

TEST_F(ControlServerTest, EventsGoToWhoAsked) {
  ASSERT_TRUE(Listen().ok());
  const int listener = Connect(), other = Connect();
  Send(listener, Request(EVENTS));
  Serve();
  (void)Received(listener);
  server_->Tell(Named("paused"));
  ControlReply event;
  ASSERT_TRUE(event.ParseFromString(Received(listener).substr(4)));
  EXPECT_EQ(event.event().name(), "paused");
  EXPECT_EQ(Received(other), "");
  // One that does not listen to what it asked for is let go, and nobody waits for it.
  for (int i = 0; i < 100'000; ++i) server_->Tell(Named("again and again and again"));
  std::string rest = Received(listener);
  EXPECT_EQ(rest, "gone");
  close(listener);
  close(other);
  Serve();
}

// Telling is how the server finds out that one is gone, the very one whose request it is at.
TEST_F(ControlServerTest, WhoAsksMayBeGoneBeforeItIsTold) {
  ASSERT_TRUE(Listen().ok());
  handler_.tell_first = server_.get();
  for (const bool is_late : {false, true}) {
    const int fd = Connect();
    Send(fd, Request(EVENTS));
    Serve();
    (void)Received(fd);
    Send(fd, Request(is_late ? SAVE : STATUS) + Request(STATUS));
    close(fd);
    Serve();
    for (ControlHandler::Reply& reply : handler_.late) reply(ControlReply());
    handler_.late.clear();
    Serve();
  }
  ExpectThatItServes();
}

TEST_F(ControlServerTest, WithoutDescriptorsClientsAreTurnedAway) {
  ASSERT_TRUE(Listen().ok());
  rlimit before;
  getrlimit(RLIMIT_NOFILE, &before);
  const int last = dup(0);
  close(last);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
  EXPECT_EQ(fd, last);
  const rlimit none{static_cast<rlim_t>(last) + 1, before.rlim_max};
  setrlimit(RLIMIT_NOFILE, &none);
  Connect(fd);
  EXPECT_EQ(Received(fd), "gone") << "the server is told of it for ever";
  setrlimit(RLIMIT_NOFILE, &before);
  close(fd);
  ExpectThatItServes();
}

// A client that comes late hears of what has happened, as far as it is remembered.
TEST_F(ControlServerTest, EventsOfThePastComeFirst) {
  ASSERT_TRUE(Listen().ok());
  for (int i = 0; i < 100'000; ++i) server_->Tell(Named(std::to_string(i)));
  const int fd = Connect();
  Send(fd, Request(EVENTS));
  Serve();
  server_->Tell(Named("now"));
  std::vector<std::string> names;
  std::string bytes;
  for (std::string more = Received(fd); !more.empty(); more = Received(fd)) {
    bytes += more;
    Serve();
  }
  for (size_t at = 0; at < bytes.size();) {
    const size_t size = static_cast<uint8_t>(bytes[at]) + (static_cast<uint8_t>(bytes[at + 1]) << 8);
    ControlReply reply;
    ASSERT_TRUE(reply.ParseFromString(bytes.substr(at + 4, size)));
    names.push_back(reply.event().name());
    at += 4 + size;
  }
  ASSERT_GT(names.size(), 1000u);
  EXPECT_LT(bytes.size(), 70'000u);
  EXPECT_EQ(names[0], "") << "the answer";
  EXPECT_EQ(names.back(), "now");
  for (size_t i = 1; i + 1 < names.size(); ++i) {
    EXPECT_EQ(names[i], std::to_string(100'000 - (names.size() - 1) + i));
  }
  close(fd);
}

TEST_F(ControlServerTest, ProgressComesBeforeTheAnswer) {
  ASSERT_TRUE(Listen().ok());
  const int fd = Connect();
  Send(fd, Request(SAVE) + Request(STATUS, "next"));
  Serve();
  ASSERT_EQ(handler_.late.size(), 1u);
  for (int i = 0; i < 3; ++i) {
    ControlReply progress;
    progress.mutable_progress()->set_done_bytes(i + 1);
    handler_.late[0](std::move(progress));
    Serve();
    EXPECT_NE(Received(fd), "") << "not at once";
    EXPECT_EQ(handler_.requests, 1) << "the next request waits";
  }
  handler_.late[0]({});
  Serve();
  EXPECT_EQ(handler_.requests, 2);
  close(fd);
}

TEST_F(ControlServerTest, WhoeverDoesNotReadIsLetGo) {
  ASSERT_TRUE(Listen().ok());
  const int fd = Connect();
  const std::string request = Request(STATUS, std::string(60'000, 'x'));
  bool gone = false;
  for (int i = 0; i < 1000 && !gone; ++i) {
    const ssize_t sent = send(fd, request.data(), request.size(), MSG_NOSIGNAL);
    gone = sent < 0 && (errno == EPIPE || errno == ECONNRESET);
    if (sent >= 0 && sent < static_cast<ssize_t>(request.size())) break;  // it is not even read any more
    Serve(32);
  }
  close(fd);
  Serve();
  const int next = Connect();
  Send(next, Request(STATUS, "still there"));
  Serve();
  EXPECT_NE(Received(next).find("still there"), std::string::npos);
  close(next);
}

TEST_F(ControlServerTest, GarbageIsShownTheDoor) {
  ASSERT_TRUE(Listen().ok());
  for (const std::string& bytes : {std::string("\xFF\xFF\xFF\xFF"), std::string("\x01\x00\x01\x00", 4),
                                   Framed("\xFF\xFF\xFF"), std::string("GET / HTTP/1.1\r\n\r\n")}) {
    const int fd = Connect();
    Send(fd, bytes);
    Serve();
    EXPECT_EQ(Received(fd), "gone");
    close(fd);
  }
  EXPECT_EQ(handler_.requests, 0);
}

// Those that ask for nothing make room, the longest idle first.
TEST_F(ControlServerTest, ManyClientsAreRefused) {
  ASSERT_TRUE(Listen().ok());
  std::vector<int> fds;
  for (size_t i = 0; i < kMaxControlClients; ++i) fds.push_back(Connect());
  for (size_t i = 0; i < kMaxControlClients; ++i) {
    if (i == 7) continue;
    Send(fds[i], Request(SAVE));  // which takes its time
    Serve();
  }
  const int more = Connect();
  EXPECT_THAT(Told(fds[7]), HasSubstr("clients that may be are being served"));
  EXPECT_EQ(Received(fds[7]), "gone");
  EXPECT_EQ(Received(more), "");
  Send(more, Request(SAVE));
  Serve();
  const int too_many = Connect();
  EXPECT_THAT(Told(too_many), HasSubstr("clients that may be are being served"));
  // Who finds it closed when he asks is told why, too.
  absl::StatusOr<ControlClient> client = ControlClient::Connect(path_);
  ASSERT_TRUE(client.ok());
  Serve();
  EXPECT_EQ(client->Ask({}).status().code(), absl::StatusCode::kResourceExhausted);
  close(fds.back());
  Serve();
  const int again = Connect();
  EXPECT_EQ(Received(again), "");
  for (const int fd : {more, too_many, again}) close(fd);
  fds.pop_back();
  for (const int fd : fds) close(fd);
}

// Also while the loop does something else that lasts.
TEST_F(ControlServerTest, WhoHasGoneIsNotWaitedFor) {
  ASSERT_TRUE(Listen().ok());
  const int fd = Connect();
  Send(fd, Request(SAVE));
  Serve();
  const auto tell = [this] {
    ControlReply progress;
    progress.mutable_progress()->set_done_bytes(1);
    handler_.late[0](std::move(progress));
    return handler_.late[0].is_wanted();
  };
  EXPECT_TRUE(tell());
  close(fd);
  EXPECT_FALSE(tell());
  handler_.late[0]({});
  ExpectThatItServes();
}

TEST_F(ControlServerTest, AnswersForClientsAndServersThatAreGone) {
  ASSERT_TRUE(Listen().ok());
  int fd = Connect();
  Send(fd, Request(SAVE));
  Serve();
  close(fd);
  Serve();
  handler_.late[0]({});
  fd = Connect();
  Send(fd, Request(SAVE));
  Serve();
  server_.reset();
  handler_.late[1]({});
  EXPECT_EQ(Received(fd), "gone");
  close(fd);
}

TEST_F(ControlServerTest, RandomClients) {
  std::mt19937 random(TestSeed());
  ASSERT_TRUE(Listen().ok());
  std::vector<int> fds;
  for (uint32_t i = 0; i < ScaledCount(20'000); ++i) {
    const size_t which = fds.empty() ? 0 : random() % fds.size();
    switch (random() % 8) {
      case 0:
        if (fds.size() < 40) fds.push_back(Connect());
        break;
      case 1:
        if (fds.empty()) break;
        close(fds[which]);
        fds.erase(fds.begin() + which);
        break;
      case 2:
        if (!handler_.late.empty()) {
          handler_.late.back()({});
          handler_.late.pop_back();
        }
        break;
      case 3:
        server_->Tell(Named("event"));
        break;
      case 4:
        if (!fds.empty()) (void)Received(fds[which]);
        break;
      case 5:
        Serve(1);
        break;
      default: {
        if (fds.empty()) break;
        std::string bytes = Request(static_cast<ControlCommand>(random() % 12), std::string(random() % 300, 'd'));
        if (random() % 8 == 0) bytes[random() % bytes.size()] ^= 1 << random() % 8;
        if (random() % 8 == 0) bytes.resize(random() % bytes.size());
        (void)!send(fds[which], bytes.data(), bytes.size(), MSG_NOSIGNAL);
      }
    }
  }
  for (const int fd : fds) close(fd);
  Serve(100);
  const int fd = Connect();
  Send(fd, Request(STATUS, "sound"));
  Serve();
  EXPECT_NE(Received(fd).find("sound"), std::string::npos);
  close(fd);
}

}  // namespace
}  // namespace hvsdk::vmm
