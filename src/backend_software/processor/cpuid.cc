// SPDX-License-Identifier: Apache-2.0
#include "backend_software/processor/cpuid.h"

#include <cpuid.h>

#include <cstring>

#include "backend_software/processor/cpu.h"

namespace hvsdk::software {
namespace {

constexpr uint32_t Bit(int n) { return uint32_t{1} << n; }

uint32_t Word(const char* text) {
  uint32_t word;
  std::memcpy(&word, text, 4);
  return word;
}

constexpr uint32_t kLeaf1Edx = Bit(0) /*FPU*/ | Bit(2) /*DE*/ | Bit(3) /*PSE*/ | Bit(4) /*TSC*/ | Bit(5) /*MSR*/ |
                               Bit(6) /*PAE*/ | Bit(7) /*MCE*/ | Bit(8) /*CX8*/ | Bit(9) /*APIC*/ | Bit(11) /*SEP*/ |
                               Bit(12) /*MTRR*/ | Bit(13) /*PGE*/ | Bit(14) /*MCA*/ | Bit(15) /*CMOV*/ |
                               Bit(16) /*PAT*/ | Bit(17) /*PSE36*/ | Bit(19) /*CLFSH*/ | Bit(23) /*MMX*/ |
                               Bit(24) /*FXSR*/ | Bit(25) /*SSE*/ | Bit(26) /*SSE2*/;
// AES and PCLMULQDQ run on the host's own instructions.
uint32_t Leaf1Ecx() {
  return Bit(0) /*SSE3*/ | Bit(9) /*SSSE3*/ | Bit(13) /*CX16*/ | Bit(17) /*PCID*/ | Bit(19) /*SSE4.1*/ |
         Bit(20) /*SSE4.2*/ | Bit(21) /*x2APIC*/ | Bit(22) /*MOVBE*/ | Bit(23) /*POPCNT*/ | Bit(24) /*deadline*/ |
         Bit(26) /*XSAVE*/ | Bit(30) /*RDRAND*/ | (__builtin_cpu_supports("aes") ? Bit(25) : 0) |
         (__builtin_cpu_supports("pclmul") ? Bit(1) : 0);
}
constexpr uint32_t kLeaf7Ebx = Bit(0) /*FSGSBASE*/ | Bit(1) /*TSC_ADJUST*/ | Bit(3) /*BMI1*/ | Bit(7) /*SMEP*/ |
                               Bit(8) /*BMI2*/ | Bit(9) /*ERMS*/ | Bit(10) /*INVPCID*/ | Bit(18) /*RDSEED*/ |
                               Bit(19) /*ADX*/ | Bit(20) /*SMAP*/ | Bit(23) /*CLFLUSHOPT*/ | Bit(24) /*CLWB*/;
constexpr uint32_t kLeaf7Ecx = Bit(2) /*UMIP*/ | Bit(22) /*RDPID*/;
constexpr uint32_t kLeaf7Edx = Bit(4) /*FSRM*/ | Bit(26) /*IBRS and IBPB*/ | Bit(29) /*ARCH_CAPABILITIES*/;
constexpr uint32_t kLeaf7Sub2Edx = Bit(4) /*BHI_CTRL*/;

}  // namespace

bool HostHasSha() {
  uint32_t eax, ebx = 0, ecx, edx;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (ebx & 1u << 29) != 0;
}

std::vector<backend::CpuidEntry> SupportedCpuid() {
  std::vector<backend::CpuidEntry> leaves;
  const auto add = [&](uint32_t leaf, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    leaves.push_back({leaf, 0, false, a, b, c, d});
  };
  const auto add_sub = [&](uint32_t leaf, uint32_t subleaf, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    leaves.push_back({leaf, subleaf, true, a, b, c, d});
  };
  add(0, 0xD, Word("Genu"), Word("ntel"), Word("ineI"));
  add(1, kProcessorSignature, 8 << 8, Leaf1Ecx(), kLeaf1Edx);  // CLFLUSH: 8 quadwords
  add(2, 0x00FF0001, 0, 0, 0);                                 // caches: see leaf 4
  // Caches that programs can size buffers by: 32 KiB, 8 ways, data and code; 1 MiB, 16 ways, unified. The last level has as much as
  // any processor's: C libraries copy past the caches, by instructions of 16 bytes each, what is larger than a thread's share of it
  // (glibc: 3/4 of the share; from 2.38 on, a quarter of all if that is more), while a string instruction copies whole pages here.
  add_sub(4, 0, 0x121, 7 << 22 | 63, 63, 0);
  add_sub(4, 1, 0x122, 7 << 22 | 63, 63, 0);
  add_sub(4, 2, 0x143, 15 << 22 | 63, 1023, 0);
  add_sub(4, 3, 0x163, 15 << 22 | 63, (256 << 20) / (16 * 64) - 1, Bit(1) /*inclusive*/);
  add_sub(4, 4, 0, 0, 0, 0);
  add(6, Bit(2) /*ARAT*/, 0, 0, 0);
  add_sub(7, 0, 2, kLeaf7Ebx | (HostHasSha() ? Bit(29) : 0), kLeaf7Ecx, kLeaf7Edx);
  add_sub(7, 1, 0, 0, 0, 0);
  add_sub(7, 2, 0, 0, 0, kLeaf7Sub2Edx);
  add_sub(0xB, 0, 0, 1, 0x100, 0);
  add_sub(0xB, 1, 0, 1, 0x201, 0);
  add_sub(0xD, 0, 3, 576, 576, 0);
  add_sub(0xD, 1, Bit(0) /*XSAVEOPT*/ | Bit(2) /*XGETBV with ECX=1*/, 0, 0, 0);
  add(0x80000000, 0x80000008, 0, 0, 0);
  add(0x80000001, 0, 0, Bit(0) /*LAHF*/ | Bit(5) /*LZCNT*/ | Bit(8) /*PREFETCHW*/,
      Bit(11) /*SYSCALL*/ | Bit(20) /*NX*/ | Bit(26) /*1 GiB pages*/ | Bit(27) /*RDTSCP*/ | Bit(29) /*LM*/);
  const char brand[49] = "hvsdk software processor";
  for (uint32_t i = 0; i < 3; ++i) {
    add(0x80000002 + i, Word(brand + 16 * i), Word(brand + 16 * i + 4), Word(brand + 16 * i + 8),
        Word(brand + 16 * i + 12));
  }
  add(0x80000006, 0, 0, 1024 << 16 | 8 << 12 | 64, 0);
  add(0x80000007, 0, 0, 0, Bit(8) /*invariant TSC*/);
  add(0x80000008, kPhysicalAddressBits | 48 << 8, 0, 0, 0);
  return leaves;
}

void Cpu::Cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4]) const {
  std::memset(out, 0, 16);
  bool known = false;
  for (const backend::CpuidEntry& entry : cpuid) {
    known |= entry.leaf == leaf;
    if (entry.leaf != leaf || (entry.has_subleaves && entry.subleaf != subleaf)) continue;
    out[0] = entry.eax;
    out[1] = entry.ebx;
    out[2] = entry.ecx;
    out[3] = entry.edx;
    break;
  }
  if (leaf == 1) {
    out[1] = (out[1] & 0x00FFFFFF) | apic_id << 24;
    out[2] = (out[2] & ~Bit(27)) | (cr4 & kCr4Osxsave ? Bit(27) : 0);
    if (!apic->enabled()) out[3] &= ~Bit(9);
  }
  if (leaf == 7 && subleaf == 0) out[2] &= ~Bit(4);  // OSPKE
  if ((leaf == 0xB || leaf == 0x1F) && known) {
    out[2] = (out[2] & ~0xFFu) | (subleaf & 0xFF);
    out[3] = apic_id;
  }
}

}  // namespace hvsdk::software
