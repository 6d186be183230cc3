// SPDX-License-Identifier: Apache-2.0
// The guest of own_vmm: no operating system. It uses each thing that the monitor has added, and says what came of it.
#include <cstddef>
#include <cstdint>

#include "hvsdk/hvdef/hypercall.h"
#include "hvsdk/hvdef/message.h"
#include "hvsdk/hvdef/msr.h"
#include "hvsdk/hvdef/status.h"
#include "hvsdk/vsc/client_rings.h"
#include "hvsdk/vsc/vmbus_client.h"
#include "protocol.h"

using namespace hvsdk;

extern "C" {
extern volatile uint8_t doorbell_value;
void DoorbellEntry();
}

namespace {

// Memory is mapped where it is, so a page's address is its guest physical address.
struct alignas(4096) Page {
  uint8_t bytes[4096];
  uint64_t gpa() const { return reinterpret_cast<uint64_t>(bytes); }
};
Page hypercall_page, input_page, message_page, event_page;
constexpr uint32_t kRingPages = 4;
Page ring_memory[2 * kRingPages];

void Out(uint16_t port, uint8_t value) { asm volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }
uint8_t In(uint16_t port) {
  uint8_t value;
  asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}
void WriteMsr(uint32_t msr, uint64_t value) {
  asm volatile("wrmsr" ::"c"(msr), "a"(uint32_t(value)), "d"(uint32_t(value >> 32)) : "memory");
}
uint64_t ReadMsr(uint32_t msr) {
  uint32_t low, high;
  asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
  return uint64_t{high} << 32 | low;
}
template <typename T>
volatile T& At(uint64_t address) {
  return *reinterpret_cast<volatile T*>(address);
}
void Print(const char* text) {
  for (; *text != '\0'; ++text) Out(0x3F8, static_cast<uint8_t>(*text));
}
void Print(uint64_t number) {
  if (number >= 10) Print(number / 10);
  Out(0x3F8, static_cast<uint8_t>('0' + number % 10));
}
[[noreturn]] void PowerOff() {
  for (;;) Out(0x600, 1 << 5 | 5 << 2);  // ACPI's sleep control register
}

// The XSDT's last table is the monitor's own.
void FindTable(uint64_t rsdp) {
  const uint64_t xsdt = At<uint64_t>(rsdp + 24);
  const uint64_t table = At<uint64_t>(xsdt + At<uint32_t>(xsdt + 4) - 8);
  if (At<uint32_t>(table) != own::kSignature) return Print("no ACPI table of ours\n");
  Print("ACPI: ");
  for (uint64_t at = table + 36; at < table + At<uint32_t>(table + 4); ++at) Out(0x3F8, At<uint8_t>(at));
  Print("\n");
}

// Pin kDoorbellIrq of the I/O APIC, level-triggered, becomes vector 0x30 of this processor.
void RingDoorbell() {
  static uint64_t idt[2 * 256];
  const auto entry = reinterpret_cast<uint64_t>(&DoorbellEntry);
  idt[2 * 0x30] = (entry & 0xFFFF) | 0x08 << 16 | uint64_t{0x8E00} << 32 | (entry >> 16 & 0xFFFF) << 48;
  const struct __attribute__((packed)) {
    uint16_t limit;
    uint64_t base;
  } pointer = {sizeof(idt) - 1, reinterpret_cast<uint64_t>(idt)};
  asm volatile("lidt %0" ::"m"(pointer) : "memory");
  Out(0x21, 0xFF), Out(0xA1, 0xFF);  // where there are 8259s, they keep quiet
  At<uint32_t>(0xFEE000F0) = 0x1FF;  // the local APIC is on
  const auto io_apic = [](uint32_t index, uint32_t value) {
    At<uint32_t>(0xFEC00000) = index;
    At<uint32_t>(0xFEC00010) = value;
  };
  io_apic(0x11 + 2 * own::kDoorbellIrq, 0);
  io_apic(0x10 + 2 * own::kDoorbellIrq, 1 << 15 | 0x30);
  At<uint8_t>(own::kDoorbellGpa) = 77;
  while (doorbell_value == 0) asm volatile("sti; nop; cli" ::: "memory");
  Print("doorbell: ");
  Print(doorbell_value);
  Print("\n");
}

hvdef::HvStatus Hypercall(hvdef::Control control, uint64_t input) {
  uint64_t result, rcx = control.value;
  register uint64_t r8 asm("r8") = 0;
  asm volatile("call *%4"
               : "=a"(result), "+c"(rcx), "+d"(input), "+r"(r8)
               : "r"(hypercall_page.bytes)
               : "r9", "r10", "r11", "memory", "cc");
  return hvdef::ResultStatus(result);
}
hvdef::HvStatus PostMessage(void*, uint32_t connection, const void* payload, uint32_t size) {
  auto& input = *reinterpret_cast<hvdef::PostMessageInput*>(input_page.bytes);
  input = {connection, 0, hvdef::vmbus::kSynicMessageType, size, {}};
  __builtin_memcpy(input.payload, payload, size);
  return Hypercall(hvdef::Control::Make(uint16_t(hvdef::CallCode::kPostMessage)), input_page.gpa());
}
hvdef::HvStatus SignalEvent(void*, uint32_t connection) {
  return Hypercall(hvdef::Control::Make(uint16_t(hvdef::CallCode::kSignalEvent), /*fast=*/true), connection);
}

struct Offers {
  bool has_device = false, all = false;
  hvdef::vmbus::OfferChannel device = {};
};

// Serves the bus, without interrupts, until `done`.
template <typename Done>
void ServeUntil(vsc::VmbusClient& bus, Done done) {
  auto& slot = reinterpret_cast<volatile hvdef::Message*>(message_page.bytes)[hvdef::vmbus::kMessageSint];
  while (!done()) {
    if (slot.header.message_type != 0) {
      hvdef::Message message;
      __builtin_memcpy(&message, const_cast<const hvdef::Message*>(&slot), sizeof(message));
      slot.header.message_type = 0;
      asm volatile("lock orl $0, (%%rsp)" ::: "memory", "cc");  // the slot is empty before we look at the flag
      if ((slot.header.flags & hvdef::kMessagePending) != 0) WriteMsr(hvdef::msr::kEom, 0);
      bus.OnMessage(message.payload, message.header.payload_size);
    }
    bus.OnEvents(
        reinterpret_cast<uint64_t*>(event_page.bytes + hvdef::vmbus::kMessageSint * hvdef::kEventFlagsBytesPerSint));
    bus.Poll();
  }
}

void ReverseOverVmbus() {
  namespace msr = hvdef::msr;
  WriteMsr(msr::kGuestOsId, uint64_t{1} << 63 | 1);  // an open-source system
  WriteMsr(msr::kHypercall, hypercall_page.gpa() | msr::kPageEnable);
  WriteMsr(msr::kSimp, message_page.gpa() | msr::kPageEnable);
  WriteMsr(msr::kSiefp, event_page.gpa() | msr::kPageEnable);
  WriteMsr(msr::kSint0 + hvdef::vmbus::kMessageSint, msr::kSintPolling);
  WriteMsr(msr::kScontrol, msr::kScontrolEnable);

  Offers offers;
  vsc::VmbusClient::Config config;
  config.hypercalls = {nullptr, PostMessage, SignalEvent};
  config.handlers.context = &offers;
  config.handlers.on_offer = [](void* context, const hvdef::vmbus::OfferChannel& offer) {
    auto& found = *static_cast<Offers*>(context);
    if (!(offer.class_id == own::kReverser)) return;
    found.device = offer;
    found.has_device = true;
  };
  config.handlers.on_all_offers = [](void* context) { static_cast<Offers*>(context)->all = true; };
  config.oldest_version = hvdef::vmbus::Version::kV3_0;
  vsc::VmbusClient bus(config);
  bus.Connect();
  ServeUntil(bus, [&] { return bus.state() != vsc::VmbusClient::State::kConnecting; });
  bus.RequestOffers();
  ServeUntil(bus, [&] { return offers.all; });
  const vsc::RingPages pages = {{.first_pfn = ring_memory[0].gpa() / 4096, .page_count = 2 * kRingPages}, kRingPages};
  vsc::ClientRings rings = vsc::ClientRings::Create(ring_memory, pages);
  vsc::Channel channel;
  if (!offers.has_device || !bus.Open(channel, offers.device, pages)) return Print("no VMBus device of ours\n");
  ServeUntil(bus, [&] { return channel.state() == vsc::Channel::State::kOpen; });
  const char text[] = {'s', 'u', 'B', 'M', 'V', ' ', 'i', 'h'};  // whole words, as packets are
  (void)rings.outgoing.StageInBand(vmbus::PacketHeader::InBand(1, true), text, sizeof(text));
  if (rings.outgoing.Publish() == vmbus::Signal::kNeeded) bus.Signal(channel);
  alignas(8) uint8_t answer[64] = {};
  vmbus::Packet packet;
  ServeUntil(bus, [&] { return rings.incoming.Read(answer, sizeof(answer), packet) == vmbus::RingStatus::kOk; });
  Print("VMBus: ");
  for (uint32_t i = 0; i < sizeof(text); ++i) Out(0x3F8, packet.payload[i]);
  Print("\n");
  bus.Close(channel);
  ServeUntil(bus, [&] { return channel.state() == vsc::Channel::State::kNone; });
}

}  // namespace

extern "C" void KernelMain(uint64_t rsdp) {
  (void)In(own::kCounterPort);
  Print("port: ");
  Print(In(own::kCounterPort));
  uint32_t eax = own::kCpuidLeaf, ebx, ecx = 0, edx;
  asm volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  Print(eax == own::kSignature ? "\nCPUID: ours\n" : "\nCPUID: not ours\n");
  WriteMsr(own::kMsr, 5);
  Print("MSR: ");
  Print(-ReadMsr(own::kMsr));
  Print("\n");
  FindTable(rsdp);
  RingDoorbell();
  ReverseOverVmbus();
  for (const char* text = "the guest says goodbye to its monitor\n"; *text != '\0'; ++text) Out(own::kLogPort, *text);
  PowerOff();
}

// The compiler's and the client's whole library.
extern "C" void* memcpy(void* to, const void* from, size_t size) {
  void* out = to;
  asm volatile("rep movsb" : "+D"(out), "+S"(from), "+c"(size)::"memory");
  return to;
}
extern "C" void* memset(void* to, int value, size_t size) {
  void* out = to;
  asm volatile("rep stosb" : "+D"(out), "+c"(size) : "a"(value) : "memory");
  return to;
}
