// SPDX-License-Identifier: Apache-2.0
// A guest kernel of several processors that means harm to whoever runs it. The command line says how; once it is at it, it says
// "hostile" on the serial port, and goes on until somebody ends it.
//
//   full-ring      commands for a disk whose answers it never takes, and it would not signal that it had
//   long-commands  as many long SCSI commands as there may be, without end
//   messages       messages to VMBus from every processor
//   signals        signals and messages to an open channel from every processor
//   random         hypercalls, registers of other processors, and MSRs, at random
//   devices        whatever comes to mind to every device that is offered: what the root said with lies in it, messages of all protocols,
//                  memory that is none, rings that are broken, closed and opened

#include <iterator>

#include "console.h"
#include "cpu.h"
#include "hvsdk/hvdef/guid.h"
#include "hvsdk/hvdef/register.h"
#include "hvsdk/hvdef/socket.h"
#include "hvsdk/hvdef/vmbus.h"
#include "hvsdk/vmbus/ring/packet.h"
#include "hvsdk/vsc/client_rings.h"
#include "hvsdk/vsc/storage_client.h"
#include "hvsdk/vsc/vmbus_client.h"
#include "hypervisor.h"

namespace hvdef = hvsdk::hvdef;
namespace vmbus = hvsdk::hvdef::vmbus;
namespace vsc = hvsdk::vsc;
using hvdef::PostMessageInput;
using vsc::VmbusClient;

extern "C" {
extern uint64_t boot_pml4[], boot_gdt[];
}

namespace {

constexpr uint32_t kProcessors = 4;
constexpr uint32_t kDiskBlocks = 1u << 29;  // run.py: 256 GiB

// --- Chance. ---

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed | 1) {}
  uint64_t Next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }
  uint32_t Below(uint32_t limit) { return static_cast<uint32_t>(Next() >> 16) % limit; }
  bool OneIn(uint32_t times) { return Below(times) == 0; }

 private:
  uint64_t state_;
};

// --- Other processors. ---

using Work = void (*)(uint32_t processor);
Work work;
Page stacks[kProcessors][4], inputs[kProcessors], outputs[kProcessors];
volatile uint32_t started;

// They have no interrupt handlers; nothing they do may fault.
void ProcessorMain() {
  const uint32_t processor = __atomic_add_fetch(&started, 1, __ATOMIC_SEQ_CST);
  for (;;) work(processor);
}

void StartProcessors(Work wanted) {
  work = wanted;
  constexpr uint16_t kCode = 0xA09B, kData = 0xC093, kTask = 0x008B, kNoTable = 0x0082;
  for (uint32_t vp = 1; vp < kProcessors; ++vp) {
    hvdef::StartVirtualProcessorInput start = {};
    start.partition_id = hvdef::kPartitionIdSelf;
    start.vp_index = vp;
    hvdef::InitialVpContext& context = start.context;
    context.rip = reinterpret_cast<uint64_t>(&ProcessorMain);
    context.rsp = stacks[vp][3].gpa() + kPageSize - 8;  // as behind a call
    context.rflags = 2;
    context.cs = {0, 0xFFFFFFFF, 0x08, kCode};
    context.ds = context.es = context.fs = context.gs = context.ss = {0, 0xFFFFFFFF, 0x10, kData};
    context.tr = {0, 0xFFFF, 0, kTask};
    context.ldtr = {0, 0xFFFF, 0, kNoTable};
    context.gdtr = {{}, 23, reinterpret_cast<uint64_t>(boot_gdt)};
    context.efer = 0x500;
    context.cr0 = 0x80010033;
    context.cr3 = reinterpret_cast<uint64_t>(boot_pml4);
    context.cr4 = 0x620;
    context.pat = 0x0007040600070406;
    (void)Call(CallCode::kStartVirtualProcessor, start);
    WaitUntil([=] { return started == vp; });
  }
}

[[noreturn]] void Everybody(Work wanted) {
  StartProcessors(wanted);
  Print("hostile\n");
  for (;;) wanted(0);
}

// --- A disk. ---

Page interrupt_page;
constexpr uint32_t kRingPages = 16;
Page rings[kRingPages];
Page pattern;
uint32_t channel_connection;

HvStatus PostMessage(void*, uint32_t connection, const void* payload, uint32_t size) {
  PostMessageInput input = {connection, 0, vmbus::kSynicMessageType, size, {}};
  __builtin_memcpy(input.payload, payload, size);
  return Call(CallCode::kPostMessage, input);
}
HvStatus SignalEvent(void*, uint32_t connection) { return FastCall(CallCode::kSignalEvent, connection, 0); }

struct Offers {
  bool has_disk = false;
  bool all = false;
  vmbus::OfferChannel disk = {};
};
Offers offers;

struct Disk {
  explicit Disk(uint32_t outgoing_pages)
      : client(Config()),
        pages{.pages = {.pfns = nullptr, .first_pfn = rings[0].pfn(), .page_count = kRingPages},
              .outgoing_pages = outgoing_pages},
        ends(vsc::ClientRings::Create(rings, pages)),
        storage(client, channel, ends) {
    client.Connect();
    Serve([&] { return client.state() == VmbusClient::State::kConnected; });
    client.RequestOffers();
    Serve([&] { return offers.all; });
    if (!offers.has_disk || !client.Open(channel, offers.disk, pages)) Print("no disk\n");
    Serve([&] { return channel.state() == vsc::Channel::State::kOpen; });
    channel_connection = offers.disk.connection_id;
    storage.Start();
    Serve([&] { return storage.state() == vsc::StorageClient::State::kReady; });
  }

  static VmbusClient::Config Config() {
    VmbusClient::Config config;
    config.hypercalls = {nullptr, PostMessage, SignalEvent};
    config.handlers.on_offer = [](void*, const vmbus::OfferChannel& offer) {
      if (!(offer.class_id == hvdef::class_id::kScsi)) return;
      offers.disk = offer;
      offers.has_disk = true;
    };
    config.handlers.on_all_offers = [](void*) { offers.all = true; };
    config.interrupt_page = interrupt_page.bytes;
    config.interrupt_page_gpa = interrupt_page.gpa();
    return config;
  }

  void Serve() {
    hvdef::Message message;
    if (TakeMessage(vmbus::kMessageSint, message)) client.OnMessage(message.payload, message.header.payload_size);
    client.OnEvents(EventFlags(vmbus::kMessageSint));
    client.Poll();
  }
  template <typename Done>
  void Serve(Done done) {
    WaitUntil([&] {
      Serve();
      return done();
    });
  }

  VmbusClient client;
  vsc::Channel channel;
  const vsc::RingPages pages;
  const vsc::ClientRings ends;
  vsc::StorageClient storage;
};

constexpr uint32_t kRequests = vsc::StorageClient::kMaxRequests;
vsc::StorageRequest requests[kRequests];

[[noreturn]] void FullRing() {
  static Disk disk(kRingPages - 2);  // a page for answers
  auto* const control = reinterpret_cast<hvdef::RingControl*>(rings[0].bytes);
  control->feature_bits = 0;
  for (vsc::StorageRequest& request : requests) {
    request = {};
    request.SetTestUnitReady();
    (void)disk.storage.Send(request);
  }
  disk.storage.Publish();
  Wait(500 * kMillisecond);
  Print("hostile\n");
  for (;;) Pause();
}

[[noreturn]] void LongCommands() {
  static Disk disk(kRingPages / 2);
  static Random random(ReadTsc());
  for (uint32_t i = 0; i < kPageSize; ++i) pattern.bytes[i] = static_cast<uint8_t>(random.Next());
  static uint64_t pfn = pattern.pfn();
  const auto fill = [](vsc::StorageRequest& request) {
    request = {};
    request.SetTestUnitReady();
    request.cdb_length = 16;
    const bool is_verify = !random.OneIn(8);
    // VERIFY (16) anywhere, some too long; WRITE SAME (16) of a pattern, in the same 64 MiB.
    request.cdb[0] = is_verify ? 0x8F : 0x93;
    const uint32_t lba = is_verify ? random.Below(kDiskBlocks - 0x20000) : 0;
    const uint32_t blocks = !is_verify ? 0x20000 : random.OneIn(4) ? random.Below(kDiskBlocks / 2) : 2048;
    for (int i = 0; i < 4; ++i) {
      request.cdb[6 + i] = static_cast<uint8_t>(lba >> (24 - 8 * i));
      request.cdb[10 + i] = static_cast<uint8_t>(blocks >> (24 - 8 * i));
    }
    if (!is_verify) {
      request.data_direction = hvdef::storvsc::kDataOut;
      request.data = {512, 0, &pfn};
    }
  };
  for (vsc::StorageRequest& request : requests) request.is_done = true;
  Print("hostile\n");
  for (;;) {
    for (vsc::StorageRequest& request : requests) {
      if (!request.is_done) continue;
      fill(request);
      if (!disk.storage.Send(request)) request.is_done = true;
    }
    disk.storage.Publish();
    disk.Serve();
  }
}

// --- Every device. ---

constexpr uint32_t kMostDevices = 24, kDeviceRingPages = 12, kScratchPages = 32, kMostPayload = 512;
constexpr uint32_t kHostPort = 512;  // run.py: where somebody listens
Page device_rings[kMostDevices][kDeviceRingPages], scratch[kScratchPages];

struct Victim {
  vmbus::OfferChannel offer = {};
  bool is_there = false, is_gone = false;
  vsc::RingPages pages;
  vsc::ClientRings ends;
  vsc::Channel channel;
  // What the root said last.
  alignas(8) uint8_t said[kMostPayload] = {};
  uint32_t said_size = 0;
  uint64_t said_id = 0;
};
Victim victims[kMostDevices];

Victim* VictimOf(uint32_t channel_id) {
  for (Victim& victim : victims) {
    if (victim.is_there && victim.offer.channel_id == channel_id) return &victim;
  }
  return nullptr;
}

void OnAnyOffer(void*, const vmbus::OfferChannel& offer) {
  if (VictimOf(offer.channel_id) != nullptr) return;
  for (Victim& victim : victims) {
    if (victim.is_there) continue;
    victim.is_there = true;
    victim.offer = offer;
    return;
  }
}

// What a payload begins with: the words by which some protocol says what it is, and the rest by chance.
uint32_t MakePayload(Random& random, const Victim& victim, uint8_t* to) {
  auto* const words = reinterpret_cast<uint32_t*>(to);
  uint32_t size = 8 * random.Below(random.OneIn(8) ? kMostPayload / 8 : 16);
  for (uint32_t i = 0; i < kMostPayload / 4; ++i) {
    words[i] = random.OneIn(3) ? static_cast<uint32_t>(random.Next()) : random.Below(random.OneIn(2) ? 4 : 256);
  }
  switch (random.Below(6)) {
    case 0:
    case 1:  // an answer, of which something is not so
      if (victim.said_size == 0) break;
      size = victim.said_size;
      __builtin_memcpy(to, victim.said, size);
      for (uint32_t lies = random.Below(4); lies != 0; --lies)
        to[random.Below(size)] = static_cast<uint8_t>(random.Next());
      if (random.OneIn(8)) size = random.Below(size + 1);
      break;
    case 2:  // dynamic memory: type and size in 16 bits each, a number
      size = size < 8 ? 8 : size;
      words[0] = random.Below(16) | (random.OneIn(8) ? random.Below(0x10000) : size) << 16;
      break;
    case 3:  // pipes: 1, size; behind them type and size of display or mouse
      size = size < 16 ? 16 : size;
      words[0] = 1;
      words[1] = random.OneIn(8) ? static_cast<uint32_t>(random.Next()) : size - 8;
      words[2] = random.Below(16);
      words[3] = random.OneIn(8) ? static_cast<uint32_t>(random.Next()) : size - 8;
      break;
    case 4: {  // networks: NVSP's initialization, buffers and RNDIS
      static constexpr uint32_t kTypes[] = {1, 2, 100, 101, 103, 104, 105, 106, 107, 108, 125, 126, 130, 133};
      words[0] = kTypes[random.Below(std::size(kTypes))];
      break;
    }
    default:  // storage, keyboard: a small number
      words[0] = random.Below(16);
  }
  return size;
}

// What a driver that means well says first, so that there is more to be lied about.
void Greet(const Victim& victim, vsc::ClientRings& ends) {
  struct Greeting {
    hvdef::Guid class_id;
    uint32_t words[10];
    uint32_t size;
  };
  static constexpr Greeting kGreetings[] = {
      {hvdef::class_id::kDynamicMemory, {1 | 16 << 16, 1, 0x20000, 1}, 16},  // versions all
      {hvdef::class_id::kVideo, {1, 12, 1, 12, 0x50003}, 20},
      {hvdef::class_id::kMouse, {1, 12, 0, 4, 0x20000}, 20},
      {hvdef::class_id::kKeyboard, {1, 0x10000}, 8},
      {hvdef::class_id::kNetwork, {1, 0x60001, 0x60001}, 40},
  };
  for (const Greeting& greeting : kGreetings) {
    if (!(greeting.class_id == victim.offer.class_id)) continue;
    (void)ends.outgoing.StageInBand(hvsdk::vmbus::PacketHeader::InBand(1, true), greeting.words, greeting.size);
  }
}

void SayAnything(Random& random, Victim& victim) {
  alignas(8) uint8_t payload[kMostPayload];
  const uint32_t size = MakePayload(random, victim, payload);
  const uint64_t id = random.OneIn(2) ? victim.said_id : random.Next();
  const bool wants_answer = random.OneIn(2);
  hvsdk::vmbus::RingStatus status;
  if (random.OneIn(4)) {
    // Memory that nobody misses, or none: there is nothing so high.
    constexpr uint64_t kNowhere = uint64_t{1} << 36;
    uint64_t pfns[8];
    for (uint64_t& pfn : pfns) {
      pfn = random.OneIn(8) ? random.Next() >> random.Below(64) | kNowhere : scratch[random.Below(kScratchPages)].pfn();
    }
    const hvsdk::vmbus::GpaBuffer buffer = {1 + random.Below(7 * kPageSize), random.Below(kPageSize), pfns};
    status = victim.ends.outgoing.StageGpaDirect(id, wants_answer, &buffer, 1, payload, size);
  } else {
    const auto header = random.OneIn(3) ? hvsdk::vmbus::PacketHeader::Completion(id)
                                        : hvsdk::vmbus::PacketHeader::InBand(id, wants_answer);
    status = victim.ends.outgoing.StageInBand(header, payload, size);
  }
  (void)status;  // it is full, or broken
}

void Harm(Random& random, VmbusClient& client, Victim& victim) {
  using State = vsc::Channel::State;
  const State state = victim.channel.state();
  if (victim.is_gone) return;
  if (state == State::kNone || state == State::kFailed || state == State::kRescinded) {
    const uint32_t outgoing = 2 + random.Below(kDeviceRingPages - 3);
    Page* const memory = device_rings[&victim - victims];
    victim.pages = {.pages = {.pfns = nullptr, .first_pfn = memory[0].pfn(), .page_count = kDeviceRingPages},
                    .outgoing_pages = outgoing};
    victim.ends = vsc::ClientRings::Create(memory, victim.pages);
    if (!random.OneIn(4)) Greet(victim, victim.ends);
    (void)victim.ends.outgoing.Publish();  // the root looks when the channel opens
    (void)client.Open(victim.channel, victim.offer, victim.pages);
    return;
  }
  if (state != State::kOpen) return;
  // Now and then it reads nothing for a while.
  for (uint32_t left = random.OneIn(8) ? 0 : 8; left != 0; --left) {
    alignas(8) static uint8_t buffer[16384];
    hvsdk::vmbus::Packet packet;
    if (victim.ends.incoming.Read(buffer, sizeof(buffer), packet) != hvsdk::vmbus::RingStatus::kOk) break;
    victim.said_size = packet.payload_size < kMostPayload ? packet.payload_size : kMostPayload;
    __builtin_memcpy(victim.said, packet.payload, victim.said_size);
    victim.said_id = packet.transaction_id;
    if (victim.ends.incoming.Commit() == hvsdk::vmbus::Signal::kNeeded) client.Signal(victim.channel);
  }
  for (uint32_t left = random.Below(4); left != 0; --left) SayAnything(random, victim);
  if (victim.ends.outgoing.Publish() == hvsdk::vmbus::Signal::kNeeded || random.OneIn(16))
    client.Signal(victim.channel);
  if (random.OneIn(256)) {
    auto* const words = reinterpret_cast<uint32_t*>(
        device_rings[&victim - victims][random.OneIn(2) ? 0 : victim.pages.outgoing_pages].bytes);
    words[random.Below(16)] = static_cast<uint32_t>(random.Next());
    client.Signal(victim.channel);
  }
  if (random.OneIn(128) || !victim.ends.is_valid()) client.Close(victim.channel);
}

[[noreturn]] void Devices() {
  VmbusClient::Config config;
  config.hypercalls = {nullptr, PostMessage, SignalEvent};
  config.handlers.on_offer = OnAnyOffer;
  config.handlers.on_rescind = [](void*, uint32_t channel_id) {
    if (Victim* const victim = VictimOf(channel_id); victim != nullptr) victim->is_gone = true;
  };
  config.handlers.on_all_offers = [](void*) { offers.all = true; };
  config.interrupt_page = interrupt_page.bytes;
  config.interrupt_page_gpa = interrupt_page.gpa();
  static VmbusClient client(config);
  static Random random(ReadTsc());
  const auto serve = [] {
    hvdef::Message message;
    if (TakeMessage(vmbus::kMessageSint, message)) client.OnMessage(message.payload, message.header.payload_size);
    client.OnEvents(EventFlags(vmbus::kMessageSint));
    client.Poll();
  };
  client.Connect();
  WaitUntil([&] { return serve(), client.state() == VmbusClient::State::kConnected; });
  client.RequestOffers();
  WaitUntil([&] { return serve(), offers.all; });
  uint32_t count = 0;
  for (const Victim& victim : victims) count += victim.is_there;
  Print("devices ");
  PrintNumber(count);
  Print("\nhostile\n");
  for (;;) {
    for (Victim& victim : victims) {
      serve();
      if (victim.is_there) Harm(random, client, victim);
    }
    // Sockets, which are offered when somebody is there.
    const uint32_t port = random.OneIn(2) ? kHostPort : static_cast<uint32_t>(random.Next());
    if (random.OneIn(16)) {
      (void)client.TlConnect(hvdef::socket::ServiceOfPort(static_cast<uint32_t>(random.Next())),
                             hvdef::socket::ServiceOfPort(port));
    }
    for (Victim& victim : victims) {
      // Of one that was pulled out, and that it has let go of.
      if (victim.is_there && victim.is_gone && victim.channel.state() != vsc::Channel::State::kOpen) {
        victim.is_there = victim.is_gone = false;
        client.Release(victim.offer.channel_id);
      }
    }
  }
}

// --- VMBus. ---

uint64_t RawCall(CallCode code, uint32_t processor) {
  return CallHypervisor(Control::Make(static_cast<uint16_t>(code)).value, inputs[processor].gpa(),
                        outputs[processor].gpa());
}

void PostOnce(uint32_t processor) {
  static uint32_t turn[kProcessors];
  PostMessageInput input = {vmbus::kMessageConnectionId, 0, vmbus::kSynicMessageType, 240, {}};
  const uint32_t words[] = {
      ++turn[processor] % 3 == 0 ? turn[processor] % 32 : static_cast<uint32_t>(vmbus::MessageType::kInitiateContact),
      0,
      turn[processor] % 5 == 0 ? uint32_t{0x00050003} : uint32_t{0x00630000},
      0,
      vmbus::kMessageSint,
      0};
  __builtin_memcpy(input.payload, words, sizeof(words));
  __builtin_memcpy(inputs[processor].bytes, &input, sizeof(input));
  (void)RawCall(CallCode::kPostMessage, processor);
}

void SignalOnce(uint32_t processor) {
  static uint32_t turn[kProcessors];
  for (uint32_t i = 0; i < 64; ++i) {
    (void)FastCall(CallCode::kSignalEvent, i % 8 == 0 ? uint32_t{vmbus::kEventConnectionId} : channel_connection, 0);
  }
  if (++turn[processor] % 16 == 0) {
    // Of what the channel's life is made: nonsense about GPADLs and channels.
    PostMessageInput input = {vmbus::kMessageConnectionId, 0, vmbus::kSynicMessageType, 64, {}};
    const uint32_t words[] = {
        8 + turn[processor] / 16 % 6, 0, turn[processor] % 3, turn[processor] % 5, 0x10010, 4096, 0};
    __builtin_memcpy(input.payload, words, sizeof(words));
    __builtin_memcpy(inputs[processor].bytes, &input, sizeof(input));
    (void)RawCall(CallCode::kPostMessage, processor);
  }
}

// --- Anything. ---

// This one has nothing in its registers that it would miss, so the others may set them.
constexpr uint32_t kVictim = kProcessors - 1;
constexpr uint32_t kFirstGeneral = 0x00020000, kGenerals = 16;  // HvX64RegisterRax to R15

void AnyRegisters(Random& random, uint32_t processor) {
  auto* const bytes = inputs[processor].bytes;
  const bool is_set = random.OneIn(2);
  // Now and then one that matters, of anybody: that may be the end of this machine.
  const bool is_rash = random.OneIn(2048);
  hvdef::VpRegistersInput header = {hvdef::kPartitionIdSelf, kVictim, 0, {}};
  if (!is_set || is_rash) header.vp_index = random.Below(kProcessors + 1);
  __builtin_memcpy(bytes, &header, sizeof(header));
  const uint32_t count = 1 + random.Below(4);
  for (uint32_t i = 0; i < count; ++i) {
    static constexpr uint32_t kBlocks[] = {kFirstGeneral, 0x00010000, 0x00030000, 0x00040000, 0x00050000,
                                           0x00060000,    0x00080000, 0x00090000, 0x000A0000};
    const uint32_t name = is_set && !is_rash ? kFirstGeneral + random.Below(kGenerals)
                                             : kBlocks[random.Below(std::size(kBlocks))] + random.Below(32);
    if (is_set) {
      const hvdef::RegisterAssociation one = {name, 0, 0, {random.Next(), random.Next()}};
      __builtin_memcpy(bytes + sizeof(header) + i * sizeof(one), &one, sizeof(one));
    } else {
      __builtin_memcpy(bytes + sizeof(header) + i * sizeof(name), &name, sizeof(name));
    }
  }
  const CallCode code = is_set ? CallCode::kSetVpRegisters : CallCode::kGetVpRegisters;
  (void)CallHypervisor(Control::Make(static_cast<uint16_t>(code), false, 0, static_cast<uint16_t>(count)).value,
                       inputs[processor].gpa(), outputs[processor].gpa());
}

void AnyHypercall(Random& random, uint32_t processor) {
  static constexpr CallCode kCodes[] = {CallCode::kPostMessage,
                                        CallCode::kSignalEvent,
                                        CallCode::kRetargetDeviceInterrupt,
                                        CallCode::kStartVirtualProcessor,
                                        CallCode::kGetVpIndexFromApicId,
                                        CallCode::kQueryCapabilities,
                                        CallCode::kTranslateVirtualAddress,
                                        CallCode::kFlushVirtualAddressSpace,
                                        CallCode::kFlushVirtualAddressList};
  auto* const words = reinterpret_cast<uint64_t*>(inputs[processor].bytes);
  for (uint32_t i = 0; i < 64; ++i) words[i] = random.OneIn(3) ? random.Next() : random.Below(64);
  const uint32_t code =
      random.OneIn(16) ? random.Below(0x10000) : static_cast<uint32_t>(kCodes[random.Below(std::size(kCodes))]);
  uint64_t control = code | uint64_t{random.Below(4)} << 32;
  if (random.OneIn(4)) control |= random.Next() << 17;
  if (random.OneIn(4)) {
    (void)CallHypervisor(control | uint64_t{1} << 16, words[0], words[1]);
    return;
  }
  const uint64_t input = random.OneIn(16) ? random.Next() >> random.Below(64) : inputs[processor].gpa();
  const uint64_t output = random.OneIn(16) ? random.Next() | uint64_t{1} << 40 : outputs[processor].gpa();
  (void)CallHypervisor(control, input, output);
}

// Of the first processor, which alone has handlers for what may fault.
void AnyMsr(Random& random) {
  const bool is_synthetic = random.OneIn(2);
  const uint32_t number = (is_synthetic ? 0x40000000 : random.OneIn(2) ? 0x800 : 0) + random.Below(0x100);
  if (number != msr::kGuestIdle) (void)ReadMsr(number);  // it would sleep
  // Those without which it could do no more harm: its identity and hypercalls, reset, and interrupts that stop processors.
  const bool spared =
      number == msr::kHypercall || number == msr::kGuestOsId || number == msr::kReset || number == msr::kIcr;
  if (!is_synthetic || spared) return;
  // Pages that are laid over memory are laid where nothing is.
  constexpr uint64_t kUnusedMemory = 32 << 20;
  TryWriteMsr(number, random.OneIn(2) ? random.Next() : kUnusedMemory | (random.Next() & 0x1FFF001));
}

void Anything(uint32_t processor) {
  static Random randoms[kProcessors] = {Random(ReadTsc()), Random(ReadTsc() * 3), Random(ReadTsc() * 5), Random(1)};
  if (processor == kVictim) {
    for (;;) asm volatile("1: pause; jmp 1b");
  }
  Random& random = randoms[processor];
  AnyRegisters(random, processor);
  AnyHypercall(random, processor);
  if (processor == 0) AnyMsr(random);
}

}  // namespace

extern "C" {

using Constructor = void (*)();
extern const Constructor init_array_begin[], init_array_end[];

void KernelMain() {
  for (const Constructor* constructor = init_array_begin; constructor != init_array_end; ++constructor)
    (*constructor)();
  StartInterrupts();
  StartHypercalls();
  StartSynic();
  if (CommandLineHas("full-ring")) FullRing();
  if (CommandLineHas("long-commands")) LongCommands();
  if (CommandLineHas("messages")) Everybody(PostOnce);
  if (CommandLineHas("signals")) {
    static Disk disk(kRingPages / 2);
    Everybody(SignalOnce);
  }
  if (CommandLineHas("random")) Everybody(Anything);
  if (CommandLineHas("devices")) Devices();
  Print("what?\n");
  PowerOff();
}

}  // extern "C"
