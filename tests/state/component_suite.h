// SPDX-License-Identifier: Apache-2.0
// What every component promises (hvsdk/state/component.h), checked for any of them by random histories.
//
// A subject is a component in the smallest world that it needs:
//
//   struct LampSubject {
//     state::Component& component() { return lamp; }
//     // One random thing that happens to it; what can be seen of it afterwards.
//     std::string Step(std::mt19937_64& random) { return lamp.Press(random() % 3); }
//     // What else is carried over, where a world has more state than the component: memory, the time of its clock.
//     void CopyWorld(LampSubject& from) {}
//     // Optional: what it remembers of a guest's memory in use may differ from what a restored one finds there now.
//     static constexpr bool kEndsMayDiffer = true;
//     // Optional: takes from the component what outlives a reset.
//     void Settle() {}
//     Lamp lamp;
//   };
//   TEST(LampTest, KeepsItsState) { state::CheckComponent([] { return std::make_unique<LampSubject>(); }); }

#ifndef HVSDK_TESTS_STATE_COMPONENT_SUITE_H_
#define HVSDK_TESTS_STATE_COMPONENT_SUITE_H_

#include <algorithm>
#include <memory>
#include <ostream>
#include <random>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "hvsdk/state/component.h"
#include "tests/random_seed.h"

namespace hvsdk::state {

struct SavedState {
  uint32_t schema = 0;
  std::string bytes;
  bool operator==(const SavedState&) const = default;
};

// For messages: bytes that can be compared by eye.
inline void PrintTo(const SavedState& saved, std::ostream* out) {
  *out << "schema " << saved.schema << ", " << saved.bytes.size() << " bytes: " << absl::BytesToHexString(saved.bytes);
}

inline SavedState SaveOf(const Component& component) {
  StateWriter writer;
  const absl::Status status = component.Save(writer);
  EXPECT_TRUE(status.ok()) << status;
  return {writer.schema(), writer.bytes()};
}

inline absl::Status RestoreOf(Component& component, const SavedState& saved) {
  StateReader reader(component.StateName(), saved.schema, saved.bytes);
  return component.Restore(reader);
}

// One damage of many: a bit, a byte, a piece that is gone, doubled or overwritten.
inline std::string Damage(std::string bytes, std::mt19937_64& random) {
  if (bytes.empty()) return std::string(1 + random() % 16, static_cast<char>(random()));
  const size_t at = random() % bytes.size();
  switch (random() % 6) {
    case 0:
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
      break;
    case 1:
      bytes[at] = static_cast<char>(random());
      break;
    case 2:
      bytes.resize(at);
      break;
    case 3:
      bytes.erase(at, 1 + random() % 8);
      break;
    case 4:
      bytes.insert(at, bytes.substr(at, 1 + random() % 32));
      break;
    default:
      for (size_t i = at; i < std::min(bytes.size(), at + 8); ++i) bytes[i] = static_cast<char>(0xFF);
  }
  return bytes;
}

template <typename Make>
void CheckComponent(Make make, int histories = 50, int steps = 60) {
  const uint32_t seed = TestSeed();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  for (int history = 0; history < histories; ++history) {
    SCOPED_TRACE(testing::Message() << "history " << history);
    auto whole = make();
    const SavedState made = SaveOf(whole->component());
    const int before = static_cast<int>(random() % steps);
    for (int i = 0; i < before; ++i) whole->Step(random);

    const SavedState saved = SaveOf(whole->component());
    auto restored = make();
    restored->CopyWorld(*whole);
    {
      const absl::Status status = RestoreOf(restored->component(), saved);
      ASSERT_TRUE(status.ok()) << status;
    }
    ASSERT_EQ(SaveOf(restored->component()), saved) << "saved, restored and saved again";

    std::mt19937_64 twin = random;
    for (int i = 0; i < steps - before; ++i) {
      const std::string expected = whole->Step(random);
      ASSERT_EQ(restored->Step(twin), expected) << "step " << i << " after the restore";
    }
    if constexpr (!requires { whole->kEndsMayDiffer; }) {
      ASSERT_EQ(SaveOf(restored->component()), SaveOf(whole->component())) << "at the end of the history";
    }

    for (int i = 0; i < 20; ++i) {
      auto victim = make();
      const SavedState damaged{random() % 8 == 0 ? static_cast<uint32_t>(random() % 3) : saved.schema,
                               Damage(saved.bytes, random)};
      const absl::Status status = RestoreOf(victim->component(), damaged);
      if (!status.ok()) {
        ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
        ASSERT_TRUE(absl::StrContains(status.message(), victim->component().StateName())) << status;
        ASSERT_EQ(SaveOf(victim->component()), made) << "refused, and changed: " << status;
      } else {
        for (int step = 0; step < 5; ++step) victim->Step(random);  // whatever it is now, it is sound
      }
    }
    if constexpr (requires { whole->Settle(); }) whole->Settle();
    whole->component().Reset();
    ASSERT_EQ(SaveOf(whole->component()), made) << "after a reset";
  }
}

}  // namespace hvsdk::state

#endif  // HVSDK_TESTS_STATE_COMPONENT_SUITE_H_
