// SPDX-License-Identifier: Apache-2.0
// Around a processor: going into guest code and out of it, what others ask meanwhile, and where its accesses to ports and
// physical addresses end that are not memory.
#include <algorithm>
#include <cstring>

#include "backend_software/code/code_cache.h"
#include "backend_software/processor/cpu.h"
#include "backend_software/run.h"
#include "backend_software/vector/fpu.h"

namespace hvsdk::software {
namespace {

// Where in the 8259s an access goes, or -1. As with KVM's, a word has no effect there, and what reaches beyond two ports
// is not theirs.
int PicOffset(uint16_t port, int size) { return (port & 1) + size <= 2 ? interrupt::Pic8259Pair::OffsetOf(port) : -1; }

}  // namespace

void Cpu::Leave() {
  SaveGuestFpuControl(*this);
  // Release: whoever sees it sees what we did inside. Only the way in has to be ordered before what comes after it.
  inside.store(0, std::memory_order_release);
}

void Cpu::Enter() {
  inside.exchange(1, std::memory_order_seq_cst);
  if (attention.load(std::memory_order_seq_cst) & kAttentionRequest) ServeRequests();
  LoadGuestFpuControl(*this);
}

void Cpu::ServeRequests() {
  attention.fetch_and(~kAttentionRequest, std::memory_order_seq_cst);
  const uint64_t number = requested.load(std::memory_order_seq_cst);
  const uint32_t kinds = requests.exchange(0, std::memory_order_seq_cst);
  if (kinds & kRequestFlush) FlushTlb(false);
  if (kinds & kRequestPurge) PurgeWrites(nullptr);
  if (kinds & kRequestDropAll) code->DropAll();
  if (kinds & kRequestDrop) code->ServeDrops();
  // We may be inside an instruction whose block, or what it is linked to, was just forgotten: have it end in the loop.
  attention.fetch_or(kAttentionInterrupt, std::memory_order_relaxed);
  served.store(number, std::memory_order_release);
  // A pause for one who was exclusive before us is over.
  if ((kinds & kRequestPause) && !holds_exclusive) {
    inside.store(0, std::memory_order_seq_cst);
    host.WaitForExclusive();
    inside.exchange(1, std::memory_order_seq_cst);
    if (attention.load(std::memory_order_seq_cst) & kAttentionRequest) ServeRequests();
  }
}

void Cpu::BeginExit() {
  in_exit = true;
  Leave();
}

void Cpu::EndExit() {
  Enter();
  in_exit = false;
}

void Cpu::PortRead(uint16_t port, uint8_t* data, int size) {
  if (dr7 & 0xFF) CheckPortWatchpoints(port, size);
  if (const int offset = PicOffset(port, size); offset >= 0) {
    std::memset(data, 0, size);
    if (size == 1) host.pic().Read(offset, {data, 1});
    return;
  }
  BeginExit();
  exits->OnPortRead(*vp, port, absl::MakeSpan(data, size));
  EndExit();
}

void Cpu::PortWrite(uint16_t port, const uint8_t* data, int size) {
  if (dr7 & 0xFF) CheckPortWatchpoints(port, size);
  if (const int offset = PicOffset(port, size); offset >= 0) {
    if (size == 1) host.pic().Write(offset, {data, 1});
    return;
  }
  BeginExit();
  exits->OnPortWrite(*vp, port, absl::MakeConstSpan(data, size));
  EndExit();
}

void Cpu::PhysicalRead(uint64_t gpa, uint8_t* data, int size) {
  const uint64_t page = gpa & ~(kPageSize - 1);
  const bool local = apic->enabled() && !apic->x2apic() && page == apic->mmio_gpa();
  if (local || page == interrupt::IoApic::kDefaultGpa) {
    const auto offset = static_cast<uint32_t>(gpa & (kPageSize - 1));
    std::memset(data, 0, size);
    if ((offset & 3) + size > 4 && !(size == 8 && (offset & 3) == 0)) return;
    for (int done = 0; done < size; done += 4) {
      const uint32_t value =
          local ? apic->ReadMmio((offset & ~3u) + done) : host.io_apic().ReadMmio((offset & ~3u) + done);
      const uint32_t shifted = value >> (8 * (offset & 3));
      std::memcpy(data + done, &shifted, std::min(size - done, 4));
    }
    return;
  }
  exit_ip = r[kIp] + (op != nullptr ? op->ip : 0);
  BeginExit();
  exits->OnMmioRead(*vp, gpa, absl::MakeSpan(data, size));
  EndExit();
  if (redirected) [[unlikely]]
    std::longjmp(unwind, kUnwindRedirect);
}

void Cpu::PhysicalWrite(uint64_t gpa, const uint8_t* data, int size) {
  const uint64_t page = gpa & ~(kPageSize - 1);
  const bool local = apic->enabled() && !apic->x2apic() && page == apic->mmio_gpa();
  if (local || page == interrupt::IoApic::kDefaultGpa) {
    const auto offset = static_cast<uint32_t>(gpa & (kPageSize - 1));
    if (size != 4 || (offset & 3)) return;
    uint32_t value;
    std::memcpy(&value, data, 4);
    if (local) {
      apic->WriteMmio(offset, value);
      LookAtApic();
    } else {
      host.io_apic().WriteMmio(offset, value);
    }
    return;
  }
  exit_ip = r[kIp] + (op != nullptr ? op->ip : 0);
  BeginExit();
  exits->OnMmioWrite(*vp, gpa, absl::MakeConstSpan(data, size));
  EndExit();
  if (redirected) [[unlikely]]
    std::longjmp(unwind, kUnwindRedirect);
}

void Cpu::Idle() {
  idle = true;
  halted = static_cast<uint8_t>(backend::Activity::kHalted);
  attention.fetch_or(kAttentionHalt, std::memory_order_relaxed);
}

void Cpu::LookAtApic() {
  if (MayInterrupt()) attention.fetch_or(kAttentionInterrupt, std::memory_order_relaxed);
}

}  // namespace hvsdk::software
