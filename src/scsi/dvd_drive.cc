// SPDX-License-Identifier: Apache-2.0
// DvdDrive: decoding, and the commands that touch the medium. By T10 MMC-6.
#include "hvsdk/scsi/dvd_drive.h"

#include <algorithm>
#include <utility>

#include "hvsdk/hvdef/scsi.h"
#include "resource/host_buffers.h"

namespace hvsdk::scsi {

using hvdef::scsi::Asc;
using hvdef::scsi::kDiscBlockBytes;
using hvdef::scsi::LoadBigEndian;
using hvdef::scsi::MediaEventCode;
using hvdef::scsi::OpCode;
using hvdef::scsi::SenseKey;

DvdDrive::DvdDrive(DvdDriveOptions options) : options_(std::move(options)) {}
DvdDrive::~DvdDrive() = default;

absl::Status DvdDrive::Insert(std::shared_ptr<BlockDevice> medium) {
  const uint64_t blocks = medium->info().size_bytes / kDiscBlockBytes;
  if (blocks == 0 || blocks > UINT32_MAX) {
    return absl::InvalidArgumentError("a DVD has between one block of 2048 bytes and 2^32 of them");
  }
  std::shared_ptr<BlockDevice> before;
  std::lock_guard lock(mutex_);
  if (state_.is_locked && medium_ != nullptr) {
    return absl::FailedPreconditionError("the guest has locked the drive; eject what is in it first");
  }
  before = Replace(std::move(medium));
  state_.is_tray_open = false;
  state_.has_attention = true;
  state_.event = MediaEventCode::kNewMedia;
  return absl::OkStatus();
}

absl::Status DvdDrive::Eject(bool force) {
  std::shared_ptr<BlockDevice> before;
  std::lock_guard lock(mutex_);
  if (medium_ == nullptr) return absl::NotFoundError("the drive is empty");
  if (state_.is_locked && !force) {
    state_.event = MediaEventCode::kEjectRequest;
    return absl::FailedPreconditionError("the guest has locked the drive, and was asked to eject");
  }
  before = Replace(nullptr);
  state_.is_tray_open = true;
  state_.is_locked = false;
  state_.event = MediaEventCode::kMediaRemoval;
  return absl::OkStatus();
}

std::shared_ptr<BlockDevice> DvdDrive::Replace(std::shared_ptr<BlockDevice> medium) {
  std::erase_if(ejected_, [](const auto& ejected) { return ejected.expired(); });
  if (medium_ != nullptr) ejected_.push_back(medium_);
  return std::exchange(medium_, std::move(medium));
}

std::shared_ptr<BlockDevice> DvdDrive::medium() const {
  std::lock_guard lock(mutex_);
  return medium_;
}

bool DvdDrive::is_locked() const {
  std::lock_guard lock(mutex_);
  return state_.is_locked;
}

std::vector<std::shared_ptr<BlockDevice>> DvdDrive::devices() const {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<BlockDevice>> all;
  if (medium_ != nullptr) all.push_back(medium_);
  for (const auto& ejected : ejected_) {
    if (auto device = ejected.lock(); device != nullptr) all.push_back(std::move(device));
  }
  return all;
}

DvdDrive::State DvdDrive::state() const {
  std::lock_guard lock(mutex_);
  State state = state_;
  state.kept_sense = kept_sense_.load(std::memory_order_relaxed);
  return state;
}

void DvdDrive::SetState(const State& state) {
  std::lock_guard lock(mutex_);
  state_ = state;
  kept_sense_.store(state.kept_sense, std::memory_order_relaxed);
}

DvdDrive::View DvdDrive::Look() const {
  std::lock_guard lock(mutex_);
  return {medium_, medium_ == nullptr ? 0 : static_cast<uint32_t>(medium_->info().size_bytes / kDiscBlockBytes),
          state_};
}

ScsiStep DvdDrive::Start(ScsiCommand& command) {
  command.transferred = 0;
  command.has_sense = false;
  bool submits = false;
  Dispatch(command, submits);
  if (submits) return ScsiStep::kSubmit;
  Finish(command);
  return ScsiStep::kDone;
}

ScsiStep DvdDrive::Continue(ScsiCommand& command, BlockStatus status) {
  command.medium.reset();
  if (status == BlockStatus::kOk) {
    command.Succeed();
  } else {
    command.Fail(SenseKey::kMediumError, Asc::kUnrecoveredReadError);
  }
  Finish(command);
  return ScsiStep::kDone;
}

void DvdDrive::Dispatch(ScsiCommand& command, bool& submits) {
  const uint8_t* const cdb = command.cdb;
  const auto op_code = static_cast<OpCode>(cdb[0]);
  const size_t cdb_bytes = hvdef::scsi::CdbBytes(cdb[0]);
  if (command.cdb_length < std::max<size_t>(cdb_bytes, 1)) {
    return command.Fail(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
  }
  // These say nothing of a change (SPC-4 5.14, MMC-6).
  switch (op_code) {
    case OpCode::kInquiry:
      return Inquiry(command);
    case OpCode::kRequestSense:
      return RequestSense(command);
    case OpCode::kGetConfiguration:
      return Configuration(command, Look());
    case OpCode::kGetEventStatusNotification:
      return EventStatus(command);
    default:
      break;
  }
  View view;
  bool had_attention;
  {
    std::lock_guard lock(mutex_);
    had_attention = std::exchange(state_.has_attention, false);
  }
  if (had_attention) return command.Fail(SenseKey::kUnitAttention, Asc::kNotReadyToReadyChange);
  view = Look();
  switch (op_code) {
    case OpCode::kStartStopUnit:
      return StartStop(command);
    case OpCode::kPreventAllowMediumRemoval:
      return PreventAllow(command);
    case OpCode::kModeSense6:
    case OpCode::kModeSense10:
      return ModeSense(command, view, cdb_bytes == 10);
    case OpCode::kMechanismStatus:
      return MechanismStatus(command, view);
    case OpCode::kSetCdSpeed:
    case OpCode::kSynchronizeCache10:
      return command.Succeed();
    case OpCode::kSendDiagnostic:
      if ((cdb[1] & 0x04) == 0) return command.Fail(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
      return command.Succeed();  // the default self-test
    case OpCode::kTestUnitReady:
    case OpCode::kReadCapacity10:
    case OpCode::kRead10:
    case OpCode::kRead12:
    case OpCode::kReadCd:
    case OpCode::kSeek10:
    case OpCode::kReadToc:
    case OpCode::kReadDiscInformation:
    case OpCode::kReadTrackInformation:
    case OpCode::kReadDvdStructure:
      break;
    default:
      return command.Fail(SenseKey::kIllegalRequest, Asc::kInvalidOpCode);
  }
  if (!CheckMedium(command, view)) return;
  switch (op_code) {
    case OpCode::kReadCapacity10: {
      hvdef::scsi::ReadCapacity10Data data = {};
      data.last_lba = view.blocks - 1;
      data.block_bytes = kDiscBlockBytes;
      return command.Return(&data, sizeof(data), sizeof(data));
    }
    case OpCode::kRead10:
      return Read(command, view, LoadBigEndian<uint32_t>(cdb + 2), LoadBigEndian<uint16_t>(cdb + 7), submits);
    case OpCode::kRead12:
      return Read(command, view, LoadBigEndian<uint32_t>(cdb + 2), LoadBigEndian<uint32_t>(cdb + 6), submits);
    case OpCode::kReadCd:
      return ReadCd(command, view, submits);
    case OpCode::kSeek10:
      if (LoadBigEndian<uint32_t>(cdb + 2) >= view.blocks)
        return command.Fail(SenseKey::kIllegalRequest, Asc::kLbaOutOfRange);
      return command.Succeed();
    case OpCode::kReadToc:
      return Toc(command, view);
    case OpCode::kReadDiscInformation:
      return DiscInformation(command);
    case OpCode::kReadTrackInformation:
      return TrackInformation(command, view);
    case OpCode::kReadDvdStructure:
      return DvdStructure(command, view);
    default:
      return command.Succeed();  // TEST UNIT READY
  }
}

bool DvdDrive::CheckMedium(ScsiCommand& command, const View& view) {
  if (view.medium != nullptr) return true;
  command.Fail(SenseKey::kNotReady,
               view.state.is_tray_open ? Asc::kMediumNotPresentTrayOpen : Asc::kMediumNotPresentTrayClosed);
  return false;
}

void DvdDrive::Read(ScsiCommand& command, const View& view, uint32_t lba, uint32_t blocks, bool& submits) {
  if (lba > view.blocks || blocks > view.blocks - lba) {
    command.Fail(SenseKey::kIllegalRequest, Asc::kLbaOutOfRange);
    command.sense.response_code |= hvdef::scsi::kSenseInformationValid;
    command.sense.information = std::max(lba, view.blocks);
    return;
  }
  const uint64_t size_bytes = uint64_t{blocks} * kDiscBlockBytes;
  if (blocks > options_.max_transfer_bytes / kDiscBlockBytes || command.data_bytes < size_bytes ||
      (size_bytes != 0 && command.data_direction != DataDirection::kIn)) {
    command.Fail(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
    command.data_overrun = command.data_bytes < size_bytes;
    return;
  }
  if (blocks == 0) return command.Succeed();
  command.transferred = static_cast<uint32_t>(size_bytes);
  command.op = BlockOp::kRead;
  command.fua = false;
  command.offset_bytes = uint64_t{lba} * kDiscBlockBytes;
  command.size_bytes = size_bytes;
  command.buffers = TrimBuffers(command.data, size_bytes);
  command.medium = view.medium;
  submits = true;
}

// READ CD: of a CD, whose sectors are of mode 1, the 2048 bytes of users. What else a sector has (its header, what corrects
// errors, subchannels) an image does not keep.
void DvdDrive::ReadCd(ScsiCommand& command, const View& view, bool& submits) {
  if (!IsCd(view)) return command.Fail(SenseKey::kIllegalRequest, Asc::kInvalidOpCode);
  const uint8_t* const cdb = command.cdb;
  constexpr uint8_t kAnySector = 0, kMode1 = 2, kUserData = 0x10, kFields = 0xFE;
  const uint8_t wanted = cdb[1] >> 2 & 7, fields = cdb[9] & kFields;
  if (wanted != kAnySector && wanted != kMode1)
    return command.Fail(SenseKey::kIllegalRequest, Asc::kIllegalModeForThisTrack);
  if ((fields != kUserData && fields != 0) || (cdb[10] & 7) != 0)
    return command.Fail(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
  // Without fields it is a seek over all of them.
  const uint32_t lba = LoadBigEndian<uint32_t>(cdb + 2);
  const uint32_t blocks = uint32_t{cdb[6]} << 16 | LoadBigEndian<uint16_t>(cdb + 7);
  const bool is_there = lba <= view.blocks && blocks <= view.blocks - lba;
  if (fields == 0 && is_there) return command.Succeed();
  Read(command, view, lba, blocks, submits);
}

// START STOP UNIT. The disc does not spin; it can go and come.
void DvdDrive::StartStop(ScsiCommand& command) {
  const uint8_t flags = command.cdb[4];
  if ((flags & 0xF0) != 0) return command.Fail(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
  const bool loads_or_ejects = (flags & 0x02) != 0, starts = (flags & 0x01) != 0;
  if (!loads_or_ejects) return command.Succeed();
  std::shared_ptr<BlockDevice> before;
  {
    std::lock_guard lock(mutex_);
    if (!starts && state_.is_locked) return command.Fail(SenseKey::kIllegalRequest, Asc::kMediumRemovalPrevented);
    if (!starts) {
      before = Replace(nullptr);
      if (before != nullptr) state_.event = MediaEventCode::kMediaRemoval;
    }
    state_.is_tray_open = !starts && medium_ == nullptr;
  }
  if (before != nullptr && options_.on_ejected != nullptr) options_.on_ejected();
  command.Succeed();
}

// PREVENT ALLOW MEDIUM REMOVAL; persistent, which the second bit asks for, is no other thing here.
void DvdDrive::PreventAllow(ScsiCommand& command) {
  std::lock_guard lock(mutex_);
  state_.is_locked = (command.cdb[4] & 0x01) != 0;
  command.Succeed();
}

// GET EVENT STATUS NOTIFICATION, of the media; what was told is not told again.
void DvdDrive::EventStatus(ScsiCommand& command) {
  const bool polls = (command.cdb[1] & 0x01) != 0;
  const size_t allocation = LoadBigEndian<uint16_t>(command.cdb + 7);
  if (!polls) return command.Fail(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
  struct {
    hvdef::scsi::EventHeader header;
    hvdef::scsi::MediaEvent event;
  } data = {};
  data.header.supported_classes = 1 << hvdef::scsi::kEventClassMedia;
  if ((command.cdb[4] & data.header.supported_classes) == 0) {
    data.header.data_length = sizeof(data.header) - 2;
    data.header.notification = hvdef::scsi::kNoEventAvailable;
    return command.Return(&data.header, sizeof(data.header), allocation);
  }
  data.header.data_length = sizeof(data) - 2;
  data.header.notification = hvdef::scsi::kEventClassMedia;
  {
    std::lock_guard lock(mutex_);
    // A header alone is a question for the classes, and takes no event.
    data.event.code =
        allocation > sizeof(data.header) ? std::exchange(state_.event, MediaEventCode::kNone) : state_.event;
    data.event.status = static_cast<uint8_t>((state_.is_tray_open ? hvdef::scsi::kMediaTrayOpen : 0) |
                                             (medium_ != nullptr ? hvdef::scsi::kMediaPresent : 0));
  }
  command.Return(&data, sizeof(data), allocation);
}

}  // namespace hvsdk::scsi
