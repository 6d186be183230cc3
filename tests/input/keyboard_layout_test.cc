// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/input/keyboard_layout.h"

#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/input/keys.h"

namespace hvsdk::input {
namespace {

using testing::HasSubstr;

// "+2a +1e -1e -2a"; of characters, "+u20ac".
std::string Text(const absl::StatusOr<std::vector<KeyEvent>>& events) {
  if (!events.ok()) return std::string(events.status().message());
  return absl::StrJoin(*events, " ", [](std::string* out, const KeyEvent& event) {
    absl::StrAppendFormat(out, "%s%s%x", event.is_pressed ? "+" : "-", event.is_unicode ? "u" : "", event.code);
  });
}

KeyboardLayout Layout(absl::string_view name) {
  absl::StatusOr<KeyboardLayout> layout = KeyboardLayout::Load(name);
  EXPECT_TRUE(layout.ok()) << layout.status();
  return *std::move(layout);
}

TEST(KeysTest, EachIsOne) {
  std::set<std::string> codes;
  std::set<uint32_t> scan_codes, linux_codes, keysyms;
  for (const Key& key : Keys()) {
    EXPECT_TRUE(codes.insert(key.code).second) << key.code;
    EXPECT_TRUE(scan_codes.insert(key.scan_code).second) << key.code;
    EXPECT_TRUE(IsScanCode(key.scan_code)) << key.code;
    if (key.linux_code != 0) {
      EXPECT_TRUE(linux_codes.insert(key.linux_code).second) << key.code;
    }
    if (key.keysym != 0) {
      EXPECT_TRUE(keysyms.insert(key.keysym).second) << key.code;
    }
    EXPECT_EQ(FindKey(key.code), &key);
    // Linux gives most keys the number that they have in set 1.
    if (key.scan_code <= 0x53 && key.linux_code != 0) {
      EXPECT_EQ(key.scan_code, key.linux_code) << key.code;
    }
  }
}

TEST(KeysTest, Names) {
  EXPECT_STREQ(FindKey("ctrl")->code, "ControlLeft");
  EXPECT_STREQ(FindKey("keya")->code, "KeyA");
  EXPECT_STREQ(FindKey("ALTGR")->code, "AltRight");
  EXPECT_EQ(FindKey("hyper"), nullptr);
  EXPECT_EQ(FindKey(""), nullptr);
  EXPECT_EQ(FindKeyByLinuxCode(0), nullptr);
  EXPECT_EQ(FindKeyByLinuxCode(111)->scan_code, 0xE053);
}

TEST(KeyboardLayoutTest, UnitedStates) {
  const KeyboardLayout us = Layout("us");
  EXPECT_EQ(Text(us.Type("aB")), "+1e -1e +2a +30 -30 -2a");
  EXPECT_EQ(Text(us.Type("\t|\n")), "+f -f +2a +2b -2b -2a +1c -1c");
  std::string all;
  for (char c = ' '; c <= '~'; ++c) all.push_back(c);
  EXPECT_TRUE(us.Type(all).ok());
  EXPECT_EQ(us.Type(std::string())->size(), 0u);
}

TEST(KeyboardLayoutTest, WhatCannotBeTyped) {
  const KeyboardLayout us = Layout("us");
  EXPECT_EQ(Text(us.Type("für")), "the keyboard layout \"us\" has no keys for \"ü\" (U+00FC)");
  EXPECT_EQ(Text(us.Type("a\x1b")), "the keyboard layout \"us\" has no keys for U+001B");
  EXPECT_EQ(Text(us.Type("\xE2\x80\xAE")), "the keyboard layout \"us\" has no keys for U+202E");
  EXPECT_EQ(Text(us.Type("🪨")), "the keyboard layout \"us\" has no keys for U+1FAA8");
  for (const char* const bad : {"\xFF", "\xC0\x80", "\xE2\x82", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\x80"}) {
    EXPECT_THAT(Text(us.Type(bad)), HasSubstr("not UTF-8")) << bad;
  }
}

TEST(KeyboardLayoutTest, Characters) {
  const KeyboardLayout us = Layout("us");
  EXPECT_EQ(Text(us.Type("a€🪨", /*unicode=*/true)), "+1e -1e +u20ac -u20ac +ud83e -ud83e +udea8 -udea8");
  EXPECT_THAT(Text(us.Type("\x01", /*unicode=*/true)), HasSubstr("U+0001"));
}

TEST(KeyboardLayoutTest, Chords) {
  const KeyboardLayout us = Layout("us");
  EXPECT_EQ(Text(us.Chord("ctrl-alt-delete")), "+1d +38 +e053 -e053 -38 -1d");
  EXPECT_EQ(Text(us.Chord("Ctrl-C")), "+1d +2e -2e -1d");
  EXPECT_EQ(Text(us.Chord("ctrl--")), "+1d +c -c -1d");
  EXPECT_EQ(Text(us.Chord("-")), "+c -c");
  EXPECT_EQ(Text(us.Chord("?")), "+2a +35 -35 -2a");
  EXPECT_EQ(Text(us.Chord("shift-?")), "+2a +35 -35 -2a");
  EXPECT_EQ(Text(us.Chord("pause")), "+e11d -e11d");
  EXPECT_EQ(Text(us.Chord("shift-a", KeyAction::kPress)), "+2a +1e");
  EXPECT_EQ(Text(us.Chord("shift-a", KeyAction::kRelease)), "-1e -2a");
  EXPECT_EQ(Text(us.Chord("ctrl-hyper")),
            "\"hyper\" is no key of the keyboard layout \"us\"; those are named as in ctrl-alt-delete");
  EXPECT_THAT(Text(us.Chord("ctrl-")), HasSubstr("lacks a key"));
  EXPECT_THAT(Text(us.Chord("")), HasSubstr("a key is needed"));
  EXPECT_THAT(Text(us.Chord("a-b-c-d-e-f-g-h-i-j-k-l-m-n-o-p-q")), HasSubstr("fingers"));
}

TEST(KeyboardLayoutTest, Keysyms) {
  const KeyboardLayout us = Layout("us");
  EXPECT_EQ(us.CodeOfKeysym('A'), 0x1E);
  EXPECT_EQ(us.CodeOfKeysym(0xFF54), 0xE050);     // Down
  EXPECT_EQ(us.CodeOfKeysym(0xFF99), 0x50);       // KP_Down
  EXPECT_EQ(us.CodeOfKeysym(0xFE03), 0xE038);     // ISO_Level3_Shift
  EXPECT_EQ(us.CodeOfKeysym(0x0100'0061), 0x1E);  // a, by its number
  EXPECT_FALSE(us.CodeOfKeysym(0xE4).has_value());
}

TEST(KeyboardLayoutTest, LayoutsThatThereAreNot) {
#ifdef HVSDK_HAVE_XKB
  for (const char* const name : {"", "xy", "../de", "de:", "de:nothing", "de\nus", "de,us"}) {
    const absl::Status status = KeyboardLayout::Load(name).status();
    if (absl::IsUnimplemented(status)) GTEST_SKIP() << status;
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << name << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("is no keyboard layout of this host's"));
    EXPECT_EQ(status.message().find('\n'), absl::string_view::npos);
  }
#else
  EXPECT_TRUE(absl::IsUnimplemented(KeyboardLayout::Load("de").status()));
#endif
}

#ifdef HVSDK_HAVE_XKB
class XkbTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const absl::Status status = KeyboardLayout::Load("de").status(); !status.ok()) GTEST_SKIP() << status;
  }
};

TEST_F(XkbTest, German) {
  const KeyboardLayout de = Layout("de");
  EXPECT_EQ(Text(de.Type("äÖß")), "+28 -28 +2a +27 -27 -2a +c -c");
  EXPECT_EQ(Text(de.Type("zy-")), "+15 -15 +2c -2c +35 -35");
  EXPECT_EQ(Text(de.Type("€@\\")), "+e038 +12 -12 -e038 +e038 +10 -10 -e038 +e038 +c -c -e038");
  EXPECT_EQ(Text(de.Type("<>|")), "+56 -56 +2a +56 -56 -2a +e038 +56 -56 -e038");
  // By a dead key.
  EXPECT_EQ(Text(de.Type("^é")), "+29 -29 +39 -39 +d -d +12 -12");
  EXPECT_EQ(Text(de.Type("`È")), "+2a +d -d -2a +39 -39 +2a +d -d -2a +2a +12 -12 -2a");
  EXPECT_THAT(Text(de.Type("ж")), HasSubstr("no keys for \"ж\" (U+0436)"));
  EXPECT_EQ(Text(de.Chord("ctrl-z")), "+1d +15 -15 -1d");
  EXPECT_EQ(Text(de.Chord("alt-ä")), "+38 +28 -28 -38");
  EXPECT_EQ(de.CodeOfKeysym(0xE4), 0x28);
  EXPECT_EQ(de.CodeOfKeysym(0x0100'00E4), 0x28);
  EXPECT_EQ(de.CodeOfKeysym(0x20AC), 0x12);  // EuroSign
  EXPECT_EQ(de.CodeOfKeysym(0x0100'20AC), 0x12);
  EXPECT_EQ(de.CodeOfKeysym('1'), 0x02);
  EXPECT_EQ(de.CodeOfKeysym(0xFE52), 0x29);  // dead_circumflex
  std::string all;
  for (char c = ' '; c <= '~'; ++c) all.push_back(c);
  EXPECT_EQ(de.Type(all).status(), absl::OkStatus());
}

TEST_F(XkbTest, Variants) {
  EXPECT_EQ(Text(Layout("de:nodeadkeys").Type("^")), "+29 -29");
  EXPECT_EQ(Text(Layout("fr").Type("a1é")), "+10 -10 +2a +2 -2 -2a +3 -3");
  EXPECT_EQ(Text(Layout("ru").Type("ж")), "+27 -27");
}

// What XKB makes of the layout that is built in.
TEST_F(XkbTest, UnitedStates) {
  const KeyboardLayout built_in = Layout("us"), xkb = Layout("us:basic");
  for (char c = ' '; c <= '~'; ++c)
    EXPECT_EQ(Text(xkb.Type(std::string(1, c))), Text(built_in.Type(std::string(1, c)))) << c;
}
#endif

}  // namespace
}  // namespace hvsdk::input
