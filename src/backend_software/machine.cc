// SPDX-License-Identifier: Apache-2.0
#include "backend_software/machine.h"

#include <sched.h>
#include <sys/random.h>
#include <time.h>

#include <bit>
#include <cstring>
#include <thread>
#include <utility>

#include "backend_software/code/code_cache.h"
#include "base/check.h"

namespace hvsdk::software {
namespace {

uint64_t HostNow() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace

class Machine::ApicHost final : public interrupt::LocalApicHost {
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
  UnwatchLostMemory(*this);
  guest_memory_.SetHostWriteObserver(nullptr);
  for (auto& apic : apics_) apic.reset();
}

Cpu& Machine::Attach(std::unique_ptr<Cpu> added, std::unique_ptr<CodeCache> code) {
  Cpu& cpu = *added;
  cpu.code = code.get();
  code_caches_[cpu.index] = std::move(code);
  cpus_[cpu.index] = std::move(added);
  apic_hosts_[cpu.index] = std::make_unique<ApicHost>(*this, cpu);
  apics_[cpu.index] = std::make_unique<interrupt::LocalApic>(
      interrupt::LocalApic::Config{.id = cpu.apic_id,
                                   .bootstrap = cpu.index == 0,
                                   .tsc_frequency_hz = tsc_hz_,
                                   .timer_frequency_hz = kApicHz,
                                   .x2apic = cpu.features.Has(Feature::kX2apic),
                                   .tsc_deadline = cpu.features.Has(Feature::kTscDeadline),
                                   .physical_address_bits = cpu.features.physical_address_bits(),
                                   .virtual_wire = cpu.index == 0},
      bus_, *apic_hosts_[cpu.index], clock_,
      instruction_time_ != nullptr ? instruction_time_->timers() : *host_timers_);
  cpu.apic = apics_[cpu.index].get();
  attached_.fetch_or(cpu.vp_bit(), std::memory_order_acq_rel);
  crowded_ = std::popcount(all_vps()) > static_cast<int>(std::thread::hardware_concurrency());
  if (counting()) cpu.attention.fetch_or(kAttentionCount, std::memory_order_relaxed);
  return cpu;
}

void Machine::Detach(Cpu& cpu) { attached_.fetch_and(~cpu.vp_bit(), std::memory_order_acq_rel); }

uint64_t Machine::Now() const {
  if (instruction_time_ == nullptr) return HostNow() - started_ns_;
  return in_turn_ != nullptr ? NowFor(*in_turn_) : instruction_time_->now_ns();
}

uint64_t Machine::NowFor(const Cpu& c) const {
  if (instruction_time_ == nullptr) return HostNow() - started_ns_;
  return instruction_time_->now_ns() + (c.instructions - c.slice_start) +
         (c.op != nullptr ? c.op->count : c.before_exit);
}

void Machine::SetTsc(uint64_t tsc, uint64_t hz) {
  tsc_hz_ = hz;
  tsc_base_ = 0;
  tsc_base_ = tsc - Tsc();
  for (auto& apic : apics_) {
    if (apic == nullptr) continue;
    apic->SetTscFrequency(hz);
    apic->OnTscChanged();
  }
}

// Which VP this thread is in. The model keeps the first use, in a signal handler, from allocating.
__attribute__((tls_model("initial-exec"))) static thread_local Cpu* running_cpu = nullptr;

void Machine::SetRunning(Cpu* cpu) { running_cpu = cpu; }

// In a signal handler.
void Machine::OnLostPage(const uint8_t* page) {
  const GuestMemory::Range* found = nullptr;
  for (const GuestMemory::Range& range : guest_memory_.ranges()) {
    if (page >= range.host && page < range.host + range.size_bytes) found = &range;
  }
  if (found == nullptr) return;
  Cpu* cpu = running_cpu != nullptr && &running_cpu->host == this ? running_cpu : in_turn_;
  const backend::LossBy by = cpu != nullptr ? backend::LossBy::kProcessor : backend::LossBy::kHost;
  if (cpu == nullptr) cpu = cpus_[0].get();
  if (cpu == nullptr) return;
  cpu->losses.Post(found->gpa + static_cast<uint64_t>(page - found->host), by);
  apic_hosts_[cpu->index]->OnApicWork();
}

void Machine::TellOthers(const Cpu& self) {
  for (uint64_t vps = all_vps() & ~self.vp_bit(); vps != 0; vps &= vps - 1) {
    cpus_[std::countr_zero(vps)]->losses.Post(0, backend::LossBy::kOther);
    apic_hosts_[std::countr_zero(vps)]->OnApicWork();
  }
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
  if (irq != interrupt::Pic8259Pair::kCascade) io_apic_.SetLine(irq == 0 ? 2 : irq, level);
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

}  // namespace hvsdk::software
