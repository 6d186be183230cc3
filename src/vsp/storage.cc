// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vsp/storage.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <functional>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/hvdef/scsi_data.h"
#include "vsp/storage_channel.h"
#include "vsp/storage_protocol.h"

namespace hvsdk::vsp {

namespace storvsc = hvdef::storvsc;
using hvdef::scsi::Asc;
using hvdef::scsi::SenseKey;

namespace {

// A disk, as a guest knows it again.
struct DiskState {
  uint8_t lun = 0;
  uint64_t size_bytes = 0;
  uint32_t logical_block_bytes = 0;
  bool read_only = false;
  std::array<uint8_t, 16> id{};
  std::string serial;
  bool write_cache = true;
  uint32_t kept_sense = 0;
  // Of a DVD drive, whose other fields are its medium's. `size_bytes` 0: it is empty.
  bool is_dvd = false;
  bool is_tray_open = false;
  bool is_locked = false;
  bool has_attention = false;
  hvdef::scsi::MediaEventCode event = hvdef::scsi::MediaEventCode::kNone;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "lun", lun);
    visit(2, "size_bytes", size_bytes);
    visit(3, "logical_block_bytes", logical_block_bytes);
    visit(4, "read_only", read_only);
    visit(5, "id", id);
    visit(6, "serial", serial);
    visit(7, "write_cache", write_cache);
    visit(8, "kept_sense", kept_sense);
    visit(9, "is_dvd", is_dvd);
    visit(10, "is_tray_open", is_tray_open);
    visit(11, "is_locked", is_locked);
    visit(12, "has_attention", has_attention);
    visit(13, "event", event);
  }
};

struct StorageState {
  static constexpr uint32_t kSchema = 1;
  StorageProtocol::State protocol{};
  storvsc::Version version = storvsc::Version::kWin6;
  bool has_subchannels = false;
  std::vector<DiskState> disks;
  StorageChannelState primary;
  std::vector<StorageChannelState> subchannels;  // those that are offered, from index 1 on

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "protocol", protocol);
    visit(2, "version", version);
    visit(3, "has_subchannels", has_subchannels);
    visit(4, "disks", disks);
    visit(5, "primary", primary);
    visit(6, "subchannels", subchannels);
  }
};

// A name for a disk that has none: the controller's, and the LUN.
std::array<uint8_t, 16> DiskId(const hvdef::Guid& controller, uint8_t lun) {
  std::array<uint8_t, 16> id;
  std::memcpy(id.data(), &controller, sizeof(id));
  id[15] = static_cast<uint8_t>(id[15] + lun + 1);
  return id;
}

}  // namespace

// Everything but the public face. Runs on the executor, but for what `mutex_` guards.
class StorageController::Core : private StorageChannelHost, private Task {
 public:
  Core(Executor& executor, const StorageOptions& options)
      : options_(options), executor_(executor), protocol_(options_), primary_(NewChannel(/*is_primary=*/true)) {}

  ~Core() override {
    StopChannels();
    // Before the guest is told that it has its pages back, the disks have let go of them; or nobody will use them any
    // more, and they are the requests' to keep.
    std::shared_ptr<const void> memory;
    if (is_stopped_ && primary_channel_ != nullptr) memory = primary_channel_->memory().owner();
    std::vector<std::shared_ptr<BlockDevice>> busy;
    for (const auto& disk : BusyDisks()) {
      for (auto& device : disk->unit->devices()) busy.push_back(std::move(device));
    }
    for (Subchannel& sub : subchannels_) sub.handler->Disown(memory, busy);
    primary_->Disown(memory, busy);
    subchannels_.clear();
    primary_channel_.reset();
    primary_.reset();
    executor_.Drain(*this);
  }

  absl::Status Offer(vmbus::Server& server) {
    vmbus::Offer offer;
    offer.class_id = hvdef::class_id::kScsi;
    offer.instance_id = options_.instance_id;
    offer.flags = hvdef::vmbus::kOfferEnumerateDeviceInterface;
    server_ = &server;
    ASSIGN_OR_RETURN(primary_channel_, server.OfferChannel(offer, *primary_, executor_));
    return absl::OkStatus();
  }

  absl::Status Attach(uint8_t lun, std::shared_ptr<BlockDevice> device) {
    if (lun >= kMaxDisks) return absl::OutOfRangeError(absl::StrCat("SCSI LUN ", lun, " is not below ", kMaxDisks));
    const BlockInfo& info = device->info();
    const uint32_t block = info.logical_block_bytes;
    if (!std::has_single_bit(block) || block < 512 || block > kPageSize || info.size_bytes < block) {
      return absl::InvalidArgumentError(
          absl::StrCat("the disk for SCSI LUN ", lun, " is empty, or has blocks of ", block, " bytes"));
    }
    scsi::ScsiDiskOptions options;
    options.id = DiskId(options_.instance_id, lun);
    options.max_transfer_bytes = options_.max_transfer_bytes;
    return Attach(std::make_shared<AttachedDisk>(lun, std::make_shared<scsi::ScsiDisk>(std::move(device), options)));
  }

  absl::StatusOr<std::shared_ptr<scsi::DvdDrive>> AttachDvd(uint8_t lun, std::shared_ptr<BlockDevice> medium,
                                                            std::function<void()> on_ejected) {
    if (lun >= kMaxDisks) return absl::OutOfRangeError(absl::StrCat("SCSI LUN ", lun, " is not below ", kMaxDisks));
    auto drive =
        std::make_shared<scsi::DvdDrive>(scsi::DvdDriveOptions{.id = DiskId(options_.instance_id, lun),
                                                               .max_transfer_bytes = options_.max_transfer_bytes,
                                                               .on_ejected = std::move(on_ejected)});
    if (medium != nullptr) {
      RETURN_IF_ERROR(drive->Insert(std::move(medium)));
      drive->SetState({});  // it has been there from the start
    }
    RETURN_IF_ERROR(Attach(std::make_shared<AttachedDisk>(lun, drive)));
    return drive;
  }

  absl::Status Detach(uint8_t lun) {
    std::shared_ptr<AttachedDisk> disk;  // let go of without the lock
    {
      std::lock_guard lock(mutex_);
      if (lun >= kMaxDisks || wanted_[lun] == nullptr) {
        return absl::NotFoundError(absl::StrCat("no disk at SCSI LUN ", lun));
      }
      disk = std::exchange(wanted_[lun], nullptr);
    }
    ScheduleUpdate();
    return absl::OkStatus();
  }

  void LeaveOut(uint8_t lun) { left_out_ |= uint64_t{1} << lun; }

  void Stop(absl::AnyInvocable<void()> on_idle) {
    is_stopped_ = true;
    on_idle_ = std::move(on_idle);
    StopChannels();
    executor_.Schedule(*this);
  }

  void Pause(absl::AnyInvocable<void()> on_paused) {
    is_paused_ = true;
    on_paused_ = std::move(on_paused);
    OnPauseChanged();
    executor_.Schedule(*this);
  }
  void Resume() {
    is_paused_ = false;
    OnPauseChanged();
  }

  std::string StateName() const { return absl::StrCat("storage/", options_.number); }

  absl::Status Save(state::StateWriter& writer) const {
    if (!is_idle()) return absl::FailedPreconditionError(absl::StrCat(StateName(), " has commands under way"));
    StorageState state;
    const StorageProtocol::Agreed agreed = protocol_.agreed();
    state.protocol = agreed.state;
    state.version = agreed.version;
    state.has_subchannels = agreed.has_subchannels;
    {
      std::lock_guard lock(mutex_);
      for (const auto& disk : wanted_) {
        if (disk != nullptr) state.disks.push_back(Describe(*disk));
      }
    }
    state.primary = primary_->Save();
    for (const Subchannel& sub : subchannels_) state.subchannels.push_back(sub.handler->Save());
    writer.Write(state);
    return absl::OkStatus();
  }

  absl::Status Restore(state::StateReader& reader) {
    StorageState state;
    RETURN_IF_ERROR(reader.Read(state));
    if (primary_->is_open() || !subchannels_.empty()) {
      return absl::FailedPreconditionError(absl::StrCat(StateName(), " has a guest already"));
    }
    const StorageProtocol::Agreed agreed = {state.protocol, state.version, state.has_subchannels};
    if (!protocol_.IsPossible(agreed)) return reader.Invalid("protocol", "not to be agreed on here");
    if (state.subchannels.size() > options_.max_subchannels) return reader.Invalid("subchannels", "more than allowed");
    if (!state.subchannels.empty() && !state.has_subchannels) return reader.Invalid("subchannels", "nobody asked for");
    RETURN_IF_ERROR(CheckDisks(state.disks, reader));
    if (!primary_->IsPossible(state.primary)) return reader.Invalid("primary.answers", "not answers, or too many");
    for (const StorageChannelState& sub : state.subchannels) {
      if (!primary_->IsPossible(sub)) return reader.Invalid("subchannels.answers", "not answers, or too many");
    }
    for (size_t i = 1; i <= state.subchannels.size(); ++i) {
      Subchannel sub;
      sub.handler = NewChannel(/*is_primary=*/false);
      vmbus::Offer offer = primary_channel_->offer();
      offer.subchannel_index = static_cast<uint16_t>(i);
      auto channel = server_->OfferChannel(offer, *sub.handler, executor_);
      if (!channel.ok()) {
        subchannels_.clear();
        return channel.status();
      }
      sub.channel = *std::move(channel);
      sub.handler->Restore(std::move(state.subchannels[i - 1]));
      subchannels_.push_back(std::move(sub));
    }
    UpdateDisks();  // the guest knows them
    for (const DiskState& disk : state.disks) {
      if (disks_[disk.lun] == nullptr) {
        state.primary.wants_bus_notice |= agreed.state == StorageProtocol::State::kReady;
        continue;
      }
      RestoreUnit(disk, *disks_[disk.lun]);
    }
    primary_->Restore(std::move(state.primary));
    protocol_.SetAgreed(agreed);
    return absl::OkStatus();
  }

  void Reset() {
    HVSDK_CHECK(is_idle());
    DropSubchannels();
    primary_->Reset();
    protocol_.Reset();
    for (const auto& disk : disks_) {
      if (disk != nullptr) ResetUnit(*disk);
    }
  }

  // Those that still have commands.
  std::vector<std::shared_ptr<AttachedDisk>> BusyDisks() const {
    std::vector<std::shared_ptr<AttachedDisk>> busy;
    for (const auto& disk : disks_) {
      if (disk != nullptr && !disk->epochs.is_idle()) busy.push_back(disk);
    }
    busy.insert(busy.end(), retired_.begin(), retired_.end());
    return busy;
  }

 private:
  struct Subchannel {
    std::unique_ptr<StorageChannel> handler;
    std::unique_ptr<vmbus::Channel> channel;  // declared last: gone first
  };

  std::unique_ptr<StorageChannel> NewChannel(bool is_primary) {
    StorageChannelHost& host = *this;
    return std::make_unique<StorageChannel>(host, executor_, is_primary, options_.queue_depth,
                                            options_.max_transfer_bytes);
  }

  // StorageChannelHost
  bool is_ready() const override { return protocol_.is_ready(); }
  bool is_paused() const override { return is_paused_; }
  size_t bus_notice_bytes() const override { return protocol_.has_bus_notices() ? protocol_.packet_bytes() : 0; }
  void OnIdle() override { executor_.Schedule(*this); }

  void OnCloseRequested(StorageChannel& channel) override {
    // In a machine that is paused nobody runs the executor, and a reset closes here and now; but a channel that ends
    // others must not do so from within one of them.
    if (is_paused_ && is_idle() && (&channel == primary_.get() || !primary_->is_close_requested())) {
      FinishCloses();
    } else if (channel.is_idle()) {
      OnIdle();
    }
  }

  bool OnPrimaryOpen() override {
    if (is_stopped_) return false;
    protocol_.Reset();
    UpdateDisks();
    return true;
  }

  bool HandleControl(CommandSlot& slot, bool is_primary) override {
    storvsc::Packet& packet = slot.reply;
    const storvsc::Operation operation = packet.header.operation;
    const bool is_reset = operation == storvsc::Operation::kResetLun ||
                          operation == storvsc::Operation::kResetAdapter || operation == storvsc::Operation::kResetBus;
    uint16_t wanted = 0;
    if (is_primary) {
      protocol_.Handle(packet, slot.reply_bytes, wanted);
    } else {
      // A subchannel carries commands, and resets.
      packet.header = {
          storvsc::Operation::kCompleteIo, 0,
          is_reset && protocol_.is_ready() ? storvsc::Status::kSuccess : storvsc::Status::kInvalidDeviceState};
    }
    if (wanted != 0 && !OfferSubchannels(wanted)) {
      protocol_.SubchannelsFailed();
      packet.header.status = storvsc::Status::kUnsuccessful;
    }
    if (!is_reset || packet.header.status != storvsc::Status::kSuccess) return true;
    slot.waits_for = 0;
    if (operation == storvsc::Operation::kResetLun) {
      if (AttachedDisk* const disk = FindDisk(packet.scsi); disk != nullptr) ResetDisk(*disk, slot);
      // The guest's commands for one that was pulled out are that LUN's to the guest.
      for (const auto& disk : retired_) {
        if (IsAddressOf(packet.scsi, *disk)) ResetDisk(*disk, slot);
      }
    } else {
      for (const auto& disk : disks_) {
        if (disk != nullptr) ResetDisk(*disk, slot);
      }
      for (const auto& disk : retired_) ResetDisk(*disk, slot);
    }
    return slot.waits_for == 0;
  }

  // What a disk has begun cannot be taken back, so a reset waits for it. Linux counts on having all its requests back
  // when the reset is answered (storvsc_host_reset).
  void ResetDisk(AttachedDisk& disk, CommandSlot& slot) {
    disk.reset_epoch = disk.epochs.BeginNext();
    if (disk.epochs.HasBegun(disk.reset_epoch)) return;
    disk.resets.emplace_back(disk.reset_epoch, &slot);
    ++slot.waits_for;
  }

  void ForgetResets(StorageChannel& channel) override {
    const auto forget = [&](AttachedDisk& disk) {
      std::erase_if(disk.resets, [&](const auto& reset) {
        CommandSlot& slot = *reset.second;
        if (slot.channel != &channel) return false;
        if (--slot.waits_for == 0) channel.FinishReset(slot);
        return true;
      });
    };
    for (const auto& disk : disks_) {
      if (disk != nullptr) forget(*disk);
    }
    for (const auto& disk : retired_) forget(*disk);
  }

  bool OfferSubchannels(uint16_t count) {
    // A state may have brought some without an open primary channel; they are in use, perhaps, and end with it.
    if (!subchannels_.empty()) return false;
    for (uint16_t i = 1; i <= count; ++i) {
      Subchannel sub;
      sub.handler = NewChannel(/*is_primary=*/false);
      auto channel = primary_channel_->OfferSubchannel(i, *sub.handler, executor_);
      if (!channel.ok()) {
        subchannels_.clear();
        return false;
      }
      sub.channel = *std::move(channel);
      subchannels_.push_back(std::move(sub));
    }
    return true;
  }

  static bool IsAddressOf(const storvsc::ScsiRequest& request, const AttachedDisk& disk) {
    return request.path_id == 0 && request.target_id == 0 && request.lun == disk.lun;
  }

  AttachedDisk* FindDisk(const storvsc::ScsiRequest& request) override {
    if (request.path_id != 0 || request.target_id != 0 || request.lun >= kMaxDisks) return nullptr;
    return disks_[request.lun].get();
  }

  // REPORT LUNS is the controller's to answer. Where no disk is, INQUIRY says so, and everything else finds no
  // logical unit.
  bool HandleWithoutDisk(const storvsc::ScsiRequest& request, scsi::ScsiCommand& command) override {
    const auto op_code = static_cast<hvdef::scsi::OpCode>(command.cdb[0]);
    if (op_code == hvdef::scsi::OpCode::kReportLuns) {
      ReportLuns(request, command);
      return true;
    }
    if (FindDisk(request) != nullptr) return false;
    if (op_code == hvdef::scsi::OpCode::kInquiry && (command.cdb[1] & 0x01) == 0 && command.cdb[2] == 0) {
      hvdef::scsi::InquiryData data = {};
      data.peripheral = hvdef::scsi::kNoLogicalUnit;
      data.version = hvdef::scsi::kVersionSpc3;
      data.response_data_format = hvdef::scsi::kResponseFormatSpc;
      data.additional_length = sizeof(data) - 5;
      command.Return(&data, sizeof(data), hvdef::scsi::LoadBigEndian<uint16_t>(command.cdb + 3));
      return true;
    }
    command.Fail(SenseKey::kIllegalRequest, Asc::kLogicalUnitNotSupported);
    return true;
  }

  void ReportLuns(const storvsc::ScsiRequest& request, scsi::ScsiCommand& command) {
    struct {
      hvdef::scsi::LunListHeader header;
      hvdef::scsi::Be64 luns[kMaxDisks];
    } list = {};
    // SELECT REPORT: all, or only well known ones, of which there are none (SPC-4 6.33).
    const uint8_t select = command.cdb[2];
    uint32_t count = 0;
    for (uint32_t lun = 0; lun < kMaxDisks; ++lun) {
      if (request.path_id != 0 || request.target_id != 0 || disks_[lun] == nullptr) continue;
      if (select == 1) continue;
      list.luns[count++] = uint64_t{lun} << 48;  // peripheral device addressing (SAM-5 4.7.7.2)
    }
    list.header.length = count * 8;
    const uint32_t allocation = hvdef::scsi::LoadBigEndian<uint32_t>(command.cdb + 6);
    if (allocation < 16 || select > 2) {
      command.Fail(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
      return;
    }
    command.Return(&list, sizeof(list.header) + count * 8, allocation);
  }

  void ReleaseDisk(AttachedDisk& disk, uint64_t epoch) override {
    disk.epochs.End(epoch);
    while (!disk.resets.empty() && disk.epochs.HasBegun(disk.resets.front().first)) {
      CommandSlot& slot = *disk.resets.front().second;
      disk.resets.pop_front();
      if (--slot.waits_for == 0) slot.channel->FinishReset(slot);
    }
    if (!disk.is_attached && disk.epochs.is_idle()) {
      std::erase_if(retired_, [&](const auto& retired) { return retired.get() == &disk; });
    }
  }

  // Task: disks came or went, or a channel that stops has become idle.
  void Run() override {
    if (UpdateDisks()) primary_->NotifyBusChange();
    FinishCloses();
    if (is_paused_ && on_paused_ != nullptr && is_quiet()) std::exchange(on_paused_, nullptr)();
    if (is_stopped_ && on_idle_ != nullptr && is_idle()) std::exchange(on_idle_, nullptr)();
  }

  void StopChannels() {
    primary_->Stop();
    for (Subchannel& sub : subchannels_) sub.handler->Stop();
  }
  bool is_idle() const {
    return primary_->is_idle() && std::all_of(subchannels_.begin(), subchannels_.end(),
                                              [](const Subchannel& sub) { return sub.handler->is_idle(); });
  }

  void OnPauseChanged() {
    primary_->OnPauseChanged();
    for (Subchannel& sub : subchannels_) sub.handler->OnPauseChanged();
  }
  bool is_quiet() const {
    const auto is_it = [](const StorageChannel& channel) {
      return channel.is_quiet() && channel.is_idle() && !channel.is_close_requested();
    };
    return is_it(*primary_) && std::all_of(subchannels_.begin(), subchannels_.end(),
                                           [&](const Subchannel& sub) { return is_it(*sub.handler); });
  }

  void DropSubchannels() {
    for (Subchannel& sub : subchannels_) sub.handler->Disown(nullptr, {});
    subchannels_.clear();
  }

  static DiskState Describe(const AttachedDisk& disk) {
    DiskState state{.lun = disk.lun};
    std::shared_ptr<BlockDevice> medium;
    if (disk.dvd != nullptr) {
      const scsi::DvdDrive::State drive = disk.dvd->state();
      state.read_only = state.is_dvd = true;
      state.is_tray_open = drive.is_tray_open;
      state.is_locked = drive.is_locked;
      state.has_attention = drive.has_attention;
      state.event = drive.event;
      state.kept_sense = drive.kept_sense;
      medium = disk.dvd->medium();
      if (medium == nullptr) return state;
    } else {
      const scsi::ScsiDisk::State unit = disk.disk->state();
      state.write_cache = unit.write_cache;
      state.kept_sense = unit.kept_sense;
      state.read_only = disk.disk->device().info().read_only;
    }
    const BlockInfo& info = medium == nullptr ? disk.disk->device().info() : medium->info();
    state.size_bytes = info.size_bytes;
    state.logical_block_bytes = info.logical_block_bytes;
    state.id = info.id;
    state.serial = info.serial;
    return state;
  }

  // What a guest must find as it was. A disc may be another: that is told.
  static bool IsSameUnit(const DiskState& a, const DiskState& b) {
    return a.is_dvd == b.is_dvd && (a.is_dvd || IsSameMedium(a, b));
  }
  static bool IsSameMedium(const DiskState& a, const DiskState& b) {
    return a.size_bytes == b.size_bytes && a.logical_block_bytes == b.logical_block_bytes &&
           a.read_only == b.read_only && a.id == b.id && a.serial == b.serial;
  }

  static void RestoreUnit(const DiskState& state, AttachedDisk& disk) {
    if (disk.disk != nullptr) {
      disk.disk->SetState({.write_cache = state.write_cache, .kept_sense = state.kept_sense});
      return;
    }
    scsi::DvdDrive::State drive{.is_tray_open = state.is_tray_open,
                                .is_locked = state.is_locked,
                                .has_attention = state.has_attention,
                                .event = state.event,
                                .kept_sense = state.kept_sense};
    const DiskState here = Describe(disk);
    if (!IsSameMedium(state, here)) {
      const bool has_medium = here.size_bytes != 0;
      drive.is_tray_open = false;
      drive.has_attention = has_medium;
      drive.event = has_medium ? hvdef::scsi::MediaEventCode::kNewMedia : hvdef::scsi::MediaEventCode::kMediaRemoval;
    }
    disk.dvd->SetState(drive);
  }
  // The disc stays where it is.
  static void ResetUnit(AttachedDisk& disk) {
    if (disk.disk != nullptr) disk.disk->SetState({});
    if (disk.dvd != nullptr) disk.dvd->SetState({.is_tray_open = disk.dvd->state().is_tray_open});
  }

  bool is_left_out(uint8_t lun) const { return (left_out_ >> lun & 1) != 0; }

  // They are those that are attached, each in its place, but for those that are left out.
  absl::Status CheckDisks(const std::vector<DiskState>& disks, const state::StateReader& reader) const {
    std::lock_guard lock(mutex_);
    int last = -1;
    for (const DiskState& disk : disks) {
      if (disk.lun >= kMaxDisks || disk.lun <= last) return reader.Invalid("disks.lun", "not a LUN, or out of order");
      if (wanted_[disk.lun] == nullptr && !is_left_out(disk.lun)) {
        return reader.Invalid("disks", absl::StrCat("LUN ", disk.lun, " has a disk that is missing here"));
      }
      const DiskState here = wanted_[disk.lun] == nullptr ? disk : Describe(*wanted_[disk.lun]);
      if (!IsSameUnit(disk, here)) {
        return reader.Invalid("disks", absl::StrCat("LUN ", disk.lun, " has another disk here"));
      }
      if (disk.event > hvdef::scsi::MediaEventCode::kMediaRemoval)
        return reader.Invalid("disks.event", "none there is");
      if (disk.kept_sense >> 24 != 0) return reader.Invalid("disks.kept_sense", "more than a key and a code");
      last = disk.lun;
    }
    for (const auto& disk : wanted_) {
      if (disk == nullptr) continue;
      const bool is_known =
          std::any_of(disks.begin(), disks.end(), [&](const DiskState& known) { return known.lun == disk->lun; });
      if (!is_known) return reader.Invalid("disks", absl::StrCat("LUN ", disk->lun, " has a disk here alone"));
    }
    return absl::OkStatus();
  }

  absl::Status Attach(std::shared_ptr<AttachedDisk> disk) {
    const uint8_t lun = disk->lun;
    {
      std::lock_guard lock(mutex_);
      if (wanted_[lun] != nullptr) return absl::AlreadyExistsError(absl::StrCat("SCSI LUN ", lun, " is taken"));
      wanted_[lun] = std::move(disk);
    }
    ScheduleUpdate();
    return absl::OkStatus();
  }

  void ScheduleUpdate() {
    is_changed_.store(true, std::memory_order_release);
    executor_.Schedule(*this);
  }

  // Takes over what Attach and Detach asked for. True: something changed.
  bool UpdateDisks() {
    if (!is_changed_.exchange(false, std::memory_order_acquire)) return false;
    std::vector<std::shared_ptr<AttachedDisk>> gone;  // let go of without the lock
    bool changed = false;
    std::lock_guard lock(mutex_);
    for (uint32_t lun = 0; lun < kMaxDisks; ++lun) {
      if (disks_[lun] == wanted_[lun]) continue;
      changed = true;
      if (disks_[lun] != nullptr) {
        disks_[lun]->is_attached = false;
        (disks_[lun]->epochs.is_idle() ? gone : retired_).push_back(disks_[lun]);
      }
      disks_[lun] = wanted_[lun];
    }
    return changed;
  }

  // A primary channel closes when its subchannels are gone; they go with it.
  void FinishCloses() {
    if (primary_->is_close_requested()) {
      for (Subchannel& sub : subchannels_) sub.handler->Stop();
      for (Subchannel& sub : subchannels_) {
        if (!sub.handler->is_idle()) return;
      }
      subchannels_.clear();
      if (primary_->is_idle()) primary_->FinishClose();
      return;
    }
    for (Subchannel& sub : subchannels_) {
      if (sub.handler->is_close_requested() && sub.handler->is_idle()) sub.handler->FinishClose();
    }
  }

  const StorageOptions options_;
  Executor& executor_;

  vmbus::Server* server_ = nullptr;

  mutable std::mutex mutex_;
  std::array<std::shared_ptr<AttachedDisk>, kMaxDisks> wanted_;  // guarded by mutex_
  std::atomic<bool> is_changed_{false};

  // The executor's own.
  StorageProtocol protocol_;
  std::array<std::shared_ptr<AttachedDisk>, kMaxDisks> disks_;
  std::vector<std::shared_ptr<AttachedDisk>> retired_;  // pulled out, with commands in flight
  std::unique_ptr<StorageChannel> primary_;
  std::unique_ptr<vmbus::Channel> primary_channel_;
  std::vector<Subchannel> subchannels_;
  uint64_t left_out_ = 0;  // LeaveOut's: a bit for each LUN
  bool is_paused_ = false;
  absl::AnyInvocable<void()> on_paused_;  // Pause's
  bool is_stopped_ = false;
  absl::AnyInvocable<void()> on_idle_;  // Stop's
};

absl::StatusOr<std::unique_ptr<StorageController>> StorageController::Create(vmbus::Server& server, Executor& executor,
                                                                             const StorageOptions& options) {
  if (options.max_transfer_bytes % kPageSize != 0 || options.max_transfer_bytes < (64 << 10) ||
      options.max_transfer_bytes > (8 << 20)) {
    return absl::InvalidArgumentError(absl::StrCat("storage: max_transfer_bytes is ", options.max_transfer_bytes,
                                                   ", not whole pages from 64 KiB to 8 MiB"));
  }
  if (options.queue_depth < 1 || options.queue_depth > 4096) {
    return absl::InvalidArgumentError(absl::StrCat("storage: queue_depth is ", options.queue_depth, ", not 1 to 4096"));
  }
  if (options.max_subchannels > kMaxSubchannels) {
    return absl::InvalidArgumentError(
        absl::StrCat("storage: max_subchannels is ", options.max_subchannels, ", not 0 to ", kMaxSubchannels));
  }
  auto core = std::make_unique<Core>(executor, options);
  RETURN_IF_ERROR(core->Offer(server));
  return std::unique_ptr<StorageController>(new StorageController(std::move(core)));
}

StorageController::StorageController(std::unique_ptr<Core> core) : core_(std::move(core)) {}
StorageController::~StorageController() = default;

absl::Status StorageController::Attach(uint8_t lun, std::shared_ptr<BlockDevice> device) {
  return core_->Attach(lun, std::move(device));
}

void StorageController::Stop(absl::AnyInvocable<void()> on_idle) { core_->Stop(std::move(on_idle)); }

void StorageController::Pause(absl::AnyInvocable<void()> on_paused) { core_->Pause(std::move(on_paused)); }
void StorageController::Resume() { core_->Resume(); }

std::string StorageController::StateName() const { return core_->StateName(); }
absl::Status StorageController::Save(state::StateWriter& writer) const { return core_->Save(writer); }
absl::Status StorageController::Restore(state::StateReader& reader) { return core_->Restore(reader); }
void StorageController::Reset() { core_->Reset(); }

std::vector<uint8_t> StorageController::BusyDisks() const {
  std::vector<uint8_t> luns;
  for (const auto& disk : core_->BusyDisks()) luns.push_back(disk->lun);
  std::sort(luns.begin(), luns.end());
  luns.erase(std::unique(luns.begin(), luns.end()), luns.end());
  return luns;
}

absl::StatusOr<std::shared_ptr<scsi::DvdDrive>> StorageController::AttachDvd(uint8_t lun,
                                                                             std::shared_ptr<BlockDevice> medium,
                                                                             std::function<void()> on_ejected) {
  return core_->AttachDvd(lun, std::move(medium), std::move(on_ejected));
}

absl::Status StorageController::Detach(uint8_t lun) { return core_->Detach(lun); }
void StorageController::LeaveOut(uint8_t lun) { core_->LeaveOut(lun); }

}  // namespace hvsdk::vsp
