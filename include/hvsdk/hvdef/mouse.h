// SPDX-License-Identifier: Apache-2.0
// Synthetic mouse: what a guest's mouse driver and the host say to each other. All little-endian.
//
// A packet's payload is a PipeHeader (integration.h), a Header and a body. The guest asks for a version; the host says whether it may have it, and
// then what the device is: a HID descriptor with a report descriptor behind it, which the guest acknowledges. From then on the host sends
// reports, which are what the report descriptor says. One is at hand here: five buttons, a place as wide and high as the screen is, and two wheels.
//
// Sources: Linux drivers/hid/hid-hyperv.c, OpenVMM vm/devices/uidevices/src/mouse; USB HID 1.11 (Device Class Definition for Human
// Interface Devices) and HID Usage Tables 1.12 for descriptors.

#ifndef HVSDK_HVDEF_MOUSE_H_
#define HVSDK_HVDEF_MOUSE_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace hvsdk::hvdef::mouse {

enum class MessageType : uint32_t {
  kProtocolRequest = 0,   // the guest's
  kProtocolResponse = 1,  // the host's
  kDeviceInfo = 2,        // the host's
  kDeviceInfoAck = 3,     // the guest's
  kInputReport = 4,       // the host's
};

// Major in the high half, minor in the low one.
inline constexpr uint32_t kVersion2 = 0x0002'0000;

inline constexpr uint32_t kMaxMessageBytes = 512;

// Source: Linux, synthhid_msg_hdr.
struct Header {
  MessageType type;     // 0x00
  uint32_t size_bytes;  // 0x04  of what follows
};
static_assert(sizeof(Header) == 8);
static_assert(offsetof(Header, type) == 0x00 && offsetof(Header, size_bytes) == 0x04);

// Source: Linux, synthhid_protocol_request.
struct ProtocolRequest {
  Header header;     // 0x00
  uint32_t version;  // 0x08
};
static_assert(sizeof(ProtocolRequest) == 12);
static_assert(offsetof(ProtocolRequest, header) == 0x00 && offsetof(ProtocolRequest, version) == 0x08);

#pragma pack(push, 1)

// Source: Linux, synthhid_protocol_response.
struct ProtocolResponse {
  Header header;        // 0x00
  uint32_t version;     // 0x08  that was asked for
  uint8_t is_accepted;  // 0x0C
};
static_assert(sizeof(ProtocolResponse) == 13);
static_assert(offsetof(ProtocolResponse, header) == 0x00 && offsetof(ProtocolResponse, version) == 0x08 &&
              offsetof(ProtocolResponse, is_accepted) == 0x0C);

// Source: Linux, hv_input_dev_info.
struct DeviceAttributes {
  uint32_t size_bytes;    // 0x00  of this
  uint16_t vendor;        // 0x04
  uint16_t product;       // 0x06
  uint16_t version;       // 0x08
  uint16_t reserved[11];  // 0x0A
};
static_assert(sizeof(DeviceAttributes) == 32);
static_assert(offsetof(DeviceAttributes, size_bytes) == 0x00 && offsetof(DeviceAttributes, vendor) == 0x04 &&
              offsetof(DeviceAttributes, product) == 0x06 && offsetof(DeviceAttributes, version) == 0x08 &&
              offsetof(DeviceAttributes, reserved) == 0x0A);

// Hyper-V's own, by which guests know it.
inline constexpr uint16_t kVendor = 0x045E;
inline constexpr uint16_t kProduct = 0x0621;

// Source: USB HID 1.11, 6.2.1; Linux, hid_descriptor.
struct HidDescriptor {
  uint8_t size_bytes;     // 0x00  of this
  uint8_t type;           // 0x01  kHidDescriptor
  uint16_t hid_version;   // 0x02  BCD
  uint8_t country;        // 0x04
  uint8_t descriptors;    // 0x05  how many follow
  uint8_t report_type;    // 0x06  kReportDescriptor
  uint16_t report_bytes;  // 0x07  of the report descriptor
};
static_assert(sizeof(HidDescriptor) == 9);
static_assert(offsetof(HidDescriptor, size_bytes) == 0x00 && offsetof(HidDescriptor, type) == 0x01 &&
              offsetof(HidDescriptor, hid_version) == 0x02 && offsetof(HidDescriptor, country) == 0x04 &&
              offsetof(HidDescriptor, descriptors) == 0x05 && offsetof(HidDescriptor, report_type) == 0x06 &&
              offsetof(HidDescriptor, report_bytes) == 0x07);
inline constexpr uint8_t kHidDescriptor = 0x21;
inline constexpr uint8_t kReportDescriptor = 0x22;
inline constexpr uint16_t kHidVersion = 0x0111;

// The report descriptor follows.
// Source: Linux, synthhid_device_info.
struct DeviceInfo {
  Header header;                // 0x00
  DeviceAttributes attributes;  // 0x08
  HidDescriptor descriptor;     // 0x28
};
static_assert(sizeof(DeviceInfo) == 49);
static_assert(offsetof(DeviceInfo, header) == 0x00 && offsetof(DeviceInfo, attributes) == 0x08 &&
              offsetof(DeviceInfo, descriptor) == 0x28);

// Source: Linux, synthhid_device_info_ack.
struct DeviceInfoAck {
  Header header;     // 0x00
  uint8_t reserved;  // 0x08
};
static_assert(sizeof(DeviceInfoAck) == 9);
static_assert(offsetof(DeviceInfoAck, header) == 0x00 && offsetof(DeviceInfoAck, reserved) == 0x08);

// What kReport describes.
// Source: USB HID 1.11, 8.4; OpenVMM, MousePacket, which has no pan.
struct Report {
  uint8_t buttons;  // 0x00  left, right, middle, back, forward
  uint16_t x;       // 0x01  0 to kMaxCoordinate: from the left to the right edge of the screen
  uint16_t y;       // 0x03  from the upper to the lower edge
  int8_t wheel;     // 0x05  up is positive
  int8_t pan;       // 0x06  right is positive
};
static_assert(sizeof(Report) == 7);
static_assert(offsetof(Report, buttons) == 0x00 && offsetof(Report, x) == 0x01 && offsetof(Report, y) == 0x03 &&
              offsetof(Report, wheel) == 0x05 && offsetof(Report, pan) == 0x06);

// Source: Linux, synthhid_input_report.
struct InputReport {
  Header header;  // 0x00
  Report report;  // 0x08
};
static_assert(sizeof(InputReport) == 15);
static_assert(offsetof(InputReport, header) == 0x00 && offsetof(InputReport, report) == 0x08);
static_assert(std::is_trivially_copyable_v<InputReport>);

#pragma pack(pop)

inline constexpr uint16_t kMaxCoordinate = 32767;
inline constexpr uint8_t kButtons = 5;

// Items of USB HID 1.11, 6.2.2: a tag with its size in the lowest two bits, and the value.
// Linux replaces byte 14 if that is 0x25 (its "workaround SA-167"), so no such item may begin there.
inline constexpr uint8_t kReport[] = {
    0x05, 0x01,            // usage page: generic desktop
    0x09, 0x02,            // usage: mouse
    0xA1, 0x01,            // collection: application
    0x09, 0x01,            //   usage: pointer
    0xA1, 0x00,            //   collection: physical
    0x05, 0x09,            //     usage page: button
    0x19, 0x01,            //     usages from 1
    0x29, kButtons,        //     to 5
    0x15, 0x00,            //     logical minimum: 0
    0x25, 0x01,            //     logical maximum: 1
    0x75, 0x01,            //     report size: 1 bit
    0x95, kButtons,        //     report count: 5
    0x81, 0x02,            //     input: data, variable, absolute
    0x75, 0x03,            //     report size: 3 bits
    0x95, 0x01,            //     report count: 1
    0x81, 0x03,            //     input: constant
    0x05, 0x01,            //     usage page: generic desktop
    0x09, 0x30,            //     usage: X
    0x09, 0x31,            //     usage: Y
    0x26, 0xFF,     0x7F,  //     logical maximum: kMaxCoordinate
    0x75, 0x10,            //     report size: 16 bits
    0x95, 0x02,            //     report count: 2
    0x81, 0x02,            //     input: data, variable, absolute
    0x09, 0x38,            //     usage: wheel
    0x15, 0x81,            //     logical minimum: -127
    0x25, 0x7F,            //     logical maximum: 127
    0x75, 0x08,            //     report size: 8 bits
    0x95, 0x01,            //     report count: 1
    0x81, 0x06,            //     input: data, variable, relative
    0x05, 0x0C,            //     usage page: consumer
    0x0A, 0x38,     0x02,  //     usage: AC pan
    0x81, 0x06,            //     input: data, variable, relative
    0xC0,                  //   end
    0xC0,                  // end
};
static_assert(sizeof(DeviceInfo) + sizeof(kReport) <= kMaxMessageBytes && kReport[14] != 0x25);

}  // namespace hvsdk::hvdef::mouse

#endif  // HVSDK_HVDEF_MOUSE_H_
