// SPDX-License-Identifier: Apache-2.0
// The software processor against the host's: programs that write themselves (world.h).

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "absl/base/config.h"
#include "absl/strings/str_format.h"
#include "gtest/gtest.h"
#include "hvsdk/backend_software/software_backend.h"
#include "tests/backend_software/code_oracle/engine_world.h"
#include "tests/backend_software/code_oracle/native_world.h"
#include "tests/backend_software/code_oracle/program_generator.h"

namespace hvsdk::code_oracle {
namespace {

// CF PF ZF SF OF; logical operations leave AF open.
constexpr uint64_t kComparedFlags = 0x8C5;

std::string Show(const Outcome& outcome) {
  std::string text = absl::StrFormat("vector %d error %x at %x (address %x) flags %x", outcome.vector,
                                     outcome.error_code, outcome.ip, outcome.address, outcome.rflags & kComparedFlags);
  static constexpr const char* kNames[] = {"eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"};
  for (int i = 0; i < kRegisters; ++i) text += absl::StrFormat(" %s %x", kNames[i], outcome.registers[i]);
  return text;
}

bool Same(const Outcome& a, const Outcome& b) {
  return a.registers == b.registers && a.ip == b.ip && ((a.rflags ^ b.rflags) & kComparedFlags) == 0 &&
         a.vector == b.vector && a.error_code == b.error_code && a.address == b.address && a.frames == b.frames &&
         a.stack == b.stack;
}

std::string Difference(const Outcome& host, const Outcome& engine) {
  std::string text = "  host:   " + Show(host) + "\n  engine: " + Show(engine) + "\n";
  for (int frame = 0; frame < kFrames; ++frame) {
    for (uint32_t at = 0; at < kPage; ++at) {
      if (host.frames[frame][at] == engine.frames[frame][at]) continue;
      text += absl::StrFormat("  frame %d +%03x: host %02x engine %02x\n", frame, at, host.frames[frame][at],
                              engine.frames[frame][at]);
      break;
    }
  }
  if (host.stack != engine.stack) text += "  the stacks differ\n";
  return text;
}

std::string Describe(const Step& step) {
  static constexpr const char* kEntries[] = {"entered anew", "a page forgotten", "as it was"};
  return absl::StrFormat("  space %d maps %d %d %d, %s (%d); segment %d, enters at %x, flags %x; %d patches\n",
                         step.space, step.mapping[0], step.mapping[1], step.mapping[2],
                         kEntries[static_cast<int>(step.entry)], step.changed_page, step.segment, step.ip, step.rflags,
                         static_cast<int>(step.patches.size()));
}

// What stands around the place where the host stopped, as it is now.
std::string CodeAround(const Program& program, const Step& step, const Outcome& outcome) {
  const uint64_t linear = outcome.ip + (step.segment < 0 ? 0 : program.segments[step.segment].base);
  std::string text;
  if (linear < kWindowAddress || linear >= kWindowAddress + kWindowPages * kPage) return text;
  const uint64_t begin = std::max(kWindowAddress, linear - 32);
  for (uint64_t at = begin; at < linear + 16 && at < kWindowAddress + kWindowPages * kPage; ++at) {
    const int frame = step.mapping[(at - kWindowAddress) / kPage];
    if (at == linear) text += " >";
    text += frame < 0 ? " --" : absl::StrFormat(" %02x", outcome.frames[frame][at % kPage]);
  }
  return "  " + text + "\n";
}

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 0) : otherwise;
}

void Compare(uint64_t programs_wanted, bool interrupts, const backend::SoftwareOptions& options = {}) {
#if defined(ABSL_HAVE_ADDRESS_SANITIZER) || defined(ABSL_HAVE_THREAD_SANITIZER)
  GTEST_SKIP() << "a sanitizer's shadow lies where stray accesses on the host must find nothing";
#endif
  const auto backend = backend::CreateSoftwareBackend(options);
  ASSERT_TRUE(backend.ok()) << backend.status();
  const std::unique_ptr<EngineWorld> engine = CreateEngineWorld(**backend);
  ASSERT_NE(engine, nullptr);
  if (interrupts) engine->SendInterrupts();
  std::string why;
  const std::unique_ptr<World> host = CreateNativeWorld(why);
  if (host == nullptr) GTEST_SKIP() << why;

  const uint64_t seed = FromEnvironment("HVSDK_ORACLE_SEED", 20834759);
  const uint64_t programs = FromEnvironment("HVSDK_ORACLE_PROGRAMS", programs_wanted);
  SCOPED_TRACE(testing::Message() << "HVSDK_ORACLE_SEED=" << seed);
  ProgramGenerator generator(seed);
  auto program = std::make_unique<Program>();
  auto native = std::make_unique<Outcome>(), ours = std::make_unique<Outcome>();
  uint64_t steps = 0, modified = 0;
  int vectors[32] = {};
  for (uint64_t i = 0; i < programs; ++i) {
    generator.Next(*program);
    host->Begin(*program);
    engine->Begin(*program);
    std::array<Frame, kFrames> before = program->frames;
    std::string history;
    for (const Step& step : program->steps) {
      history += Describe(step);
      host->Run(step, *native);
      engine->Run(step, *ours);
      ASSERT_FALSE(testing::Test::HasFatalFailure()) << history;
      ++steps;
      ++vectors[native->vector & 31];
      modified += native->frames != before;
      before = native->frames;
      ASSERT_TRUE(Same(*native, *ours)) << "program " << i << "\n"
                                        << history << Difference(*native, *ours) << CodeAround(*program, step, *native);
    }
  }
  std::printf("%llu steps, %llu of them changed code; %d ended by #UD, %d #DB, %d #GP, %d #PF; seed %llu\n",
              static_cast<unsigned long long>(steps), static_cast<unsigned long long>(modified), vectors[6], vectors[1],
              vectors[13], vectors[14], static_cast<unsigned long long>(seed));
  EXPECT_GT(modified, steps / 4) << "the programs hardly write themselves";
  EXPECT_GT(vectors[6], 0);
  EXPECT_GT(vectors[1], 0);
  EXPECT_GT(vectors[13], 0);
  EXPECT_GT(vectors[14], 0);
  if (interrupts) {
    std::printf("%llu interrupts\n", static_cast<unsigned long long>(engine->interrupts()));
    EXPECT_GT(engine->interrupts(), 50);  // a host with other work gives their sender few turns
  }
}

TEST(CodeOracleTest, ProgramsThatWriteThemselvesAgreeWithTheHost) { Compare(4000, false); }
TEST(CodeOracleTest, InterruptsDoNotShow) { Compare(2000, true); }
// All code is forgotten every few blocks, wherever the program is.
TEST(CodeOracleTest, WhatTheCodeCacheForgetsDoesNotShow) {
  Compare(2000, true, {.code_cache_bytes = backend::kMinCodeCacheBytes});
}

}  // namespace
}  // namespace hvsdk::code_oracle
