// SPDX-License-Identifier: Apache-2.0
// Compiled, never run: both ends on every memory that needs no operating system.

#include "hvsdk/vmbus/ring/reader.h"
#include "hvsdk/vmbus/ring/writer.h"

namespace hvsdk::vmbus {

template class RingWriter<MirroredMemory>;
template class RingWriter<FlatMemory>;
template class RingWriter<PagedMemory>;
template class RingReader<MirroredMemory>;
template class RingReader<FlatMemory>;
template class RingReader<PagedMemory>;

}  // namespace hvsdk::vmbus
