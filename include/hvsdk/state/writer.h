// SPDX-License-Identifier: Apache-2.0
// StateWriter: a component's state as bytes. StateText: the same for people.
//
// A record is its fields, each an 8-byte head and its contents, little-endian (docs/state.md has an example in bytes):
//
//   | offset | size | what |
//   |--:|--:|---|
//   | 0 | 2 | the field's number; numbers ascend |
//   | 2 | 2 | its kind (FieldKind) |
//   | 4 | 4 | size of the contents in bytes |
//   | 8 | size | an integer: 8 bytes; bytes: themselves; a structure: its record; a list: its elements, one field each, whose number is 0 |
//
// Thread class: thread-compatible.
//
//   StateWriter writer;
//   LampState lamp{.brightness = 7};  // as in fields.h
//   writer.Write(lamp);
//   std::string bytes = std::move(writer).bytes();

#ifndef HVSDK_STATE_WRITER_H_
#define HVSDK_STATE_WRITER_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"
#include "hvsdk/state/fields.h"

namespace hvsdk::state {

enum class FieldKind : uint16_t { kInteger = 1, kBytes = 2, kRecord = 3, kList = 4 };

class StateWriter {
 public:
  // The state of one component: once.
  template <Structure State>
  void Write(State& state) {
    schema_ = State::kSchema;
    state.Fields(*this);
  }

  uint32_t schema() const { return schema_; }
  const std::string& bytes() const& { return bytes_; }
  std::string bytes() && { return std::move(bytes_); }

  // For Fields.
  template <typename T>
  void operator()(uint16_t number, const char*, T& value) {
    Field(number, value);
  }

 private:
  template <typename T>
  void Field(uint16_t number, T& value) {
    constexpr FieldKind kKind = Integer<T>     ? FieldKind::kInteger
                                : Bytes<T>     ? FieldKind::kBytes
                                : Structure<T> ? FieldKind::kRecord
                                               : FieldKind::kList;
    const size_t head = Begin(number, kKind);
    if constexpr (Integer<T>) {
      Put(static_cast<uint64_t>(value), sizeof(uint64_t));
    } else if constexpr (Bytes<T>) {
      bytes_.append(reinterpret_cast<const char*>(value.data()), value.size());
    } else if constexpr (Structure<T>) {
      value.Fields(*this);
    } else {
      static_assert(List<T>);
      for (auto& element : value) Field(0, element);
    }
    End(head);
  }
  size_t Begin(uint16_t number, FieldKind kind);
  void End(size_t head);
  void Put(uint64_t value, size_t size_bytes);

  uint32_t schema_ = 0;
  std::string bytes_;
};

// One line a field: its name and value, structures and lists indented below.
class StateText {
 public:
  template <Structure State>
  static std::string Of(State& state) {
    StateText text;
    state.Fields(text);
    return std::move(text.text_);
  }

  // For Fields.
  template <typename T>
  void operator()(uint16_t, const char* name, T& value) {
    Field(name, value);
  }

 private:
  template <typename T>
  void Field(absl::string_view name, T& value) {
    if constexpr (Integer<T>) {
      Line(name, static_cast<uint64_t>(value));
    } else if constexpr (Bytes<T>) {
      Line(name, absl::string_view(reinterpret_cast<const char*>(value.data()), value.size()));
    } else if constexpr (Structure<T>) {
      Line(name);
      ++depth_;
      value.Fields(*this);
      --depth_;
    } else {
      Line(name);
      ++depth_;
      for (auto& element : value) Field("-", element);
      --depth_;
    }
  }
  void Line(absl::string_view name);
  void Line(absl::string_view name, uint64_t value);
  void Line(absl::string_view name, absl::string_view bytes);

  int depth_ = 0;
  std::string text_;
};

}  // namespace hvsdk::state

#endif  // HVSDK_STATE_WRITER_H_
