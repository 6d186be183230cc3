// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmbus/transcript.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "hvsdk/memory/guest_memory.h"
#include "tests/random_seed.h"

namespace hvsdk::vmbus {
namespace {

// Any message comes back as it was, whatever its bytes.
TEST(MessageTextTest, RoundTripOfAnyBytes) {
  const uint32_t seed = TestSeed();
  std::mt19937 random(seed);
  int with_fields = 0;
  for (int i = 0; i < 50000; ++i) {
    std::vector<uint8_t> message(random() % 241);
    const uint32_t style = random() % 3;  // all random; sparse; zero
    for (uint8_t& byte : message) byte = style == 0 || (style == 1 && random() % 4 == 0) ? random() : 0;
    if (message.size() >= 8 && style != 0) {
      message[0] = random() % 28;
      std::fill(message.begin() + 1, message.begin() + 8, 0);
      constexpr size_t kSizes[] = {8, 12, 16, 20, 28, 40, 44, 148, 196};
      if (random() % 2 == 0) message.resize(kSizes[random() % std::size(kSizes)]);
    }
    const std::string text = FormatMessage(message);
    with_fields += text.compare(0, 3, "raw") != 0;
    const auto back = ParseMessage(text);
    ASSERT_TRUE(back.ok()) << back.status() << ": " << text;
    ASSERT_EQ(*back, message) << text;
    ASSERT_EQ(text.find('\n'), std::string::npos);
  }
  EXPECT_GT(with_fields, 1000);
}

TEST(MessageTextTest, SaysWhatIsWrong) {
  for (const char* bad :
       {"", "no-such-message", "open-channel channel", "open-channel colour=3", "open-channel channel=x",
        "open-channel channel=4294967296", "unload channel=1", "close-channel channel=1 channel=2",
        "initiate-contact version=5", "initiate-contact version=70000.1", "raw 1", "raw 0g",
        "gpadl-body gpadl=1 words=zz", "tl-connect-request endpoint=00"}) {
    const auto message = ParseMessage(bad);
    ASSERT_FALSE(message.ok()) << bad;
    EXPECT_FALSE(message.status().message().empty());
  }
}

class ReplayTest : public testing::Test {
 protected:
  ReplayTest() : bytes_(256 * kPageSize) { EXPECT_TRUE(memory_.AddRange(0, absl::MakeSpan(bytes_)).ok()); }
  GuestMemory memory_;
  std::vector<uint8_t> bytes_;
};

TEST_F(ReplayTest, NamesTheLineThatIsWrong) {
  const struct {
    const char* text;
    const char* error;
  } rows[] = {{"> unload\n! what", "line 2: no act \"what\""},
              {"! complete-open id=1 accepted=1", "line 1: no offer has id 1"},
              {"! add-offer\n! complete-close id=1", "line 2: nothing is there to be completed"},
              {"! add-offer\n! release-gpadl id=1 gpadl=1", "line 2: there is no lease to be released"},
              {"! add-offer\n! remove-offer id=1\n! remove-offer id=1", "line 3: no offer has id 1"},
              {"? unload", "line 1: a line starts with >, <, !, @ or #"},
              {"> unload again", "line 1: \"again\" is not field=value"}};
  for (const auto& row : rows) {
    const auto result = ReplayTranscript(row.text, memory_, {});
    ASSERT_FALSE(result.ok()) << row.text;
    EXPECT_EQ(result.status().message(), row.error);
  }
}

// Golden transcripts: what is in the file is what the server says today.
TEST_F(ReplayTest, GoldenTranscripts) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(HVSDK_TRANSCRIPTS)) {
    SCOPED_TRACE(entry.path());
    std::ifstream file(entry.path());
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    const auto replayed = ReplayTranscript(text, memory_, {.vp_count = 4});
    ASSERT_TRUE(replayed.ok()) << replayed.status();
    std::string expected;
    for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
      if (line[0] != '#') expected.append(line.data(), line.size()).append("\n");
    }
    EXPECT_EQ(*replayed, expected);
    ++files;
  }
  EXPECT_GE(files, 5);
}

}  // namespace
}  // namespace hvsdk::vmbus
