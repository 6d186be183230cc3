// SPDX-License-Identifier: Apache-2.0
// Dispatcher: a hypercall exit to the handler that answers it, by the whole of the calling convention: memory, fast and
// XMM-fast input and output, rep calls with continuation, variable headers, 32-bit callers.
//
// What the caller did wrong is answered here, before any handler runs:
//   wrong processor mode (real mode, virtual-8086, CPL above 0)       #UD
//   unknown code                                                      HV_STATUS_INVALID_HYPERCALL_CODE
//   privilege missing                                                 HV_STATUS_ACCESS_DENIED
//   reserved bits, rep fields, variable header, too long for fast     HV_STATUS_INVALID_HYPERCALL_INPUT
//   block misaligned, across a page, or not in guest memory           HV_STATUS_INVALID_ALIGNMENT
//
// Cost: no lock and no allocation. A fast call reads its registers; a memory call copies its input once to the stack.
//
// Thread class: Add before the first VP runs; Dispatch is thread-safe (each call on its VP's own thread).
//
// Source: TLFS, chapter "Hypercall Interface".

#ifndef HVSDK_HYPERCALL_DISPATCHER_H_
#define HVSDK_HYPERCALL_DISPATCHER_H_

#include <array>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "hvsdk/backend/backend.h"
#include "hvsdk/hypercall/descriptor.h"
#include "hvsdk/memory/guest_memory.h"

namespace hvsdk::hypercall {

// What a call was and how it ended, for a trace. `call` is null if the code is unknown.
struct CallRecord {
  hvdef::Control control{};
  const Descriptor* call = nullptr;
  uint64_t result = 0;
};

class Dispatcher {
 public:
  // `memory` outlives the dispatcher.
  explicit Dispatcher(GuestMemory& memory) : memory_(memory) { direct_.fill(kUnknown); }

  // Makes `target` answer `calls`; both outlive the dispatcher.
  // AlreadyExists: a code is taken. InvalidArgument: a block that does not fit a page.
  template <typename T>
  absl::Status Add(absl::Span<const TypedDescriptor<T>> calls, T& target) {
    for (const TypedDescriptor<T>& call : calls) {
      if (absl::Status status = AddOne(call, &target); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

  // The call of a code, or nullptr.
  const Descriptor* Find(uint16_t code) const;

  // Carries out the hypercall that caller.vp has just made; call it from ExitHandler::OnHypercall.
  backend::HypercallOutcome Dispatch(Caller& caller, CallRecord* record = nullptr) const;

 private:
  struct Entry {
    Descriptor call;
    void* target;
  };
  static constexpr uint16_t kUnknown = 0xFFFF;
  static constexpr uint16_t kDirectCodes = 0x100;

  absl::Status AddOne(const Descriptor& call, void* target);
  const Entry* Lookup(uint16_t code) const;
  uint64_t Execute(Caller& caller, const Entry& entry, class Registers& registers) const;
  uint64_t ExecuteFast(Caller& caller, const Entry& entry, class Registers& registers) const;
  uint64_t ExecuteMemory(Caller& caller, const Entry& entry, class Registers& registers) const;

  GuestMemory& memory_;
  std::vector<Entry> entries_;
  std::array<uint16_t, kDirectCodes> direct_;  // the index of a small code, which is nearly every one
};

}  // namespace hvsdk::hypercall

#endif  // HVSDK_HYPERCALL_DISPATCHER_H_
