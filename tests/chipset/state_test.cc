// SPDX-License-Identifier: Apache-2.0
// Every device of the chipset as a component: random guests, with a save and a restore in the midst.

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "hvsdk/base/fake_clock.h"
#include "hvsdk/chipset/pci_config.h"
#include "hvsdk/chipset/pci_video.h"
#include "hvsdk/chipset/power.h"
#include "hvsdk/chipset/rtc.h"
#include "hvsdk/chipset/uart16550.h"
#include "tests/state/component_suite.h"

namespace hvsdk::chipset {
namespace {

// A guest's random access to a device; what it read.
std::string Access(Device& device, uint64_t ports, std::mt19937_64& random, size_t size = 1) {
  uint8_t data[4];
  for (uint8_t& byte : data) byte = static_cast<uint8_t>(random());
  const uint64_t offset = random() % ports;
  if (random() % 2 == 0) {
    device.Write(offset, {data, size});
    return absl::StrCat("wrote ", offset);
  }
  device.Read(offset, {data, size});
  std::string seen = absl::StrCat("read ", offset, ":");
  for (size_t i = 0; i < size; ++i) absl::StrAppend(&seen, " ", data[i]);
  return seen;
}

// The wire's end, which a restore of the interrupt controllers has put where it was.
struct Wire {
  bool level = false;
  auto Sink() {
    return [this](bool now) { level = now; };
  }
};

struct Handler : PowerHandler {
  int offs = 0, resets = 0;
  void OnPowerOff() override { ++offs; }
  void OnReset() override { ++resets; }
};

struct AcpiSubject {
  state::Component& component() { return power; }
  std::string Step(std::mt19937_64& random) {
    if (random() % 8 == 0) power.PressPowerButton();
    if (random() % 8 == 0) power.OnRtcAlarm();
    if (random() % 8 == 0) power.OnNewGenerationId();
    return absl::StrCat(Access(power, AcpiPower::kPorts, random), " ", wire.level);
  }
  void CopyWorld(AcpiSubject& from) { wire.level = from.wire.level; }
  Wire wire;
  Handler handler;
  AcpiPower power{handler, wire.Sink()};
};
TEST(ChipsetStateTest, AcpiPower) {
  state::CheckComponent([] { return std::make_unique<AcpiSubject>(); });
}

struct KeyboardSubject {
  state::Component& component() { return keyboard; }
  std::string Step(std::mt19937_64& random) {
    uint8_t data = random() % 2 != 0 ? static_cast<uint8_t>(0x20 << random() % 3 | random() % 2)
                                     : static_cast<uint8_t>(0xA9 + random() % 40);
    const uint64_t offset = random() % 2 * KeyboardController::kCommand;
    if (random() % 2 == 0) {
      keyboard.Write(offset, {&data, 1});
    } else {
      keyboard.Read(offset, {&data, 1});
    }
    return absl::StrCat(offset, " ", data);
  }
  void CopyWorld(KeyboardSubject&) {}
  Handler handler;
  KeyboardController keyboard{handler};
};
TEST(ChipsetStateTest, Keyboard) {
  state::CheckComponent([] { return std::make_unique<KeyboardSubject>(); });
}

struct SystemControlSubject {
  state::Component& component() { return port; }
  std::string Step(std::mt19937_64& random) { return Access(port, 1, random); }
  void CopyWorld(SystemControlSubject&) {}
  Handler handler;
  SystemControlPort port{handler};
};
TEST(ChipsetStateTest, SystemControl) {
  state::CheckComponent([] { return std::make_unique<SystemControlSubject>(); });
}

struct PciVideoSubject {
  state::Component& component() { return video; }
  std::string Step(std::mt19937_64& random) {
    const auto at = static_cast<uint8_t>(random() % 24);
    if (random() % 2 == 0) video.WriteConfig(at, static_cast<uint8_t>(random()));
    return absl::StrCat(video.ReadConfig(at), "\n");
  }
  void CopyWorld(PciVideoSubject&) {}
  PciVideo video{0xF8000000, 8 << 20};
};
TEST(ChipsetStateTest, PciVideo) {
  state::CheckComponent([] { return std::make_unique<PciVideoSubject>(); });
}

struct PciSubject {
  state::Component& component() { return pci; }
  std::string Step(std::mt19937_64& random) { return Access(pci, 5, random, random() % 3 == 0 ? 1 : 4); }
  void CopyWorld(PciSubject&) {}
  PciConfigPorts pci;
};
TEST(ChipsetStateTest, PciConfig) {
  state::CheckComponent([] { return std::make_unique<PciSubject>(); });
}

// Civil time that goes with the machine's clock.
struct FakeWallClock : WallClock {
  explicit FakeWallClock(const Clock& clock) : clock(clock) {}
  int64_t NowNs() const override { return 1'700'000'000'000'000'000 + static_cast<int64_t>(clock.Now100ns()) * 100; }
  const Clock& clock;
};

struct RtcSubject {
  state::Component& component() { return rtc; }
  std::string Step(std::mt19937_64& random) {
    if (random() % 4 == 0) timers.AdvanceBy(random() % 30'000'000);
    // The registers rather than the memory.
    uint8_t index = static_cast<uint8_t>(random() % 8 == 0 ? random() : random() % 14);
    if (random() % 3 != 0) rtc.Write(0, {&index, 1});
    return absl::StrCat(Access(rtc, 2, random), " ", wire.level);
  }
  void CopyWorld(RtcSubject& from) {
    clock.Set(from.clock.Now100ns());
    wire.level = from.wire.level;
  }
  void Settle() { clock.Set(0); }  // when it was made, for the sake of comparison
  FakeClock clock;
  FakeTimerQueue timers{clock};
  FakeWallClock civil{clock};
  Wire wire;
  Rtc rtc{civil, clock, timers, wire.Sink()};
};

struct UartSubject {
  state::Component& component() { return uart; }
  std::string Step(std::mt19937_64& random) {
    switch (random() % 5) {
      case 0: {
        uint8_t input[5];
        for (uint8_t& byte : input) byte = static_cast<uint8_t>(random());
        return absl::StrCat("took ", uart.PutInput({input, random() % 6}), " ", wire.level);
      }
      case 1: {
        uint8_t output[7];
        const size_t count = uart.TakeOutput({output, random() % 8});
        return absl::StrCat("sent ", absl::string_view(reinterpret_cast<char*>(output), count), " ", wire.level);
      }
      default:
        return absl::StrCat(Access(uart, Uart16550::kPorts, random), " ", wire.level);
    }
  }
  void CopyWorld(UartSubject& from) { wire.level = from.wire.level; }
  void Settle() {
    uint8_t rest[4096];
    while (uart.TakeOutput(absl::MakeSpan(rest)) != 0) {
    }
  }
  Wire wire;
  Uart16550 uart{{.irq = wire.Sink(), .output_ready = nullptr, .input_room = nullptr}};
};
// A guest that polls sends what it likes without an interrupt.
TEST(ChipsetStateTest, UartAfterMuchOutput) {
  UartSubject subject;
  for (int i = 0; i < 100'000; ++i) {
    const uint8_t byte = 'x';
    subject.uart.Write(0, {&byte, 1});
    subject.Settle();
  }
  UartSubject restored;
  const absl::Status status = state::RestoreOf(restored.uart, state::SaveOf(subject.uart));
  EXPECT_TRUE(status.ok()) << status;
}

TEST(ChipsetStateTest, Uart) {
  state::CheckComponent([] { return std::make_unique<UartSubject>(); });
}

TEST(ChipsetStateTest, Rtc) {
  state::CheckComponent([] { return std::make_unique<RtcSubject>(); });
}

}  // namespace
}  // namespace hvsdk::chipset
