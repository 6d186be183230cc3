// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/interrupt/pic8259.h"

#include "absl/strings/str_format.h"

namespace hvsdk::interrupt {
namespace {

// ICW1, by its D4.
constexpr uint8_t kIcw1 = 1 << 4, kIcw1NeedsIcw4 = 1 << 0, kIcw1Single = 1 << 1;
constexpr uint8_t kIcw2Vector = 0xF8;
constexpr uint8_t kIcw4AutoEoi = 1 << 1, kIcw4FullyNested = 1 << 4;
// OCW2: what it does with its level (figure 8, "Operation Command Word Format").
constexpr uint8_t kOcw2Rotate = 1 << 7, kOcw2Specific = 1 << 6, kOcw2Eoi = 1 << 5, kOcw2Level = 7;
// OCW3, by its D3.
constexpr uint8_t kOcw3 = 1 << 3, kOcw3ReadRegister = 1 << 1, kOcw3InService = 1 << 0, kOcw3Poll = 1 << 2,
                  kOcw3SetsSpecialMask = 1 << 6, kOcw3SpecialMask = 1 << 5;
constexpr uint8_t kPolled = 1 << 7;

// The inputs that may be level-triggered: not the timer, keyboard, cascade, clock and coprocessor.
constexpr uint8_t kTriggersWritable[] = {0xF8, 0xDE};
// Of a chip that has no request when it is asked for one.
constexpr int kSpurious = 7;

constexpr uint8_t Bit(int input) { return static_cast<uint8_t>(1 << input); }

}  // namespace

int Pic8259Pair::Chip::MostUrgent(uint8_t inputs) const {
  for (int i = 1; i <= 8; ++i) {
    const int input = (lowest + i) & 7;
    if (inputs & Bit(input)) return input;
  }
  return -1;
}

int Pic8259Pair::Chip::Pending() const {
  if (next != Next::kOcw1) return -1;  // not while it is being initialised
  const int input = MostUrgent(requests() & ~mask);
  if (input < 0) return -1;
  // In special mask mode an input that is masked while in service holds up nobody.
  const int served = MostUrgent(special_mask ? in_service & ~mask : in_service);
  if (served < 0 || PriorityOf(input) < PriorityOf(served)) return input;
  // Special fully nested: the slave's priorities are seen to by the slave.
  return fully_nested && cascades() && input == int{kCascade} && input == served ? input : -1;
}

int Pic8259Pair::Chip::Take() {
  const int input = Pending();
  if (input < 0) return -1;
  edges &= ~Bit(input);
  if (!auto_eoi) {
    in_service |= Bit(input);
  } else if (rotates) {
    lowest = static_cast<uint8_t>(input);
  }
  return input;
}

void Pic8259Pair::Chip::End(int input, bool rotate) {
  in_service &= ~Bit(input);
  if (rotate) lowest = static_cast<uint8_t>(input);
}

void Pic8259Pair::Chip::WriteEven(uint8_t value) {
  if (value & kIcw1) {
    const Chip before = *this;
    *this = Chip{.is_master = before.is_master,
                 .next = Next::kIcw2,
                 .wants_icw4 = (value & kIcw1NeedsIcw4) != 0,
                 .single = (value & kIcw1Single) != 0,
                 .vector = before.vector,
                 .mask = 0,
                 .lines = before.lines,
                 .triggers = before.triggers};
    return;
  }
  if (value & kOcw3) {
    if (value & kOcw3Poll) {
      polls = true;
    } else if (value & kOcw3ReadRegister) {
      reads_in_service = value & kOcw3InService;
    }
    if (value & kOcw3SetsSpecialMask) special_mask = value & kOcw3SpecialMask;
    return;
  }
  const bool rotate = value & kOcw2Rotate;
  const int level = value & kOcw2Level;
  switch (value & (kOcw2Specific | kOcw2Eoi)) {
    case kOcw2Eoi: {
      const int input = MostUrgent(special_mask ? in_service & ~mask : in_service);
      if (input >= 0) End(input, rotate);
      break;
    }
    case kOcw2Specific | kOcw2Eoi:
      End(level, rotate);
      break;
    case kOcw2Specific:
      if (rotate) lowest = static_cast<uint8_t>(level);
      break;
    case 0:
      rotates = rotate;
      break;
  }
}

void Pic8259Pair::Chip::WriteOdd(uint8_t value) {
  switch (next) {
    case Next::kOcw1:
      mask = value;
      break;
    case Next::kIcw2:
      vector = value & kIcw2Vector;
      next = !single ? Next::kIcw3 : wants_icw4 ? Next::kIcw4 : Next::kOcw1;
      break;
    case Next::kIcw3:
      next = wants_icw4 ? Next::kIcw4 : Next::kOcw1;
      break;
    case Next::kIcw4:
      auto_eoi = value & kIcw4AutoEoi;
      fully_nested = value & kIcw4FullyNested;
      next = Next::kOcw1;
      break;
  }
}

void Pic8259Pair::Reset() {
  std::lock_guard lock(mutex_);
  chips_[0] = Chip{.is_master = true};
  chips_[1] = Chip{};
  slave_output_ = false;
  (void)Update();
}

Pic8259Pair::State Pic8259Pair::Save() {
  std::lock_guard lock(mutex_);
  State state;
  for (size_t i = 0; i < state.size(); ++i) {
    const Chip& chip = chips_[i];
    state[i] = {.request = chip.requests(),
                .service = chip.in_service,
                .mask = chip.mask,
                .lines = chip.lines,
                .vector_base = chip.vector,
                .lowest_priority = chip.lowest,
                .edge_level = chip.triggers,
                .init_step = static_cast<uint8_t>(chip.next == Next::kOcw1 ? 0 : static_cast<uint8_t>(chip.next) + 1),
                .icw4_expected = chip.wants_icw4,
                .auto_eoi = chip.auto_eoi,
                .rotate_on_auto_eoi = chip.rotates,
                .special_mask = chip.special_mask,
                .special_fully_nested = chip.fully_nested,
                .poll = chip.polls,
                .read_service = chip.reads_in_service,
                .single = chip.single};
  }
  return state;
}

absl::Status Pic8259Pair::Check(const State& state) {
  for (size_t i = 0; i < state.size(); ++i) {
    const auto invalid = [i](const char* field, int value) {
      return absl::InvalidArgumentError(absl::StrFormat("pics[%d].%s: impossible value %#x", i, field, value));
    };
    const Pic8259State& chip = state[i];
    if (chip.init_step == 1 || chip.init_step > 4) return invalid("init_step", chip.init_step);
    if (chip.lowest_priority > 7) return invalid("lowest_priority", chip.lowest_priority);
    if ((chip.vector_base & ~kIcw2Vector) != 0) return invalid("vector_base", chip.vector_base);
    if ((chip.edge_level & ~kTriggersWritable[i]) != 0) return invalid("edge_level", chip.edge_level);
  }
  return absl::OkStatus();
}

void Pic8259Pair::Restore(const State& state) {
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < state.size(); ++i) {
    const Pic8259State& from = state[i];
    chips_[i] = Chip{.is_master = i == 0,
                     .next = from.init_step == 0 ? Next::kOcw1 : static_cast<Next>(from.init_step - 1),
                     .wants_icw4 = from.icw4_expected,
                     .single = from.single,
                     .vector = from.vector_base,
                     .mask = from.mask,
                     .edges = static_cast<uint8_t>(from.request & ~from.edge_level),
                     .lines = from.lines,
                     .triggers = from.edge_level,
                     .in_service = from.service,
                     .lowest = from.lowest_priority,
                     .auto_eoi = from.auto_eoi,
                     .rotates = from.rotate_on_auto_eoi,
                     .special_mask = from.special_mask,
                     .fully_nested = from.special_fully_nested,
                     .polls = from.poll,
                     .reads_in_service = from.read_service};
  }
  chips_[0].lines &= ~Bit(kCascade);
  // What the slave asked for is in the master's requests.
  slave_output_ = chips_[1].Pending() >= 0;
  (void)Update();
}

bool Pic8259Pair::Update() {
  const bool slave = chips_[1].Pending() >= 0;
  if (slave && !slave_output_) chips_[0].edges |= Bit(kCascade);
  slave_output_ = slave;
  const bool output = chips_[0].Pending() >= 0;
  return !output_.exchange(output, std::memory_order_acq_rel) && output;
}

int Pic8259Pair::Take(Chip& chip) {
  if (!chip.is_master) slave_output_ = false;  // what it has left to request is another edge
  return chip.Take();
}

void Pic8259Pair::SetLine(uint32_t irq, bool level) {
  if (irq >= kInputs || irq == kCascade) return;
  {
    std::lock_guard lock(mutex_);
    Chip& chip = chips_[irq / 8];
    const uint8_t bit = Bit(static_cast<int>(irq % 8));
    if (level && !(chip.lines & bit) && !(chip.triggers & bit)) chip.edges |= bit;
    chip.lines = level ? chip.lines | bit : chip.lines & ~bit;
    if (!Update()) return;
  }
  on_interrupt_();
}

uint8_t Pic8259Pair::Acknowledge() {
  uint8_t vector;
  {
    std::lock_guard lock(mutex_);
    Chip* chip = &chips_[0];
    int input = Take(*chip);
    if (input == int{kCascade} && chip->cascades()) {
      chip = &chips_[1];
      input = Take(*chip);
    }
    vector = static_cast<uint8_t>(chip->vector | (input >= 0 ? input : kSpurious));
    if (!Update()) return vector;
  }
  on_interrupt_();
  return vector;
}

// The data sheet's "Poll Command": the read stands for INTA, of this chip alone.
uint8_t Pic8259Pair::Poll(Chip& chip) {
  chip.polls = false;
  const int input = Take(chip);
  return static_cast<uint8_t>(input >= 0 ? kPolled | input : kSpurious);
}

uint8_t Pic8259Pair::ReadByte(uint64_t offset) {
  uint8_t value;
  {
    std::lock_guard lock(mutex_);
    if (offset >= kTrigger) return chips_[offset & 1].triggers & kTriggersWritable[offset & 1];
    Chip& chip = chips_[offset / 2];
    if (!chip.polls) {
      if (offset & 1) return chip.mask;
      return chip.reads_in_service ? chip.in_service : chip.requests();
    }
    value = Poll(chip);
    if (!Update()) return value;
  }
  on_interrupt_();
  return value;
}

void Pic8259Pair::WriteByte(uint64_t offset, uint8_t value) {
  {
    std::lock_guard lock(mutex_);
    if (offset >= kTrigger) {
      Chip& chip = chips_[offset & 1];
      chip.triggers = value & kTriggersWritable[offset & 1];
      chip.edges &= ~chip.triggers;
    } else {
      Chip& chip = chips_[offset / 2];
      offset & 1 ? chip.WriteOdd(value) : chip.WriteEven(value);
    }
    if (!Update()) return;
  }
  on_interrupt_();
}

}  // namespace hvsdk::interrupt
