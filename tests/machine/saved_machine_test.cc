// SPDX-License-Identifier: Apache-2.0
// A machine that was saved goes on in another, as if nothing had been.

#include "hvsdk/machine/saved_machine.h"

#include <atomic>
#include <cstring>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>

#include "gtest/gtest.h"
#include "hvsdk/backend_software/software_backend.h"
#include "hvsdk/machine/machine.h"
#include "hvsdk/vmbus/packet_pump.h"
#include "hvsdk/vmm/backends.h"
#include "tests/boot/kernel_images.h"
#include "tests/machine/small_guest.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"

namespace hvsdk::machine {
namespace {

constexpr uint64_t kCounterGpa = 0x400000;

// A machine at a moment.
struct Moment {
  SavedMachine saved;
  std::vector<uint8_t> memory;

  static Moment Of(Machine& machine) {
    absl::StatusOr<SavedMachine> saved = SavedMachine::Of(machine.components());
    EXPECT_TRUE(saved.ok()) << saved.status();
    const absl::Span<uint8_t> bytes = machine.board().host_memory().bytes();
    return {*std::move(saved), std::vector<uint8_t>(bytes.begin(), bytes.end())};
  }
  void PutInto(MachineOptions& options) const {
    options.saved = &saved;
    options.map_memory = [this](os::HostMemory& to) {
      std::memcpy(to.bytes().data(), memory.data(), memory.size());
      return absl::OkStatus();
    };
  }
};

// Counts in memory, and changes registers, flags and the stack while it does.
std::string Count() {
  std::string code("\xB8\0\0\x40\0", 5);     //    mov eax, kCounterGpa
  code += std::string("\xBC\0\0\x50\0", 5);  //    mov esp, 0x500000
  code += "\x31\xDB";                        //    xor ebx, ebx
  code += "\x43";                            // 1: inc ebx
  code += "\x53\x59";                        //    push ebx; pop ecx
  code += "\x39\xCB";                        //    cmp ebx, ecx
  code += "\x75\xFE";                        // 2: jne 2b
  code += "\x89\x18";                        //    mov [eax], ebx
  code += "\xEB\xF5";                        //    jmp 1b
  return code;
}

class SavedMachineTest : public ::testing::Test {
 protected:
  std::unique_ptr<Machine> Make(const std::string& code, MachineOptions options) {
    image_ = boot::MakePvhElf(true);
    std::copy(code.begin(), code.end(), image_.begin() + 0x1010);
    source_ = std::make_unique<boot::MemorySource>(image_);
    options.kernel = source_.get();
    options.memory_bytes = 8 << 20;
    boot::LoadInput blame;
    auto machine = Machine::Create(options, *loop_, blame);
    EXPECT_TRUE(machine.ok()) << machine.status();
    return machine.ok() ? *std::move(machine) : nullptr;
  }
  static uint32_t Counter(Machine& machine) {
    return std::atomic_ref<uint32_t>(*machine.board().memory().Word<uint32_t>(kCounterGpa)).load();
  }

  static std::string GenerationId(Machine& machine) {
    std::string id(boot::kGenerationIdSize, '\0');
    EXPECT_TRUE(machine.board().memory().Read(boot::kGenerationIdGpa, id.data(), id.size()));
    return id;
  }

  std::unique_ptr<os::EventLoop> loop_ = *os::EventLoop::Create();
  std::vector<uint8_t> image_;
  std::unique_ptr<boot::MemorySource> source_;
};

// In a chain: each machine begins where the last one was saved.
TEST_F(SavedMachineTest, GoesOnInAChain) {
  auto backend = vmm::CreateBackend("software");
  ASSERT_TRUE(backend.ok());
  MachineOptions options{.backend = backend->get(), .cpus = 2};
  Moment moment;
  uint32_t last = 0;
  uint64_t last_time = 0;
  std::set<std::string> generation_ids;
  for (int i = 0; i < 20; ++i) {
    if (i > 0) moment.PutInto(options);
    std::unique_ptr<Machine> machine = Make(Count(), options);
    ASSERT_NE(machine, nullptr);
    if (i > 0) {
      EXPECT_EQ(Counter(*machine), last);
      EXPECT_GE(machine->board().clock().Now100ns(), last_time);
      EXPECT_LT(machine->board().clock().Now100ns(), last_time + 10'000'000) << "time ran on while it was saved";
      const Moment again = Moment::Of(*machine);
      for (size_t c = 0; c < moment.saved.components.size(); ++c) {
        if (again.saved.components[c].name == "engine") continue;      // its time goes on
        if (again.saved.components[c].name == "acpi-power") continue;  // it has word of the generation id for the guest
        EXPECT_EQ(again.saved.components[c].state, moment.saved.components[c].state) << moment.saved.components[c].name;
      }
    }
    const std::string generation_id = GenerationId(*machine);
    EXPECT_TRUE(generation_ids.insert(generation_id).second) << "of another machine";
    std::thread thread([&] { EXPECT_EQ(machine->Run().outcome, Outcome::kStopped); });
    while (Counter(*machine) < last + 1000) std::this_thread::yield();
    machine->controller().WhilePaused([&] {
      EXPECT_EQ(GenerationId(*machine), generation_id);
      last = Counter(*machine);
      last_time = machine->board().clock().Now100ns();
      moment = Moment::Of(*machine);
      machine->Stop();
      return absl::OkStatus();
    });
    thread.join();
  }
}

// Before any component is asked: with a part that is gone its channel is gone, too, of which VMBus would say less.
TEST_F(SavedMachineTest, AStateIsOfAMachineWithTheSameParts) {
  class Counter : public Part, public state::Component {
   public:
    Counter(std::string name, uint32_t instance) : name_(std::move(name)), instance_(instance) {}
    absl::Status Attach(Board& board) override {
      vmbus::Offer offer;
      offer.class_id.data1 = 1;
      offer.instance_id.data1 = instance_;
      auto channel = board.vmbus().OfferChannel(offer, pump_, board.loop());
      if (channel.ok()) channel_ = *std::move(channel);
      return channel.status();
    }
    void Detach() override { channel_.reset(); }
    std::vector<state::Component*> components() override { return {this}; }
    std::string StateName() const override { return name_; }
    absl::Status Save(state::StateWriter&) const override { return absl::OkStatus(); }
    absl::Status Restore(state::StateReader&) override { return absl::OkStatus(); }
    void Reset() override {}

   private:
    class Pump : public vmbus::PacketPump {
     public:
      Pump() : PacketPump({.max_packet_bytes = 64, .max_completion_bytes = 8}) {}

     private:
      vmbus::Take OnPacket(const vmbus::Packet&) override { return vmbus::Take::kMalformed; }
    };
    const std::string name_;
    const uint32_t instance_;
    Pump pump_;
    std::unique_ptr<vmbus::Channel> channel_;
  };
  auto backend = vmm::CreateBackend("software");
  ASSERT_TRUE(backend.ok());
  Counter one("counter/0", 1), two("counter/1", 2);
  MachineOptions options{.backend = backend->get(), .cpus = 1, .parts = {&one, &two}};
  Moment moment;
  {
    std::unique_ptr<Machine> machine = Make(Count(), options);
    ASSERT_NE(machine, nullptr);
    moment = Moment::Of(*machine);
  }
  moment.PutInto(options);
  const auto message_with = [&](uint32_t cpus, std::vector<Part*> parts) {
    options.cpus = cpus;
    options.parts = std::move(parts);
    boot::LoadInput blame;
    const absl::Status status = Machine::Create(options, *loop_, blame).status();
    EXPECT_EQ(status.ok() ? boot::LoadInput::kState : blame, boot::LoadInput::kState);
    return std::string(status.message());
  };
  options.kernel = source_.get();
  options.memory_bytes = 8 << 20;
  const std::string other = ": it is of a machine with other processors, devices or parts";
  EXPECT_EQ(message_with(1, {&one, &two}), "");
  EXPECT_EQ(message_with(1, {&one}), "the state has counter/1, which this machine has not" + other);
  EXPECT_EQ(message_with(1, {}), "the state has counter/0, which this machine has not" + other);
  EXPECT_EQ(message_with(2, {&one, &two}), "the state has no vp/1" + other);
}

// A reset is the same machine's, also of one that was restored; what is restored twice are two.
TEST_F(SavedMachineTest, TheGenerationIdIsTheMachines) {
  auto backend = vmm::CreateBackend("software");
  ASSERT_TRUE(backend.ok());
  MachineOptions options{.backend = backend->get(), .cpus = 1};
  Moment moment;
  std::set<std::string> generation_ids;
  for (int i = 0; i < 3; ++i) {
    if (i > 0) moment.PutInto(options);
    std::unique_ptr<Machine> machine = Make(Count(), options);
    ASSERT_NE(machine, nullptr);
    const std::string generation_id = GenerationId(*machine);
    EXPECT_TRUE(generation_ids.insert(generation_id).second);
    if (i == 0) moment = Moment::Of(*machine);
    machine->controller().Reset([&](const absl::Status& status) {
      EXPECT_TRUE(status.ok()) << status;
      EXPECT_EQ(GenerationId(*machine), generation_id);
      machine->Stop();
    });
    EXPECT_EQ(machine->Run().outcome, Outcome::kStopped);
    EXPECT_EQ(machine->resets(), 1u);
  }
}

// To the last instruction: the hash of a run that was saved and restored at any moment is that of one that was not.
TEST_F(SavedMachineTest, ADeterministicMachineEndsTheSame) {
  // Sleeps by its local APIC's timer, one-shot and periodic, between calculations, and looks at its clocks.
  std::string code = WriteMsr(0x1B, 0xFEE00000 | 1 << 11 | 1 << 10 | 1 << 8);  // x2APIC mode
  code += WriteMsr(0x80F, 0x1FF);                                              // enabled
  code += WriteMsr(0x832, 1 << 17 | 0x40 | 1 << 16);                           // the timer, periodic and masked
  code += WriteMsr(0x83E, 0xB);
  code += WriteMsr(0x838, 123457);
  const size_t loop = code.size();
  code += "\x0F\x31";                                    // rdtsc
  code += "\x01\xC7";                                    // add edi, eax
  code += ReadMsr(0x40000020) + "\x31\xC7";              // the reference counter: xor edi, eax
  code += ReadMsr(0x839) + "\x01\xC7";                   // the timer's count: add edi, eax
  code += "\x0F\xC7\xF0\x01\xC7";                        // rdrand eax; add edi, eax
  code += std::string("\x89\x3D\0\0\x40\0", 6);          // mov [kCounterGpa], edi
  code += std::string("\x46\x81\xFE\xF0\x49\x02\0", 7);  // inc esi; cmp esi, 150000
  code += "\x0F\x82";
  boot::Append<uint32_t>(code, static_cast<uint32_t>(loop - (code.size() + 4)));  // jb loop
  code += kPowerOff + kHalt;

  const uint32_t seed = TestSeed();
  std::mt19937 random(seed);
  const auto run = [&](const Moment* from, uint64_t save_at_100ns, Moment* to) {
    backend::SoftwareTime time;
    auto backend = backend::CreateSoftwareBackend({.instruction_time = &time});
    MachineOptions options{.backend = backend->get(), .cpus = 1, .instruction_time = &time};
    if (from != nullptr) from->PutInto(options);
    std::unique_ptr<Machine> machine = Make(code, options);
    std::unique_ptr<Timer> timer = machine->board().timers().CreateTimer([&] {
      machine->controller().WhilePaused([&] {
        *to = Moment::Of(*machine);
        machine->Stop();
        return absl::OkStatus();
      });
    });
    if (to != nullptr) timer->Arm(save_at_100ns);
    const MachineResult result = machine->Run();
    timer.reset();
    return result;
  };
  const MachineResult whole = run(nullptr, 0, nullptr);
  ASSERT_EQ(whole.outcome, Outcome::kPoweredOff);
  const uint64_t length_100ns = whole.instructions / 100;
  for (uint32_t i = 0; i < ScaledCount(10); ++i) {
    Moment moment;
    const uint64_t first = 1 + random() % (length_100ns / 2), second = first + 1 + random() % (length_100ns / 3);
    ASSERT_EQ(run(nullptr, first, &moment).outcome, Outcome::kStopped);
    Moment later;
    ASSERT_EQ(run(&moment, second, &later).outcome, Outcome::kStopped);
    const MachineResult end = run(&later, 0, nullptr);
    EXPECT_EQ(end.outcome, Outcome::kPoweredOff);
    EXPECT_EQ(end.instructions, whole.instructions) << "seed " << seed << ", at " << first << " and " << second;
    EXPECT_EQ(end.state_hash, whole.state_hash) << "seed " << seed << ", at " << first << " and " << second;
  }
}

}  // namespace
}  // namespace hvsdk::machine
