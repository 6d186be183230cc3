// SPDX-License-Identifier: Apache-2.0
// VMBus in every version, with answers on every SINT; then the disk, by the clients of hvsdk::vsc.

#include "console.h"
#include "hvsdk/hvdef/vmbus.h"
#include "hvsdk/vsc/client_rings.h"
#include "hvsdk/vsc/storage_client.h"
#include "hypervisor.h"
#include "tests.h"
#include "vmbus_connection.h"

void TestVmbusVersions() {
  for (const vmbus::Version version : vmbus::kVersions) {
    Offers offers;
    VmbusClient client(ConfigFor(version, version, vmbus::kMessageSint, &offers));
    const bool ok = Connect(client, vmbus::kMessageSint) && client.version() == version &&
                    TakeOffers(client, vmbus::kMessageSint, offers) && Unload(client, vmbus::kMessageSint);
    char what[] = "VMBus: connects, offers and unloads in version 0.00";
    char* const minor = what + sizeof(what) - 3;
    const auto number = static_cast<uint32_t>(version);
    minor[-2] = static_cast<char>('0' + (number >> 16));
    minor[0] = static_cast<char>('0' + (number & 0xFFFF) / 10);
    minor[1] = static_cast<char>('0' + (number & 0xFFFF) % 10);
    Check(ok, what);
  }
  Offers none;
  const auto future = static_cast<vmbus::Version>(0x00630000);
  VmbusClient stranger(ConfigFor(future, future, vmbus::kMessageSint, &none));
  Check(!Connect(stranger, vmbus::kMessageSint), "VMBus: a version that nobody speaks is refused");

  for (uint32_t sint = 0; sint < hvsdk::hvdef::kSintCount; ++sint) {
    Offers offers;
    VmbusClient client(ConfigFor(vmbus::Version::kV5_0, vmbus::kNewestVersion, sint, &offers));
    const uint32_t before = InterruptCount(SintVector(sint));
    const bool ok = Connect(client, sint) && TakeOffers(client, sint, offers) && Unload(client, sint) &&
                    InterruptCount(SintVector(sint)) != before;
    Check(ok, "VMBus: the root's messages on SINT", sint);
  }
}

namespace {

constexpr uint32_t kRingPages = 8;
constexpr uint32_t kSint = vmbus::kMessageSint;
Page rings[2 * kRingPages];
Page data;

void TestDiskIn(vmbus::Version version) {
  Print("# the disk by VMBus ");
  PrintNumber(static_cast<uint32_t>(version) >> 16);
  Print(".");
  PrintNumber(static_cast<uint32_t>(version) & 0xFFFF);
  Print("\n");
  __builtin_memset(rings, 0, sizeof(rings));
  Offers offers;
  vsc::Channel channel;
  VmbusClient client(ConfigFor(version, version, kSint, &offers));
  if (!Check(Connect(client, kSint) && TakeOffers(client, kSint, offers) && offers.has_disk,
             "disk: its controller is offered")) {
    return;
  }
  const vsc::RingPages pages = {.pages = {.pfns = nullptr, .first_pfn = rings[0].pfn(), .page_count = 2 * kRingPages},
                                .outgoing_pages = kRingPages};
  const vsc::ClientRings ends = vsc::ClientRings::Create(rings, pages);
  const bool asked = client.Open(channel, offers.disk, pages);
  Check(asked && ServeUntil(client, kSint, [&] { return channel.state() != vsc::Channel::State::kOpening; }) &&
            channel.state() == vsc::Channel::State::kOpen,
        "disk: its channel opens");

  const uint32_t before = InterruptCount(SintVector(kSint));
  vsc::StorageClient disk(client, channel, ends);
  disk.Start();
  Check(ServeUntil(client, kSint, [&] { return disk.state() != vsc::StorageClient::State::kStarting; }) &&
            disk.state() == vsc::StorageClient::State::kReady,
        "disk: the provider speaks our version");

  vsc::StorageRequest request;
  const uint64_t pfn = data.pfn();
  const auto run = [&](uint32_t bytes) {
    request.data = {bytes, 0, &pfn};
    if (!disk.Send(request)) return false;
    disk.Publish();
    return ServeUntil(client, kSint, [&] { return request.is_done; });
  };
  // The first commands may be told of events before (SPC-4, unit attention); those are not failures.
  bool ready = false;
  for (int i = 0; i < 5 && !ready; ++i) {
    request = {};
    request.SetTestUnitReady();
    ready = run(0) && request.ok();
  }
  Check(ready, "disk: ready");
  request = {};
  request.SetRead(0, 1);
  __builtin_memset(data.bytes, 0xEE, kPageSize);
  Check(run(512) && request.ok() && request.transferred == 512, "disk: reads its first sector");
  Check(data.bytes[512] == 0xEE && data.bytes[kPageSize - 1] == 0xEE, "disk: and nothing more");
  Check(data.bytes[510] == 0x55 && data.bytes[511] == 0xAA, "disk: which ends as a boot sector does");
  Check(InterruptCount(SintVector(kSint)) != before, "disk: the root's events interrupt");
  request = {};
  request.SetRead(uint64_t{1} << 50, 1);
  Check(run(512) && !request.ok(), "disk: a sector beyond its end is refused");
  client.Close(channel);
  Check(ServeUntil(client, kSint, [&] { return channel.state() == vsc::Channel::State::kNone; }),
        "disk: its channel closes");
  Check(Unload(client, kSint), "VMBus: unloaded at the end");
}

}  // namespace

// Once in each way that VMBus has had of signalling: a page for both directions, a page for the child's, neither; and
// the newest.
void TestDisk() {
  for (const vmbus::Version version :
       {vmbus::Version::kV0_13, vmbus::Version::kV1_1, vmbus::Version::kV2_4, vmbus::kNewestVersion}) {
    TestDiskIn(version);
  }
}
