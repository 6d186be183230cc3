// SPDX-License-Identifier: Apache-2.0
// The calling convention, with calls made for the test.
#include "hvsdk/hypercall/dispatcher.h"

#include <array>
#include <cstring>
#include <numeric>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/partition/fake_backend.h"

namespace hvsdk::hypercall {
namespace {

using backend::Gpr;
using backend::HypercallOutcome;
using hvdef::Control;
using hvdef::HvStatus;
using hvdef::RegisterName;
using hvdef::RegisterValue;
using ::testing::Each;
using ::testing::ElementsAre;

struct Pair {
  uint64_t a, b;
};
struct Wide {
  uint64_t words[14];
};
struct Header {
  uint64_t factor;
};
struct Uneven {  // 12 bytes, padded to 16
  uint32_t x, y, z;
};

// A class of calls; it remembers what it was given.
class Calls {
 public:
  HvStatus Nop(Caller&, const Nothing&) {
    ++nops;
    return status;
  }
  HvStatus Add(Caller&, const Pair& in, uint64_t& out) {
    out = in.a + in.b;
    return status;
  }
  HvStatus SumWide(Caller&, const Wide& in) {
    sum = std::accumulate(std::begin(in.words), std::end(in.words), uint64_t{0});
    return status;
  }
  HvStatus Swap(Caller&, const Uneven& in, Wide& out) {
    out.words[0] = in.z;
    out.words[13] = in.x;
    return status;
  }
  HvStatus Split(Caller&, const Uneven& in, Pair& out) {
    out = {in.x + uint64_t{in.y}, in.z};
    return status;
  }
  HvStatus SumVariable(Caller&, const Header& in, absl::Span<const uint64_t> variable) {
    sum = in.factor * std::accumulate(variable.begin(), variable.end(), uint64_t{0});
    variable_words = variable.size();
    return status;
  }
  // Multiplies; 13 is an error.
  RepResult Multiply(Caller&, const Header& in, Reps<uint32_t, uint64_t> reps) {
    batches.push_back(reps.size());
    for (uint16_t i = 0; i < reps.size(); ++i) {
      if (reps.input(i) == 13) return {HvStatus::kInvalidParameter, i};
      reps.output(i) = reps.input(i) * in.factor;
    }
    return {HvStatus::kSuccess, reps.size()};
  }
  RepResult SumBoth(Caller&, const Header& in, absl::Span<const uint64_t> variable, Reps<uint64_t, Nothing> reps) {
    sum += in.factor * std::accumulate(variable.begin(), variable.end(), uint64_t{0});
    for (uint64_t each : reps.inputs()) sum += each;
    return {HvStatus::kSuccess, reps.size()};
  }
  RepResult Fill(Caller&, const Nothing&, Reps<Nothing, uint32_t> reps) {
    for (uint16_t i = 0; i < reps.size(); ++i) reps.output(i) = ++sum;
    return {HvStatus::kSuccess, reps.size()};
  }

  HvStatus status = HvStatus::kSuccess;
  int nops = 0;
  uint64_t sum = 0;
  size_t variable_words = 0;
  std::vector<uint16_t> batches;
};

constexpr uint64_t kSecret = uint64_t{1} << 40;
enum : uint16_t {
  kNop = 1,
  kAdd,
  kSumWide,
  kSwap,
  kSumVariable,
  kMultiply,
  kSumBoth,
  kPrivileged,
  kSplit,
  kFill = 0x8F01
};
constexpr std::array kCalls{
    Describe<&Calls::Nop>(kNop, "Nop"),
    Describe<&Calls::Add>(kAdd, "Add"),
    Describe<&Calls::SumWide>(kSumWide, "SumWide"),
    Describe<&Calls::Swap>(kSwap, "Swap"),
    Describe<&Calls::SumVariable>(kSumVariable, "SumVariable"),
    Describe<&Calls::Multiply>(kMultiply, "Multiply", 0, /*max_reps=*/5),
    Describe<&Calls::SumBoth>(kSumBoth, "SumBoth"),
    Describe<&Calls::Nop>(kPrivileged, "Privileged", kSecret),
    Describe<&Calls::Split>(kSplit, "Split"),
    Describe<&Calls::Fill>(kFill, "Fill", 0, 3),
};

class DispatcherTest : public ::testing::Test {
 protected:
  DispatcherTest() : host_(4 * kPageSize, 0xEE), dispatcher_(memory_), vp_(VpIndex{0}, 0) {
    EXPECT_TRUE(memory_.AddRange(0, absl::MakeSpan(host_)).ok());
    EXPECT_TRUE(dispatcher_.Add<Calls>(kCalls, calls_).ok());
  }

  // Until it is done.
  uint64_t Call64(Control control, uint64_t rdx, uint64_t r8) {
    vp_.SetGpr(Gpr::kRcx, control.value);
    vp_.SetGpr(Gpr::kRdx, rdx);
    vp_.SetGpr(Gpr::kR8, r8);
    vp_.SetGpr(Gpr::kRax, ~uint64_t{0});
    Finish();
    return vp_.GetGpr(Gpr::kRax);
  }
  // Upper halves are rubbish that a 32-bit caller cannot see.
  uint64_t Call32(Control control, uint64_t input, uint64_t output) {
    constexpr uint64_t kRubbish = 0xABCDEF01'00000000;
    const auto set = [&](Gpr high, Gpr low, uint64_t value) {
      vp_.SetGpr(high, kRubbish | value >> 32);
      vp_.SetGpr(low, kRubbish | (value & 0xFFFFFFFF));
    };
    vp_.SetMode(true, /*long_mode=*/false, 0);
    set(Gpr::kRdx, Gpr::kRax, control.value);
    set(Gpr::kRbx, Gpr::kRcx, input);
    set(Gpr::kRdi, Gpr::kRsi, output);
    Finish();
    EXPECT_EQ(vp_.GetGpr(Gpr::kRdx) >> 32, 0u);
    EXPECT_EQ(vp_.GetGpr(Gpr::kRax) >> 32, 0u);
    return vp_.GetGpr(Gpr::kRdx) << 32 | vp_.GetGpr(Gpr::kRax);
  }
  void Finish() {
    Caller caller{vp_, privileges_};
    retries_ = 0;
    while ((outcome_ = dispatcher_.Dispatch(caller, &record_)) == HypercallOutcome::kRetry) ++retries_;
  }
  template <typename T>
  void Put(uint64_t gpa, const T& value) {
    std::memcpy(&host_[gpa], &value, sizeof(value));
  }
  template <typename T>
  T Get(uint64_t gpa) {
    T value;
    std::memcpy(&value, &host_[gpa], sizeof(value));
    return value;
  }
  RegisterValue& Xmm(uint32_t i) {
    return vp_.registers[static_cast<RegisterName>(static_cast<uint32_t>(RegisterName::kXmm0) + i)];
  }
  static HvStatus StatusOf(uint64_t result) { return hvdef::ResultStatus(result); }

  std::vector<uint8_t> host_;
  GuestMemory memory_;
  Calls calls_;
  Dispatcher dispatcher_;
  hvsdk::fake::FakeVp vp_;
  uint64_t privileges_ = 0;
  HypercallOutcome outcome_{};
  CallRecord record_;
  int retries_ = 0;
};

TEST_F(DispatcherTest, MemoryInputAndOutput) {
  Put(64, Pair{40, 2});
  EXPECT_EQ(Call64(Control::Make(kAdd), 64, 4096), 0u);
  EXPECT_EQ(Get<uint64_t>(4096), 42u);
  EXPECT_EQ(Get<uint64_t>(4104), 0xEEEEEEEEEEEEEEEE) << "nothing behind the output is written";
  EXPECT_STREQ(record_.call->name, "Add");
  EXPECT_EQ(record_.result, 0u);
}

TEST_F(DispatcherTest, AnErrorWritesNoOutput) {
  calls_.status = HvStatus::kInvalidPortId;
  EXPECT_EQ(Call64(Control::Make(kAdd), 64, 4096), 0x11u);
  EXPECT_EQ(Get<uint64_t>(4096), 0xEEEEEEEEEEEEEEEE);
}

TEST_F(DispatcherTest, CallsOf32BitCallers) {
  Put(64, Pair{40, 2});
  EXPECT_EQ(Call32(Control::Make(kAdd), 64, 4096), 0u);
  EXPECT_EQ(Get<uint64_t>(4096), 42u);
  Put(128, Header{3});
  std::vector<uint32_t> elements(12);
  std::iota(elements.begin(), elements.end(), 1);
  std::memcpy(&host_[136], elements.data(), 48);
  EXPECT_EQ(Call32(Control::Make(kMultiply, false, 0, 12), 128, 4096), hvdef::MakeResult(HvStatus::kSuccess, 12));
  EXPECT_EQ(retries_, 2);
  EXPECT_EQ(Get<uint64_t>(4096 + 11 * 8), 36u);
  // Fast input in EBX:ECX and EDI:ESI; XMM input too; XMM output is for 64-bit callers.
  EXPECT_EQ(StatusOf(Call32(Control::Make(kSumWide, true), 0x100000002, 0x300000004)), HvStatus::kSuccess);
  EXPECT_EQ(calls_.sum, 0x400000006u);
  EXPECT_EQ(StatusOf(Call32(Control::Make(kAdd, true), 1, 2)), HvStatus::kInvalidHypercallInput);
}

TEST_F(DispatcherTest, CompatibilityModeIsA32BitCaller) {
  vp_.SetMode(true, false, 0);
  vp_.registers[RegisterName::kEfer] = {0x500, 0};  // long mode is active, CS.L is not set
  vp_.SetGpr(Gpr::kRdx, 0);
  vp_.SetGpr(Gpr::kRax, kNop);
  vp_.SetGpr(Gpr::kRcx, 0xFFFF);  // what a 64-bit caller would call
  Finish();
  EXPECT_EQ(calls_.nops, 1);
}

TEST_F(DispatcherTest, WrongProcessorModesAreUndefined) {
  const uint64_t before = vp_.GetGpr(Gpr::kRax);
  for (const auto& [protection, long_mode, cpl] :
       {std::tuple(false, false, 0), {true, true, 3}, {true, true, 1}, {true, false, 3}}) {
    vp_.SetMode(protection, long_mode, cpl);
    vp_.SetGpr(Gpr::kRcx, kNop);
    Finish();
    EXPECT_EQ(outcome_, HypercallOutcome::kUndefinedOpcode);
  }
  EXPECT_EQ(calls_.nops, 0);
  EXPECT_EQ(vp_.GetGpr(Gpr::kRax), before);
}

TEST_F(DispatcherTest, FastInputUsesTheRegistersItNeeds) {
  for (uint32_t i = 0; i < 6; ++i) Xmm(i) = {i + 10u, i + 20u};
  EXPECT_EQ(Call64(Control::Make(kSumWide, true), 1, 2), 0u);
  EXPECT_EQ(calls_.sum, 1u + 2 + (10 + 11 + 12 + 13 + 14 + 15) + (20 + 21 + 22 + 23 + 24 + 25));
}

TEST_F(DispatcherTest, FastOutputFollowsTheInputRoundedTo16Bytes) {
  Xmm(0) = {7, 7};
  Xmm(1) = {8, 8};
  EXPECT_EQ(Call64(Control::Make(kAdd, true), 40, 2), 0u);
  EXPECT_EQ(Xmm(0).low, 42u);
  EXPECT_EQ(Xmm(0).high, 0u) << "what is left of the last register is zero";
  EXPECT_EQ(Xmm(1).low, 8u);
  EXPECT_EQ(vp_.GetGpr(Gpr::kRdx), 40u) << "input registers stay";
  EXPECT_EQ(vp_.GetGpr(Gpr::kR8), 2u);
  // 12 bytes in, 16 out, in XMM0; the padding of the input is ignored.
  EXPECT_EQ(Call64(Control::Make(kSplit, true), 0x0000000200000001, 0xFFFFFFFF00000003), 0u);
  EXPECT_EQ(Xmm(0).low, 3u);
  EXPECT_EQ(Xmm(0).high, 3u);
  // 16 bytes in and 112 out do not fit.
  EXPECT_EQ(StatusOf(Call64(Control::Make(kSwap, true), 0, 0)), HvStatus::kInvalidHypercallInput);
}

TEST_F(DispatcherTest, FastOutputWithoutInputBeginsInRdx) {
  // 5 elements of 4 bytes, at most 3 in one go, in RDX, R8 and XMM0.
  EXPECT_EQ(Call64(Control::Make(kFill, true, 0, 5), ~0ull, ~0ull), hvdef::MakeResult(HvStatus::kSuccess, 5));
  EXPECT_EQ(retries_, 1);
  EXPECT_EQ(vp_.GetGpr(Gpr::kRdx), 0x0000000200000001u);
  EXPECT_EQ(vp_.GetGpr(Gpr::kR8), 0x0000000400000003u);
  EXPECT_EQ(Xmm(0).low, 5u);
}

TEST_F(DispatcherTest, FastRepWithVariableHeader) {
  Xmm(0) = {5, 6};  // variable: [2, 5]; elements: 6, 7
  Xmm(1) = {7, 99};
  EXPECT_EQ(Call64(Control::Make(kSumBoth, true, /*variable_words=*/2, /*rep_count=*/2), 10, 2),
            hvdef::MakeResult(HvStatus::kSuccess, 2));
  EXPECT_EQ(calls_.sum, 10u * (2 + 5) + 6 + 7);
}

TEST_F(DispatcherTest, RepContinuesWithTheStartIndex) {
  Put(0, Header{2});
  std::vector<uint32_t> elements(12);
  std::iota(elements.begin(), elements.end(), 100);
  std::memcpy(&host_[8], elements.data(), 48);
  vp_.SetGpr(Gpr::kRcx, Control::Make(kMultiply, false, 0, 12).value);
  vp_.SetGpr(Gpr::kRdx, 0);
  vp_.SetGpr(Gpr::kR8, 4096);
  Caller caller{vp_, 0};
  EXPECT_EQ(dispatcher_.Dispatch(caller), HypercallOutcome::kRetry);
  EXPECT_EQ(vp_.GetGpr(Gpr::kRcx), Control::Make(kMultiply, false, 0, 12, /*rep_start=*/5).value);
  EXPECT_EQ(Get<uint64_t>(4096 + 4 * 8), 208u);
  EXPECT_EQ(Get<uint64_t>(4096 + 5 * 8), 0xEEEEEEEEEEEEEEEE);
  EXPECT_EQ(dispatcher_.Dispatch(caller), HypercallOutcome::kRetry);
  EXPECT_EQ(dispatcher_.Dispatch(caller), HypercallOutcome::kDone);
  EXPECT_EQ(vp_.GetGpr(Gpr::kRax), hvdef::MakeResult(HvStatus::kSuccess, 12));
  EXPECT_THAT(calls_.batches, ElementsAre(5, 5, 2));
  for (uint32_t i = 0; i < 12; ++i) EXPECT_EQ(Get<uint64_t>(4096 + i * 8), 2 * (100 + i));
}

TEST_F(DispatcherTest, RepErrorTellsHowManyAreDone) {
  Put(0, Header{2});
  const uint32_t elements[] = {1, 2, 3, 4, 5, 6, 13, 8};
  Put(8, elements);
  EXPECT_EQ(Call64(Control::Make(kMultiply, false, 0, 8), 0, 4096), hvdef::MakeResult(HvStatus::kInvalidParameter, 6));
  EXPECT_EQ(Get<uint64_t>(4096 + 5 * 8), 12u);
  EXPECT_EQ(Get<uint64_t>(4096 + 6 * 8), 0xEEEEEEEEEEEEEEEE);
}

TEST_F(DispatcherTest, VariableHeaders) {
  Put(0, Header{3});
  const uint64_t variable[] = {1, 2, 4};
  Put(8, variable);
  EXPECT_EQ(Call64(Control::Make(kSumVariable, false, 3), 0, 0), 0u);
  EXPECT_EQ(calls_.sum, 21u);
  EXPECT_EQ(Call64(Control::Make(kSumVariable, false, 0), 0, 0), 0u);
  EXPECT_EQ(calls_.variable_words, 0u);
  EXPECT_EQ(StatusOf(Call64(Control::Make(kSumVariable, false, 0x3FF), 0, 0)), HvStatus::kInvalidAlignment);
}

TEST_F(DispatcherTest, ControlWordsThatAreWrong) {
  const auto status = [&](uint64_t control) { return StatusOf(Call64({control}, 0, 4096)); };
  EXPECT_EQ(status(0x7777), HvStatus::kInvalidHypercallCode);
  EXPECT_EQ(record_.call, nullptr);
  EXPECT_EQ(status(0x00FF), HvStatus::kInvalidHypercallCode);
  for (int bit : {27, 28, 29, 30, 31, 44, 45, 46, 47, 60, 61, 62, 63}) {
    EXPECT_EQ(status(kNop | uint64_t{1} << bit), HvStatus::kInvalidHypercallInput) << bit;
  }
  EXPECT_EQ(status(Control::Make(kNop, false, 0, 1).value), HvStatus::kInvalidHypercallInput)
      << "reps of a simple call";
  EXPECT_EQ(status(Control::Make(kNop, false, 0, 0, 1).value), HvStatus::kInvalidHypercallInput);
  EXPECT_EQ(status(Control::Make(kNop, false, 1).value), HvStatus::kInvalidHypercallInput) << "no variable header";
  EXPECT_EQ(status(Control::Make(kMultiply).value), HvStatus::kInvalidHypercallInput) << "rep call without reps";
  EXPECT_EQ(status(Control::Make(kMultiply, false, 0, 3, 3).value), HvStatus::kInvalidHypercallInput);
  EXPECT_EQ(status(Control::Make(kMultiply, true, 0, 40).value), HvStatus::kInvalidHypercallInput) << "too long";
  EXPECT_EQ(calls_.nops, 0);
}

TEST_F(DispatcherTest, PrivilegeComesBeforeEverythingElse) {
  EXPECT_EQ(StatusOf(Call64({kPrivileged | uint64_t{1} << 63}, 0, 0)), HvStatus::kAccessDenied);
  privileges_ = kSecret;
  EXPECT_EQ(StatusOf(Call64(Control::Make(kPrivileged), 0, 0)), HvStatus::kSuccess);
}

TEST_F(DispatcherTest, ListsLieInOnePageOfMemory) {
  const auto status = [&](uint64_t input, uint64_t output) {
    return StatusOf(Call64(Control::Make(kAdd), input, output));
  };
  EXPECT_EQ(status(4, 4096), HvStatus::kInvalidAlignment);
  EXPECT_EQ(status(0, 4100), HvStatus::kInvalidAlignment);
  EXPECT_EQ(status(4096 - 8, 4096), HvStatus::kInvalidAlignment) << "crosses a page";
  EXPECT_EQ(status(4096 - 16, 8192 - 8), HvStatus::kSuccess);
  EXPECT_EQ(status(4 * 4096, 4096), HvStatus::kInvalidAlignment) << "not memory";
  EXPECT_EQ(status(0, ~uint64_t{0} << 12), HvStatus::kInvalidAlignment);
  EXPECT_EQ(StatusOf(Call64(Control::Make(kNop), 3, 5)), HvStatus::kSuccess) << "no lists, no addresses";
  EXPECT_EQ(StatusOf(Call64(Control::Make(kMultiply, false, 0, 0xFFF), 0, 4096)), HvStatus::kInvalidAlignment);
}

TEST_F(DispatcherTest, CodesAreUnique) {
  EXPECT_EQ(dispatcher_.Add<Calls>(absl::MakeConstSpan(kCalls).first(1), calls_).code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(dispatcher_.Find(kFill)->input_bytes, 0);
  EXPECT_EQ(dispatcher_.Find(kSwap)->input_bytes, 16);
  EXPECT_EQ(dispatcher_.Find(0x4444), nullptr);
}

}  // namespace
}  // namespace hvsdk::hypercall
