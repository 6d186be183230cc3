// SPDX-License-Identifier: Apache-2.0
#include "vsp/storage_channel.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "hvsdk/base/ids.h"
#include "vsp/srb_status.h"

namespace hvsdk::vsp {

namespace storvsc = hvdef::storvsc;
using hvdef::scsi::Asc;
using hvdef::scsi::SenseKey;
using storvsc::SrbStatus;

namespace {

// A request counts once, and once more for every 64 KiB: a disk in memory, or a file in the page cache, moves them here
// and now.
constexpr uint64_t kBytesPerUnitOfWork = 64 << 10;

// A page number for each page of a transfer, which touches one more if it does not start on one, and room for the header
// and a few ranges more than the one that guests send.
constexpr uint32_t LongestPacket(uint32_t max_transfer_bytes) {
  return static_cast<uint32_t>(max_transfer_bytes / kPageSize + 1 + 64) * sizeof(uint64_t);
}

scsi::DataDirection DirectionOf(uint8_t data_in) {
  switch (data_in) {
    case storvsc::kDataIn:
      return scsi::DataDirection::kIn;
    case storvsc::kDataOut:
      return scsi::DataDirection::kOut;
    default:
      return scsi::DataDirection::kNone;
  }
}

}  // namespace

StorageChannel::StorageChannel(StorageChannelHost& host, Executor& executor, bool is_primary, uint32_t queue_depth,
                               uint32_t max_transfer_bytes)
    : PacketPump({.max_packet_bytes = LongestPacket(max_transfer_bytes)}),
      host_(host),
      executor_(executor),
      is_primary_(is_primary),
      queue_depth_(queue_depth),
      max_transfer_bytes_(max_transfer_bytes) {}

StorageChannel::~StorageChannel() { executor_.Drain(*this); }

bool StorageChannel::OnOpen(vmbus::Channel& channel) {
  if (is_primary_ && !host_.OnPrimaryOpen()) return false;
  restored_ = {};  // of an opening that the bus knows nothing of
  Begin(channel);
  return true;
}

void StorageChannel::Begin(vmbus::Channel& channel) {
  HVSDK_CHECK(PacketPump::OnOpen(channel));  // it wants nothing of its rings
  is_accepting_ = true;
  is_close_requested_ = false;
  wants_bus_notice_ = false;
  is_quiet_ = false;
  slots_ = std::make_shared<CommandSlots>(queue_depth_, *this, executor_, static_cast<Task&>(*this));
  answered_first_ = answered_last_ = nullptr;
}

void StorageChannel::OnRestored(vmbus::Channel& channel) {
  Begin(channel);
  const StorageChannelState state = std::exchange(restored_, {});
  wants_bus_notice_ = state.wants_bus_notice;
  for (const auto& answer : state.answers) {
    CommandSlot& slot = slots_->Take();
    slot.transaction_id = answer.transaction_id;
    slot.reply = {};
    slot.reply_bytes = answer.packet.size();
    std::memcpy(&slot.reply, answer.packet.data(), answer.packet.size());
    QueueAnswer(slot);
  }
  is_quiet_ = true;  // nothing has been said to it yet
  if (!host_.is_paused()) OnPauseChanged();
}

void StorageChannel::OnPauseChanged() {
  is_quiet_ = false;
  executor_.Schedule(*this);
}

StorageChannelState StorageChannel::Save() const {
  if (!is_open()) return restored_;
  StorageChannelState state{.wants_bus_notice = wants_bus_notice_, .answers = {}};
  for (const CommandSlot* slot = answered_first_; slot != nullptr; slot = slot->next) {
    const auto* const bytes = reinterpret_cast<const uint8_t*>(&slot->reply);
    state.answers.push_back({slot->transaction_id, {bytes, bytes + slot->reply_bytes}});
  }
  return state;
}

bool StorageChannel::IsPossible(const StorageChannelState& state) const {
  return state.answers.size() <= queue_depth_ &&
         std::all_of(state.answers.begin(), state.answers.end(), [](const auto& answer) {
           return answer.packet.size() >= sizeof(storvsc::PacketHeader) &&
                  answer.packet.size() <= sizeof(storvsc::Packet);
         });
}

void StorageChannel::Reset() {
  wants_bus_notice_ = false;
  restored_ = {};
  // Those of a channel that has closed went with its slots.
  if (slots_ == nullptr) answered_first_ = nullptr;
  while (answered_first_ != nullptr) slots_->Free(*std::exchange(answered_first_, answered_first_->next));
  answered_last_ = nullptr;
}

void StorageChannel::OnClosing(vmbus::Channel&) {
  if (is_close_requested_) return Run();
  Stop();
  is_close_requested_ = true;
  host_.OnCloseRequested(*this);
}

void StorageChannel::OnSignal(vmbus::Channel&) { Run(); }

void StorageChannel::Run() {
  if (!is_open()) return;
  if (host_.is_paused() && is_quiet_) return;
  slots_->SetExpected(false);
  if (is_accepting_) {
    TakeTurn();
    // A lone answer is not for waiting.
    if (is_open()) slots_->SetExpected(is_waiting() && busy_ > 1);
    return;
  }
  TakeCompleted();  // none of them goes on
  if (is_idle()) host_.OnIdle();
}

void StorageChannel::Stop() {
  if (!std::exchange(is_accepting_, false)) return;
  host_.ForgetResets(*this);
  // Commands of many steps end here, also those that are between two.
  executor_.Schedule(*this);
}

void StorageChannel::FinishClose() {
  HVSDK_CHECK(is_idle() && is_close_requested_);
  is_close_requested_ = false;
  slots_->Disown(nullptr, {});
  slots_.reset();
  PacketPump::FinishClose();
}

void StorageChannel::Disown(std::shared_ptr<const void> memory, std::vector<std::shared_ptr<BlockDevice>> disks) {
  if (slots_ == nullptr) return;
  slots_->Disown(std::move(memory), std::move(disks));
  slots_.reset();
}

void StorageChannel::NotifyBusChange() {
  if (!is_accepting_) return;
  wants_bus_notice_ = true;
  executor_.Schedule(*this);
}

void StorageChannel::FinishReset(CommandSlot& slot) {
  --busy_;
  QueueAnswer(slot);
  executor_.Schedule(*this);
}

vmbus::Take StorageChannel::OnTurn() {
  SubmitBatch();
  do {
    TakeCompleted();
    SubmitBatch();
  } while (slots_->has_completed() && has_time());
  const bool has_room = SendAnswers();
  if (host_.is_paused()) {
    is_quiet_ = is_idle();
    if (is_quiet_) host_.OnIdle();
    return vmbus::Take::kNoMore;
  }
  // Completions, or the guest's word that there is room, bring us back.
  return has_room && slots_->has_free() ? vmbus::Take::kMore : vmbus::Take::kNoMore;
}

void StorageChannel::TakeCompleted() {
  for (CommandSlot* slot = slots_->TakeCompleted(); slot != nullptr;) {
    CommandSlot& completed = *std::exchange(slot, slot->next);
    Advance(completed, NextStep(completed));
  }
}

// What becomes of a command whose request has come back. One of many steps takes no further one when the channel
// closes, when the disk is gone, and after a reset.
scsi::ScsiStep StorageChannel::NextStep(CommandSlot& slot) {
  scsi::ScsiUnit& unit = *slot.disk->unit;
  if (slot.work == nullptr) return unit.Continue(slot, slot.outcome);
  if (is_accepting_ && !slot.disk->HasEnded(slot.epoch)) return unit.Continue(slot, slot.outcome);
  if (!slot.disk->is_attached) {
    unit.Abort(slot, SenseKey::kIllegalRequest, Asc::kLogicalUnitNotSupported);
  } else {
    unit.Abort(slot, SenseKey::kAbortedCommand, Asc::kPowerOnOrResetOccurred);
  }
  return scsi::ScsiStep::kDone;
}

// Sends the command on to the disk, or to the guest.
void StorageChannel::Advance(CommandSlot& slot, scsi::ScsiStep step) {
  if (step == scsi::ScsiStep::kDone) {
    Finish(slot);
    return;
  }
  slot.was_submitted = true;
  AddWork(slot.size_bytes / kBytesPerUnitOfWork + 1);
  BlockDevice& device = slot.disk->unit->target(slot);
  if (batch_size_ == kMaxBatch || (batch_size_ != 0 && batch_device_ != &device)) SubmitBatch();
  batch_device_ = &device;
  batch_[batch_size_++] = &slot;
}

void StorageChannel::SubmitBatch() {
  if (batch_size_ == 0) return;
  const CommandSlots::Looking looking(*slots_);  // OnTurn does, behind this
  slots_->Submit(*batch_device_, absl::MakeConstSpan(batch_, std::exchange(batch_size_, 0)));
}

// The command is done: writes its completion over the request, and queues it for the ring.
void StorageChannel::Finish(CommandSlot& slot) {
  --busy_;
  const bool may_have_written =
      slot.data_direction == scsi::DataDirection::kIn && (slot.transferred != 0 || slot.was_submitted);
  slot.buffers.Release(!may_have_written ? 0 : slot.transferred != 0 ? slot.transferred : slot.data_bytes);
  const SrbStatus srb_status = SrbStatusOf(slot);
  storvsc::ScsiRequest& scsi = slot.reply.scsi;
  slot.reply.header = {storvsc::Operation::kCompleteIo, 0, PacketStatusOf(srb_status)};
  scsi.srb_status =
      static_cast<uint8_t>(static_cast<uint8_t>(srb_status) | (slot.has_sense ? storvsc::kSrbStatusAutosenseValid : 0));
  scsi.scsi_status = static_cast<uint8_t>(slot.status);
  scsi.data_transfer_length = slot.transferred;
  scsi.sense_info_length = slot.has_sense ? sizeof(slot.sense) : 0;
  std::memset(scsi.payload, 0, sizeof(scsi.payload));
  if (slot.has_sense) std::memcpy(scsi.payload, &slot.sense, sizeof(slot.sense));
  QueueAnswer(slot);
  // A reset that waited for this command is answered behind it.
  AttachedDisk* const disk = std::exchange(slot.disk, nullptr);
  if (disk != nullptr) host_.ReleaseDisk(*disk, slot.epoch);
}

void StorageChannel::QueueAnswer(CommandSlot& slot) {
  slot.next = nullptr;
  (answered_last_ == nullptr ? answered_first_ : answered_last_->next) = &slot;
  answered_last_ = &slot;
}

bool StorageChannel::SendAnswers() {
  if (wants_bus_notice_) {
    const size_t size_bytes = host_.bus_notice_bytes();
    storvsc::Packet notice = {};
    notice.header.operation = storvsc::Operation::kEnumerateBus;
    if (size_bytes != 0 && !Send(vmbus::PacketHeader::InBand(0, false), &notice, static_cast<uint32_t>(size_bytes))) {
      return false;
    }
    wants_bus_notice_ = false;
  }
  while (answered_first_ != nullptr) {
    CommandSlot& slot = *answered_first_;
    const auto header = vmbus::PacketHeader::Completion(slot.transaction_id);
    if (!Send(header, &slot.reply, static_cast<uint32_t>(slot.reply_bytes))) return false;
    answered_first_ = slot.next;
    if (answered_first_ == nullptr) answered_last_ = nullptr;
    slots_->Free(slot);
  }
  return true;
}

vmbus::Take StorageChannel::OnPacket(const vmbus::Packet& packet) {
  HandlePacket(packet);
  return slots_->has_free() ? vmbus::Take::kMore : vmbus::Take::kNoMore;
}

// Without a request for a completion there is nobody to tell the outcome, so nothing is done.
void StorageChannel::HandlePacket(const vmbus::Packet& packet) {
  const bool is_data =
      packet.type == hvdef::PacketType::kDataInBand || packet.type == hvdef::PacketType::kDataUsingGpaDirect;
  if (!is_data || !packet.completion_requested() || packet.payload_size < sizeof(storvsc::PacketHeader)) return;
  CommandSlot& slot = slots_->Take();
  slot.transaction_id = packet.transaction_id;
  slot.reply_bytes = std::min<size_t>(packet.payload_size, sizeof(storvsc::Packet));
  slot.reply = {};
  std::memcpy(&slot.reply, packet.payload, slot.reply_bytes);
  const bool is_command = slot.reply.header.operation == storvsc::Operation::kExecuteSrb;
  if (is_command && host_.is_ready() && slot.reply_bytes >= storvsc::kPacketBytesV1) {
    ++busy_;
    ExecuteSrb(packet, slot);
    return;
  }
  if (is_command) {
    const storvsc::Status status =
        host_.is_ready() ? storvsc::Status::kInvalidParameter : storvsc::Status::kInvalidDeviceState;
    slot.reply.header = {storvsc::Operation::kCompleteIo, 0, status};
    slot.reply.scsi.srb_status = static_cast<uint8_t>(SrbStatus::kInvalidRequest);
  } else if (!host_.HandleControl(slot, is_primary_)) {
    ++busy_;
    return;
  }
  QueueAnswer(slot);
}

void StorageChannel::ExecuteSrb(const vmbus::Packet& packet, CommandSlot& slot) {
  const storvsc::ScsiRequest& request = slot.reply.scsi;
  static_assert(scsi::kMaxCdbBytes == storvsc::kMaxCdbBytes);
  std::memcpy(slot.cdb, request.payload, sizeof(slot.cdb));
  slot.cdb_length = std::min<uint8_t>(request.cdb_length, storvsc::kMaxCdbBytes);
  slot.data_direction = DirectionOf(request.data_in);
  slot.autosense = (request.srb_flags & storvsc::kSrbFlagDisableAutosense) == 0;
  slot.transferred = 0;
  slot.has_sense = false;
  slot.was_submitted = false;
  const bool has_pages = packet.type == hvdef::PacketType::kDataUsingGpaDirect;
  slot.data_bytes = has_pages ? request.data_transfer_length : 0;
  const bool is_good =
      slot.data_bytes <= max_transfer_bytes_ && slot.buffers.Gather(channel().memory(), packet, slot.data_bytes);
  slot.data = slot.buffers.pieces();
  if (!is_good) {
    slot.data_bytes = 0;
    slot.Fail(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
    Finish(slot);
    return;
  }
  slot.disk = host_.FindDisk(request);
  if (host_.HandleWithoutDisk(request, slot)) {
    slot.disk = nullptr;
    Finish(slot);
    return;
  }
  slot.epoch = slot.disk->epochs.Begin();
  Advance(slot, slot.disk->unit->Start(slot));
}

}  // namespace hvsdk::vsp
