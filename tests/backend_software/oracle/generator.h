// SPDX-License-Identifier: Apache-2.0
// Random user-mode instruction sequences with a state they make sense in.
//
// Opcodes are drawn evenly from the maps of the encoding, dressed with random prefixes and operands, and kept if they
// decode to an instruction whose result does not depend on the machine (time, system tables, the host's own
// segments). Memory operands are mostly led into the data pages, across the boundary between them and over their
// ends; the rest fault.

#ifndef HVSDK_TESTS_BACKEND_SOFTWARE_ORACLE_GENERATOR_H_
#define HVSDK_TESTS_BACKEND_SOFTWARE_ORACLE_GENERATOR_H_

#include <Zydis/Zydis.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "hvsdk/backend/backend.h"
#include "tests/backend_software/oracle/random.h"
#include "tests/backend_software/oracle/user_state.h"

namespace hvsdk::oracle {

inline bool In(ZydisMnemonic mnemonic, std::initializer_list<ZydisMnemonic> list) {
  return std::find(list.begin(), list.end(), mnemonic) != list.end();
}

struct Sequence {
  std::vector<uint8_t> code;     // ends in UD2
  std::vector<uint16_t> starts;  // offset of each instruction
  std::vector<ZydisMnemonic> mnemonics;
  uint64_t undefined_flags = 0;  // RFLAGS that the last instructions leave undefined
  UserState state;
};

class Generator {
 public:
  // `cpuid` says which instruction sets the engine offers; the others are left out. `is_64bit`: or for a 32-bit code
  // segment.
  Generator(uint64_t seed, absl::Span<const backend::CpuidEntry> cpuid, bool is_64bit);

  void Next(Sequence& sequence, std::array<uint8_t, kDataSize>& data);
  // A long sequence of x87 instructions alone, whose stack fills and empties; memory operands lie in the data pages.
  void NextX87(Sequence& sequence, std::array<uint8_t, kDataSize>& data);

 private:
  void DrawState(Sequence& sequence, std::array<uint8_t, kDataSize>& data);
  bool NextInstruction(uint8_t* bytes, ZydisDecodedInstruction& instruction, ZydisDecodedOperand* operands);
  bool IsOffered(const ZydisDecodedInstruction& instruction, const ZydisDecodedOperand* operands) const;
  void LeadIntoData(uint8_t* bytes, uint64_t at, const ZydisDecodedInstruction& instruction,
                    const ZydisDecodedOperand* operands, UserState& state);
  uint64_t Value();
  uint64_t DataPointer();

  // What a general register holds, cut to its width.
  uint64_t Cut(uint64_t value) const { return is_64bit_ ? value : value & 0xFFFFFFFF; }

  const bool is_64bit_;
  Random random_;
  ZydisDecoder decoder_;
  std::map<ZydisISAExt, bool> offered_;
};

std::string Disassemble(const Sequence& sequence);

}  // namespace hvsdk::oracle

#endif  // HVSDK_TESTS_BACKEND_SOFTWARE_ORACLE_GENERATOR_H_
