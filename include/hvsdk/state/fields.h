// SPDX-License-Identifier: Apache-2.0
// How a structure of state is described, once, for writing, reading and printing it: its schema number, and each field
// by a number, a name and itself. Numbers are given once and never again to something else; a structure that loses a
// field keeps its number free.
//
//   struct LampState {
//     static constexpr uint32_t kSchema = 1;
//     uint8_t brightness = 0;
//     std::array<uint8_t, 16> name{};
//     std::vector<Wire> wires;  // a structure of the same kind
//
//     template <typename Visitor>
//     void Fields(Visitor& visit) {
//       visit(1, "brightness", brightness);
//       visit(2, "name", name);
//       visit(3, "wires", wires);
//     }
//   };
//
// Fields are integers, bool and enumerations; bytes (std::string, std::vector and std::array of uint8_t); structures;
// and vectors and arrays of integers or structures. They are visited by ascending numbers, from 1 to 65535.

#ifndef HVSDK_STATE_FIELDS_H_
#define HVSDK_STATE_FIELDS_H_

#include <array>
#include <concepts>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

namespace hvsdk::state {

template <typename T>
concept Integer = std::is_integral_v<T> || std::is_enum_v<T>;

struct AnyVisitor {
  template <typename T>
  void operator()(uint16_t, const char*, T&) {}
};

template <typename T>
concept Structure = requires(T& structure, AnyVisitor& visitor) {
  structure.Fields(visitor);
};

template <typename T>
struct IsArray : std::false_type {};
template <typename T, size_t kSize>
struct IsArray<std::array<T, kSize>> : std::true_type {};

template <typename T>
struct IsVector : std::false_type {};
template <typename T>
struct IsVector<std::vector<T>> : std::true_type {};

template <typename T>
concept Bytes = std::same_as<T, std::string> ||
    ((IsVector<T>::value || IsArray<T>::value) && std::same_as<typename T::value_type, uint8_t>);

template <typename T>
concept List = (IsVector<T>::value || IsArray<T>::value) && !Bytes<T>;

}  // namespace hvsdk::state

#endif  // HVSDK_STATE_FIELDS_H_
