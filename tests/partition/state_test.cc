// SPDX-License-Identifier: Apache-2.0
// What a partition and its VPs keep across save and restore.
#include "partition/state.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "hvsdk/hvdef/hypercall.h"
#include "hvsdk/hvdef/privilege.h"
#include "hvsdk/state/component.h"
#include "tests/partition/fake_machine.h"
#include "tests/state/component_suite.h"

namespace hvsdk::partition {
namespace {

using fake::FakeMachine;
using hvdef::HvStatus;
using state::RestoreOf;
using state::SavedState;
using state::SaveOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Interrupt = fake::FakePartition::Interrupt;
namespace msr = hvdef::msr;

constexpr uint64_t kDevice = 77;

FakeMachine::Options BareOptions() {
  FakeMachine::Options options;
  options.vp_runtime = false;
  options.enable_hypercalls = false;
  options.caps.invariant_tsc = true;
  return options;
}

std::vector<SavedState> SaveAll(FakeMachine& machine) {
  std::vector<SavedState> saved;
  for (const state::Component* each : machine.partition->components()) saved.push_back(SaveOf(*each));
  return saved;
}

absl::Status RestoreAll(FakeMachine& machine, const std::vector<SavedState>& saved) {
  const std::vector<state::Component*> components = machine.partition->components();
  for (size_t i = 0; i < components.size(); ++i) {
    if (absl::Status status = RestoreOf(*components[i], saved[i]); !status.ok()) return status;
  }
  return absl::OkStatus();
}

// A machine made as `from` was, which goes on from what it is now.
std::unique_ptr<FakeMachine> Successor(FakeMachine& from) {
  auto to = std::make_unique<FakeMachine>(from.options);
  to->TakeWorldOf(from);
  const absl::Status status = RestoreAll(*to, SaveAll(from));
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(SaveAll(*to), SaveAll(from));
  return to;
}

// The state of one component, changed.
template <typename State>
SavedState Changed(const SavedState& saved, std::function<void(State&)> change) {
  State state;
  state::StateReader reader("component", saved.schema, saved.bytes);
  EXPECT_TRUE(reader.Read(state).ok());
  change(state);
  state::StateWriter writer;
  writer.Write(state);
  return {writer.schema(), writer.bytes()};
}
template <typename State>
SavedState Changed(state::Component& component, std::function<void(State&)> change) {
  return Changed<State>(SaveOf(component), change);
}

// All of a machine's components as one: a state that one of them refuses ends in a reset of all.
class AllComponents : public state::Component {
 public:
  explicit AllComponents(FakeMachine& machine) : machine_(machine) {}

  std::string StateName() const override { return "hypervisor"; }
  absl::Status Save(state::StateWriter& writer) const override {
    AllState state;
    for (const SavedState& part : SaveAll(machine_)) state.parts.push_back({part.schema, part.bytes});
    writer.Write(state);
    return absl::OkStatus();
  }
  absl::Status Restore(state::StateReader& reader) override {
    AllState state;
    if (absl::Status status = reader.Read(state); !status.ok()) return status;
    if (state.parts.size() != 1 + machine_.vps.size()) return reader.Invalid("parts", "not these");
    std::vector<SavedState> parts;
    for (const Part& part : state.parts) parts.push_back({part.schema, part.bytes});
    absl::Status status = RestoreAll(machine_, parts);
    if (!status.ok()) Reset();
    return status;
  }
  void Reset() override {
    machine_.partition->Reset();
    // Reference time goes on after a reset, and a machine that refuses a state is not run: not part of the comparison.
    EXPECT_TRUE(machine_.reference_clock->Restore(scale_, offset_, machine_.options.caps.tsc_frequency_hz).ok());
  }

 private:
  struct Part {
    uint32_t schema = 0;
    std::string bytes;
    template <typename Visitor>
    void Fields(Visitor& visit) {
      visit(1, "schema", schema);
      visit(2, "bytes", bytes);
    }
  };
  struct AllState {
    static constexpr uint32_t kSchema = 1;
    std::vector<Part> parts;
    template <typename Visitor>
    void Fields(Visitor& visit) {
      visit(1, "parts", parts);
    }
  };

  FakeMachine& machine_;
  const uint64_t scale_ = machine_.reference_clock->scale();
  const int64_t offset_ = machine_.reference_clock->offset();
};

// A guest that does what the interface allows, at random. Few pages, so that overlays meet upon one; a SINT of its own
// for each timer, since in which order two fire at once is nobody's promise.
class Guest : public MessageSlotObserver {
 public:
  Guest() : machine_(BareOptions()), component_(machine_) {
    machine_.partition->SetMessageSlotObserver(this);
    EXPECT_TRUE(machine_.partition->RegisterDevice(kDevice, /*max_interrupts=*/3).ok());
  }

  FakeMachine& machine() { return machine_; }
  state::Component& component() { return component_; }
  void CopyWorld(Guest& from) { machine_.TakeWorldOf(from.machine_); }

  std::string Step(std::mt19937_64& random) {
    const auto vp = static_cast<uint32_t>(random() % machine_.vps.size());
    const auto sint = static_cast<uint32_t>(random() % 3);
    std::string seen;
    switch (random() % 16) {
      case 0:
      case 1:
        absl::StrAppend(&seen, machine_.Allows(PageMsr(random), Page(random) | (random() % 4 != 0), vp));
        break;
      case 2:
        absl::StrAppend(&seen, machine_.Allows(msr::kScontrol, random() % 4 != 0, vp));
        break;
      case 3: {
        const uint64_t value = (0x30 + random() % 64) | (random() % 4 == 0 ? msr::kSintMasked : 0) |
                               (random() % 4 == 0 ? msr::kSintAutoEoi : 0);
        absl::StrAppend(&seen, machine_.Allows(msr::kSint0 + (random() % 2 == 0 ? sint : 4 + random() % 4), value, vp));
        break;
      }
      case 4:
      case 5: {
        const auto index = static_cast<uint32_t>(random() % hvdef::kStimerCount);
        const bool direct = random() % 4 == 0, periodic = random() % 2 == 0;
        const uint64_t period = random() % 3 == 0 ? 1 + random() % 100 : 1000 + random() % 5000;
        const uint64_t config = (periodic ? msr::kStimerPeriodic : 0) | (random() % 4 == 0 ? msr::kStimerLazy : 0) |
                                msr::kStimerAutoEnable |
                                (direct ? msr::kStimerDirect | (0xA0 + index) << msr::kStimerVectorShift
                                        : uint64_t{4 + index} << msr::kStimerSintShift);
        machine_.Write(msr::kStimer0Config + 2 * index, config, vp);
        machine_.Write(msr::kStimer0Count + 2 * index,
                       periodic ? period : machine_.reference_clock->Now100ns() + period, vp);
        break;
      }
      case 6:
        machine_.timers.AdvanceBy(random() % 3000);
        break;
      case 7:
        machine_.clock.Advance(random() % 100000);  // and the timers are late
        break;
      case 8:
      case 9:
      case 10: {
        std::vector<uint8_t> payload(random() % 241);
        for (uint8_t& byte : payload) byte = static_cast<uint8_t>(random());
        const auto type = static_cast<uint32_t>(random() | 1);
        for (uint64_t i = random() % 8 == 0 ? 20 : 1; i > 0; --i) {
          const HvStatus status = machine_.partition->PostMessage(VpIndex{vp}, Sint(sint), type, payload, type ^ i);
          absl::StrAppend(&seen, static_cast<int>(status), " ");
        }
        break;
      }
      case 11:
        absl::StrAppend(&seen,
                        static_cast<int>(machine_.partition->SignalEvent(VpIndex{vp}, Sint(sint), random() % 2048)));
        break;
      case 12: {  // the guest takes messages; it knows where they are
        const uint64_t simp = machine_.Read(msr::kSimp, vp) & msr::kPageAddressMask;
        for (uint64_t i = 0; i < 16 && simp < FakeMachine::kMemoryBytes; ++i) {
          std::memset(&machine_.host[simp + i * 256], 0, sizeof(uint32_t));
        }
        machine_.Write(msr::kEom, 0, vp);
        break;
      }
      case 13:  // it writes memory of its own, or of an overlay's
        machine_.host[kFirstPage * kPageSize + random() % (kPages * kPageSize)] = static_cast<uint8_t>(random());
        break;
      case 14: {
        const hvdef::RetargetDeviceInterruptInput input{
            .partition_id = hvdef::kPartitionIdSelf,
            .device_id = kDevice,
            .entry = {hvdef::kInterruptSourceMsi, 0, 0xFEE00000, static_cast<uint32_t>(0x4030 + random() % 4)},
            .vector = static_cast<uint32_t>(0x60 + random() % 16),
            .mask_or_format = 1 + random() % 3};
        machine_.Write(msr::kGuestOsId, 0x8100'0006'0001'0000);
        machine_.Write(msr::kHypercall, FakeMachine::kHypercallPage | msr::kPageEnable);
        absl::StrAppend(&seen, static_cast<int>(machine_.StatusOf(hvdef::CallCode::kRetargetDeviceInterrupt, input)));
        break;
      }
      default: {
        constexpr uint32_t kPlain[] = {msr::kGuestOsId, msr::kCrashP0, msr::kCrashP4, msr::kTscInvariantControl};
        absl::StrAppend(&seen, machine_.Allows(kPlain[random() % 4], random() % 2, vp));
      }
    }
    for (uint32_t i = 0; i < 4; ++i) machine_.partition->SignalDeviceInterrupt(kDevice, 0xFEE00000, 0x4030 + i);
    return seen + Observe();
  }

  void OnMessageSlotFree(VpIndex vp, Sint sint) override { room_.emplace_back(ToInt(vp), ToInt(sint)); }

 private:
  static constexpr uint64_t kFirstPage = 8, kPages = 5;

  static uint32_t PageMsr(std::mt19937_64& random) {
    constexpr uint32_t kMsrs[] = {msr::kHypercall, msr::kReferenceTsc, msr::kVpAssistPage,
                                  msr::kSimp,      msr::kSimp,         msr::kSiefp};
    return kMsrs[random() % 6];
  }
  static uint64_t Page(std::mt19937_64& random) {
    const uint64_t page = random() % (kPages + 1);
    return page == kPages ? 4 * FakeMachine::kMemoryBytes : (kFirstPage + page) * kPageSize;
  }

  // All that the guest and the rest of the machine can see.
  std::string Observe() {
    std::string seen;
    std::vector<Interrupt> interrupts = machine_.backend.TakeInterrupts();
    std::sort(interrupts.begin(), interrupts.end(), [](const Interrupt& a, const Interrupt& b) {
      return std::tuple(a.vp, a.vector, a.auto_eoi) < std::tuple(b.vp, b.vector, b.auto_eoi);
    });
    for (const Interrupt& each : interrupts) absl::StrAppend(&seen, " ", each.vp, ":", each.vector, each.auto_eoi);
    for (const auto& [address, data] : machine_.backend.TakeMsis()) absl::StrAppend(&seen, " ", address, "=", data);
    for (const auto& [vp, sint] : std::exchange(room_, {})) absl::StrAppend(&seen, " room", vp, ":", sint);
    for (uint32_t vp = 0; vp < machine_.vps.size(); ++vp) {
      for (const auto& [first, last] : {std::pair{msr::kGuestOsId, msr::kTscFrequency},
                                        {msr::kVpAssistPage, msr::kSint15},
                                        {msr::kStimer0Config, msr::kStimer3Count},
                                        {msr::kCrashP0, msr::kTscInvariantControl}}) {
        for (uint32_t index = first; index <= last; ++index) absl::StrAppend(&seen, ",", machine_.Read(index, vp));
      }
      for (const uint8_t vector : machine_.fake_vps[vp]->auto_eoi_vectors) absl::StrAppend(&seen, ".", vector);
    }
    const std::string memory(machine_.host.begin(), machine_.host.begin() + (kFirstPage + kPages) * kPageSize);
    absl::StrAppend(&seen, " memory ", std::hash<std::string>()(memory));
    return seen;
  }

  FakeMachine machine_;
  AllComponents component_;
  std::vector<std::pair<uint32_t, uint32_t>> room_;
};

TEST(PartitionState, HistoriesGoOn) {
  state::CheckComponent([] { return std::make_unique<Guest>(); }, /*histories=*/60, /*steps=*/120);
}

// Visits a state and changes one of its fields, or a list's length or order.
class ChangeOne {
 public:
  ChangeOne(std::mt19937_64& random, int which) : random_(random), left_(which) {}
  // How many it has passed by, if none was changed.
  int passed() const { return passed_; }

  template <typename T>
  void operator()(uint16_t, const char*, T& value) {
    Field(value);
  }

 private:
  bool Now() { return ++passed_, left_-- == 0; }
  template <typename T>
  void Field(T& value) {
    if constexpr (state::Integer<T>) {
      if (Now()) value = static_cast<T>(Another(static_cast<uint64_t>(value)));
    } else if constexpr (state::Bytes<T> || state::IsVector<T>::value) {
      if (Now()) return ChangeList(value);
      if constexpr (!state::Bytes<T>) {
        for (auto& element : value) Field(element);
      }
    } else if constexpr (state::Structure<T>) {
      value.Fields(*this);
    } else {
      for (auto& element : value) Field(element);
    }
  }
  uint64_t Another(uint64_t value) {
    switch (random_() % 6) {
      case 0:
        return 0;
      case 1:
        return ~uint64_t{0};
      case 2:
        return value ^ uint64_t { 1 } << random_() % 64;
      case 3:
        return value + (random_() % 2 == 0 ? 1 : -1);
      case 4:
        return value + kPageSize * (random_() % 8) - 4 * kPageSize;
      default:
        return random_();
    }
  }
  template <typename T>
  void ChangeList(T& list) {
    switch (list.empty() ? 3 : random_() % 4) {
      case 0:
        return list.clear();
      case 1:
        return list.pop_back();
      case 2:
        return std::swap(list.front(), list.back());
      default:
        list.resize(list.size() + 1 + random_() % 20, list.empty() ? typename T::value_type{} : list.back());
    }
  }

  std::mt19937_64& random_;
  int left_;
  int passed_ = 0;
};

template <typename State>
SavedState WithOneChange(state::Component& component, std::mt19937_64& random) {
  return Changed<State>(component, [&](State& state) {
    ChangeOne count(random, -1);
    state.Fields(count);
    ChangeOne change(random, static_cast<int>(random() % count.passed()));
    state.Fields(change);
  });
}

// But for what a partition has of its own: what it offers, and its engine's code.
std::vector<SavedState> WithoutItsOwn(std::vector<SavedState> saved) {
  saved[0] = Changed<HypervisorState>(saved[0], [](HypervisorState& state) {
    state.privileges = 0;
    state.hypercall_code.clear();
  });
  return saved;
}

// A state that is well formed and says something else in one place is refused, or it is that of some other guest, who
// can do no harm.
TEST(PartitionState, AFieldThatSaysSomethingElseDoesNoHarm) {
  const uint32_t seed = TestSeed();
  std::mt19937_64 random(seed);
  int taken = 0, refused = 0;
  for (int history = 0; history < 20; ++history) {
    SCOPED_TRACE(history);
    Guest guest;
    for (uint64_t steps = random() % 200; steps > 0; --steps) guest.Step(random);
    Partition& partition = *guest.machine().partition;
    for (int i = 0; i < 40; ++i) {
      std::vector<SavedState> saved = SaveAll(guest.machine());
      if (random() % 2 == 0) {
        saved[0] = WithOneChange<HypervisorState>(partition, random);
      } else {
        saved[1] = WithOneChange<HypervisorVpState>(*partition.vp(VpIndex{0}), random);
      }
      Guest other;
      other.CopyWorld(guest);
      const absl::Status status = RestoreAll(other.machine(), saved);
      ++(status.ok() ? taken : refused);
      if (status.ok()) {
        ASSERT_EQ(WithoutItsOwn(SaveAll(other.machine())), WithoutItsOwn(saved)) << "taken, and not as it was";
      } else {
        ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
      }
      for (int step = 0; step < 20; ++step) other.Step(random);
      other.component().Reset();
      for (int step = 0; step < 5; ++step) other.Step(random);
    }
  }
  EXPECT_GT(taken, 200);
  EXPECT_GT(refused, 200);
}

TEST(PartitionState, ComponentsHaveNamesOfTheirOwn) {
  FakeMachine machine;
  std::vector<std::string> names;
  for (const state::Component* each : machine.partition->components()) names.push_back(each->StateName());
  EXPECT_THAT(names, ElementsAre("hypervisor", "hypervisor/vp/0", "hypervisor/vp/1"));
}

TEST(PartitionState, AQueueBehindAFullSlotArrivesOnceAndInOrder) {
  struct Observer : MessageSlotObserver {
    void OnMessageSlotFree(VpIndex, Sint) override { ++told; }
    int told = 0;
  } observer;
  FakeMachine before(BareOptions());
  before.EnableSynic();
  const auto post = [](FakeMachine& machine, uint32_t type) {
    return machine.partition->PostMessage(VpIndex{0}, Sint{2}, type, {}, /*origin=*/type * 3);
  };
  for (uint32_t type = 1; type <= 17; ++type) ASSERT_EQ(post(before, type), HvStatus::kSuccess);
  ASSERT_EQ(post(before, 18), HvStatus::kInsufficientBuffers);

  auto after = Successor(before);
  after->partition->SetMessageSlotObserver(&observer);
  EXPECT_EQ(post(*after, 18), HvStatus::kInsufficientBuffers);
  EXPECT_THAT(after->backend.TakeInterrupts(), IsEmpty()) << "the first one's was requested before the save";
  for (uint32_t type = 1; type <= 17; ++type) {
    ASSERT_EQ(after->Slot(2).header.message_type, type);
    ASSERT_EQ(after->Slot(2).header.origin, type * 3);
    ASSERT_EQ(after->Slot(2).header.flags, type == 17 ? 0 : hvdef::kMessagePending);
    after->EmptySlot(2);
    after->Write(msr::kEom, 0);
    ASSERT_THAT(after->backend.TakeInterrupts().size(), type == 17 ? 0u : 1u);
    ASSERT_EQ(observer.told, 1) << "who found the queue full is told, by the first that leaves it";
  }
  EXPECT_EQ(after->Slot(2).header.message_type, 0u);
}

TEST(PartitionState, ATimersMessageThatWaitsArrives) {
  FakeMachine before(BareOptions());
  before.EnableSynic();
  ASSERT_EQ(before.partition->PostMessage(VpIndex{0}, Sint{4}, 9, {}), HvStatus::kSuccess);
  before.Write(msr::kStimer0Config, msr::kStimerAutoEnable | uint64_t{4} << msr::kStimerSintShift);
  before.Write(msr::kStimer0Count, 500);
  before.timers.AdvanceBy(600);
  auto after = Successor(before);
  ASSERT_EQ(after->Slot(4).header.message_type, 9u);
  after->EmptySlot(4);
  after->Write(msr::kEom, 0);
  hvdef::TimerMessagePayload payload;
  std::memcpy(&payload, after->Slot(4).payload, sizeof(payload));
  EXPECT_EQ(after->Slot(4).header.message_type, static_cast<uint32_t>(hvdef::MessageType::kTimerExpired));
  EXPECT_EQ(payload.expiration_time_100ns, 500u);
}

// The host slept between the save's last look at the clock and now, or the queue was late.
TEST(PartitionState, APeriodicTimerGoesOnHoweverLate) {
  for (const uint64_t late : {0u, 1u, 5u, 1'000'000u}) {
    SCOPED_TRACE(late);
    FakeMachine before(BareOptions());
    constexpr uint64_t kPeriod = 10'000;
    before.Write(msr::kStimer0Config, msr::kStimerAutoEnable | msr::kStimerPeriodic | msr::kStimerDirect |
                                          uint64_t{0xA0} << msr::kStimerVectorShift);
    before.Write(msr::kStimer0Count, kPeriod);
    before.timers.AdvanceBy(3 * kPeriod + kPeriod / 2);
    ASSERT_EQ(before.backend.TakeInterrupts().size(), 3u);
    before.clock.Advance(late * kPeriod);

    auto after = Successor(before);
    const uint64_t resumed = after->clock.Now100ns();
    EXPECT_EQ(after->timers.armed(), 1u);
    after->timers.RunDue();
    EXPECT_EQ(after->backend.TakeInterrupts().size(), late == 0 ? 0u : 1u) << "one at a time, whatever was missed";
    after->timers.AdvanceTo(resumed + 100 * kPeriod);
    const size_t signals = after->backend.TakeInterrupts().size();
    EXPECT_GE(signals, 100u - 1);
    EXPECT_LE(signals, 100u + 8) << "few missed ones are made up for, many are skipped";
  }
}

TEST(PartitionState, AOneShotTimerFiresOnce) {
  FakeMachine before(BareOptions());
  before.Write(msr::kStimer0Config,
               msr::kStimerAutoEnable | msr::kStimerDirect | uint64_t{0xA0} << msr::kStimerVectorShift);
  before.Write(msr::kStimer0Count, 1000);
  auto waiting = Successor(before);
  EXPECT_EQ(waiting->timers.next_deadline_100ns(), 1000u);
  waiting->timers.AdvanceBy(5000);
  EXPECT_THAT(waiting->backend.TakeInterrupts(), ElementsAre(Interrupt{0, 0xA0, false}));
  auto fired = Successor(*waiting);
  EXPECT_EQ(fired->timers.armed(), 0u);
}

TEST(PartitionState, OverlaysUponOneAnotherComeOffInAnyOrder) {
  constexpr uint64_t kPage = 9 * kPageSize;
  // By which MSRs, in the order of placement; each overlay gets a byte of its own.
  constexpr uint32_t kMsrs[] = {msr::kSimp, msr::kSiefp, msr::kVpAssistPage};
  std::vector<int> order{0, 1, 2};
  do {
    FakeMachine before(BareOptions());
    before.host[kPage + 0x800] = 0x99;
    for (int i = 0; i < 3; ++i) {
      before.Write(kMsrs[i], kPage | 1);
      before.host[kPage + 0x800] = static_cast<uint8_t>(0x10 + i);
    }
    auto after = Successor(before);
    std::vector<int> left{0, 1, 2};
    for (const int each : order) {
      EXPECT_EQ(after->host[kPage + 0x800], 0x10 + left.back());
      after->Write(kMsrs[each], 0);
      std::erase(left, each);
    }
    EXPECT_EQ(after->host[kPage + 0x800], 0x99) << "the guest's own";
    // They have kept their bytes.
    auto again = Successor(*after);
    for (int i = 0; i < 3; ++i) {
      again->Write(kMsrs[i], (20 + i) * kPageSize | 1);
      EXPECT_EQ(again->host[(20 + i) * kPageSize + 0x800], 0x10 + i);
    }
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST(PartitionState, TheEngineIsToldOfAutoEoiAnew) {
  FakeMachine before(BareOptions());
  before.EnableSynic();
  before.Write(msr::kSint0 + 2, 0x55 | msr::kSintAutoEoi, 1);
  auto after = Successor(before);
  EXPECT_EQ(after->fake_vps[1]->auto_eoi_vectors[2], 0x55);
  EXPECT_EQ(after->fake_vps[1]->auto_eoi_vectors[3], 0);
  EXPECT_EQ(after->fake_vps[0]->auto_eoi_vectors[2], 0);
  // An engine that refuses one of them is told of none.
  before.Write(msr::kSint0 + 4, 0x56 | msr::kSintAutoEoi, 1);
  FakeMachine refuses(BareOptions());
  refuses.fake_vps[1]->refused_auto_eoi_vector = 0x56;
  refuses.TakeWorldOf(before);
  const SavedState made = SaveOf(*refuses.vps[1]);
  const absl::Status status = RestoreAll(refuses, SaveAll(before));
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("SINT 4"));
  EXPECT_EQ(SaveOf(*refuses.vps[1]), made);
  EXPECT_EQ(refuses.fake_vps[1]->auto_eoi_vectors[2], 0);
  // An engine without it cannot go on with such a guest.
  FakeMachine::Options options = BareOptions();
  options.caps.auto_eoi = false;
  FakeMachine other(options);
  other.TakeWorldOf(before);
  EXPECT_THAT(std::string(RestoreAll(other, SaveAll(before)).message()),
              HasSubstr("hypervisor/vp/1, synic.sints.value"));
}

// The guest may be within the page, or return there, so it stays as it is; where that code makes no hypercalls, the guest cannot go on.
TEST(PartitionState, AnotherEnginesHypercallPageIsRefused) {
  FakeMachine before;
  FakeMachine::Options options;
  options.caps.hypercall_code = {0x0F, 0x01, 0xD9, 0xC3};
  FakeMachine after(options);
  after.TakeWorldOf(before);
  EXPECT_THAT(std::string(RestoreAll(after, SaveAll(before)).message()), HasSubstr("hypervisor, hypercall_code"));
  before.host[FakeMachine::kHypercallPage + 100] = 0x77;
  EXPECT_EQ(Successor(before)->host[FakeMachine::kHypercallPage + 100], 0x77);
  // Without a page there is none to return to.
  FakeMachine bare(BareOptions());
  options = BareOptions();
  options.caps.hypercall_code = {0x0F, 0x01, 0xD9, 0xC3};
  FakeMachine bare_after(options);
  bare_after.TakeWorldOf(bare);
  EXPECT_TRUE(RestoreAll(bare_after, SaveAll(bare)).ok());
}

// As a guest computes it.
uint64_t TimeByPage(const FakeMachine& machine, uint64_t page) {
  hvdef::ReferenceTscPage tsc;
  std::memcpy(&tsc, &machine.host[page], sizeof(tsc));
  EXPECT_NE(tsc.sequence, 0u);
  return static_cast<uint64_t>((static_cast<unsigned __int128>(machine.backend.GuestTsc()) * tsc.scale) >> 64) +
         static_cast<uint64_t>(tsc.offset);
}
uint32_t SequenceOf(const FakeMachine& machine, uint64_t page) {
  uint32_t sequence;
  std::memcpy(&sequence, &machine.host[page], sizeof(sequence));
  return sequence;
}

TEST(PartitionState, ReferenceTimeGoesOn) {
  constexpr uint64_t kTscPage = 10 * kPageSize;
  FakeMachine before(BareOptions());
  before.clock.Advance(123'456'789);
  before.Write(msr::kReferenceTsc, kTscPage | 1);
  const uint64_t saved_at = before.Read(msr::kTimeRefCount);
  const std::vector<SavedState> saved = SaveAll(before);

  // On an engine whose TSC runs at the saved frequency, though it offers another.
  FakeMachine::Options options = BareOptions();
  options.caps.tsc_frequency_hz = 1'000'000'000;
  FakeMachine same(options);
  same.clock.Set(99);  // its host has been up for another time
  {
    backend::PartitionState engine;
    ASSERT_TRUE(before.backend.SaveState(engine).ok() && same.backend.RestoreState(engine).ok());
    std::copy(before.host.begin(), before.host.end(), same.host.begin());
    ASSERT_TRUE(RestoreAll(same, saved).ok());
  }
  EXPECT_EQ(same.Read(msr::kTimeRefCount), saved_at);
  same.clock.Advance(1000);
  EXPECT_EQ(same.Read(msr::kTimeRefCount), saved_at + 1000);
  EXPECT_EQ(TimeByPage(same, kTscPage), saved_at + 1000);
  EXPECT_EQ(SequenceOf(same, kTscPage), 1u) << "nothing has changed for the guest";
  EXPECT_EQ(same.Read(msr::kTscFrequency), before.Read(msr::kTscFrequency));
  EXPECT_EQ(SaveAll(same), saved);

  // On one that cannot: its TSC goes on from there and counts by its own rate.
  FakeMachine other(options);
  other.clock.Set(99);
  other.backend.scales_tsc = false;
  {
    backend::PartitionState engine;
    ASSERT_TRUE(before.backend.SaveState(engine).ok() && other.backend.RestoreState(engine).ok());
    std::copy(before.host.begin(), before.host.end(), other.host.begin());
    ASSERT_TRUE(RestoreAll(other, saved).ok());
  }
  EXPECT_EQ(other.Read(msr::kTimeRefCount), saved_at);
  EXPECT_EQ(SequenceOf(other, kTscPage), 2u);
  EXPECT_EQ(other.Read(msr::kTscFrequency), 1'000'000'000u);
  other.clock.Advance(1000);
  EXPECT_EQ(other.Read(msr::kTimeRefCount), TimeByPage(other, kTscPage));
  EXPECT_NEAR(static_cast<double>(other.Read(msr::kTimeRefCount) - saved_at), 1000, 1);
  // And on, from there.
  auto third = Successor(other);
  EXPECT_EQ(SequenceOf(*third, kTscPage), 2u);
  EXPECT_EQ(third->Read(msr::kTimeRefCount), other.Read(msr::kTimeRefCount));
}

// Whoever counts the TSC by itself cannot go on where it has another frequency, nor who counts the local APIC's timer.
TEST(PartitionState, AnotherFrequencyIsRefusedWhereTheGuestCannotKnow) {
  FakeMachine before(BareOptions());
  FakeMachine::Options options = BareOptions();
  options.caps.tsc_frequency_hz = 1'000'000'000;
  FakeMachine after(options);
  after.backend.scales_tsc = false;
  after.TakeWorldOf(before);
  const absl::Status status = RestoreAll(after, SaveAll(before));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()),
              testing::HasSubstr("runs at 2500000000 Hz, this engine's at 1000000000 Hz"));
  before.Write(msr::kReferenceTsc, 10 * kPageSize | 1);
  after.TakeWorldOf(before);
  EXPECT_TRUE(RestoreAll(after, SaveAll(before)).ok());

  options = BareOptions();
  options.caps.apic_frequency_hz += 1;
  FakeMachine faster(options);
  faster.TakeWorldOf(before);
  EXPECT_THAT(std::string(RestoreAll(faster, SaveAll(before)).message()), testing::HasSubstr("apic_frequency_hz"));
}

// The page is rewritten wherever its bytes are: it may be covered, or not enabled at all.
TEST(PartitionState, ACoveredTscPageIsRewrittenToo) {
  constexpr uint64_t kTscPage = 10 * kPageSize;
  FakeMachine before(BareOptions());
  before.Write(msr::kReferenceTsc, kTscPage | 1);
  before.Write(msr::kSimp, kTscPage | 1);
  FakeMachine::Options options = BareOptions();
  options.caps.tsc_frequency_hz = 1'000'000'000;
  FakeMachine after(options);
  after.backend.scales_tsc = false;
  after.TakeWorldOf(before);
  ASSERT_TRUE(RestoreAll(after, SaveAll(before)).ok());
  EXPECT_EQ(SequenceOf(after, kTscPage), 0u) << "the message page is what is seen";
  after.Write(msr::kSimp, 0);
  EXPECT_EQ(SequenceOf(after, kTscPage), 2u);
  EXPECT_EQ(TimeByPage(after, kTscPage), after.Read(msr::kTimeRefCount));
}

TEST(PartitionState, VpRuntimeNeverGoesBack) {
  FakeMachine before;
  before.runtime_100ns = 5000;
  EXPECT_EQ(before.Read(msr::kVpRuntime, 1), 5001u);
  auto middle = Successor(before);  // whose host counts from elsewhere
  EXPECT_EQ(middle->Read(msr::kVpRuntime, 1), 5001u);
  EXPECT_EQ(middle->Read(msr::kVpRuntime, 0), 1000u) << "nobody has seen it before";
  middle->runtime_100ns += 10;
  EXPECT_EQ(middle->Read(msr::kVpRuntime, 1), 5011u);
  auto after = Successor(*middle);
  EXPECT_EQ(after->Read(msr::kVpRuntime, 1), 5011u);
  after->runtime_100ns = 9000;
  EXPECT_EQ(after->Read(msr::kVpRuntime, 1), 13'011u);
  // A host that was restored itself counts on, and nothing is added.
  FakeMachine restored;
  restored.runtime_100ns = 5007;
  ASSERT_TRUE(RestoreAll(restored, SaveAll(before)).ok());
  EXPECT_EQ(restored.Read(msr::kVpRuntime, 1), 5008u);
}

// As when a machine goes back to an earlier moment.
TEST(PartitionState, OneThatHasRunIsRestoredAsWell) {
  FakeMachine machine(BareOptions());
  machine.EnableSynic();
  machine.Write(msr::kSint0 + 3, 0x55 | msr::kSintAutoEoi);
  ASSERT_EQ(machine.partition->PostMessage(VpIndex{0}, Sint{2}, 1, {}), HvStatus::kSuccess);
  const std::vector<SavedState> saved = SaveAll(machine);
  const std::vector<uint8_t> memory = machine.host;
  const uint64_t now = machine.clock.Now100ns();

  ASSERT_EQ(machine.partition->PostMessage(VpIndex{0}, Sint{2}, 2, {}), HvStatus::kSuccess);
  machine.Write(msr::kSimp, 20 * kPageSize | 1);
  machine.Write(msr::kSint0 + 4, 0x56 | msr::kSintAutoEoi);
  machine.Write(msr::kStimer0Config, msr::kStimerAutoEnable | uint64_t{4} << msr::kStimerSintShift);
  machine.Write(msr::kStimer0Count, 500);

  machine.clock.Set(now);
  machine.fake_vps[0]->auto_eoi_vectors.fill(0);  // the engine's VP was made anew
  std::copy(memory.begin(), memory.end(), machine.host.begin());
  ASSERT_TRUE(RestoreAll(machine, saved).ok());
  EXPECT_EQ(SaveAll(machine), saved);
  EXPECT_EQ(machine.timers.armed(), 0u);
  EXPECT_EQ(machine.fake_vps[0]->auto_eoi_vectors[3], 0x55);
  EXPECT_EQ(machine.fake_vps[0]->auto_eoi_vectors[4], 0);
  machine.EmptySlot(2);
  machine.Write(msr::kEom, 0);
  EXPECT_EQ(machine.Slot(2).header.message_type, 0u) << "the second message has never been";
}

TEST(PartitionState, ARetargetedInterruptStays) {
  FakeMachine before;
  ASSERT_TRUE(before.partition->RegisterDevice(kDevice, 2).ok());
  const hvdef::RetargetDeviceInterruptInput input{.partition_id = hvdef::kPartitionIdSelf,
                                                  .device_id = kDevice,
                                                  .entry = {hvdef::kInterruptSourceMsi, 0, 0xFEE00000, 0x4031},
                                                  .vector = 0x61,
                                                  .mask_or_format = 0b10};
  ASSERT_EQ(before.StatusOf(hvdef::CallCode::kRetargetDeviceInterrupt, input), HvStatus::kSuccess);
  FakeMachine without;
  EXPECT_THAT(std::string(RestoreAll(without, SaveAll(before)).message()), HasSubstr("no device 0x4d"));
  FakeMachine after;
  ASSERT_TRUE(after.partition->RegisterDevice(kDevice, 2).ok());
  after.TakeWorldOf(before);
  ASSERT_TRUE(RestoreAll(after, SaveAll(before)).ok());
  after.partition->SignalDeviceInterrupt(kDevice, 0xFEE00000, 0x4031);
  EXPECT_THAT(after.backend.TakeInterrupts(), ElementsAre(Interrupt{1, 0x61, false}));
}

TEST(PartitionState, APrivilegeThatTheGuestWasGivenMustBeThere) {
  FakeMachine before(BareOptions());
  FakeMachine::Options options = BareOptions();
  options.privileges = ~hvdef::privilege::kAccessSyntheticTimerRegs;
  FakeMachine without(options);
  EXPECT_THAT(std::string(RestoreAll(without, SaveAll(before)).message()), HasSubstr("hypervisor, privileges: 0x8 "));
  // Whether the TSC is invariant the guest asks by a write that tells.
  options = BareOptions();
  options.caps.invariant_tsc = false;
  FakeMachine varying(options);
  EXPECT_TRUE(RestoreAll(varying, SaveAll(before)).ok());
  before.Write(msr::kTscInvariantControl, msr::kExposeInvariantTsc);
  FakeMachine again(options);
  EXPECT_THAT(std::string(RestoreAll(again, SaveAll(before)).message()), HasSubstr("hypervisor, privileges: 0x8000 "));
}

// What makes no sense is named, and refused before anything has changed.
TEST(PartitionState, ImpossibleStatesAreRefused) {
  FakeMachine machine;  // with a hypercall page
  machine.EnableSynic();
  machine.Write(msr::kReferenceTsc, FakeMachine::MessagePage(0) | 1);
  machine.Write(msr::kStimer0Config,
                msr::kStimerAutoEnable | msr::kStimerPeriodic | uint64_t{4} << msr::kStimerSintShift);
  machine.Write(msr::kStimer0Count, 1000);
  for (uint32_t i = 0; i < 3; ++i) {
    ASSERT_EQ(machine.partition->PostMessage(VpIndex{0}, Sint{2}, 1, {}), HvStatus::kSuccess);
  }
  constexpr size_t kTscPage = 1, kMessagePage0 = 2;
  using Hypervisor = HypervisorState;
  const std::vector<std::pair<std::string, std::function<void(Hypervisor&)>>> hypervisor_cases{
      {"overlays.overlays", [](Hypervisor& s) { s.overlays.overlays.pop_back(); }},
      {"overlays.overlays.gpa", [](Hypervisor& s) { s.overlays.overlays[kTscPage].gpa += 8; }},
      {"overlays.overlays.gpa", [](Hypervisor& s) { s.overlays.overlays[kTscPage].placed = false; }},
      {"overlays.overlays.bytes", [](Hypervisor& s) { s.overlays.overlays[kTscPage].bytes.resize(5); }},
      {"overlays.overlays.bytes", [](Hypervisor& s) { s.overlays.overlays[0].bytes.resize(kPageSize); }},
      {"overlays.covered.gpa", [](Hypervisor& s) { s.overlays.covered[0].gpa = FakeMachine::kMemoryBytes; }},
      {"overlays.covered.gpa", [](Hypervisor& s) { std::swap(s.overlays.covered[0], s.overlays.covered[1]); }},
      {"overlays.covered.gpa", [](Hypervisor& s) { s.overlays.covered.push_back(s.overlays.covered.back()); }},
      {"overlays.covered.guest", [](Hypervisor& s) { s.overlays.covered[0].guest.pop_back(); }},
      {"overlays.covered.overlays", [](Hypervisor& s) { s.overlays.covered[0].overlays.clear(); }},
      {"overlays.covered.overlays", [](Hypervisor& s) { s.overlays.covered[0].overlays[0] = 8; }},
      {"overlays.covered.overlays", [](Hypervisor& s) { s.overlays.covered[0].overlays[0] = kMessagePage0; }},
      {"overlays.covered.overlays", [](Hypervisor& s) { s.overlays.covered[0].overlays.push_back(0); }},
      {"overlays.covered", [](Hypervisor& s) { s.overlays.covered.pop_back(); }},
      {"hypercall", [](Hypervisor& s) { s.hypercall ^= 1; }},
      {"hypercall", [](Hypervisor& s) { s.hypercall += kPageSize; }},
      {"hypercall", [](Hypervisor& s) { s.guest_os_id = 0; }},
      {"hypercall",
       [](Hypervisor& s) {
         s.hypercall = FakeMachine::kMemoryBytes | 1;
         s.overlays.overlays[0].gpa = FakeMachine::kMemoryBytes;
         s.overlays.covered.erase(s.overlays.covered.begin());
       }},
      {"reference_tsc", [](Hypervisor& s) { s.reference_tsc ^= 1; }},
      {"tsc_sequence", [](Hypervisor& s) { s.tsc_sequence = 0; }},
      {"tsc_invariant_control", [](Hypervisor& s) { s.tsc_invariant_control = 2, s.privileges &= ~0x8000; }},
      {"clock_frequency_hz", [](Hypervisor& s) { s.clock_frequency_hz = 10'000'000; }},
      {"clock_scale", [](Hypervisor& s) { ++s.clock_scale; }},
      {"privileges", [](Hypervisor& s) { s.privileges = ~uint64_t{0}; }},
      {"retargeted.device_id", [](Hypervisor& s) { s.retargeted.push_back({.device_id = 1, .vps = {0}}); }},
  };
  for (const auto& [field, change] : hypervisor_cases) {
    FakeMachine victim;
    const SavedState made = SaveOf(*victim.partition);
    const SavedState damaged = Changed<Hypervisor>(*machine.partition, change);
    EXPECT_THAT(std::string(RestoreOf(*victim.partition, damaged).message()),
                HasSubstr("state of hypervisor, " + field + ": "));
    EXPECT_EQ(SaveOf(*victim.partition), made);
  }

  using Vp = HypervisorVpState;
  const std::vector<std::pair<std::string, std::function<void(Vp&)>>> vp_cases{
      {"synic.simp", [](Vp& s) { s.synic.simp ^= 1; }},
      {"synic.simp", [](Vp& s) { s.synic.simp += kPageSize; }},
      {"synic.siefp", [](Vp& s) { s.synic.siefp = 0; }},
      {"vp_assist_page", [](Vp& s) { s.vp_assist_page = 1; }},
      {"synic.sints.value", [](Vp& s) { s.synic.sints[3].value = 15; }},
      {"synic.sints.messages", [](Vp& s) { s.synic.sints[2].messages.resize(17, s.synic.sints[2].messages[0]); }},
      {"synic.sints.messages.type", [](Vp& s) { s.synic.sints[2].messages[1].type = 0; }},
      {"synic.sints.messages.payload", [](Vp& s) { s.synic.sints[2].messages[1].payload.resize(241); }},
      {"synic.sints.found_full", [](Vp& s) { s.synic.sints[2].found_full = true; }},
      {"synic.timer_messages.sint", [](Vp& s) { s.synic.timer_messages[0] = {.waits = true, .sint = 16}; }},
      {"synic.timer_messages.waits", [](Vp& s) { s.synic.timer_messages[0].expiration_100ns = 1; }},
      {"stimers.config", [](Vp& s) { s.stimers[1].config = uint64_t{1} << 63; }},
      {"stimers.config", [](Vp& s) { s.stimers[1].config = msr::kStimerEnable; }},
      {"stimers.armed", [](Vp& s) { s.stimers[0].armed = false; }},
      {"stimers.armed", [](Vp& s) { s.stimers[0].count = 0; }},
      {"stimers.armed", [](Vp& s) { s.stimers[0].config &= ~msr::kStimerEnable; }},
      {"stimers.fire_100ns", [](Vp& s) { s.stimers[0].fire_100ns = ~uint64_t{0}; }},
      {"stimers.fire_100ns", [](Vp& s) { s.stimers[0].deadline_100ns = s.stimers[0].fire_100ns + 1; }},
  };
  for (const auto& [field, change] : vp_cases) {
    FakeMachine victim;
    victim.TakeWorldOf(machine);
    ASSERT_TRUE(RestoreOf(*victim.partition, SaveOf(*machine.partition)).ok());
    const SavedState made = SaveOf(*victim.vps[0]);
    const SavedState damaged = Changed<Vp>(*machine.vps[0], change);
    EXPECT_THAT(std::string(RestoreOf(*victim.vps[0], damaged).message()),
                HasSubstr("state of hypervisor/vp/0, " + field + ": "));
    EXPECT_EQ(SaveOf(*victim.vps[0]), made);
    EXPECT_TRUE(RestoreOf(*victim.vps[0], SaveOf(*machine.vps[0])).ok()) << "which is the whole one";
  }
}

}  // namespace
}  // namespace hvsdk::partition
