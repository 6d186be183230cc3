// SPDX-License-Identifier: Apache-2.0
// The state that a user-mode instruction can see and change, and the memory it can reach: the same on the host's
// processor and on an engine, at the same linear addresses, so that every register and every fault can be compared to
// the bit.

#ifndef HVSDK_TESTS_BACKEND_SOFTWARE_ORACLE_USER_STATE_H_
#define HVSDK_TESTS_BACKEND_SOFTWARE_ORACLE_USER_STATE_H_

#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace hvsdk::oracle {

// Linear addresses, each with nothing mapped for 64 KiB around.
inline constexpr uint64_t kCodeAddress = 0x1000'0000;  // one page, readable and executable
inline constexpr uint64_t kDataAddress = 0x2000'0000;  // two pages, readable and writable
inline constexpr uint64_t kDataSize = 0x2000;
inline constexpr uint64_t kCodeSize = 0x1000;

// Indices of the general registers as instructions encode them.
enum { kRax, kRcx, kRdx, kRbx, kRsp, kRbp, kRsi, kRdi };

struct UserState {
  bool is_64bit = true;  // or in a flat 32-bit code segment
  std::array<uint64_t, 16> gpr{};
  uint64_t rip = 0;
  uint64_t rflags = 0x202;
  std::array<std::array<uint8_t, 16>, 16> xmm{};
  uint32_t mxcsr = 0x1F80;
  uint16_t x87_control = 0x037F;
  uint16_t x87_status = 0;
  uint8_t x87_valid = 0;                        // abridged tags, by physical register
  std::array<std::array<uint8_t, 10>, 8> st{};  // ST(0) to ST(7)
};

// How a sequence ended.
struct Fault {
  uint8_t vector = 0;
  uint32_t error_code = 0;
  uint64_t address = 0;  // CR2 of a page fault
};

struct Outcome {
  UserState state;
  Fault fault;
  std::array<uint8_t, kDataSize> data;
};

// What an engine or the host must do: put `state` and `data` in place, run `code` from its first byte in user mode
// until it faults (a sequence ends in UD2), and tell what it left.
class Executor {
 public:
  virtual ~Executor() = default;
  virtual void Run(const std::vector<uint8_t>& code, const UserState& state, const std::array<uint8_t, kDataSize>& data,
                   Outcome& outcome) = 0;
};

}  // namespace hvsdk::oracle

#endif  // HVSDK_TESTS_BACKEND_SOFTWARE_ORACLE_USER_STATE_H_
