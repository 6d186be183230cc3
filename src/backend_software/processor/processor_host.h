// SPDX-License-Identifier: Apache-2.0
// ProcessorHost: what a processor asks of the machine around it. None of it is asked on the way from one instruction to
// the next.
//
// Thread class: thread-safe. A `self` is the VP whose thread calls.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_PROCESSOR_HOST_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_PROCESSOR_HOST_H_

#include <cstdint>

#include "hvsdk/interrupt/io_apic.h"
#include "hvsdk/interrupt/pic8259.h"

namespace hvsdk::software {

struct Cpu;
struct PageState;

// What another thread has a VP do before it goes on (Cpu::requests).
enum RequestKind : uint32_t {
  kRequestPurge = 1,    // turn fast write entries into slow ones
  kRequestFlush = 2,    // forget all translations
  kRequestDrop = 4,     // forget the code of pages that were posted
  kRequestDropAll = 8,  // forget all code
  kRequestPause = 16,   // stay outside while another VP is exclusive
};

class ProcessorHost {
 public:
  // The guest's time as this VP's time-stamp counter has it, before its offset.
  virtual uint64_t Tsc(const Cpu& c) const = 0;
  virtual uint64_t Random() = 0;
  // More VPs than the host has processors: one that waits for another should yield.
  virtual bool crowded() const = 0;

  // Each processor has its local APIC beside it (Cpu::apic).
  virtual interrupt::IoApic& io_apic() = 0;
  virtual interrupt::Pic8259Pair& pic() = 0;

  // This VP has a machine check, and its kind tells all others.
  virtual void TellOthers(const Cpu& self) = 0;

  // Posts a request to the VPs of `vps` and waits until no VP inside guest code has yet to serve it.
  virtual void RequestAndWait(Cpu* self, uint64_t vps, uint32_t kinds) = 0;
  // The VP `self` (or nullptr) changed bytes of a page that some VP holds code of.
  virtual void DropCode(Cpu* self, uint64_t gpa, PageState& state) = 0;
  // Whether the host's own writes to a page are heard of, for there is code.
  virtual void WatchHostWrites(uint64_t gpa, bool watch) = 0;

  // No other VP is inside guest code in between: for locked accesses that no host instruction can do.
  virtual void BeginExclusive(Cpu& self) = 0;
  virtual void EndExclusive(Cpu& self) = 0;
  // Until the VP that is exclusive is done.
  virtual void WaitForExclusive() = 0;

 protected:
  ~ProcessorHost() = default;
};

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_PROCESSOR_HOST_H_
