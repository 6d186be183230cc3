// SPDX-License-Identifier: Apache-2.0
// ScsiDisk: decoding, and the commands that touch the medium. Sections are those of T10 SBC-3.
#include "hvsdk/scsi/scsi_disk.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>
#include <vector>

#include "base/check.h"
#include "hvsdk/hvdef/scsi_data.h"
#include "resource/host_buffers.h"
#include "scsi/scsi_limits.h"
#include "scsi/scsi_work.h"

namespace hvsdk::scsi {

using hvdef::scsi::Asc;
using hvdef::scsi::LoadBigEndian;
using hvdef::scsi::OpCode;
using hvdef::scsi::SenseKey;

namespace {

constexpr size_t kChunkBytes = 64 << 10;  // private memory of a VERIFY or a WRITE SAME
constexpr size_t kPatternRepeats = 16;    // so many chunks are one write
constexpr uint8_t kProtectMask = 0xE0;    // RDPROTECT, WRPROTECT, VRPROTECT: no protection information here
constexpr uint8_t kFua = 0x08;
constexpr uint8_t kByteCheckMask = 0x06;
constexpr uint8_t kByteCheckCompare = 0x02;
constexpr uint8_t kWriteSameAnchor = 0x10;
constexpr uint8_t kWriteSameUnmap = 0x08;
constexpr uint8_t kWriteSameAddressData = 0x06;  // PBDATA, LBDATA: obsolete
constexpr uint8_t kWriteSameNoData = 0x01;

bool IsZero(const std::vector<uint8_t>& bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](uint8_t byte) { return byte == 0; });
}

}  // namespace

ScsiDisk::ScsiDisk(std::shared_ptr<BlockDevice> device, const ScsiDiskOptions& options)
    : device_(std::move(device)),
      info_(device_->info()),
      id_(info_.id == std::array<uint8_t, 16>{} ? options.id : info_.id),
      serial_(SerialOf(info_, id_)),
      max_transfer_bytes_(options.max_transfer_bytes),
      block_shift_(static_cast<uint32_t>(std::countr_zero(info_.logical_block_bytes))),
      blocks_(info_.size_bytes >> block_shift_) {
  HVSDK_CHECK(std::has_single_bit(info_.logical_block_bytes) && info_.logical_block_bytes >= 512 &&
              info_.logical_block_bytes <= 4096);
  HVSDK_CHECK(blocks_ != 0);
}

ScsiStep ScsiDisk::Start(ScsiCommand& command) {
  command.transferred = 0;
  command.has_sense = false;
  command.work.reset();
  const ScsiStep step = Dispatch(command);
  if (step == ScsiStep::kDone) Finish(command);
  return step;
}

ScsiStep ScsiDisk::Continue(ScsiCommand& command, BlockStatus status) {
  ScsiStep step = ScsiStep::kDone;
  if (status != BlockStatus::kOk) {
    FailBlock(command, status);
  } else if (command.work != nullptr) {
    step = NextStep(command);
  } else {
    command.Succeed();
  }
  if (step == ScsiStep::kDone) Finish(command);
  return step;
}

ScsiStep ScsiDisk::Dispatch(ScsiCommand& command) {
  const uint8_t* cdb = command.cdb;
  const size_t cdb_bytes = hvdef::scsi::CdbBytes(cdb[0]);
  if (command.cdb_length < std::max<size_t>(cdb_bytes, 1)) {
    command.Fail(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
    return ScsiStep::kDone;
  }
  BlockRange range = {};
  switch (cdb_bytes) {
    case 6:
      range = {LoadBigEndian<uint32_t>(cdb) & 0x1FFFFF, cdb[4] == 0 ? 256u : cdb[4]};
      break;
    case 10:
      range = {LoadBigEndian<uint32_t>(cdb + 2), LoadBigEndian<uint16_t>(cdb + 7)};
      break;
    case 12:
      range = {LoadBigEndian<uint32_t>(cdb + 2), LoadBigEndian<uint32_t>(cdb + 6)};
      break;
    case 16:
      range = {LoadBigEndian<uint64_t>(cdb + 2), LoadBigEndian<uint32_t>(cdb + 10)};
      break;
  }
  switch (static_cast<OpCode>(cdb[0])) {
    case OpCode::kRead6:
    case OpCode::kRead10:
    case OpCode::kRead12:
    case OpCode::kRead16:
      return ReadOrWrite(command, BlockOp::kRead, range);
    case OpCode::kWrite6:
    case OpCode::kWrite10:
    case OpCode::kWrite12:
    case OpCode::kWrite16:
      return ReadOrWrite(command, BlockOp::kWrite, range);
    case OpCode::kWriteAndVerify10:
    case OpCode::kWriteAndVerify12:
    case OpCode::kWriteAndVerify16: {
      if ((cdb[1] & kByteCheckMask) > kByteCheckCompare) break;
      const ScsiStep step = ReadOrWrite(command, BlockOp::kWrite, range);
      if (step == ScsiStep::kDone) return step;
      command.fua = true;
      command.work = std::make_unique<ScsiWork>();
      command.work->kind = ScsiWork::Kind::kVerify;
      command.work->compare = (cdb[1] & kByteCheckMask) == kByteCheckCompare;
      command.work->lba = range.lba;
      command.work->blocks = range.blocks;
      return step;
    }
    case OpCode::kVerify10:
    case OpCode::kVerify12:
    case OpCode::kVerify16:
      if ((cdb[1] & kByteCheckMask) > kByteCheckCompare) break;
      return Verify(command, range, (cdb[1] & kByteCheckMask) == kByteCheckCompare);
    case OpCode::kSynchronizeCache10:
    case OpCode::kSynchronizeCache16:
      return CheckRange(command, range) ? Flush(command) : ScsiStep::kDone;
    case OpCode::kWriteSame10:
    case OpCode::kWriteSame16:
      return WriteSame(command, range);
    case OpCode::kUnmap:
      return Unmap(command);
    case OpCode::kStartStopUnit:
      // The medium does not spin. Stopping it writes out what is cached, and the unit stays ready (5.25).
      if ((cdb[4] & 0x02) != 0) break;  // LOEJ: it cannot be ejected
      if ((cdb[4] & 0xF0) != 0) break;  // POWER CONDITION: there are none
      if ((cdb[4] & 0x01) == 0) return Flush(command);
      command.Succeed();
      return ScsiStep::kDone;
    case OpCode::kTestUnitReady:
      command.Succeed();
      return ScsiStep::kDone;
    case OpCode::kSendDiagnostic:
      if ((cdb[1] & 0x04) == 0) break;  // only the default self-test
      command.Succeed();
      return ScsiStep::kDone;
    case OpCode::kInquiry:
      Inquiry(command);
      return ScsiStep::kDone;
    case OpCode::kRequestSense:
      RequestSense(command);
      return ScsiStep::kDone;
    case OpCode::kReadCapacity10:
      ReadCapacity10(command);
      return ScsiStep::kDone;
    case OpCode::kServiceActionIn16:
      if ((cdb[1] & 0x1F) != hvdef::scsi::kReadCapacity16) break;
      ReadCapacity16(command);
      return ScsiStep::kDone;
    case OpCode::kModeSense6:
    case OpCode::kModeSense10:
      ModeSense(command, cdb_bytes == 10);
      return ScsiStep::kDone;
    case OpCode::kModeSelect6:
    case OpCode::kModeSelect10:
      return ModeSelect(command, cdb_bytes == 10);
    default:
      command.Fail(SenseKey::kIllegalRequest, Asc::kInvalidOpCode);
      return ScsiStep::kDone;
  }
  command.Fail(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
  return ScsiStep::kDone;
}

bool ScsiDisk::CheckRange(ScsiCommand& command, BlockRange range) const {
  if (range.lba <= blocks_ && range.blocks <= blocks_ - range.lba) return true;
  command.Fail(SenseKey::kIllegalRequest, Asc::kLbaOutOfRange);
  const uint64_t first_bad = std::max(range.lba, blocks_);
  if (first_bad <= UINT32_MAX) {
    command.sense.response_code |= hvdef::scsi::kSenseInformationValid;
    command.sense.information = static_cast<uint32_t>(first_bad);
  }
  return false;
}

// SBC-3 6.5.3, MAXIMUM TRANSFER LENGTH, which VERIFY obeys too though it may transfer nothing: one command of a guest's
// could keep the disk busy for hours.
bool ScsiDisk::CheckLength(ScsiCommand& command, BlockRange range) const {
  if (range.blocks <= max_transfer_bytes_ >> block_shift_) return true;
  command.Fail(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
  return false;
}

bool ScsiDisk::CheckWritable(ScsiCommand& command) const {
  if (!info_.read_only) return true;
  command.Fail(SenseKey::kDataProtect, Asc::kWriteProtected);
  return false;
}

// Whether the initiator's buffer goes the right way and takes `size_bytes`.
bool ScsiDisk::CheckData(ScsiCommand& command, DataDirection direction, uint64_t size_bytes) const {
  if (command.data_bytes < size_bytes) {
    command.Fail(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
    command.data_overrun = true;
    return false;
  }
  if (size_bytes != 0 && command.data_direction != direction) {
    command.Fail(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
    return false;
  }
  return true;
}

ScsiStep ScsiDisk::ReadOrWrite(ScsiCommand& command, BlockOp op, BlockRange range) {
  const bool is_write = op == BlockOp::kWrite;
  const bool has_flags = hvdef::scsi::CdbBytes(command.cdb[0]) != 6;
  if (has_flags && (command.cdb[1] & kProtectMask) != 0) {
    command.Fail(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
    return ScsiStep::kDone;
  }
  if (!CheckRange(command, range) || !CheckLength(command, range) || (is_write && !CheckWritable(command))) {
    return ScsiStep::kDone;
  }
  const uint64_t size_bytes = range.blocks << block_shift_;
  const DataDirection direction = is_write ? DataDirection::kOut : DataDirection::kIn;
  if (!CheckData(command, direction, size_bytes)) return ScsiStep::kDone;
  if (size_bytes == 0) {
    command.Succeed();
    return ScsiStep::kDone;
  }
  const bool forced = has_flags && (command.cdb[1] & kFua) != 0;
  command.fua = is_write && (forced || !write_cache_.load(std::memory_order_relaxed));
  command.transferred = static_cast<uint32_t>(size_bytes);
  if (!is_write && forced && !info_.read_only) {
    // SBC-3, FUA of READ: what a cache has that the medium has not is written before it is read.
    command.work = std::make_unique<ScsiWork>();
    command.work->kind = ScsiWork::Kind::kReadMedium;
    command.work->flush_first = true;
    command.work->lba = range.lba;
    command.work->blocks = range.blocks;
    return NextStep(command);
  }
  return Transfer(command, op, range);
}

// The blocks from or to the initiator's buffers.
ScsiStep ScsiDisk::Transfer(ScsiCommand& command, BlockOp op, BlockRange range) {
  command.op = op;
  command.offset_bytes = range.lba << block_shift_;
  command.size_bytes = range.blocks << block_shift_;
  command.buffers = TrimBuffers(command.data, command.size_bytes);
  return ScsiStep::kSubmit;
}

ScsiStep ScsiDisk::Verify(ScsiCommand& command, BlockRange range, bool compare) {
  if ((command.cdb[1] & kProtectMask) != 0) {
    command.Fail(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
    return ScsiStep::kDone;
  }
  if (!CheckRange(command, range) || !CheckLength(command, range)) return ScsiStep::kDone;
  if (compare && !CheckData(command, DataDirection::kOut, range.blocks << block_shift_)) return ScsiStep::kDone;
  if (range.blocks == 0) {
    command.Succeed();
    return ScsiStep::kDone;
  }
  command.work = std::make_unique<ScsiWork>();
  command.work->kind = ScsiWork::Kind::kVerify;
  command.work->flush_first = !info_.read_only;
  command.work->compare = compare;
  command.work->lba = range.lba;
  command.work->blocks = range.blocks;
  command.transferred = compare ? static_cast<uint32_t>(range.blocks << block_shift_) : 0;
  return NextStep(command);
}

// SBC-3 5.43, 5.44. A pattern of zeroes is one request, any other is written in pieces from private memory.
ScsiStep ScsiDisk::WriteSame(ScsiCommand& command, BlockRange range) {
  const uint8_t flags = command.cdb[1];
  const bool sixteen = hvdef::scsi::CdbBytes(command.cdb[0]) == 16;
  const bool no_data = sixteen && (flags & kWriteSameNoData) != 0;
  const uint64_t limit = kMaxWriteSameBytes >> block_shift_;
  const bool unmap = (flags & kWriteSameUnmap) != 0;
  const bool can_unmap = info_.can_discard && info_.discard_reads_zeroes;
  if ((flags & (kProtectMask | kWriteSameAnchor | kWriteSameAddressData)) != 0 || (unmap && !can_unmap) ||
      range.blocks == 0 || range.blocks > limit) {
    // VPD page 0xB2 says whether UNMAP is known (LBPWS, LBPWS10). Zero blocks would mean "to the end
    // of the disk"; page 0xB0 says that we refuse it (WSNZ).
    command.Fail(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
    return ScsiStep::kDone;
  }
  const size_t block_bytes = info_.logical_block_bytes;
  if (!CheckRange(command, range) || !CheckWritable(command)) return ScsiStep::kDone;
  if (!no_data && !CheckData(command, DataDirection::kOut, block_bytes)) return ScsiStep::kDone;

  auto work = std::make_unique<ScsiWork>();
  work->kind = ScsiWork::Kind::kWriteSame;
  work->lba = range.lba;
  work->blocks = range.blocks;
  work->buffer.resize(block_bytes);
  if (!no_data) {
    CopyFromBuffers(command.data, 0, work->buffer.data(), block_bytes);
    command.transferred = static_cast<uint32_t>(block_bytes);
  }
  command.fua = !write_cache_.load(std::memory_order_relaxed);
  if (IsZero(work->buffer)) {
    if (unmap) {
      work->kind = ScsiWork::Kind::kUnmap;
      work->flush_last = command.fua;
      work->ranges.emplace_back(range.lba, range.blocks);
      command.work = std::move(work);
      return NextStep(command);
    }
    command.op = BlockOp::kWriteZeroes;
    command.offset_bytes = range.lba << block_shift_;
    command.size_bytes = range.blocks << block_shift_;
    command.buffers = {};
    return ScsiStep::kSubmit;
  }
  const size_t chunk = std::min<uint64_t>(kChunkBytes, range.blocks << block_shift_);
  work->buffer.resize(chunk);
  for (size_t filled = block_bytes; filled < chunk; filled += block_bytes) {
    std::memcpy(work->buffer.data() + filled, work->buffer.data(), block_bytes);
  }
  work->list.assign(kPatternRepeats, HostBuffer{work->buffer.data(), chunk});
  command.work = std::move(work);
  return NextStep(command);
}

// SBC-3 5.28. The list is copied once and checked as a whole before anything is discarded.
ScsiStep ScsiDisk::Unmap(ScsiCommand& command) {
  if (!info_.can_discard && !info_.read_only) {
    command.Fail(SenseKey::kIllegalRequest, Asc::kInvalidOpCode);
    return ScsiStep::kDone;
  }
  const size_t list_bytes = LoadBigEndian<uint16_t>(command.cdb + 7);
  if ((command.cdb[1] & 0x01) != 0) {  // ANCHOR
    command.Fail(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
    return ScsiStep::kDone;
  }
  if (!CheckWritable(command) || !CheckData(command, DataDirection::kOut, list_bytes)) return ScsiStep::kDone;
  if (list_bytes == 0) {
    command.Succeed();
    return ScsiStep::kDone;
  }
  hvdef::scsi::UnmapHeader header;
  if (list_bytes < sizeof(header)) {
    command.Fail(SenseKey::kIllegalRequest, Asc::kParameterListLengthError);
    return ScsiStep::kDone;
  }
  std::vector<uint8_t> list(list_bytes);
  CopyFromBuffers(command.data, 0, list.data(), list.size());
  std::memcpy(static_cast<void*>(&header), list.data(), sizeof(header));
  const size_t described = header.block_descriptor_length;
  const size_t count = std::min(described, list.size() - sizeof(header)) / sizeof(hvdef::scsi::UnmapDescriptor);
  if (count > kMaxUnmapDescriptors) {
    command.Fail(SenseKey::kIllegalRequest, Asc::kInvalidFieldInParameterList);
    return ScsiStep::kDone;
  }
  auto work = std::make_unique<ScsiWork>();
  work->kind = ScsiWork::Kind::kUnmap;
  uint64_t total = 0;
  for (size_t i = count; i-- > 0;) {
    hvdef::scsi::UnmapDescriptor descriptor;
    std::memcpy(static_cast<void*>(&descriptor), list.data() + sizeof(header) + i * sizeof(descriptor),
                sizeof(descriptor));
    const BlockRange range = {descriptor.lba, descriptor.blocks};
    if (!CheckRange(command, range)) return ScsiStep::kDone;
    total += range.blocks;
    if (range.blocks != 0) work->ranges.emplace_back(range.lba, range.blocks);
  }
  if (total > kMaxUnmapBlocks) {
    command.Fail(SenseKey::kIllegalRequest, Asc::kInvalidFieldInParameterList);
    return ScsiStep::kDone;
  }
  command.transferred = static_cast<uint32_t>(list_bytes);
  work->flush_last = total != 0 && !write_cache_.load(std::memory_order_relaxed);
  command.work = std::move(work);
  return NextStep(command);
}

ScsiStep ScsiDisk::Flush(ScsiCommand& command) {
  command.op = BlockOp::kFlush;
  command.fua = false;
  command.buffers = {};
  command.offset_bytes = 0;
  command.size_bytes = 0;
  return ScsiStep::kSubmit;
}

// One submission of a command of many succeeded, or none was made yet: prepares the next one.
ScsiStep ScsiDisk::NextStep(ScsiCommand& command) {
  ScsiWork& work = *command.work;
  if (std::exchange(work.flush_first, false)) return Flush(command);
  switch (work.kind) {
    case ScsiWork::Kind::kReadMedium:
      if (work.blocks == 0) break;
      return Transfer(command, BlockOp::kRead, {work.lba, std::exchange(work.blocks, 0)});

    case ScsiWork::Kind::kUnmap: {
      if (work.ranges.empty()) {
        if (std::exchange(work.flush_last, false)) return Flush(command);
        break;
      }
      // A host that cannot punch holes writes zeroes instead, which takes its time and cannot be broken off. Cut where
      // no granule is.
      auto& [lba, blocks] = work.ranges.back();
      const uint64_t step = kMaxDiscardStepBytes >> block_shift_;
      const uint64_t count = std::min(blocks, step - lba % step);
      command.op = BlockOp::kDiscard;
      command.fua = false;
      command.offset_bytes = lba << block_shift_;
      command.size_bytes = count << block_shift_;
      command.buffers = {};
      lba += count;
      blocks -= count;
      if (blocks == 0) work.ranges.pop_back();
      return ScsiStep::kSubmit;
    }

    case ScsiWork::Kind::kWriteSame: {
      if (work.blocks == 0) break;
      const uint64_t size = std::min<uint64_t>(work.blocks << block_shift_, work.buffer.size() * kPatternRepeats);
      command.op = BlockOp::kWrite;
      command.offset_bytes = work.lba << block_shift_;
      command.size_bytes = size;
      command.buffers = TrimBuffers(absl::MakeSpan(work.list), size);
      work.lba += size >> block_shift_;
      work.blocks -= size >> block_shift_;
      return ScsiStep::kSubmit;
    }

    case ScsiWork::Kind::kVerify: {
      if (work.compare && !work.nothing_read) {
        std::vector<uint8_t> expected(command.size_bytes);
        CopyFromBuffers(command.data, work.compared_bytes, expected.data(), expected.size());
        const auto differs = std::mismatch(expected.begin(), expected.end(), work.buffer.begin()).first;
        if (differs != expected.end()) {
          command.Fail(SenseKey::kMiscompare, Asc::kMiscompareDuringVerify);
          command.sense.response_code |= hvdef::scsi::kSenseInformationValid;
          command.sense.information = static_cast<uint32_t>(work.compared_bytes + (differs - expected.begin()));
          return ScsiStep::kDone;
        }
        work.compared_bytes += expected.size();
      }
      work.nothing_read = false;
      if (work.blocks == 0) break;
      const uint64_t size = std::min<uint64_t>(work.blocks << block_shift_, kChunkBytes);
      work.buffer.resize(size);
      work.list.assign(1, HostBuffer{work.buffer.data(), static_cast<size_t>(size)});
      command.op = BlockOp::kRead;
      command.fua = false;
      command.offset_bytes = work.lba << block_shift_;
      command.size_bytes = size;
      command.buffers = work.list;
      work.lba += size >> block_shift_;
      work.blocks -= size >> block_shift_;
      return ScsiStep::kSubmit;
    }
  }
  command.Succeed();
  return ScsiStep::kDone;
}

void ScsiDisk::FailBlock(ScsiCommand& command, BlockStatus status) {
  switch (status) {
    case BlockStatus::kReadOnly:
      command.Fail(SenseKey::kDataProtect, Asc::kWriteProtected);
      return;
    case BlockStatus::kNoSpace:
      command.Fail(SenseKey::kDataProtect, Asc::kSpaceAllocationFailedWriteProtect);
      return;
    case BlockStatus::kOutOfRange:
      command.Fail(SenseKey::kIllegalRequest, Asc::kLbaOutOfRange);
      return;
    case BlockStatus::kUnsupported:
      command.Fail(SenseKey::kIllegalRequest, Asc::kInvalidOpCode);
      return;
    case BlockStatus::kWritesLost:
      // Not a medium error, which Linux takes for transient and tries again (scsi_check_sense); a hardware error it
      // passes on, so that a file system learns that its barrier failed.
      command.Fail(SenseKey::kHardwareError, Asc::kPeripheralDeviceWriteFault);
      return;
    case BlockStatus::kOk:
    case BlockStatus::kIoError:
      break;
  }
  command.Fail(SenseKey::kMediumError, command.op == BlockOp::kRead ? Asc::kUnrecoveredReadError : Asc::kWriteError);
}

}  // namespace hvsdk::scsi
