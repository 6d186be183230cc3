// SPDX-License-Identifier: Apache-2.0
// Registers: what a processor is by its architecture.
//
// Intel SDM volume 1, chapter 3; volume 3, chapter 2.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_REGISTERS_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_REGISTERS_H_

#include <atomic>
#include <cstdint>
#include <cstring>

#include "backend/machine_check.h"
#include "backend_software/processor/flags.h"
#include "backend_software/processor/operation.h"
#include "backend_software/processor/x87_state.h"

namespace hvsdk::software {

// In the order of the segments' register names.
enum SegmentIndex : uint8_t { kEs, kCs, kSs, kDs, kFs, kGs, kLdtr, kTr };

// Slots of Cpu::r after the sixteen general registers.
enum Slot : uint8_t {
  kRax,
  kRcx,
  kRdx,
  kRbx,
  kRsp,
  kRbp,
  kRsi,
  kRdi,
  kIp = 16,      // offset of the current block's first byte; between blocks, the instruction pointer
  kZero = 17,    // always 0
  kSegmentBase,  // eight, by SegmentIndex
  kSlots = kSegmentBase + 8,
};
constexpr uint8_t SlotOffset(int slot) { return static_cast<uint8_t>(slot * 8); }
static_assert(kSlots * 8 <= 256);

inline constexpr uint64_t kCr0Pe = 1, kCr0Mp = 2, kCr0Em = 4, kCr0Ts = 8, kCr0Et = 16, kCr0Ne = 32, kCr0Wp = 1 << 16,
                          kCr0Am = 1 << 18;
inline constexpr uint64_t kCr0Nw = 1 << 29, kCr0Cd = 1 << 30, kCr0Pg = 1u << 31;
inline constexpr uint64_t kCr4Vme = 1, kCr4Pvi = 2, kCr4Tsd = 4, kCr4De = 8, kCr4Pse = 16, kCr4Pae = 32, kCr4Mce = 64,
                          kCr4Pge = 128;
inline constexpr uint64_t kCr4Pce = 256, kCr4Osfxsr = 512, kCr4Osxmmexcpt = 1024, kCr4Umip = 1 << 11,
                          kCr4Fsgsbase = 1 << 16;
inline constexpr uint64_t kCr4Pcide = 1 << 17, kCr4Osxsave = 1 << 18, kCr4Smep = 1 << 20, kCr4Smap = 1 << 21;
inline constexpr uint64_t kDr6GeneralDetect = 1 << 13, kDr6SingleStep = 1 << 14, kDr7GeneralDetect = 1 << 13;
inline constexpr uint64_t kEferSce = 1, kEferLme = 1 << 8, kEferLma = 1 << 10, kEferNxe = 1 << 11;

struct Segment {
  uint16_t selector = 0;
  uint16_t attributes = 0;  // as hvdef::SegmentRegister
  uint32_t limit = 0;

  int dpl() const { return attributes >> 5 & 3; }
  int type() const { return attributes & 15; }
  bool system() const { return !(attributes & 0x10); }
  bool present() const { return attributes & 0x80; }
  bool code() const { return (attributes & 0x18) == 0x18; }
  bool big() const { return attributes & 0x4000; }
  bool long_mode() const { return attributes & 0x2000; }
};

struct TableRegister {
  uint64_t base = 0;
  uint16_t limit = 0xFFFF;
};

struct alignas(16) Xmm {
  uint8_t bytes[16];
  uint64_t low() const { return Half(0); }
  uint64_t high() const { return Half(8); }
  uint64_t Half(int at) const {
    uint64_t value;
    std::memcpy(&value, bytes + at, 8);
    return value;
  }
};

struct Registers {
  uint64_t r[kSlots] = {};
  LazyFlags flags;
  uint64_t rflags = kFlagOne;  // all but the arithmetic flags
  uint32_t mode = 0;           // ModeBits
  uint32_t mxcsr = 0x1F80;     // see fpu.h
  uint8_t cpl = 0;
  Xmm xmm[16] = {};

  Segment segment[8];
  TableRegister gdtr, idtr;
  uint64_t cr0 = 0, cr2 = 0, cr3 = 0, cr4 = 0, efer = 0, xcr0 = 1;
  uint64_t dr[4] = {};
  uint64_t dr6 = 0xFFFF0FF0, dr7 = 0x400;
  uint64_t star = 0, lstar = 0, cstar = 0, sfmask = 0, kernel_gs_base = 0, tsc_aux = 0, pat = 0x0007040600070406;
  uint64_t sysenter_cs = 0, sysenter_esp = 0, sysenter_eip = 0;
  uint64_t misc_enable = 0x1801, mtrr_def_type = 0, mtrr_fixed[11] = {}, mtrr_variable[16] = {};
  std::atomic<uint64_t> tsc_offset{0};  // written by the VP, read by its APIC's timer
  uint64_t spec_ctrl = 0, platform_id = 0, mcg_status = 0, feature_control = 1, microcode = 0;
  // The machine-check banks' registers, all of the first before those of the second.
  uint64_t mc_bank[backend::kMachineCheckBanks * backend::kBankRegisters] = {};
  X87State x87;

  template <typename T>
  T Get(uint8_t offset) const {
    T value;
    std::memcpy(&value, reinterpret_cast<const char*>(r) + offset, sizeof(T));
    return value;
  }
  template <typename T>
  void Set(uint8_t offset, T value) {
    if constexpr (sizeof(T) == 4) {
      const uint64_t wide = static_cast<uint32_t>(value);
      std::memcpy(reinterpret_cast<char*>(r) + offset, &wide, 8);
    } else {
      std::memcpy(reinterpret_cast<char*>(r) + offset, &value, sizeof(T));
    }
  }
  Xmm& XmmAt(uint8_t offset) { return *reinterpret_cast<Xmm*>(reinterpret_cast<char*>(xmm) + offset); }
  uint64_t& base(int segment_index) { return r[kSegmentBase + segment_index]; }

  bool Is64() const { return (mode & kModeBitsMask) == kModeBits64; }
  bool IsProtected() const { return cr0 & kCr0Pe; }
  bool IsVm86() const { return rflags & kFlagVm; }
  bool IsRealOrVm86() const { return !IsProtected() || IsVm86(); }
  bool IsLong() const { return efer & kEferLma; }
  int Iopl() const { return static_cast<int>(rflags >> 12 & 3); }
  uint64_t IpMask() const { return Is64() ? ~uint64_t{0} : 0xFFFFFFFF; }
  // How many bytes of code there are from r[kIp] on before CS.limit. A segment of 4 GiB wraps without a fault.
  bool CodeIsLimited() const { return !Is64() && segment[kCs].limit != 0xFFFFFFFF; }
  uint64_t CodeBytesLeft() const { return CodeIsLimited() ? segment[kCs].limit - r[kIp] + 1 : ~uint64_t{0}; }
  uint64_t NextIp(const Op* at) const { return r[kIp] + at->ip + at->length; }
  uint64_t GetRflags() const { return rflags | flags.Get(); }
};

constexpr bool IsCanonical(uint64_t address) {
  return static_cast<uint64_t>(static_cast<int64_t>(address << 16) >> 16) == address;
}

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_REGISTERS_H_
