// SPDX-License-Identifier: Apache-2.0
#include "vsp/storage_channel.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/vmbus/gpa_buffer.h"

namespace hvsdk::vsp {

namespace storvsc = hvdef::storvsc;
using hvdef::scsi::Asc;
using hvdef::scsi::SenseKey;
using storvsc::SrbStatus;
using vmbus::RingStatus;

namespace {

// Packets taken and requests sent to disks before other work of the executor gets its turn. A request counts once, and
// once more for every 64 KiB: a disk in memory, or a file in the page cache, moves them here and now.
constexpr uint64_t kWorkPerTurn = 1024;
constexpr uint64_t kBytesPerUnitOfWork = 64 << 10;

storvsc::Status StatusOf(SrbStatus srb) {
  switch (srb) {
    case SrbStatus::kSuccess:
      return storvsc::Status::kSuccess;
    case SrbStatus::kBusy:
      return storvsc::Status::kDeviceBusy;
    case SrbStatus::kInvalidLun:
    case SrbStatus::kInvalidTargetId:
    case SrbStatus::kNoDevice:
      return storvsc::Status::kDeviceDoesNotExist;
    case SrbStatus::kDataOverrun:
      return storvsc::Status::kBufferOverflow;
    case SrbStatus::kBadSrbBlockLength:
      return storvsc::Status::kInvalidDeviceRequest;
    default:
      return storvsc::Status::kIoDeviceError;
  }
}

}  // namespace

StorageChannel::StorageChannel(StorageChannelHost& host, Executor& executor, bool is_primary, uint32_t queue_depth,
                               uint32_t max_transfer_bytes)
    : host_(host),
      executor_(executor),
      is_primary_(is_primary),
      queue_depth_(queue_depth),
      max_transfer_bytes_(max_transfer_bytes),
      // A transfer that does not start on a page touches one more.
      max_pieces_(static_cast<uint32_t>(max_transfer_bytes / kPageSize) + 1),
      // Ranges and page numbers, with room for the header and a few ranges more than the one that guests send.
      packet_buffer_(max_pieces_ + 64) {}

StorageChannel::~StorageChannel() { executor_.Drain(*this); }

bool StorageChannel::OnOpen(vmbus::Channel& channel) {
  if (is_primary_ && !host_.OnPrimaryOpen()) return false;
  channel_ = &channel;
  is_accepting_ = true;
  is_close_requested_ = false;
  wants_bus_notice_ = false;
  slots_ = std::make_shared<CommandSlots>(queue_depth_, max_pieces_, *this, executor_, static_cast<Task&>(*this));
  answered_first_ = answered_last_ = nullptr;
  return true;
}

void StorageChannel::OnClose(vmbus::Channel&) {
  Stop();
  is_close_requested_ = true;
  if (is_idle()) host_.OnIdle();
}

void StorageChannel::OnSignal(vmbus::Channel&) { Process(); }
void StorageChannel::Run() { Process(); }

void StorageChannel::Stop() {
  if (!std::exchange(is_accepting_, false)) return;
  host_.ForgetResets(*this);
  // Commands of many steps end here, also those that are between two.
  executor_.Schedule(*this);
}

void StorageChannel::FinishClose() {
  HVSDK_CHECK(is_idle() && is_close_requested_);
  vmbus::Channel* channel = channel_;
  channel_ = nullptr;
  is_close_requested_ = false;
  slots_->Disown(nullptr, {});
  slots_.reset();
  channel->FinishClose();
}

void StorageChannel::Disown(std::shared_ptr<const void> memory, std::vector<std::shared_ptr<BlockDevice>> disks) {
  if (slots_ == nullptr) return;
  slots_->Disown(std::move(memory), std::move(disks));
  slots_.reset();
  channel_ = nullptr;
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

void StorageChannel::Process() {
  if (channel_ == nullptr) return;
  const CommandSlots::Looking looking(*slots_);
  if (is_accepting_) channel_->incoming().Mask();
  for (work_ = 0;;) {
    TakeCompleted();
    SubmitBatch();
    if (!is_accepting_) {
      if (is_idle()) host_.OnIdle();
      return;
    }
    const bool has_room = SendAnswers();
    if (has_room && work_ < kWorkPerTurn) {
      ReadPackets();
      SubmitBatch();
    }
    const bool has_more = slots_->has_completed() || (answered_first_ != nullptr && has_room);
    if (has_more && work_ < kWorkPerTurn) continue;
    channel_->Publish();
    if (work_ >= kWorkPerTurn) {
      executor_.Schedule(*this);
      return;
    }
    if (!has_room || !slots_->has_free()) {
      // Completions, or the guest's word that there is room, bring us back. Until then it need not signal packets.
      channel_->SignalGuest(channel_->incoming().Commit());
      return;
    }
    if (channel_->Arm()) return;
  }
}

void StorageChannel::TakeCompleted() {
  for (CommandSlot* slot = slots_->TakeCompleted(); slot != nullptr;) {
    CommandSlot& completed = *std::exchange(slot, slot->next);
    Advance(completed, NextStep(completed));
  }
}

// What becomes of a command whose request has come back. One of many steps takes no further one when the channel
// closes, when the disk is gone, and after a reset.
ScsiStep StorageChannel::NextStep(CommandSlot& slot) {
  ScsiDisk& disk = slot.disk->disk;
  if (slot.work == nullptr) return disk.Continue(slot, slot.outcome);
  if (is_accepting_ && !slot.disk->HasEnded(slot.epoch)) return disk.Continue(slot, slot.outcome);
  if (!slot.disk->is_attached) {
    disk.Abort(slot, SrbStatus::kInvalidLun, SenseKey::kIllegalRequest, Asc::kLogicalUnitNotSupported);
  } else {
    disk.Abort(slot, SrbStatus::kAborted, SenseKey::kAbortedCommand, Asc::kPowerOnOrResetOccurred);
  }
  return ScsiStep::kDone;
}

// Sends the command on to the disk, or to the guest.
void StorageChannel::Advance(CommandSlot& slot, ScsiStep step) {
  if (step == ScsiStep::kDone) {
    Answer(slot);
    return;
  }
  slot.was_submitted = true;
  work_ += slot.size_bytes / kBytesPerUnitOfWork + 1;
  BlockDevice& device = slot.disk->disk.device();
  if (batch_size_ == kMaxBatch || (batch_size_ != 0 && batch_device_ != &device)) SubmitBatch();
  batch_device_ = &device;
  batch_[batch_size_++] = &slot;
}

void StorageChannel::SubmitBatch() {
  if (batch_size_ == 0) return;
  slots_->Submit(*batch_device_, absl::MakeConstSpan(batch_, std::exchange(batch_size_, 0)));
}

// The command is done: writes its completion over the request, and queues it for the ring.
void StorageChannel::Answer(CommandSlot& slot) {
  --busy_;
  if (slot.data_direction == storvsc::kDataIn && (slot.transferred != 0 || slot.was_submitted)) {
    GuestMemory& memory = channel_->memory();
    uint64_t left = slot.transferred != 0 ? slot.transferred : slot.data_bytes;
    const HostBuffer* const buffers = slots_->buffers(slot);
    const uint64_t* const gpas = slots_->gpas(slot);
    for (uint32_t i = 0; i < slot.pieces && left != 0; ++i) {
      const uint64_t size = std::min<uint64_t>(left, buffers[i].size_bytes);
      memory.MarkWritten(gpas[i], size);
      left -= size;
    }
  }
  storvsc::ScsiRequest& scsi = slot.reply.scsi;
  slot.reply.header = {storvsc::Operation::kCompleteIo, 0, StatusOf(slot.srb_status)};
  scsi.srb_status = static_cast<uint8_t>(static_cast<uint8_t>(slot.srb_status) |
                                         (slot.has_sense ? storvsc::kSrbStatusAutosenseValid : 0));
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
    if (size_bytes != 0 && !Stage(0, notice, size_bytes, /*is_completion=*/false)) return false;
    wants_bus_notice_ = false;
  }
  while (answered_first_ != nullptr) {
    CommandSlot& slot = *answered_first_;
    if (!Stage(slot.transaction_id, slot.reply, slot.reply_bytes, /*is_completion=*/true)) return false;
    answered_first_ = slot.next;
    if (answered_first_ == nullptr) answered_last_ = nullptr;
    slots_->Free(slot);
  }
  return true;
}

bool StorageChannel::Stage(uint64_t transaction_id, const storvsc::Packet& packet, size_t size_bytes,
                           bool is_completion) {
  const vmbus::PacketHeader header = is_completion ? vmbus::PacketHeader::Completion(transaction_id)
                                                   : vmbus::PacketHeader::InBand(transaction_id, false);
  vmbus::Channel::OutgoingRing& ring = channel_->outgoing();
  RingStatus status = ring.StageInBand(header, &packet, static_cast<uint32_t>(size_bytes));
  if (status == RingStatus::kFull && channel_->WaitForRoom(vmbus::PacketSize(static_cast<uint32_t>(size_bytes)))) {
    status = ring.StageInBand(header, &packet, static_cast<uint32_t>(size_bytes));
  }
  // A ring that is corrupt swallows what it is given, until the guest closes the channel.
  return status != RingStatus::kFull || ring.fault() != vmbus::RingFault::kNone;
}

void StorageChannel::ReadPackets() {
  vmbus::Channel::IncomingRing& ring = channel_->incoming();
  const uint32_t capacity = static_cast<uint32_t>(packet_buffer_.size() * sizeof(uint64_t));
  vmbus::Packet packet;
  while (work_ < kWorkPerTurn && slots_->has_free()) {
    const RingStatus status = ring.Read(packet_buffer_.data(), capacity, packet);
    if (status == RingStatus::kOk) {
      ++work_;
      HandlePacket(packet);
    } else if (status == RingStatus::kTooBig) {
      // More pages than a command may have. What the packet asks for is in its payload; the pages are not looked at.
      vmbus::Channel::IncomingRing::View view;
      if (ring.Peek(view) != RingStatus::kOk) break;
      packet.extension_size = 0;
      packet.payload = reinterpret_cast<const uint8_t*>(packet_buffer_.data());
      packet.payload_size = std::min<uint32_t>(view.payload_size(), sizeof(storvsc::Packet));
      view.CopyPayload(0, packet_buffer_.data(), packet.payload_size);
      ring.Release(view);
      ++work_;
      HandlePacket(packet);
    } else {
      break;
    }
  }
}

// The packet is a private copy. Without a request for a completion there is nobody to tell the outcome, so nothing
// is done.
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
  static_assert(sizeof(slot.cdb) == storvsc::kMaxCdbBytes);
  std::memcpy(slot.cdb, request.payload, sizeof(slot.cdb));
  slot.cdb_length = std::min<uint8_t>(request.cdb_length, storvsc::kMaxCdbBytes);
  slot.data_direction = request.data_in;
  slot.autosense = (request.srb_flags & storvsc::kSrbFlagDisableAutosense) == 0;
  slot.transferred = 0;
  slot.has_sense = false;
  slot.was_submitted = false;
  if (!GatherBuffers(packet, slot)) {
    slot.data_bytes = 0;
    slot.pieces = 0;
    slot.Fail(SrbStatus::kInvalidRequest, SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
    Answer(slot);
    return;
  }
  slot.disk = host_.FindDisk(request);
  if (host_.HandleWithoutDisk(request, slot)) {
    slot.disk = nullptr;
    Answer(slot);
    return;
  }
  slot.epoch = slot.disk->epochs.Begin();
  Advance(slot, slot.disk->disk.Start(slot));
}

// Turns the packet's page list into host buffers for the length the request names. False: too long, or not all of it
// is memory.
bool StorageChannel::GatherBuffers(const vmbus::Packet& packet, CommandSlot& slot) {
  HostBuffer* const buffers = slots_->buffers(slot);
  uint64_t* const gpas = slots_->gpas(slot);
  const bool has_pages = packet.type == hvdef::PacketType::kDataUsingGpaDirect;
  slot.data_bytes = has_pages ? slot.reply.scsi.data_transfer_length : 0;
  slot.pieces = 0;
  slot.data = {};
  if (slot.data_bytes == 0) return true;
  if (slot.data_bytes > max_transfer_bytes_) return false;
  uint64_t left = slot.data_bytes;
  bool fits = true;
  vmbus::GpaBufferWalk walk(packet.extension, packet.extension_size);
  for (vmbus::GpaBuffer buffer; left != 0 && walk.Next(buffer);) {
    const uint64_t size = std::min<uint64_t>(left, buffer.byte_count);
    const bool is_memory = vmbus::ForEachPiece(channel_->memory(), buffer, 0, size,
                                               [&](uint64_t gpa, uint8_t* host, uint64_t piece_bytes) {
                                                 if (slot.pieces == max_pieces_) {
                                                   fits = false;
                                                   return;
                                                 }
                                                 buffers[slot.pieces] = {host, static_cast<size_t>(piece_bytes)};
                                                 gpas[slot.pieces] = gpa;
                                                 ++slot.pieces;
                                               });
    if (!is_memory || !fits) return false;
    left -= size;
  }
  slot.data = absl::MakeSpan(buffers, slot.pieces);
  return left == 0;
}

}  // namespace hvsdk::vsp
