// SPDX-License-Identifier: Apache-2.0
// A command's host and agent, with each other in any pieces, and with peers that do not keep to the protocol.

#include "hvsdk/vmm/exec_session.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/random_seed.h"

namespace hvsdk::vmm::exec {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::span<const uint8_t> BytesOf(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// What an agent was asked.
struct Asked {
  std::vector<std::vector<std::string>> starts;
  std::vector<uint32_t> signals;
  void OnStart(std::vector<std::string> arguments) { starts.push_back(std::move(arguments)); }
  void OnSignal(uint32_t number) { signals.push_back(number); }
};

// What a host was shown.
struct Shown {
  std::string output, errors;
  void operator()(bool is_error, std::span<const uint8_t> bytes) {
    (is_error ? errors : output).append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
};

std::string Frame(uint8_t type, const std::string& payload) {
  std::string frame;
  AppendFrame(frame, Type{type}, payload.data(), payload.size());
  return frame;
}
std::string Number(uint32_t number) { return {reinterpret_cast<const char*>(&number), sizeof(number)}; }
std::string Start(const std::string& arguments, uint32_t version = kVersion) {
  return Frame(1, Number(version) + arguments);
}
const std::string kTrue("true\0", 5);

TEST(ExecSessionTest, GoldenBytes) {
  Host host(std::vector<std::string>{"ls", ""});
  EXPECT_EQ(host.outgoing(), std::string("\1\0\0\0\x08\0\0\0\1\0\0\0ls\0\0", 16));
  host.outgoing().clear();
  host.Input(BytesOf("ab"));
  host.EndInput();
  host.EndInput();
  host.Signal(15);
  EXPECT_EQ(host.outgoing(), std::string("\2\0\0\0\2\0\0\0ab\3\0\0\0\0\0\0\0\4\0\0\0\4\0\0\0\x0F\0\0\0", 30));
  Agent agent;
  agent.Output(/*is_error=*/false, BytesOf("out"));
  agent.Output(/*is_error=*/true, BytesOf("e"));
  agent.Exited(143);
  EXPECT_EQ(agent.outgoing(), std::string("\x10\0\0\0\3\0\0\0out\x11\0\0\0\1\0\0\0e\x13\0\0\0\4\0\0\0\x8F\0\0\0", 32));
}

TEST(ExecSessionTest, WhatCanStart) {
  const auto can = [](const std::vector<std::string>& arguments) { return Host::CanStart(arguments); };
  EXPECT_TRUE(can({"a"}));
  EXPECT_TRUE(can({"a", "", ""}));
  EXPECT_FALSE(can({}));
  EXPECT_FALSE(can({""}));
  EXPECT_FALSE(can({"a", std::string("b\0c", 3)}));
  EXPECT_TRUE(can({std::string(kMaxStart - 5, 'x')}));
  EXPECT_FALSE(can({std::string(kMaxStart - 4, 'x')}));
  // And the agent takes the longest.
  Host host(std::vector<std::string>{std::string(kMaxStart - 5, 'x')});
  Agent agent;
  Asked asked;
  EXPECT_TRUE(agent.Receive(BytesOf(host.outgoing()), asked));
  EXPECT_THAT(asked.starts, ElementsAre(ElementsAre(std::string(kMaxStart - 5, 'x'))));
}

// The command echoes some of its input to either stream, reads as it likes, and exits.
TEST(ExecSessionTest, AnyPieces) {
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < 200; ++round) {
    Host host(std::vector<std::string>{"echo", "a b", ""});
    Agent agent;
    Asked asked;
    Shown shown;
    std::string input, expected, errors;
    size_t given = 0, on_output = 0;
    const size_t length = random() % 300'000;
    for (size_t i = 0; i < length; ++i) input += static_cast<char>(random());
    bool has_exited = false;
    const auto move = [&](std::string& from, auto receive) {
      const size_t size = std::min<size_t>(from.size(), random() % 70'000);
      EXPECT_TRUE(receive(BytesOf(from.substr(0, size))));
      from.erase(0, size);
    };
    for (int step = 0; !host.status() && step < 100'000; ++step) {
      switch (random() % 5) {
        case 0: {
          const size_t size = std::min<size_t>({input.size() - given, host.input_room(), random() % 50'000});
          host.Input(BytesOf(input.substr(given, size)));
          given += size;
          if (given == input.size()) host.EndInput();
          break;
        }
        case 1:
          move(host.outgoing(), [&](auto bytes) { return agent.Receive(bytes, asked); });
          ASSERT_LE(agent.input().size(), kWindow);
          break;
        case 2:
          move(agent.outgoing(), [&](auto bytes) { return host.Receive(bytes, shown); });
          break;
        case 3: {
          const std::string taken(agent.input().substr(0, std::min<size_t>(random() % 30'000, agent.output_room())));
          const bool is_error = random() % 2 == 0;
          agent.TakeInput(taken.size());
          agent.Output(is_error, BytesOf(taken));
          (is_error ? errors : expected) += taken;
          on_output += taken.size();
          break;
        }
        case 4:
          if (!has_exited && agent.is_input_ended() && agent.input().empty()) {
            agent.Exited(7);
            has_exited = true;
          }
          break;
      }
    }
    ASSERT_EQ(host.status(), 7);
    EXPECT_EQ(on_output, length);
    EXPECT_EQ(shown.output, expected);
    EXPECT_EQ(shown.errors, errors);
    EXPECT_THAT(asked.starts, ElementsAre(ElementsAre("echo", "a b", "")));
    EXPECT_THAT(asked.signals, IsEmpty());
  }
}

// A signal is not held up by input that the command does not read.
TEST(ExecSessionTest, ASignalReachesACommandThatDoesNotRead) {
  Host host(std::vector<std::string>{"sleep"});
  Agent agent;
  Asked asked;
  const std::string much(2 * kWindow, 'x');
  host.Input(BytesOf(much));
  EXPECT_EQ(host.input_room(), 0u);
  host.Signal(2);
  EXPECT_TRUE(agent.Receive(BytesOf(host.outgoing()), asked));
  EXPECT_EQ(agent.input().size(), kWindow);
  EXPECT_THAT(asked.signals, ElementsAre(2));
  // One that will never read takes what there is, and what comes.
  agent.DropInput();
  EXPECT_TRUE(host.Receive(BytesOf(std::exchange(agent.outgoing(), {})), Shown()));
  EXPECT_EQ(host.input_room(), kWindow);
  host.outgoing().clear();
  host.Input(BytesOf("more"));
  EXPECT_TRUE(agent.Receive(BytesOf(host.outgoing()), asked));
  EXPECT_TRUE(host.Receive(BytesOf(std::exchange(agent.outgoing(), {})), Shown()));
  EXPECT_EQ(host.input_room(), kWindow);
  // Nothing follows its status.
  host.outgoing().clear();
  host.Input(BytesOf("more"));
  agent.Exited(0);
  EXPECT_TRUE(agent.Receive(BytesOf(host.outgoing()), asked));
  EXPECT_TRUE(host.Receive(BytesOf(agent.outgoing()), Shown()));
  EXPECT_EQ(host.status(), 0);
  EXPECT_EQ(host.input_room(), 0u);
}

TEST(ExecSessionTest, HostsThatAnAgentDoesNotListenTo) {
  const std::string start = Start(kTrue), input = Frame(2, "x"), end = Frame(3, "");
  const std::string broken[] = {
      input,                                                // before anything is started
      Frame(4, Number(2)),                                  // likewise
      start + start,                                        //
      Start(kTrue, kVersion + 1),                           //
      Start("true"),                                        // does not end
      Start(std::string("\0", 1)),                          // no command
      Frame(1, Number(kVersion)),                           // likewise
      Frame(1, "abc"),                                      //
      start + Frame(4, Number(0)),                          //
      start + Frame(4, Number(kMaxSignal + 1)),             //
      start + Frame(4, "abc"),                              //
      start + end + end,                                    //
      start + end + input,                                  //
      start + Frame(2, ""),                                 //
      start + Frame(3, "x"),                                //
      start + Frame(2, std::string(kMaxData + 1, 'x')),     //
      start + Frame(16, "x"),                               // an agent's
      start + Frame(19, Number(0)),                         // likewise
      start + Frame(0, ""),                                 //
      start + Frame(255, ""),                               //
      std::string("\1\1\0\0\x08\0\0\0\1\0\0\0ls\0\0", 16),  // not reserved as zero
      std::string("\1\0\0\0\xFF\xFF\xFF\xFF", 8),           // before so much has come
  };
  for (const std::string& bytes : broken) {
    SCOPED_TRACE(testing::PrintToString(bytes.substr(0, 60)));
    Agent agent;
    Asked asked;
    EXPECT_FALSE(agent.Receive(BytesOf(bytes), asked));
    EXPECT_FALSE(agent.Receive(BytesOf(start), asked));
    EXPECT_LE(asked.starts.size(), 1u);
  }
  // More than the window.
  Agent agent;
  Asked asked;
  EXPECT_TRUE(agent.Receive(BytesOf(start), asked));
  const std::string piece = Frame(2, std::string(kMaxData, 'x'));
  for (uint32_t size = 0; size < kWindow; size += kMaxData) EXPECT_TRUE(agent.Receive(BytesOf(piece), asked));
  EXPECT_FALSE(agent.Receive(BytesOf(input), asked));
}

// A host that never takes what it is told: what waits for it has a bound.
TEST(ExecSessionTest, AHostThatTakesNothing) {
  Agent agent;
  Asked asked;
  ASSERT_TRUE(agent.Receive(BytesOf(Start(kTrue)), asked));
  const std::string input = Frame(2, "x"), output(kMaxData, 'x');
  int received = 0;
  for (; agent.may_receive(); ++received) {
    ASSERT_TRUE(agent.Receive(BytesOf(input), asked));
    agent.TakeInput(1);
    if (agent.output_room() != 0) agent.Output(/*is_error=*/true, BytesOf(output));
    ASSERT_LT(agent.outgoing().size(), 200'000u);
  }
  EXPECT_GT(received, 1000);
}

TEST(ExecSessionTest, AgentsThatAHostDoesNotListenTo) {
  const std::string exited = Frame(19, Number(0));
  const std::string broken[] = {
      Frame(18, Number(1)),    // more than was given
      Frame(19, Number(256)),  //
      exited + exited,         //
      exited + Frame(16, "x"),
      Frame(16, ""),
      Frame(17, std::string(kMaxData + 1, 'x')),
      Start(kTrue),
      Frame(2, "x"),
      Frame(3, ""),
      Frame(4, Number(2)),
      Frame(20, ""),
      std::string("\x10\0\0\1\1\0\0\0x", 9),
  };
  for (const std::string& bytes : broken) {
    SCOPED_TRACE(testing::PrintToString(bytes.substr(0, 60)));
    Host host(std::vector<std::string>{"true"});
    EXPECT_FALSE(host.Receive(BytesOf(bytes), Shown()));
    EXPECT_FALSE(host.Receive(BytesOf(Frame(16, "x")), Shown()));
  }
}

}  // namespace
}  // namespace hvsdk::vmm::exec
