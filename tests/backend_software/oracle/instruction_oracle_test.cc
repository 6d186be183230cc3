// SPDX-License-Identifier: Apache-2.0
// Millions of random user-mode instructions, in 64-bit mode and in a 32-bit code segment, here and on the host's own
// processor: registers, flags, memory and faults must be the same to the bit, but for the flags the manuals leave open.
//
// HVSDK_ORACLE_INSTRUCTIONS sets how many, HVSDK_ORACLE_SEED which. The default seed is fixed, so that a failure is a
// change's fault; other seeds are for looking further.

#include <algorithm>
#include <cstdlib>
#include <map>

#include "absl/base/config.h"
#include "absl/strings/str_format.h"
#include "gtest/gtest.h"
#include "hvsdk/memory/guest_memory.h"
#include "tests/backend_software/host_maker.h"
#include "tests/backend_software/host_segment.h"
#include "tests/backend_software/oracle/engine.h"
#include "tests/backend_software/oracle/engine_executor.h"
#include "tests/backend_software/oracle/generator.h"
#include "tests/backend_software/oracle/native_executor.h"

namespace hvsdk::oracle {
namespace {

constexpr uint64_t kComparedFlags = 0x044CD5;  // arithmetic, DF, AC, NT; the host's kernel keeps ID of its own

// The host's processor may have an MXCSR bit that the engine's, by its CPUID, has not: AMD's misaligned SSE mode, bit
// 17. A value with such a bit loads there and is #GP here, which changes `native` to what the engine owes.
void MxcsrOfTheHostAlone(const Sequence& sequence, ZydisMnemonic last, const Outcome& engine, Outcome& native) {
  constexpr uint32_t kEngineMxcsr = 0xFFFF;
  if (last != ZYDIS_MNEMONIC_LDMXCSR || native.fault.vector != 6 || (native.state.mxcsr & ~kEngineMxcsr) == 0) return;
  native.fault = {13, 0, 0};
  native.state.rip = kCodeAddress + sequence.starts.back();
  native.state.mxcsr = engine.state.mxcsr;  // the one before, which the host has lost
}

ZydisMnemonic MnemonicAt(const Sequence& sequence, uint64_t rip) {
  const auto found = std::find(sequence.starts.begin(), sequence.starts.end(), rip - kCodeAddress);
  return found == sequence.starts.end() ? ZYDIS_MNEMONIC_INVALID : sequence.mnemonics[found - sequence.starts.begin()];
}

bool IsMemoryFault(int vector) { return vector == 12 || vector == 13 || vector == 14; }

// The manual's alignment of SHA's operands in memory (Intel SDM volume 2, "Type 4" exceptions) is not AMD's processors'. And an x87
// store that meets an unmasked exception and a bad operand, both: one maker's processors look at the operand first.
// True: the host is another processor than ours from here on.
bool GoesOnWhereWeFault(const Sequence& sequence, const Outcome& engine, const Outcome& native) {
  const ZydisMnemonic mnemonic = MnemonicAt(sequence, engine.state.rip);
  if (!IsMemoryFault(engine.fault.vector)) return false;
  if (In(mnemonic,
         {ZYDIS_MNEMONIC_SHA1RNDS4, ZYDIS_MNEMONIC_SHA1NEXTE, ZYDIS_MNEMONIC_SHA1MSG1, ZYDIS_MNEMONIC_SHA1MSG2,
          ZYDIS_MNEMONIC_SHA256RNDS2, ZYDIS_MNEMONIC_SHA256MSG1, ZYDIS_MNEMONIC_SHA256MSG2})) {
    return HostMaker() == Maker::kAmd && engine.fault.vector == 13;
  }
  constexpr uint16_t kSummary = 0x80;
  return In(mnemonic, {ZYDIS_MNEMONIC_FST, ZYDIS_MNEMONIC_FSTP, ZYDIS_MNEMONIC_FIST, ZYDIS_MNEMONIC_FISTP,
                       ZYDIS_MNEMONIC_FISTTP, ZYDIS_MNEMONIC_FBSTP}) &&
         native.state.rip != engine.state.rip && (native.state.x87_status & kSummary) != 0 &&
         (engine.state.x87_status & kSummary) == 0;
}

// An MMX instruction whose operand faults: whether the top of the x87 stack is zero by then is the processor's own business.
void TopOfTheHostAlone(const Outcome& engine, Outcome& native) {
  constexpr uint16_t kTop = 7 << 11;
  if (!IsMemoryFault(native.fault.vector) || (native.state.x87_status & kTop) != 0) return;
  if (native.state.rip != engine.state.rip) return;
  const int top = engine.state.x87_status >> 11 & 7;
  std::rotate(native.state.st.begin(), native.state.st.begin() + top, native.state.st.end());
  native.state.x87_status |= engine.state.x87_status & kTop;
}

// Where a processor looks first when there are two faults, and what PUSHA and POPA have moved when they fault, is its
// own business. Changes `native` to what the engine does.
void OrdersOfTheHostAlone(const Sequence& sequence, const Outcome& engine, Outcome& native) {
  if (native.state.rip != engine.state.rip) return;
  const ZydisMnemonic mnemonic = MnemonicAt(sequence, native.state.rip);
  if (mnemonic == ZYDIS_MNEMONIC_INVALID) return;
  // A misaligned operand of 16 bytes over the end of the stack segment, or where it is not canonical.
  if (native.fault.vector == 13 && engine.fault.vector == 12) native.fault.vector = 12;
  // What has been written of ten bytes across two pages, of which the second is bad.
  if (mnemonic == ZYDIS_MNEMONIC_FBSTP && IsMemoryFault(native.fault.vector)) native.data = engine.data;
  if (sequence.state.is_64bit) return;
  // Many bytes over the end of 4 GiB, where no page is on either side.
  const bool ends = engine.fault.vector == 13 || engine.fault.vector == 12;
  if (native.fault.vector == 14 && ends && static_cast<uint32_t>(native.fault.address + 0x1000) < 0x2000)
    native.fault = engine.fault;
  if (mnemonic == ZYDIS_MNEMONIC_POPA || mnemonic == ZYDIS_MNEMONIC_POPAD) native.state.gpr = engine.state.gpr;
  if (mnemonic == ZYDIS_MNEMONIC_PUSHA || mnemonic == ZYDIS_MNEMONIC_PUSHAD) native.data = engine.data;
}

std::string Difference(const Outcome& native, const Outcome& engine, uint64_t flags_mask, bool wide_access) {
  static constexpr const char* kNames[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                             "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
  std::string text;
  const auto compare = [&](const std::string& name, uint64_t host, uint64_t ours) {
    if (host != ours) text += absl::StrFormat("  %-8s host %016x engine %016x\n", name, host, ours);
  };
  compare("vector", native.fault.vector, engine.fault.vector);
  // Away from code and data the host has pages of its own, a kernel's among them: whether one is present is
  // its business.
  const uint64_t address = native.fault.address;
  const bool near = (address >> 16) - 1 <= (kDataAddress >> 16);
  const uint32_t error_mask = native.fault.vector == 14 && !near ? ~1u : ~0u;
  compare("error", native.fault.error_code & error_mask, engine.fault.error_code & error_mask);
  // Where in an access of many bytes a processor finds the bad page is its own business too.
  const uint64_t apart = address - engine.fault.address;
  if (!wide_access || std::min(apart, -apart) > 4096) compare("cr2", address, engine.fault.address);
  for (int i = 0; i < 16; ++i) compare(kNames[i], native.state.gpr[i], engine.state.gpr[i]);
  compare("rip", native.state.rip, engine.state.rip);
  compare("rflags", native.state.rflags & flags_mask, engine.state.rflags & flags_mask);
  // Which elements of a packed operation count as inexact beside one that faults is not told.
  const uint32_t mxcsr_mask = native.fault.vector == 19 ? ~0x20u : ~0u;
  compare("mxcsr", native.state.mxcsr & mxcsr_mask, engine.state.mxcsr & mxcsr_mask);
  for (int i = 0; i < 16; ++i) {
    if (native.state.xmm[i] == engine.state.xmm[i]) continue;
    uint64_t host[2], ours[2];
    std::memcpy(host, native.state.xmm[i].data(), 16);
    std::memcpy(ours, engine.state.xmm[i].data(), 16);
    text += absl::StrFormat("  xmm%-5d host %016x%016x engine %016x%016x\n", i, host[1], host[0], ours[1], ours[0]);
  }
  compare("x87 cw", native.state.x87_control, engine.state.x87_control);
  // The condition codes of an instruction that met an unmasked exception differ between makers.
  const uint16_t status_mask = native.state.x87_status & 0x80 ? 0xB8FF : 0xFFFF;
  compare("x87 sw", native.state.x87_status & status_mask, engine.state.x87_status & status_mask);
  compare("x87 tags", native.state.x87_valid, engine.state.x87_valid);
  const int top = native.state.x87_status >> 11 & 7;
  for (int i = 0; i < 8; ++i) {
    if ((native.state.x87_valid >> ((top + i) & 7) & 1) == 0 || native.state.st[i] == engine.state.st[i]) continue;
    uint64_t host, ours;
    std::memcpy(&host, native.state.st[i].data(), 8);
    std::memcpy(&ours, engine.state.st[i].data(), 8);
    text += absl::StrFormat("  st%-6d host %02x%02x:%016x engine %02x%02x:%016x\n", i, native.state.st[i][9],
                            native.state.st[i][8], host, engine.state.st[i][9], engine.state.st[i][8], ours);
  }
  for (size_t i = 0; i < kDataSize; ++i) {
    if (native.data[i] == engine.data[i]) continue;
    text +=
        absl::StrFormat("  memory at %x: host %02x engine %02x\n", kDataAddress + i, native.data[i], engine.data[i]);
    break;
  }
  return text;
}

std::string X87Before(const UserState& state) {
  std::string text =
      absl::StrFormat("  before: cw %04x sw %04x tags %02x", state.x87_control, state.x87_status, state.x87_valid);
  for (const auto& st : state.st) {
    uint64_t significand;
    std::memcpy(&significand, st.data(), 8);
    text += absl::StrFormat(" %02x%02x:%016x", st[9], st[8], significand);
  }
  return text + "\n";
}

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 0) : otherwise;
}

enum class Draw { kEverything, kX87 };

void Compare(bool is_64bit, Draw draw, uint64_t instructions_wanted) {
#if defined(ABSL_HAVE_ADDRESS_SANITIZER) || defined(ABSL_HAVE_THREAD_SANITIZER)
  GTEST_SKIP() << "a sanitizer's shadow lies where stray accesses on the host must find nothing";
#endif
  const std::unique_ptr<backend::Backend> engine = CreateEngine();
  ASSERT_NE(engine, nullptr);
  const std::unique_ptr<Executor> guest = CreateEngineExecutor(*engine);
  ASSERT_NE(guest, nullptr);
  const std::unique_ptr<Executor> host = CreateNativeExecutor();
  if (host == nullptr) GTEST_SKIP() << "the fixed addresses are taken in this process";
  constexpr uint32_t kUserCode32 = 0x23;  // as Linux has it
  if (!is_64bit && !HostHasCodeSegment(kUserCode32)) GTEST_SKIP() << "this host runs no 32-bit code";

  GuestMemory none;
  const auto partition = engine->CreatePartition(none);
  ASSERT_TRUE(partition.ok()) << partition.status();
  const auto cpuid = (*partition)->SupportedCpuid();
  ASSERT_TRUE(cpuid.ok()) << cpuid.status();

  const uint64_t seed = FromEnvironment("HVSDK_ORACLE_SEED", 4093012213);
  const uint64_t wanted = FromEnvironment("HVSDK_ORACLE_INSTRUCTIONS", instructions_wanted);
  SCOPED_TRACE(testing::Message() << "HVSDK_ORACLE_SEED=" << seed);
  Generator generator(seed, *cpuid, is_64bit);
  Sequence sequence;
  std::array<uint8_t, kDataSize> data{};
  Outcome native, ours;
  std::map<ZydisMnemonic, uint64_t> counts;
  std::map<ZydisMnemonic, int> reported;
  uint64_t instructions = 0;
  int mismatches = 0;
  while (instructions < wanted) {
    if (draw == Draw::kX87) {
      generator.NextX87(sequence, data);
    } else {
      generator.Next(sequence, data);
    }
    ZydisMnemonic last = ZYDIS_MNEMONIC_INVALID;
    size_t begun = 0;  // of its instructions
    const auto run = [&]() -> std::string {
      host->Run(sequence.code, sequence.state, data, native);
      guest->Run(sequence.code, sequence.state, data, ours);
      const uint64_t end = native.state.rip - kCodeAddress;
      for (begun = 0; begun < sequence.starts.size() && sequence.starts[begun] <= end;)
        last = sequence.mnemonics[begun++];
      MxcsrOfTheHostAlone(sequence, last, ours, native);
      if (GoesOnWhereWeFault(sequence, ours, native)) return "";
      OrdersOfTheHostAlone(sequence, ours, native);
      TopOfTheHostAlone(ours, native);
      // A sequence that stopped early leaves open what any of its instructions may.
      const bool whole = native.fault.vector == 6 && end == sequence.code.size() - 2;
      // So does a comparison that faulted between two iterations, on AMD's processors.
      const bool repeats =
          HostMaker() == Maker::kAmd &&
          In(last, {ZYDIS_MNEMONIC_SCASB, ZYDIS_MNEMONIC_SCASW, ZYDIS_MNEMONIC_SCASD, ZYDIS_MNEMONIC_SCASQ,
                    ZYDIS_MNEMONIC_CMPSB, ZYDIS_MNEMONIC_CMPSW, ZYDIS_MNEMONIC_CMPSD, ZYDIS_MNEMONIC_CMPSQ});
      const uint64_t open = whole                                   ? sequence.undefined_flags
                            : repeats || sequence.starts.size() > 1 ? uint64_t{0x8D5}
                                                                    : sequence.undefined_flags;
      const bool wide = last == ZYDIS_MNEMONIC_FLDENV || last == ZYDIS_MNEMONIC_FRSTOR ||
                        last == ZYDIS_MNEMONIC_MASKMOVQ || last == ZYDIS_MNEMONIC_MASKMOVDQU;
      return Difference(native, ours, kComparedFlags & ~open, wide);
    };
    std::string difference = run();
    if (testing::Test::HasFatalFailure()) FAIL() << Disassemble(sequence);
    instructions += begun;
    for (size_t i = 0; i < begun; ++i) ++counts[sequence.mnemonics[i]];
    // Where a hypervisor emulates what the host does, it may now and then say something else of the same: what it says again counts.
    if (!difference.empty()) difference = run();
    if (difference.empty()) continue;
    ++mismatches;
    // A few of each kind tell more than many of one.
    if (++reported[last] <= 2) ADD_FAILURE() << Disassemble(sequence) << difference << X87Before(sequence.state);
    if (reported.size() > 30)
      FAIL() << "stopped after " << mismatches << " differences in " << instructions << " instructions";
  }
  std::printf("%llu instructions of %zu mnemonics, %d differences, seed %llu\n",
              static_cast<unsigned long long>(instructions), counts.size(), mismatches,
              static_cast<unsigned long long>(seed));
  // The draw reaches everything: a mnemonic that never comes would be a hole in the proof.
  EXPECT_GE(counts.size(), wanted < 100'000 ? 1u : draw == Draw::kX87 ? 85u : wanted >= 1'000'000 ? 500u : 1u);
  EXPECT_EQ(mismatches, 0);
}

TEST(InstructionOracleTest, RandomUserModeInstructionsAgreeWithTheHost) { Compare(true, Draw::kEverything, 2'000'000); }
TEST(InstructionOracleTest, Random32BitInstructionsAgreeWithTheHost) { Compare(false, Draw::kEverything, 500'000); }
TEST(InstructionOracleTest, RandomX87SequencesAgreeWithTheHost) { Compare(true, Draw::kX87, 500'000); }
TEST(InstructionOracleTest, Random32BitX87SequencesAgreeWithTheHost) { Compare(false, Draw::kX87, 250'000); }

}  // namespace
}  // namespace hvsdk::oracle
