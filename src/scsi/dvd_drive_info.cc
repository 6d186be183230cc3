// SPDX-License-Identifier: Apache-2.0
// DvdDrive: the commands that say what drive and disc are. By T10 MMC-6, and SPC-4. A
// medium is a disc with one session of one data track.
#include <algorithm>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"
#include "hvsdk/hvdef/mmc.h"
#include "hvsdk/hvdef/scsi_data.h"
#include "hvsdk/scsi/dvd_drive.h"
#include "scsi/parameter_data.h"

namespace hvsdk::scsi {

using hvdef::scsi::Asc;
using hvdef::scsi::FeatureHeader;
using hvdef::scsi::kCdDvdDevice;
using hvdef::scsi::LoadBigEndian;
using hvdef::scsi::SenseKey;
using hvdef::scsi::VpdPage;

namespace {

constexpr uint32_t kMostCdBlocks = 80 * 60 * hvdef::scsi::kCdFramesPerSecond;  // of 80 minutes

void FailCdb(ScsiCommand& command) { command.Fail(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb); }

struct Msf {
  uint8_t minute, second, frame;
};
// What is beyond a CD has no such address; the last one stands for it.
Msf MsfOf(uint32_t lba) {
  const uint64_t frames =
      std::min<uint64_t>(uint64_t{lba} + hvdef::scsi::kCdLeadInFrames, 256 * 60 * hvdef::scsi::kCdFramesPerSecond - 1);
  return {static_cast<uint8_t>(frames / (60 * hvdef::scsi::kCdFramesPerSecond)),
          static_cast<uint8_t>(frames / hvdef::scsi::kCdFramesPerSecond % 60),
          static_cast<uint8_t>(frames % hvdef::scsi::kCdFramesPerSecond)};
}
uint32_t AddressOf(uint32_t lba, bool msf) {
  if (!msf) return lba;
  const Msf at = MsfOf(lba);
  return uint32_t{at.minute} << 16 | uint32_t{at.second} << 8 | at.frame;
}

uint16_t ProfileOf(uint32_t blocks) {
  if (blocks == 0) return hvdef::scsi::kProfileNone;
  return blocks <= kMostCdBlocks ? hvdef::scsi::kProfileCdRom : hvdef::scsi::kProfileDvdRom;
}

}  // namespace

bool DvdDrive::IsCd(const View& view) { return ProfileOf(view.blocks) == hvdef::scsi::kProfileCdRom; }

// SPC-4 6.6. Hyper-V's drive says so of itself, its version 0 too.
void DvdDrive::Inquiry(ScsiCommand& command) const {
  const bool vital_product_data = (command.cdb[1] & 0x01) != 0;
  const uint8_t page = command.cdb[2];
  const size_t allocation = LoadBigEndian<uint16_t>(command.cdb + 3);
  if ((command.cdb[1] & 0x02) != 0 || (!vital_product_data && page != 0)) return FailCdb(command);
  if (!vital_product_data) {
    hvdef::scsi::InquiryData data = {};
    data.peripheral = kCdDvdDevice;
    data.removable = hvdef::scsi::kInquiryRemovable;
    data.response_data_format = hvdef::scsi::kResponseFormatSpc;
    data.additional_length = sizeof(data) - 5;
    CopyPadded(data.vendor, sizeof(data.vendor), "Msft");
    CopyPadded(data.product, sizeof(data.product), "Virtual DVD-ROM");
    CopyPadded(data.revision, sizeof(data.revision), "1.0");
    return command.Return(&data, sizeof(data), allocation);
  }
  Builder<128> out;
  switch (static_cast<VpdPage>(page)) {
    case VpdPage::kSupportedPages:
      out.Add(hvdef::scsi::VpdHeader{kCdDvdDevice, VpdPage::kSupportedPages, 3});
      for (VpdPage supported : {VpdPage::kSupportedPages, VpdPage::kUnitSerialNumber, VpdPage::kDeviceIdentification}) {
        out.Add(supported);
      }
      break;
    case VpdPage::kUnitSerialNumber: {
      const std::string serial = absl::BytesToHexString(
          absl::string_view(reinterpret_cast<const char*>(options_.id.data()), options_.id.size()));
      out.Add(hvdef::scsi::VpdHeader{kCdDvdDevice, VpdPage::kUnitSerialNumber, static_cast<uint16_t>(serial.size())});
      out.AddBytes(serial.data(), serial.size());
      break;
    }
    case VpdPage::kDeviceIdentification:
      AddDeviceIdentification(kCdDvdDevice, options_.id, out);
      break;
    default:
      return FailCdb(command);
  }
  command.Return(out.data(), out.size(), allocation);
}

// MODE SENSE. Nothing can be changed.
void DvdDrive::ModeSense(ScsiCommand& command, const View& view, bool ten) {
  constexpr uint8_t kChangeable = 1, kSaved = 3;
  const uint8_t control = command.cdb[2] >> 6, page = command.cdb[2] & 0x3F, subpage = command.cdb[3];
  const size_t allocation = ten ? LoadBigEndian<uint16_t>(command.cdb + 7) : command.cdb[4];
  if (control == kSaved) return command.Fail(SenseKey::kIllegalRequest, Asc::kSavingParametersNotSupported);
  const bool all = page == hvdef::scsi::kModePageAll;
  if (subpage != 0 && !(all && subpage == hvdef::scsi::kModeSubpageAll)) return FailCdb(command);
  Builder<64> pages;
  if (all || page == hvdef::scsi::kModePageErrorRecovery) {
    hvdef::scsi::ModePageErrorRecovery recovery = {};
    recovery.page = hvdef::scsi::kModePageErrorRecovery;
    recovery.length = sizeof(recovery) - 2;
    pages.Add(recovery);
  }
  if (all || page == hvdef::scsi::kModePageCapabilities) {
    hvdef::scsi::ModePageCapabilities capabilities = {};
    capabilities.page = hvdef::scsi::kModePageCapabilities;
    capabilities.length = sizeof(capabilities) - 2;
    if (control != kChangeable) {
      capabilities.reads = 0x0B;     // DVD-ROM, CD-RW, CD-R
      capabilities.playback = 0x70;  // multi-session, mode 2 forms 1 and 2
      capabilities.loading =
          static_cast<uint8_t>(0x29 | (view.state.is_locked ? 0x02 : 0));  // a tray; ejects, can be locked
      capabilities.max_speed_kb = capabilities.speed_kb = 11080;           // a DVD at 8 times its speed
      capabilities.buffer_kb = 512;
    }
    pages.Add(capabilities);
  }
  if (pages.size() == 0) return FailCdb(command);
  Builder<64 + sizeof(hvdef::scsi::ModeHeader10)> out;
  if (ten) {
    hvdef::scsi::ModeHeader10 header = {};
    header.data_length = static_cast<uint16_t>(sizeof(header) - 2 + pages.size());
    header.device_specific = hvdef::scsi::kModeWriteProtected;
    out.Add(header);
  } else {
    hvdef::scsi::ModeHeader6 header = {};
    header.data_length = static_cast<uint8_t>(sizeof(header) - 1 + pages.size());
    header.device_specific = hvdef::scsi::kModeWriteProtected;
    out.Add(header);
  }
  out.AddBytes(pages.data(), pages.size());
  command.Return(out.data(), out.size(), allocation);
}

// GET CONFIGURATION.
void DvdDrive::Configuration(ScsiCommand& command, const View& view) {
  enum : uint8_t { kAllFeatures, kCurrentFeatures, kOneFeature };
  const uint8_t which = command.cdb[1] & 0x03;
  const uint16_t start = LoadBigEndian<uint16_t>(command.cdb + 2);
  const size_t allocation = LoadBigEndian<uint16_t>(command.cdb + 7);
  if (which > kOneFeature) return FailCdb(command);
  const uint16_t profile = ProfileOf(view.blocks);
  Builder<128> out;
  hvdef::scsi::ConfigurationHeader header = {};
  header.current_profile = profile;
  out.Add(header);
  const auto add = [&](uint16_t code, uint8_t version, bool persistent, bool current, const auto&... data) {
    if (which == kOneFeature ? code != start : code < start) return;
    if (which == kCurrentFeatures && !current) return;
    const size_t size = (sizeof(data) + ... + 0);
    out.Add(FeatureHeader{code,
                          static_cast<uint8_t>(version << 2 | (persistent ? hvdef::scsi::kFeaturePersistent : 0) |
                                               (current ? hvdef::scsi::kFeatureCurrent : 0)),
                          static_cast<uint8_t>(size)});
    (out.Add(data), ...);
  };
  struct Profile {
    hvdef::scsi::Be16 number;
    uint8_t is_current;
    uint8_t reserved;
  };
  const bool has_medium = view.blocks != 0;
  const auto profile_of = [&](uint16_t number) { return Profile{number, profile == number, 0}; };
  const uint8_t scsi_interface[8] = {0, 0, 0, 1, 1, 0, 0, 0};      // the standard; device busy events
  const uint8_t morphing[4] = {0x02, 0, 0, 0};                     // operational change events
  const uint8_t removable[4] = {0x29, 0, 0, 0};                    // a tray, which ejects and can be locked
  const uint8_t random_readable[8] = {0, 0, 0x08, 0, 0, 1, 0, 0};  // blocks of 2048 bytes, one at a time
  const uint8_t none[4] = {};
  using namespace hvdef::scsi;  // NOLINT(google-build-using-namespace): the features' names
  add(kFeatureProfileList, 0, true, true, profile_of(kProfileDvdRom), profile_of(kProfileCdRom));
  add(kFeatureCore, 2, true, true, scsi_interface, none);
  add(kFeatureMorphing, 1, true, true, morphing);
  add(kFeatureRemovableMedium, 0, true, true, removable);
  add(kFeatureRandomReadable, 0, false, has_medium, random_readable);
  add(kFeatureMultiRead, 0, false, profile == kProfileCdRom);
  add(kFeatureCdRead, 2, false, profile == kProfileCdRom, none);
  add(kFeatureDvdRead, 1, false, profile == kProfileDvdRom, none);
  header.data_length = static_cast<uint32_t>(out.size() - sizeof(header.data_length));
  std::memcpy(out.data(), &header, sizeof(header));
  command.Return(out.data(), out.size(), allocation);
}

// READ TOC/PMA/ATIP.
void DvdDrive::Toc(ScsiCommand& command, const View& view) {
  using hvdef::scsi::kDataTrack;
  using hvdef::scsi::kLeadOutTrack;
  const bool msf = (command.cdb[1] & 0x02) != 0;
  // Drives of old had the format in the last byte.
  const uint8_t format = (command.cdb[2] & 0x0F) != 0 ? command.cdb[2] & 0x0F : command.cdb[9] >> 6;
  const uint8_t first = command.cdb[6];
  const size_t allocation = LoadBigEndian<uint16_t>(command.cdb + 7);
  Builder<128> out;
  hvdef::scsi::TocHeader header = {0, 1, 1};
  out.Add(header);
  switch (format) {
    case 0:  // the tracks from one on
      if (first > 1 && first != kLeadOutTrack) return FailCdb(command);
      if (first <= 1) out.Add(hvdef::scsi::TocTrack{0, kDataTrack, 1, 0, AddressOf(0, msf)});
      out.Add(hvdef::scsi::TocTrack{0, kDataTrack, kLeadOutTrack, 0, AddressOf(view.blocks, msf)});
      break;
    case 1:  // the last session's first track
      out.Add(hvdef::scsi::TocTrack{0, kDataTrack, 1, 0, AddressOf(0, msf)});
      break;
    case 2: {  // as it stands in the lead-in
      const auto entry = [&](uint8_t point, Msf at) {
        out.Add(hvdef::scsi::RawTocEntry{1, kDataTrack, 0, point, {}, 0, {at.minute, at.second, at.frame}});
      };
      entry(0xA0, {1, 0, 0});  // the first track
      entry(0xA1, {1, 0, 0});  // the last one
      entry(0xA2, MsfOf(view.blocks));
      entry(1, MsfOf(0));
      break;
    }
    default:
      return FailCdb(command);
  }
  header.data_length = static_cast<uint16_t>(out.size() - sizeof(header.data_length));
  std::memcpy(out.data(), &header, sizeof(header));
  command.Return(out.data(), out.size(), allocation);
}

// READ DISC INFORMATION.
void DvdDrive::DiscInformation(ScsiCommand& command) {
  if ((command.cdb[1] & 0x07) != 0) return FailCdb(command);  // other data types are those of recorders
  hvdef::scsi::DiscInformation data = {};
  data.data_length = sizeof(data) - 2;
  data.status = hvdef::scsi::kDiscComplete;
  data.first_track = data.sessions = data.first_track_last_session = data.last_track_last_session = 1;
  data.validity = hvdef::scsi::kDiscUnrestrictedUse;
  data.last_session_lead_in = data.last_possible_lead_out = 0xFFFFFFFF;
  command.Return(&data, sizeof(data), LoadBigEndian<uint16_t>(command.cdb + 7));
}

// READ TRACK INFORMATION, by block, track or session.
void DvdDrive::TrackInformation(ScsiCommand& command, const View& view) {
  const uint8_t by = command.cdb[1] & 0x03;
  const uint32_t number = LoadBigEndian<uint32_t>(command.cdb + 2);
  if (by == 3 || (by == 0 ? number >= view.blocks : number != 1)) return FailCdb(command);
  hvdef::scsi::TrackInformation data = {};
  data.data_length = sizeof(data) - 2;
  data.track = data.session = 1;
  data.track_mode = 4;
  data.data_mode = 1;
  data.size = view.blocks;
  command.Return(&data, sizeof(data), LoadBigEndian<uint16_t>(command.cdb + 7));
}

// READ DVD STRUCTURE: the physical format, and that there is no copy protection.
void DvdDrive::DvdStructure(ScsiCommand& command, const View& view) {
  const uint8_t media_type = command.cdb[1] & 0x0F, layer = command.cdb[6], format = command.cdb[7];
  const size_t allocation = LoadBigEndian<uint16_t>(command.cdb + 8);
  if (media_type != 0 || layer != 0 || ProfileOf(view.blocks) != hvdef::scsi::kProfileDvdRom) return FailCdb(command);
  struct {
    hvdef::scsi::DvdStructureHeader header;
    hvdef::scsi::DvdLayer layer;
  } data = {};
  size_t size = sizeof(data.header) + 4;
  if (format == 0) {
    size = sizeof(data);
    data.layer.book = 0x01;           // DVD-ROM, version 1
    data.layer.size_and_rate = 0x0F;  // 120 mm; no minimum rate is said
    data.layer.layers = 0x01;         // one, with embossed data
    data.layer.first_block = hvdef::scsi::kDvdFirstPhysicalBlock;
    data.layer.last_block = hvdef::scsi::kDvdFirstPhysicalBlock + view.blocks - 1;
  } else if (format != 1) {
    return FailCdb(command);
  }
  data.header.data_length = static_cast<uint16_t>(size - sizeof(data.header.data_length));
  command.Return(&data, size, allocation);
}

// MECHANISM STATUS.
void DvdDrive::MechanismStatus(ScsiCommand& command, const View& view) {
  hvdef::scsi::MechanismStatus data = {};
  data.mechanism = view.state.is_tray_open ? hvdef::scsi::kDoorOpen : 0;
  command.Return(&data, sizeof(data), LoadBigEndian<uint16_t>(command.cdb + 8));
}

}  // namespace hvsdk::scsi
