// SPDX-License-Identifier: Apache-2.0
// A guest's side of the bus for tests of a provider, without a CPU: memory, a server, a child, and channels that the child has opened
// with a client on each.

#ifndef HVSDK_TESTS_VSP_PROVIDER_FIXTURE_H_
#define HVSDK_TESTS_VSP_PROVIDER_FIXTURE_H_

#include <sys/mman.h>

#include <cstdint>
#include <memory>

#include "absl/types/span.h"
#include "gtest/gtest.h"
#include "hvsdk/base/fake_clock.h"
#include "hvsdk/base/queue_executor.h"
#include "hvsdk/hvdef/guid.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/vmbus/loopback_hypervisor.h"
#include "hvsdk/vmbus/server.h"
#include "hvsdk/vsc/client_rings.h"
#include "hvsdk/vsc/loopback_child.h"

namespace hvsdk::vsp {

// A guest's memory, which the host has where it is touched alone: tests are many, and touch little of it.
inline std::shared_ptr<uint8_t> MakeZeroPages(size_t size_bytes) {
  void* const mapped = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  EXPECT_NE(mapped, MAP_FAILED);
  return {static_cast<uint8_t*>(mapped), [size_bytes](uint8_t* pages) { munmap(pages, size_bytes); }};
}

template <typename Client>
class ProviderFixture : public testing::Test {
 protected:
  // An executor that knows when it is idle lets providers wait for more.
  explicit ProviderFixture(bool knows_idle = false) : executor_(knows_idle) {}

  static constexpr hvdef::Guid kInstance = hvdef::MakeGuid("01234567-89ab-cdef-0123-456789abcdef");

  // Before the provider is made.
  void MakeServer(size_t memory_bytes) {
    bytes_ = MakeZeroPages(memory_bytes);
    ASSERT_TRUE(memory_.AddRange(0, absl::MakeSpan(bytes_.get(), memory_bytes)).ok());
    hypervisor_ = std::make_unique<vmbus::LoopbackHypervisor>(4);
    server_ = std::make_unique<vmbus::Server>(
        memory_, *hypervisor_, vmbus::ServerOptions{},
        vmbus::ServerResources{.executor = &executor_, .timers = &timers_, .clock = &clock_});
    ASSERT_TRUE(server_->Start().ok());
  }
  // After it: the child finds it.
  void MakeChild(hvdef::vmbus::Version bus = hvdef::vmbus::kNewestVersion) {
    child_ = std::make_unique<vsc::LoopbackChild>(*hypervisor_, memory_, bus);
    child_->client().Connect();
    Pump();
    child_->client().RequestOffers();
    Pump();
  }

  // After the provider is gone.
  void TearDown() override { server_.reset(); }

  // Lets both ends run until neither has anything to do.
  void Pump() {
    do {
      RunExecutors();
    } while (child_->Poll());
  }
  // Lets the provider run until it has nothing to do.
  virtual void RunExecutors() { executor_.RunUntilIdle(); }

  // A channel that the guest has opened, with a client on it.
  struct Opened {
    vsc::Channel channel;
    vsc::RingPages ring;
    vsc::ClientRings rings;
    std::unique_ptr<Client> client;
  };
  std::unique_ptr<Opened> Open(uint16_t subchannel, uint32_t ring_pages) {
    auto opened = std::make_unique<Opened>();
    const auto* offer = child_->FindOffer(kInstance, subchannel);
    EXPECT_NE(offer, nullptr);
    if (offer == nullptr) return nullptr;
    const uint64_t gpa = child_->AllocatePages(2 * ring_pages);
    opened->ring = {.pages = {.pfns = nullptr, .first_pfn = gpa / kPageSize, .page_count = 2 * ring_pages},
                    .outgoing_pages = ring_pages};
    Reopen(*opened, subchannel);
    return opened;
  }
  void Reopen(Opened& opened, uint16_t subchannel = 0) {
    opened.rings = vsc::ClientRings::Create(child_->host(opened.ring.pages.first_pfn * kPageSize), opened.ring);
    opened.client = std::make_unique<Client>(child_->client(), opened.channel, opened.rings);
    Prepare(*opened.client);
    EXPECT_TRUE(child_->client().Open(opened.channel, *child_->FindOffer(kInstance, subchannel), opened.ring));
    Pump();
    EXPECT_EQ(opened.channel.state(), vsc::Channel::State::kOpen);
  }

  std::shared_ptr<uint8_t> bytes_;
  GuestMemory memory_;
  QueueExecutor executor_;
  FakeClock clock_;
  FakeTimerQueue timers_{clock_};
  std::unique_ptr<vmbus::LoopbackHypervisor> hypervisor_;
  std::unique_ptr<vmbus::Server> server_;
  std::unique_ptr<vsc::LoopbackChild> child_;

 private:
  // A client, before its channel is opened.
  virtual void Prepare(Client&) {}
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_TESTS_VSP_PROVIDER_FIXTURE_H_
