// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/state/reader.h"

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace hvsdk::state {
namespace {

uint64_t LittleEndian(absl::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = bytes.size(); i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

}  // namespace

void StateReader::Fields::Next() {
  has_head_ = false;
  if (rest_.empty() || !reader_.TakeHead(rest_, head_)) return;
  if (head_.number <= last_) return reader_.Fail(absl::StrFormat("field %d out of order", head_.number));
  last_ = head_.number;
  has_head_ = true;
}

bool StateReader::TakeHead(absl::string_view& rest, Head& head) {
  constexpr size_t kHeadBytes = 8;
  if (rest.size() < kHeadBytes) return Fail("cut short"), false;
  head.number = static_cast<uint16_t>(LittleEndian(rest.substr(0, 2)));
  head.kind = static_cast<FieldKind>(LittleEndian(rest.substr(2, 2)));
  const uint64_t size = LittleEndian(rest.substr(4, 4));
  rest.remove_prefix(kHeadBytes);
  if (size > rest.size()) return Fail("cut short"), false;
  head.contents = rest.substr(0, size);
  rest.remove_prefix(size);
  return true;
}

bool StateReader::Integer64(const Head& head, uint64_t& value) {
  if (head.kind != FieldKind::kInteger || head.contents.size() != sizeof(value)) return Fail("not an integer"), false;
  value = LittleEndian(head.contents);
  return true;
}

void StateReader::Fail(absl::string_view why) {
  if (!status_.ok()) return;
  status_ = Invalid(absl::StrJoin(path_, "."), why);
}

void StateReader::UnknownField(uint16_t number) { Fail(absl::StrFormat("unknown field %d", number)); }

absl::Status StateReader::Invalid(absl::string_view field, absl::string_view why) const {
  return absl::InvalidArgumentError(field.empty() ? absl::StrFormat("state of %s: %s", component_, why)
                                                  : absl::StrFormat("state of %s, %s: %s", component_, field, why));
}

absl::Status StateReader::NewerSchema(uint32_t known) const {
  return absl::InvalidArgumentError(
      absl::StrFormat("state of %s has schema %d; 1 to %d are known here", component_, schema_, known));
}

}  // namespace hvsdk::state
