// SPDX-License-Identifier: Apache-2.0
// What clients ask of a guest, before the guest is asked.

#include "vmm/guest_requests.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hvsdk::vmm {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

absl::StatusOr<vsp::GuestAddresses> Parse(const std::vector<std::string>& addresses,
                                          const std::vector<std::string>& gateways = {},
                                          const std::vector<std::string>& name_servers = {}, bool dhcp = false) {
  AdapterAddresses message;
  for (const std::string& each : addresses) message.add_addresses(each);
  for (const std::string& each : gateways) message.add_gateways(each);
  for (const std::string& each : name_servers) message.add_name_servers(each);
  message.set_dhcp(dhcp);
  return ParseGuestAddresses(message);
}

TEST(GuestRequestsTest, AddressesHaveSubnets) {
  const auto addresses = Parse({"10.1.1.5/24", "fd00::5/64", "172.16.0.9/12"}, {"10.1.1.1", "fe80::1"}, {"9.9.9.9"});
  ASSERT_TRUE(addresses.ok()) << addresses.status();
  EXPECT_THAT(addresses->addresses, ElementsAre("10.1.1.5", "fd00::5", "172.16.0.9"));
  EXPECT_THAT(addresses->subnets, ElementsAre("255.255.255.0", "/64", "255.240.0.0"));
  EXPECT_THAT(addresses->gateways, ElementsAre("10.1.1.1", "fe80::1"));
  EXPECT_THAT(addresses->name_servers, ElementsAre("9.9.9.9"));
  EXPECT_TRUE(addresses->has_ipv4 && addresses->has_ipv6 && !addresses->dhcp);
  EXPECT_THAT(Parse({"1.2.3.4/0", "1.2.3.4/1", "1.2.3.4/31", "1.2.3.4/32"})->subnets,
              ElementsAre("0.0.0.0", "128.0.0.0", "255.255.255.254", "255.255.255.255"));
  EXPECT_FALSE(Parse({"1.2.3.4/32"})->has_ipv6);
  EXPECT_FALSE(Parse({"::1/128"})->has_ipv4);
  EXPECT_TRUE(Parse({}, {}, {}, /*dhcp=*/true)->dhcp);
}

TEST(GuestRequestsTest, WhatIsNoAddressIsSaid) {
  for (const char* const wrong : {"",
                                  "/",
                                  "/24",
                                  "10.1.1.5",
                                  "10.1.1.5/",
                                  "10.1.1.5/33",
                                  "10.1.1.5/-1",
                                  "10.1.1.5/+1",
                                  "10.1.1.5/24/24",
                                  "10.1.1/24",
                                  "10.1.1.256/24",
                                  "10.1.1.5/0024",
                                  "10.1.1.5/4294967320",
                                  "10.1.1.5;10.1.1.6/24",
                                  "fd00::5/129",
                                  "fd00:::5/64",
                                  " 10.1.1.5/24",
                                  "10.1.1.5\n/24",
                                  "host/24",
                                  "fe80::1%eth0/64"}) {
    EXPECT_THAT(Parse({"10.0.0.1/8", wrong}).status().ToString(), HasSubstr("is no address with the length")) << wrong;
  }
  EXPECT_THAT(Parse({"10.0.0.1\n/8"}).status().message(), HasSubstr("10.0.0.1\\n/8"));
  for (const char* const wrong : {"", "10.1.1.1/24", "x\ny", "10.1.1.1;10.1.1.2"}) {
    EXPECT_THAT(Parse({"10.0.0.1/8"}, {wrong}).status().ToString(), HasSubstr("is no address, as")) << wrong;
    EXPECT_THAT(Parse({"10.0.0.1/8"}, {}, {wrong}).status().ToString(), HasSubstr("is no address, as")) << wrong;
  }
  EXPECT_THAT(Parse({}).status().ToString(), HasSubstr("an address is needed"));
  EXPECT_THAT(Parse({"10.0.0.1/8"}, {}, {}, /*dhcp=*/true).status().ToString(), HasSubstr("by DHCP"));
}

}  // namespace
}  // namespace hvsdk::vmm
