// SPDX-License-Identifier: Apache-2.0
// A small world of code that the host's processor and an engine both can be put into, to compare what they make of it:
// programs that write themselves, in several address spaces whose pages overlap, run in 64-bit mode and in 32-bit
// segments that begin and end anywhere.
//
// A few frames of memory hold the code. An address space maps some of them, or nothing, at the pages of a window; all
// share a stack. A program is a list of steps: what others change first (bytes of frames, a page of the address space),
// then an entry point, from which the code runs until it faults.

#ifndef HVSDK_TESTS_BACKEND_SOFTWARE_CODE_ORACLE_WORLD_H_
#define HVSDK_TESTS_BACKEND_SOFTWARE_CODE_ORACLE_WORLD_H_

#include <array>
#include <cstdint>
#include <vector>

namespace hvsdk::code_oracle {

inline constexpr uint64_t kPage = 0x1000;
inline constexpr uint64_t kWindowAddress = 0x1000'0000;
inline constexpr int kWindowPages = 3;
inline constexpr int kFrames = 4;
inline constexpr int kSpaces = 3;
inline constexpr int kSegments = 4;  // of the local descriptor table
inline constexpr uint64_t kStackAddress = 0x2000'0000;
inline constexpr uint64_t kStackSize = 2 * kPage;

enum Register { kEax, kEcx, kEdx, kEbx, kEsp, kEbp, kEsi, kEdi, kRegisters };

// A 32-bit code segment with a limit in bytes.
struct CodeSegment {
  uint32_t base;
  uint32_t limit;
};

using Frame = std::array<uint8_t, kPage>;
using Mapping = std::array<int, kWindowPages>;  // frames; -1 for nothing

struct Patch {
  int frame;
  uint32_t offset;
  std::vector<uint8_t> bytes;
};

// How the step comes into its address space: it may have changed at will, in one page, or not at all since the last
// step.
enum class Entry : uint8_t { kAnew, kPageForgotten, kStays };

struct Step {
  std::vector<Patch> patches;
  int space;
  Mapping mapping;
  Entry entry;
  int changed_page;  // of the window, if it is forgotten
  int segment;       // -1: 64-bit mode
  uint64_t ip;       // an offset in the segment
  std::array<uint64_t, kRegisters> registers;
  uint64_t rflags;
};

struct Program {
  std::array<Frame, kFrames> frames;
  std::array<uint8_t, kStackSize> stack;
  std::array<CodeSegment, kSegments> segments;
  std::vector<Step> steps;
};

struct Outcome {
  std::array<uint64_t, kRegisters> registers;
  uint64_t ip;
  uint64_t rflags;
  int vector;
  uint32_t error_code;
  uint64_t address;  // of a page fault
  std::array<Frame, kFrames> frames;
  std::array<uint8_t, kStackSize> stack;
};

class World {
 public:
  virtual ~World() = default;
  virtual void Begin(const Program& program) = 0;
  virtual void Run(const Step& step, Outcome& outcome) = 0;
};

}  // namespace hvsdk::code_oracle

#endif  // HVSDK_TESTS_BACKEND_SOFTWARE_CODE_ORACLE_WORLD_H_
