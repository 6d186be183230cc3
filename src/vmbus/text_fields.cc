// SPDX-License-Identifier: Apache-2.0
#include "vmbus/text_fields.h"

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace hvsdk::vmbus::internal {

absl::StatusOr<TextFields> TextFields::Parse(absl::string_view text) {
  TextFields line;
  const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(text, absl::MaxSplits(' ', 1));
  line.name_ = parts.first;
  line.rest_ = parts.second;
  if (line.name_ == "raw") return line;
  for (const absl::string_view word : absl::StrSplit(line.rest_, ' ', absl::SkipEmpty())) {
    const size_t equals = word.find('=');
    if (equals == absl::string_view::npos) {
      return absl::InvalidArgumentError(absl::StrCat("\"", word, "\" is not field=value"));
    }
    const Field field = {word.substr(0, equals), word.substr(equals + 1)};
    for (const Field& other : line.fields_) {
      if (other.name != field.name) continue;
      return absl::InvalidArgumentError(absl::StrCat("field ", field.name, " given twice"));
    }
    line.fields_.push_back(field);
  }
  return line;
}

TextFields::Field* TextFields::Take(absl::string_view name) {
  for (Field& field : fields_) {
    if (field.name != name) continue;
    field.taken = true;
    return &field;
  }
  return nullptr;
}

absl::StatusOr<uint64_t> TextFields::Number(absl::string_view field, uint64_t max) {
  const Field* const found = Take(field);
  if (found == nullptr) return 0;
  uint64_t value = 0;
  const bool good = absl::StartsWith(found->value, "0x") ? absl::SimpleHexAtoi(found->value.substr(2), &value)
                                                         : absl::SimpleAtoi(found->value, &value);
  if (!good || value > max) return absl::InvalidArgumentError(absl::StrCat("bad number in ", field, "=", found->value));
  return value;
}

absl::StatusOr<hvdef::Guid> TextFields::Guid(absl::string_view field) {
  hvdef::Guid guid = {};
  const Field* const found = Take(field);
  if (found != nullptr && !hvdef::ParseGuid(found->value.data(), found->value.size(), guid)) {
    return absl::InvalidArgumentError(absl::StrCat("bad GUID in ", field, "=", found->value));
  }
  return guid;
}

absl::StatusOr<std::vector<uint8_t>> TextFields::Bytes(absl::string_view field) {
  const Field* const found = Take(field);
  if (found == nullptr) return std::vector<uint8_t>();
  return ParseHex(found->value);
}

absl::string_view TextFields::Text(absl::string_view field) {
  const Field* const found = Take(field);
  return found == nullptr ? absl::string_view() : found->value;
}

absl::Status TextFields::CheckAllTaken() const {
  for (const Field& field : fields_) {
    if (!field.taken) return absl::InvalidArgumentError(absl::StrCat(name_, " has no field ", field.name));
  }
  return absl::OkStatus();
}

std::string FormatHexTrimmed(absl::Span<const uint8_t> bytes) {
  while (!bytes.empty() && bytes.back() == 0) bytes.remove_suffix(1);
  return FormatHex(bytes);
}

std::string FormatHex(absl::Span<const uint8_t> bytes) {
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

absl::StatusOr<std::vector<uint8_t>> ParseHex(absl::string_view text) {
  const bool good = text.size() % 2 == 0 && text.find_first_not_of("0123456789abcdefABCDEF") == absl::string_view::npos;
  if (!good) return absl::InvalidArgumentError(absl::StrCat("bad bytes \"", text, "\""));
  const std::string bytes = absl::HexStringToBytes(text);
  return std::vector<uint8_t>(bytes.begin(), bytes.end());
}

}  // namespace hvsdk::vmbus::internal
