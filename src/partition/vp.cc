// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/partition/vp.h"

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "hvsdk/hvdef/msr.h"
#include "hvsdk/partition/partition.h"
#include "partition/mailbox.h"
#include "partition/overlay_pages.h"
#include "partition/state.h"
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
      value = runtime_base_100ns_ + partition_.environment_.vp_runtime->VpRuntime100ns(index());
      if (value < runtime_seen_100ns_) {
        runtime_base_100ns_ += runtime_seen_100ns_ - value;
        value = runtime_seen_100ns_;
      }
      runtime_seen_100ns_ = value;
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

Vp::Counts Vp::counts() const {
  return {.messages = synic_->messages(), .events = synic_->events(), .timer_expirations = stimers_->expirations()};
}

void Vp::Reset() {
  stimers_->Reset();
  synic_->Reset();
  partition_.overlays_->Clear(*assist_page_);
  vp_assist_page_ = 0;
  runtime_base_100ns_ = runtime_seen_100ns_ = 0;
}

std::array<Overlay*, 3> Vp::overlays() const {
  return {&synic_->message_page(), &synic_->flags_page(), assist_page_.get()};
}

std::string Vp::StateName() const { return absl::StrFormat("hypervisor/vp/%d", ToInt(index())); }

absl::Status Vp::Save(state::StateWriter& writer) const {
  HypervisorVpState state;
  state.synic = synic_->Save();
  state.stimers = stimers_->Save();
  state.vp_assist_page = vp_assist_page_;
  state.runtime_base_100ns = runtime_base_100ns_;
  state.runtime_seen_100ns = runtime_seen_100ns_;
  writer.Write(state);
  return absl::OkStatus();
}

absl::Status Vp::Restore(state::StateReader& reader) {
  HypervisorVpState state;
  RETURN_IF_ERROR(reader.Read(state));
  RETURN_IF_ERROR(synic_->Check(state.synic, reader));
  RETURN_IF_ERROR(Stimers::Check(state.stimers, reader));
  if (!assist_page_->IsWhere(state.vp_assist_page)) {
    return reader.Invalid("vp_assist_page", "its overlay page is elsewhere");
  }
  RETURN_IF_ERROR(synic_->Restore(state.synic));
  stimers_->Restore(state.stimers);
  vp_assist_page_ = state.vp_assist_page;
  runtime_base_100ns_ = state.runtime_base_100ns;
  runtime_seen_100ns_ = state.runtime_seen_100ns;
  return absl::OkStatus();
}

}  // namespace hvsdk::partition
