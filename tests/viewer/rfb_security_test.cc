// SPDX-License-Identifier: Apache-2.0
// Who is let in: VNC's password, TLS, certificates.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/des.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "hvsdk/base/fake_clock.h"
#include "hvsdk/viewer/rfb_server.h"
#include "tests/viewer/fake_display.h"
#include "tests/viewer/rfb_client.h"
#include "tests/viewer/tls_client.h"
#include "viewer/rfb_guard.h"

namespace hvsdk::viewer {
namespace {

using testing::HasSubstr;

// FIPS 81's example of DES in electronic code book: key 0123456789ABCDEF. VNC has each byte of a key the other way round.
constexpr char kFipsPassword[] = "\x80\xC4\xA2\xE6\x91\xD5\xB3\xF7";
constexpr absl::string_view kFipsPlain = "Now is the time ";
constexpr absl::string_view kFipsCipher("\x3F\xA4\x0E\x8A\x98\x4D\x48\x15\x6A\x27\x17\x87\xAB\x88\x83\xF9", 16);

absl::Span<const uint8_t> Bytes(absl::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

RfbGuard::Challenge ChallengeOf(absl::string_view text) {
  RfbGuard::Challenge challenge;
  std::copy(text.begin(), text.end(), challenge.begin());
  return challenge;
}

TEST(RfbGuardTest, ChecksAResponseByDes) {
  FakeClock clock;
  const auto guard = *RfbGuard::Create(kFipsPassword, "", clock);
  EXPECT_EQ(guard->Check(ChallengeOf(kFipsPlain), Bytes(kFipsCipher)), RfbGuard::Verdict::kRight);
  for (size_t bit = 0; bit < 8 * kFipsCipher.size(); ++bit) {
    std::string wrong(kFipsCipher);
    wrong[bit / 8] = static_cast<char>(wrong[bit / 8] ^ 1 << bit % 8);
    EXPECT_EQ(guard->Check(ChallengeOf(kFipsPlain), Bytes(wrong)), RfbGuard::Verdict::kWrong);
    clock.Advance(20'000'000);
  }
  EXPECT_EQ(guard->Check(ChallengeOf(kFipsPlain), Bytes(kFipsCipher.substr(0, 15))), RfbGuard::Verdict::kWrong);
}

TEST(RfbGuardTest, LetsNobodyGuessForLong) {
  FakeClock clock;
  const auto guard = *RfbGuard::Create(kFipsPassword, "", clock);
  const RfbGuard::Challenge challenge = ChallengeOf(kFipsPlain);
  const std::string wrong(16, 'x');
  for (int i = 0; i < 5; ++i) EXPECT_EQ(guard->Check(challenge, Bytes(wrong)), RfbGuard::Verdict::kWrong);
  // Neither is the right one looked at.
  EXPECT_EQ(guard->Check(challenge, Bytes(wrong)), RfbGuard::Verdict::kTooOften);
  EXPECT_EQ(guard->Check(challenge, Bytes(kFipsCipher)), RfbGuard::Verdict::kTooOften);
  clock.Advance(20'000'000);
  EXPECT_EQ(guard->Check(challenge, Bytes(kFipsCipher)), RfbGuard::Verdict::kRight);
  EXPECT_EQ(guard->Check(challenge, Bytes(wrong)), RfbGuard::Verdict::kWrong);
  EXPECT_EQ(guard->Check(challenge, Bytes(kFipsCipher)), RfbGuard::Verdict::kTooOften);
  // In a hundred seconds one of each two seconds is looked at, however many come.
  int looked_at = 0;
  for (int i = 0; i < 1000; ++i) {
    looked_at += guard->Check(challenge, Bytes(wrong)) == RfbGuard::Verdict::kWrong;
    clock.Advance(1'000'000);
  }
  EXPECT_GE(looked_at, 49);
  EXPECT_LE(looked_at, 51);
}

TEST(RfbGuardTest, AsksEachTimeSomethingElse) {
  FakeClock clock;
  const auto guard = *RfbGuard::Create(kFipsPassword, "", clock);
  EXPECT_NE(*guard->NewChallenge(), *guard->NewChallenge());
}

class RfbSecurityTest : public testing::Test {
 protected:
  RfbSecurityTest() : loop_(*os::EventLoop::Create()) {
    char folder[] = "/tmp/rfb_security_test.XXXXXX";
    folder_ = mkdtemp(folder);
    server_certificate_.WriteTo(folder_ + "/server-cert.pem");
    server_certificate_.WriteKeyTo(folder_ + "/server-key.pem");
    display_.Show(32, 16);
    for (uint32_t i = 0; i < 32 * 16; ++i) display_.Draw(i % 32, i / 32, PixelOf(i));
  }
  ~RfbSecurityTest() override { std::filesystem::remove_all(folder_); }

  static uint32_t PixelOf(uint32_t i) { return i * 0x010305 & 0xFFFFFF; }
  void Serve(const std::string& password, const std::string& tls) {
    server_ = *RfbServer::Create(
        *loop_,
        {.display = &display_, .keys = &sinks_, .pointer = &sinks_, .name = "vm", .password = password, .tls = tls});
    ASSERT_TRUE(server_->Listen("127.0.0.1:0").ok());
  }
  std::unique_ptr<RfbClient> Connect() {
    const std::string address = server_->address();
    uint32_t port = 0;
    EXPECT_TRUE(absl::SimpleAtoi(address.substr(address.rfind(':') + 1), &port));
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT_EQ(connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof(to)), 0);
    return std::make_unique<RfbClient>(*loop_, fd);
  }
  static std::string ResponseTo(const std::string& challenge, const std::string& password) {
    DES_cblock key = {};
    for (size_t i = 0; i < std::min<size_t>(8, password.size()); ++i) {
      for (int bit = 0; bit < 8; ++bit) key[i] |= static_cast<uint8_t>((password[i] >> bit & 1) << (7 - bit));
    }
    DES_key_schedule schedule;
    DES_set_key_unchecked(&key, &schedule);
    std::string response = challenge;
    for (size_t at = 0; at < response.size(); at += 8) {
      auto* const block = reinterpret_cast<DES_cblock*>(response.data() + at);
      DES_ecb_encrypt(block, block, &schedule, DES_ENCRYPT);
    }
    return response;
  }
  // Up to what TLS begins with.
  static void BeginTls(RfbClient& client, uint32_t type) {
    EXPECT_EQ(client.Receive(12), "RFB 003.008\n");
    client.Send("RFB 003.008\n");
    EXPECT_EQ(client.Receive(2), "\1\x13");
    client.Send("\x13");
    EXPECT_EQ(client.Receive16(), 2);
    client.Send(std::string("\0\2", 2));
    EXPECT_EQ(client.Receive8(), 0);
    EXPECT_EQ(client.Receive8(), 1);
    EXPECT_EQ(client.Receive32(), type);
    std::string chosen;
    PutBe32(chosen, type);
    client.Send(chosen);
    EXPECT_EQ(client.Receive8(), 1);
  }
  void Wrap(RfbClient& client, TlsClient& tls) {
    client.Send(tls.Output());
    client.Wrap([&](const std::string& plain) { return tls.Seal(plain); },
                [&](const std::string& bytes) { return tls.Open(bytes); });
    for (int i = 0; i < 1000 && !tls.is_ready() && !client.Has(1, std::chrono::milliseconds(2)); ++i) continue;
    if (tls.is_ready()) client.Send("");
  }
  void ExpectPicture(RfbClient& client) {
    client.Ask(false);
    EXPECT_EQ(client.Update(), 32u * 16);
    for (uint32_t i = 0; i < 32 * 16; ++i) ASSERT_EQ(client.pixels[i], PixelOf(i)) << i;
  }

  FakeDisplay display_;
  FakeSinks sinks_;
  std::unique_ptr<os::EventLoop> loop_;
  const Certificate server_certificate_{"server"};
  std::string folder_;
  std::unique_ptr<RfbServer> server_;
};

TEST_F(RfbSecurityTest, AsksForAPasswordInEachVersion) {
  Serve("secret", "");
  for (const char minor : {'8', '7', '3'}) {
    for (const bool is_right : {true, false}) {
      SCOPED_TRACE(absl::StrCat("3.", std::string(1, minor), is_right ? " right" : " wrong"));
      const auto client = Connect();
      client->Receive(12);
      client->Send(absl::StrCat("RFB 003.00", std::string(1, minor), "\n"));
      if (minor == '3') {
        EXPECT_EQ(client->Receive32(), 2u);
      } else {
        EXPECT_EQ(client->Receive(2), "\1\2");
        client->Send("\2");
      }
      client->Send(ResponseTo(client->Receive(16), is_right ? "secret" : "secreT"));
      EXPECT_EQ(client->Receive32(), is_right ? 0u : 1u);
      EXPECT_EQ(server_->viewers(), 0u);
      if (is_right) {
        client->Enter();
        ExpectPicture(*client);
        EXPECT_EQ(server_->viewers(), 1u);
      } else {
        if (minor == '8') {
          EXPECT_EQ(client->Receive(client->Receive32()), "the password is wrong");
        }
        EXPECT_TRUE(client->is_hung_up());
      }
    }
  }
}

TEST_F(RfbSecurityTest, LetsNobodyPastThePassword) {
  Serve("secret", "");
  const std::string ways[] = {
      std::string("\1\1"),         // no security, as if it were offered
      std::string("\x13") + "\2",  // TLS
      std::string("\0\1", 2),      // nothing
  };
  for (const std::string& way : ways) {
    const auto client = Connect();
    client->Receive(12);
    client->Send("RFB 003.008\n");
    client->Receive(2);
    client->Send(way);
    EXPECT_TRUE(client->is_hung_up());
  }
  // What comes behind a wrong answer counts for nothing.
  const auto client = Connect();
  client->Receive(12);
  client->Send("RFB 003.008\n");
  client->Receive(2);
  client->Send("\2");
  client->Receive(16);
  client->Send(std::string(16, 'x') + "\1" + std::string("\3\0\0\0\0\0\0\40\0\20", 10));
  EXPECT_EQ(client->Receive32(), 1u);
  client->Receive(client->Receive32());
  EXPECT_TRUE(client->is_hung_up());
  EXPECT_EQ(server_->viewers(), 0u);
}

TEST_F(RfbSecurityTest, SaysAllInTls) {
  Serve("", folder_);
  const auto client = Connect();
  BeginTls(*client, kX509None);
  TlsClient tls;
  Wrap(*client, tls);
  EXPECT_EQ(client->Receive32(), 0u);
  client->Enter();
  ExpectPicture(*client);
  EXPECT_EQ(tls.tickets(), 0);
  // A larger one than what is sent at once.
  display_.Show(1920, 1080);
  client->SetEncodings({kDesktopSize, kRaw});
  client->Ask(true);
  client->Update();
  EXPECT_EQ(client->width, 1920u);
  client->Ask(true);
  EXPECT_EQ(client->Update(), 1920u * 1080);
  client->Key('a', true);
  client->Key('a', false);
  for (int i = 0; i < 1000 && sinks_.keys.size() < 2; ++i) loop_->RunFor(std::chrono::milliseconds(1));
  EXPECT_EQ(sinks_.keys.size(), 2u);
  // An end in good order.
  tls.End();
  client->Send("");
  EXPECT_TRUE(client->is_hung_up());
  EXPECT_EQ(server_->viewers(), 0u);
  display_.Change({0, 0, 10, 10});  // nobody is told any more
}

TEST_F(RfbSecurityTest, AsksForAPasswordInTls) {
  Serve("secret", folder_);
  for (const bool is_right : {true, false}) {
    const auto client = Connect();
    BeginTls(*client, kX509Vnc);
    TlsClient tls;
    Wrap(*client, tls);
    client->Send(ResponseTo(client->Receive(16), is_right ? "secret" : "Secret"));
    EXPECT_EQ(client->Receive32(), is_right ? 0u : 1u);
    if (is_right) {
      client->Enter();
      ExpectPicture(*client);
    } else {
      EXPECT_EQ(client->Receive(client->Receive32()), "the password is wrong");
      EXPECT_TRUE(client->is_hung_up());
    }
  }
  // Without TLS there is none of it.
  for (const char* version : {"RFB 003.008\n", "RFB 003.003\n"}) {
    const auto client = Connect();
    client->Receive(12);
    client->Send(version);
    if (version[10] == '3') {
      EXPECT_EQ(client->Receive32(), 0u);
      EXPECT_EQ(client->Receive(client->Receive32()), "TLS needs RFB 3.7");
    } else {
      EXPECT_EQ(client->Receive(2), "\1\x13");
      client->Send("\2");
    }
    EXPECT_TRUE(client->is_hung_up());
  }
}

TEST_F(RfbSecurityTest, AsksForCertificates) {
  const Certificate authority("authority"), other("authority");
  const Certificate known("viewer", &authority), unknown("viewer", &other);
  authority.WriteTo(folder_ + "/ca-cert.pem");
  Serve("", folder_);
  for (const Certificate* own : {&known, &unknown, static_cast<const Certificate*>(nullptr)}) {
    const auto client = Connect();
    BeginTls(*client, kX509None);
    TlsClient tls(own);
    Wrap(*client, tls);
    if (own == &known) {
      EXPECT_EQ(client->Receive32(), 0u);
      client->Enter();
      ExpectPicture(*client);
    } else {
      EXPECT_TRUE(client->is_hung_up());
    }
  }
  EXPECT_EQ(server_->viewers(), 0u);
}

TEST_F(RfbSecurityTest, TakesNoNonsenseForTls) {
  Serve("", folder_);
  for (const std::string& nonsense : {std::string("\1"), std::string(5000, '\x16'), std::string(100, '\0')}) {
    const auto client = Connect();
    BeginTls(*client, kX509None);
    client->Send(nonsense);
    client->Send(std::string(200, 'x'));
    EXPECT_TRUE(client->is_hung_up());
  }
}

TEST_F(RfbSecurityTest, OwesNobodyEndlessAnswersInTls) {
  const auto credentials = TlsCredentials::Load(folder_);
  ASSERT_TRUE(credentials.ok()) << credentials.status();
  const std::unique_ptr<TlsStream> stream = (*credentials)->Accept();
  TlsClient client;
  std::string plain;
  const auto exchange = [&] {
    const std::string bytes = client.Output();
    return stream->Receive({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, plain);
  };
  std::string answer;
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(exchange());
    answer.clear();
    stream->TakeOutput(answer);
    client.Open(answer);
  }
  ASSERT_TRUE(stream->is_ready());
  // Who takes its answers has as many as it likes; who does not, is cut off.
  int taken = 0, owed = 0;
  for (; taken < 4500; ++taken) {
    client.ChangeKeys();
    ASSERT_TRUE(exchange());
    answer.clear();
    stream->TakeOutput(answer);
    client.Open(answer);
  }
  do {
    client.ChangeKeys();
  } while (exchange() && ++owed < 10'000);
  EXPECT_GT(owed, 100);
  EXPECT_LT(owed, 5000);
  answer.clear();
  stream->TakeOutput(answer);
  EXPECT_LT(answer.size(), 128u << 10);
}

TEST_F(RfbSecurityTest, ListensElsewhereForFriendsAlone) {
  const auto listen = [&](const std::string& password, const std::string& tls) {
    server_ = *RfbServer::Create(*loop_, {.display = &display_, .name = "vm", .password = password, .tls = tls});
    return server_->Listen("0.0.0.0:0");
  };
  EXPECT_THAT(listen("", "").message(), HasSubstr("0.0.0.0\" is no address of this host's loopback"));
  EXPECT_FALSE(listen("", folder_).ok());  // whose door is open, for all its walls
  EXPECT_TRUE(listen("secret", "").ok());
  EXPECT_TRUE(listen("secret", folder_).ok());
  Certificate("authority").WriteTo(folder_ + "/ca-cert.pem");
  EXPECT_TRUE(listen("", folder_).ok());
}

TEST_F(RfbSecurityTest, NamesWhatIsWrong) {
  const auto create = [&](const std::string& password, const std::string& tls) {
    return RfbServer::Create(*loop_, {.display = &display_, .name = "vm", .password = password, .tls = tls}).status();
  };
  EXPECT_THAT(create("ninechars", "").message(), HasSubstr("the password has 9 bytes, and VNC knows 8"));
  EXPECT_THAT(create("", "/nowhere").message(), HasSubstr("/nowhere/server-cert.pem: No such file"));
  server_certificate_.WriteKeyTo(folder_ + "/server-key.pem", "word");
  EXPECT_THAT(create("", folder_).message(),
              HasSubstr(folder_ + "/server-key.pem: not the certificate's private key in PEM form: "));
  Certificate("other").WriteKeyTo(folder_ + "/server-key.pem");
  EXPECT_THAT(
      create("", folder_).message(),
      HasSubstr(folder_ + "/server-key.pem: not the certificate's private key in PEM form: key values mismatch"));
  server_certificate_.WriteKeyTo(folder_ + "/server-key.pem");
  EXPECT_TRUE(create("", folder_).ok());
  server_certificate_.WriteKeyTo(folder_ + "/ca-cert.pem");  // which is no certificate
  EXPECT_THAT(create("", folder_).message(), HasSubstr(folder_ + "/ca-cert.pem: "));
}

}  // namespace
}  // namespace hvsdk::viewer
