// SPDX-License-Identifier: Apache-2.0
// A guest's sockets as Unix sockets, against a hub that is the test's: lines in pieces and wrong ones, streams, ends, and programs that are
// slow, gone or too many.

#include "hvsdk/network/unix_sockets.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "hvsdk/hvdef/socket.h"

namespace hvsdk::network {
namespace {

using hvdef::Guid;
using hvdef::socket::ServiceOfPort;
using State = SocketTransfer::State;

// Keeps the streams it is given, and plays the guest's end of them.
class TestHub final : public SocketHub {
 public:
  struct Connection final : SocketWaker {
    void Wake() override { ++wakes; }
    ~Connection() override { End(absl::OkStatus()); }
    void End(const absl::Status& status) {
      if (stream == nullptr) return;
      stream->OnClosed(status);
      stream.reset();
    }
    Guid service{};
    std::unique_ptr<SocketStream> stream;
    int wakes = 0;
  };

  absl::Status Listen(const Guid&, SocketService&) override { return absl::UnimplementedError(""); }
  void Unlisten(const Guid&) override {}
  void ListenToOthers(SocketService* service) override { others = service; }
  absl::StatusOr<uint32_t> Connect(const Guid& service_id, std::unique_ptr<SocketStream> stream) override {
    if (refuses) return absl::UnavailableError("");
    connections.push_back(std::make_unique<Connection>());
    connections.back()->service = service_id;
    connections.back()->stream = std::move(stream);
    return 0x80000000u + static_cast<uint32_t>(connections.size());
  }

  SocketService* others = nullptr;
  bool refuses = false;
  std::vector<std::unique_ptr<Connection>> connections;
};

class UnixSocketsTest : public testing::Test {
 protected:
  void SetUp() override {
    std::snprintf(folder_, sizeof(folder_), "%s", "/tmp/hvsdk-sockets-XXXXXX");
    ASSERT_NE(mkdtemp(folder_), nullptr);
  }
  void TearDown() override {
    hub_.connections.clear();
    sockets_.reset();
    EXPECT_EQ(rmdir(folder_), 0) << "a socket is left";
  }
  void Start(UnixSocketsOptions options = {}) {
    if (options.path.empty()) options.path = path();
    auto made = UnixSockets::Create(*loop_, hub_, options);
    ASSERT_TRUE(made.ok()) << made.status();
    sockets_ = *std::move(made);
    EXPECT_NE(hub_.others, nullptr);
  }
  std::string path() const { return std::string(folder_) + "/v.sock"; }

  // The loop goes on until it is so.
  bool Until(const std::function<bool()>& so) {
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!so()) {
      if (std::chrono::steady_clock::now() > limit) return false;
      (void)loop_->RunFor(std::chrono::milliseconds(1));
    }
    return true;
  }
  int Program(const std::string& to) {
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::snprintf(address.sun_path, sizeof(address.sun_path), "%s", to.c_str());
    EXPECT_EQ(connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0) << strerror(errno);
    return fd;
  }
  int Listener(const std::string& at, int backlog) {
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::snprintf(address.sun_path, sizeof(address.sun_path), "%s", at.c_str());
    EXPECT_EQ(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(listen(fd, backlog), 0);
    return fd;
  }
  static void Say(int fd, absl::string_view text) {
    ASSERT_EQ(send(fd, text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  }
  // What there is to be read; "END" behind it where nothing more will come.
  std::string Heard(int fd) {
    std::string text;
    char buffer[4096];
    ssize_t size;
    while ((size = recv(fd, buffer, sizeof(buffer), 0)) > 0) text.append(buffer, static_cast<size_t>(size));
    return size == 0 || errno == ECONNRESET ? text + "END" : text;
  }
  bool IsClosed(int fd) {
    return Until([&] { return Heard(fd) == "END"; });
  }
  static SocketTransfer Write(SocketStream& stream, absl::string_view text) {
    return stream.Write({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  }
  static std::string Read(SocketStream& stream, State expected = State::kOpen) {
    uint8_t buffer[4096];
    const SocketTransfer read = stream.Read(absl::MakeSpan(buffer));
    EXPECT_EQ(read.state, expected);
    return std::string(reinterpret_cast<const char*>(buffer), read.bytes);
  }

  char folder_[64];
  std::unique_ptr<os::EventLoop> loop_ = *os::EventLoop::Create();
  TestHub hub_;
  std::unique_ptr<UnixSockets> sockets_;
};

TEST_F(UnixSocketsTest, ToTheGuest) {
  Start();
  const int fd = Program(path());
  Say(fd, "CONN");
  EXPECT_FALSE(loop_->RunFor(std::chrono::milliseconds(5)));
  EXPECT_EQ(Heard(fd), "");
  Say(fd, "ECT 1234\nmore");
  ASSERT_TRUE(Until([&] { return hub_.connections.size() == 1; }));
  TestHub::Connection& guest = *hub_.connections[0];
  EXPECT_EQ(guest.service, ServiceOfPort(1234));
  EXPECT_EQ(Heard(fd), "");
  guest.stream->OnOpen(guest);
  EXPECT_EQ(Read(*guest.stream), "more");
  EXPECT_EQ(Heard(fd), "OK 2147483649\n");
  const int wakes = guest.wakes;
  Say(fd, "and more");
  ASSERT_TRUE(Until([&] { return guest.wakes > wakes; }));
  EXPECT_EQ(Read(*guest.stream), "and more");
  EXPECT_EQ(Write(*guest.stream, "an answer").bytes, 9u);
  EXPECT_EQ(Heard(fd), "an answer");
  // Each end for itself.
  guest.stream->OnGuestEnded();
  EXPECT_EQ(Heard(fd), "END");
  Say(fd, "last");
  shutdown(fd, SHUT_WR);
  EXPECT_EQ(Read(*guest.stream), "last");
  EXPECT_EQ(Read(*guest.stream, State::kEnded), "");
  close(fd);
}

TEST_F(UnixSocketsTest, Lines) {
  Start();
  for (const char* bad : {"\n", "CONNECT\n", "CONNECT \n", "CONNECT -1\n", "CONNECT +1\n", "CONNECT 4294967296\n",
                          "CONNECT 1 2\n", "DISCONNECT 1\n", "CONNECT 00000000-facb-11e6-bd58-64006a7986d\n",
                          "CONNECT 1                                          \n"}) {
    const int fd = Program(path());
    Say(fd, bad);
    EXPECT_TRUE(IsClosed(fd)) << bad;
    close(fd);
  }
  // Without an end, too long, or ended before.
  int fd = Program(path());
  Say(fd, std::string(100, 'C'));
  EXPECT_TRUE(IsClosed(fd));
  close(fd);
  fd = Program(path());
  Say(fd, "CONNECT 1");
  shutdown(fd, SHUT_WR);
  EXPECT_TRUE(IsClosed(fd));
  close(fd);
  EXPECT_TRUE(hub_.connections.empty());
  // By another's habits.
  for (const char* good : {"connect 7\r\n", "CONNECT 00000007-FACB-11e6-bd58-64006a7986d3\n",
                           "CONNECT 00000007-facb-11e6-bd58-64006a7986d3\r\n"}) {
    fd = Program(path());
    Say(fd, good);
    const size_t count = hub_.connections.size() + 1;
    ASSERT_TRUE(Until([&] { return hub_.connections.size() == count; })) << good;
    EXPECT_EQ(hub_.connections.back()->service, ServiceOfPort(7));
    hub_.connections.back()->stream->OnOpen(*hub_.connections.back());
    (void)Read(*hub_.connections.back()->stream);
    EXPECT_EQ(Heard(fd),
              count == 1 ? "OK 2147483649\n" : absl::StrCat("OK 8000000", count, "-facb-11e6-bd58-64006a7986d3\n"));
    close(fd);
  }
  // Refused, and not accepted.
  hub_.refuses = true;
  fd = Program(path());
  Say(fd, "CONNECT 1\n");
  EXPECT_TRUE(IsClosed(fd));
  close(fd);
  hub_.refuses = false;
  fd = Program(path());
  Say(fd, "CONNECT 1\n");
  ASSERT_TRUE(Until([&] { return hub_.connections.size() == 4; }));
  hub_.connections.back()->End(absl::DeadlineExceededError(""));
  EXPECT_TRUE(IsClosed(fd));
  close(fd);
}

TEST_F(UnixSocketsTest, FromTheGuest) {
  mkdir((std::string(folder_) + "/there").c_str(), 0700);
  Start({.path = std::string(folder_) + "/there"});
  EXPECT_EQ(sockets_->path(), std::string(folder_) + "/there/vsock");
  EXPECT_FALSE(hub_.others->Accept(ServiceOfPort(5)).ok());
  const Guid kService = hvdef::MakeGuid("a49b7f2c-8c5b-4f31-9f1e-2f9a35c9d2b1");
  for (const auto& [name, service] : {std::pair<std::string, Guid>("5", ServiceOfPort(5)),
                                      {"00000006-facb-11e6-bd58-64006a7986d3", ServiceOfPort(6)},
                                      {"a49b7f2c-8c5b-4f31-9f1e-2f9a35c9d2b1", kService}}) {
    const std::string at = sockets_->path() + "_" + name;
    const int listener = Listener(at, 4);
    auto stream = hub_.others->Accept(service);
    ASSERT_TRUE(stream.ok()) << stream.status();
    TestHub::Connection guest;
    guest.stream = *std::move(stream);
    guest.stream->OnOpen(guest);
    EXPECT_EQ(Write(*guest.stream, "hello").bytes, 5u);
    const int fd = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK);
    EXPECT_EQ(Heard(fd), "hello");
    close(fd);
    ASSERT_TRUE(Until([&] { return guest.wakes > 0; }));
    EXPECT_EQ(Read(*guest.stream, State::kEnded), "");
    EXPECT_EQ(Write(*guest.stream, "gone").state, State::kBroken);
    close(listener);
    unlink(at.c_str());
  }
  sockets_.reset();
  EXPECT_EQ(hub_.others, nullptr);
  rmdir((std::string(folder_) + "/there").c_str());
}

// A program may answer and leave without having read everything.
TEST_F(UnixSocketsTest, TheLastAnswer) {
  Start();
  const int listener = Listener(path() + "_9", 4);
  auto stream = hub_.others->Accept(ServiceOfPort(9));
  ASSERT_TRUE(stream.ok()) << stream.status();
  TestHub::Connection guest;
  guest.stream = *std::move(stream);
  guest.stream->OnOpen(guest);
  EXPECT_EQ(Write(*guest.stream, "question").bytes, 8u);
  const int fd = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK);
  Say(fd, "answer");
  close(fd);
  const SocketTransfer lost = Write(*guest.stream, "more");
  EXPECT_EQ(lost.bytes, 4u);
  EXPECT_EQ(lost.state, State::kOpen);
  EXPECT_EQ(Read(*guest.stream), "answer");
  EXPECT_EQ(Write(*guest.stream, "more").state, State::kBroken);
  close(listener);
  unlink((path() + "_9").c_str());
}

// One that takes nobody for a while gets all of them in the end.
TEST_F(UnixSocketsTest, FullBacklog) {
  Start();
  const int listener = Listener(path() + "_9", 0);
  std::vector<std::unique_ptr<TestHub::Connection>> guests;
  for (int i = 0; i < 6; ++i) {
    auto stream = hub_.others->Accept(ServiceOfPort(9));
    ASSERT_TRUE(stream.ok()) << i << stream.status();
    guests.push_back(std::make_unique<TestHub::Connection>());
    guests.back()->stream = *std::move(stream);
    guests.back()->stream->OnOpen(*guests.back());
  }
  // One waits that has ended already; one that waits is given up.
  EXPECT_EQ(Write(*guests[4]->stream, "x").bytes, 0u);
  guests[4]->stream->OnGuestEnded();
  guests.erase(guests.begin() + 3);
  std::vector<int> accepted;
  ASSERT_TRUE(Until([&] {
    const int fd = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK);
    if (fd >= 0) accepted.push_back(fd);
    return accepted.size() == 5;
  }));
  int ended = 0;
  for (const int fd : accepted) {
    ended += Heard(fd) == "END";
    close(fd);
  }
  EXPECT_EQ(ended, 1);
  close(listener);
  unlink((path() + "_9").c_str());
}

TEST_F(UnixSocketsTest, TooManyWait) {
  Start({.path = {}, .max_waiting = 3});
  std::vector<int> silent;
  for (int i = 0; i < 5; ++i) silent.push_back(Program(path()));
  EXPECT_FALSE(loop_->RunFor(std::chrono::milliseconds(20)));
  const int fd = Program(path());
  Say(fd, "CONNECT 1\n");
  EXPECT_FALSE(loop_->RunFor(std::chrono::milliseconds(20)));
  EXPECT_TRUE(hub_.connections.empty());
  for (const int each : silent) close(each);
  EXPECT_TRUE(Until([&] { return hub_.connections.size() == 1; }));
  close(fd);
}

TEST_F(UnixSocketsTest, Mistakes) {
  const auto fails = [&](const std::string& path) {
    return UnixSockets::Create(*loop_, hub_, {.path = path}).status();
  };
  EXPECT_TRUE(absl::IsInvalidArgument(fails("")));
  EXPECT_TRUE(absl::IsInvalidArgument(fails(std::string(100, 'x')))) << fails(std::string(100, 'x'));
  Start();
  EXPECT_TRUE(absl::IsFailedPrecondition(fails(path())));
  EXPECT_NE(hub_.others, nullptr) << "the first one's";
}

}  // namespace
}  // namespace hvsdk::network
