// SPDX-License-Identifier: Apache-2.0
// A hostile guest at the storage provider: plays a string of bytes as packets, page lists, ring
// indices, closes and reopens, and ends the program if the provider answers what was not asked, or
// does not let go of the channel.

#ifndef HVSDK_FUZZ_STORVSP_STORVSP_HARNESS_H_
#define HVSDK_FUZZ_STORVSP_STORVSP_HARNESS_H_

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>
#include <vector>

#include "base/check.h"
#include "hvsdk/base/queue_executor.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/vmbus/loopback_hypervisor.h"
#include "hvsdk/vmbus/server.h"
#include "hvsdk/vsc/client_rings.h"
#include "hvsdk/vsc/loopback_child.h"
#include "hvsdk/vsp/memory_disk.h"
#include "hvsdk/vsp/storage.h"

namespace hvsdk::vsp {

class StorvspHarness {
 public:
  StorvspHarness() : bytes_(static_cast<uint8_t*>(std::aligned_alloc(4096, kMemoryBytes)), std::free) {
    std::memset(bytes_.get(), 0, kMemoryBytes);
    HVSDK_CHECK(memory_.AddRange(0, absl::MakeSpan(bytes_.get(), kMemoryBytes)).ok());
    server_ = std::make_unique<vmbus::Server>(memory_, hypervisor_, vmbus::ServerOptions{});
    HVSDK_CHECK(server_->Start().ok());
    StorageOptions options;
    options.instance_id = kInstance;
    options.max_subchannels = 2;
    options.max_transfer_bytes = 64 << 10;
    options.queue_depth = 8;
    storage_ = *StorageController::Create(*server_, executor_, options);
    child_ = std::make_unique<vsc::LoopbackChild>(hypervisor_, memory_);
    child_->client().Connect();
    Pump();
    child_->client().RequestOffers();
    Pump();
    const uint64_t gpa = child_->AllocatePages(2 * kRingPages);
    ring_ = {.pages = {.pfns = nullptr, .first_pfn = gpa / kPageSize, .page_count = 2 * kRingPages},
             .outgoing_pages = kRingPages};
    disk_ = std::make_shared<MemoryDisk>(std::vector<uint8_t>(1 << 20));
  }

  void Play(const uint8_t* data, size_t size) {
    in_ = data;
    left_ = size;
    (void)storage_->Attach(0, disk_);
    Open();
    if (Byte() % 4 != 0) Negotiate();
    while (left_ != 0) Step();
    Close();
    for (uint8_t lun = 0; lun < 4; ++lun) (void)storage_->Detach(lun);
    Pump();
  }

 private:
  static constexpr size_t kMemoryBytes = 1 << 20;
  static constexpr uint32_t kRingPages = 3;
  static constexpr hvdef::Guid kInstance = hvdef::MakeGuid("01234567-89ab-cdef-0123-456789abcdef");

  uint8_t Byte() {
    if (left_ == 0) return 0;
    --left_;
    return *in_++;
  }
  void Bytes(void* to, size_t size) {
    auto* out = static_cast<uint8_t*>(to);
    for (size_t i = 0; i < size; ++i) out[i] = Byte();
  }

  // Bounded: a provider that never comes to rest is a fault.
  void Pump() {
    for (int round = 0; round < 1000; ++round) {
      int tasks = 0;
      while (tasks < 10000 && executor_.RunOne()) ++tasks;
      HVSDK_CHECK(tasks < 10000);
      if (!child_->Poll()) return;
    }
    HVSDK_CHECK(!"at rest");
  }

  void Open() {
    rings_ = vsc::ClientRings::Create(child_->host(ring_.pages.first_pfn * kPageSize), ring_);
    asked_.clear();
    HVSDK_CHECK(child_->client().Open(channel_, *child_->FindOffer(kInstance), ring_));
    Pump();
    HVSDK_CHECK(channel_.state() == vsc::Channel::State::kOpen);
  }

  void Close() {
    child_->client().Close(channel_);
    Pump();
    HVSDK_CHECK(channel_.state() == vsc::Channel::State::kNone);
  }

  void Negotiate() {
    using hvdef::storvsc::Operation;
    static constexpr uint16_t kVersions[] = {0x0602, 0x0600, 0x0501, 0x0402, 0x0200};
    const uint16_t version = kVersions[Byte() % 5];
    for (const auto& [operation, value] :
         {std::pair{Operation::kBeginInitialization, uint16_t{0}}, std::pair{Operation::kQueryProtocolVersion, version},
          std::pair{Operation::kQueryProperties, uint16_t{0}}, std::pair{Operation::kEndInitialization, uint16_t{0}}}) {
      hvdef::storvsc::Packet packet = {};
      packet.header.operation = operation;
      packet.sub_channel_count = value;
      SendInBand(packet, sizeof(packet), true);
    }
  }

  void Step() {
    switch (Byte() % 16) {
      default:
        SendCommand();
        break;
      case 0:
      case 1: {
        hvdef::storvsc::Packet packet = {};
        packet.header.operation = static_cast<hvdef::storvsc::Operation>(Byte() % 16);
        packet.sub_channel_count = static_cast<uint16_t>(Byte() | Byte() << 8);
        SendInBand(packet, Byte() % 80, Byte() % 8 != 0);
        break;
      }
      case 2: {
        hvdef::storvsc::Packet packet;
        Bytes(&packet, sizeof(packet));
        SendInBand(packet, Byte() % 65, Byte() % 8 != 0);
        break;
      }
      case 3: {
        const uint8_t lun = Byte() % 4;
        if (Byte() % 2 == 0) {
          (void)storage_->Attach(lun, disk_);
        } else {
          (void)storage_->Detach(lun);
        }
        break;
      }
      case 4:
        Pump();
        break;
      case 5:
        if (Byte() % 4 != 0) break;
        Close();
        Open();
        if (Byte() % 2 != 0) Negotiate();
        break;
      case 6: {
        if (Byte() % 8 != 0) break;
        // Any word of either control page; what the ring makes of it is the ring's affair.
        auto* control = reinterpret_cast<uint32_t*>(child_->host(ring_.pages.first_pfn * kPageSize));
        if (Byte() % 2 != 0) control += kRingPages * kPageSize / 4;
        uint32_t value;
        Bytes(&value, sizeof(value));
        std::atomic_ref<uint32_t>(control[Byte() % 4]).store(value);
        is_broken_ = true;
        Signal();
        Pump();
        Close();
        Open();
        is_broken_ = false;
        break;
      }
    }
  }

  // Something near a sensible command.
  void SendCommand() {
    hvdef::storvsc::Packet packet = {};
    packet.header.operation = hvdef::storvsc::Operation::kExecuteSrb;
    const uint8_t shape = Byte();
    packet.scsi.lun = shape % 8 == 0 ? Byte() : 0;
    packet.scsi.target_id = shape % 32 == 0 ? Byte() : 0;
    packet.scsi.cdb_length = shape % 16 == 1 ? Byte() : 16;
    packet.scsi.data_in = shape % 16 == 2 ? Byte() : shape >> 4 & 1;
    packet.scsi.srb_flags = shape % 16 == 3 ? Byte() : 0;
    Bytes(packet.scsi.payload, 6);
    if (packet.scsi.payload[0] >= 0x20) Bytes(packet.scsi.payload + 6, 10);
    if (shape & 0x40) std::memset(packet.scsi.payload + 1, 0, 5);  // block addresses that exist
    const uint32_t length = (Byte() % 17) * 512 + (shape % 16 == 4 ? Byte() : 0);
    packet.scsi.data_transfer_length = shape % 16 == 5 ? length << 8 : length;
    const size_t size = shape % 16 == 6 ? 48 : 64;
    if (length == 0) {
      SendInBand(packet, size, true);
      return;
    }
    const uint8_t pages = Byte();
    uint64_t pfns[64];
    for (size_t i = 0; i < 64; ++i) pfns[i] = kDataPages + (pages + i * 7) % 64;
    if (shape % 16 == 7) Bytes(&pfns[Byte() % 4], 8);
    vmbus::GpaBuffer buffers[3];
    const uint32_t offset = shape % 16 == 8 ? Byte() * 8 : 0;
    const uint32_t count = shape % 16 == 9 ? 1 + Byte() % 3 : 1;
    for (uint32_t i = 0; i < count; ++i) buffers[i] = {length / count + 1, i == 0 ? offset : 0, pfns};
    if (count == 1 && shape % 16 != 10) buffers[0].byte_count = length;
    if (asked_.size() < 64) asked_.insert(++next_id_);
    if (rings_.outgoing.StageGpaDirect(next_id_, true, buffers, count, &packet, size) != vmbus::RingStatus::kOk) {
      asked_.erase(next_id_);
    }
    Exchange();
  }

  void SendInBand(const hvdef::storvsc::Packet& packet, size_t size, bool wants_completion) {
    uint8_t bytes[512] = {};
    std::memcpy(bytes, &packet, sizeof(packet));
    ++next_id_;
    const auto status = rings_.outgoing.StageInBand(vmbus::PacketHeader::InBand(next_id_, wants_completion), bytes,
                                                    static_cast<uint32_t>(size));
    if (status == vmbus::RingStatus::kOk && wants_completion) asked_.insert(next_id_);
    Exchange();
  }

  void Signal() { child_->client().Signal(channel_); }

  // Shows the packets to the provider now or later, and takes what it answered.
  void Exchange() {
    if (Byte() % 4 == 0) return;
    if (rings_.outgoing.Publish() == vmbus::Signal::kNeeded) Signal();
    Pump();
    alignas(8) uint8_t bytes[128];
    vmbus::Packet packet;
    do {
      while (rings_.incoming.Read(bytes, sizeof(bytes), packet) == vmbus::RingStatus::kOk) {
        HVSDK_CHECK(is_broken_ || packet.type == hvdef::PacketType::kCompletion ||
                    (packet.type == hvdef::PacketType::kDataInBand && packet.transaction_id == 0));
        if (packet.type != hvdef::PacketType::kCompletion) continue;
        HVSDK_CHECK(is_broken_ || asked_.erase(packet.transaction_id) == 1);
      }
      const vmbus::Armed armed = rings_.incoming.Arm();
      if (armed.signal == vmbus::Signal::kNeeded) Signal();
      if (armed.may_sleep) break;
    } while (true);
  }

  static constexpr uint64_t kDataPages = 128;  // 64 of them, away from the rings

  std::unique_ptr<uint8_t, void (*)(void*)> bytes_;
  GuestMemory memory_;
  QueueExecutor executor_;
  vmbus::LoopbackHypervisor hypervisor_{1};
  std::unique_ptr<vmbus::Server> server_;
  std::unique_ptr<StorageController> storage_;
  std::unique_ptr<vsc::LoopbackChild> child_;
  std::shared_ptr<MemoryDisk> disk_;
  vsc::Channel channel_;
  vsc::RingPages ring_;
  vsc::ClientRings rings_;
  std::set<uint64_t> asked_;
  uint64_t next_id_ = 0;
  bool is_broken_ = false;
  const uint8_t* in_ = nullptr;
  size_t left_ = 0;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_FUZZ_STORVSP_STORVSP_HARNESS_H_
