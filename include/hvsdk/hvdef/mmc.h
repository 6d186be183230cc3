// SPDX-License-Identifier: Apache-2.0
// What the commands of a DVD drive return: GET CONFIGURATION, GET EVENT STATUS NOTIFICATION, READ TOC/PMA/ATIP, READ
// DISC INFORMATION, MECHANISM STATUS, READ DVD STRUCTURE, and the mode page of its capabilities.
//
// Source: T10 MMC-6, by the command at each structure. Numbers are as in hvdef/scsi.h.

#ifndef HVSDK_HVDEF_MMC_H_
#define HVSDK_HVDEF_MMC_H_

#include <cstddef>
#include <cstdint>

#include "hvsdk/hvdef/scsi.h"

namespace hvsdk::hvdef::scsi {

inline constexpr uint32_t kDiscBlockBytes = 2048;
inline constexpr uint32_t kCdFramesPerSecond = 75;
inline constexpr uint32_t kCdLeadInFrames = 150;  // two seconds, before block 0

// Profiles.
inline constexpr uint16_t kProfileNone = 0x0000;
inline constexpr uint16_t kProfileCdRom = 0x0008;
inline constexpr uint16_t kProfileDvdRom = 0x0010;

// Features.
inline constexpr uint16_t kFeatureProfileList = 0x0000;
inline constexpr uint16_t kFeatureCore = 0x0001;
inline constexpr uint16_t kFeatureMorphing = 0x0002;
inline constexpr uint16_t kFeatureRemovableMedium = 0x0003;
inline constexpr uint16_t kFeatureRandomReadable = 0x0010;
inline constexpr uint16_t kFeatureMultiRead = 0x001D;
inline constexpr uint16_t kFeatureCdRead = 0x001E;
inline constexpr uint16_t kFeatureDvdRead = 0x001F;

// GET CONFIGURATION, before its features.
struct ConfigurationHeader {  // MMC-6, GET CONFIGURATION
  Be32 data_length;           // 0x00  bytes that follow
  uint8_t reserved[2];        // 0x04
  Be16 current_profile;       // 0x06
};
static_assert(sizeof(ConfigurationHeader) == 8);
static_assert(offsetof(ConfigurationHeader, data_length) == 0x00 && offsetof(ConfigurationHeader, reserved) == 0x04 &&
              offsetof(ConfigurationHeader, current_profile) == 0x06);

struct FeatureHeader {        // MMC-6, GET CONFIGURATION
  Be16 code;                  // 0x00
  uint8_t flags;              // 0x02  version in bits 5:2
  uint8_t additional_length;  // 0x03
};
static_assert(sizeof(FeatureHeader) == 4);
static_assert(offsetof(FeatureHeader, code) == 0x00 && offsetof(FeatureHeader, flags) == 0x02 &&
              offsetof(FeatureHeader, additional_length) == 0x03);
inline constexpr uint8_t kFeatureCurrent = 0x01;
inline constexpr uint8_t kFeaturePersistent = 0x02;

// GET EVENT STATUS NOTIFICATION: its header, and the descriptor of the media class.
struct EventHeader {          // MMC-6, GET EVENT STATUS NOTIFICATION
  Be16 data_length;           // 0x00  bytes that follow
  uint8_t notification;       // 0x02  the class, or that there is none
  uint8_t supported_classes;  // 0x03  a bit for each
};
static_assert(sizeof(EventHeader) == 4);
static_assert(offsetof(EventHeader, data_length) == 0x00 && offsetof(EventHeader, notification) == 0x02 &&
              offsetof(EventHeader, supported_classes) == 0x03);
inline constexpr uint8_t kNoEventAvailable = 0x80;
inline constexpr uint8_t kEventClassMedia = 4;

enum class MediaEventCode : uint8_t { kNone = 0, kEjectRequest = 1, kNewMedia = 2, kMediaRemoval = 3 };
struct MediaEvent {     // MMC-6, GET EVENT STATUS NOTIFICATION
  MediaEventCode code;  // 0x00
  uint8_t status;       // 0x01
  uint8_t start_slot;   // 0x02
  uint8_t end_slot;     // 0x03
};
static_assert(sizeof(MediaEvent) == 4);
static_assert(offsetof(MediaEvent, code) == 0x00 && offsetof(MediaEvent, status) == 0x01 &&
              offsetof(MediaEvent, start_slot) == 0x02 && offsetof(MediaEvent, end_slot) == 0x03);
inline constexpr uint8_t kMediaTrayOpen = 0x01;
inline constexpr uint8_t kMediaPresent = 0x02;

// READ TOC/PMA/ATIP, and the entries of formats 0 and 1, and of format 2.
struct TocHeader {   // MMC-6, READ TOC/PMA/ATIP
  Be16 data_length;  // 0x00  bytes that follow
  uint8_t first;     // 0x02  track or session
  uint8_t last;      // 0x03
};
static_assert(sizeof(TocHeader) == 4);
static_assert(offsetof(TocHeader, data_length) == 0x00 && offsetof(TocHeader, first) == 0x02 &&
              offsetof(TocHeader, last) == 0x03);
struct TocTrack {       // MMC-6, READ TOC/PMA/ATIP
  uint8_t reserved1;    // 0x00
  uint8_t adr_control;  // 0x01
  uint8_t track;        // 0x02
  uint8_t reserved2;    // 0x03
  Be32 address;         // 0x04  a block, or minute, second and frame
};
static_assert(sizeof(TocTrack) == 8);
static_assert(offsetof(TocTrack, reserved1) == 0x00 && offsetof(TocTrack, adr_control) == 0x01 &&
              offsetof(TocTrack, track) == 0x02 && offsetof(TocTrack, reserved2) == 0x03 &&
              offsetof(TocTrack, address) == 0x04);
struct RawTocEntry {    // MMC-6, READ TOC/PMA/ATIP
  uint8_t session;      // 0x00
  uint8_t adr_control;  // 0x01
  uint8_t track;        // 0x02
  uint8_t point;        // 0x03
  uint8_t time[3];      // 0x04
  uint8_t zero;         // 0x07
  uint8_t at[3];        // 0x08  minute, second, frame
};
static_assert(sizeof(RawTocEntry) == 11);
static_assert(offsetof(RawTocEntry, session) == 0x00 && offsetof(RawTocEntry, adr_control) == 0x01 &&
              offsetof(RawTocEntry, track) == 0x02 && offsetof(RawTocEntry, point) == 0x03 &&
              offsetof(RawTocEntry, time) == 0x04 && offsetof(RawTocEntry, zero) == 0x07 &&
              offsetof(RawTocEntry, at) == 0x08);
inline constexpr uint8_t kDataTrack = 0x14;  // ADR 1, and control 4: data, recorded uninterrupted
inline constexpr uint8_t kLeadOutTrack = 0xAA;

// READ DISC INFORMATION, standard.
struct DiscInformation {             // MMC-6, READ DISC INFORMATION
  Be16 data_length;                  // 0x00  bytes that follow
  uint8_t status;                    // 0x02  disc in bits 1:0, last session in bits 3:2
  uint8_t first_track;               // 0x03
  uint8_t sessions;                  // 0x04
  uint8_t first_track_last_session;  // 0x05
  uint8_t last_track_last_session;   // 0x06
  uint8_t validity;                  // 0x07
  uint8_t disc_type;                 // 0x08
  uint8_t high_bytes[3];             // 0x09
  Be32 disc_identification;          // 0x0C
  Be32 last_session_lead_in;         // 0x10
  Be32 last_possible_lead_out;       // 0x14
  uint8_t bar_code[8];               // 0x18
  uint8_t application_code;          // 0x20
  uint8_t opc_entries;               // 0x21
};
static_assert(sizeof(DiscInformation) == 34);
static_assert(offsetof(DiscInformation, data_length) == 0x00 && offsetof(DiscInformation, status) == 0x02 &&
              offsetof(DiscInformation, first_track) == 0x03 && offsetof(DiscInformation, sessions) == 0x04 &&
              offsetof(DiscInformation, first_track_last_session) == 0x05 &&
              offsetof(DiscInformation, last_track_last_session) == 0x06 &&
              offsetof(DiscInformation, validity) == 0x07 && offsetof(DiscInformation, disc_type) == 0x08 &&
              offsetof(DiscInformation, high_bytes) == 0x09 && offsetof(DiscInformation, disc_identification) == 0x0C &&
              offsetof(DiscInformation, last_session_lead_in) == 0x10 &&
              offsetof(DiscInformation, last_possible_lead_out) == 0x14 &&
              offsetof(DiscInformation, bar_code) == 0x18 && offsetof(DiscInformation, application_code) == 0x20 &&
              offsetof(DiscInformation, opc_entries) == 0x21);
inline constexpr uint8_t kDiscComplete = 0x0E;         // and its last session
inline constexpr uint8_t kDiscUnrestrictedUse = 0x20;  // validity: URU

// READ TRACK INFORMATION, as far as the track's size.
struct TrackInformation {  // MMC-6, READ TRACK INFORMATION
  Be16 data_length;        // 0x00  bytes that follow
  uint8_t track;           // 0x02
  uint8_t session;         // 0x03
  uint8_t reserved;        // 0x04
  uint8_t track_mode;      // 0x05
  uint8_t data_mode;       // 0x06
  uint8_t validity;        // 0x07
  Be32 start;              // 0x08
  Be32 next_writable;      // 0x0C
  Be32 free_blocks;        // 0x10
  Be32 packet_size;        // 0x14
  Be32 size;               // 0x18
  Be32 last_recorded;      // 0x1C
};
static_assert(sizeof(TrackInformation) == 32);
static_assert(offsetof(TrackInformation, data_length) == 0x00 && offsetof(TrackInformation, track) == 0x02 &&
              offsetof(TrackInformation, session) == 0x03 && offsetof(TrackInformation, reserved) == 0x04 &&
              offsetof(TrackInformation, track_mode) == 0x05 && offsetof(TrackInformation, data_mode) == 0x06 &&
              offsetof(TrackInformation, validity) == 0x07 && offsetof(TrackInformation, start) == 0x08 &&
              offsetof(TrackInformation, next_writable) == 0x0C && offsetof(TrackInformation, free_blocks) == 0x10 &&
              offsetof(TrackInformation, packet_size) == 0x14 && offsetof(TrackInformation, size) == 0x18 &&
              offsetof(TrackInformation, last_recorded) == 0x1C);

// MECHANISM STATUS, without slots.
struct MechanismStatus {  // MMC-6, MECHANISM STATUS
  uint8_t changer;        // 0x00
  uint8_t mechanism;      // 0x01  bit 4: the door is open
  uint8_t block[3];       // 0x02
  uint8_t slots;          // 0x05
  Be16 table_length;      // 0x06
};
static_assert(sizeof(MechanismStatus) == 8);
static_assert(offsetof(MechanismStatus, changer) == 0x00 && offsetof(MechanismStatus, mechanism) == 0x01 &&
              offsetof(MechanismStatus, block) == 0x02 && offsetof(MechanismStatus, slots) == 0x05 &&
              offsetof(MechanismStatus, table_length) == 0x06);
inline constexpr uint8_t kDoorOpen = 0x10;

// READ DVD STRUCTURE, format 0: the layer's descriptor.
struct DvdStructureHeader {  // MMC-6, READ DVD STRUCTURE
  Be16 data_length;          // 0x00  bytes that follow
  uint8_t reserved[2];       // 0x02
};
static_assert(sizeof(DvdStructureHeader) == 4);
static_assert(offsetof(DvdStructureHeader, data_length) == 0x00 && offsetof(DvdStructureHeader, reserved) == 0x02);
struct DvdLayer {          // MMC-6, READ DVD STRUCTURE
  uint8_t book;            // 0x00  type in bits 7:4, version in bits 3:0
  uint8_t size_and_rate;   // 0x01
  uint8_t layers;          // 0x02
  uint8_t density;         // 0x03
  Be32 first_block;        // 0x04  physical
  Be32 last_block;         // 0x08
  Be32 last_block_layer0;  // 0x0C
  uint8_t burst_cutting;   // 0x10
  uint8_t specific[2031];  // 0x11
};
static_assert(sizeof(DvdLayer) == 2048);
static_assert(offsetof(DvdLayer, book) == 0x00 && offsetof(DvdLayer, size_and_rate) == 0x01 &&
              offsetof(DvdLayer, layers) == 0x02 && offsetof(DvdLayer, density) == 0x03 &&
              offsetof(DvdLayer, first_block) == 0x04 && offsetof(DvdLayer, last_block) == 0x08 &&
              offsetof(DvdLayer, last_block_layer0) == 0x0C && offsetof(DvdLayer, burst_cutting) == 0x10 &&
              offsetof(DvdLayer, specific) == 0x11);
inline constexpr uint32_t kDvdFirstPhysicalBlock = 0x30000;

// Mode page 0x2A: capabilities and mechanical status (MMC-3; later ones only refer to it).
inline constexpr uint8_t kModePageCapabilities = 0x2A;
struct ModePageCapabilities {  // MMC-3, CD/DVD Capabilities and Mechanical Status Page
  uint8_t page;                // 0x00
  uint8_t length;              // 0x01
  uint8_t reads;               // 0x02  bit 3: DVD-ROM
  uint8_t writes;              // 0x03
  uint8_t playback;            // 0x04  bit 6: multi-session
  uint8_t cd_reading;          // 0x05
  uint8_t loading;      // 0x06  bits 7:5: 1 is a tray; 3: ejects, 2: prevent jumper, 1: is locked, 0: can be locked
  uint8_t channels;     // 0x07
  Be16 max_speed_kb;    // 0x08
  Be16 volume_levels;   // 0x0A
  Be16 buffer_kb;       // 0x0C
  Be16 speed_kb;        // 0x0E
  uint8_t reserved[4];  // 0x10
};
static_assert(sizeof(ModePageCapabilities) == 20);
static_assert(offsetof(ModePageCapabilities, page) == 0x00 && offsetof(ModePageCapabilities, length) == 0x01 &&
              offsetof(ModePageCapabilities, reads) == 0x02 && offsetof(ModePageCapabilities, writes) == 0x03 &&
              offsetof(ModePageCapabilities, playback) == 0x04 && offsetof(ModePageCapabilities, cd_reading) == 0x05 &&
              offsetof(ModePageCapabilities, loading) == 0x06 && offsetof(ModePageCapabilities, channels) == 0x07 &&
              offsetof(ModePageCapabilities, max_speed_kb) == 0x08 &&
              offsetof(ModePageCapabilities, volume_levels) == 0x0A &&
              offsetof(ModePageCapabilities, buffer_kb) == 0x0C && offsetof(ModePageCapabilities, speed_kb) == 0x0E &&
              offsetof(ModePageCapabilities, reserved) == 0x10);

}  // namespace hvsdk::hvdef::scsi

#endif  // HVSDK_HVDEF_MMC_H_
