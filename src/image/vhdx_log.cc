// SPDX-License-Identifier: Apache-2.0
#include "image/vhdx_log.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "image/blocking.h"
#include "image/crc32c.h"

namespace hvsdk::internal::vhdx {
namespace {

absl::Status Damaged(absl::string_view what) { return absl::InvalidArgumentError(absl::StrCat("VHDX: ", what)); }

uint32_t DescriptorSectors(uint32_t count) {
  return static_cast<uint32_t>(
      (sizeof(LogEntryHeader) + uint64_t{count} * sizeof(LogDescriptor) + kLogSectorBytes - 1) / kLogSectorBytes);
}

// The log in memory, as the ring that it is.
class LogImage {
 public:
  explicit LogImage(std::vector<uint8_t> bytes) : bytes_(std::move(bytes)) {}

  uint32_t size() const { return static_cast<uint32_t>(bytes_.size()); }
  const uint8_t* Sector(uint64_t offset) const { return &bytes_[offset % bytes_.size()]; }
  template <typename T>
  T Get(uint64_t offset) const {  // within a sector
    T value;
    std::memcpy(&value, Sector(offset), sizeof(value));
    return value;
  }

 private:
  std::vector<uint8_t> bytes_;
};

// Whether an entry that is whole begins there (2.3.1.1). `budget` is how many bytes may be looked at in all: a hostile
// log could have us look at all of it again and again.
bool IsEntry(const LogImage& log, uint32_t offset, const Guid& guid, int64_t& budget, LogEntryHeader& header) {
  header = log.Get<LogEntryHeader>(offset);
  if (header.signature != kLogEntrySignature || header.log_guid != guid || header.sequence_number == 0) return false;
  const uint32_t length = header.entry_length;
  if (length == 0 || length > log.size() || length % kLogSectorBytes != 0 || header.tail >= log.size() ||
      header.tail % kLogSectorBytes != 0) {
    return false;
  }
  if (header.descriptor_count > length / sizeof(LogDescriptor)) return false;
  const uint32_t first_data = DescriptorSectors(header.descriptor_count) * kLogSectorBytes;
  if (first_data > length) return false;
  if ((budget -= length) < 0) return false;
  uint32_t data = first_data;
  for (uint32_t i = 0; i < header.descriptor_count; ++i) {
    const auto descriptor =
        log.Get<LogDescriptor>(offset + sizeof(LogEntryHeader) + uint64_t{i} * sizeof(LogDescriptor));
    if (descriptor.sequence_number != header.sequence_number || descriptor.file_offset % kLogSectorBytes != 0)
      return false;
    if (descriptor.signature == kZeroDescriptorSignature) {
      if (descriptor.leading_bytes_or_length % kLogSectorBytes != 0) return false;
      continue;
    }
    if (descriptor.signature != kDataDescriptorSignature || data >= length) return false;
    const uint64_t sector = uint64_t{offset} + data;
    const auto low = log.Get<uint32_t>(sector + offsetof(LogDataSector, sequence_low));
    const auto high = log.Get<uint32_t>(sector + offsetof(LogDataSector, sequence_high));
    if (log.Get<uint32_t>(sector) != kDataSectorSignature || (uint64_t{high} << 32 | low) != header.sequence_number)
      return false;
    data += kLogSectorBytes;
  }
  uint32_t crc = 0;
  for (uint32_t at = 0; at < length; at += kLogSectorBytes) {
    uint8_t sector[kLogSectorBytes];
    std::memcpy(sector, log.Sector(uint64_t{offset} + at), sizeof(sector));
    if (at == 0) std::memset(&sector[offsetof(LogEntryHeader, checksum)], 0, 4);
    crc = Crc32c(sector, crc);
  }
  return crc == header.checksum;
}

// The entries to replay, by their offsets: the whole sequence with the highest number (2.3.3). None: there is nothing
// to do.
std::vector<uint32_t> FindActiveSequence(const LogImage& log, const Guid& guid, bool& gave_up) {
  std::map<uint32_t, LogEntryHeader> entries;
  int64_t budget = int64_t{4} * log.size();
  for (uint32_t offset = 0; offset < log.size(); offset += kLogSectorBytes) {
    LogEntryHeader header;
    if (IsEntry(log, offset, guid, budget, header)) entries[offset] = header;
  }
  gave_up = budget < 0;
  std::vector<uint32_t> heads;
  for (const auto& [offset, header] : entries) heads.push_back(offset);
  std::sort(heads.begin(), heads.end(),
            [&](uint32_t a, uint32_t b) { return entries[a].sequence_number > entries[b].sequence_number; });
  constexpr size_t kMaxHeads = 1024;
  for (size_t i = 0; i < std::min(heads.size(), kMaxHeads); ++i) {
    const uint32_t head = heads[i];
    std::vector<uint32_t> sequence;
    uint32_t at = entries[head].tail;
    uint64_t bytes = 0;
    while (true) {
      const auto entry = entries.find(at);
      if (entry == entries.end()) break;
      if (!sequence.empty() && entry->second.sequence_number != entries[sequence.back()].sequence_number + 1) break;
      bytes += entry->second.entry_length;
      if (bytes > log.size()) break;
      sequence.push_back(at);
      if (at == head) return sequence;
      at = static_cast<uint32_t>((uint64_t{at} + entry->second.entry_length) % log.size());
    }
  }
  return {};
}

absl::Status ReplayEntry(ImageFile& file, const Header& current, const LogImage& log, uint32_t offset) {
  const auto header = log.Get<LogEntryHeader>(offset);
  uint32_t data = DescriptorSectors(header.descriptor_count) * kLogSectorBytes;
  for (uint32_t i = 0; i < header.descriptor_count; ++i) {
    const auto descriptor =
        log.Get<LogDescriptor>(offset + sizeof(LogEntryHeader) + uint64_t{i} * sizeof(LogDescriptor));
    const bool is_zero = descriptor.signature == kZeroDescriptorSignature;
    const uint64_t size = is_zero ? descriptor.leading_bytes_or_length : kLogSectorBytes;
    const uint64_t at = descriptor.file_offset;
    // Not the headers, which say that there is this log, nor the log.
    if (at < kRegionTableOffsets[0] || at > kMaxFileBytes || size > kMaxFileBytes - at ||
        (at < current.log_offset + current.log_length && current.log_offset < at + size)) {
      return Damaged(absl::StrCat("its log writes at byte ", at, ", where no metadata can be"));
    }
    if (at + size > file.size_bytes()) {
      if (at + size > header.last_file_offset) {
        return Damaged(absl::StrCat("its log writes at byte ", at, ", behind the end that it gives the file"));
      }
      RETURN_IF_ERROR(ToStatus(file.Resize(header.last_file_offset), "VHDX: log"));
    }
    if (is_zero) {
      RETURN_IF_ERROR(ToStatus(Zero(file, at, size), "VHDX: log"));
      continue;
    }
    uint8_t page[kLogSectorBytes];
    std::memcpy(page, log.Sector(uint64_t{offset} + data), sizeof(page));
    std::memcpy(page, &descriptor.leading_bytes_or_length, 8);
    std::memcpy(page + kLogSectorBytes - 4, &descriptor.trailing_bytes, 4);
    data += kLogSectorBytes;
    RETURN_IF_ERROR(ToStatus(Write(file, at, page), "VHDX: log"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ReplayLog(ImageFile& file, CurrentHeader& current) {
  const Guid guid = current.header.log_guid;
  if (guid == Guid{}) return absl::OkStatus();
  const uint32_t length = current.header.log_length;
  if (length == 0) return Damaged("its header names a log of no bytes");
  if (length > kMaxLogBytes)
    return Damaged(absl::StrCat("its log of ", length, " bytes is too long: the limit is ", kMaxLogBytes));
  std::vector<uint8_t> bytes(length);
  RETURN_IF_ERROR(ToStatus(Read(file, current.header.log_offset, absl::MakeSpan(bytes)), "VHDX: log"));
  const LogImage log(std::move(bytes));
  bool gave_up = false;
  const std::vector<uint32_t> sequence = FindActiveSequence(log, guid, gave_up);
  if (gave_up) return Damaged("its log is damaged");
  if (!sequence.empty()) {
    const auto head = log.Get<LogEntryHeader>(sequence.back());
    if (head.flushed_file_offset > file.size_bytes()) {
      return Damaged(absl::StrCat("it has ", file.size_bytes(), " bytes, and had ", head.flushed_file_offset,
                                  " when its log was written: it is truncated"));
    }
    if (head.last_file_offset > kMaxFileBytes) return Damaged("its log gives it an end that no file has");
    for (const uint32_t offset : sequence) RETURN_IF_ERROR(ReplayEntry(file, current.header, log, offset));
    if (head.last_file_offset > file.size_bytes()) {
      RETURN_IF_ERROR(ToStatus(file.Resize(head.last_file_offset), "VHDX: log"));
    }
    RETURN_IF_ERROR(ToStatus(Flush(file), "VHDX: log"));
  }
  current.header.log_guid = {};
  current.header.file_write_guid = NewGuid();
  return ToStatus(UpdateHeader(file, current), "VHDX: header");
}

std::vector<uint8_t> EncodeLogEntry(const Guid& log_guid, uint64_t sequence_number, uint32_t tail, uint64_t file_bytes,
                                    const std::map<uint64_t, MetadataCache::Page*>& pages) {
  const auto count = static_cast<uint32_t>(pages.size());
  const uint32_t first_data = DescriptorSectors(count);
  std::vector<uint8_t> bytes((first_data + size_t{count}) * kLogSectorBytes);
  LogEntryHeader header{};
  header.signature = kLogEntrySignature;
  header.entry_length = static_cast<uint32_t>(bytes.size());
  header.tail = tail;
  header.sequence_number = sequence_number;
  header.descriptor_count = count;
  header.log_guid = log_guid;
  header.flushed_file_offset = header.last_file_offset = file_bytes;
  size_t at = sizeof(header), data = first_data * size_t{kLogSectorBytes};
  for (const auto& [number, page] : pages) {
    LogDescriptor descriptor{};
    descriptor.signature = kDataDescriptorSignature;
    std::memcpy(&descriptor.leading_bytes_or_length, page->bytes.data(), 8);
    std::memcpy(&descriptor.trailing_bytes, page->bytes.data() + kLogSectorBytes - 4, 4);
    descriptor.file_offset = number * MetadataCache::kPageBytes;
    descriptor.sequence_number = sequence_number;
    std::memcpy(&bytes[at], &descriptor, sizeof(descriptor));
    at += sizeof(descriptor);
    LogDataSector sector{};
    sector.signature = kDataSectorSignature;
    sector.sequence_high = static_cast<uint32_t>(sequence_number >> 32);
    sector.sequence_low = static_cast<uint32_t>(sequence_number);
    std::memcpy(sector.data, page->bytes.data() + 8, sizeof(sector.data));
    std::memcpy(&bytes[data], &sector, sizeof(sector));
    data += sizeof(sector);
  }
  std::memcpy(bytes.data(), &header, sizeof(header));
  header.checksum = Crc32c(bytes);
  std::memcpy(bytes.data(), &header, sizeof(header));
  return bytes;
}

BlockStatus LogWriter::Append(CurrentHeader& current, const std::map<uint64_t, MetadataCache::Page*>& pages) {
  const bool is_first = !is_used();
  if (is_first) guid_ = NewGuid();
  uint32_t offset = next_;
  std::vector<uint8_t> entry = EncodeLogEntry(guid_, sequence_number_ + 1, offset, file_.size_bytes(), pages);
  if (entry.size() > current.header.log_length - offset) {
    offset = 0;
    entry = EncodeLogEntry(guid_, sequence_number_ + 1, offset, file_.size_bytes(), pages);
  }
  if (const BlockStatus status = Write(file_, current.header.log_offset + offset, entry); status != BlockStatus::kOk)
    return status;
  if (const BlockStatus status = Flush(file_); status != BlockStatus::kOk) return status;
  // The entry is there before the header says so: no reader finds a log without one.
  if (current.header.log_guid != guid_) {
    current.header.log_guid = guid_;
    if (const BlockStatus status = UpdateHeader(file_, current); status != BlockStatus::kOk) return status;
  }
  ++sequence_number_;
  next_ = offset + static_cast<uint32_t>(entry.size());
  if (next_ == current.header.log_length) next_ = 0;
  return BlockStatus::kOk;
}

BlockStatus LogWriter::Empty(CurrentHeader& current) {
  if (!is_used()) return BlockStatus::kOk;
  current.header.log_guid = {};
  const BlockStatus status = UpdateHeader(file_, current);
  if (status == BlockStatus::kOk) sequence_number_ = next_ = 0;
  return status;
}

}  // namespace hvsdk::internal::vhdx
