// SPDX-License-Identifier: Apache-2.0
// A connection to VMBus by the client of hvsdk::vsc, polled, and what the root offers there.

#ifndef HVSDK_EXAMPLES_GUEST_KERNEL_VMBUS_CONNECTION_H_
#define HVSDK_EXAMPLES_GUEST_KERNEL_VMBUS_CONNECTION_H_

#include <cstdint>

#include "hvsdk/hvdef/vmbus.h"
#include "hvsdk/vsc/vmbus_client.h"
#include "hypervisor.h"

namespace vmbus = hvsdk::hvdef::vmbus;
namespace vsc = hvsdk::vsc;
using vsc::VmbusClient;

struct Offers {
  static constexpr uint32_t kMostNetworks = 2;

  bool has_disk = false, has_video = false, has_keyboard = false;
  bool all = false;
  vmbus::OfferChannel disk = {};  // the first
  vmbus::OfferChannel video = {}, keyboard = {};
  uint32_t networks = 0;
  vmbus::OfferChannel network[kMostNetworks] = {};
};

VmbusClient::Config ConfigFor(vmbus::Version oldest, vmbus::Version newest, uint32_t sint, Offers* offers);

// Gives the client what has come on its SINT.
void Serve(VmbusClient& client, uint32_t sint);
// Serves the client until `done`.
template <typename Done>
bool ServeUntil(VmbusClient& client, uint32_t sint, Done done, uint64_t timeout_100ns = 20 * kSecond) {
  return WaitUntil(
      [&] {
        Serve(client, sint);
        return done();
      },
      timeout_100ns);
}
bool Connect(VmbusClient& client, uint32_t sint);
bool TakeOffers(VmbusClient& client, uint32_t sint, Offers& offers);
bool Unload(VmbusClient& client, uint32_t sint);

#endif  // HVSDK_EXAMPLES_GUEST_KERNEL_VMBUS_CONNECTION_H_
