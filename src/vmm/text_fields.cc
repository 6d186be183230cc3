// SPDX-License-Identifier: Apache-2.0
#include "vmm/text_fields.h"

#include <google/protobuf/descriptor.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/utf16.h"

namespace hvsdk::vmm {
namespace {

using google::protobuf::FieldDescriptor;

bool IsText(const std::string& text) { return hvsdk::internal::FromUtf16(hvsdk::internal::ToUtf16(text)) == text; }

}  // namespace

absl::Status CheckTextFields(const google::protobuf::Message& message) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const FieldDescriptor* const field : fields) {
    const int count = field->is_repeated() ? reflection.FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      if (field->type() == FieldDescriptor::TYPE_STRING) {
        const std::string text = field->is_repeated() ? reflection.GetRepeatedString(message, field, i)
                                                      : reflection.GetString(message, field);
        if (!IsText(text)) return absl::InvalidArgumentError(absl::StrCat(field->name(), ": is not UTF-8"));
      } else if (field->type() == FieldDescriptor::TYPE_MESSAGE) {
        RETURN_IF_ERROR(CheckTextFields(field->is_repeated() ? reflection.GetRepeatedMessage(message, field, i)
                                                             : reflection.GetMessage(message, field)));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace hvsdk::vmm
