// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "hvsdk/state/component.h"
#include "tests/state/component_suite.h"

namespace hvsdk::state {
namespace {

enum class Colour : uint8_t { kRed = 1, kBlue = 200 };

struct Wire {
  int32_t volts = 0;
  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "volts", volts);
  }
};

struct LampState {
  static constexpr uint32_t kSchema = 2;
  uint8_t brightness = 7;
  bool on = false;
  Colour colour = Colour::kRed;
  std::array<uint8_t, 3> name{};
  std::vector<Wire> wires;
  std::array<uint16_t, 2> pins{};

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "brightness", brightness);
    visit(2, "on", on);
    visit(4, "colour", colour);
    visit(5, "name", name);
    visit(6, "wires", wires);
    visit(300, "pins", pins);
  }
};

LampState Sample() {
  return {.brightness = 200,
          .on = true,
          .colour = Colour::kBlue,
          .name = {1, 2, 3},
          .wires = {{-5}, {230}},
          .pins = {0xFFFF, 4}};
}

std::string Bytes(absl::string_view hex) {
  std::string digits;
  for (const char c : hex) {
    if (c != ' ') digits += c;
  }
  return absl::HexStringToBytes(digits);
}

std::string Head(int number, int kind, int size) {
  std::string head;
  for (const auto& [value, bytes] : {std::pair{number, 2}, {kind, 2}, {size, 4}}) {
    for (int i = 0; i < bytes; ++i) head += static_cast<char>(value >> (8 * i));
  }
  return head;
}

absl::Status ReadLamp(const std::string& bytes, LampState& lamp, uint32_t schema = 2) {
  StateReader reader("lamp/0", schema, bytes);
  return reader.Read(lamp);
}

std::string Error(const std::string& bytes, uint32_t schema = 2) {
  LampState lamp;
  const absl::Status status = ReadLamp(bytes, lamp, schema);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  return std::string(status.message());
}

TEST(StateTest, BytesAreThoseOfTheDocument) {
  StateWriter writer;
  LampState lamp = Sample();
  writer.Write(lamp);
  EXPECT_EQ(writer.schema(), 2u);
  EXPECT_EQ(absl::BytesToHexString(writer.bytes()),
            absl::BytesToHexString(Bytes("0100 0100 08000000 c800000000000000"
                                         "0200 0100 08000000 0100000000000000"
                                         "0400 0100 08000000 c800000000000000"
                                         "0500 0200 03000000 010203"
                                         "0600 0400 30000000"
                                         "0000 0300 10000000 0100 0100 08000000 fbffffffffffffff"
                                         "0000 0300 10000000 0100 0100 08000000 e600000000000000"
                                         "2c01 0400 20000000"
                                         "0000 0100 08000000 ffff000000000000"
                                         "0000 0100 08000000 0400000000000000")));
}

TEST(StateTest, WhatWasWrittenIsRead) {
  StateWriter writer;
  LampState lamp = Sample();
  writer.Write(lamp);
  LampState read;
  ASSERT_TRUE(ReadLamp(writer.bytes(), read).ok());
  EXPECT_EQ(StateText::Of(read), StateText::Of(lamp));
  EXPECT_EQ(StateText::Of(read),
            "brightness: 0xc8\non: 0x1\ncolour: 0xc8\nname: 010203\n"
            "wires:\n  -:\n    volts: 0xfffffffffffffffb\n  -:\n    volts: 0xe6\npins:\n  -: 0xffff\n  -: 0x4\n");
}

TEST(StateTest, MissingFieldsKeepTheirDefaults) {
  LampState lamp;
  ASSERT_TRUE(ReadLamp(Bytes("0200 0100 08000000 0100000000000000"), lamp, 1).ok());
  EXPECT_EQ(lamp.brightness, 7);
  EXPECT_TRUE(lamp.on);
  LampState empty;
  EXPECT_TRUE(ReadLamp("", empty).ok());
}

TEST(StateTest, WhatIsUnknownIsAnErrorThatNamesIt) {
  EXPECT_EQ(Error(Head(3, 1, 8) + std::string(8, '\0')), "state of lamp/0: unknown field 3");
  EXPECT_EQ(Error(Head(301, 1, 8) + std::string(8, '\0')), "state of lamp/0: unknown field 301");
  EXPECT_EQ(Error(Head(6, 4, 16) + Head(0, 3, 8) + Head(2, 2, 0)), "state of lamp/0, wires: unknown field 2");
  EXPECT_EQ(Error("", 3), "state of lamp/0 has schema 3; 1 to 2 are known here");
  EXPECT_EQ(Error("", 0), "state of lamp/0 has schema 0; 1 to 2 are known here");
}

TEST(StateTest, WhatDoesNotFitIsAnError) {
  EXPECT_EQ(Error(Bytes("0100 0100 08000000 0001000000000000")),
            "state of lamp/0, brightness: a value beyond its type");
  EXPECT_EQ(Error(Bytes("0200 0100 08000000 0200000000000000")), "state of lamp/0, on: a value beyond its type");
  EXPECT_EQ(Error(Bytes("0100 0200 08000000 0000000000000000")), "state of lamp/0, brightness: not an integer");
  EXPECT_EQ(Error(Bytes("0100 0100 04000000 00000000")), "state of lamp/0, brightness: not an integer");
  EXPECT_EQ(Error(Bytes("0500 0200 02000000 0102")), "state of lamp/0, name: bytes of another number");
  EXPECT_EQ(Error(Head(300, 4, 0)), "state of lamp/0, pins: a list of another length");
  EXPECT_EQ(Error(Head(300, 4, 48) + Bytes("0000 0100 08000000 0000000000000000 0000 0100 08000000 0000000000000000"
                                           "0000 0100 08000000 0000000000000000")),
            "state of lamp/0, pins: a list of another length");
  EXPECT_EQ(Error(Head(6, 4, 24) + Head(1, 3, 16) + Head(1, 1, 8) + std::string(8, '\0')),
            "state of lamp/0, wires: an element with a number");
  EXPECT_EQ(Error(Head(1, 1, 8) + std::string(7, '\0')), "state of lamp/0: cut short");
  EXPECT_EQ(Error("1234567"), "state of lamp/0: cut short");
  const std::string on = Head(2, 1, 8) + std::string(8, '\0');
  EXPECT_EQ(Error(on + on), "state of lamp/0: field 2 out of order");
}

class Lamp : public Component {
 public:
  std::string StateName() const override { return "lamp/0"; }
  absl::Status Save(StateWriter& writer) const override {
    LampState state = state_;
    writer.Write(state);
    return absl::OkStatus();
  }
  absl::Status Restore(StateReader& reader) override {
    LampState state;
    if (absl::Status status = reader.Read(state); !status.ok()) return status;
    if (state.wires.size() > 9) return reader.Invalid("wires", "more than 9");
    state_ = state;
    return absl::OkStatus();
  }
  void Reset() override { state_ = LampState(); }

  LampState state_;
};

struct LampSubject {
  Component& component() { return lamp; }
  std::string Step(std::mt19937_64& random) {
    lamp.state_.brightness = static_cast<uint8_t>(lamp.state_.brightness * 3 + random());
    if (random() % 4 == 0) lamp.state_.wires.resize(random() % 10);
    if (!lamp.state_.wires.empty()) lamp.state_.wires[0].volts = static_cast<int32_t>(random());
    return StateText::Of(lamp.state_);
  }
  void CopyWorld(LampSubject&) {}
  Lamp lamp;
};

TEST(StateTest, AComponentKeepsItsPromises) {
  CheckComponent([] { return std::make_unique<LampSubject>(); });
}

}  // namespace
}  // namespace hvsdk::state
