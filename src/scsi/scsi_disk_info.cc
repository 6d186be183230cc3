// SPDX-License-Identifier: Apache-2.0
// ScsiDisk: the commands that say what the unit is. Sections are those of T10 SPC-4 unless SBC-3 is named.
#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>
#include <iterator>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"
#include "hvsdk/hvdef/scsi_data.h"
#include "hvsdk/scsi/scsi_disk.h"
#include "resource/host_buffers.h"
#include "scsi/parameter_data.h"
#include "scsi/scsi_limits.h"

namespace hvsdk::scsi {

using hvdef::scsi::Asc;
using hvdef::scsi::LoadBigEndian;
using hvdef::scsi::SenseKey;
using hvdef::scsi::VpdPage;

namespace {

constexpr size_t kMaxSerialBytes = 64;

// What a MODE SENSE wants to know of a page (SPC-4 6.14.1).
enum PageControl : uint8_t { kCurrent, kChangeable, kDefault, kSaved };

constexpr uint8_t kModePages[] = {hvdef::scsi::kModePageErrorRecovery, hvdef::scsi::kModePageCaching,
                                  hvdef::scsi::kModePageControl};
using ModePageBytes = Builder<sizeof(hvdef::scsi::ModePageCaching)>;

// A mode page; empty if there is no such page. The write cache is on by default, and the one thing that can be changed.
ModePageBytes ModePage(uint8_t code, PageControl control, bool write_cache) {
  ModePageBytes out;
  if (code == hvdef::scsi::kModePageErrorRecovery) {
    hvdef::scsi::ModePageErrorRecovery page = {};
    page.page = code;
    page.length = sizeof(page) - 2;
    out.Add(page);
  } else if (code == hvdef::scsi::kModePageCaching) {
    hvdef::scsi::ModePageCaching page = {};
    page.page = code;
    page.length = sizeof(page) - 2;
    if (control != kCurrent || write_cache) page.flags = hvdef::scsi::kCachingWriteCacheEnabled;
    out.Add(page);
  } else if (code == hvdef::scsi::kModePageControl) {
    hvdef::scsi::ModePageControl page = {};
    page.page = code;
    page.length = sizeof(page) - 2;
    if (control != kChangeable) {
      page.flags3 = hvdef::scsi::kControlUnrestrictedReordering;
      page.busy_timeout_100ms = 0xFFFF;  // no limit
    }
    out.Add(page);
  }
  return out;
}

}  // namespace

std::string SerialOf(const BlockInfo& info, const std::array<uint8_t, 16>& id) {
  if (!info.serial.empty()) return info.serial.substr(0, kMaxSerialBytes);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(id.data()), id.size()));
}

// 6.6. Guest drivers know Hyper-V's virtual disk by its vendor: Linux then trusts it to be SPC-3.
void ScsiDisk::Inquiry(ScsiCommand& command) {
  const bool vital_product_data = (command.cdb[1] & 0x01) != 0;
  const bool obsolete = (command.cdb[1] & 0x02) != 0;
  const uint8_t page = command.cdb[2];
  const size_t allocation = LoadBigEndian<uint16_t>(command.cdb + 3);
  if (obsolete || (!vital_product_data && page != 0)) {
    command.Fail(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
    return;
  }
  if (vital_product_data) {
    VitalProductData(command, page, allocation);
    return;
  }
  hvdef::scsi::InquiryData data = {};
  data.peripheral = hvdef::scsi::kDirectAccessDevice;
  data.version = hvdef::scsi::kVersionSpc3;
  data.response_data_format = hvdef::scsi::kResponseFormatSpc;
  data.additional_length = sizeof(data) - 5;
  data.flags7 = hvdef::scsi::kInquiryCommandQueue;
  CopyPadded(data.vendor, sizeof(data.vendor), "Msft");
  CopyPadded(data.product, sizeof(data.product), "Virtual Disk");
  CopyPadded(data.revision, sizeof(data.revision), "1.0");
  command.Return(&data, sizeof(data), allocation);
}

void ScsiDisk::VitalProductData(ScsiCommand& command, uint8_t page, size_t allocation) {
  Builder<256> out;
  switch (static_cast<VpdPage>(page)) {
    case VpdPage::kSupportedPages:
      out.Add(hvdef::scsi::VpdHeader{hvdef::scsi::kDirectAccessDevice, VpdPage::kSupportedPages, 6});
      for (VpdPage supported :
           {VpdPage::kSupportedPages, VpdPage::kUnitSerialNumber, VpdPage::kDeviceIdentification, VpdPage::kBlockLimits,
            VpdPage::kBlockDeviceCharacteristics, VpdPage::kLogicalBlockProvisioning}) {
        out.Add(supported);
      }
      break;
    case VpdPage::kUnitSerialNumber:
      out.Add(hvdef::scsi::VpdHeader{hvdef::scsi::kDirectAccessDevice, VpdPage::kUnitSerialNumber,
                                     static_cast<uint16_t>(serial_.size())});
      out.AddBytes(serial_.data(), serial_.size());
      break;
    case VpdPage::kDeviceIdentification:
      AddDeviceIdentification(hvdef::scsi::kDirectAccessDevice, id_, out);
      break;
    case VpdPage::kBlockLimits: {  // SBC-3 6.5.3
      hvdef::scsi::BlockLimits limits = {};
      limits.header = {hvdef::scsi::kDirectAccessDevice, VpdPage::kBlockLimits, sizeof(limits) - 4};
      limits.wsnz = 1;
      limits.optimal_transfer_granularity_blocks =
          static_cast<uint16_t>(std::max(1u, info_.physical_block_bytes >> block_shift_));
      limits.max_transfer_blocks = max_transfer_bytes_ >> block_shift_;
      if (info_.can_discard) {
        limits.max_unmap_blocks = static_cast<uint32_t>(kMaxUnmapBlocks);
        limits.max_unmap_descriptors = static_cast<uint32_t>(kMaxUnmapDescriptors);
        limits.optimal_unmap_granularity_blocks = std::max(1u, info_.discard_granularity_bytes >> block_shift_);
        limits.unmap_granularity_alignment = 0x80000000;  // valid, and 0
      }
      limits.max_write_same_blocks = kMaxWriteSameBytes >> block_shift_;
      out.Add(limits);
      break;
    }
    case VpdPage::kBlockDeviceCharacteristics: {  // SBC-3 6.5.2
      hvdef::scsi::BlockDeviceCharacteristics characteristics = {};
      characteristics.header = {hvdef::scsi::kDirectAccessDevice, VpdPage::kBlockDeviceCharacteristics,
                                sizeof(characteristics) - 4};
      characteristics.medium_rotation_rate = info_.rotational ? 0 : 1;
      out.Add(characteristics);
      break;
    }
    case VpdPage::kLogicalBlockProvisioning: {  // SBC-3 6.5.4
      hvdef::scsi::LogicalBlockProvisioning provisioning = {};
      provisioning.header = {hvdef::scsi::kDirectAccessDevice, VpdPage::kLogicalBlockProvisioning,
                             sizeof(provisioning) - 4};
      if (info_.can_discard) {
        provisioning.flags = hvdef::scsi::kLbpUnmap;
        if (info_.discard_reads_zeroes) {
          provisioning.flags |=
              hvdef::scsi::kLbpWriteSame16 | hvdef::scsi::kLbpWriteSame10 | hvdef::scsi::kLbpReadsZeroes;
        }
        provisioning.provisioning_type = hvdef::scsi::kProvisioningThin;
      }
      out.Add(provisioning);
      break;
    }
    default:
      command.Fail(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
      return;
  }
  command.Return(out.data(), out.size(), allocation);
}

// SBC-3 5.12.
void ScsiDisk::ReadCapacity10(ScsiCommand& command) {
  const bool partial = (command.cdb[8] & 0x01) != 0;
  if (!partial && LoadBigEndian<uint32_t>(command.cdb + 2) != 0) {
    command.Fail(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
    return;
  }
  hvdef::scsi::ReadCapacity10Data data = {};
  data.last_lba = static_cast<uint32_t>(std::min<uint64_t>(blocks_ - 1, UINT32_MAX));
  data.block_bytes = info_.logical_block_bytes;
  command.Return(&data, sizeof(data), sizeof(data));
}

// SBC-3 5.13.
void ScsiDisk::ReadCapacity16(ScsiCommand& command) {
  hvdef::scsi::ReadCapacity16Data data = {};
  data.last_lba = blocks_ - 1;
  data.block_bytes = info_.logical_block_bytes;
  const uint32_t ratio = std::max(1u, info_.physical_block_bytes >> block_shift_);
  data.physical_exponent = static_cast<uint8_t>(std::bit_width(ratio) - 1);
  if (info_.can_discard) {
    data.provisioning = static_cast<uint16_t>(hvdef::scsi::kCapacityThin |
                                              (info_.discard_reads_zeroes ? hvdef::scsi::kCapacityReadsZeroes : 0));
  }
  command.Return(&data, sizeof(data), LoadBigEndian<uint32_t>(command.cdb + 10));
}

hvdef::scsi::ModeBlockDescriptor ScsiDisk::BlockDescriptor() const {
  hvdef::scsi::ModeBlockDescriptor descriptor = {};
  descriptor.blocks = static_cast<uint32_t>(std::min<uint64_t>(blocks_, UINT32_MAX));
  descriptor.block_bytes = info_.logical_block_bytes;
  return descriptor;
}

// 6.14, 6.15.
void ScsiDisk::ModeSense(ScsiCommand& command, bool ten) {
  const bool no_descriptors = (command.cdb[1] & 0x08) != 0;
  const auto control = static_cast<PageControl>(command.cdb[2] >> 6);
  const uint8_t page = command.cdb[2] & 0x3F;
  const uint8_t subpage = command.cdb[3];
  const size_t allocation = ten ? LoadBigEndian<uint16_t>(command.cdb + 7) : command.cdb[4];
  if (control == kSaved) {
    command.Fail(SenseKey::kIllegalRequest, Asc::kSavingParametersNotSupported);
    return;
  }
  const bool all = page == hvdef::scsi::kModePageAll;
  const bool known = std::find(std::begin(kModePages), std::end(kModePages), page) != std::end(kModePages);
  if ((!all && !known) || (subpage != 0 && !(all && subpage == hvdef::scsi::kModeSubpageAll))) {
    command.Fail(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
    return;
  }
  Builder<128> pages;
  if (!no_descriptors) pages.Add(BlockDescriptor());
  const uint8_t descriptor_bytes = static_cast<uint8_t>(pages.size());
  const bool write_cache = write_cache_.load(std::memory_order_relaxed);
  for (uint8_t code : kModePages) {
    if (!all && page != code) continue;
    const ModePageBytes bytes = ModePage(code, control, write_cache);
    pages.AddBytes(bytes.data(), bytes.size());
  }
  const uint8_t device_specific =
      static_cast<uint8_t>(hvdef::scsi::kModeDpoFua | (info_.read_only ? hvdef::scsi::kModeWriteProtected : 0));
  Builder<128 + sizeof(hvdef::scsi::ModeHeader10)> out;
  if (ten) {
    hvdef::scsi::ModeHeader10 header = {};
    header.data_length = static_cast<uint16_t>(sizeof(header) - 2 + pages.size());
    header.device_specific = device_specific;
    header.block_descriptor_length = descriptor_bytes;
    out.Add(header);
  } else {
    hvdef::scsi::ModeHeader6 header = {};
    header.data_length = static_cast<uint8_t>(sizeof(header) - 1 + pages.size());
    header.device_specific = device_specific;
    header.block_descriptor_length = descriptor_bytes;
    out.Add(header);
  }
  out.AddBytes(pages.data(), pages.size());
  command.Return(out.data(), out.size(), allocation);
}

// 6.12, 6.13. Only the write cache can be switched; switching it off writes out what it holds.
ScsiStep ScsiDisk::ModeSelect(ScsiCommand& command, bool ten) {
  const bool page_format = (command.cdb[1] & 0x10) != 0;
  const bool save = (command.cdb[1] & 0x01) != 0;
  const size_t list_bytes = ten ? LoadBigEndian<uint16_t>(command.cdb + 7) : command.cdb[4];
  const auto fail = [&](Asc asc) {
    command.Fail(SenseKey::kIllegalRequest, asc);
    return ScsiStep::kDone;
  };
  if (!page_format || save) return fail(Asc::kInvalidFieldInCdb);
  if (!CheckData(command, DataDirection::kOut, list_bytes)) return ScsiStep::kDone;
  uint8_t list[256] = {};
  const size_t header_bytes = ten ? sizeof(hvdef::scsi::ModeHeader10) : sizeof(hvdef::scsi::ModeHeader6);
  if (list_bytes == 0) {
    command.Succeed();
    return ScsiStep::kDone;
  }
  if (list_bytes < header_bytes || list_bytes > sizeof(list)) return fail(Asc::kParameterListLengthError);
  CopyFromBuffers(command.data, 0, list, list_bytes);
  const size_t descriptor_bytes = ten ? LoadBigEndian<uint16_t>(list + 6) : list[3];
  if (descriptor_bytes > list_bytes - header_bytes) return fail(Asc::kParameterListLengthError);
  const bool long_descriptors = ten && (list[4] & 0x01) != 0;  // LONGLBA
  if (long_descriptors) return fail(Asc::kInvalidFieldInParameterList);
  if (descriptor_bytes != 0) {
    // SBC-3 6.4.2: the blocks of the disk can be told, and not changed. Their number may be left open (0) or be as many
    // as there are (all ones).
    hvdef::scsi::ModeBlockDescriptor wanted;
    if (descriptor_bytes != sizeof(wanted)) return fail(Asc::kInvalidFieldInParameterList);
    std::memcpy(static_cast<void*>(&wanted), list + header_bytes, sizeof(wanted));
    const hvdef::scsi::ModeBlockDescriptor current = BlockDescriptor();
    const bool is_same_count = wanted.blocks == 0 || wanted.blocks == current.blocks || wanted.blocks == UINT32_MAX;
    if (!is_same_count || wanted.block_bytes != current.block_bytes) return fail(Asc::kInvalidFieldInParameterList);
  }
  const bool was_enabled = write_cache_.load(std::memory_order_relaxed);
  bool enabled = was_enabled;
  for (size_t at = header_bytes + descriptor_bytes; at < list_bytes;) {
    if (list_bytes - at < 2 || list_bytes - at < 2u + list[at + 1]) return fail(Asc::kParameterListLengthError);
    const uint8_t code = list[at] & 0x7F;
    const ModePageBytes current = ModePage(code, kCurrent, was_enabled);
    const ModePageBytes changeable = ModePage(code, kChangeable, was_enabled);
    const size_t page_bytes = 2u + list[at + 1];
    if (current.size() != page_bytes) return fail(Asc::kInvalidFieldInParameterList);
    for (size_t i = 2; i < page_bytes; ++i) {
      const uint8_t differs = list[at + i] ^ current.data()[i];
      if ((differs & ~changeable.data()[i]) != 0) return fail(Asc::kInvalidFieldInParameterList);
    }
    if (code == hvdef::scsi::kModePageCaching)
      enabled =
          (list[at + offsetof(hvdef::scsi::ModePageCaching, flags)] & hvdef::scsi::kCachingWriteCacheEnabled) != 0;
    at += page_bytes;
  }
  write_cache_.store(enabled, std::memory_order_relaxed);
  command.transferred = static_cast<uint32_t>(list_bytes);
  if (was_enabled && !enabled) return Flush(command);
  command.Succeed();
  return ScsiStep::kDone;
}

}  // namespace hvsdk::scsi
