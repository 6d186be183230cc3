// SPDX-License-Identifier: Apache-2.0
// The life of a machine: pause, resume, reset in place, from its own thread and from others, on every engine.

#include "hvsdk/machine/controller.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <random>
#include <thread>

#include "gtest/gtest.h"
#include "hvsdk/machine/machine.h"
#include "hvsdk/vmm/backends.h"
#include "hvsdk/vmm/serial_console.h"
#include "tests/boot/kernel_images.h"
#include "tests/machine/small_guest.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"

namespace hvsdk::machine {
namespace {

constexpr uint64_t kCounterGpa = 0x400000;

// Counts in memory for ever.
std::string Count() {
  std::string code("\xB8\0\0\x40\0", 5);  // mov eax, kCounterGpa
  code += std::string("\xFF\0", 2);       // 1: inc dword [eax]
  code += "\xEB\xFC";                     // jmp 1b
  return code;
}

// Asks on whatever thread, and waits for the answer.
class Answer {
 public:
  Controller::Done Take() {
    return [this](const absl::Status& status) {
      std::lock_guard lock(mutex_);
      status_ = status;
      there_ = true;
      changed_.notify_all();
    };
  }
  absl::Status Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return there_; });
    there_ = false;
    return status_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool there_ = false;
  absl::Status status_;
};

class ControllerTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto backend = vmm::CreateBackend(GetParam());
    if (!backend.ok()) GTEST_SKIP() << backend.status();
    backend_ = *std::move(backend);
    loop_ = *os::EventLoop::Create();
    output_ = memfd_create("console", 0);
    console_ = std::make_unique<vmm::SerialConsole>(*loop_, vmm::SerialConsole::Options{.output_fd = output_});
  }
  void TearDown() override {
    machine_.reset();
    console_.reset();
    if (output_ >= 0) close(output_);
  }

  void Make(const std::string& code, MachineOptions options = {}) {
    image_ = boot::MakePvhElf(true);
    std::copy(code.begin(), code.end(), image_.begin() + 0x1010);
    source_ = std::make_unique<boot::MemorySource>(image_);
    options.backend = backend_.get();
    options.kernel = source_.get();
    options.memory_bytes = 16 << 20;
    options.cpus = 2;
    options.serial = console_.get();
    options.on_reset = ResetAction::kRestart;
    boot::LoadInput blame;
    auto machine = Machine::Create(options, *loop_, blame);
    ASSERT_TRUE(machine.ok()) << machine.status();
    machine_ = *std::move(machine);
  }
  std::string Output() {
    std::string text(lseek(output_, 0, SEEK_END), '\0');
    EXPECT_EQ(pread(output_, text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
    return text;
  }
  uint32_t Counter() {
    return std::atomic_ref<uint32_t>(*machine_->board().memory().Word<uint32_t>(kCounterGpa)).load();
  }
  void WaitUntilItCounts() {
    const uint32_t before = Counter();
    while (Counter() == before) std::this_thread::yield();
  }

  std::unique_ptr<backend::Backend> backend_;
  std::unique_ptr<os::EventLoop> loop_;
  std::unique_ptr<vmm::SerialConsole> console_;
  int output_ = -1;
  std::vector<uint8_t> image_;
  std::unique_ptr<boot::MemorySource> source_;
  std::unique_ptr<Machine> machine_;
};

TEST_P(ControllerTest, PausedIsStill) {
  Make(Count());
  std::thread thread([this] { EXPECT_EQ(machine_->Run().outcome, Outcome::kStopped); });
  Answer answer;
  for (int i = 0; i < 20; ++i) {
    WaitUntilItCounts();
    machine_->controller().Pause(answer.Take());
    ASSERT_TRUE(answer.Wait().ok());
    EXPECT_EQ(machine_->controller().state(), Controller::State::kPaused);
    const uint32_t still = Counter();
    machine_->controller().Pause(answer.Take());
    ASSERT_TRUE(answer.Wait().ok());
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    EXPECT_EQ(Counter(), still);
    machine_->controller().Resume(answer.Take());
    ASSERT_TRUE(answer.Wait().ok());
    EXPECT_EQ(machine_->controller().state(), Controller::State::kRunning);
  }
  WaitUntilItCounts();
  machine_->Stop();
  thread.join();
  EXPECT_EQ(machine_->controller().state(), Controller::State::kEnded);
  machine_->controller().Resume(answer.Take());
  EXPECT_EQ(answer.Wait().code(), absl::StatusCode::kCancelled);
}

TEST_P(ControllerTest, BeginsPaused) {
  Make(Count());
  machine_->controller().Pause();
  std::thread thread([this] { EXPECT_EQ(machine_->Run().outcome, Outcome::kStopped); });
  Answer answer;
  machine_->controller().Pause(answer.Take());
  ASSERT_TRUE(answer.Wait().ok());
  const uint32_t still = Counter();
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(Counter(), still);
  machine_->Stop();
  thread.join();
}

// A machine that an action ends does nothing after it: a save has what the guest has left in its rings, and whoever goes on from there
// does it.
TEST_P(ControllerTest, NothingGoesOnBehindAnActionThatEndsTheMachine) {
  struct Counting final : Part {
    absl::Status Attach(Board&) override { return absl::OkStatus(); }
    void Pause(absl::AnyInvocable<void()> done) override {
      ++pauses;
      done();
    }
    void Resume() override { ++resumes; }
    void Detach() override {}
    int pauses = 0, resumes = 0;
  } part;
  MachineOptions options;
  options.parts = {&part};
  Make(Count(), options);
  std::thread thread([this] { EXPECT_EQ(machine_->Run().outcome, Outcome::kStopped); });
  WaitUntilItCounts();
  Answer answer;
  machine_->controller().WhilePaused([] { return absl::OkStatus(); }, answer.Take());
  ASSERT_TRUE(answer.Wait().ok());
  uint32_t still = 0;
  machine_->controller().WhilePaused(
      [&] {
        EXPECT_EQ(part.pauses, 2);
        EXPECT_EQ(part.resumes, 1);
        still = Counter();
        machine_->Stop();
        return absl::OkStatus();
      },
      answer.Take());
  ASSERT_TRUE(answer.Wait().ok());
  thread.join();
  EXPECT_EQ(part.resumes, 1);
  EXPECT_EQ(Counter(), still);
  machine_.reset();
}

// Each way in which a guest resets itself begins it anew, with memory, processors and devices as at first.
TEST_P(ControllerTest, AGuestResetsItselfInPlace) {
  for (const std::string& way : {Out(0x602, 1), Out(0x64, 0xFE), Out(0x92, 1), WriteMsr(0x40000003, 1),
                                 std::string("\x0F\x0B") /* ud2 without an IDT */}) {
    ASSERT_EQ(ftruncate(output_, 0), 0);
    ASSERT_EQ(lseek(output_, 0, SEEK_SET), 0);
    // Memory that is not zero, or a scratch register of the serial port that is kept, ends the machine.
    std::string code = std::string("\xBA\xFF\x03\0\0\xEC", 6);  // mov edx, 0x3FF; in al, dx
    code += std::string("\x0A\x05\0\0\x40\0", 6);               // or al, [kCounterGpa]
    const std::string off = Print("?") + kPowerOff + kHalt;
    code += "\x74";  // jz
    code += static_cast<char>(off.size());
    code += off + Print("x");
    code += std::string("\xC6\x05\0\0\x40\0\x01", 7);        // mov byte [kCounterGpa], 1
    code += std::string("\xBA\xFF\x03\0\0\xB0\x5A\xEE", 8);  // mov edx, 0x3FF; mov al, 0x5A; out dx, al
    Make(code + way + kHalt);
    std::thread thread([this] { EXPECT_EQ(machine_->Run().outcome, Outcome::kStopped); });
    while (machine_->resets() < 20 && machine_->controller().state() != Controller::State::kEnded) {
      std::this_thread::yield();
    }
    machine_->Stop();
    thread.join();
    machine_.reset();
    EXPECT_EQ(Output().find_first_not_of('x'), std::string::npos) << Output();
    EXPECT_GE(Output().size(), 20u);
  }
}

// Four threads that ask for anything at any time.
TEST_P(ControllerTest, AnybodyMayAskForAnything) {
  const uint32_t seed = TestSeed();
  std::atomic<uint32_t> answers{0};
  for (uint32_t round = 0; round < ScaledCount(40); ++round) {
    Make(Count());
    std::thread runner([this] { machine_->Run(); });
    std::vector<std::thread> askers;
    std::atomic<uint32_t> asked{0};
    for (uint32_t t = 0; t < 4; ++t) {
      askers.emplace_back([&, t] {
        std::mt19937 random(seed + round * 4 + t);
        const uint32_t steps = 5 + random() % 20;
        for (uint32_t i = 0; i < steps; ++i) {
          auto done = [&answers](const absl::Status&) { ++answers; };
          switch (random() % 4) {
            case 0:
              machine_->controller().Pause(done);
              break;
            case 1:
              machine_->controller().Resume(done);
              break;
            case 2:
              machine_->controller().Reset(done);
              break;
            default:
              machine_->controller().WhilePaused([] { return absl::OkStatus(); }, done);
          }
          ++asked;
          if (random() % 3 == 0) std::this_thread::yield();
        }
        if (t == 0) machine_->Stop();
      });
    }
    for (std::thread& asker : askers) asker.join();
    runner.join();
    machine_.reset();
    ASSERT_EQ(answers.exchange(0), asked.load());
  }
}

std::vector<std::string> Engines() {
  std::vector<std::string> names = vmm::BackendNames();
  names.erase(names.begin());  // auto
  return names;
}
INSTANTIATE_TEST_SUITE_P(Engines, ControllerTest, ::testing::ValuesIn(Engines()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace hvsdk::machine
