// SPDX-License-Identifier: Apache-2.0
// What an embedding program adds to a machine: devices, layers, CPUID leaves, tables, loaders; before it runs
// and meanwhile.

#include "hvsdk/machine/board.h"

#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/backend/port_hypercall.h"
#include "hvsdk/backend_software/software_backend.h"
#include "hvsdk/hvdef/msr.h"
#include "hvsdk/machine/machine.h"
#include "hvsdk/vmm/backends.h"
#include "hvsdk/vmm/serial_console.h"
#include "tests/machine/small_guest.h"

namespace hvsdk::machine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint32_t kCodeGpa = 0x100000;
constexpr uint16_t kResultPort = 0x1234;

// Code in memory, entered in flat protected or long mode.
class CodeLoader final : public GuestLoader {
 public:
  explicit CodeLoader(std::string code, boot::InitialState::Mode mode = boot::InitialState::Mode::kProtected)
      : code_(std::move(code)), mode_(mode) {}
  absl::Status Load(Board& board) override {
    return board.memory().Write(kCodeGpa, code_.data(), code_.size()) ? boot::WriteBootTables(mode_, board.memory())
                                                                      : absl::InvalidArgumentError("too small");
  }
  absl::Status SetInitialState(backend::Vp& vp) override {
    return boot::SetInitialState({.mode = mode_, .rip = kCodeGpa}, vp);
  }

 private:
  const std::string code_;
  const boot::InitialState::Mode mode_;
};

// Answers with a byte, and keeps what is written.
class Register final : public ByteDevice {
 public:
  explicit Register(uint8_t answer) : answer(answer) {}
  ~Register() override { answer = 0xDD; }
  absl::string_view Name() const override { return "register"; }
  uint8_t ReadByte(uint64_t) override {
    ++accesses;
    return answer;
  }
  void WriteByte(uint64_t, uint8_t value) override {
    ++accesses;
    written.push_back(value);
  }
  std::atomic<uint8_t> answer;
  std::atomic<int> accesses{0};
  std::vector<uint8_t> written;  // one VP's
};

class FunctionPart final : public Part {
 public:
  explicit FunctionPart(std::function<absl::Status(Board&)> attach, std::function<void()> detach = nullptr)
      : attach_(std::move(attach)), detach_(std::move(detach)) {}
  absl::Status Attach(Board& board) override { return attach_(board); }
  void Detach() override {
    if (detach_) detach_();
  }

 private:
  std::function<absl::Status(Board&)> attach_;
  std::function<void()> detach_;
};

class BoardTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto backend = GetParam() == "deterministic" ? backend::CreateSoftwareBackend({.instruction_time = &time_})
                                                 : vmm::CreateBackend(GetParam());
    if (!backend.ok()) GTEST_SKIP() << backend.status();
    backend_ = *std::move(backend);
    loop_ = *os::EventLoop::Create();
  }

  absl::StatusOr<std::unique_ptr<Machine>> Make(const std::string& code, std::vector<Part*> parts, uint32_t cpus = 1) {
    loader_ = std::make_unique<CodeLoader>(code, mode_);
    boot::LoadInput blame;
    return Machine::Create({.backend = backend_.get(),
                            .memory_bytes = 16 << 20,
                            .cpus = cpus,
                            .processor = processor_,
                            .parts = std::move(parts),
                            .loader = loader_.get(),
                            .instruction_time = GetParam() == "deterministic" ? &time_ : nullptr},
                           *loop_, blame);
  }
  // Runs `code`, which ends the machine, with `parts` and a register at kResultPort; returns what was written there.
  std::vector<uint8_t> RunCode(const std::string& code, std::vector<Part*> parts) {
    Register result(0);
    FunctionPart part([&](Board& board) { return board.MapPorts(kResultPort, 1, result); });
    parts.push_back(&part);
    const auto machine = Make(code + kPowerOff + kLoop, parts);
    EXPECT_TRUE(machine.ok()) << machine.status();
    if (!machine.ok()) return {};
    EXPECT_EQ((*machine)->Run().outcome, Outcome::kPoweredOff);
    return result.written;
  }
  static std::string ResultAl() { return Out(kResultPort, 0).substr(0, 4) + '\xEE'; }

  boot::InitialState::Mode mode_ = boot::InitialState::Mode::kProtected;
  Processor processor_ = Processor::kHost;
  backend::SoftwareTime time_;
  std::unique_ptr<backend::Backend> backend_;
  std::unique_ptr<os::EventLoop> loop_;
  std::unique_ptr<CodeLoader> loader_;
};

TEST_P(BoardTest, ALoaderOfOnesOwnBeginsInLongMode) {
  mode_ = boot::InitialState::Mode::kLong;
  // xor eax, eax; inc rax (in 32-bit mode: dec eax; inc eax); then segments from the GDT, and the stack.
  const std::string code = "\x31\xC0\x48\xFF\xC0\x8C\xD9\x8E\xD9\x50\x58" + ResultAl();
  EXPECT_THAT(RunCode(code, {}), ElementsAre(1));
}

TEST_P(BoardTest, DevicesOnPortsAndInMemory) {
  Register port(0x5A), mmio(0xA5);
  FunctionPart part([&](Board& board) {
    const absl::Status status = board.MapPorts(0x510, 1, port);
    return status.ok() ? board.MapMmio(0xF0000000, 0x1000, mmio) : status;
  });
  const std::string code = In(0x510) + ResultAl() + Load(0xF0000004) + ResultAl() + Out(0x510, 7) + "\xB0\x09" +
                           Store(0xF0000FFF) + Load(0xF0001000) + ResultAl();
  EXPECT_THAT(RunCode(code, {&part}), ElementsAre(0x5A, 0xA5, 0xFF));
  EXPECT_THAT(port.written, ElementsAre(7));
  EXPECT_THAT(mmio.written, ElementsAre(9));
}

TEST_P(BoardTest, WhatOverlapsIsRefusedByName) {
  Register device(0);
  const auto map = [&](uint64_t gpa, uint64_t size) {
    FunctionPart part([&](Board& board) { return board.MapMmio(gpa, size, device); });
    return Make(kHalt, {&part}).status();
  };
  EXPECT_TRUE(map(0xF0000000, 0x1000).ok());
  for (const auto& [gpa, size, what] : {std::tuple{0x1000ull, 0x1000ull, "memory"},
                                        {0xFFF000, 0x2000, "memory"},
                                        {0xFEC00000, 8, "I/O APIC"},
                                        {0xFEBFFFF8, 0x10, "I/O APIC"},
                                        {0xFEE00FFF, 1, "local APICs"},
                                        {0xF0000000, 0ull - 0xF0000000ull, "I/O APIC"},  // to the very end
                                        {0xF0000000, 0, "not an address range"},
                                        {~0xFFFull, 0x2000, "not an address range"}}) {
    const absl::Status status = map(gpa, size);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << gpa;
    EXPECT_THAT(std::string(status.message()), HasSubstr(what));
    EXPECT_THAT(std::string(status.message()), HasSubstr("register"));
  }
  FunctionPart part([&](Board& board) { return board.MapPorts(0x70, 1, device); });
  EXPECT_THAT(std::string(Make(kHalt, {&part}).status().message()), HasSubstr("real-time clock"));
  for (const auto& [first, count] : {std::pair{uint16_t{0x1F}, 2u}, {uint16_t{0xA1}, 1u}, {uint16_t{0x4C0}, 0x11u}}) {
    FunctionPart pic([&, first = first, count = count](Board& board) { return board.MapPorts(first, count, device); });
    EXPECT_THAT(std::string(Make(kHalt, {&pic}).status().message()), HasSubstr("overlap the 8259s"));
  }
  FunctionPart beyond([&](Board& board) { return board.MapPorts(0xFFFF, 2, device); });
  EXPECT_EQ(Make(kHalt, {&beyond}).status().code(), absl::StatusCode::kInvalidArgument);
}

// The layer that was added last is asked first, and what it passes on, the one before it sees.
TEST_P(BoardTest, LayersStack) {
  class Adder final : public ExitLayer {
   public:
    explicit Adder(uint8_t amount) : amount_(amount) {}
    void OnPortRead(backend::Vp& vp, uint16_t port, absl::Span<uint8_t> data) override {
      next().OnPortRead(vp, port, data);
      if (port == 0x510) data[0] = static_cast<uint8_t>(data[0] * 10 + amount_);
    }
    backend::MsrOutcome OnMsrRead(backend::Vp& vp, uint32_t msr, uint64_t& value) override {
      if (msr != 0x40000190) return next().OnMsrRead(vp, msr, value);
      value = amount_;
      return backend::MsrOutcome::kDone;
    }

   private:
    const uint8_t amount_;
  };
  Register port(0);
  Adder first(1), second(2);
  FunctionPart part([&](Board& board) {
    board.AddLayer(first);
    board.AddLayer(second);
    return board.MapPorts(0x510, 1, port);
  });
  const std::string code = In(0x510) + ResultAl() + ReadMsr(0x40000190) + ResultAl();
  EXPECT_THAT(RunCode(code, {&part}), ElementsAre(12, 2));
  FunctionPart without([&](Board& board) {
    board.AddLayer(first);
    board.AddLayer(second);
    board.RemoveLayer(second);
    board.RemoveLayer(second);  // it is not there any more
    return board.MapPorts(0x510, 1, port);
  });
  EXPECT_THAT(RunCode(code, {&without}), ElementsAre(1, 1));
}

TEST_P(BoardTest, CpuidAndTables) {
  FunctionPart part([](Board& board) {
    board.EditCpuid([](Board::CpuidTable& cpuid) {
      for (auto& entry : cpuid) {
        if (entry.leaf == 0x80000004) entry.eax = 0x42;
      }
    });
    board.AddAcpiTable(boot::MakeAcpiTable("TEST", 3, "what a driver wants to know"));
    return absl::OkStatus();
  });
  EXPECT_THAT(RunCode(Cpuid(0x80000004) + ResultAl(), {&part}), ElementsAre(0x42));

  const auto machine = Make(kHalt, {&part});
  ASSERT_TRUE(machine.ok());
  GuestMemory& memory = (*machine)->board().memory();
  uint64_t xsdt, table = 0;
  uint32_t length;
  ASSERT_TRUE(memory.ReadObject(boot::kAcpiTablesGpa + 24, xsdt) && memory.ReadObject(xsdt + 4, length));
  ASSERT_TRUE(memory.ReadObject(xsdt + length - 8, table));
  std::string text(36 + 27, '\0');
  ASSERT_TRUE(memory.Read(table, text.data(), text.size()));
  EXPECT_EQ(text.substr(0, 4), "TEST");
  EXPECT_EQ(text.substr(36), "what a driver wants to know");
  uint8_t sum = 0;
  for (const char c : text) sum += static_cast<uint8_t>(c);
  EXPECT_EQ(sum, 0);
}

// A guest of the portable processor may be saved within the hypercall page, so it finds the same bytes on every engine.
TEST_P(BoardTest, ThePortableHypercallPageIsTheSameEverywhere) {
  constexpr uint32_t kPage = 0x200000;
  processor_ = Processor::kPortable;
  if (const auto machine = Make(kHalt, {}); absl::IsFailedPrecondition(machine.status())) {
    GTEST_SKIP() << machine.status();
  }
  std::string code = WriteMsr(hvdef::msr::kGuestOsId, 1) + WriteMsr(hvdef::msr::kHypercall, kPage | 1);
  for (uint32_t i = 0; i <= sizeof(backend::kPortHypercallCode); ++i) code += Load(kPage + i) + ResultAl();
  std::vector<uint8_t> expected(std::begin(backend::kPortHypercallCode), std::end(backend::kPortHypercallCode));
  expected.push_back(0xCC);
  EXPECT_EQ(RunCode(code, {}), expected);
}

TEST_P(BoardTest, PartsAreDetachedInReverse) {
  std::vector<int> order;
  const auto part = [&](int number, absl::Status status) {
    return std::make_unique<FunctionPart>(
        [&order, number, status](Board&) {
          order.push_back(number);
          return status;
        },
        [&order, number] { order.push_back(-number); });
  };
  const auto one = part(1, absl::OkStatus()), two = part(2, absl::OkStatus());
  const auto bad = part(3, absl::UnavailableError("no such luck"));
  EXPECT_TRUE(Make(kHalt, {one.get(), two.get()}).ok());
  EXPECT_THAT(order, ElementsAre(1, 2, -2, -1));
  order.clear();
  EXPECT_EQ(Make(kHalt, {one.get(), bad.get(), two.get()}).status().message(), "no such luck");
  EXPECT_THAT(order, ElementsAre(1, 3, -1));
}

// While processors read a port without end: devices and layers come, answer, and are gone for good once they were
// taken out.
TEST_P(BoardTest, DevicesAndLayersComeAndGoWhileItRuns) {
  const std::string spin = In(0x510);
  const std::string code = spin + "\xEB" + static_cast<char>(-static_cast<int>(spin.size()) - 2);
  const bool deterministic = GetParam() == "deterministic";
  const auto machine = Make(code, {}, deterministic ? 1 : 2);
  ASSERT_TRUE(machine.ok()) << machine.status();
  Board& board = (*machine)->board();
  class Counter final : public ExitLayer {
   public:
    ~Counter() override { gone = true; }
    void OnPortRead(backend::Vp& vp, uint16_t port, absl::Span<uint8_t> data) override {
      EXPECT_FALSE(gone);
      ++seen;
      next().OnPortRead(vp, port, data);
    }
    std::atomic<int> seen{0};
    std::atomic<bool> gone{false};
  };
  std::thread changer([&] {
    for (int i = 0; i < 50; ++i) {
      auto device = std::make_unique<Register>(1);
      EXPECT_TRUE(board.MapPorts(0x510, 1, *device).ok());
      auto layer = std::make_unique<Counter>();
      board.AddLayer(*layer);
      while (device->accesses == 0 || layer->seen == 0) std::this_thread::yield();
      board.Unmap(*device);
      const int accesses = device->accesses;
      board.RemoveLayer(*layer);
      const int seen = layer->seen;
      std::this_thread::yield();
      EXPECT_EQ(device->accesses, accesses);
      EXPECT_EQ(layer->seen, seen);
      device.reset();
      layer.reset();
    }
    (*machine)->Stop();
  });
  EXPECT_EQ((*machine)->Run().outcome, Outcome::kStopped);
  changer.join();
}

// Accesses to a range are seen from the moment on when a layer is there, whatever answers: nobody, a device, or memory
// that is read-only, of which a layer sees the writes alone.
TEST_P(BoardTest, RangesOfMemoryAreWatchedWhileItRuns) {
  constexpr uint64_t kRange = 0xF0000000;
  const std::string spin = Load(kRange + 4) + Store(kRange + 4);
  const std::string code = spin + "\xEB" + static_cast<char>(-static_cast<int>(spin.size()) - 2);
  const auto machine = Make(code, {}, /*cpus=*/1);
  ASSERT_TRUE(machine.ok()) << machine.status();
  Board& board = (*machine)->board();
  class Watcher final : public ExitLayer {
   public:
    void OnMmioRead(backend::Vp& vp, uint64_t gpa, absl::Span<uint8_t> data) override {
      if (gpa >> kPageShift == kRange >> kPageShift) ++reads;
      next().OnMmioRead(vp, gpa, data);
    }
    void OnMmioWrite(backend::Vp& vp, uint64_t gpa, absl::Span<const uint8_t> data) override {
      if (gpa >> kPageShift == kRange >> kPageShift) ++writes;
      next().OnMmioWrite(vp, gpa, data);
    }
    std::atomic<int> reads{0}, writes{0};
  };
  alignas(kPageSize) static uint8_t rom[kPageSize] = {};
  std::thread changer([&] {
    for (int i = 0; i < 10; ++i) {
      Watcher watcher;
      board.AddLayer(watcher);
      while (watcher.reads < 10 || watcher.writes < 10) std::this_thread::yield();
      auto device = std::make_unique<Register>(1);
      EXPECT_TRUE(board.MapMmio(kRange, kPageSize, *device).ok());
      for (const int reads = watcher.reads; device->accesses == 0 || watcher.reads < reads + 10;) {
        std::this_thread::yield();
      }
      board.Unmap(*device);
      device.reset();
      EXPECT_TRUE(board.engine().MapMemory(kRange, absl::MakeSpan(rom), backend::MapAccess::kReadExecute).ok());
      // Reads end some time after that, and writes do not.
      for (int reads = -1, writes = 0; watcher.reads != reads || watcher.writes < writes + 10;) {
        if (watcher.reads != reads) {
          reads = watcher.reads;
          writes = watcher.writes;
        }
        std::this_thread::yield();
      }
      EXPECT_TRUE(board.engine().UnmapMemory(kRange, kPageSize).ok());
      board.RemoveLayer(watcher);
      const int writes = watcher.writes;
      std::this_thread::yield();
      EXPECT_EQ(watcher.writes, writes);
    }
    (*machine)->Stop();
  });
  EXPECT_EQ((*machine)->Run().outcome, Outcome::kStopped);
  changer.join();
  EXPECT_EQ(rom[4], 0);
}

std::vector<std::string> Engines() {
  std::vector<std::string> names = vmm::BackendNames();
  names[0] = "deterministic";  // in place of auto
  return names;
}
// --- The end, and whom it waits for. ---

// Keeps the loop busy, and has something under way with the host until Answer.
class BusyPart final : public Part, private Task {
 public:
  explicit BusyPart(bool is_silent) : is_silent_(is_silent) {}
  absl::Status Attach(Board& board) override {
    loop_ = &board.loop();
    loop_->Schedule(*this);
    return absl::OkStatus();
  }
  void Stop(absl::AnyInvocable<void()> done) override {
    done_ = std::move(done);
    turns_after_stop_ = 0;
  }
  std::string WaitsFor() const override { return "the oracle"; }
  void Detach() override { loop_->Drain(*this); }

 private:
  void Run() override {
    if (done_ != nullptr && !is_silent_ && ++turns_after_stop_ == 1000) std::exchange(done_, nullptr)();
    loop_->Schedule(*this);
  }
  const bool is_silent_;
  os::EventLoop* loop_ = nullptr;
  absl::AnyInvocable<void()> done_;
  int turns_after_stop_ = 0;
};

TEST_P(BoardTest, TheEndWaitsForWhatIsUnderWay) {
  BusyPart part(/*is_silent=*/false);
  const auto machine = Make(kPowerOff + kLoop, {&part});
  ASSERT_TRUE(machine.ok());
  const MachineResult result = (*machine)->Run();
  EXPECT_EQ(result.outcome, Outcome::kPoweredOff);
  EXPECT_FALSE(result.gave_up);
}

TEST_P(BoardTest, TheEndDoesNotWaitForEver) {
  BusyPart silent(/*is_silent=*/true), other(/*is_silent=*/false);
  for (const bool by_guest : {true, false}) {
    CodeLoader loader(by_guest ? kPowerOff + kLoop : kLoop);
    backend::SoftwareTime time;
    const auto backend = GetParam() == "deterministic" ? backend::CreateSoftwareBackend({.instruction_time = &time})
                                                       : vmm::CreateBackend(GetParam());
    ASSERT_TRUE(backend.ok());
    boot::LoadInput blame;
    const auto machine = Machine::Create({.backend = backend->get(),
                                          .memory_bytes = 16 << 20,
                                          .cpus = 1,
                                          .parts = {&silent, &other},
                                          .loader = &loader,
                                          .instruction_time = GetParam() == "deterministic" ? &time : nullptr,
                                          .grace = std::chrono::milliseconds(100)},
                                         *loop_, blame);
    ASSERT_TRUE(machine.ok());
    std::thread stopper([&] {
      if (!by_guest) (*machine)->Stop();
    });
    const auto start = std::chrono::steady_clock::now();
    const MachineResult result = (*machine)->Run();
    stopper.join();
    EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(100));
    EXPECT_EQ(result.outcome, Outcome::kHostFailure);
    EXPECT_TRUE(result.gave_up);
    EXPECT_EQ(result.status.message(), "the oracle did not answer for 100 ms");
  }
}

// More than the reader, the pipe and the port hold together: the guest waits again and again, and at last no more.
TEST(InTurnTest, TheGuestGoesOnWhenItsOutputIsRead) {
  constexpr uint32_t kBytes = 1 << 20;
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);
  const auto loop = *os::EventLoop::Create();
  auto console = std::make_unique<vmm::SerialConsole>(*loop, vmm::SerialConsole::Options{.output_fd = fds[1]});
  backend::SoftwareTime time;
  const auto backend = backend::CreateSoftwareBackend({.instruction_time = &time});
  ASSERT_TRUE(backend.ok());
  // mov ecx, kBytes; mov dx, COM1; 1: out dx, al; loop 1b
  std::string code = "\xB9";
  boot::Append<uint32_t>(code, kBytes);
  code += "\x66\xBA";
  boot::Append<uint16_t>(code, boot::kSerialPort);
  CodeLoader loader(code + "\xEE\xE2\xFD" + kPowerOff + kLoop);
  boot::LoadInput blame;
  auto machine = Machine::Create({.backend = backend->get(),
                                  .memory_bytes = 16 << 20,
                                  .cpus = 1,
                                  .serial = console.get(),
                                  .loader = &loader,
                                  .instruction_time = &time},
                                 *loop, blame);
  ASSERT_TRUE(machine.ok()) << machine.status();
  std::thread reader([fd = fds[0]] {
    for (char bytes[4096]; read(fd, bytes, sizeof(bytes)) > 0;)
      std::this_thread::sleep_for(std::chrono::microseconds(100));
  });
  std::promise<void> is_over;
  std::thread watchdog([&, over = is_over.get_future()] {
    if (over.wait_for(std::chrono::seconds(60)) == std::future_status::timeout) (*machine)->Stop();
  });
  EXPECT_EQ((*machine)->Run().outcome, Outcome::kPoweredOff);
  is_over.set_value();
  watchdog.join();
  // With these goes the last of the pipe's other end.
  machine->reset();
  console.reset();
  close(fds[1]);
  reader.join();
  close(fds[0]);
}

INSTANTIATE_TEST_SUITE_P(Engines, BoardTest, ::testing::ValuesIn(Engines()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace hvsdk::machine
