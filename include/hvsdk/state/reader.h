// SPDX-License-Identifier: Apache-2.0
// StateReader: reads what StateWriter wrote, from whoever sent it: nothing in it is believed.
//
// A field that is missing keeps its structure's default, so that a structure may get new fields under the same schema
// number; a field that the structure does not know is an error, because what it says would be lost.
//
// Thread class: thread-compatible.
//
//   LampState lamp;  // as in fields.h
//   StateReader reader("lamp/0", 1, bytes);
//   if (const absl::Status status = reader.Read(lamp); !status.ok()) return status;

#ifndef HVSDK_STATE_READER_H_
#define HVSDK_STATE_READER_H_

#include <algorithm>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "hvsdk/state/fields.h"
#include "hvsdk/state/writer.h"

namespace hvsdk::state {

class StateReader {
 public:
  // `component` is for messages. The bytes outlive the reader.
  StateReader(absl::string_view component, uint32_t schema, absl::string_view bytes)
      : component_(component), schema_(schema), bytes_(bytes) {}

  const std::string& component() const { return component_; }

  // InvalidArgument names the component and the field: one that `State` does not have, a value beyond its type, a list
  // of another length than its array, a record that is cut short, a schema that is newer. `state` is then of no use.
  template <Structure State>
  absl::Status Read(State& state) {
    if (schema_ == 0 || schema_ > State::kSchema) return NewerSchema(State::kSchema);
    Record(bytes_, state);
    return status_;
  }

  // A value that is of its type and makes no sense all the same.
  absl::Status Invalid(absl::string_view field, absl::string_view why) const;

 private:
  struct Head {
    uint16_t number;
    FieldKind kind;
    absl::string_view contents;
  };

  // Hands each field of a record to the structure's member of that number.
  class Fields {
   public:
    Fields(StateReader& reader, absl::string_view record) : reader_(reader), rest_(record) { Next(); }
    template <typename T>
    void operator()(uint16_t number, const char* name, T& value) {
      if (!reader_.status_.ok()) return;
      if (!has_head_ || head_.number > number) return;  // it keeps its default
      if (head_.number < number) return reader_.UnknownField(head_.number);
      reader_.path_.push_back(name);
      reader_.Field(head_, value);
      reader_.path_.pop_back();
      Next();
    }
    void Finish() {
      if (reader_.status_.ok() && has_head_) reader_.UnknownField(head_.number);
    }

   private:
    void Next();

    StateReader& reader_;
    absl::string_view rest_;
    Head head_{};
    bool has_head_ = false;
    uint16_t last_ = 0;
  };

  template <typename State>
  void Record(absl::string_view record, State& state) {
    Fields fields(*this, record);
    state.Fields(fields);
    fields.Finish();
  }

  template <typename T>
  void Field(const Head& head, T& value) {
    if constexpr (Integer<T>) {
      uint64_t word = 0;
      if (!Integer64(head, word)) return;
      using Raw = typename std::conditional_t<std::is_enum_v<T>, std::underlying_type<T>, std::type_identity<T>>::type;
      // A signed one was written with its sign extended to 64 bits.
      if (static_cast<uint64_t>(static_cast<Raw>(word)) != word) return Fail("a value beyond its type");
      value = static_cast<T>(word);
    } else if constexpr (Bytes<T>) {
      if (head.kind != FieldKind::kBytes) return Fail("not bytes");
      if constexpr (IsArray<T>::value) {
        if (head.contents.size() != value.size()) return Fail("bytes of another number");
        std::copy(head.contents.begin(), head.contents.end(), value.begin());
      } else {
        value.assign(head.contents.begin(), head.contents.end());
      }
    } else if constexpr (Structure<T>) {
      if (head.kind != FieldKind::kRecord) return Fail("not a record");
      Record(head.contents, value);
    } else {
      if (head.kind != FieldKind::kList) return Fail("not a list");
      absl::string_view rest = head.contents;
      size_t count = 0;
      if constexpr (IsVector<T>::value) value.clear();
      while (!rest.empty()) {
        Head element;
        if (!TakeHead(rest, element)) return;
        if (element.number != 0) return Fail("an element with a number");
        if constexpr (IsArray<T>::value) {
          if (count == value.size()) return Fail("a list of another length");
          Field(element, value[count]);
        } else {
          typename T::value_type item{};
          Field(element, item);
          value.push_back(std::move(item));
        }
        if (!status_.ok()) return;
        ++count;
      }
      if constexpr (IsArray<T>::value) {
        if (count != value.size()) return Fail("a list of another length");
      }
    }
  }

  bool Integer64(const Head& head, uint64_t& value);
  // Takes the first field off `rest`. False, and the status says why: it is cut short.
  bool TakeHead(absl::string_view& rest, Head& head);
  void Fail(absl::string_view why);
  void UnknownField(uint16_t number);
  absl::Status NewerSchema(uint32_t known) const;

  const std::string component_;
  const uint32_t schema_;
  const absl::string_view bytes_;
  std::vector<const char*> path_;  // of the field that is read
  absl::Status status_;
};

}  // namespace hvsdk::state

#endif  // HVSDK_STATE_READER_H_
