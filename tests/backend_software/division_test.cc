// SPDX-License-Identifier: Apache-2.0
// DIV and IDIV at the edges of what fits, in every width: the quotient, the remainder or #DE as arithmetic says (Intel SDM
// volume 2, DIV and IDIV). Random operands hardly ever come near the edges.

#include <vector>

#include "tests/backend_software/software_test.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;

TEST(Division, IsExactAtTheEdges) {
  auto backend = CreateSoftwareBackend({});
  ASSERT_TRUE(backend.ok());
  auto machine = TestMachine::Create(**backend);
  ASSERT_TRUE(machine.ok());
  for (const int bits : {8, 16, 32, 64}) {
    const unsigned __int128 one = 1;
    const auto mask = static_cast<uint64_t>((one << bits) - 1);
    const uint64_t top = uint64_t{1} << (bits - 1);
    const auto sign = [&](uint64_t value) { return static_cast<__int128>(value) - ((value & top) ? one << bits : 0); };
    const uint64_t edges[] = {0, 1, 2, 7, top - 1, top, top + 1, mask - 1, mask};
    for (const bool is_signed : {false, true}) {
      std::vector<uint8_t> code;
      if (bits == 16) code.push_back(0x66);
      if (bits == 64) code.push_back(0x48);
      code.insert(code.end(), {static_cast<uint8_t>(bits == 8 ? 0xF6 : 0xF7),
                               static_cast<uint8_t>(is_signed ? 0xFB : 0xF3), 0xE6, kDonePort});  // by RBX
      for (const uint64_t high : edges) {
        for (const uint64_t low : edges) {
          for (const uint64_t divisor : edges) {
            SCOPED_TRACE(testing::Message() << bits << (is_signed ? " signed " : " unsigned ") << std::hex << high
                                            << ':' << low << " / " << divisor);
            bool fits = divisor != 0;
            uint64_t quotient = 0, remainder = 0;
            if (fits && !is_signed) {
              const unsigned __int128 n = static_cast<unsigned __int128>(high) << bits | low;
              fits = n / divisor <= mask;
              quotient = static_cast<uint64_t>(n / divisor);
              remainder = static_cast<uint64_t>(n % divisor);
            } else if (fits) {
              const unsigned __int128 dividend = (static_cast<unsigned __int128>(sign(high)) << bits) | low;
              const auto n = static_cast<__int128>(dividend);
              const __int128 d = sign(divisor);
              // The one quotient that the test's own arithmetic lacks does not fit either.
              fits = !(d == -1 && dividend == one << 127);
              if (fits) {
                fits = n / d >= -static_cast<__int128>(top) && n / d < static_cast<__int128>(top);
                quotient = static_cast<uint64_t>(n / d) & mask;
                remainder = static_cast<uint64_t>(n % d) & mask;
              }
            }
            (*machine)->Start(Mode::kLong, code);
            (*machine)->Set(RegisterName::kRax, bits == 8 ? high << 8 | low : low);
            (*machine)->Set(RegisterName::kRdx, high);
            (*machine)->Set(RegisterName::kRbx, divisor);
            Recorder recorder;
            (*machine)->Run(recorder);
            ASSERT_EQ(recorder.fault, fits ? -1 : 0);
            if (!fits) continue;
            const uint64_t rax = (*machine)->Get(RegisterName::kRax);
            ASSERT_EQ(rax & mask, quotient);
            ASSERT_EQ((bits == 8 ? rax >> 8 : (*machine)->Get(RegisterName::kRdx)) & mask, remainder);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace hvsdk::backend
