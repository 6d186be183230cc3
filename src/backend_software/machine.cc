// SPDX-License-Identifier: Apache-2.0
#include "backend_software/machine.h"

#include <sched.h>
#include <sys/random.h>
#include <time.h>

#include <bit>
#include <cstring>
#include <thread>
#include <utility>

#include "backend_software/code_cache.h"
#include "backend_software/fpu.h"
#include "backend_software/run.h"
#include "base/check.h"

namespace hvsdk::software {
namespace {

uint64_t HostNow() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

// Where in the 8259s an access goes, or -1. As with KVM's, a word has no effect there, and what reaches beyond two ports
// is not theirs.
int PicOffset(uint16_t port, int size) { return (port & 1) + size <= 2 ? chipset::Pic8259Pair::OffsetOf(port) : -1; }

}  // namespace

class Machine::ApicHost final : public chipset::LocalApicHost {
 public:
  ApicHost(Machine& machine, Cpu& cpu) : machine_(machine), cpu_(cpu) {}
  void OnApicWork() override {
    // Release pairs with the acquire in Attend: what the sender wrote is seen by the handler.
    cpu_.attention.fetch_or(kAttentionInterrupt, std::memory_order_release);
    cpu_.attention.WakeOne();
  }
  uint64_t ReadTsc() override { return machine_.Tsc(cpu_) + cpu_.tsc_offset; }

 private:
  Machine& machine_;
  Cpu& cpu_;
};

Machine::Machine(GuestMemory& guest_memory, const backend::SoftwareOptions& options)
    : guest_memory_(guest_memory),
      instruction_time_(options.instruction_time),
      code_cache_bytes_(options.code_cache_bytes),
      started_ns_(HostNow()) {
  if (instruction_time_ == nullptr) host_timers_ = std::make_unique<HostTimers>(clock_);
  guest_memory_.SetHostWriteObserver(this);
}

Machine::~Machine() {
  guest_memory_.SetHostWriteObserver(nullptr);
  for (auto& apic : apics_) apic.reset();
}

Cpu& Machine::Attach(std::unique_ptr<Cpu> added) {
  Cpu& cpu = *added;
  cpus_[cpu.index] = std::move(added);
  apic_hosts_[cpu.index] = std::make_unique<ApicHost>(*this, cpu);
  apics_[cpu.index] = std::make_unique<chipset::LocalApic>(
      chipset::LocalApic::Config{.id = cpu.apic_id,
                                 .bootstrap = cpu.index == 0,
                                 .tsc_frequency_hz = kTscHz,
                                 .timer_frequency_hz = kApicHz,
                                 .x2apic = cpu.features.Has(Feature::kX2apic),
                                 .tsc_deadline = cpu.features.Has(Feature::kTscDeadline),
                                 .physical_address_bits = cpu.features.physical_address_bits(),
                                 .virtual_wire = cpu.index == 0},
      bus_, *apic_hosts_[cpu.index], clock_,
      instruction_time_ != nullptr ? instruction_time_->timers() : *host_timers_);
  attached_.fetch_or(cpu.vp_bit(), std::memory_order_acq_rel);
  crowded_ = std::popcount(all_vps()) > static_cast<int>(std::thread::hardware_concurrency());
  if (counting()) cpu.attention.fetch_or(kAttentionCount, std::memory_order_relaxed);
  return cpu;
}

void Machine::Detach(Cpu& cpu) { attached_.fetch_and(~cpu.vp_bit(), std::memory_order_acq_rel); }

uint64_t Machine::Now() const {
  if (instruction_time_ == nullptr) return HostNow() - started_ns_;
  return in_turn_ != nullptr ? Tsc(*in_turn_) : instruction_time_->now_ns();
}

uint64_t Machine::Tsc(const Cpu& c) const {
  if (instruction_time_ == nullptr) return HostNow() - started_ns_;
  return instruction_time_->now_ns() + (c.instructions - c.slice_start) +
         (c.op != nullptr ? c.op->count : c.before_exit);
}

uint64_t Machine::Random() {
  if (instruction_time_ == nullptr) {
    uint64_t value;
    if (getrandom(&value, sizeof(value), 0) == sizeof(value)) return value;
  }
  // The same numbers in every run (the splitmix64 generator).
  uint64_t z = random_state_.fetch_add(0x9E3779B97F4A7C15, std::memory_order_relaxed);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

void Machine::SetIrqLine(uint32_t irq, bool level) {
  pic_.SetLine(irq, level);
  // A PC's timer, IRQ 0, is at input 2 of its IOAPIC, since that of the 8259s is the cascade, and line 2 leads nowhere.
  if (irq != chipset::Pic8259Pair::kCascade) io_apic_.SetLine(irq == 0 ? 2 : irq, level);
}

// Who takes it may change at any moment, so all look.
void Machine::OnPicInterrupt() {
  for (uint64_t vps = all_vps(); vps != 0; vps &= vps - 1) apic_hosts_[std::countr_zero(vps)]->OnApicWork();
}

void Machine::DropCode(Cpu* self, uint64_t gpa, PageState& state) {
  uint64_t vps = state.code_vps.load(std::memory_order_seq_cst);
  if (self != nullptr && (vps & self->vp_bit())) self->code->DropPage(gpa);
  if (self != nullptr) vps &= ~self->vp_bit();
  for (; vps != 0; vps &= vps - 1) {
    Cpu& cpu = *cpus_[std::countr_zero(vps)];
    cpu.code->PostDrop(gpa & ~(kPageSize - 1));
    Post(cpu, kRequestDrop);
  }
}

void Machine::OnHostWrite(uint64_t gpa, uint64_t size_bytes) {
  for (uint64_t page = gpa & ~(kPageSize - 1); page < gpa + size_bytes; page += kPageSize) {
    if (const PhysicalPage found = memory_.Find(page); found.state != nullptr) DropCode(nullptr, page, *found.state);
  }
}

void Machine::Post(Cpu& cpu, uint32_t kinds) {
  // The server takes `requested` first and `requests` after it, so a number it has seen comes with its kinds.
  cpu.requests.fetch_or(kinds, std::memory_order_seq_cst);
  cpu.requested.fetch_add(1, std::memory_order_seq_cst);
  cpu.attention.fetch_or(kAttentionRequest, std::memory_order_seq_cst);
}

void Machine::RequestAndWait(Cpu* self, uint64_t vps, uint32_t kinds) {
  vps &= all_vps();
  if (vps == 0) return;
  if (self != nullptr) self->Leave();
  for (uint64_t left = vps; left != 0; left &= left - 1) Post(*cpus_[std::countr_zero(left)], kinds);
  for (uint64_t left = vps; left != 0; left &= left - 1) {
    Cpu& cpu = *cpus_[std::countr_zero(left)];
    const uint64_t wanted = cpu.requested.load(std::memory_order_seq_cst);
    // Pairs with the exchange in Enter: a VP that goes in after this look sees the request.
    for (int spins = 0;
         cpu.inside.load(std::memory_order_seq_cst) != 0 && cpu.served.load(std::memory_order_acquire) < wanted;) {
      if (++spins > 64) sched_yield();
    }
  }
  if (self != nullptr) self->Enter();
}

void Machine::BeginExclusive(Cpu& self) {
  self.Leave();
  exclusive_mutex_.lock();
  const uint64_t others = all_vps() & ~self.vp_bit();
  for (uint64_t left = others; left != 0; left &= left - 1) Post(*cpus_[std::countr_zero(left)], kRequestPause);
  for (uint64_t left = others; left != 0; left &= left - 1) {
    while (cpus_[std::countr_zero(left)]->inside.load(std::memory_order_seq_cst) != 0) sched_yield();
  }
  self.holds_exclusive = true;
  // Whoever asked something of us meanwhile took us for outside.
  self.Enter();
}

void Machine::EndExclusive(Cpu& self) {
  self.holds_exclusive = false;
  exclusive_mutex_.unlock();
}

// ---- the VP's side ----

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
    machine.WaitForExclusive();
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
    if (size == 1) machine.pic().Read(offset, {data, 1});
    return;
  }
  BeginExit();
  exits->OnPortRead(*vp, port, absl::MakeSpan(data, size));
  EndExit();
}

void Cpu::PortWrite(uint16_t port, const uint8_t* data, int size) {
  if (dr7 & 0xFF) CheckPortWatchpoints(port, size);
  if (const int offset = PicOffset(port, size); offset >= 0) {
    if (size == 1) machine.pic().Write(offset, {data, 1});
    return;
  }
  BeginExit();
  exits->OnPortWrite(*vp, port, absl::MakeConstSpan(data, size));
  EndExit();
}

void Cpu::PhysicalRead(uint64_t gpa, uint8_t* data, int size) {
  chipset::LocalApic& apic = machine.apic(index);
  const uint64_t page = gpa & ~(kPageSize - 1);
  const bool local = apic.enabled() && !apic.x2apic() && page == apic.mmio_gpa();
  if (local || page == chipset::IoApic::kDefaultGpa) {
    const auto offset = static_cast<uint32_t>(gpa & (kPageSize - 1));
    std::memset(data, 0, size);
    if ((offset & 3) + size > 4 && !(size == 8 && (offset & 3) == 0)) return;
    for (int done = 0; done < size; done += 4) {
      const uint32_t value =
          local ? apic.ReadMmio((offset & ~3u) + done) : machine.io_apic().ReadMmio((offset & ~3u) + done);
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
  chipset::LocalApic& apic = machine.apic(index);
  const uint64_t page = gpa & ~(kPageSize - 1);
  const bool local = apic.enabled() && !apic.x2apic() && page == apic.mmio_gpa();
  if (local || page == chipset::IoApic::kDefaultGpa) {
    const auto offset = static_cast<uint32_t>(gpa & (kPageSize - 1));
    if (size != 4 || (offset & 3)) return;
    uint32_t value;
    std::memcpy(&value, data, 4);
    if (local) {
      apic.WriteMmio(offset, value);
      LookAtApic();
    } else {
      machine.io_apic().WriteMmio(offset, value);
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
  if (machine.MayInterrupt(*this)) attention.fetch_or(kAttentionInterrupt, std::memory_order_relaxed);
}

}  // namespace hvsdk::software
