// SPDX-License-Identifier: Apache-2.0
// How a host has commands run in its guest, by an agent there: examples/guest_agent listens on a port of Hyper-V sockets (hvsdk/vsp/socket.h),
// and each connection is one command. The protocol is hvsdk's own, and a model for those of others.
//
//   host                            agent
//   start         ───────────────►          runs the command
//   input         ───────────────►          for its standard input, as far as the window allows
//   input-end     ───────────────►          its standard input ends
//   signal        ───────────────►          to it and what it started
//                 ◄───────────────  input-taken              it has read so much, or never will
//                 ◄───────────────  output, error-output
//                 ◄───────────────  exited                   last of all; then the host closes the connection
//
// A frame is a FrameHeader and its payload, numbers in little-endian.
//
//   type              payload
//   1   start         version (32 bits: 1), then the arguments, the command first, each with a zero byte behind it
//   2   input         1 to 16384 bytes
//   3   input-end     none
//   4   signal        number (32 bits: 1 to 64)
//   16  output        1 to 16384 bytes
//   17  error-output  likewise
//   18  input-taken   number of bytes (32 bits)
//   19  exited        status (32 bits: 0 to 255); 128 + N after signal N, 127 if there is no such command, 126 if it cannot be run
//
// Input is what a host may have too much of: no more than 64 KiB of it are on their way at once, so an agent always reads, and a signal reaches a
// command that does not. Output waits in the connection. Who closes it before exited ends the command.
//
// Limits: as above, and 64 KiB for start. What is no frame is the end of the connection, on either side. Thread-compatible. Header-only, and
// needs no library: the agent may be any program's.

#ifndef HVSDK_VMM_EXEC_PROTOCOL_H_
#define HVSDK_VMM_EXEC_PROTOCOL_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

namespace hvsdk::vmm::exec {

// Of AF_VSOCK: one below 1024, which in a Linux guest root alone can listen on.
inline constexpr uint32_t kPort = 512;
inline constexpr uint32_t kVersion = 1;
inline constexpr uint32_t kMaxData = 16384;
inline constexpr uint32_t kMaxStart = 65536;
inline constexpr uint32_t kWindow = 65536;
inline constexpr uint32_t kMaxSignal = 64;

enum class Type : uint8_t {
  kStart = 1,
  kInput = 2,
  kInputEnd = 3,
  kSignal = 4,
  kOutput = 16,
  kErrorOutput = 17,
  kInputTaken = 18,
  kExited = 19,
};

struct FrameHeader {
  Type type;
  uint8_t reserved[3];  // zero
  uint32_t size_bytes;  // of the payload
};
static_assert(sizeof(FrameHeader) == 8);
static_assert(offsetof(FrameHeader, type) == 0);
static_assert(offsetof(FrameHeader, reserved) == 1);
static_assert(offsetof(FrameHeader, size_bytes) == 4);

constexpr bool IsValid(const FrameHeader& header) {
  if ((header.reserved[0] | header.reserved[1] | header.reserved[2]) != 0) return false;
  switch (header.type) {
    case Type::kStart:
      // At least the version and an empty argument.
      return header.size_bytes > sizeof(uint32_t) && header.size_bytes <= kMaxStart;
    case Type::kInput:
    case Type::kOutput:
    case Type::kErrorOutput:
      return header.size_bytes > 0 && header.size_bytes <= kMaxData;
    case Type::kInputEnd:
      return header.size_bytes == 0;
    case Type::kSignal:
    case Type::kInputTaken:
    case Type::kExited:
      return header.size_bytes == sizeof(uint32_t);
  }
  return false;
}

// Puts a frame behind others. The payload is one that its type may have.
inline void AppendFrame(std::string& to, Type type, const void* payload, size_t size_bytes) {
  const FrameHeader header{.type = type, .reserved = {}, .size_bytes = static_cast<uint32_t>(size_bytes)};
  to.append(reinterpret_cast<const char*>(&header), sizeof(header));
  to.append(static_cast<const char*>(payload), size_bytes);
}
inline void AppendFrame(std::string& to, Type type, uint32_t number) { AppendFrame(to, type, &number, sizeof(number)); }

// Finds the frames in a stream of bytes, in whatever pieces it comes; keeps less than one.
class FrameReader {
 public:
  // Calls `on_frame` with the type and the payload (std::span<const uint8_t>) of each frame that is whole now; it says whether it takes it. False:
  // something was no frame or not taken, and nothing is from then on.
  template <typename OnFrame>
  [[nodiscard]] bool Read(std::span<const uint8_t> bytes, OnFrame&& on_frame) {
    if (is_broken_) return false;
    kept_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    size_t at = 0;
    while (kept_.size() - at >= sizeof(FrameHeader)) {
      FrameHeader header;
      std::memcpy(&header, kept_.data() + at, sizeof(header));
      if (!IsValid(header)) return is_broken_ = true, false;
      if (kept_.size() - at - sizeof(header) < header.size_bytes) break;
      at += sizeof(header);
      if (!on_frame(header.type, std::span(reinterpret_cast<const uint8_t*>(kept_.data()) + at, header.size_bytes))) {
        return is_broken_ = true, false;
      }
      at += header.size_bytes;
    }
    kept_.erase(0, at);
    return true;
  }
  size_t kept_bytes() const { return kept_.size(); }

 private:
  std::string kept_;
  bool is_broken_ = false;
};

}  // namespace hvsdk::vmm::exec

#endif  // HVSDK_VMM_EXEC_PROTOCOL_H_
