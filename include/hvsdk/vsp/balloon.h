// SPDX-License-Identifier: Apache-2.0
// Balloon: dynamic memory, by which a guest gives pages that it can do without back to the host, and gets them again.
//
// What the guest is to have is a target. Above it the guest is asked for pages, which leave the process (GuestMemory::Discard); below it
// some of those go back, and cost the host something again once the guest uses them. Nobody keeps a guest from using a page that it has
// given up: it finds zeros, and the host has the page again. A limit that holds against such a guest is the host's to set.
//
// A target above what the machine began with gives the guest memory that it has not had yet (BalloonGrowth): once all that it gave up is
// back it is told of some more, which is then its own as any other, and which it gives up as any other. That is the guest's until the
// machine is reset, though its driver go.
//
// Limits: at most 256 MiB are asked for at once, and 128 MiB given back or added. A page that the host relies
// on (PinnedPages) keeps its bytes, though the guest gave it up. What a guest says it gives up and is not memory, or was
// given up before, breaks the protocol: nothing more is read until it closes the channel.
//
// Thread class: the executor. Source: hvdef/dynamic_memory.h.
//
//   const auto balloon = vsp::Balloon::Create(server, memory, {.executor = loop, .timers = timers, .clock = clock});
//   if (!balloon.ok()) return balloon.status();
//   (*balloon)->SetTarget({.pages = (256 << 20) >> kPageShift}, [](const absl::Status& status) { Tell(status); });

#ifndef HVSDK_VSP_BALLOON_H_
#define HVSDK_VSP_BALLOON_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hvsdk/hvdef/dynamic_memory.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/vmbus/server.h"
#include "hvsdk/vsp/integration.h"

namespace hvsdk::vsp {

// Room for memory beyond what the machine began with, above all of that.
struct BalloonGrowth {
  uint64_t first_page = 0, pages = 0;  // none: there is no such room
  // Makes the first `pages` of it the guest's memory, those that are already included, and does not fail for them; on the executor.
  std::function<absl::Status(uint64_t pages)> grow;
};

class MemoryBudget;

struct BalloonOptions {
  uint64_t min_pages = 0;  // what a guest is left with
  // Of the memory's ranges one that is a device's, such as a frame buffer, and not the guest's to give up; empty: there is none.
  uint64_t device_gpa = 0, device_bytes = 0;
  BalloonGrowth growth;
  MemoryBudget* budget = nullptr;  // null: the guest may have whatever its target says; else it outlives the balloon
};

struct BalloonTarget {
  uint64_t pages = 0;  // that the guest is to have; BalloonStatus::max at most
  // Of each request to the guest.
  std::chrono::milliseconds answer_within{10'000};
  // Of all of them; 0: a guest that does a little of it again and again has all the time it wants.
  std::chrono::milliseconds within{0};
};

// In pages.
struct BalloonStatus {
  hvdef::dynamic_memory::Version version{};  // kNone: no driver takes part
  uint64_t memory = 0;                       // the machine's, and what was added to it
  uint64_t max = 0;                          // what that may grow to
  uint64_t assigned = 0;                     // of it, what the guest has not given up
  uint64_t promised = 0;                     // that, and what it has been told of and has not said yet that it uses
  uint64_t target = 0;
  // The guest's last report, which Linux sends every second from 45 s on; until then false.
  bool has_report = false;
  uint64_t available = 0;  // that it could use without swapping
  uint64_t demand = 0;     // what its programs and itself have been promised, without what it gave up

  // How much of what it has the guest needs, in percent; above 100 it needs more.
  uint32_t pressure() const { return assigned == 0 ? 0 : static_cast<uint32_t>(demand * 100 / assigned); }
};

// Who has the last word on what a guest gets beyond what it has, and hears of what it has: a host of many machines (machine/host.h). Called
// on the balloon's executor; must not call the balloon.
class MemoryBudget {
 public:
  virtual ~MemoryBudget() = default;
  // The guest is to get so many pages more: answers how many of them it may, which are its from now on.
  virtual uint64_t Take(uint64_t pages) = 0;
  // What the guest has, in `promised`, whatever Take said before. A guest whose driver goes, or that is reset, has back what it had given up
  // without asking.
  virtual void OnChange(const BalloonStatus& status) = 0;
  // It has reported what it needs.
  virtual void OnReport(const BalloonStatus& status) = 0;
};

class Balloon : public IntegrationComponent {
 public:
  // As vmbus::Server::OfferChannel. The memory outlives it.
  static absl::StatusOr<std::unique_ptr<Balloon>> Create(vmbus::Server& server, GuestMemory& memory,
                                                         const IntegrationResources& resources,
                                                         BalloonOptions options = {});
  // Takes it off the bus; a target that was not reached is not reached any more. On the executor, or on any thread once that has
  // stopped for good.
  ~Balloon() override;

  // `done` is called once, here or later on the executor. Ok: the guest has so much. FailedPrecondition: it has no driver that takes part, or
  // gives up, or takes, no more than it did, and that is what it goes on with. DeadlineExceeded: it did not answer, or was too slow; what it
  // may do yet is taken. InvalidArgument: less than min_pages, or more than the machine may have. Aborted: another target was set.
  // Cancelled: the machine was reset or goes. ResourceExhausted, or others: the host has no more memory for it (MemoryBudget,
  // BalloonGrowth::grow).
  using Done = absl::AnyInvocable<void(const absl::Status&)>;
  void SetTarget(const BalloonTarget& target, Done done);

  BalloonStatus status() const;

  // While the guest does not run it is asked nothing; its time to answer waits, too.
  void Pause() override;
  void Resume() override;

  // state::Component, while paused; restored before vmbus::Server. The target is saved, not who waits for it.
  std::string StateName() const override { return "integration/balloon"; }
  absl::Status Save(state::StateWriter& writer) const override;
  absl::Status Restore(state::StateReader& reader) override;
  void Reset() override;

 private:
  class Core;
  explicit Balloon(std::unique_ptr<Core> core);
  const std::unique_ptr<Core> core_;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_VSP_BALLOON_H_
