// SPDX-License-Identifier: Apache-2.0
// Machines with guests of a few instructions, on every engine that this host has.

#include "hvsdk/machine/machine.h"

#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/chipset/power.h"
#include "hvsdk/image/memory_disk.h"
#include "hvsdk/vmm/backends.h"
#include "hvsdk/vmm/serial_console.h"
#include "hvsdk/vsp/storage.h"
#include "tests/boot/kernel_images.h"
#include "tests/machine/small_guest.h"

namespace hvsdk::machine {
namespace {

// Five parameters from `first` on, and the word.
std::string Crash(uint64_t first) {
  std::string code = WriteMsr(0x40000000, 0x8100'0006'0001'0000);  // the guest's identity
  for (uint32_t i = 0; i < 5; ++i) code += WriteMsr(0x40000100 + i, first + i);
  return code + WriteMsr(0x40000105, uint64_t{1} << 63);
}

class MachineTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto backend = vmm::CreateBackend(GetParam());
    if (!backend.ok()) GTEST_SKIP() << backend.status();
    backend_ = *std::move(backend);
    loop_ = *os::EventLoop::Create();
    output_ = mkstemp(path_);
    unlink(path_);
    console_ = std::make_unique<vmm::SerialConsole>(*loop_, vmm::SerialConsole::Options{.output_fd = output_});
  }
  void TearDown() override {
    console_.reset();
    if (output_ >= 0) close(output_);
  }

  std::unique_ptr<Machine> Make(const std::string& code, uint32_t cpus = 1, MachineOptions options = {}) {
    image_ = boot::MakePvhElf(true);
    std::copy(code.begin(), code.end(), image_.begin() + 0x1010);
    source_ = std::make_unique<boot::MemorySource>(image_);
    options.backend = backend_.get();
    options.kernel = source_.get();
    options.memory_bytes = 16 << 20;
    options.cpus = cpus;
    options.serial = console_.get();
    boot::LoadInput blame;
    auto machine = Machine::Create(options, *loop_, blame);
    EXPECT_TRUE(machine.ok()) << machine.status();
    return *std::move(machine);
  }
  MachineResult RunGuest(const std::string& code, uint32_t cpus = 1) { return Make(code, cpus)->Run(); }
  std::string Output() {
    std::string text(lseek(output_, 0, SEEK_END), '\0');
    EXPECT_EQ(pread(output_, text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
    return text;
  }

  std::unique_ptr<backend::Backend> backend_;
  std::unique_ptr<os::EventLoop> loop_;
  std::unique_ptr<vmm::SerialConsole> console_;
  char path_[32] = "/tmp/hvsdk_machine_XXXXXX";
  int output_ = -1;
  std::vector<uint8_t> image_;
  std::unique_ptr<boot::MemorySource> source_;
};

TEST_P(MachineTest, PowersOffAfterItsLastWord) {
  EXPECT_EQ(RunGuest(Print("hello\n") + kPowerOff + kLoop).outcome, Outcome::kPoweredOff);
  EXPECT_EQ(Output(), "hello\n");
}

// Which the guest's processor reaches as it does its own memory, and the machine saves with it.
TEST_P(MachineTest, AFrameBufferIsMemory) {
  constexpr uint32_t kPixel = 0xF8000005;
  MachineOptions options;
  options.video.emplace(MachineVideo{.width = 1024, .height = 768});
  const std::string move_a("\xB0\x41", 2);  // mov al, 'A'
  auto machine = Make(move_a + Store(kPixel) + Load(kPixel) + PrintAl() + kPowerOff + kLoop, 1, options);
  ASSERT_NE(machine->display(), nullptr);
  EXPECT_TRUE(machine->display()->frame().empty());
  EXPECT_EQ(machine->board().layout().video, (boot::GpaRange{0xF8000000, 4 << 20}));
  EXPECT_EQ(machine->board().host_memory().bytes().size(), (16u << 20) + (4u << 20));
  std::vector<std::string> names;
  for (const state::Component* component : machine->components()) names.push_back(component->StateName());
  EXPECT_THAT(names, testing::IsSupersetOf({"video", "pci-video"}));
  EXPECT_EQ(machine->Run().outcome, Outcome::kPoweredOff);
  uint8_t pixel = 0;
  EXPECT_TRUE(machine->board().memory().Read(kPixel, &pixel, 1));
  EXPECT_EQ(pixel, 'A');
  EXPECT_EQ(machine->board().host_memory().bytes()[(16 << 20) + 5], 'A');
  machine.reset();
  EXPECT_EQ(Output(), "A");
}

// In pieces, above all that there was; it is there in whoever goes on from a state, and gone after a reset.
TEST_P(MachineTest, MemoryGrows) {
  constexpr uint64_t kMib = 1 << 20, kFirst = uint64_t{4} << 30;
  MachineOptions options;
  options.max_memory_bytes = 216 * kMib;
  options.video.emplace(MachineVideo{.width = 1024, .height = 768});
  auto machine = Make(kPowerOff + kLoop, 1, options);
  Board& board = machine->board();
  GuestMemory& memory = board.memory();
  EXPECT_EQ(board.host_memory().bytes().size(), (216 + 4) * kMib);
  uint64_t word = 1;
  EXPECT_FALSE(memory.ReadObject(kFirst, word));
  EXPECT_TRUE(board.GrowMemory(4096).ok());
  EXPECT_EQ(board.grown_bytes(), 128 * kMib);
  EXPECT_TRUE(board.GrowMemory(100 * kMib).ok());
  EXPECT_EQ(board.grown_bytes(), 128 * kMib);
  EXPECT_TRUE(memory.ReadObject(kFirst + 128 * kMib - 8, word));
  EXPECT_EQ(word, 0u);
  EXPECT_FALSE(memory.ReadObject(kFirst + 128 * kMib, word));
  EXPECT_EQ(board.GrowMemory(200 * kMib + 1).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(board.GrowMemory(200 * kMib).ok());
  EXPECT_TRUE(memory.WriteObject(kFirst + 200 * kMib - 8, uint64_t{42}));
  EXPECT_FALSE(memory.ReadObject(kFirst + 200 * kMib, word));
  EXPECT_EQ(memory.size_bytes(), (216 + 4) * kMib);
  EXPECT_EQ(board.host_memory().bytes()[220 * kMib - 8], 42);

  absl::StatusOr<SavedMachine> saved = SavedMachine::Of(machine->components());
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_TRUE(board.Reset().ok());
  EXPECT_EQ(board.grown_bytes(), 0u);
  EXPECT_FALSE(memory.ReadObject(kFirst, word));
  EXPECT_TRUE(board.GrowMemory(200 * kMib).ok());
  EXPECT_TRUE(memory.ReadObject(kFirst + 200 * kMib - 8, word));
  EXPECT_EQ(word, 0u);
  machine.reset();

  options.saved = &*saved;
  options.map_memory = [](os::HostMemory&) { return absl::OkStatus(); };
  auto twin = Make(kPowerOff + kLoop, 1, options);
  EXPECT_EQ(twin->board().grown_bytes(), 200 * kMib);
  EXPECT_TRUE(twin->board().memory().ReadObject(kFirst + 200 * kMib - 8, word));
  twin.reset();
  // A smaller machine has no room for it, and one that does not grow does not know of it.
  options.backend = backend_.get();
  options.kernel = source_.get();
  options.memory_bytes = 16 * kMib;
  options.cpus = 1;
  options.serial = console_.get();
  for (const uint64_t max_bytes : {100 * kMib, uint64_t{0}}) {
    options.max_memory_bytes = max_bytes;
    boot::LoadInput blame;
    const auto other = Machine::Create(options, *loop_, blame);
    EXPECT_EQ(other.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(other.status().message()), testing::HasSubstr("memory"));
    EXPECT_EQ(blame, boot::LoadInput::kState);
  }
}

TEST_P(MachineTest, OnlyAMachineWithABalloonGrows) {
  MachineOptions options;
  options.integration.balloon = false;
  options.backend = backend_.get();
  options.max_memory_bytes = uint64_t{1} << 30;
  boot::LoadInput blame;
  const auto machine = Machine::Create(options, *loop_, blame);
  EXPECT_EQ(machine.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(blame, boot::LoadInput::kMemory);
}

TEST_P(MachineTest, NoDisplayUnlessOneIsAskedFor) {
  const auto machine = Make(kPowerOff + kLoop);
  EXPECT_EQ(machine->display(), nullptr);
  EXPECT_EQ(machine->board().host_memory().bytes().size(), 16u << 20);
  for (const state::Component* component : machine->components()) {
    EXPECT_THAT(component->StateName(), testing::Not(testing::HasSubstr("video")));
  }
  EXPECT_EQ(machine->Run().outcome, Outcome::kPoweredOff);
}

// PVH leaves stack and GDT to the kernel. One that calls, or loads a segment, before it has set its own is none the worse here.
TEST_P(MachineTest, BeginsWithAStackAndSegments) {
  std::string code("\xE8\0\0\0\0", 5);     // call 1f
  code += '\x58';                          // 1: pop eax
  code += "\x1E\x1F";                      // push ds; pop ds
  code += std::string("\x83\xC0\x09", 3);  // add eax, 9: behind the retf
  code += "\x0E\x50\xCB";                  // push cs; push eax; retf
  EXPECT_EQ(code.size(), 14u);
  EXPECT_EQ(RunGuest(code + Print("back\n") + kPowerOff + kLoop).outcome, Outcome::kPoweredOff);
  EXPECT_EQ(Output(), "back\n");
}

// Whether an engine has a portable processor is its host's affair; if it has none, it says of what.
TEST_P(MachineTest, AProcessorMayBeThePortableOne) {
  image_ = boot::MakePvhElf(true);
  const std::string code =
      std::string("\xB8\0\0\0\x80\x0F\xA2\x3D\x08\0\0\x80\x75\xFE", 14) + Print("it is\n") + kPowerOff + kLoop;
  std::copy(code.begin(), code.end(), image_.begin() + 0x1010);
  source_ = std::make_unique<boot::MemorySource>(image_);
  boot::LoadInput blame;
  auto machine = Machine::Create({.backend = backend_.get(),
                                  .kernel = source_.get(),
                                  .memory_bytes = 16 << 20,
                                  .cpus = 1,
                                  .processor = Processor::kPortable,
                                  .serial = console_.get()},
                                 *loop_, blame);
  if (!machine.ok()) {
    EXPECT_EQ(machine.status().code(), absl::StatusCode::kFailedPrecondition) << machine.status();
    EXPECT_EQ(blame, boot::LoadInput::kProcessor);
    EXPECT_NE(GetParam(), "software") << machine.status();
    GTEST_SKIP() << machine.status();
  }
  EXPECT_EQ((*machine)->Run().outcome, Outcome::kPoweredOff);
  machine->reset();  // which waits for what its console has still to write
  EXPECT_EQ(Output(), "it is\n");
}

TEST_P(MachineTest, WaysToReset) {
  for (const std::string& code : {Out(0x602, 1), Out(0x64, 0xFE), Out(0x92, 1), WriteMsr(0x40000003, 1),
                                  std::string("\x0F\x0B") /* ud2 without an IDT */}) {
    EXPECT_EQ(RunGuest(code + kHalt).outcome, Outcome::kReset);
  }
}

TEST_P(MachineTest, CrashIsReported) {
  // Told at once, whatever comes of it; and only the first: the dump's own crash is none of the guest's.
  for (const auto& [then, action, after] :
       {std::tuple{Print("dump") + kPowerOff, CrashAction::kReport, Outcome::kPoweredOff},
        {Out(0x602, 1), CrashAction::kReport, Outcome::kReset},
        {"\x0F\x0B", CrashAction::kReport, Outcome::kReset},
        {Crash(7) + kPowerOff, CrashAction::kReport, Outcome::kPoweredOff},
        {Print("dump") + kHalt, CrashAction::kReport, Outcome::kCrashed},
        {kLoop, CrashAction::kReport, Outcome::kCrashed},
        {kLoop, CrashAction::kEnd, Outcome::kCrashed}}) {
    int told = 0;
    MachineOptions options;
    options.on_crash = action;
    options.crash_silence_ms = action == CrashAction::kEnd ? 1'000'000 : 300;
    options.crash_observer = [&](const partition::CrashReport& report) {
      ++told;
      for (uint32_t i = 0; i < 5; ++i) EXPECT_EQ(report.parameters[i], 0x1111'0000'0000 + i);
    };
    const MachineResult result = Make(Crash(0x1111'0000'0000) + then + kHalt, 1, options)->Run();
    EXPECT_EQ(result.outcome, Outcome::kCrashed);
    EXPECT_EQ(result.after_crash, after);
    EXPECT_EQ(told, 1);
    for (uint32_t i = 0; i < 5; ++i) EXPECT_EQ(result.crash.parameters[i], 0x1111'0000'0000 + i);
  }
  EXPECT_EQ(Output(), "dumpdump");
}

// A guest that still does something is not silent.
TEST_P(MachineTest, ACrashedGuestMayTakeItsTime) {
  // Touches a port each 20 ms, a hundred times: longer than the silence that would end it. Reading its clock does
  // not count.
  std::string code("\xBB\x64\0\0\0", 5);              //    mov ebx, 100
  code += "\xB9" + std::string("\x20\0\0\x40", 4);    // 1: mov ecx, HV_X64_MSR_TIME_REF_COUNT
  code += "\x0F\x32\x89\xC6";                         //    rdmsr; mov esi, eax
  code += "\x0F\x32\x29\xF0";                         // 2: rdmsr; sub eax, esi
  code += "\x3D" + std::string("\x40\x0D\x03\0", 4);  //    cmp eax, 200000
  code += "\x72\xF5";                                 //    jb 2b
  code += Out(0x80, 0) + "\x4B\x75\xE2";              //    dec ebx; jnz 1b
  MachineOptions options;
  options.crash_silence_ms = 1000;
  const MachineResult result = Make(Crash(0) + code + kPowerOff + kHalt, 1, options)->Run();
  EXPECT_EQ(result.outcome, Outcome::kCrashed);
  EXPECT_EQ(result.after_crash, Outcome::kPoweredOff);
}

// Until bit `bit` is in the high byte of ACPI's PM1 status register.
std::string AwaitEvent(uint8_t bit) {
  std::string code = In(boot::kPowerPort + chipset::AcpiPower::kPm1Event + 1);  // 1:
  code += '\xA8';                                                               //    test al, bit
  code += static_cast<char>(bit);
  return code + "\x74\xF7";  // jz 1b
}

TEST_P(MachineTest, PowerButtonReachesTheGuest) {
  const std::string code = Print("ready\n") + AwaitEvent(1) + Print("pressed\n") + kPowerOff + kLoop;
  for (const bool early : {true, false}) {
    const std::unique_ptr<Machine> machine = Make(code, 2);
    if (early) machine->PressPowerButton();
    std::thread presser([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      machine->PressPowerButton();
    });
    EXPECT_EQ(machine->Run().outcome, Outcome::kPoweredOff);
    presser.join();
    machine->PressPowerButton();  // of a machine that is off already
  }
  EXPECT_EQ(Output(), "ready\npressed\nready\npressed\n");
}

TEST_P(MachineTest, AlarmOfTheClockIsAnAcpiEvent) {
  std::string code;
  const auto set = [&](uint8_t index, uint8_t value) {
    code += Out(boot::kRtcPort, index) + Out(boot::kRtcPort + 1, value);
  };
  for (const uint8_t alarm : {1, 3, 5}) set(alarm, 0xFF);  // each second
  set(11, 0x22);                                           // 24 hours, alarm enabled
  EXPECT_EQ(RunGuest(code + AwaitEvent(4) + Print("alarm\n") + kPowerOff + kLoop).outcome, Outcome::kPoweredOff);
  EXPECT_EQ(Output(), "alarm\n");
}

TEST_P(MachineTest, StopsWhateverTheGuestDoes) {
  for (const std::string& code : {kLoop, kHalt, Out(0x80, 0) + std::string("\xEB\xF7")}) {
    for (const int delay_ms : {0, 20}) {
      const std::unique_ptr<Machine> machine = Make(code, 2);
      std::thread stopper([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(delay_ms));
        machine->Stop();
      });
      EXPECT_EQ(machine->Run().outcome, Outcome::kStopped);
      stopper.join();
    }
  }
}

// Machines come and go on one loop and one engine, and leave neither threads nor descriptors.
TEST_P(MachineTest, ManyInARow) {
  const auto descriptors = [] {
    int count = 0;
    for (int fd = 0; fd < 256; ++fd) count += lseek(fd, 0, SEEK_CUR) != -1 || errno != EBADF;
    return count;
  };
  (void)RunGuest(kPowerOff + kLoop, 4);
  const int before = descriptors();
  for (int i = 0; i < 20; ++i) EXPECT_EQ(RunGuest(Print(".") + kPowerOff + kLoop, 4).outcome, Outcome::kPoweredOff);
  EXPECT_EQ(descriptors(), before);
  EXPECT_EQ(Output(), std::string(20, '.'));
}

TEST_P(MachineTest, RefusesWhatItCannotBe) {
  image_ = boot::MakePvhElf(true);
  const boot::MemorySource kernel(image_);
  boot::LoadInput blame;
  MachineOptions options{.backend = backend_.get(), .kernel = &kernel, .memory_bytes = 16 << 20};
  for (const uint32_t cpus : {0u, backend_->caps().max_vps + 1}) {
    options.cpus = cpus;
    EXPECT_EQ(Machine::Create(options, *loop_, blame).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(blame, boot::LoadInput::kCpus);
  }
  options.cpus = 1;
  options.memory_bytes = 1 << 20;
  EXPECT_EQ(Machine::Create(options, *loop_, blame).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(blame, boot::LoadInput::kMemory);
  options.memory_bytes = 16 << 20;
  options.smbios.serial = "two\nlines";
  EXPECT_EQ(Machine::Create(options, *loop_, blame).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(blame, boot::LoadInput::kSmbios);
}

// More processors than a disk's channels can be.
TEST_P(MachineTest, ManyProcessorsShareADisksChannels) {
  image_ = boot::MakePvhElf(true);
  const boot::MemorySource kernel(image_);
  boot::LoadInput blame;
  const MachineOptions options{.backend = backend_.get(),
                               .kernel = &kernel,
                               .memory_bytes = 16 << 20,
                               .cpus = std::min(backend_->caps().max_vps, vsp::StorageController::kMaxSubchannels + 2u),
                               .disks = {std::make_shared<MemoryDisk>(std::vector<uint8_t>(4096))}};
  const auto machine = Machine::Create(options, *loop_, blame);
  EXPECT_TRUE(machine.ok()) << machine.status();
}

std::vector<std::string> Engines() {
  std::vector<std::string> names = vmm::BackendNames();
  names.erase(names.begin());  // auto
  return names;
}
INSTANTIATE_TEST_SUITE_P(Engines, MachineTest, ::testing::ValuesIn(Engines()),
                         [](const auto& info) { return info.param; });

TEST(BackendsTest, UnknownNamesAreRefused) {
  EXPECT_EQ(vmm::CreateBackend("quantum").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace hvsdk::machine
