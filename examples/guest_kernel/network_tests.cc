// SPDX-License-Identifier: Apache-2.0
// Two network adapters on one wire, by the clients of hvsdk::vsc: one asks for the other's address (ARP, RFC 826) and pings it
// (ICMP, RFC 792), and the other answers.

#include "console.h"
#include "hvsdk/hvdef/netvsp.h"
#include "hvsdk/vsc/client_rings.h"
#include "hvsdk/vsc/network_client.h"
#include "tests.h"
#include "vmbus_connection.h"

namespace netvsp = hvsdk::hvdef::netvsp;

namespace {

constexpr uint32_t kRingPages = 8;
constexpr uint32_t kBufferPages = 64;
constexpr uint32_t kSint = vmbus::kMessageSint;
constexpr uint32_t kMaxFrame = 1514;

// Offsets in a frame of ARP over Ethernet, and of ICMP over IPv4 without options.
constexpr uint32_t kSource = 6, kType = 12, kBody = 14;
constexpr uint32_t kArpOperation = 20, kArpSenderMac = 22, kArpSenderIp = 28, kArpTargetMac = 32, kArpTargetIp = 38;
constexpr uint32_t kArpBytes = 42;
constexpr uint32_t kIpLength = 16, kIpChecksum = 24, kIpSource = 26, kIpTarget = 30, kIcmp = 34, kIcmpChecksum = 36;
constexpr uint32_t kIcmpData = 42;
constexpr uint16_t kTypeIp4 = 0x0800, kTypeArp = 0x0806, kArpRequest = 1, kArpReply = 2;
constexpr uint8_t kEchoReply = 0, kEchoRequest = 8;

uint16_t Load16(const uint8_t* at) { return static_cast<uint16_t>(at[0] << 8 | at[1]); }
void Store16(uint8_t* at, uint32_t value) {
  at[0] = static_cast<uint8_t>(value >> 8);
  at[1] = static_cast<uint8_t>(value);
}

// RFC 1071; of an even number of bytes.
uint16_t Checksum(const uint8_t* bytes, uint32_t size) {
  uint32_t sum = 0;
  for (uint32_t i = 0; i < size; i += 2) sum += Load16(bytes + i);
  while (sum >> 16 != 0) sum = (sum & 0xFFFF) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}

void MakeChecksums(uint8_t* frame, uint32_t size) {
  Store16(frame + kIpChecksum, 0);
  Store16(frame + kIpChecksum, Checksum(frame + kBody, kIcmp - kBody));
  Store16(frame + kIcmpChecksum, 0);
  Store16(frame + kIcmpChecksum, Checksum(frame + kIcmp, size - kIcmp));
}

struct Memory {
  Page rings[2 * kRingPages];
  Page receive[kBufferPages];
  Page send[kBufferPages];
};
Memory memory[Offers::kMostNetworks];

// An adapter with an IPv4 address, which answers who asks for it.
class Station {
 public:
  Station(VmbusClient& bus, Memory& memory, uint8_t number)
      : bus_(bus),
        memory_(memory),
        pages_({.pages = {.pfns = nullptr, .first_pfn = memory.rings[0].pfn(), .page_count = 2 * kRingPages},
                .outgoing_pages = kRingPages}),
        ip_{192, 0, 2, number},
        client_(bus, channel_, vsc::ClientRings::Create(memory.rings, pages_)) {
    client_.context = this;
    client_.on_frame = [](void* context, const vsc::ReceivedFrame& frame) {
      static_cast<Station*>(context)->OnFrame(frame);
    };
  }

  vsc::Channel& channel() { return channel_; }
  vsc::NetworkClient& client() { return client_; }

  bool Open(const vmbus::OfferChannel& offer) {
    return bus_.Open(channel_, offer, pages_) &&
           ServeUntil(bus_, kSint, [&] { return channel_.state() != vsc::Channel::State::kOpening; }) &&
           channel_.state() == vsc::Channel::State::kOpen;
  }

  bool Start(netvsp::Version version) {
    const auto pages = [](const Page* first) {
      return vsc::PageList{.pfns = nullptr, .first_pfn = first->pfn(), .page_count = kBufferPages};
    };
    client_.Start({.receive = memory_.receive[0].bytes,
                   .receive_pages = pages(memory_.receive),
                   .send = memory_.send[0].bytes,
                   .send_pages = pages(memory_.send)},
                  version);
    return ServeUntil(bus_, kSint,
                      [&] {
                        client_.OnSignal();
                        return client_.state() != vsc::NetworkClient::State::kStarting;
                      }) &&
           client_.state() == vsc::NetworkClient::State::kReady;
  }

  // Asks for the address of another. True: it has said so.
  bool Resolve(const Station& other) {
    uint8_t frame[kArpBytes] = {};
    __builtin_memset(frame, 0xFF, kSource);
    __builtin_memcpy(frame + kSource, client_.mac_address(), 6);
    Store16(frame + kType, kTypeArp);
    constexpr uint8_t kEthernetAndIp4[] = {0, 1, 8, 0, 6, 4};
    __builtin_memcpy(frame + kBody, kEthernetAndIp4, sizeof(kEthernetAndIp4));
    Store16(frame + kArpOperation, kArpRequest);
    __builtin_memcpy(frame + kArpSenderMac, client_.mac_address(), 6);
    __builtin_memcpy(frame + kArpSenderIp, ip_, 4);
    __builtin_memcpy(frame + kArpTargetIp, other.ip_, 4);
    has_peer_ = false;
    return SendUntil(frame, sizeof(frame), has_peer_) &&
           __builtin_memcmp(peer_mac_, other.client_.mac_address(), 6) == 0;
  }

  // Sends an echo request of so many bytes, an even number, to the one whose address it has. True: what came back is the same.
  bool Ping(const Station& other, uint32_t data_bytes, uint16_t sequence) {
    const uint32_t size = kIcmpData + data_bytes;
    __builtin_memset(sent_, 0, size);
    __builtin_memcpy(sent_, peer_mac_, 6);
    __builtin_memcpy(sent_ + kSource, client_.mac_address(), 6);
    Store16(sent_ + kType, kTypeIp4);
    sent_[kBody] = 0x45;
    Store16(sent_ + kIpLength, size - kBody);
    sent_[kBody + 8] = 64;  // hops
    sent_[kBody + 9] = 1;   // ICMP
    __builtin_memcpy(sent_ + kIpSource, ip_, 4);
    __builtin_memcpy(sent_ + kIpTarget, other.ip_, 4);
    sent_[kIcmp] = kEchoRequest;
    Store16(sent_ + kIcmp + 6, sequence);
    for (uint32_t i = kIcmpData; i < size; ++i) sent_[i] = static_cast<uint8_t>(i * 7 + sequence);
    MakeChecksums(sent_, size);
    sent_bytes_ = size;
    is_echoed_ = false;
    return SendUntil(sent_, size, is_echoed_);
  }

  bool Close() {
    bus_.Close(channel_);
    return ServeUntil(bus_, kSint, [&] { return channel_.state() == vsc::Channel::State::kNone; });
  }

 private:
  bool Send(const uint8_t* frame, uint32_t size) {
    if (!client_.Send({.data = frame, .size_bytes = size})) return false;
    client_.Publish();
    return true;
  }

  // Frames may be lost: those on their way are, where a machine is saved.
  bool SendUntil(const uint8_t* frame, uint32_t size, const bool& is_answered) {
    for (int tries = 0; tries < 10 && !is_answered; ++tries) {
      if (!Send(frame, size)) return false;
      (void)ServeUntil(
          bus_, kSint, [&] { return is_answered; }, 2 * kSecond);
    }
    return is_answered;
  }

  void OnFrame(const vsc::ReceivedFrame& received) {
    if (received.size_bytes < kArpBytes || received.size_bytes > kMaxFrame) return;
    const uint32_t size = received.size_bytes;
    uint8_t* const frame = received_;
    __builtin_memcpy(frame, received.data, size);
    const uint16_t type = Load16(frame + kType);
    if (type == kTypeArp && __builtin_memcmp(frame + kArpTargetIp, ip_, 4) == 0) {
      OnArp(frame);
    } else if (type == kTypeIp4 && __builtin_memcmp(frame + kIpTarget, ip_, 4) == 0 && size % 2 == 0 &&
               Checksum(frame + kBody, kIcmp - kBody) == 0 && Checksum(frame + kIcmp, size - kIcmp) == 0) {
      OnIcmp(frame, size);
    }
  }

  void OnArp(uint8_t* frame) {
    if (Load16(frame + kArpOperation) == kArpReply) {
      __builtin_memcpy(peer_mac_, frame + kArpSenderMac, 6);
      has_peer_ = true;
      return;
    }
    __builtin_memcpy(frame, frame + kSource, 6);
    __builtin_memcpy(frame + kSource, client_.mac_address(), 6);
    Store16(frame + kArpOperation, kArpReply);
    __builtin_memcpy(frame + kArpTargetMac, frame + kArpSenderMac, 10);  // with the IP address behind it
    __builtin_memcpy(frame + kArpSenderMac, client_.mac_address(), 6);
    __builtin_memcpy(frame + kArpSenderIp, ip_, 4);
    (void)Send(frame, kArpBytes);
  }

  void OnIcmp(uint8_t* frame, uint32_t size) {
    if (frame[kIcmp] == kEchoReply) {
      is_echoed_ = size == sent_bytes_ && __builtin_memcmp(frame + kIcmp + 4, sent_ + kIcmp + 4, size - kIcmp - 4) == 0;
      return;
    }
    if (frame[kIcmp] != kEchoRequest) return;
    __builtin_memcpy(frame, frame + kSource, 6);
    __builtin_memcpy(frame + kSource, client_.mac_address(), 6);
    __builtin_memcpy(frame + kIpTarget, frame + kIpSource, 4);
    __builtin_memcpy(frame + kIpSource, ip_, 4);
    frame[kIcmp] = kEchoReply;
    MakeChecksums(frame, size);
    (void)Send(frame, size);
  }

  VmbusClient& bus_;
  Memory& memory_;
  const vsc::RingPages pages_;
  const uint8_t ip_[4];
  vsc::Channel channel_;
  vsc::NetworkClient client_;

  bool has_peer_ = false, is_echoed_ = false;
  uint8_t peer_mac_[6] = {};
  uint32_t sent_bytes_ = 0;
  uint8_t sent_[kMaxFrame], received_[kMaxFrame];
};

void TestNetworkIn(netvsp::Version version, const char* name) {
  Print("# two adapters by NVSP ");
  Print(name);
  Print("\n");
  Offers offers;
  VmbusClient bus(ConfigFor(vmbus::kNewestVersion, vmbus::kNewestVersion, kSint, &offers));
  if (!Check(Connect(bus, kSint) && TakeOffers(bus, kSint, offers) && offers.networks == 2,
             "network: both adapters are offered")) {
    return;
  }
  Station asker(bus, memory[0], 1), answerer(bus, memory[1], 2);
  Check(asker.Open(offers.network[0]) && answerer.Open(offers.network[1]), "network: their channels open");
  Check(asker.Start(version) && answerer.Start(version) && asker.client().version() == version,
        "network: the provider speaks our version");
  Check(asker.client().link_is_up() && answerer.client().link_is_up(), "network: the links are up");
  Check(asker.Resolve(answerer), "network: one finds the other's address");
  Check(answerer.Resolve(asker), "network: and the other one's");
  Check(asker.Ping(answerer, 56, 1), "network: a ping is answered");
  bool all = true;
  for (uint16_t sequence = 2; sequence < 50 && all; ++sequence) {
    all = asker.Ping(answerer, sequence * 2, sequence) && answerer.Ping(asker, sequence * 2, sequence);
  }
  Check(all, "network: so are many, both ways");
  Check(asker.Ping(answerer, kMaxFrame - kIcmpData, 50), "network: and as long a one as the MTU allows");
  Check(asker.client().dropped() == 0 && answerer.client().dropped() == 0, "network: nothing came that was no frame");
  Check(asker.Close() && answerer.Close(), "network: the channels close");
  Check(Unload(bus, kSint), "VMBus: unloaded at the end");
}

}  // namespace

// By the first version and by the newest.
void TestNetwork() {
  TestNetworkIn(netvsp::Version::k1, "1");
  TestNetworkIn(netvsp::Version::k61, "6.1");
}
