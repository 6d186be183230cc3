// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/network/switch.h"

#include <map>
#include <set>

#include "hvsdk/base/fake_clock.h"
#include "tests/network/port_suite.h"

namespace hvsdk::network {
namespace {

struct SwitchWorld {
  SwitchWorld() {
    for (auto& port : ports) port = *lan.AddPort({});
  }
  NetworkPort& port(int side) { return *ports[side]; }
  static constexpr bool kKeepsAll = false;
  static constexpr bool kCarriesVlans = true;

  FakeClock clock;
  Switch lan{clock};
  std::unique_ptr<NetworkPort> ports[2];
};
INSTANTIATE_TYPED_TEST_SUITE_P(Switch, PortTest, SwitchWorld);

struct Station {
  Station(Switch& lan, const SwitchPortOptions& options) : port(*lan.AddPort(options)), adapter(*port) {
    adapter.Attach();
  }
  std::unique_ptr<NetworkPort> port;
  TestAdapter adapter;
};

TestFrame FrameOf(const MacAddress& from, const MacAddress& to, uint16_t vlan = 0) {
  ethernet::FrameSpec spec{.to = to, .from = from, .protocol = ethernet::kUdp, .payload = Bytes(20)};
  TestFrame frame{ethernet::MakeFrame(spec), {}};
  frame.offload.has_vlan = vlan != 0;
  frame.offload.vlan_tci = vlan;
  return frame;
}

// A model of what 802.1Q says of each frame, against random frames of addresses few enough to meet often.
TEST(SwitchTest, Model) {
  std::mt19937 random(TestSeed());
  FakeClock clock;
  Switch lan(clock, {.max_addresses = 4, .aging_100ns = 1000});
  const std::vector<SwitchPortOptions> options = {{},
                                                  {},
                                                  {.access_vlan = 5},
                                                  {.access_vlan = 5},
                                                  {.access_vlan = 6},
                                                  {.trunk_vlans = {5, 6}},
                                                  {.trunk_vlans = {0, 6}}};
  std::vector<std::unique_ptr<Station>> stations;
  for (const auto& option : options) stations.push_back(std::make_unique<Station>(lan, option));
  struct Known {
    size_t port;
    uint64_t seen;
  };
  std::map<std::pair<MacAddress, uint16_t>, Known> known;
  std::vector<std::vector<std::pair<MacAddress, uint16_t>>> behind(options.size());
  std::vector<size_t> oldest(options.size());
  const auto carries = [&](size_t port, uint16_t vlan) {
    if (options[port].access_vlan != 0) return options[port].access_vlan == vlan;
    const auto& list = options[port].trunk_vlans;
    return list.empty() || std::count(list.begin(), list.end(), vlan) != 0;
  };
  const auto address = [&] { return MacAddress{2, 0, 0, 0, 0, static_cast<uint8_t>(random() % 9)}; };
  for (int i = 0; i < 20000; ++i) {
    clock.Advance(random() % 60);
    const size_t from = random() % stations.size();
    const MacAddress source = address();
    MacAddress to = address();
    if (random() % 8 == 0) to = {255, 255, 255, 255, 255, 255};
    const uint16_t tag = random() % 3 != 0 ? 0 : static_cast<uint16_t>(5 + random() % 3);
    stations[from]->adapter.TrySend(FrameOf(source, to, tag), random);

    std::set<size_t> expected;
    const uint16_t vlan = tag == 0 && options[from].access_vlan != 0 ? options[from].access_vlan : tag;
    if (carries(from, vlan)) {
      const std::pair key(source, vlan);
      const auto place = known.find(key);
      const bool is_here = place != known.end() && place->second.port == from;
      known[key] = {from, clock.Now100ns()};
      if (!is_here) {
        if (behind[from].size() < 4) {
          behind[from].push_back(key);
        } else {
          const auto gone = std::exchange(behind[from][oldest[from]], key);
          oldest[from] = (oldest[from] + 1) % 4;
          if (gone != key && known.count(gone) != 0 && known[gone].port == from) known.erase(gone);
        }
      }
      const auto target = known.find({to, vlan});
      if (to[0] != 255 && target != known.end() && target->second.seen + 1000 > clock.Now100ns()) {
        if (target->second.port != from && carries(target->second.port, vlan)) expected.insert(target->second.port);
      } else {
        for (size_t port = 0; port < stations.size(); ++port) {
          if (port != from && carries(port, vlan)) expected.insert(port);
        }
      }
    }
    for (size_t port = 0; port < stations.size(); ++port) {
      const std::vector<TestFrame> got = stations[port]->adapter.TryReceive(2);
      ASSERT_EQ(got.size(), expected.count(port)) << "step " << i << " from " << from << " at " << port;
      if (got.empty()) continue;
      const bool tagged = vlan != 0 && options[port].access_vlan == 0;
      ASSERT_EQ(got[0].offload.has_vlan, tagged);
      ASSERT_EQ(got[0].offload.vlan_tci, tagged ? vlan : 0);
      ASSERT_EQ(got[0].bytes, FrameOf(source, to).bytes);
    }
  }
}

TEST(SwitchTest, WhatNoSwitchForwards) {
  std::mt19937 random(1);
  FakeClock clock;
  Switch lan(clock);
  Station a(lan, {}), b(lan, {});
  a.adapter.TrySend(FrameOf({2, 0, 0, 0, 0, 1}, {0x01, 0x80, 0xC2, 0, 0, 0x0E}), random);
  a.adapter.TrySend(FrameOf({3, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}), random);  // a group sends nothing
  a.adapter.TrySend(FrameOf({0, 0, 0, 0, 0, 0}, {2, 0, 0, 0, 0, 2}), random);
  a.adapter.TrySend(FrameOf({2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}, 4095), random);
  EXPECT_TRUE(b.adapter.TryReceive(1).empty());
  a.adapter.TrySend(FrameOf({2, 0, 0, 0, 0, 1}, {0x01, 0x80, 0xC2, 0, 0, 0x21}), random);
  EXPECT_EQ(b.adapter.TryReceive(1).size(), 1u);
}

TEST(SwitchTest, SegmentsTooLongForTheReceiverAreDropped) {
  std::mt19937 random(1);
  FakeClock clock;
  Switch lan(clock);
  Station a(lan, {.mtu_bytes = 9000}), b(lan, {});
  ethernet::FrameSpec spec{.payload = Bytes(20000)};
  Bytes frame = ethernet::MakeFrame(spec);
  a.adapter.TrySend({frame, ethernet::LeaveSegmentation(frame, 8000)}, random);
  EXPECT_TRUE(b.adapter.TryReceive(1).empty());
  a.adapter.TrySend({frame, ethernet::LeaveSegmentation(frame, 1400)}, random);
  EXPECT_EQ(b.adapter.TryReceive(1).size(), 1u);
}

TEST(SwitchTest, QueuesShareByFlow) {
  std::mt19937 random(TestSeed());
  FakeClock clock;
  Switch lan(clock);
  Station a(lan, {}), b(lan, {.queues = 4});
  std::map<uint16_t, std::set<uint32_t>> flows;
  for (uint32_t i = 0; i < 400; ++i) {
    ethernet::FrameSpec spec = SpecOf(0, i % 40, random, 10);
    spec.from_port = static_cast<uint16_t>(1000 + i % 40);
    a.adapter.TrySend({ethernet::MakeFrame(spec), {}}, random);
  }
  size_t total = 0;
  for (uint16_t queue = 0; queue < 4; ++queue) {
    for (const TestFrame& frame : b.adapter.TryReceive(400, 2000, queue)) {
      ++total;
      flows[queue].insert(NumberOf(frame));
    }
  }
  EXPECT_EQ(total, 400u);
  EXPECT_EQ(flows.size(), 4u);
  size_t of_one_queue = 0;
  for (const auto& [queue, numbers] : flows) of_one_queue += numbers.size();
  EXPECT_EQ(of_one_queue, 40u) << "a flow was in two queues";
}

TEST(SwitchTest, PortsComeAndGoWhileOthersSend) {
  FakeClock clock;
  auto lan = std::make_unique<Switch>(clock);
  std::atomic<bool> stop = false;
  std::vector<std::thread> threads;
  std::atomic<uint32_t> got = 0;
  for (int side = 0; side < 2; ++side) {
    threads.emplace_back([&, side, station = std::make_unique<Station>(*lan, SwitchPortOptions{})] {
      std::mt19937 random(side);
      while (!stop) {
        station->adapter.TrySend({ethernet::MakeFrame(SpecOf(side, 0, random, 100)), {}}, random);
        got += static_cast<uint32_t>(station->adapter.TryReceive(8).size());
      }
    });
  }
  std::mt19937 random(7);
  for (uint32_t i = 0; i < ScaledCount(1000) || got < 1000; ++i) {
    Station guest(*lan, {});
    guest.adapter.TrySend(FrameOf({2, 0, 0, 0, 9, static_cast<uint8_t>(i)}, AddressOf(0)), random);
    guest.adapter.TryReceive(4);
  }
  lan.reset();  // its ports stay
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

TEST(SwitchTest, BadOptions) {
  FakeClock clock;
  Switch lan(clock, {.max_ports = 1});
  EXPECT_FALSE(lan.AddPort({.mtu_bytes = 67}).ok());
  EXPECT_FALSE(lan.AddPort({.mtu_bytes = 65536}).ok());
  EXPECT_FALSE(lan.AddPort({.queues = 0}).ok());
  EXPECT_FALSE(lan.AddPort({.access_vlan = 4095}).ok());
  EXPECT_FALSE(lan.AddPort({.access_vlan = 1, .trunk_vlans = {1}}).ok());
  EXPECT_FALSE(lan.AddPort({.trunk_vlans = {4095}}).ok());
  auto port = lan.AddPort({});
  ASSERT_TRUE(port.ok());
  EXPECT_EQ(lan.AddPort({}).status().code(), absl::StatusCode::kResourceExhausted);
  port->reset();
  EXPECT_TRUE(lan.AddPort({}).ok());
}

}  // namespace
}  // namespace hvsdk::network
