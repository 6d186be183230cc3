// SPDX-License-Identifier: Apache-2.0
// Key-value pairs against a guest that keeps them as Linux' hv_kvp_daemon does, and against guests that lie.

#include "hvsdk/vsp/key_value_exchange.h"

#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/utf16.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/vsp/integration_fixture.h"

namespace hvsdk::vsp {
namespace {

namespace wire = hvdef::key_value;
using hvdef::integration::MessageType;
using hvdef::integration::Status;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

template <size_t kSize>
uint32_t PutUnits(const std::string& text, uint8_t (&field)[kSize]) {
  const std::vector<uint8_t> units = internal::ToUtf16(text);
  std::memset(field, 0, kSize);
  if (!units.empty()) std::memcpy(field, units.data(), units.size());
  return static_cast<uint32_t>(units.size() + 2);
}

// The pools of a guest, and how its driver answers.
struct PoolsOfGuest {
  std::map<std::pair<wire::Pool, std::string>, std::string> pairs;
  GuestAddresses told;

  Status Serve(vsc::IntegrationRequest& request) {
    wire::Header header;
    std::memcpy(&header, request.body, sizeof(header));
    switch (header.operation) {
      case wire::Operation::kGet:
      case wire::Operation::kSet: {
        wire::Pair pair;
        EXPECT_EQ(request.size_bytes, sizeof(pair));
        std::memcpy(&pair, request.body, sizeof(pair));
        const std::string key = internal::FromUtf16({pair.value.key, pair.value.key_bytes});
        if (header.operation == wire::Operation::kSet) {
          EXPECT_EQ(pair.value.type, wire::ValueType::kText);
          pairs[{header.pool, key}] = internal::FromUtf16({pair.value.value, pair.value.value_bytes});
          return Status::kOk;
        }
        const auto found = pairs.find({header.pool, key});
        if (found == pairs.end()) return Status::kNoMoreItems;
        pair.value.value_bytes = PutUnits(found->second, pair.value.value);
        std::memcpy(request.body, &pair, sizeof(pair));
        return Status::kOk;
      }
      case wire::Operation::kDelete: {
        wire::Key message;
        EXPECT_EQ(request.size_bytes, sizeof(message));
        std::memcpy(&message, request.body, sizeof(message));
        return pairs.erase({header.pool, internal::FromUtf16({message.key, message.key_bytes})}) == 1
                   ? Status::kOk
                   : Status::kNoMoreItems;
      }
      case wire::Operation::kEnumerate: {
        wire::IndexedPair message;
        EXPECT_EQ(request.size_bytes, sizeof(message));
        std::memcpy(&message, request.body, sizeof(message));
        uint32_t left = message.index;
        for (const auto& [key, value] : pairs) {
          if (key.first != header.pool || left-- != 0) continue;
          message.value.type = wire::ValueType::kText;
          message.value.key_bytes = PutUnits(key.second, message.value.key);
          message.value.value_bytes = PutUnits(value, message.value.value);
          std::memcpy(request.body, &message, sizeof(message));
          return Status::kOk;
        }
        return Status::kNoMoreItems;
      }
      case wire::Operation::kGetAddresses:
      case wire::Operation::kSetAddresses: {
        wire::Addresses message;
        EXPECT_EQ(request.size_bytes, sizeof(message));
        std::memcpy(&message, request.body, sizeof(message));
        told.adapter_id = internal::FromUtf16(message.adapter_id);
        if (told.adapter_id != "00:15:5D:01:02:03") return Status::kNotFound;
        if (header.operation == wire::Operation::kSetAddresses) {
          told.addresses = {internal::FromUtf16(message.addresses)};
          told.gateways = {internal::FromUtf16(message.gateways)};
          told.dhcp = message.dhcp != 0;
          return Status::kOk;
        }
        PutUnits("10.0.2.15;fe80::1", message.addresses);
        PutUnits("255.255.255.0;/64", message.subnets);
        PutUnits("10.0.2.2;", message.gateways);
        PutUnits("10.0.2.3;", message.name_servers);
        message.family = 3;
        message.dhcp = 1;
        std::memcpy(request.body, &message, sizeof(message));
        return Status::kOk;
      }
    }
    return Status::kNotSupported;
  }
};

class KeyValueExchangeTest : public IntegrationFixture {
 protected:
  void Make(const KeyValueExchangeOptions& options = {}) {
    pairs_ = *KeyValueExchange::Create(*server_, resources(), options);
    MakeChild();
  }
  std::unique_ptr<Served> OpenGuest() {
    return OpenServed(hvdef::class_id::kKeyValuePair, MessageType::kKeyValuePair, wire::kVersions,
                      [this](vsc::IntegrationRequest& request) { request.status = guest_.Serve(request); });
  }
  KeyValueExchange::Done Noted() {
    return [this](const absl::Status& status) { told_.push_back(status.ToString()); };
  }
  KeyValueExchange::Got NotedText() {
    return [this](const absl::StatusOr<std::string>& text) {
      told_.push_back(text.ok() ? *text : text.status().ToString());
    };
  }
  KeyValueExchange::Listed NotedList() {
    return [this](const absl::StatusOr<std::vector<KeyValue>>& list) {
      if (!list.ok()) return told_.push_back(list.status().ToString());
      for (const KeyValue& pair : *list) told_.push_back(absl::StrCat(pair.key, "=", pair.value));
      told_.push_back("end");
    };
  }
  std::vector<std::string> Told() {
    Pump();
    return std::exchange(told_, {});
  }
  // An enumeration's answer, whose value part is at 8 in the body.
  void AnswerPair(Raw& raw, const std::function<void(wire::Value&)>& change, Status status = Status::kOk) {
    std::vector<uint8_t> message = Take(raw);
    ASSERT_GE(message.size(), 28 + sizeof(wire::IndexedPair));
    wire::Value value{.type = wire::ValueType::kText, .key_bytes = 4, .value_bytes = 4, .key = {'k'}, .value = {'v'}};
    change(value);
    std::memcpy(&message[28 + 8], &value, sizeof(value));
    std::memcpy(&message[20], &status, sizeof(status));
    message[25] = 5;
    Put(raw, message);
  }

  PoolsOfGuest guest_;
  std::unique_ptr<KeyValueExchange> pairs_;
  std::vector<std::string> told_;

  void TearDown() override {
    pairs_.reset();
    IntegrationFixture::TearDown();
  }
};

TEST_F(KeyValueExchangeTest, WhatIsSetIsThere) {
  Make();
  pairs_->Get(KeyValuePool::kExternal, "a", NotedText());
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("no driver for it")));
  auto guest = OpenGuest();
  EXPECT_EQ(guest->client->version(), (hvdef::integration::Version{4, 0}));
  pairs_->Get(KeyValuePool::kExternal, "a", NotedText());
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("NOT_FOUND: the guest has none of that name")));
  // One after another, in their order, though they are asked at once.
  pairs_->Set(KeyValuePool::kExternal, "a", "1", Noted());
  pairs_->Set(KeyValuePool::kExternal, "b", "", Noted());
  pairs_->Get(KeyValuePool::kExternal, "a", NotedText());
  pairs_->List(KeyValuePool::kExternal, NotedList());
  pairs_->List(KeyValuePool::kGuest, NotedList());
  pairs_->Delete(KeyValuePool::kExternal, "a", Noted());
  pairs_->Delete(KeyValuePool::kExternal, "a", Noted());
  pairs_->List(KeyValuePool::kExternal, NotedList());
  EXPECT_THAT(Told(),
              ElementsAre("OK", "OK", "1", "a=1", "b=", "end", "end", "OK", HasSubstr("NOT_FOUND"), "b=", "end"));
}

TEST_F(KeyValueExchangeTest, PartsOfAPool) {
  Make();
  auto guest = OpenGuest();
  for (const char* const key : {"a", "b", "c", "d"}) pairs_->Set(KeyValuePool::kExternal, key, "1", Noted());
  EXPECT_THAT(Told(), SizeIs(4));
  pairs_->List(KeyValuePool::kExternal, NotedList(), {.first = 1, .most = 2});
  EXPECT_THAT(Told(), ElementsAre("b=1", "c=1", "end"));
  pairs_->List(KeyValuePool::kExternal, NotedList(), {.first = 3, .most = 2});
  pairs_->List(KeyValuePool::kExternal, NotedList(), {.first = 4, .most = 2});
  pairs_->List(KeyValuePool::kExternal, NotedList(), {.first = 2});
  EXPECT_THAT(Told(), ElementsAre("d=1", "end", "end", "c=1", "d=1", "end"));
}

TEST_F(KeyValueExchangeTest, TheLongestAndTheStrangest) {
  Make();
  auto guest = OpenGuest();
  const std::string key(255, 'k'), value(1023, 'v');
  pairs_->Set(KeyValuePool::kExternal, key, value, Noted());
  pairs_->Get(KeyValuePool::kExternal, key, NotedText());
  EXPECT_THAT(Told(), ElementsAre("OK", value));
  pairs_->Set(KeyValuePool::kExternal, key + "k", value, Noted());
  pairs_->Set(KeyValuePool::kExternal, key, value + "v", Noted());
  pairs_->Set(KeyValuePool::kExternal, "", value, Noted());
  pairs_->Set(KeyValuePool::kExternal, "\xFF", value, Noted());
  pairs_->Set(KeyValuePool::kExternal, "a", absl::string_view("1\0002", 3), Noted());
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("the key is longer than 255"), HasSubstr("the value is longer than 1023"),
                                  HasSubstr("the key is empty"), HasSubstr("the key is no text in UTF-8"),
                                  HasSubstr("the value is no text in UTF-8")));
  // Outside of the first plane there are two units a character.
  std::string rocks;
  for (int i = 0; i < 127; ++i) rocks += "🪨";
  pairs_->Set(KeyValuePool::kExternal, rocks, "zażółć 🪨", Noted());
  pairs_->Get(KeyValuePool::kExternal, rocks, NotedText());
  EXPECT_THAT(Told(), ElementsAre("OK", "zażółć 🪨"));
  pairs_->Set(KeyValuePool::kExternal, rocks + "🪨", "", Noted());
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("longer than 255")));
}

// A hundred pairs in each pool, of every length and of characters from the ends of each range of UTF-8 and UTF-16.
TEST_F(KeyValueExchangeTest, AHundredPairsInEachPoolGoThereAndBack) {
  Make();
  auto guest = OpenGuest();
  const std::string characters[] = {
      "\x01",         "\x7F",         "\xC2\x80",     "\xDF\xBF",         "\xE0\xA0\x80",
      "\xED\x9F\xBF",  // the last before the surrogates
      "\xEE\x80\x80",  // and the first behind
      "\xEF\xBB\xBF",  // a byte order mark
      "\xEF\xBF\xBD", "\xEF\xBF\xBE", "\xEF\xBF\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"};
  constexpr KeyValuePool kPools[] = {KeyValuePool::kExternal, KeyValuePool::kGuest, KeyValuePool::kAuto,
                                     KeyValuePool::kAutoExternal, KeyValuePool::kAutoInternal};
  // `units` of UTF-16, of one character as far as that goes.
  const auto fill = [](std::string text, const std::string& character, size_t units) {
    const size_t each = character.size() == 4 ? 2 : 1;
    for (size_t left = units - text.size(); left >= each; left -= each) text += character;
    return text;
  };
  std::map<std::pair<wire::Pool, std::string>, std::string> expected;
  for (const KeyValuePool pool : kPools) {
    for (size_t i = 0; i < 100; ++i) {
      const std::string& character = characters[i % std::size(characters)];
      const std::string number = absl::StrCat(100 + i);
      const std::string key = fill(number, character, i < 50 ? 255 : 3 + i), value = fill("", character, i * 1023 / 99);
      pairs_->Set(pool, key, value, Noted());
      EXPECT_THAT(Told(), ElementsAre("OK")) << i;
      expected[{pool, key}] = value;
    }
  }
  EXPECT_EQ(guest_.pairs, expected);
  for (const KeyValuePool pool : kPools) {
    size_t count = 0;
    pairs_->List(pool, [&](const absl::StatusOr<std::vector<KeyValue>>& list) {
      ASSERT_TRUE(list.ok()) << list.status();
      for (const KeyValue& pair : *list) count += (expected.at({pool, pair.key}) == pair.value);
      EXPECT_EQ(list->size(), 100u);
    });
    Pump();
    EXPECT_EQ(count, 100u);
  }
  for (const auto& [key, value] : expected) {
    pairs_->Get(key.first, key.second, NotedText());
    EXPECT_THAT(Told(), ElementsAre(value));
    pairs_->Delete(key.first, key.second, Noted());
    EXPECT_THAT(Told(), ElementsAre("OK"));
  }
  EXPECT_THAT(guest_.pairs, IsEmpty());
  // Halves of pairs, characters in more bytes than they need, and what is beyond the last plane.
  for (const char* const wrong : {"\xED\xA0\x80", "\xED\xBF\xBF", "\xED\xA0\xBD\xED\xB2\xA9", "\xC0\x80",
                                  "\xE0\x80\x80", "\xF4\x90\x80\x80", "\xE2\x82", "\x80"}) {
    pairs_->Set(KeyValuePool::kExternal, wrong, "", Noted());
    pairs_->Set(KeyValuePool::kExternal, "a", wrong, Noted());
    EXPECT_THAT(Told(),
                ElementsAre(HasSubstr("the key is no text in UTF-8"), HasSubstr("the value is no text in UTF-8")))
        << absl::CHexEscape(wrong);
  }
}

TEST_F(KeyValueExchangeTest, AddressesAreAskedForAndTold) {
  Make();
  GuestAddresses seen;
  const auto get = [&](const std::string& adapter) {
    pairs_->GetAddresses(adapter, [&](const absl::StatusOr<GuestAddresses>& addresses) {
      told_.push_back(addresses.status().ToString());
      if (addresses.ok()) seen = *addresses;
    });
  };
  auto guest = OpenGuest();
  get("00:15:5D:01:02:03");
  get("elsewhere");
  EXPECT_THAT(Told(), ElementsAre("OK", HasSubstr("NOT_FOUND")));
  EXPECT_THAT(seen.addresses, ElementsAre("10.0.2.15", "fe80::1"));
  EXPECT_THAT(seen.subnets, ElementsAre("255.255.255.0", "/64"));
  EXPECT_THAT(seen.gateways, ElementsAre("10.0.2.2"));
  EXPECT_THAT(seen.name_servers, ElementsAre("10.0.2.3"));
  EXPECT_TRUE(seen.dhcp && seen.has_ipv4 && seen.has_ipv6);
  pairs_->SetAddresses(
      {.adapter_id = "00:15:5D:01:02:03", .addresses = {"10.1.1.1", "10.1.1.2"}, .gateways = {"10.1.1.9"}}, Noted());
  EXPECT_THAT(Told(), ElementsAre("OK"));
  EXPECT_THAT(guest_.told.addresses, ElementsAre("10.1.1.1;10.1.1.2"));
  EXPECT_THAT(guest_.told.gateways, ElementsAre("10.1.1.9"));
  child_->client().Close(guest->raw.channel);
  Pump();
  auto old = OpenRaw(hvdef::class_id::kKeyValuePair);
  Agree(*old, 3, 0);
  get("00:15:5D:01:02:03");
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("speaks version 3.0, which has no addresses")));
}

TEST_F(KeyValueExchangeTest, LengthsThatLie) {
  Make();
  auto guest = OpenRaw(hvdef::class_id::kKeyValuePair);
  Agree(*guest, 4, 0);
  struct Lie {
    std::function<void(wire::Value&)> change;
    std::string answer;
  };
  for (const Lie& lie : std::vector<Lie>{
           {[](wire::Value& value) { value.key_bytes = 514; }, "makes no sense"},
           {[](wire::Value& value) { value.value_bytes = 2050; }, "makes no sense"},
           {[](wire::Value& value) { value.key_bytes = value.value_bytes = 0xFFFFFFFF; }, "makes no sense"},
           {[](wire::Value& value) { value.type = static_cast<wire::ValueType>(7); }, "makes no sense"}}) {
    pairs_->List(KeyValuePool::kGuest, NotedList());
    Pump();
    AnswerPair(*guest, lie.change);
    EXPECT_THAT(Told(), ElementsAre(HasSubstr(lie.answer)));
  }
  // Odd sizes, no zeros at all, halves of pairs, numbers.
  pairs_->List(KeyValuePool::kGuest, NotedList());
  Pump();
  AnswerPair(*guest, [](wire::Value& value) { value.key_bytes = 3, value.value_bytes = 0; });
  AnswerPair(*guest, [](wire::Value& value) {
    value.key_bytes = 512, value.value_bytes = 2048;
    std::memset(value.key, 'x', sizeof(value.key));
    std::memset(value.value, 'x', sizeof(value.value));
  });
  AnswerPair(*guest, [](wire::Value& value) { value.key[1] = 0xD8; });
  AnswerPair(*guest, [](wire::Value& value) {
    value.type = wire::ValueType::kNumber64;
    std::memset(value.value, 0xFF, 8);
  });
  AnswerPair(
      *guest, [](wire::Value&) {}, Status::kNoMoreItems);
  const std::vector<std::string> told = Told();
  ASSERT_THAT(told, SizeIs(5));
  EXPECT_EQ(told[0], "k=");
  EXPECT_EQ(told[2], "\xEF\xBF\xBD=v");
  EXPECT_EQ(told[3], "k=18446744073709551615");
  // An answer that is shorter than its message.
  pairs_->List(KeyValuePool::kGuest, NotedList());
  Pump();
  std::vector<uint8_t> message = Take(*guest);
  message[25] = 5;
  message[18] = 100, message[19] = 0;
  Put(*guest, message);
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("makes no sense")));
}

TEST_F(KeyValueExchangeTest, AListWithoutEndEnds) {
  Make();
  auto guest = OpenServed(hvdef::class_id::kKeyValuePair, MessageType::kKeyValuePair, wire::kVersions,
                          [](vsc::IntegrationRequest& request) {
                            wire::Value value{.type = wire::ValueType::kText, .key_bytes = 4, .key = {'k'}};
                            std::memcpy(request.body + 8, &value, sizeof(value));
                          });
  pairs_->List(KeyValuePool::kGuest, NotedList());
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("the guest has more than 1024 pairs")));
  pairs_->List(KeyValuePool::kGuest, NotedList(), {.first = 1023, .most = 2});
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("the guest has more than 1024 pairs")));
}

TEST_F(KeyValueExchangeTest, AGuestThatDoesNotAnswerCostsWhatIsAskedOfIt) {
  Make();
  auto guest = OpenRaw(hvdef::class_id::kKeyValuePair);
  Agree(*guest, 4, 0);
  pairs_->Set(KeyValuePool::kExternal, "a", "1", Noted());
  pairs_->Set(KeyValuePool::kExternal, "b", "2", Noted());
  Advance(9 * kSecond);
  EXPECT_THAT(Told(), IsEmpty());
  Advance(2 * kSecond);
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("does not answer"), HasSubstr("does not answer")));
  pairs_->Set(KeyValuePool::kExternal, "c", "3", Noted());
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("an earlier request")));
  // The late answer is nobody's; what comes after it is.
  std::vector<uint8_t> late = Take(*guest);
  ASSERT_FALSE(late.empty());
  EXPECT_TRUE(Take(*guest).empty());
  late[25] = 5;
  Put(*guest, late);
  pairs_->Set(KeyValuePool::kExternal, "d", "4", Noted());
  Pump();
  std::vector<uint8_t> asked = Take(*guest);
  ASSERT_FALSE(asked.empty());
  asked[25] = 5;
  Put(*guest, asked);
  EXPECT_THAT(Told(), ElementsAre("OK"));
  // However many there are, they are bounded, and end with the driver.
  for (int i = 0; i < 70; ++i) pairs_->Set(KeyValuePool::kExternal, "e", "5", Noted());
  std::vector<std::string> told = Told();
  EXPECT_THAT(told, AllOf(SizeIs(6), testing::Each(HasSubstr("too many requests"))));
  child_->client().Close(guest->channel);
  EXPECT_THAT(Told(), AllOf(SizeIs(64), testing::Each(HasSubstr("driver has gone"))));
  guest = OpenRaw(hvdef::class_id::kKeyValuePair);
  Agree(*guest, 4, 0);
  pairs_->Set(KeyValuePool::kExternal, "f", "6", Noted());
  Pump();
  // As a machine does it: the bus first.
  server_->Reset();
  pairs_->Reset();
  EXPECT_THAT(Told(), ElementsAre("CANCELLED: the machine was reset"));
}

// A guest that stands still is not late, however many requests wait in line.
TEST_F(KeyValueExchangeTest, TimeToAnswerStandsStillWithTheGuest) {
  Make();
  auto guest = OpenRaw(hvdef::class_id::kKeyValuePair);
  Agree(*guest, 4, 0);
  const auto answer = [&] {
    std::vector<uint8_t> asked = Take(*guest);
    ASSERT_FALSE(asked.empty());
    asked[25] = 5;
    Put(*guest, asked);
  };
  pairs_->Set(KeyValuePool::kExternal, "a", "1", Noted());
  Pump();
  Advance(9 * kSecond);
  pairs_->Pause();
  pairs_->Set(KeyValuePool::kExternal, "b", "2", Noted());
  Advance(100 * kSecond);
  EXPECT_THAT(Told(), IsEmpty());
  pairs_->Resume();
  Pump();
  answer();
  EXPECT_THAT(Told(), ElementsAre("OK"));
  // The second begins with all of its time.
  Advance(9 * kSecond);
  pairs_->Pause();
  Advance(100 * kSecond);
  pairs_->Resume();
  Advance(kSecond / 2);
  EXPECT_THAT(Told(), IsEmpty());
  answer();
  EXPECT_THAT(Told(), ElementsAre("OK"));
  pairs_->Set(KeyValuePool::kExternal, "c", "3", Noted());
  Advance(9 * kSecond);
  pairs_->Pause();
  Advance(100 * kSecond);
  pairs_->Resume();
  Advance(2 * kSecond);
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("does not answer")));
}

// Who is told may ask again from there.
TEST_F(KeyValueExchangeTest, AskingFromAnAnswer) {
  Make();
  auto guest = OpenGuest();
  pairs_->Set(KeyValuePool::kExternal, "a", "1", [this](const absl::Status&) {
    pairs_->Get(KeyValuePool::kExternal, "a", NotedText());
    pairs_->Set(KeyValuePool::kExternal, "b", "2", Noted());
  });
  EXPECT_THAT(Told(), ElementsAre("1", "OK"));
  pairs_->Set(KeyValuePool::kExternal, "a", "1", [this](const absl::Status& status) {
    told_.push_back(status.ToString());
    pairs_->Reset();
  });
  pairs_->Set(KeyValuePool::kExternal, "b", "1", Noted());
  EXPECT_THAT(Told(), ElementsAre("OK", HasSubstr("was reset")));
}

}  // namespace
}  // namespace hvsdk::vsp
