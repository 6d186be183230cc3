// SPDX-License-Identifier: Apache-2.0
// Machines that are saved while they run: every state is memory as it was at one moment, whole or as a difference.

#include "hvsdk/vmm/machine_saver.h"

#include <stdlib.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <future>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/hvdef/msr.h"
#include "hvsdk/os/lost_memory.h"
#include "hvsdk/vmm/backends.h"
#include "hvsdk/vmm/state_directory.h"
#include "tests/boot/kernel_images.h"
#include "tests/machine/small_guest.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"

namespace hvsdk::vmm {
namespace {

namespace fs = std::filesystem;
using machine::Machine;
using machine::MachineOptions;
using machine::MachineResult;
using machine::Outcome;
using Saved = MachineSaver::Saved;

constexpr uint64_t kMemoryBytes = 16 << 20;
constexpr uint32_t kFirstGpa = 0x400000;
constexpr uint32_t kCounters = 1024;
constexpr uint32_t kMessagesGpa = 0x902000;

// Counts, and writes the count to one page after another, round and round; beside it a timer of the hypervisor's posts messages.
std::string CountThroughPages() {
  namespace msr = hvdef::msr;
  std::string code = machine::WriteMsr(msr::kGuestOsId, 0x8100'0006'0001'0000);
  code += machine::WriteMsr(msr::kHypercall, 0x900001);
  code += machine::WriteMsr(msr::kReferenceTsc, 0x901001);
  code += machine::WriteMsr(msr::kSimp, kMessagesGpa | 1);
  code += machine::WriteMsr(msr::kSint0 + 3, 0x40 | msr::kSintPolling);
  code += machine::WriteMsr(msr::kScontrol, 1);
  code += machine::WriteMsr(msr::kStimer0Config,
                            msr::kStimerAutoEnable | msr::kStimerPeriodic | 3 << msr::kStimerSintShift);
  code += machine::WriteMsr(msr::kStimer0Count, 5'000);
  code += std::string("\x31\xDB", 2);                       //    xor ebx, ebx
  code += std::string("\x43", 1);                           // 1: inc ebx
  code += std::string("\x89\xD8\x25\xFF\x03\0\0", 7);       //    mov eax, ebx; and eax, 1023
  code += std::string("\xC1\xE0\x0C", 3);                   //    shl eax, 12
  code += std::string("\x89\x98\0\0\x40\0", 6);             //    mov [eax + kFirstGpa], ebx
  code += std::string("\xC7\x05\0\x23\x90\0\0\0\0\0", 10);  //    mov dword ptr [0x902300], 0: takes the message
  code += std::string("\xEB\xE3", 2);                       //    jmp 1b
  return code;
}

// Calls a function on the loop's thread.
class LoopCall final : public Task {
 public:
  LoopCall(os::EventLoop& loop, std::function<void()> call) : call_(std::move(call)) { loop.Schedule(*this); }

 private:
  void Run() override { call_(); }
  std::function<void()> call_;
};

// Of the state that a machine went on from.
class FakeCheck final : public StateDirectory::Check {
 public:
  absl::Status Wait() override { return result; }
  void End() override {}

  absl::Status result;
};

class MachineSaverTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto backend = CreateBackend(GetParam());
    if (!backend.ok()) GTEST_SKIP() << backend.status();
    backend_ = *std::move(backend);
    char pattern[] = "/tmp/hvsdk_saver_XXXXXX";
    root_ = mkdtemp(pattern);
    loop_ = *os::EventLoop::Create();
  }
  void TearDown() override {
    if (!root_.empty()) fs::remove_all(root_);
  }

  void Start(MachineOptions options = {}) {
    ASSERT_NO_FATAL_FAILURE(Make(std::move(options)));
    thread_ = std::thread([this] { EXPECT_EQ(machine_->Run().outcome, Outcome::kStopped); });
  }
  void Make(MachineOptions options = {}) {
    const std::string code = CountThroughPages();
    image_ = boot::MakePvhElf(true);
    std::copy(code.begin(), code.end(), image_.begin() + 0x1010);
    source_ = std::make_unique<boot::MemorySource>(image_);
    options.backend = backend_.get();
    options.kernel = source_.get();
    options.memory_bytes = kMemoryBytes;
    options.cpus = 1;
    boot::LoadInput blame;
    auto machine = Machine::Create(options, *loop_, blame);
    ASSERT_TRUE(machine.ok()) << machine.status();
    machine_ = *std::move(machine);
    saver_ = std::make_unique<MachineSaver>(
        *machine_,
        [this](bool goes_on) -> absl::StatusOr<std::string> {
          goes_on_ = goes_on;
          return configured_.ok() ? absl::StatusOr<std::string>("counts") : configured_;
        },
        &origin_);
  }
  void End() {
    machine_->Stop();
    thread_.join();
    saver_.reset();
    machine_.reset();
  }
  absl::StatusOr<Saved> Save(const MachineSaver::Request& request) {
    std::promise<absl::StatusOr<Saved>> promise;
    LoopCall call(
        *loop_, [&] { saver_->Save(request, [&](const absl::StatusOr<Saved>& saved) { promise.set_value(saved); }); });
    absl::StatusOr<Saved> saved = promise.get_future().get();
    loop_->Drain(call);
    return saved;
  }
  uint32_t Count() {
    uint32_t most = 0;
    for (uint32_t i = 0; i < kCounters; i += 64) most = std::max(most, Counter(i));
    return most;
  }
  void WaitForCount(uint32_t more) {
    const uint32_t until = Count() + more;
    while (Count() < until) std::this_thread::yield();
  }
  uint32_t Counter(uint32_t i) {
    return std::atomic_ref<uint32_t>(*machine_->board().memory().Word<uint32_t>(kFirstGpa + i * kPageSize)).load();
  }

  // Until the differences of a state hold as much as its memory: then a save begins anew.
  static bool BecomesDifferenceTo(const std::string& base) {
    if (base.empty()) return false;
    uint64_t shared_bytes = 0;
    for (const auto& file : fs::directory_iterator(base)) {
      if (absl::StartsWith(file.path().filename().string(), "memory.")) shared_bytes += file.file_size();
    }
    return shared_bytes < kMemoryBytes;
  }

  // A state's memory, which must be that of one moment.
  std::vector<uint8_t> Read(const std::string& path) {
    const absl::StatusOr<StateDirectory> state = StateDirectory::Open(path);
    EXPECT_TRUE(state.ok()) << state.status();
    if (!state.ok()) return {};
    EXPECT_EQ(state->machine().configuration, "counts");
    absl::StatusOr<os::HostMemory> memory = os::HostMemory::Reserve(state->memory_bytes());
    EXPECT_TRUE(memory.ok() && state->MapMemory(*memory).ok());
    std::vector<uint8_t> bytes(memory->bytes().begin(), memory->bytes().end());
    uint32_t counters[kCounters], last = 0;
    for (uint32_t i = 0; i < kCounters; ++i) {
      std::memcpy(&counters[i], &bytes[kFirstGpa + i * kPageSize], sizeof(uint32_t));
      last = std::max(last, counters[i]);
    }
    for (uint32_t i = 0; i < kCounters; ++i) {
      // The last count up to `last` that was this page's.
      const uint32_t behind = (last - i) % kCounters;
      EXPECT_EQ(counters[i], last < behind ? 0 : last - behind) << "page " << i << " of a guest at " << last;
      if (testing::Test::HasFailure()) break;
    }
    return bytes;
  }

  std::unique_ptr<backend::Backend> backend_;
  std::string root_;
  std::unique_ptr<os::EventLoop> loop_;
  std::vector<uint8_t> image_;
  std::unique_ptr<boot::MemorySource> source_;
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<MachineSaver> saver_;
  std::thread thread_;
  // What the saver's configuration was asked last, and what it answers.
  std::atomic<bool> goes_on_{false};
  absl::Status configured_;
  FakeCheck origin_;
};

TEST_P(MachineSaverTest, EachStateIsOfOneMoment) {
  const uint32_t seed = TestSeed();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  Start();
  std::string last;
  uint32_t differences = 0;
  for (uint32_t i = 0; i < ScaledCount(4) + 2; ++i) {
    WaitForCount(random() % 5000);
    const std::string place = random() % 3 == 0 && !last.empty() ? last : root_ + "/" + std::to_string(i);
    const std::string base = i != 1 && random() % 4 == 0 ? "" : last;
    const bool is_difference = BecomesDifferenceTo(base);
    const absl::StatusOr<Saved> saved = Save({.directory = place, .base = base, .live = true});
    ASSERT_TRUE(saved.ok()) << saved.status();
    EXPECT_GT(saved->stood_still.count(), 0);
    EXPECT_GE(saved->rounds, 2u);
    EXPECT_EQ(saved->is_difference, is_difference);
    differences += saved->is_difference;
    Read(place);
    ASSERT_FALSE(HasFailure());
    last = place;
  }
  EXPECT_GT(differences, 0u);
  // And one for the end, which another machine goes on from.
  const bool is_difference = BecomesDifferenceTo(last);
  const absl::StatusOr<Saved> saved = Save({.directory = last, .base = last});
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_EQ(saved->is_difference, is_difference);
  thread_.join();
  saver_.reset();
  const uint32_t count = Count();
  machine_.reset();
  Read(last);
  const absl::StatusOr<StateDirectory> state = StateDirectory::Open(last);
  ASSERT_TRUE(state.ok());
  Start({.saved = &state->machine(), .map_memory = [&](os::HostMemory& memory) { return state->MapMemory(memory); }});
  EXPECT_GE(Count() + 64, count);
  WaitForCount(5000);
  End();
}

// Of a machine that stands still, a whole state and differences to it are the same, and are its memory.
TEST_P(MachineSaverTest, DifferencesOfAPausedMachineAreItsMemory) {
  Start();
  ASSERT_TRUE(Save({.directory = root_ + "/0", .live = true}).ok());
  for (int i = 1; i < 4; ++i) {
    WaitForCount(300);
    const bool by_save = i == 2;
    if (!by_save) {
      std::promise<void> paused;
      machine_->controller().Pause([&](const absl::Status&) { paused.set_value(); });
      paused.get_future().wait();
    }
    const std::string place = root_ + "/" + std::to_string(i), base = root_ + "/" + std::to_string(i - 1);
    absl::StatusOr<Saved> saved = Save({.directory = place, .base = base, .live = true, .pause = by_save});
    EXPECT_FALSE(goes_on_);
    EXPECT_EQ(machine_->controller().state(), machine::Controller::State::kPaused);
    ASSERT_TRUE(saved.ok()) << saved.status();
    EXPECT_TRUE(saved->is_difference);
    EXPECT_EQ(saved->stood_still.count(), 0);
    if (!by_save) {
      EXPECT_LT(saved->written_bytes, kMemoryBytes) << "pages are written twice though nobody changes them";
    }
    const std::vector<uint8_t> bytes = Read(place);
    const absl::Span<const uint8_t> memory = machine_->board().host_memory().bytes();
    for (size_t at = 0; at < memory.size(); at += kPageSize) {
      if (at == kMessagesGpa) continue;  // timers of a paused machine run on
      ASSERT_EQ(std::memcmp(&bytes[at], &memory[at], kPageSize), 0) << "page " << at / kPageSize;
    }
    machine_->controller().Resume();
  }
  End();
}

TEST_P(MachineSaverTest, WhatCannotBeSavedLeavesTheMachineAsItIs) {
  Start();
  EXPECT_FALSE(Save({.directory = root_ + "/none/0", .live = true, .pause = true}).ok());
  WaitForCount(100);
  EXPECT_EQ(Save({.live = true}).status().message(), "save: a directory is needed");
  EXPECT_EQ(Save({.directory = root_ + "/none/0", .live = true}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Save({.directory = root_ + "/0", .base = root_ + "/1", .live = true}).status().code(),
            absl::StatusCode::kNotFound);
  ASSERT_TRUE(Save({.directory = root_ + "/0", .live = true}).ok());
  EXPECT_TRUE(goes_on_);
  ASSERT_TRUE(Save({.directory = root_ + "/1", .live = true}).ok());
  for (const bool live : {false, true}) {
    configured_ = absl::DataLossError("a disk cannot be settled");
    EXPECT_EQ(Save({.directory = root_ + "/2", .live = live}).status(), configured_);
    EXPECT_EQ(goes_on_, live);
    configured_ = absl::OkStatus();
  }
  for (const bool live : {false, true}) {
    const absl::Status wrong = Save({.directory = root_ + "/2", .base = root_ + "/0", .live = live}).status();
    EXPECT_EQ(wrong.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_TRUE(absl::StrContains(wrong.message(), "is not the state that this machine was last saved to")) << wrong;
  }
  // A save that fails half way takes nothing from the next.
  WaitForCount(2000);
  EXPECT_FALSE(Save({.directory = root_ + "/none/0", .base = root_ + "/1", .live = true}).ok());
  EXPECT_FALSE(Save({.directory = root_ + "/none/0", .live = true}).ok());
  ASSERT_TRUE(Save({.directory = root_ + "/2", .base = root_ + "/1", .live = true}).ok());
  Read(root_ + "/2");
  EXPECT_EQ(std::distance(fs::directory_iterator(root_), fs::directory_iterator()), 3) << "something is left";
  End();
}

TEST_P(MachineSaverTest, WhatCameFromADamagedStateIsNotSaved) {
  Start();
  for (const bool live : {true, false}) {
    origin_.result = absl::InvalidArgumentError("memory: its checksum is wrong");
    EXPECT_EQ(Save({.directory = root_ + "/0", .live = live}).status(), origin_.result);
    EXPECT_TRUE(fs::is_empty(root_)) << "something is left";
  }
  origin_.result = absl::OkStatus();
  EXPECT_TRUE(Save({.directory = root_ + "/0", .live = true}).ok());
  End();
}

// As a program does that fails between its first save and Machine::Run.
TEST_P(MachineSaverTest, AMachineThatNeverRunsIsLeftAlone) {
  for (const bool live : {true, false}) {
    ASSERT_NO_FATAL_FAILURE(Make());
    absl::Status ended;
    saver_->Save({.directory = root_ + "/0", .live = live},
                 [&](const absl::StatusOr<Saved>& saved) { ended = saved.status(); });
    saver_.reset();
    EXPECT_EQ(ended.code(), absl::StatusCode::kCancelled) << ended;
    loop_->RunOnce(/*wait=*/false);  // the controller has the request still
    machine_.reset();
    EXPECT_TRUE(fs::is_empty(root_)) << "something is left";
  }
}

TEST_P(MachineSaverTest, APageThatIsLostMeanwhileIsNotSaved) {
  if (GetParam() == "kvm") GTEST_SKIP() << "a KVM does not tell its user of a page that a file lacks";
  ASSERT_TRUE(os::HandleLostMemory().ok());
  Start();
  WaitForCount(2000);
  // This guest takes no machine checks, and would end with one.
  std::promise<absl::Status> paused;
  LoopCall call(*loop_,
                [&] { machine_->controller().Pause([&](const absl::Status& status) { paused.set_value(status); }); });
  ASSERT_TRUE(paused.get_future().get().ok());
  loop_->Drain(call);
  uint8_t* const page = machine_->board().memory().Pointer(kFirstGpa + 5 * kPageSize, kPageSize);
  ASSERT_NE(page, nullptr);
  for (const bool live : {true, false}) {
    ASSERT_TRUE(os::LosePage(page).ok());
    const absl::Status lost = Save({.directory = root_ + "/0", .live = live}).status();
    EXPECT_EQ(lost.code(), absl::StatusCode::kDataLoss) << lost;
    EXPECT_TRUE(fs::is_empty(root_)) << "something is left";
    // Nor by the next one: it has not been told yet.
    EXPECT_EQ(Save({.directory = root_ + "/0", .live = true}).status().code(), absl::StatusCode::kDataLoss);
  }
  End();
}

// The machine ends, or is reset, at any time of a save: what was there is there, or what is new is whole.
TEST_P(MachineSaverTest, TheMachineEndsMeanwhile) {
  const uint32_t seed = TestSeed();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (uint32_t i = 0; i < ScaledCount(3) + 1; ++i) {
    Start();
    ASSERT_TRUE(Save({.directory = root_ + "/0", .live = true}).ok());
    WaitForCount(2000);
    std::promise<absl::StatusOr<Saved>> ended;
    LoopCall call(*loop_, [&] {
      saver_->Save({.directory = root_ + "/0", .base = root_ + "/0", .live = true},
                   [&](const absl::StatusOr<Saved>& saved) { ended.set_value(saved); });
      saver_->Save({.directory = root_ + "/1", .live = true}, [](const absl::StatusOr<Saved>& saved) {
        EXPECT_EQ(saved.status().message(), "save: another save is under way");
      });
    });
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 8000));
    if (random() % 3 == 0) machine_->controller().Reset();
    End();
    const absl::StatusOr<Saved> saved = ended.get_future().get();
    loop_->Drain(call);
    if (!saved.ok()) {
      EXPECT_EQ(saved.status().code(), absl::StatusCode::kCancelled) << saved.status();
    }
    Read(root_ + "/0");
    EXPECT_EQ(std::distance(fs::directory_iterator(root_), fs::directory_iterator()), 1) << "something is left";
  }
}

INSTANTIATE_TEST_SUITE_P(Engines, MachineSaverTest, testing::Values("software", "kvm"),
                         [](const testing::TestParamInfo<std::string>& info) { return info.param; });

}  // namespace
}  // namespace hvsdk::vmm
