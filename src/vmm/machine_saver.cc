// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/machine_saver.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "base/host_thread.h"
#include "base/status_macros.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/base/lost_memory.h"
#include "hvsdk/machine/dirty_log.h"
#include "hvsdk/machine/saved_machine.h"
#include "hvsdk/vmm/new_state.h"
#include "memory/guest_copy.h"
#include "vmm/state_files.h"

namespace hvsdk::vmm {
namespace {

using machine::Controller;
using machine::DirtyLog;
using machine::SavedMachine;
using std::chrono::steady_clock;

// So few dirty pages are copied in a millisecond or two, which further rounds would not make shorter.
constexpr uint64_t kFewPages = 512;
constexpr uint32_t kMaxRounds = 16;
constexpr uint64_t kMaxHeldPages = (64 << 20) >> kPageShift;
// What is copied between two looks at whether the machine has ended.
constexpr uint64_t kChunkPages = (1 << 20) >> kPageShift;

// Pages that were copied while the guest stood still, on their way to the file.
struct HeldPages {
  struct Run {
    uint64_t first;
    uint64_t count;
  };
  std::vector<Run> runs;
  std::vector<uint8_t> bytes;
};

}  // namespace

class MachineSaver::Core final : private Task {
 public:
  Core(machine::Machine& machine, Configuration configuration, StateDirectory::Check* origin)
      : machine_(machine),
        configuration_(std::move(configuration)),
        origin_(origin),
        log_(machine.board()),
        changed_(log_.pages()) {}

  ~Core() override {
    {
      std::lock_guard lock(moment_mutex_);
      giving_up_.store(true, std::memory_order_relaxed);
    }
    moment_changed_.notify_one();
    if (thread_.is_running()) thread_.Join();
    machine_.board().loop().Drain(*this);
    machine_.board().loop().Drain(progress_);
    if (done_) std::exchange(done_, nullptr)(std::move(result_));
  }

  void Save(const Request& request, Done done) {
    if (done_) return done(absl::FailedPreconditionError("save: another save is under way"));
    if (request.directory.empty()) return done(absl::InvalidArgumentError("save: a directory is needed"));
    if (const absl::Status status = CheckBase(request.base); !status.ok()) return done(status);
    request_ = request;
    done_ = std::move(done);
    result_ = absl::CancelledError("the machine has ended");
    // What is lost while a guest stands still it is told when it goes on, and not by a state that is saved before.
    if (machine_.controller().state() != Controller::State::kPaused) lost_before_ = LostPages();
    meter_.emplace(on_pages_, log_.pages() << kPageShift);
    const machine::Board& board = machine_.board();
    is_live_ = request.live && board.caps().dirty_log && !board.is_deterministic();
    if (is_live_) {
      const absl::Status started = thread_.Start("save", [this] {
        result_ = SaveLive();
        machine_.board().loop().Schedule(*this);
      });
      if (!started.ok()) Finish(started);
      return;
    }
    const auto start = steady_clock::now();
    const bool was_paused = PauseIfAsked();
    machine_.controller().WhilePaused([this, alive = Alive()] { return alive.expired() ? Gone() : SaveStill(); },
                                      [this, start, was_paused, alive = Alive()](const absl::Status& status) {
                                        if (alive.expired()) return;
                                        if (!status.ok()) return Finish(status);
                                        if (!was_paused && request_.live) {
                                          result_->stood_still = steady_clock::now() - start;
                                        }
                                        Finish(result_);
                                      });
  }

 private:
  // What is asked of the controller may have its turn when this is gone. On the loop's thread, as the destructor is.
  std::weak_ptr<char> Alive() const { return alive_; }
  static absl::Status Gone() { return absl::CancelledError("whoever saved the machine has gone"); }

  // Before the moment that is saved; true: the guest stands still after it, too.
  bool PauseIfAsked() {
    if (machine_.controller().state() == Controller::State::kPaused) return true;
    has_paused_ = request_.live && request_.pause;
    if (has_paused_) machine_.controller().Pause([](const absl::Status&) {});
    return has_paused_;
  }

  // The thread has ended.
  void Run() override {
    thread_.Join();
    Finish(std::move(result_));
  }
  void Finish(const absl::StatusOr<Saved>& result) {
    if (result.ok()) {
      done_bytes_.store(log_.pages() << kPageShift, std::memory_order_relaxed);
      TellProgress();
    } else if (has_paused_) {
      machine_.controller().Resume([](const absl::Status&) {});
    }
    has_paused_ = false;
    std::exchange(done_, nullptr)(result);
  }

  // On the loop's thread.
  void TellProgress() {
    if (!request_.on_progress || !done_) return;
    request_.on_progress(done_bytes_.load(std::memory_order_relaxed), log_.pages() << kPageShift);
  }

  absl::Status CheckBase(const std::string& base) const {
    if (base.empty()) return absl::OkStatus();
    const absl::StatusOr<std::string> id = StateId(base);
    if (!id.ok()) return id.status();
    if (*id == base_id_) return absl::OkStatus();
    const std::string last = base_id_.empty() ? "; there is none" : absl::StrCat("; that is ", base_path_);
    return absl::FailedPreconditionError(absl::StrCat(
        "save: --base=", base, ": is not the state that this machine was last saved to with --live", last));
  }

  absl::Span<const uint8_t> Bytes(uint64_t first, uint64_t count) const {
    return absl::Span<const uint8_t>(machine_.board().host_memory().bytes())
        .subspan(first << kPageShift, count << kPageShift);
  }

  // By way of a copy, which nobody changes any more.
  absl::Status WritePages(NewState& state, const PageSet& pages, bool is_first) {
    std::vector<uint8_t> copy(kChunkPages << kPageShift);
    if (is_first) meter_->Tell(0);
    absl::Status status;
    pages.ForEachRun([&](uint64_t first, uint64_t count) {
      for (uint64_t at = first; status.ok() && at < first + count; at += kChunkPages) {
        if (giving_up_.load(std::memory_order_relaxed)) {
          status = absl::CancelledError("the machine has ended");
          break;
        }
        const absl::Span<const uint8_t> bytes = Bytes(at, std::min(kChunkPages, first + count - at));
        hvsdk::internal::GuestCopy(copy.data(), bytes.data(), bytes.size());
        status = state.WritePages(at, absl::MakeConstSpan(copy.data(), bytes.size()));
        if (is_first) meter_->Tell(at << kPageShift);
      }
      return status.ok();
    });
    return status;
  }

  // Adds to what has changed since the base, whether this save comes to an end or not.
  absl::Status TakeDirty(PageSet& dirty) {
    dirty.Clear();
    const absl::Status status = log_.Take(dirty);
    changed_.Add(dirty);
    // Some are lost: there is no difference to the base any more.
    if (!status.ok()) base_id_.clear();
    return status;
  }

  absl::StatusOr<SavedMachine> SaveComponents() {
    ASSIGN_OR_RETURN(SavedMachine saved, SavedMachine::Of(machine_.components()));
    if (!configuration_) return saved;
    const bool goes_on = request_.live && machine_.controller().state() != Controller::State::kPaused;
    ASSIGN_OR_RETURN(saved.configuration, configuration_(goes_on));
    return saved;
  }

  absl::Status Commit(NewState& state, SavedMachine& saved, Saved& result) {
    if (origin_ != nullptr) RETURN_IF_ERROR(origin_->Wait());
    ASSIGN_OR_RETURN(std::string id, state.Commit(saved));
    result.written_bytes = state.written_bytes();
    result.is_difference = state.is_difference();
    if (!log_.is_enabled()) return absl::OkStatus();
    base_id_ = std::move(id);
    base_path_ = request_.directory;
    changed_.Clear();
    return absl::OkStatus();
  }

  // In the moment that is saved. A disk that does not answer lets no machine pause, and somebody else may have resumed it.
  absl::Status CheckPaused() const {
    if (!request_.live || !request_.pause || machine_.controller().state() == Controller::State::kPaused) {
      return absl::OkStatus();
    }
    return absl::FailedPreconditionError("save: --pause: the machine does not stand still");
  }

  // Behind the last copy. A page that was lost under it has come as zeros, and its machine check is in no component's record.
  absl::Status CheckMemory() const {
    if (LostPages() == lost_before_) return absl::OkStatus();
    return absl::DataLossError("save: the host has lost a page of memory, which the guest is told when it goes on");
  }

  // On the loop's thread, while the machine is paused.
  absl::Status SaveStill() {
    RETURN_IF_ERROR(CheckPaused());
    result_ = Saved{};
    PageSet pages(log_.pages());
    if (log_.is_enabled()) RETURN_IF_ERROR(TakeDirty(pages));
    RETURN_IF_ERROR(CheckBase(request_.base));
    ASSIGN_OR_RETURN(NewState state, NewState::Create(request_.directory, pages.size() << kPageShift, request_.base));
    log_.AddPresent(pages);
    RETURN_IF_ERROR(WritePages(state, state.is_difference() ? changed_ : pages, /*is_first=*/true));
    RETURN_IF_ERROR(CheckMemory());
    ASSIGN_OR_RETURN(SavedMachine saved, SaveComponents());
    result_->rounds = 1;
    RETURN_IF_ERROR(Commit(state, saved, *result_));
    // What a state was saved of must not go on writing to its disks.
    if (!request_.live) machine_.Stop();
    return absl::OkStatus();
  }

  // On a thread of its own.
  absl::StatusOr<Saved> SaveLive() {
    Saved result;
    PageSet dirty(log_.pages());
    if (log_.is_enabled()) {
      RETURN_IF_ERROR(TakeDirty(dirty));
    } else {
      RETURN_IF_ERROR(log_.Enable());
    }
    ASSIGN_OR_RETURN(NewState state, NewState::Create(request_.directory, dirty.size() << kPageShift, request_.base));
    if (state.is_difference()) {
      dirty = changed_;
    } else {
      log_.AddPresent(dirty);
    }
    // A guest that writes faster than this copies is not waited for.
    uint64_t last = 0;
    for (int in_vain = 0;;) {
      RETURN_IF_ERROR(WritePages(state, dirty, /*is_first=*/result.rounds == 0));
      ++result.rounds;
      RETURN_IF_ERROR(TakeDirty(dirty));
      const uint64_t count = dirty.Count();
      in_vain += last != 0 && count > last / 4 * 3;
      last = count;
      if (count <= kFewPages || result.rounds == kMaxRounds || in_vain == 2) break;
    }
    HeldPages held;
    held.bytes.resize(std::min(2 * last + kFewPages, kMaxHeldPages) << kPageShift);
    ASSIGN_OR_RETURN(SavedMachine saved, SaveMoment(state, dirty, held, result));
    ++result.rounds;
    const uint8_t* at = held.bytes.data();
    for (const HeldPages::Run& run : held.runs) {
      RETURN_IF_ERROR(state.WritePages(run.first, absl::MakeConstSpan(at, run.count << kPageShift)));
      at += run.count << kPageShift;
    }
    RETURN_IF_ERROR(Commit(state, saved, result));
    return result;
  }

  // Has the guest stand still for what is left: the pages of `dirty`, which the last Take brought and nobody has copied, those
  // written since, and the components.
  absl::StatusOr<SavedMachine> SaveMoment(NewState& state, PageSet& dirty, HeldPages& held, Saved& result) {
    absl::StatusOr<SavedMachine> saved = absl::CancelledError();
    absl::optional<absl::Status> paused;
    const bool was_paused = PauseIfAsked();
    const auto start = steady_clock::now();
    machine_.controller().WhilePaused(
        [&, alive = Alive()]() -> absl::Status {
          if (alive.expired()) return Gone();
          RETURN_IF_ERROR(CheckPaused());
          PageSet since(dirty.size());
          RETURN_IF_ERROR(TakeDirty(since));
          dirty.Add(since);
          RETURN_IF_ERROR(HoldPages(state, dirty, held));
          RETURN_IF_ERROR(CheckMemory());
          saved = SaveComponents();
          return saved.status();
        },
        [&, was_paused, start, alive = Alive()](const absl::Status& status) {
          if (alive.expired()) return;
          if (!was_paused) result.stood_still = steady_clock::now() - start;
          std::lock_guard lock(moment_mutex_);
          paused = status;
          moment_changed_.notify_one();
        });
    // The loop may not have begun to run, and never will.
    std::unique_lock lock(moment_mutex_);
    moment_changed_.wait(lock, [&] { return paused.has_value() || giving_up_.load(std::memory_order_relaxed); });
    if (!paused.has_value()) return absl::CancelledError("the machine has ended");
    RETURN_IF_ERROR(*paused);
    return saved;
  }

  absl::Status HoldPages(NewState& state, const PageSet& pages, HeldPages& held) {
    absl::Status status;
    uint64_t at = 0;
    pages.ForEachRun([&](uint64_t first, uint64_t count) {
      const uint64_t fits = std::min(count, (held.bytes.size() - at) >> kPageShift);
      if (fits != 0) {
        held.runs.push_back({first, fits});
        const absl::Span<const uint8_t> bytes = Bytes(first, fits);
        std::copy(bytes.begin(), bytes.end(), held.bytes.begin() + static_cast<ptrdiff_t>(at));
        at += bytes.size();
      }
      if (fits != count) status = state.WritePages(first + fits, Bytes(first + fits, count - fits));
      return status.ok();
    });
    return status;
  }

  machine::Machine& machine_;
  const Configuration configuration_;
  StateDirectory::Check* const origin_;

  // Of the save that is under way: its thread's, once that runs.
  Request request_;
  Done done_;
  absl::StatusOr<Saved> result_;
  uint64_t lost_before_ = LostPages();  // those that the guest knows of
  bool is_live_ = false;                // on a thread of its own
  bool has_paused_ = false;             // and the machine was not paused before
  HostThread thread_;
  std::atomic<bool> giving_up_{false};
  std::mutex moment_mutex_;
  std::condition_variable moment_changed_;
  const std::shared_ptr<char> alive_ = std::make_shared<char>();
  // Every page counts once, when it is first written or found not to have changed; on whatever thread writes.
  const StateDirectory::OnProgress on_pages_ = [this](uint64_t done_bytes, uint64_t) {
    done_bytes_.store(done_bytes, std::memory_order_relaxed);
    is_live_ ? machine_.board().loop().Schedule(progress_) : TellProgress();
  };
  absl::optional<ProgressMeter> meter_;
  std::atomic<uint64_t> done_bytes_{0};
  struct Progress final : Task {
    explicit Progress(Core& core) : core(core) {}
    void Run() override { core.TellProgress(); }
    Core& core;
  } progress_{*this};

  // Those of one save after another. base_id_ is that of the last state, and changed_ what was written since; empty: there was none.
  DirtyLog log_;
  std::string base_id_, base_path_;
  PageSet changed_;
};

MachineSaver::MachineSaver(machine::Machine& machine, Configuration configuration, StateDirectory::Check* origin)
    : core_(std::make_unique<Core>(machine, std::move(configuration), origin)) {}

MachineSaver::~MachineSaver() = default;

void MachineSaver::Save(const Request& request, Done done) { core_->Save(request, std::move(done)); }

}  // namespace hvsdk::vmm
