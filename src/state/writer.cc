// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/state/writer.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"

namespace hvsdk::state {

size_t StateWriter::Begin(uint16_t number, FieldKind kind) {
  Put(number, 2);
  Put(static_cast<uint16_t>(kind), 2);
  Put(0, 4);  // until End
  return bytes_.size();
}

void StateWriter::End(size_t head) {
  const size_t size = bytes_.size() - head;
  for (int i = 0; i < 4; ++i) bytes_[head - 4 + i] = static_cast<char>(size >> (8 * i));
}

void StateWriter::Put(uint64_t value, size_t size_bytes) {
  for (size_t i = 0; i < size_bytes; ++i) bytes_.push_back(static_cast<char>(value >> (8 * i)));
}

void StateText::Line(absl::string_view name) { absl::StrAppendFormat(&text_, "%*s%s:\n", 2 * depth_, "", name); }

void StateText::Line(absl::string_view name, uint64_t value) {
  absl::StrAppendFormat(&text_, "%*s%s: %#x\n", 2 * depth_, "", name, value);
}

void StateText::Line(absl::string_view name, absl::string_view bytes) {
  absl::StrAppendFormat(&text_, "%*s%s: %s\n", 2 * depth_, "", name, absl::BytesToHexString(bytes));
}

}  // namespace hvsdk::state
