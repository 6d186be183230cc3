// SPDX-License-Identifier: Apache-2.0
// A hostile guest at the storage provider, and disks that answer when and as they are told: plays a string of bytes as packets, page
// lists, ring indices, closes and reopens, subchannels, late and failed requests, and controllers that are taken away meanwhile. Ends the
// program if the provider answers what was not asked, answers a reset too early, or does not let go of a channel.

#ifndef HVSDK_FUZZ_STORVSP_STORVSP_HARNESS_H_
#define HVSDK_FUZZ_STORVSP_STORVSP_HARNESS_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <set>
#include <vector>

#include "base/check.h"
#include "fuzz/provider_world.h"
#include "hvsdk/image/memory_disk.h"
#include "hvsdk/vsp/storage.h"

namespace hvsdk::vsp {

// Answers at once, or keeps what it is given until it is told the outcome.
class FickleDisk : public BlockDevice {
 public:
  explicit FickleDisk(size_t size_bytes) : disk_(std::vector<uint8_t>(size_bytes)) {}
  const BlockInfo& info() const override { return disk_.info(); }
  void Submit(absl::Span<BlockRequest* const> batch) override {
    if (!holds) return disk_.Submit(batch);
    held_.insert(held_.end(), batch.begin(), batch.end());
  }
  size_t held() const { return held_.size(); }
  void Release(size_t index, BlockStatus status) {
    BlockRequest* const request = held_[index];
    held_.erase(held_.begin() + static_cast<ptrdiff_t>(index));
    if (status == BlockStatus::kOk) {
      disk_.Submit({&request, 1});
    } else {
      request->on_complete(*request, status);
    }
  }

  bool holds = false;

 private:
  MemoryDisk disk_;
  std::deque<BlockRequest*> held_;
};

class StorvspHarness : private ProviderWorld {
 public:
  StorvspHarness() {
    memory_.SetOwner(bytes_);
    MakeStorage();
    Connect(absl::MakeSpan(ends_));
    disk_ = std::make_shared<MemoryDisk>(std::vector<uint8_t>(1 << 20));
    fickle_ = std::make_shared<FickleDisk>(1 << 20);
  }

  void Play(const uint8_t* data, size_t size) {
    in_ = fuzz::Bytes({data, size});
    (void)storage_->Attach(0, disk_);
    (void)storage_->Attach(1, fickle_);
    AttachDrive();
    Open();
    if (Byte() % 4 != 0) Negotiate();
    while (!in_.empty()) Step();
    Close();
    for (uint8_t lun = 0; lun < 4; ++lun) (void)storage_->Detach(lun);
    drive_.reset();
    Pump();
    HVSDK_CHECK(fickle_.use_count() == 1 || was_given_up_);
  }

 private:
  void MakeStorage() {
    StorageOptions options;
    options.instance_id = kInstance;
    options.max_subchannels = kEnds - 1;
    options.max_transfer_bytes = 64 << 10;
    options.queue_depth = 8;
    storage_ = *StorageController::Create(*server_, executor_, options);
  }

  struct End : ChannelEnd {
    std::set<uint64_t> commands;      // those of them that are SCSI commands
    std::set<uint64_t> before_reset;  // commands to be answered before ...
    uint64_t reset = 0;               // ... this, if it is not 0
  };

  void OpenEnd(uint16_t index) {
    End& end = ends_[index];
    OpenChannel(end, index, [&] {
      end.commands.clear();
      end.reset = 0;
    });
  }
  void Open() {
    end_ = &ends_[0];
    OpenEnd(0);
  }

  void ReleaseAll() {
    fickle_->holds = false;
    while (fickle_->held() != 0) fickle_->Release(0, BlockStatus::kOk);
  }

  // The primary channel, and the others with it. Only disks may hold it up.
  void Close() {
    end_ = &ends_[0];
    child_->client().Close(end_->channel);
    Pump();
    HVSDK_CHECK(end_->channel.state() == vsc::Channel::State::kNone || fickle_->held() != 0);
    ReleaseAll();
    Pump();
    for (End& end : ends_) {
      HVSDK_CHECK(!end.is_open());
      // What the controller took away the guest has again.
      if (end.channel.state() != vsc::Channel::State::kNone) end.channel = vsc::Channel();
    }
  }

  // The controller goes away and comes again, whatever is under way.
  void Replace() {
    const bool stops = Byte() % 2 != 0;
    bool is_idle = false;
    if (stops) {
      storage_->Stop([&] { is_idle = true; });
      if (Byte() % 2 != 0) Pump();
      HVSDK_CHECK(!is_idle || fickle_->held() == 0 || was_given_up_);
    }
    // Without a Stop it waits for the disks.
    if (!stops) ReleaseAll();
    was_given_up_ |= fickle_->held() != 0;
    storage_.reset();
    drive_.reset();
    Pump();
    for (End& end : ends_) {
      HVSDK_CHECK(!end.is_open());
      end.channel = vsc::Channel();
    }
    // Those that nobody waited for.
    if (Byte() % 2 != 0) ReleaseAll();
    MakeStorage();
    Pump();
    (void)storage_->Attach(0, disk_);
    (void)storage_->Attach(1, fickle_);
    AttachDrive();
    Open();
    if (Byte() % 4 != 0) Negotiate();
  }

  // A DVD drive at LUN 2, with what answers late.
  void AttachDrive() {
    auto drive = storage_->AttachDvd(2, fickle_, nullptr);
    if (drive.ok()) drive_ = *std::move(drive);
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
        const uint8_t what = Byte();
        if (what % 2 != 0) {
          (void)storage_->Detach(lun);
        } else if (what % 4 == 0) {
          (void)storage_->Attach(lun, disk_);
        } else if (lun == 2) {
          AttachDrive();
        } else {
          (void)storage_->Attach(lun, fickle_);
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
        end_ = &ends_[0];
        auto* control = reinterpret_cast<uint32_t*>(child_->host(end_->ring.pages.first_pfn * kPageSize));
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
      case 7:
        fickle_->holds = Byte() % 4 != 0;
        break;
      case 8:
      case 9: {
        if (fickle_->held() == 0) break;
        static constexpr BlockStatus kOutcomes[] = {
            BlockStatus::kOk,       BlockStatus::kOk,         BlockStatus::kIoError,    BlockStatus::kNoSpace,
            BlockStatus::kReadOnly, BlockStatus::kOutOfRange, BlockStatus::kUnsupported};
        const uint8_t which = Byte();
        fickle_->Release(which % fickle_->held(), kOutcomes[Byte() % std::size(kOutcomes)]);
        Exchange();
        break;
      }
      case 10: {
        const uint8_t what = Byte();
        End& end = ends_[1 + what / 8 % (kEnds - 1)];
        if (what % 8 < 2) {
          end_ = &ends_[0];
          hvdef::storvsc::Packet packet = {};
          packet.header.operation = hvdef::storvsc::Operation::kCreateSubChannels;
          packet.sub_channel_count = static_cast<uint16_t>(what % 8 + 1);
          SendInBand(packet, sizeof(packet), true);
        } else if (what % 8 < 4) {
          OpenEnd(static_cast<uint16_t>(&end - ends_));
        } else if (what % 8 == 4 && end.is_open()) {
          child_->client().Close(end.channel);
          Pump();
          if (end_ == &end) end_ = &ends_[0];
        } else {
          end_ = end.is_open() ? &end : &ends_[0];
        }
        break;
      }
      case 11: {
        hvdef::storvsc::Packet packet = {};
        packet.header.operation =
            Byte() % 2 != 0 ? hvdef::storvsc::Operation::kResetBus : hvdef::storvsc::Operation::kResetLun;
        packet.scsi.lun = Byte() % 4;
        // Of this channel's commands, all that are on their way.
        if (end_->reset == 0 && packet.header.operation == hvdef::storvsc::Operation::kResetBus) {
          end_->before_reset = end_->commands;
          end_->reset = next_id_ + 1;
        }
        if (!SendInBand(packet, sizeof(packet), true)) end_->reset = 0;
        break;
      }
      case 12:
        if (Byte() % 4 == 0) Replace();
        break;
      case 13: {
        // A command for the drive, or what somebody does with it meanwhile.
        static constexpr uint8_t kOps[] = {0x00, 0x12, 0x1A, 0x1B, 0x1E, 0x25, 0x28, 0x43,
                                           0x46, 0x4A, 0x51, 0x52, 0x5A, 0xA8, 0xAD, 0xBD};
        const uint8_t what = Byte();
        if (what % 8 == 0) {
          (void)drive_->Insert(what % 16 == 0 ? std::shared_ptr<BlockDevice>(disk_) : fickle_);
        } else if (what % 8 == 1) {
          (void)drive_->Eject(what % 16 == 1);
        } else {
          SendCommand(2, kOps[what / 8 % std::size(kOps)]);
        }
        break;
      }
    }
    if (!end_->is_open()) end_ = &ends_[0];
  }

  // Something near a sensible command; of one LUN and operation, if they are named.
  void SendCommand(int lun = -1, uint8_t op_code = 0) {
    hvdef::storvsc::Packet packet = {};
    packet.header.operation = hvdef::storvsc::Operation::kExecuteSrb;
    const uint8_t shape = Byte();
    packet.scsi.lun = shape % 8 == 0 ? Byte() : shape % 8 >= 4 && fickle_->holds;
    packet.scsi.target_id = shape % 32 == 0 ? Byte() : 0;
    packet.scsi.cdb_length = shape % 16 == 1 ? Byte() : 16;
    packet.scsi.data_in = shape % 16 == 2 ? Byte() : shape >> 4 & 1;
    packet.scsi.srb_flags = shape % 16 == 3 ? Byte() : 0;
    Bytes(packet.scsi.payload, 6);
    if (packet.scsi.payload[0] >= 0x20) Bytes(packet.scsi.payload + 6, 10);
    if (shape & 0x40) std::memset(packet.scsi.payload + 1, 0, 5);  // block addresses that exist
    if (lun >= 0) {
      packet.scsi.lun = static_cast<uint8_t>(lun);
      packet.scsi.payload[0] = op_code;
    }
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
    if (end_->rings.outgoing.StageGpaDirect(++next_id_, true, buffers, count, &packet, size) ==
        vmbus::RingStatus::kOk) {
      end_->asked.insert(next_id_);
      end_->commands.insert(next_id_);
    }
    Exchange();
  }

  // False: the ring is full.
  bool SendInBand(const hvdef::storvsc::Packet& packet, size_t size, bool wants_completion) {
    uint8_t bytes[512] = {};
    std::memcpy(bytes, &packet, sizeof(packet));
    ++next_id_;
    const auto status = end_->rings.outgoing.StageInBand(vmbus::PacketHeader::InBand(next_id_, wants_completion), bytes,
                                                         static_cast<uint32_t>(size));
    if (status == vmbus::RingStatus::kOk && wants_completion) end_->asked.insert(next_id_);
    Exchange();
    return status == vmbus::RingStatus::kOk;
  }

  void Signal() { child_->client().Signal(end_->channel); }

  // Shows the packets to the provider now or later, and takes what it answered.
  void Exchange() {
    if (Byte() % 4 == 0) return;
    if (end_->rings.outgoing.Publish() == vmbus::Signal::kNeeded) Signal();
    Pump();
    alignas(8) uint8_t bytes[128];
    vmbus::Packet packet;
    do {
      while (end_->rings.incoming.Read(bytes, sizeof(bytes), packet) == vmbus::RingStatus::kOk) {
        HVSDK_CHECK(is_broken_ || packet.type == hvdef::PacketType::kCompletion ||
                    (packet.type == hvdef::PacketType::kDataInBand && packet.transaction_id == 0));
        if (packet.type != hvdef::PacketType::kCompletion) continue;
        HVSDK_CHECK(is_broken_ || end_->asked.erase(packet.transaction_id) == 1);
        end_->commands.erase(packet.transaction_id);
        end_->before_reset.erase(packet.transaction_id);
        if (packet.transaction_id == end_->reset) {
          HVSDK_CHECK(is_broken_ || end_->before_reset.empty());
          end_->reset = 0;
        }
      }
      const vmbus::Armed armed = end_->rings.incoming.Arm();
      if (armed.signal == vmbus::Signal::kNeeded) Signal();
      if (armed.may_sleep) break;
    } while (true);
  }

  static constexpr uint64_t kDataPages = 128;  // 64 of them, away from the rings

  std::unique_ptr<StorageController> storage_;
  std::shared_ptr<MemoryDisk> disk_;
  std::shared_ptr<FickleDisk> fickle_;
  std::shared_ptr<scsi::DvdDrive> drive_;
  End ends_[kEnds];
  End* end_ = &ends_[0];       // where the guest sends and reads
  bool was_given_up_ = false;  // a controller went while the disk had requests, so the disk is kept
  bool is_broken_ = false;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_FUZZ_STORVSP_STORVSP_HARNESS_H_
