// SPDX-License-Identifier: Apache-2.0
// "name field=value ..." as a name and its fields, for the transcript.

#ifndef HVSDK_SRC_VMBUS_TEXT_FIELDS_H_
#define HVSDK_SRC_VMBUS_TEXT_FIELDS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "hvsdk/hvdef/guid.h"

namespace hvsdk::vmbus::internal {

// One line taken apart; the pieces are borrowed from the text.
class TextFields {
 public:
  // InvalidArgument: a word that is not field=value, or a field given twice.
  static absl::StatusOr<TextFields> Parse(absl::string_view text);

  absl::string_view name() const { return name_; }
  // The words behind the name, where they are not fields.
  absl::string_view rest() const { return rest_; }

  // The value of a field; each is to be taken once. A missing one is zero or empty. InvalidArgument: not such a value,
  // or larger than `max`.
  absl::StatusOr<uint64_t> Number(absl::string_view field, uint64_t max);
  absl::StatusOr<hvdef::Guid> Guid(absl::string_view field);
  absl::StatusOr<std::vector<uint8_t>> Bytes(absl::string_view field);
  absl::string_view Text(absl::string_view field);

  // InvalidArgument: a field that nobody has taken.
  absl::Status CheckAllTaken() const;

 private:
  struct Field {
    absl::string_view name;
    absl::string_view value;
    bool taken = false;
  };
  Field* Take(absl::string_view name);

  absl::string_view name_;
  absl::string_view rest_;
  std::vector<Field> fields_;
};

std::string FormatHex(absl::Span<const uint8_t> bytes);
std::string FormatHexTrimmed(absl::Span<const uint8_t> bytes);  // without the zeros at the end
absl::StatusOr<std::vector<uint8_t>> ParseHex(absl::string_view text);

}  // namespace hvsdk::vmbus::internal

#endif  // HVSDK_SRC_VMBUS_TEXT_FIELDS_H_
