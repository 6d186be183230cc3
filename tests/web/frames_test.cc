// SPDX-License-Identifier: Apache-2.0
#include "web/frames.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>

#include "absl/strings/escaping.h"
#include "hvsdk/web/web_server.h"
#include "tests/random_seed.h"
#include "tests/web/client_frame.h"
#include "web/sha1.h"

namespace hvsdk::web {
namespace {

TEST(Sha1Test, IsThatOfTheStandard) {
  // NIST's example values for FIPS 180.
  EXPECT_EQ(absl::BytesToHexString(Sha1("abc")), "a9993e364706816aba3e25717850c26c9cd0d89d");
  EXPECT_EQ(absl::BytesToHexString(Sha1("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")),
            "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
  EXPECT_EQ(absl::BytesToHexString(Sha1("")), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
  EXPECT_EQ(absl::BytesToHexString(Sha1(std::string(1'000'000, 'a'))), "34aa973cd4c4daa4f61eeb2bdbad27316534016f");
}

TEST(FramesTest, AreThoseOfTheStandard) {
  // RFC 6455, 5.7.
  std::string stream;
  FrameReader reader;
  const std::string pong("\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", 11);
  EXPECT_EQ(reader.Take(pong, stream), pong.size());
  EXPECT_EQ(reader.close_code(), CloseCode::kNone);
  EXPECT_EQ(stream, "");
  const std::string ping("\x89\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", 11);
  EXPECT_EQ(reader.Take(ping, stream), ping.size());
  ASSERT_TRUE(reader.is_pinged());
  EXPECT_EQ(reader.ping(), "Hello");

  std::string output;
  AppendFrame(FrameType::kPong, "Hello", output);
  EXPECT_EQ(output, "\x8a\x05Hello");
  output.clear();
  AppendFrame(FrameType::kBinary, std::string(256, 'x'), output);
  EXPECT_EQ(output.substr(0, 4), std::string("\x82\x7e\x01\x00", 4));
  EXPECT_EQ(output.size(), 4u + 256);
  output.clear();
  AppendFrame(FrameType::kBinary, std::string(65536, 'x'), output);
  EXPECT_EQ(output.substr(0, 10), std::string("\x82\x7f\0\0\0\0\0\x01\0\0", 10));
  output.clear();
  AppendClose(CloseCode::kTooBig, output);
  EXPECT_EQ(output, "\x88\x02\x03\xf1");
}

// Whatever pieces they come in, and whatever control frames come between, the stream is what was sent.
TEST(FramesTest, CarryAStreamInAnyPieces) {
  std::mt19937 random(TestSeed());
  for (int round = 0; round < 200; ++round) {
    std::string sent, bytes, pings;
    bool is_fragmented = false;
    for (int frame = 0; frame < 20; ++frame) {
      std::string payload(random() % (frame == 0 ? kMaxWebFrame + 1 : 300), '\0');
      for (char& c : payload) c = static_cast<char>(random());
      if (random() % 3 == 0) {
        payload.resize(std::min<size_t>(payload.size(), FrameReader::kMaxControl));
        const bool is_ping = random() % 2 == 0;
        bytes += ClientFrame({.type = is_ping ? FrameType::kPing : FrameType::kPong}, payload, random());
        if (is_ping) pings += payload;
        continue;
      }
      const bool is_final = random() % 2 == 0;
      const FrameType type = is_fragmented ? FrameType::kContinuation : FrameType::kBinary;
      bytes += ClientFrame({.type = type, .is_final = is_final}, payload, random());
      is_fragmented = !is_final;
      sent += payload;
    }
    std::string stream, pinged;
    FrameReader reader;
    for (size_t at = 0; at < bytes.size();) {
      const size_t size = std::min<size_t>(bytes.size() - at, random() % 3 == 0 ? 1 : random() % 5000 + 1);
      const size_t taken = reader.Take(absl::string_view(bytes).substr(at, size), stream);
      ASSERT_TRUE(taken == size || reader.is_pinged());
      if (reader.is_pinged()) pinged.append(reader.ping().data(), reader.ping().size());
      at += taken;
    }
    EXPECT_EQ(reader.close_code(), CloseCode::kNone);
    EXPECT_EQ(stream, sent);
    EXPECT_EQ(pinged, pings);
  }
}

CloseCode CodeOf(const std::string& bytes) {
  FrameReader reader;
  std::string stream;
  for (size_t at = 0; at < bytes.size() && reader.close_code() == CloseCode::kNone;) {
    at += reader.Take(absl::string_view(bytes).substr(at), stream);
  }
  return reader.close_code();
}

TEST(FramesTest, AreRefusedWhereTheyAreNone) {
  EXPECT_EQ(CodeOf(ClientFrame({.type = FrameType::kText}, "a")), CloseCode::kUnsupported);
  EXPECT_EQ(CodeOf(ClientFrame({.type = FrameType::kClose}, "")), CloseCode::kNormal);
  EXPECT_EQ(CodeOf(ClientFrame({.type = FrameType::kClose}, "\x03\xe8 bye")), CloseCode::kNormal);
  EXPECT_EQ(CodeOf(ClientFrame({.type = FrameType::kClose}, "x")), CloseCode::kProtocolError);
  EXPECT_EQ(CodeOf(ClientFrame({}, std::string(kMaxWebFrame, 'x'))), CloseCode::kNone);
  EXPECT_EQ(CodeOf(ClientFrame({}, std::string(kMaxWebFrame + 1, 'x'))), CloseCode::kTooBig);
  EXPECT_EQ(CodeOf(ClientFrame({.is_masked = false}, "a")), CloseCode::kProtocolError);
  EXPECT_EQ(CodeOf(ClientFrame({.reserved = 0x40}, "a")), CloseCode::kProtocolError);
  EXPECT_EQ(CodeOf(ClientFrame({.type = static_cast<FrameType>(3)}, "a")), CloseCode::kProtocolError);
  EXPECT_EQ(CodeOf(ClientFrame({.type = static_cast<FrameType>(0xB)}, "a")), CloseCode::kProtocolError);
  EXPECT_EQ(CodeOf(ClientFrame({.type = FrameType::kContinuation}, "a")), CloseCode::kProtocolError);
  EXPECT_EQ(CodeOf(ClientFrame({.is_final = false}, "a") + ClientFrame({}, "a")), CloseCode::kProtocolError);
  EXPECT_EQ(CodeOf(ClientFrame({.type = FrameType::kPing, .is_final = false}, "a")), CloseCode::kProtocolError);
  EXPECT_EQ(CodeOf(ClientFrame({.type = FrameType::kPing}, std::string(126, 'x'))), CloseCode::kProtocolError);
  // Lengths that could have been said shorter, and such as nobody has.
  EXPECT_EQ(CodeOf(std::string("\x82\xfe\x00\x7d\0\0\0\0", 8)), CloseCode::kProtocolError);
  EXPECT_EQ(CodeOf(std::string("\x82\xff\0\0\0\0\0\0\xff\xff\0\0\0\0", 14)), CloseCode::kProtocolError);
  EXPECT_EQ(CodeOf(std::string("\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", 14)), CloseCode::kTooBig);
}

}  // namespace
}  // namespace hvsdk::web
