// SPDX-License-Identifier: Apache-2.0
// ClientRings: both rings of a channel, from the child's side, over memory that is one piece. Freestanding.
//
// Pages that cannot be two rings (RingPages::is_valid) make rings that are not valid: they touch no memory, and
// whatever is asked of them that says so answers kCorrupt. VmbusClient::Open refuses such pages, too.
//
//   RingPages ring = {.pages = {.first_pfn = gpa / 4096, .page_count = 32}, .outgoing_pages = 16};
//   auto rings = ClientRings::Create(memory, ring);   // then client.Open(channel, offer, ring)

#ifndef HVSDK_VSC_CLIENT_RINGS_H_
#define HVSDK_VSC_CLIENT_RINGS_H_

#include <cstdint>

#include "hvsdk/hvdef/vmbus_ring.h"
#include "hvsdk/vmbus/ring/memory.h"
#include "hvsdk/vmbus/ring/reader.h"
#include "hvsdk/vmbus/ring/writer.h"
#include "hvsdk/vsc/vmbus_client.h"

namespace hvsdk::vsc {

struct ClientRings {
  vmbus::RingWriter<vmbus::FlatMemory> outgoing;  // the root reads it
  vmbus::RingReader<vmbus::FlatMemory> incoming;  // the root writes it

  // Both ends are attached, and the root has broken neither. Not if made by the default constructor.
  bool is_valid() const {
    return outgoing.memory().size() != 0 && outgoing.fault() == vmbus::RingFault::kNone &&
           incoming.fault() == vmbus::RingFault::kNone;
  }

  // Clears the control pages at `memory`, where the pages of `ring` are, and attaches to both rings. Before Open.
  static ClientRings Create(void* memory, const RingPages& ring) {
    ClientRings rings;
    if (memory == nullptr || !ring.is_valid()) {
      // Without data both attach to nothing, and are broken for good.
      (void)rings.outgoing.Attach();
      (void)rings.incoming.Attach();
      return rings;
    }
    constexpr uint32_t kPage = hvdef::kRingPageSize;
    auto* const out = static_cast<uint8_t*>(memory);
    uint8_t* const in = out + uint64_t{ring.outgoing_pages} * kPage;
    __builtin_memset(out, 0, kPage);
    __builtin_memset(in, 0, kPage);
    rings.outgoing =
        vmbus::RingWriter<vmbus::FlatMemory>(vmbus::FlatMemory(out, out + kPage, (ring.outgoing_pages - 1) * kPage));
    rings.incoming = vmbus::RingReader<vmbus::FlatMemory>(
        vmbus::FlatMemory(in, in + kPage, (ring.pages.page_count - ring.outgoing_pages - 1) * kPage));
    (void)rings.outgoing.Attach();  // is_valid() tells
    (void)rings.incoming.Attach();
    return rings;
  }
};

}  // namespace hvsdk::vsc

#endif  // HVSDK_VSC_CLIENT_RINGS_H_
