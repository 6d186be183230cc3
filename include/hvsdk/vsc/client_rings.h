// SPDX-License-Identifier: Apache-2.0
// ClientRings: both rings of a channel, from the child's side, over memory that is one piece. Freestanding.
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

  // Clears the control pages at `memory`, where the pages of `ring` are, and attaches to both rings. Before Open.
  static ClientRings Create(void* memory, const RingPages& ring) {
    constexpr uint32_t kPage = hvdef::kRingPageSize;
    auto* const out = static_cast<uint8_t*>(memory);
    uint8_t* const in = out + uint64_t{ring.outgoing_pages} * kPage;
    __builtin_memset(out, 0, kPage);
    __builtin_memset(in, 0, kPage);
    ClientRings rings;
    rings.outgoing = vmbus::RingWriter<vmbus::FlatMemory>(
        vmbus::FlatMemory(out, out + kPage, (ring.outgoing_pages - 1) * kPage));
    rings.incoming = vmbus::RingReader<vmbus::FlatMemory>(
        vmbus::FlatMemory(in, in + kPage, (ring.pages.page_count - ring.outgoing_pages - 1) * kPage));
    (void)rings.outgoing.Attach();
    (void)rings.incoming.Attach();
    return rings;
  }
};

}  // namespace hvsdk::vsc

#endif  // HVSDK_VSC_CLIENT_RINGS_H_
