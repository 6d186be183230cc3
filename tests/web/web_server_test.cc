// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/web/web_server.h"

#include <errno.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "tests/web/client_frame.h"

namespace hvsdk::web {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

constexpr size_t kLarge = 3 << 20;

// Answers at once; "late" when Answer is called. The stream "stream" leads to the test.
class Handler final : public WebHandler {
 public:
  ~Handler() override {
    for (const int fd : streams) close(fd);
  }
  void OnRequest(const WebRequest& request, Reply reply) override {
    asked.push_back(absl::StrCat(request.is_post ? "POST " : "GET ", request.path, " ", request.body.substr(0, 40)));
    if (request.path == "late") {
      late.push_back(std::move(reply));
    } else if (request.path == "large") {
      reply({.body = std::make_shared<const std::string>(kLarge, 'x')});
    } else {
      reply({.body = std::make_shared<const std::string>("this is " + request.path)});
    }
  }
  absl::StatusOr<int> Connect(absl::string_view path) override {
    if (path != "stream") return absl::NotFoundError("no such stream");
    if (is_full) return absl::ResourceExhaustedError("no more streams");
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) != 0) return absl::UnknownError("none");
    streams.push_back(fds[0]);
    return fds[1];
  }

  std::vector<std::string> asked;
  std::vector<Reply> late;
  std::vector<int> streams;
  bool is_full = false;
};

// A client over a descriptor, which the loop serves while it waits.
class Client {
 public:
  Client(os::EventLoop& loop, int fd) : loop_(loop), fd_(fd) {}
  ~Client() { Close(); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  void Close() {
    if (fd_ >= 0) close(std::exchange(fd_, -1));
  }
  // As much of it as there is room for; the rest is sent while the loop runs.
  void Send(const std::string& bytes) {
    for (size_t at = 0; at < bytes.size();) {
      const ssize_t sent = send(fd_, bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent > 0) at += static_cast<size_t>(sent);
      if (sent < 0 && errno != EAGAIN) return;
      loop_.RunFor(milliseconds(sent < 0 ? 1 : 0));
    }
  }
  // Until there is so much, or the server has hung up, or nothing comes for long.
  bool Has(size_t size, milliseconds limit = std::chrono::seconds(20)) {
    const auto end = std::chrono::steady_clock::now() + limit;
    while (received.size() < size) {
      char buffer[65536];
      const ssize_t got = recv(fd_, buffer, sizeof(buffer), MSG_DONTWAIT);
      if (got > 0) {
        received.append(buffer, static_cast<size_t>(got));
        continue;
      }
      was_reset = was_reset || (got < 0 && errno == ECONNRESET);
      is_hung_up = is_hung_up || got == 0 || was_reset;
      if (is_hung_up || std::chrono::steady_clock::now() > end) return false;
      loop_.RunFor(milliseconds(1));
    }
    return true;
  }
  // Whatever comes until the server hangs up.
  std::string ReceiveAll() {
    Has(SIZE_MAX);
    EXPECT_TRUE(is_hung_up);
    return std::exchange(received, "");
  }
  std::string ReceiveHead() {
    while (received.find("\r\n\r\n") == received.npos && Has(received.size() + 1)) continue;
    const size_t end = received.find("\r\n\r\n");
    if (end == received.npos) return std::exchange(received, "") + "(no end)";
    std::string head = received.substr(0, end + 4);
    received.erase(0, end + 4);
    return head;
  }
  // The head and the body of a response.
  std::pair<std::string, std::string> ReceiveResponse() {
    std::string head = ReceiveHead();
    const size_t at = head.find("Content-Length: ");
    size_t size = 0;
    if (at == head.npos || !absl::SimpleAtoi(head.substr(at + 16, head.find("\r\n", at) - at - 16), &size)) {
      return {head, "(no body)"};
    }
    return {head, Receive(size)};
  }
  std::string Receive(size_t size) {
    Has(size);
    std::string bytes = received.substr(0, size);
    received.erase(0, size);
    return bytes;
  }

  int fd() const { return fd_; }

  std::string received;
  bool is_hung_up = false, was_reset = false;

 private:
  os::EventLoop& loop_;
  int fd_;
};

class WebServerTest : public testing::Test {
 protected:
  WebServerTest() : loop_(*os::EventLoop::Create()), server_(*WebServer::Listen(*loop_, "127.0.0.1:0", handler_)) {
    const std::string url = server_->url();
    host_ = url.substr(7, url.find('/', 7) - 7);
    base_ = url.substr(url.find('/', 7));
  }

  std::unique_ptr<Client> Connect() {
    sockaddr_in address{.sin_family = AF_INET};
    uint32_t port = 0;
    EXPECT_TRUE(absl::SimpleAtoi(host_.substr(host_.find(':') + 1), &port));
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    loop_->RunFor(milliseconds(1));  // or the next one might find the queue full
    return std::make_unique<Client>(*loop_, fd);
  }
  void Settle() {
    for (int i = 0; i < 20; ++i) loop_->RunFor(milliseconds(1));
  }
  std::string Request(const std::string& path, const std::string& more = "", const std::string& method = "GET") {
    return absl::StrCat(method, " ", path, " HTTP/1.1\r\nHost: ", host_, "\r\n", more, "\r\n");
  }
  std::string Post(const std::string& path, const std::string& body) {
    return Request(path, absl::StrCat("Content-Length: ", body.size(), "\r\n"), "POST") + body;
  }
  // What somebody is told who asks so and is gone.
  std::string Ask(const std::string& request) {
    const auto client = Connect();
    client->Send(request);
    return client->ReceiveAll();
  }
  std::string Upgrade(const std::string& path, const std::string& more = "Sec-WebSocket-Version: 13\r\n",
                      const std::string& key = "dGhlIHNhbXBsZSBub25jZQ==") {
    return Request(path, absl::StrCat("Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Key: ",
                                      key, "\r\n", more));
  }
  std::unique_ptr<Client> OpenStream() {
    auto client = Connect();
    client->Send(Upgrade(base_ + "stream"));
    const std::string head = client->ReceiveHead();
    EXPECT_THAT(head, StartsWith("HTTP/1.1 101 "));
    EXPECT_THAT(head, HasSubstr("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));  // RFC 6455, 1.3
    return client;
  }

  Handler handler_;
  std::unique_ptr<os::EventLoop> loop_;
  std::unique_ptr<WebServer> server_;
  std::string host_, base_;
};

TEST_F(WebServerTest, AnswersWhoHasTheToken) {
  const auto client = Connect();
  for (const char* path : {"", "a/b.js", "x?query"}) {
    client->Send(Request(base_ + path));
    const auto [head, body] = client->ReceiveResponse();
    EXPECT_THAT(head, StartsWith("HTTP/1.1 200 OK\r\n"));
    for (const char* line : {"Cache-Control: no-store\r\n", "Referrer-Policy: no-referrer\r\n",
                             "X-Content-Type-Options: nosniff\r\n", "default-src 'none'", "frame-ancestors 'none'"}) {
      EXPECT_THAT(head, HasSubstr(line));
    }
    EXPECT_EQ(body, absl::StrCat("this is ", std::string(path).substr(0, std::string(path).find('?'))));
  }
  client->Send(Post(base_ + "do", "it"));
  EXPECT_EQ(client->ReceiveResponse().second, "this is do");
  EXPECT_THAT(handler_.asked, ElementsAre("GET  ", "GET a/b.js ", "GET x ", "POST do it"));
  EXPECT_EQ(server_->connections(), 1u);
  // Many at once, one after another, and in the smallest pieces.
  std::string many;
  for (int i = 0; i < 50; ++i) many += Request(base_ + "many");
  client->Send(many);
  for (int i = 0; i < 50; ++i) ASSERT_EQ(client->ReceiveResponse().second, "this is many");
  for (const char byte : Post(base_ + "piece", "meal")) client->Send(std::string(1, byte));
  EXPECT_EQ(client->ReceiveResponse().second, "this is piece");
  EXPECT_EQ(handler_.asked.back(), "POST piece meal");
}

TEST_F(WebServerTest, TellsNothingToWhoHasNot) {
  std::string almost = base_;
  almost[almost.size() - 2] ^= 1;
  for (const std::string& path : {std::string("/"), std::string("//"), almost, almost + "stream", std::string("*"),
                                  base_.substr(0, base_.size() - 1), base_.substr(0, 10) + "/", "/" + base_,
                                  base_.substr(0, base_.size() - 1) + "0/"}) {
    for (const std::string& request : {Request(path), Upgrade(path), Post(path, "x")}) {
      const std::string said = Ask(request);
      EXPECT_TRUE(said.substr(0, 12) == "HTTP/1.1 404" || said.substr(0, 12) == "HTTP/1.1 400") << said;
      EXPECT_THAT(said, HasSubstr("Content-Length: 0\r\n"));
      EXPECT_THAT(said, Not(HasSubstr("Content-Security-Policy")));
    }
  }
  EXPECT_THAT(handler_.asked, ElementsAre());
  EXPECT_TRUE(handler_.streams.empty());
}

TEST_F(WebServerTest, TellsNothingToOtherHostsAndOrigins) {
  for (const char* host : {"localhost", "localhost:8080", "127.0.0.1", "127.1.2.3:1", "[::1]", "[::1]:99"}) {
    const std::string origin = absl::StrCat("Origin: http://", host, "\r\nConnection: close\r\n");
    EXPECT_THAT(Ask(absl::StrCat("GET ", base_, " HTTP/1.1\r\nHost: ", host, "\r\n", origin, "\r\n")),
                StartsWith("HTTP/1.1 200"))
        << host;
  }
  for (const char* host : {"example.com", "localhost.example.com", "localhostx", "127.0.0.1.example.com", "10.0.0.1",
                           "[::2]", "localhost:", "localhost:80x", "example.com:80", "user@localhost", ""}) {
    EXPECT_THAT(Ask(absl::StrCat("GET ", base_, " HTTP/1.1\r\nHost: ", host, "\r\n\r\n")), StartsWith("HTTP/1.1 403"))
        << host;
  }
  EXPECT_THAT(Ask(absl::StrCat("GET ", base_, " HTTP/1.1\r\n\r\n")), StartsWith("HTTP/1.1 403"));
  EXPECT_THAT(Ask(Request(base_, "Host: example.com\r\n")), StartsWith("HTTP/1.1 400"));
  for (const std::string& origin : {std::string("http://example.com"), std::string("null"), std::string(""),
                                    "https://" + host_, "http://" + host_ + "0", std::string("http://127.0.0.1")}) {
    for (const std::string& request :
         {Request(base_, "Origin: " + origin + "\r\n"), Request(base_ + "do", "Origin: " + origin + "\r\n", "POST"),
          Upgrade(base_ + "stream", "Sec-WebSocket-Version: 13\r\nOrigin: " + origin + "\r\n")}) {
      EXPECT_THAT(Ask(request), StartsWith("HTTP/1.1 403")) << origin;
    }
  }
  EXPECT_EQ(handler_.asked.size(), 6u);
  EXPECT_TRUE(handler_.streams.empty());
}

TEST_F(WebServerTest, RefusesWhatIsNoRequestAndSaysSoToTheEnd) {
  EXPECT_THAT(Ask("nonsense\r\n\r\n"), StartsWith("HTTP/1.1 400"));
  EXPECT_THAT(Ask("\x16\x03\x01\x02" + std::string(200, '\1')), StartsWith("HTTP/1.1 400"));  // TLS
  EXPECT_THAT(Ask(Request(base_, "X: " + std::string(kMaxWebHeaders, 'x') + "\r\n")), StartsWith("HTTP/1.1 431"));
  EXPECT_THAT(Ask("GET " + base_ + std::string(1 << 20, 'x')), StartsWith("HTTP/1.1 4"));
  EXPECT_THAT(Ask(Request(base_, "", "DELETE")), StartsWith("HTTP/1.1 405"));
  EXPECT_THAT(Ask(Request(base_, "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", "POST")),
              StartsWith("HTTP/1.1 400"));
  EXPECT_THAT(Ask(Request(base_, "Content-Length: 99999999999999999999\r\n", "POST")), StartsWith("HTTP/1.1 4"));
  // A body in pieces, of which the lines above, or those behind the last, may have no end, or one where the parser expects none.
  const std::string in_pieces = Request("/", "Transfer-Encoding: chunked\r\n", "POST");
  for (const std::string& body : {std::string(), std::string("0\r\nhe\n"), "1;" + std::string(1 << 20, 'x'),
                                  "1\r\nx\r\n0\r\nX: " + std::string(1 << 20, 'x')}) {
    EXPECT_THAT(Ask(in_pieces + body), StartsWith("HTTP/1.1 411 Length Required"));
  }
  // A body that is too large is read no further, and yet the answer is not lost.
  const auto client = Connect();
  client->Send(Post(base_, std::string(1 << 20, 'x')));
  EXPECT_THAT(client->ReceiveAll(), StartsWith("HTTP/1.1 413"));
  EXPECT_FALSE(client->was_reset);
  EXPECT_TRUE(handler_.asked.empty());
  const auto most = Connect();
  most->Send(Post(base_ + "most", std::string(kMaxWebBody, 'x')));
  EXPECT_EQ(most->ReceiveResponse().second, "this is most");
}

TEST_F(WebServerTest, AnswersLateOrNotAtAll) {
  auto client = Connect(), gone = Connect();
  client->Send(Request(base_ + "late") + Request(base_ + "after"));
  gone->Send(Request(base_ + "late"));
  Settle();
  ASSERT_EQ(handler_.late.size(), 2u);
  EXPECT_EQ(client->received, "");
  gone = nullptr;
  Settle();
  for (auto& reply : std::exchange(handler_.late, {}))
    reply({.status = 409, .body = std::make_shared<const std::string>("no")});
  EXPECT_THAT(client->ReceiveHead(), StartsWith("HTTP/1.1 409 Conflict"));
  EXPECT_EQ(client->Receive(2), "no");
  EXPECT_EQ(client->ReceiveResponse().second, "this is after");
  client->Send(Request(base_ + "late"));
  Settle();
  ASSERT_EQ(handler_.late.size(), 1u);
  server_ = nullptr;
  handler_.late[0]({});
  EXPECT_FALSE(client->Has(1));
  EXPECT_TRUE(client->is_hung_up);
}

TEST_F(WebServerTest, CarriesAStream) {
  const auto client = OpenStream();
  ASSERT_EQ(handler_.streams.size(), 1u);
  Client behind(*loop_, dup(handler_.streams[0]));
  std::string text(1 << 20, '\0');
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 7 + i / 256);
  // There and back, both held up by each other's room.
  std::string got;
  for (size_t at = 0; at < text.size(); at += 60000) {
    client->Send(ClientFrame({}, text.substr(at, 60000)));
    behind.Has(std::min<size_t>(60000, text.size() - at));
    got += std::exchange(behind.received, "");
  }
  EXPECT_TRUE(got == text);
  behind.Send(text);
  got.clear();
  while (got.size() < text.size()) {
    const std::string head = client->Receive(2);
    ASSERT_EQ(static_cast<uint8_t>(head[0]), 0x82);
    size_t size = static_cast<uint8_t>(head[1]);
    if (size == 126) {
      const std::string length = client->Receive(2);
      size = static_cast<uint8_t>(length[0]) << 8 | static_cast<uint8_t>(length[1]);
    }
    ASSERT_LT(size, 65536u);
    got += client->Receive(size);
  }
  EXPECT_TRUE(got == text);
  client->Send(ClientFrame({.type = FrameType::kPing}, "there?"));
  EXPECT_EQ(client->Receive(8), "\x8a\x06there?");
  client->Send(ClientFrame({.type = FrameType::kClose}, "\x03\xe9"));
  EXPECT_EQ(client->ReceiveAll(), "\x88\x02\x03\xe8");
  behind.Has(1);
  EXPECT_TRUE(behind.is_hung_up);
  // What ends behind it ends it.
  const auto other = OpenStream();
  close(handler_.streams.back());
  handler_.streams.pop_back();
  EXPECT_EQ(other->ReceiveAll(), "\x88\x02\x03\xe9");
  const auto nonsense = OpenStream();
  nonsense->Send(std::string(100, '\xff'));
  EXPECT_EQ(nonsense->ReceiveAll(), "\x88\x02\x03\xea");
}

TEST_F(WebServerTest, OpensNoOtherWebSockets) {
  EXPECT_THAT(Ask(Upgrade(base_ + "nothing")), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(Ask(Upgrade(base_ + "stream", "")), StartsWith("HTTP/1.1 400"));
  EXPECT_THAT(Ask(Upgrade(base_ + "stream", "Sec-WebSocket-Version: 8\r\n")), StartsWith("HTTP/1.1 400"));
  EXPECT_THAT(Ask(Upgrade(base_ + "stream", "Sec-WebSocket-Version: 13\r\n", "c2hvcnQ=")), StartsWith("HTTP/1.1 400"));
  EXPECT_TRUE(handler_.streams.empty());
  handler_.is_full = true;
  EXPECT_THAT(Ask(Upgrade(base_ + "stream")), StartsWith("HTTP/1.1 503"));
}

// Whoever takes nothing of what it has asked for, and whoever sends without end and reads nothing, waits by itself.
TEST_F(WebServerTest, WaitsForNobody) {
  const auto stalled = Connect(), typist = OpenStream(), pinger = OpenStream();
  stalled->Send(Request(base_ + "large"));
  // How much of it is taken from who reads nothing, and whose stream nobody reads.
  const auto flood = [this](Client& client, const std::string& bytes) {
    size_t taken = 0;
    for (int idle = 0; idle < 50 && taken < (size_t{64} << 20);) {
      const ssize_t sent = send(client.fd(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      idle = sent > 0 ? 0 : idle + 1;
      taken += sent > 0 ? static_cast<size_t>(sent) : 0;
      loop_->RunFor(milliseconds(1));
    }
    return taken;
  };
  EXPECT_LT(flood(*typist, ClientFrame({}, std::string(60000, 'x'))), size_t{32} << 20);
  std::string pings;
  for (int i = 0; i < 500; ++i) pings += ClientFrame({.type = FrameType::kPing}, std::string(125, 'p'));
  EXPECT_LT(flood(*pinger, pings), size_t{32} << 20);
  for (int i = 0; i < 100; ++i) {
    const auto client = Connect();
    client->Send(Request(base_ + "quick"));
    ASSERT_EQ(client->ReceiveResponse().second, "this is quick");
  }
  // And has all of it in the end.
  EXPECT_EQ(stalled->ReceiveResponse().second.size(), kLarge);
}

TEST_F(WebServerTest, HasRoomForWhoAsks) {
  std::vector<std::unique_ptr<Client>> strangers, streams;
  for (size_t i = 0; i < 2 * kMaxWebConnections; ++i) strangers.push_back(Connect());
  Settle();
  EXPECT_EQ(server_->connections(), kMaxWebConnections);
  // Strangers go for those who have the token, and so does one of these who asks for nothing.
  const auto idle = Connect();
  idle->Send(Request(base_ + "a"));
  EXPECT_EQ(idle->ReceiveResponse().second, "this is a");
  for (size_t i = 0; i < kMaxWebConnections; ++i) streams.push_back(OpenStream());
  EXPECT_FALSE(idle->Has(1));
  EXPECT_EQ(server_->connections(), kMaxWebConnections);
  EXPECT_FALSE(strangers.back()->Has(1));
  // Where all are in use there is none.
  const auto late = Connect();
  EXPECT_FALSE(late->Has(1));
  EXPECT_TRUE(late->is_hung_up);
  streams.pop_back();
  for (int i = 0; i < 100 && server_->connections() == kMaxWebConnections; ++i) Settle();
  const auto next = Connect();
  next->Send(Request(base_ + "b"));
  EXPECT_EQ(next->ReceiveResponse().second, "this is b");
}

TEST_F(WebServerTest, LetsGoOfWhoDoesNotComeToAnEnd) {
  const auto half = Connect(), idle = Connect(), stream = OpenStream();
  half->Send("GET " + base_);
  idle->Send(Request(base_ + "a"));
  EXPECT_EQ(idle->ReceiveResponse().second, "this is a");
  const auto begin = std::chrono::steady_clock::now();
  // Bytes now and then do not help.
  while (!half->is_hung_up && std::chrono::steady_clock::now() < begin + std::chrono::seconds(60)) {
    half->Send("x");
    half->Has(1, milliseconds(100));
  }
  EXPECT_TRUE(half->is_hung_up);
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::seconds(9));
  idle->Has(1);
  EXPECT_TRUE(idle->is_hung_up);
  EXPECT_EQ(server_->connections(), 1u);  // a stream may be silent
}

TEST(WebAddressTest, IsOneOfThisHost) {
  const auto loop = *os::EventLoop::Create();
  Handler handler;
  const std::string path = testing::TempDir() + "web.sock";
  {
    const auto server = WebServer::Listen(*loop, "unix:" + path, handler);
    ASSERT_TRUE(server.ok()) << server.status();
    EXPECT_THAT((*server)->url(), StartsWith("http://localhost/"));
    EXPECT_EQ((*server)->url().size(), std::string("http://localhost//").size() + 32);
    struct stat file;
    ASSERT_EQ(stat(path.c_str(), &file), 0);
    EXPECT_EQ(file.st_mode & 0777, 0600u);
    const auto other = WebServer::Listen(*loop, "127.0.0.1:0", handler);
    ASSERT_TRUE(other.ok()) << other.status();
    const std::string url = (*other)->url();
    EXPECT_FALSE(WebServer::Listen(*loop, url.substr(7, url.find('/', 7) - 7), handler).ok());
    EXPECT_NE(url.substr(url.size() - 33), (*server)->url().substr((*server)->url().size() - 33));
  }
  EXPECT_NE(access(path.c_str(), F_OK), 0);
  for (const char* bad : {"", "0.0.0.0:1", "example.com:80", "127.0.0.1", "unix:"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(CheckWebAddress(bad))) << bad;
    EXPECT_FALSE(WebServer::Listen(*loop, bad, handler).ok()) << bad;
  }
}

}  // namespace
}  // namespace hvsdk::web
