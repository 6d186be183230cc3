// SPDX-License-Identifier: Apache-2.0
// StorageClient: the child side of the storage provider on one open channel. It negotiates, sends SCSI commands and
// hands out their completions.
//
// Freestanding: no heap, no exceptions, no RTTI, no library but memcpy and memset. Nothing here waits: OnSignal, which
// the channel's signal calls, takes what has come. Up to 128 commands are in flight; their data are guest pages named
// by number, which the provider fills or reads in place.
//
// Thread-compatible: the caller keeps interrupts and everything else apart. Callbacks may send.
//
// Every command ends: with the provider's answer, or without one (StorageRequest::lost) when the client fails or its
// channel ends. A client serves one opening of its channel; the next has new rings and gets a new client.
//
// The host is not trusted to be right: a completion that nobody waits for is ignored; a broken ring,
// or an answer that is none, makes the client fail.
//
// Source: hvdef/storvsc.h; the order of the opening exchange is that of Linux' storvsc_drv.c.
//
//   vsc::StorageClient disk(bus, channel, rings);   // the channel is open
//   disk.Start();
//   while (disk.state() == vsc::StorageClient::State::kStarting) WaitForInterrupt();
//   vsc::StorageRequest request;
//   request.SetRead(/*lba=*/0, /*blocks=*/1);
//   request.data = {512, 0, &pfn};
//   if (disk.Send(request)) disk.Publish();
//   while (!request.is_done) WaitForInterrupt();

#ifndef HVSDK_VSC_STORAGE_CLIENT_H_
#define HVSDK_VSC_STORAGE_CLIENT_H_

#include <cstdint>

#include "hvsdk/hvdef/scsi.h"
#include "hvsdk/hvdef/storvsc.h"
#include "hvsdk/vmbus/ring/packet.h"
#include "hvsdk/vsc/client_rings.h"
#include "hvsdk/vsc/vmbus_client.h"

namespace hvsdk::vsc {

// A SCSI command and its answer. The caller's object; it stays where it is until it is done.
struct StorageRequest {
  // The command.
  uint8_t path_id = 0;
  uint8_t target_id = 0;
  uint8_t lun = 0;
  uint8_t cdb[hvdef::storvsc::kMaxCdbBytes] = {};
  uint8_t cdb_length = 0;
  uint8_t data_direction = hvdef::storvsc::kDataNone;  // kDataIn: the disk writes into `data`
  uint32_t srb_flags = 0;
  vmbus::GpaBuffer data = {};  // byte_count 0: none

  // Called when it is done, if set. The request is the caller's again.
  void* context = nullptr;
  void (*on_done)(void* context, StorageRequest& request) = nullptr;

  // The answer.
  bool is_done = false;
  bool lost = false;        // no answer: the client failed, or its channel ended; kRequestFlushed
  uint8_t srb_status = 0;   // hvdef::storvsc::SrbStatus, and flags
  uint8_t scsi_status = 0;  // hvdef::scsi::Status
  uint32_t transferred = 0;
  bool has_sense = false;
  hvdef::scsi::FixedSense sense = {};

  bool ok() const {
    return is_done && srb_status == static_cast<uint8_t>(hvdef::storvsc::SrbStatus::kSuccess) && scsi_status == 0;
  }

  // The commands most wanted. The block address and count are in the disk's blocks; `data` is the caller's to set.
  void SetTestUnitReady();
  void SetInquiry(uint16_t allocation_bytes);
  void SetVitalProductData(uint8_t page, uint16_t allocation_bytes);
  void SetReadCapacity16();
  void SetReportLuns(uint32_t allocation_bytes);
  void SetRead(uint64_t lba, uint32_t blocks);
  void SetWrite(uint64_t lba, uint32_t blocks, bool force_unit_access = false);
  void SetSynchronizeCache();
};

class StorageClient {
 public:
  static constexpr uint32_t kMaxRequests = 128;

  enum class State : uint8_t {
    kIdle,  // until Start
    kStarting,
    kReady,
    // The provider speaks no version that we do, or broke the protocol or a ring. Close the channel:
    // until it has ended the provider may still use the pages of commands that were lost.
    kFailed,
    kEnded,  // the channel is no more: closed, rescinded, or the bus was left
  };

  // Takes the channel's signals and its end. The rings are those the channel is opened with; with invalid ones the
  // client is kFailed from the start.
  StorageClient(VmbusClient& bus, Channel& channel, const ClientRings& rings);
  StorageClient(const StorageClient&) = delete;
  StorageClient& operator=(const StorageClient&) = delete;

  // Begins the exchange on the primary channel, with the newest version that is not above `newest`.
  void Start(hvdef::storvsc::Version newest = hvdef::storvsc::Version::kWin10);
  // On a subchannel there is nothing to exchange: commands may follow at once.
  void StartSubchannel(const StorageClient& primary);

  State state() const { return state_; }
  hvdef::storvsc::Version version() const { return version_; }
  uint32_t max_transfer_bytes() const { return max_transfer_bytes_; }
  uint16_t max_subchannels() const { return max_subchannels_; }

  // Asks for subchannels; they come as offers. False: not ready, no room, or not in this version.
  [[nodiscard]] bool RequestSubchannels(uint16_t count);
  enum class Subchannels : uint8_t { kNotRequested, kRequested, kGranted, kRefused };
  Subchannels subchannels() const { return subchannels_; }

  // Puts a command into the ring; Publish shows it and all before it to the provider. False: not ready, the channel is
  // not open, or no room at present; then try again after a completion.
  [[nodiscard]] bool Send(StorageRequest& request);
  void Publish();
  uint32_t in_flight() const { return in_flight_; }

  // Asks the provider to reset the bus, and says in reset_done() that it has, unless state() tells of an end before.
  [[nodiscard]] bool ResetBus();
  bool reset_done() const { return reset_done_; }

  // How often the provider has said that disks came or went.
  uint32_t bus_changes() const { return bus_changes_; }

  // Takes completions. The channel's signal calls it; a caller that polls does, too.
  void OnSignal();

 private:
  static constexpr uint64_t kControlId = uint64_t{1} << 32;

  [[nodiscard]] bool SendControl(hvdef::storvsc::Operation operation, uint16_t value = 0);
  void TakePackets();
  void OnPacket(const vmbus::Packet& packet);
  void OnControl(const hvdef::storvsc::Packet& packet);
  void OnCompletion(uint64_t id, const hvdef::storvsc::Packet& packet);
  size_t packet_bytes() const;
  bool is_over() const { return state_ == State::kFailed || state_ == State::kEnded; }
  bool WaitsFor(uint64_t id) const;
  StorageRequest& Take(uint32_t place);
  void End(State state);
  // False: there was no room. The client fails if the ring is broken.
  bool Staged(vmbus::RingStatus status);

  VmbusClient& bus_;
  Channel& channel_;
  ClientRings rings_;
  State state_ = State::kIdle;
  hvdef::storvsc::Operation waits_for_{};  // what the control packet in flight asked
  bool control_in_flight_ = false;
  hvdef::storvsc::Version version_{};
  uint32_t max_transfer_bytes_ = 0;
  uint16_t max_subchannels_ = 0;
  Subchannels subchannels_ = Subchannels::kNotRequested;
  bool reset_done_ = false;
  uint32_t bus_changes_ = 0;

  // The transaction id of a command is its place in here, plus 1.
  StorageRequest* requests_[kMaxRequests] = {};
  uint32_t free_[kMaxRequests];  // places, as a stack
  uint32_t in_flight_ = 0;
};

}  // namespace hvsdk::vsc

#endif  // HVSDK_VSC_STORAGE_CLIENT_H_
