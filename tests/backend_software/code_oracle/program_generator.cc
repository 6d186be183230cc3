// SPDX-License-Identifier: Apache-2.0
#include "tests/backend_software/code_oracle/program_generator.h"

#include <algorithm>
#include <cstring>

namespace hvsdk::code_oracle {
namespace {

constexpr uint32_t kEntryBytes = 16;            // one-byte instructions at a frame's beginning
constexpr uint32_t kFirstEnd = 128;             // then slots up to here, and a jump
constexpr uint32_t kSecondBegin = kPage - 256;  // and slots again
constexpr uint32_t kEndBegin = kPage - 16;      // the end, which each frame has of its own
// A store over the boundary of two frames begins here. No instruction's opcode is behind it, but those of the last
// bytes.
constexpr uint32_t kLastBytes = kPage - 4;

constexpr int kLengths[] = {1, 2, 5, 6, 7, 10, 6, 8, 12, 2, 2, 4, 5, 2};

template <typename T>
void Put(Frame& frame, uint32_t at, T value) {
  std::memcpy(frame.data() + at, &value, sizeof(value));
}

}  // namespace

uint8_t ProgramGenerator::OneByte() {
  // NOP, CLC STC CMC CLD, CWDE CDQ, XCHG with EAX, PUSH and POP of EAX EDX EBP.
  return random_.Of<uint8_t>(
      {0x90, 0x90, 0xF8, 0xF9, 0xF5, 0xFC, 0x98, 0x99, 0x92, 0x95, 0x50, 0x52, 0x55, 0x58, 0x5A, 0x5D});
}

// A register that is free for all: EAX, EDX or EBP.
uint8_t ProgramGenerator::PlainRegister() { return random_.Of<uint8_t>({kEax, kEdx, kEbp}); }

void ProgramGenerator::AddSlots(uint32_t begin, uint32_t end) {
  uint32_t at = begin;
  while (at < end) {
    Kind kind = random_.Of<Kind>({kOneByte,    kOneByte,    kOneByte,    kRegisters2, kRegisters2, kImmediate5,
                                  kImmediate5, kImmediate5, kImmediate6, kImmediate6, kStoreByte,  kStoreByte,
                                  kStoreDword, kStoreDword, kModify,     kModify,     kLocked,     kStoreVector,
                                  kJump,       kJumpIf,     kJumpIf,     kLoop});
    if (random_.OneIn(64)) kind = kUndefined;
    if (at + kLengths[kind] > end) kind = kOneByte;
    slots_.push_back({at, kind});
    at += kLengths[kind];
  }
}

void ProgramGenerator::MakeLayout() {
  slots_.clear();
  for (uint32_t at = 0; at < kEntryBytes; ++at) slots_.push_back({at, kOneByte});
  AddSlots(kEntryBytes, kFirstEnd);
  slots_.push_back({kFirstEnd, kJumpFar});
  AddSlots(kSecondBegin, kEndBegin);
}

// The distance to another slot of the same part of the frame, from behind a branch at `from`.
uint8_t ProgramGenerator::Displacement(uint32_t from, bool back) {
  const bool first = from <= kFirstEnd;
  std::vector<uint32_t> targets;
  for (const Slot& slot : slots_) {
    const bool same_part = (slot.at <= kFirstEnd) == first;
    const int64_t distance = static_cast<int64_t>(slot.at) - from;
    if (same_part && (back ? distance < 0 && distance >= -100 : distance >= 0 && distance <= 100))
      targets.push_back(slot.at);
  }
  if (targets.empty()) return 0;
  return static_cast<uint8_t>(targets[random_.Below(targets.size())] - from);
}

// A change of the slot, of `size` bytes, that leaves its kind: at an offset in the frame.
bool ProgramGenerator::PatchOf(const Slot& slot, int size, Patch& patch) {
  patch.bytes.resize(size);
  const auto immediate = [&](int offset, int length) {
    if (size > length) return false;
    patch.offset = slot.at + offset + static_cast<uint32_t>(random_.Below(length - size + 1));
    for (uint8_t& byte : patch.bytes) byte = static_cast<uint8_t>(random_());
    return true;
  };
  const auto single = [&](int offset, uint8_t value) {
    if (size != 1) return false;
    patch.offset = slot.at + offset;
    patch.bytes[0] = value;
    return true;
  };
  switch (slot.kind) {
    case kOneByte:
      // More than one only where more follow for certain.
      if (size > 1 && slot.at + size > kEntryBytes) return false;
      patch.offset = slot.at;
      for (uint8_t& byte : patch.bytes) byte = OneByte();
      return true;
    case kImmediate5:
      return immediate(1, 4);
    case kImmediate6:
      return immediate(2, 4);
    case kRegisters2:
      return single(1, static_cast<uint8_t>(0xC0 | random_.Below(8) << 3 | PlainRegister()));
    case kJump:
    case kJumpIf:
      return single(1, Displacement(slot.at + 2, false));
    case kLoop:
      return single(3, Displacement(slot.at + 4, true));
    default:
      return false;
  }
}

Patch ProgramGenerator::StoreTarget(uint32_t near, int size) {
  Patch patch;
  if (size == 4 && random_.OneIn(8)) {  // over a boundary of the window, or at its end
    const auto back = static_cast<uint32_t>(random_.Below(5));
    patch.offset = static_cast<uint32_t>(1 + random_.Below(kWindowPages)) * kPage - back;
    patch.bytes.resize(4);
    for (uint8_t& byte : patch.bytes) byte = OneByte();
    if (back > 0 && random_.OneIn(2)) patch.bytes[back - 1] = 0xB8;  // MOV EAX, of what follows
    return patch;
  }
  for (;;) {
    const auto at = static_cast<size_t>(
        std::find_if(slots_.begin(), slots_.end(), [&](const Slot& s) { return s.at >= near; }) - slots_.begin());
    size_t index = random_.Below(slots_.size());
    if (random_.OneIn(2) && at < slots_.size()) index = std::min(slots_.size() - 1, at + random_.Below(8));
    if (!PatchOf(slots_[index], size, patch)) continue;
    patch.offset += static_cast<uint32_t>(random_.Below(kWindowPages)) * kPage;
    return patch;
  }
}

// Where a value that is not known may be stored.
uint32_t ProgramGenerator::ImmediateIn(uint32_t near, int size) {
  for (;;) {
    const Slot& slot = slots_[random_.Below(slots_.size())];
    if (slot.kind != kImmediate5 && slot.kind != kImmediate6) continue;
    if (random_.OneIn(2) && (slot.at < near || slot.at > near + 60) && near < kPage - 300) continue;
    Patch patch;
    PatchOf(slot, size, patch);
    return patch.offset + static_cast<uint32_t>(random_.Below(kWindowPages)) * kPage;
  }
}

void ProgramGenerator::Fill(const Slot& slot, Frame& frame) {
  const uint32_t at = slot.at;
  const uint32_t end = at + kLengths[slot.kind];
  const auto memory = static_cast<uint8_t>(0x80 | PlainRegister() << 3 | kEdi);  // [EDI + disp32]
  switch (slot.kind) {
    case kOneByte:
      frame[at] = OneByte();
      break;
    case kRegisters2:
      frame[at] = random_.Of<uint8_t>({0x01, 0x09, 0x11, 0x19, 0x21, 0x29, 0x31, 0x39, 0x85, 0x89, 0x01, 0x11});
      frame[at + 1] = static_cast<uint8_t>(0xC0 | random_.Below(8) << 3 | PlainRegister());
      break;
    case kImmediate5:
      frame[at] = random_.OneIn(2) ? 0x05 : static_cast<uint8_t>(0xB8 | PlainRegister());
      Put(frame, at + 1, static_cast<uint32_t>(random_()));
      break;
    case kImmediate6:
      frame[at] = 0x81;
      frame[at + 1] = static_cast<uint8_t>(0xC0 | random_.Below(8) << 3 | PlainRegister());
      Put(frame, at + 2, static_cast<uint32_t>(random_()));
      break;
    case kStoreByte: {
      const Patch patch = StoreTarget(end, 1);
      Put(frame, at, uint16_t{0x87C6});
      Put(frame, at + 2, patch.offset);
      frame[at + 6] = patch.bytes[0];
      break;
    }
    case kStoreDword: {
      const Patch patch = StoreTarget(end, 4);
      Put(frame, at, uint16_t{0x87C7});
      Put(frame, at + 2, patch.offset);
      std::memcpy(frame.data() + at + 6, patch.bytes.data(), 4);
      break;
    }
    case kModify: {
      // MOV XCHG ADD SUB XOR, of four bytes or one.
      const bool byte = random_.OneIn(4);
      frame[at] = static_cast<uint8_t>(random_.Of<uint8_t>({0x89, 0x87, 0x01, 0x29, 0x31}) - byte);
      frame[at + 1] = byte ? static_cast<uint8_t>(0x80 | random_.Of<uint8_t>({kEax, kEdx}) << 3 | kEdi) : memory;
      Put(frame, at + 2, ImmediateIn(end, byte ? 1 : 4));
      break;
    }
    case kLocked:
      frame[at] = 0xF0;
      if (random_.OneIn(2)) {
        frame[at + 1] = 0x3E;  // a prefix that means nothing
        frame[at + 2] = random_.Of<uint8_t>({0x01, 0x29, 0x31, 0x87});
      } else {
        frame[at + 1] = 0x0F;
        frame[at + 2] = random_.Of<uint8_t>({0xC1, 0xB1});  // XADD, CMPXCHG
      }
      frame[at + 3] = memory;
      Put(frame, at + 4, ImmediateIn(end, 4));
      break;
    case kStoreVector: {
      const uint8_t bytes[] = {0x66, 0x0F, 0x6E, static_cast<uint8_t>(0xC0 | PlainRegister()),
                               0x66, 0x0F, 0x7E, 0x80 | kEdi};
      std::memcpy(frame.data() + at, bytes, sizeof(bytes));
      Put(frame, at + 8, ImmediateIn(end, 4));
      break;
    }
    case kJump:
      frame[at] = 0xEB;
      frame[at + 1] = Displacement(end, false);
      break;
    case kJumpIf:
      frame[at] = static_cast<uint8_t>(0x70 | random_.Below(16));
      frame[at + 1] = Displacement(end, false);
      break;
    case kLoop: {
      const uint8_t bytes[] = {0xFF, 0xC9, 0x7F, Displacement(end, true)};
      std::memcpy(frame.data() + at, bytes, sizeof(bytes));
      break;
    }
    case kJumpFar:
      frame[at] = 0xE9;
      Put(frame, at + 1, kSecondBegin - end);
      break;
    default:
      Put(frame, at, uint16_t{0x0B0F});
  }
}

void ProgramGenerator::FillEnd(Frame& frame) {
  for (uint32_t at = kEndBegin; at < kPage; ++at) frame[at] = OneByte();
  if (random_.OneIn(3)) return;
  // One of the last bytes begins an instruction of five.
  frame[kLastBytes + random_.Below(4)] = random_.OneIn(2) ? 0x05 : static_cast<uint8_t>(0xB8 | PlainRegister());
}

void ProgramGenerator::MakeStep(Step& step) {
  step.patches.clear();
  while (random_.OneIn(3)) {  // others write code: a device, another processor
    Patch patch = StoreTarget(0, random_.OneIn(2) ? 1 : 4);
    patch.frame = static_cast<int>(random_.Below(kFrames));
    patch.offset %= kPage;
    if (patch.offset + patch.bytes.size() <= kPage) step.patches.push_back(patch);
  }
  const auto frame = [&] { return random_.OneIn(8) ? -1 : static_cast<int>(random_.Below(kFrames)); };
  step.entry = space_ < 0 ? Entry::kAnew : random_.Of<Entry>({Entry::kAnew, Entry::kPageForgotten, Entry::kStays});
  step.changed_page = 0;
  if (step.entry == Entry::kPageForgotten) {
    step.changed_page = static_cast<int>(random_.Below(kWindowPages));
    if (random_.OneIn(2)) spaces_[space_][step.changed_page] = frame();
  } else if (step.entry == Entry::kAnew) {
    space_ = static_cast<int>(random_.Below(kSpaces));
    if (random_.OneIn(4)) spaces_[space_][random_.Below(kWindowPages)] = frame();
  }
  step.space = space_;
  step.mapping = spaces_[space_];

  // Anywhere that an instruction may begin: often shortly before the end of a page.
  const uint64_t page = random_.Below(kWindowPages);
  uint64_t entry =
      random_.OneIn(3) ? kEndBegin + random_.Below(kPage - kEndBegin) : slots_[random_.Below(slots_.size())].at;
  if (random_.OneIn(4)) entry = kPage - 1;
  // In the last bytes only where the frame there has no immediate operand; its first one-byte instructions are as good.
  const int at_entry = step.mapping[page];
  if (at_entry >= 0 && entry > kLastBytes && random_.OneIn(2)) entry = kEndBegin;
  entry += page * kPage;
  step.segment = -1;
  step.ip = kWindowAddress + entry;
  if (random_.OneIn(2)) {
    const auto segment = random_.Below(kSegments);
    const CodeSegment& code = program_->segments[segment];
    const uint64_t offset = step.ip - code.base;
    if (step.ip >= code.base && offset <= code.limit) {
      step.segment = static_cast<int>(segment);
      step.ip = offset;
    }
  }
  for (uint64_t& value : step.registers) value = random_() & 0xFFFFFFFF;
  step.registers[kEcx] = random_.Below(6);
  step.registers[kEdi] = kWindowAddress;
  step.registers[kEsp] = kStackAddress + kStackSize / 2 + 8 * random_.Below(16);
  step.rflags = 0x202 | (random_() & 0x8C5) | (random_.OneIn(10) ? 0x100 : 0);
}

void ProgramGenerator::Next(Program& program) {
  program_ = &program;
  MakeLayout();
  for (Frame& frame : program.frames) {
    frame.fill(0xCC);
    for (const Slot& slot : slots_) Fill(slot, frame);
    FillEnd(frame);
  }
  for (uint8_t& byte : program.stack) byte = static_cast<uint8_t>(random_());
  for (CodeSegment& segment : program.segments) {
    segment.base = static_cast<uint32_t>(kWindowAddress + random_.Below(kWindowPages * kPage));
    if (random_.OneIn(2))
      segment.base = static_cast<uint32_t>(kWindowAddress) - static_cast<uint32_t>(random_.Below(64));
    // Its end is near that of a page, or anywhere, or far away.
    uint64_t end = kWindowAddress + random_.Below(kWindowPages * kPage);
    if (random_.OneIn(2)) end = kWindowAddress + (1 + random_.Below(kWindowPages)) * kPage - 16 + random_.Below(32);
    if (random_.OneIn(4)) end = kWindowAddress + 0x80000;
    segment.limit = static_cast<uint32_t>(std::max<uint64_t>(end, segment.base) - segment.base);
  }
  for (Mapping& mapping : spaces_) {
    for (int& frame : mapping) frame = random_.OneIn(8) ? -1 : static_cast<int>(random_.Below(kFrames));
  }
  space_ = -1;
  program.steps.resize(2 + random_.Below(12));
  for (Step& step : program.steps) MakeStep(step);
}

}  // namespace hvsdk::code_oracle
