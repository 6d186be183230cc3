// SPDX-License-Identifier: Apache-2.0
#include "vsp/storage_channel.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>
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

// Packets taken, and steps of commands that have many, before other work of the executor gets its
// turn.
constexpr uint32_t kWorkPerTurn = 1024;

// The channel that Process runs for on this thread: it looks at completions itself before it
// returns.
thread_local const StorageChannel* t_processing = nullptr;

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

struct StorageChannel::Slot : ScsiCommand {
  StorageChannel* owner = nullptr;
  Slot* next = nullptr;          // in the free, answered or completed list
  AttachedDisk* disk = nullptr;  // while busy at a disk
  uint64_t transaction_id = 0;
  size_t reply_bytes = 0;
  BlockStatus outcome{};
  bool was_submitted = false;  // a disk may have written to the guest's pages, even if it then failed
  uint32_t pieces = 0;
  storvsc::Packet reply{};  // the request, then its completion
};

StorageChannel::StorageChannel(StorageChannelHost& host, Executor& executor, bool is_primary, uint32_t queue_depth,
                               uint32_t max_transfer_bytes)
    : host_(host),
      executor_(executor),
      is_primary_(is_primary),
      queue_depth_(queue_depth),
      max_transfer_bytes_(max_transfer_bytes),
      // A transfer that does not start on a page touches one more.
      max_pieces_(static_cast<uint32_t>(max_transfer_bytes / kPageSize) + 1),
      // Ranges and page numbers, with room for the header and a few ranges more than the one that
      // guests send.
      packet_buffer_(max_pieces_ + 64) {}

StorageChannel::~StorageChannel() {
  WaitUntilDisksLetGo();
  executor_.Drain(*this);
}

bool StorageChannel::OnOpen(vmbus::Channel& channel) {
  if (is_primary_) {
    host_.OnPrimaryOpen();
  }
  channel_ = &channel;
  is_accepting_ = true;
  is_close_requested_ = false;
  wants_bus_notice_ = false;
  slots_ = std::make_unique<Slot[]>(queue_depth_);
  buffers_ = std::make_unique_for_overwrite<HostBuffer[]>(size_t{queue_depth_} * max_pieces_);
  gpas_ = std::make_unique_for_overwrite<uint64_t[]>(size_t{queue_depth_} * max_pieces_);
  free_ = answered_first_ = answered_last_ = nullptr;
  for (uint32_t i = queue_depth_; i-- > 0;) {
    slots_[i].owner = this;
    slots_[i].on_complete = &OnBlockComplete;
    slots_[i].next = free_;
    free_ = &slots_[i];
  }
  return true;
}

void StorageChannel::OnClose(vmbus::Channel&) {
  Stop();
  is_close_requested_ = true;
  if (is_idle()) host_.OnIdle();
}

void StorageChannel::OnSignal(vmbus::Channel&) { Process(); }
void StorageChannel::Run() { Process(); }

void StorageChannel::Stop() { is_accepting_ = false; }

void StorageChannel::FinishClose() {
  HVSDK_CHECK(is_idle() && is_close_requested_);
  WaitUntilDisksLetGo();
  vmbus::Channel* channel = channel_;
  channel_ = nullptr;
  is_close_requested_ = false;
  slots_.reset();
  buffers_.reset();
  gpas_.reset();
  channel->FinishClose();
}

void StorageChannel::NotifyBusChange() {
  if (!is_accepting_) return;
  wants_bus_notice_ = true;
  executor_.Schedule(*this);
}

void StorageChannel::WaitUntilDisksLetGo() {
  // Where all commands are accounted for this is the end of somebody's on_complete, a few
  // instructions away. Only a controller that is destroyed under way waits for the medium. Acquire:
  // what they did happened before.
  while (at_disks_.load(std::memory_order_acquire) != 0) std::this_thread::sleep_for(std::chrono::microseconds(20));
}

void StorageChannel::Process() {
  if (channel_ == nullptr) return;
  t_processing = this;
  if (is_accepting_) channel_->incoming().Mask();
  for (uint32_t work = 0;;) {
    work += TakeCompleted();
    SubmitBatch();
    if (!is_accepting_) {
      t_processing = nullptr;
      if (is_idle() && completed_.load(std::memory_order_acquire) == nullptr) host_.OnIdle();
      return;
    }
    const bool has_room = SendAnswers();
    if (has_room && work < kWorkPerTurn) {
      work += ReadPackets(kWorkPerTurn - work);
      SubmitBatch();
    }
    const bool has_more =
        completed_.load(std::memory_order_acquire) != nullptr || (answered_first_ != nullptr && has_room);
    if (has_more && work < kWorkPerTurn) continue;
    channel_->Publish();
    if (work >= kWorkPerTurn) {
      executor_.Schedule(*this);
      break;
    }
    if (!has_room || free_ == nullptr) {
      // Completions, or the guest's word that there is room, bring us back. Until then it need not
      // signal packets.
      channel_->SignalGuest(channel_->incoming().Commit());
      break;
    }
    if (channel_->Arm()) break;
  }
  t_processing = nullptr;
}

uint32_t StorageChannel::TakeCompleted() {
  if (completed_.load(std::memory_order_relaxed) == nullptr) return 0;
  Slot* newest = completed_.exchange(nullptr, std::memory_order_acquire);  // pairs with the push in OnBlockComplete
  Slot* oldest = nullptr;
  while (newest != nullptr) {
    Slot* next = newest->next;
    newest->next = oldest;
    oldest = newest;
    newest = next;
  }
  uint32_t steps = 0;
  while (oldest != nullptr) {
    Slot& slot = *oldest;
    oldest = oldest->next;
    // A command of many steps ends here when the channel closes.
    const bool goes_on = is_accepting_ || slot.work == nullptr;
    const ScsiStep step = goes_on ? slot.disk->disk.Continue(slot, slot.outcome) : ScsiStep::kDone;
    if (step == ScsiStep::kSubmit) ++steps;
    Advance(slot, step);
  }
  return steps;
}

// Sends the command on to the disk, or to the guest.
void StorageChannel::Advance(Slot& slot, ScsiStep step) {
  if (step == ScsiStep::kDone) {
    Answer(slot);
    return;
  }
  slot.was_submitted = true;
  BlockDevice& device = slot.disk->disk.device();
  if (batch_size_ == kMaxBatch || (batch_size_ != 0 && batch_device_ != &device)) SubmitBatch();
  batch_device_ = &device;
  batch_[batch_size_++] = &slot;
}

void StorageChannel::SubmitBatch() {
  if (batch_size_ == 0) return;
  const size_t size = std::exchange(batch_size_, 0);
  at_disks_.fetch_add(static_cast<uint32_t>(size), std::memory_order_relaxed);
  batch_device_->Submit(absl::MakeConstSpan(batch_, size));
}

void StorageChannel::OnBlockComplete(BlockRequest& request, BlockStatus status) {
  Slot& slot = static_cast<Slot&>(request);
  StorageChannel& self = *slot.owner;
  slot.outcome = status;
  Slot* head = self.completed_.load(std::memory_order_relaxed);
  do {
    slot.next = head;
  } while (!self.completed_.compare_exchange_weak(head, &slot, std::memory_order_release, std::memory_order_relaxed));
  // Whoever put the first one into an empty list sees to it that somebody looks.
  if (head == nullptr && t_processing != &self) self.executor_.Schedule(self);
  self.at_disks_.fetch_sub(1, std::memory_order_release);  // the last touch of `self`
}

// The command is done: writes its completion over the request, and queues it for the ring.
void StorageChannel::Answer(Slot& slot) {
  --busy_;
  if (slot.disk != nullptr) {
    AttachedDisk& disk = *std::exchange(slot.disk, nullptr);
    host_.ReleaseDisk(disk);
  }
  if (slot.data_direction == storvsc::kDataIn && (slot.transferred != 0 || slot.was_submitted)) {
    GuestMemory& memory = channel_->memory();
    uint64_t left = slot.transferred != 0 ? slot.transferred : slot.data_bytes;
    const size_t first = static_cast<size_t>(&slot - slots_.get()) * max_pieces_;
    for (uint32_t i = 0; i < slot.pieces && left != 0; ++i) {
      const uint64_t size = std::min<uint64_t>(left, buffers_[first + i].size_bytes);
      memory.MarkWritten(gpas_[first + i], size);
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
}

void StorageChannel::QueueAnswer(Slot& slot) {
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
    Slot& slot = *answered_first_;
    if (!Stage(slot.transaction_id, slot.reply, slot.reply_bytes, /*is_completion=*/true)) return false;
    answered_first_ = slot.next;
    if (answered_first_ == nullptr) answered_last_ = nullptr;
    slot.next = free_;
    free_ = &slot;
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

uint32_t StorageChannel::ReadPackets(uint32_t limit) {
  vmbus::Channel::IncomingRing& ring = channel_->incoming();
  const uint32_t capacity = static_cast<uint32_t>(packet_buffer_.size() * sizeof(uint64_t));
  uint32_t taken = 0;
  vmbus::Packet packet;
  while (taken < limit && free_ != nullptr) {
    const RingStatus status = ring.Read(packet_buffer_.data(), capacity, packet);
    if (status == RingStatus::kOk) {
      ++taken;
      HandlePacket(packet);
    } else if (status == RingStatus::kTooBig) {
      // More pages than a command may have. What the packet asks for is in its payload; the pages
      // are not looked at.
      vmbus::Channel::IncomingRing::View view;
      if (ring.Peek(view) != RingStatus::kOk) break;
      packet.extension_size = 0;
      packet.payload = reinterpret_cast<const uint8_t*>(packet_buffer_.data());
      packet.payload_size = std::min<uint32_t>(view.payload_size(), sizeof(storvsc::Packet));
      view.CopyPayload(0, packet_buffer_.data(), packet.payload_size);
      ring.Release(view);
      ++taken;
      HandlePacket(packet);
    } else {
      break;
    }
  }
  return taken;
}

// The packet is a private copy. Without a request for a completion there is nobody to tell the
// outcome, so nothing is done.
void StorageChannel::HandlePacket(const vmbus::Packet& packet) {
  const bool is_data =
      packet.type == hvdef::PacketType::kDataInBand || packet.type == hvdef::PacketType::kDataUsingGpaDirect;
  if (!is_data || !packet.completion_requested() || packet.payload_size < sizeof(storvsc::PacketHeader)) return;
  Slot& slot = *free_;
  free_ = slot.next;
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
  } else {
    host_.HandleControl(slot.reply, slot.reply_bytes, is_primary_);
  }
  QueueAnswer(slot);
}

void StorageChannel::ExecuteSrb(const vmbus::Packet& packet, Slot& slot) {
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
  ++slot.disk->in_flight;
  Advance(slot, slot.disk->disk.Start(slot));
}

// Turns the packet's page list into host buffers for the length the request names. False: too long,
// or not all of it is memory.
bool StorageChannel::GatherBuffers(const vmbus::Packet& packet, Slot& slot) {
  const size_t first = static_cast<size_t>(&slot - slots_.get()) * max_pieces_;
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
    const bool is_memory = vmbus::ForEachPiece(
        channel_->memory(), buffer, 0, size, [&](uint64_t gpa, uint8_t* host, uint64_t piece_bytes) {
          if (slot.pieces == max_pieces_) {
            fits = false;
            return;
          }
          buffers_[first + slot.pieces] = {host, static_cast<size_t>(piece_bytes)};
          gpas_[first + slot.pieces] = gpa;
          ++slot.pieces;
        });
    if (!is_memory || !fits) return false;
    left -= size;
  }
  slot.data = absl::MakeSpan(buffers_.get() + first, slot.pieces);
  return left == 0;
}

}  // namespace hvsdk::vsp
