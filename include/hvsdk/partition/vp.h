// SPDX-License-Identifier: Apache-2.0
// Vp: a virtual processor as the hypervisor interface sees it: synthetic MSRs, SynIC, timers, hypercalls; over a
// backend::Vp, which runs it.
//
// The thread that runs a VP looks like this; the ExitHandler forwards MSRs and hypercalls to the three functions below.
//
//   partition::Vp::Session session(vp);  // from now on, others' work for this VP is done by this thread
//   while (!stopping) {
//     const absl::StatusOr<backend::StopReason> reason = backend_vp.Run(exit_handler);
//     if (!reason.ok()) return reason.status();
//     if (*reason == backend::StopReason::kTripleFault) break;
//     vp.RunPendingWork();               // why it was kicked, perhaps
//   }
//
// As a component, "hypervisor/vp/N", it has its SynIC with the messages that wait, its timers and the registers of its
// own; its overlay pages are the partition's to save, so it is restored after the partition and after the engine's VP.
//
// Thread class: On... and RunPendingWork are *VP thread only*; Save, Restore and Reset as state::Component has it; the
// rest is thread-safe.

#ifndef HVSDK_PARTITION_VP_H_
#define HVSDK_PARTITION_VP_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "hvsdk/backend/backend.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/hypercall/dispatcher.h"
#include "hvsdk/state/component.h"

namespace hvsdk::partition {

class Mailbox;
class Overlay;
class Partition;
class Stimers;
class Synic;

class Vp final : public state::Component {
 public:
  Vp(Partition& partition, backend::Vp& backend);
  ~Vp() override;
  Vp(const Vp&) = delete;
  Vp& operator=(const Vp&) = delete;

  VpIndex index() const { return backend_.index(); }
  backend::Vp& backend() { return backend_; }

  // A synthetic MSR. kFault: not one of ours, the privilege is missing, or the value is not allowed.
  backend::MsrOutcome OnMsrRead(uint32_t msr, uint64_t& value);
  backend::MsrOutcome OnMsrWrite(uint32_t msr, uint64_t value);

  // The hypercall that the backend VP has just made; `record` gets what it was.
  backend::HypercallOutcome OnHypercall(hypercall::CallRecord* record = nullptr);

  // The time during which a thread runs this VP. Opening one waits for work that another thread is doing for the VP;
  // closing one does the work that is still queued.
  class Session {
   public:
    explicit Session(Vp& vp);
    ~Session();
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

   private:
    Vp& vp_;
  };

  // Does what other threads asked of this VP. Call it whenever Run returned kKicked.
  void RunPendingWork();

  // Runs `work` where this VP's registers may be used, and returns when it is done: on the VP's own thread, which is
  // kicked out of the guest; or, if no thread runs the VP, right here. `caller` is the VP whose thread calls (nullptr:
  // not a VP's thread). Its own work is served meanwhile, so that VPs may call each other at once. `work` must be short
  // and must not call RunOn itself.
  void RunOn(Vp* caller, absl::FunctionRef<void()> work);

  // Since the VP was made, resets notwithstanding. Thread-safe.
  struct Counts {
    uint64_t messages = 0;           // put into its slots
    uint64_t events = 0;             // flags set that were clear
    uint64_t timer_expirations = 0;  // signalled
  };
  Counts counts() const;

  std::string StateName() const override;
  absl::Status Save(state::StateWriter& writer) const override;
  absl::Status Restore(state::StateReader& reader) override;
  // SynIC, timers and assist page as after creation.
  void Reset() override;

 private:
  friend class HypercallHandlers;
  friend class Partition;

  backend::MsrOutcome ReadMsr(uint32_t msr, uint64_t& value);
  backend::MsrOutcome WriteMsr(uint32_t msr, uint64_t value);
  // SIM, SIEF and assist page, in that order.
  std::array<Overlay*, 3> overlays() const;

  Partition& partition_;
  backend::Vp& backend_;
  const std::unique_ptr<Synic> synic_;
  const std::unique_ptr<Stimers> stimers_;
  const std::unique_ptr<Mailbox> mailbox_;
  const std::unique_ptr<Overlay> assist_page_;
  uint64_t vp_assist_page_ = 0;
  // A guest never sees VP_RUNTIME go back: where it was restored and the host counts from zero again, the base makes up
  // for that. VP thread only.
  uint64_t runtime_base_100ns_ = 0;
  uint64_t runtime_seen_100ns_ = 0;
};

}  // namespace hvsdk::partition

#endif  // HVSDK_PARTITION_VP_H_
