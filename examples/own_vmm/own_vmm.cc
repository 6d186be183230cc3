// SPDX-License-Identifier: Apache-2.0
// A virtual machine monitor of one's own on hvsdk's board: devices on a port and in memory, an interrupt line, a device
// on VMBus, an MSR and a port that a layer answers, a CPUID leaf, an ACPI table, and a loader for 32-bit ELF kernels.
//
//   own_vmm GUEST [auto|kvm|software]
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <functional>
#include <memory>
#include <vector>

#include "elf32_loader.h"
#include "hvsdk/boot/acpi_tables.h"
#include "hvsdk/machine/machine.h"
#include "hvsdk/vmbus/packet_pump.h"
#include "hvsdk/vmm/backends.h"
#include "hvsdk/vmm/serial_console.h"
#include "protocol.h"

using namespace hvsdk;

class Counter final : public machine::Part, public ByteDevice {
 public:
  absl::string_view Name() const override { return "counter"; }
  absl::Status Attach(machine::Board& board) override { return board.MapPorts(own::kCounterPort, 1, *this); }
  uint8_t ReadByte(uint64_t) override { return ++count_; }
  void WriteByte(uint64_t, uint8_t value) override { count_ = value; }

 private:
  std::atomic<uint8_t> count_{0};
};

class Doorbell final : public machine::Part, public Device {
 public:
  absl::string_view Name() const override { return "doorbell"; }
  absl::Status Attach(machine::Board& board) override {
    irq_ = board.IrqLine(own::kDoorbellIrq);
    return board.MapMmio(own::kDoorbellGpa, kPageSize, *this);
  }
  void Read(uint64_t, absl::Span<uint8_t> data) override {
    std::fill(data.begin(), data.end(), rung_.exchange(0));
    irq_(false);
  }
  void Write(uint64_t, absl::Span<const uint8_t> data) override {
    rung_ = data[0];
    irq_(true);
  }

 private:
  std::function<void(bool)> irq_;
  std::atomic<uint8_t> rung_{0};
};

// On VMBus: answers each packet with its bytes in reverse.
class Reverser final : public machine::Part, public vmbus::PacketPump {
 public:
  Reverser() : PacketPump({.max_packet_bytes = 256, .max_completion_bytes = 256}) {}
  absl::Status Attach(machine::Board& board) override {
    vmbus::Offer offer;
    offer.class_id = own::kReverser;
    auto channel = board.vmbus().OfferChannel(offer, *this, board.loop());
    if (channel.ok()) channel_ = *std::move(channel);
    return channel.status();
  }
  void Detach() override { channel_.reset(); }

 private:
  vmbus::Take OnPacket(const vmbus::Packet& packet) override {
    const std::vector<uint8_t> answer(std::reverse_iterator(packet.payload + packet.payload_size),
                                      std::reverse_iterator(packet.payload));
    Complete(packet, answer.data(), static_cast<uint32_t>(answer.size()));
    return vmbus::Take::kMore;
  }

  std::unique_ptr<vmbus::Channel> channel_;
};

// What no device answers: an MSR and a debug port, CPUID and ACPI.
class Personality final : public machine::Part, public machine::ExitLayer {
 public:
  absl::Status Attach(machine::Board& board) override {
    board.EditCpuid(
        [](machine::Board::CpuidTable& cpuid) { cpuid.push_back({.leaf = own::kCpuidLeaf, .eax = own::kSignature}); });
    board.AddAcpiTable(boot::MakeAcpiTable("OWN!", 1, "hello by ACPI"));
    board.AddLayer(*this);
    return absl::OkStatus();
  }
  void OnPortWrite(backend::Vp& vp, uint16_t port, absl::Span<const uint8_t> data) override {
    if (port != own::kLogPort) return next().OnPortWrite(vp, port, data);
    std::fwrite(data.data(), 1, data.size(), stderr);
  }
  backend::MsrOutcome OnMsrRead(backend::Vp& vp, uint32_t msr, uint64_t& value) override {
    if (msr != own::kMsr) return next().OnMsrRead(vp, msr, value);
    return value = -msr_, backend::MsrOutcome::kDone;
  }
  backend::MsrOutcome OnMsrWrite(backend::Vp& vp, uint32_t msr, uint64_t value) override {
    if (msr != own::kMsr) return next().OnMsrWrite(vp, msr, value);
    return msr_ = value, backend::MsrOutcome::kDone;
  }

 private:
  std::atomic<uint64_t> msr_{0};
};

int main(int argc, char** argv) {
  constexpr int kCannotRunHere = 77;
  const auto backend = vmm::CreateBackend(argc > 2 ? argv[2] : "auto");
  if (!backend.ok()) return std::fprintf(stderr, "%s\n", backend.status().ToString().c_str()), kCannotRunHere;
  const auto guest = boot::OpenFileSource(argc > 1 ? argv[1] : "");
  const auto loop = os::EventLoop::Create();
  if (!guest.ok() || !loop.ok()) return std::fprintf(stderr, "own_vmm: cannot open the guest\n"), 2;
  vmm::SerialConsole console(**loop, {.output_fd = STDOUT_FILENO});
  Counter counter;
  Doorbell doorbell;
  Reverser reverser;
  Personality personality;
  own::Elf32Loader loader(**guest);
  boot::LoadInput blame;
  const auto machine = machine::Machine::Create({.backend = backend->get(),
                                                 .memory_bytes = 64 << 20,
                                                 .cpus = 1,
                                                 .serial = &console,
                                                 .parts = {&counter, &doorbell, &reverser, &personality},
                                                 .loader = &loader},
                                                **loop, blame);
  if (!machine.ok()) return std::fprintf(stderr, "own_vmm: %s\n", machine.status().ToString().c_str()), 2;
  return (*machine)->Run().outcome == machine::Outcome::kPoweredOff ? 0 : 1;
}
