// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/partition/vp.h"

#include <cstring>

#include "hvsdk/hvdef/msr.h"
#include "hvsdk/partition/partition.h"
#include "partition/mailbox.h"
#include "partition/overlay_pages.h"
#include "partition/stimers.h"
#include "partition/synic.h"
#include "partition/synthetic_registers.h"

namespace hvsdk::partition {

namespace msr = hvdef::msr;
using backend::HypercallOutcome;
using backend::MsrOutcome;

Vp::Vp(Partition& partition, backend::Vp& backend)
    : partition_(partition),
      backend_(backend),
      synic_(std::make_unique<Synic>(partition.environment_.backend, backend, *partition.overlays_,
                                     partition.environment_.clock, partition.environment_.caps.auto_eoi)),
      stimers_(std::make_unique<Stimers>(partition.environment_.backend, *synic_, partition.environment_.clock,
                                         partition.environment_.timers, backend.index())),
      mailbox_(std::make_unique<Mailbox>()),
      assist_page_(std::make_unique<Overlay>()) {}

Vp::~Vp() = default;

MsrOutcome Vp::OnMsrRead(uint32_t msr, uint64_t& value) { return ReadMsr(msr, value); }

MsrOutcome Vp::OnMsrWrite(uint32_t msr, uint64_t value) { return WriteMsr(msr, value); }

MsrOutcome Vp::ReadMsr(uint32_t msr, uint64_t& value) {
  if ((PrivilegeOf(msr) & ~partition_.privileges_) != 0) return MsrOutcome::kFault;
  value = 0;
  switch (msr) {
    case msr::kVpIndex:
      value = ToInt(index());
      return MsrOutcome::kDone;
    case msr::kReset:
      return MsrOutcome::kDone;
    case msr::kVpRuntime:
      value = partition_.environment_.vp_runtime->VpRuntime100ns(index());
      return MsrOutcome::kDone;
    case msr::kVpAssistPage:
      value = vp_assist_page_;
      return MsrOutcome::kDone;
    case msr::kGuestIdle:
      return MsrOutcome::kHalt;
    default:
      break;
  }
  if (msr >= msr::kScontrol && msr <= msr::kSint15) return synic_->ReadMsr(msr, value);
  if (msr >= msr::kStimer0Config && msr <= msr::kStimer3Count) return stimers_->ReadMsr(msr, value);
  return partition_.ReadMsr(msr, value);
}

MsrOutcome Vp::WriteMsr(uint32_t msr, uint64_t value) {
  if ((PrivilegeOf(msr) & ~partition_.privileges_) != 0) return MsrOutcome::kFault;
  if (msr >= msr::kScontrol && msr <= msr::kSint15) {
    uint16_t room = 0;
    const MsrOutcome outcome = synic_->WriteMsr(msr, value, room);
    for (uint8_t sint = 0; room != 0; ++sint, room >>= 1) {
      if ((room & 1) != 0 && partition_.slot_observer_ != nullptr) {
        partition_.slot_observer_->OnMessageSlotFree(index(), Sint{sint});
      }
    }
    return outcome;
  }
  if (msr >= msr::kStimer0Config && msr <= msr::kStimer3Count) return stimers_->WriteMsr(msr, value);
  if (msr == msr::kVpAssistPage) {
    vp_assist_page_ = value;
    if ((value & msr::kPageEnable) != 0) {
      partition_.overlays_->Place(*assist_page_, value & msr::kPageAddressMask);
    } else {
      partition_.overlays_->Remove(*assist_page_);
    }
    return MsrOutcome::kDone;
  }
  return partition_.WriteMsr(*this, msr, value);
}

HypercallOutcome Vp::OnHypercall(hypercall::CallRecord* record) {
  // Acquire pairs with the release in WriteHypercall. Without the page there is no way to call but to copy its code.
  if ((partition_.hypercall_.load(std::memory_order_acquire) & msr::kPageEnable) == 0) {
    return HypercallOutcome::kUndefinedOpcode;
  }
  hypercall::Caller caller{backend_, partition_.privileges_};
  return partition_.dispatcher_.Dispatch(caller, record);
}

Vp::Session::Session(Vp& vp) : vp_(vp) { vp_.mailbox_->Open(); }
Vp::Session::~Session() { vp_.mailbox_->Close(); }

void Vp::RunPendingWork() { mailbox_->Serve(); }

void Vp::RunOn(Vp* caller, absl::FunctionRef<void()> work) {
  if (caller == this) return work();
  const auto kick = [this] { backend_.Kick(); };
  if (caller != nullptr) return mailbox_->Ask(*caller->mailbox_, work, kick);
  Mailbox own;
  mailbox_->Ask(own, work, kick);
}

void Vp::Reset() {
  stimers_->Reset();
  synic_->Reset();
  partition_.overlays_->Remove(*assist_page_);
  if (assist_page_->bytes() != nullptr) std::memset(assist_page_->bytes(), 0, kPageSize);
  vp_assist_page_ = 0;
}

}  // namespace hvsdk::partition
