// SPDX-License-Identifier: Apache-2.0
#ifndef HVSDK_TESTS_BACKEND_SOFTWARE_ORACLE_RANDOM_H_
#define HVSDK_TESTS_BACKEND_SOFTWARE_ORACLE_RANDOM_H_

#include <cstdint>
#include <initializer_list>

namespace hvsdk::oracle {

// xorshift64*: a step costs a nanosecond, and the whole run follows from the seed.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed | 1) {}
  uint64_t operator()() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545F4914F6CDD1D;
  }
  uint64_t Below(uint64_t bound) { return (*this)() % bound; }
  bool OneIn(uint64_t n) { return Below(n) == 0; }
  template <typename T>
  T Of(std::initializer_list<T> choices) {
    return choices.begin()[Below(choices.size())];
  }

 private:
  uint64_t state_;
};

}  // namespace hvsdk::oracle

#endif  // HVSDK_TESTS_BACKEND_SOFTWARE_ORACLE_RANDOM_H_
