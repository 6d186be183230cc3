// SPDX-License-Identifier: Apache-2.0
// What a hypercall looks like to its caller, as data, made from the signature of the function that answers it.
//
// A handler is a member function of any class. It gets private copies of the input, read once, and fills output that
// the dispatcher has zeroed; it never touches guest memory for its parameters.
// Forms (In, Out, elements: plain structs):
//
//   hvdef::HvStatus Simple(Caller&, const In&);
//   hvdef::HvStatus SimpleWithOutput(Caller&, const In&, Out&);
//   hvdef::HvStatus VariableHeader(Caller&, const In&, absl::Span<const uint64_t> variable);
//   RepResult Rep(Caller&, const In&, Reps<InElement, OutElement>);
//   RepResult RepWithVariableHeader(Caller&, const In&, absl::Span<const uint64_t> variable, Reps<InElement, OutElement>);
//
// `Nothing` stands for an In, InElement or OutElement that the call does not have.
//
// A call of one's own:
//
//   struct Sum {
//     uint64_t a, b;
//   };
//   struct Adder {
//     hvdef::HvStatus Add(hypercall::Caller&, const Sum& in, uint64_t& out) {
//       out = in.a + in.b;
//       return hvdef::HvStatus::kSuccess;
//     }
//   } adder;
//   static constexpr auto kCalls = std::to_array({hypercall::Describe<&Adder::Add>(0x7001, "MyCallAdd")});
//   const absl::Status status = dispatcher.Add<Adder>(kCalls, adder);
//
// Source: TLFS, chapter "Hypercall Interface".

#ifndef HVSDK_HYPERCALL_DESCRIPTOR_H_
#define HVSDK_HYPERCALL_DESCRIPTOR_H_

#include <cstdint>
#include <new>
#include <type_traits>

#include "absl/types/span.h"
#include "hvsdk/backend/backend.h"
#include "hvsdk/hvdef/hypercall.h"
#include "hvsdk/hvdef/status.h"

namespace hvsdk::hypercall {

// Who calls, and what its partition may do (hvdef/privilege.h).
struct Caller {
  backend::Vp& vp;
  uint64_t privileges;
};

struct Nothing {};

// How a rep handler fared: `completed` elements are done, counted from the first it was given. With kSuccess and fewer
// than it was given, the rest comes back in another call.
struct RepResult {
  hvdef::HvStatus status;
  uint16_t completed;
};

// The elements that a rep handler works on in one go: a part of the caller's list, in order.
template <typename In, typename Out>
class Reps {
 public:
  Reps(const uint8_t* input, uint8_t* output, uint16_t size) : input_(input), output_(output), size_(size) {}
  uint16_t size() const { return size_; }
  const In& input(uint16_t i) const { return std::launder(reinterpret_cast<const In*>(input_))[i]; }
  Out& output(uint16_t i) const { return std::launder(reinterpret_cast<Out*>(output_))[i]; }
  absl::Span<const In> inputs() const { return {std::launder(reinterpret_cast<const In*>(input_)), size_}; }

 private:
  const uint8_t* input_;
  uint8_t* output_;
  uint16_t size_;
};

// The private copies that one invocation works on; 8-byte aligned.
struct Block {
  const uint8_t* input;           // the fixed header
  const uint8_t* variable;        // its variable part
  const uint8_t* input_elements;  // the elements of this invocation
  uint8_t* output;
  uint8_t* output_elements;
  uint16_t variable_words;
  uint16_t reps;
};

struct Descriptor {
  uint16_t code;
  const char* name;    // the specification's identifier
  uint64_t privilege;  // all of these are needed
  bool rep;
  bool variable_header;
  uint16_t input_bytes;  // fixed headers, padded to whole 8-byte words
  uint16_t output_bytes;
  uint16_t input_element_bytes;
  uint16_t output_element_bytes;
  uint16_t max_reps;  // done in one go, so that an exit stays short; the caller retries for the rest
  RepResult (*invoke)(void* target, Caller& caller, const Block& block);
};

// A descriptor that knows the class of its handler.
template <typename T>
struct TypedDescriptor : Descriptor {};

// As many elements as a page can hold never need a second go.
inline constexpr uint16_t kAllReps = hvdef::kMaxRepCount;

namespace internal {

template <typename T>
constexpr uint16_t SizeOf() {
  if constexpr (std::is_same_v<T, Nothing>) {
    return 0;
  } else {
    static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= 8);
    return sizeof(T);
  }
}
constexpr uint16_t PadToWords(uint16_t bytes) { return (bytes + 7) & ~7; }

template <typename T>
const T& Input(const uint8_t* bytes) {
  return *std::launder(reinterpret_cast<const T*>(bytes));
}
template <typename T>
T& Output(uint8_t* bytes) {
  return *std::launder(reinterpret_cast<T*>(bytes));
}
inline absl::Span<const uint64_t> Variable(const Block& block) {
  return {std::launder(reinterpret_cast<const uint64_t*>(block.variable)), block.variable_words};
}

template <auto Method, typename Signature = decltype(Method)>
struct Binding;

template <auto Method, typename T, typename In>
struct Binding<Method, hvdef::HvStatus (T::*)(Caller&, const In&)> {
  using Target = T;
  static constexpr Descriptor kShape{.input_bytes = PadToWords(SizeOf<In>()), .max_reps = 1};
  static RepResult Invoke(void* target, Caller& caller, const Block& block) {
    return {(static_cast<T*>(target)->*Method)(caller, Input<In>(block.input)), 0};
  }
};

template <auto Method, typename T, typename In, typename Out>
struct Binding<Method, hvdef::HvStatus (T::*)(Caller&, const In&, Out&)> {
  using Target = T;
  static constexpr Descriptor kShape{
      .input_bytes = PadToWords(SizeOf<In>()), .output_bytes = PadToWords(SizeOf<Out>()), .max_reps = 1};
  static RepResult Invoke(void* target, Caller& caller, const Block& block) {
    return {(static_cast<T*>(target)->*Method)(caller, Input<In>(block.input), Output<Out>(block.output)), 0};
  }
};

template <auto Method, typename T, typename In>
struct Binding<Method, hvdef::HvStatus (T::*)(Caller&, const In&, absl::Span<const uint64_t>)> {
  using Target = T;
  static constexpr Descriptor kShape{.variable_header = true, .input_bytes = PadToWords(SizeOf<In>()), .max_reps = 1};
  static RepResult Invoke(void* target, Caller& caller, const Block& block) {
    return {(static_cast<T*>(target)->*Method)(caller, Input<In>(block.input), Variable(block)), 0};
  }
};

template <auto Method, typename T, typename In, typename InElement, typename OutElement>
struct Binding<Method, RepResult (T::*)(Caller&, const In&, Reps<InElement, OutElement>)> {
  using Target = T;
  static constexpr Descriptor kShape{.rep = true,
                                     .input_bytes = PadToWords(SizeOf<In>()),
                                     .input_element_bytes = SizeOf<InElement>(),
                                     .output_element_bytes = SizeOf<OutElement>()};
  static RepResult Invoke(void* target, Caller& caller, const Block& block) {
    return (static_cast<T*>(target)->*Method)(
        caller, Input<In>(block.input),
        Reps<InElement, OutElement>(block.input_elements, block.output_elements, block.reps));
  }
};

template <auto Method, typename T, typename In, typename InElement, typename OutElement>
struct Binding<Method, RepResult (T::*)(Caller&, const In&, absl::Span<const uint64_t>, Reps<InElement, OutElement>)> {
  using Target = T;
  static constexpr Descriptor kShape{.rep = true,
                                     .variable_header = true,
                                     .input_bytes = PadToWords(SizeOf<In>()),
                                     .input_element_bytes = SizeOf<InElement>(),
                                     .output_element_bytes = SizeOf<OutElement>()};
  static RepResult Invoke(void* target, Caller& caller, const Block& block) {
    return (static_cast<T*>(target)->*Method)(
        caller, Input<In>(block.input), Variable(block),
        Reps<InElement, OutElement>(block.input_elements, block.output_elements, block.reps));
  }
};

}  // namespace internal

// The descriptor of the call that `Method` answers. `max_reps` bounds a rep call's elements in one go.
template <auto Method>
constexpr auto Describe(uint16_t code, const char* name, uint64_t privilege = 0, uint16_t max_reps = kAllReps) {
  using Bound = internal::Binding<Method>;
  TypedDescriptor<typename Bound::Target> descriptor{Bound::kShape};
  descriptor.code = code;
  descriptor.name = name;
  descriptor.privilege = privilege;
  if (descriptor.rep) descriptor.max_reps = max_reps;
  descriptor.invoke = &Bound::Invoke;
  return descriptor;
}
template <auto Method>
constexpr auto Describe(hvdef::CallCode code, const char* name, uint64_t privilege = 0, uint16_t max_reps = kAllReps) {
  return Describe<Method>(static_cast<uint16_t>(code), name, privilege, max_reps);
}

}  // namespace hvsdk::hypercall

#endif  // HVSDK_HYPERCALL_DESCRIPTOR_H_
