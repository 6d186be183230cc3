// SPDX-License-Identifier: Apache-2.0
// A hypercall by the write to a port: what every engine takes, beside its own BackendCaps::hypercall_code.
//
// It is the code of the hypercall page on KVM, and on every engine in a guest that is to go on elsewhere. A guest is saved at any
// instruction, also within that page or with an address in it on one of its stacks, so wherever it goes on the page has to be the same, byte by byte.
//
// On KVM vmcall would go to the kernel, which answers in its own way or not at all. A write to a port that no PC has comes to
// user space with every register intact, in any mode, with or without hardware virtualisation.
//
// A second port serves HvCallSignalEvent: with the connection id as the data of a 32-bit write, the kernel matches
// registered eventfds itself and the guest goes on without an exit to user space. The page may take that way only for
// a 64-bit caller whose control word is exactly "fast, code 0x5D" and whose parameter is below 2^32 (event flag 0).
// If no eventfd matches, the write does exit, with RCX, RDX and R8 as the caller set them; the page then subtracts what
// it wrote from RAX, so the engine adds it beforehand.
//
// The same bytes are run in 64-bit, 32-bit and (by mistake) 16-bit mode. What they may not do is change a
// register of a caller that turns out to use the slow way: a 32-bit caller has its control word in EDX:EAX.
//
//   50                    push rax
//   8C C8                 mov  eax, cs
//   A8 03                 test al, 3             CPL > 0: no hypercalls there. The port write could fault with #GP
//   58                    pop  rax                 where #UD is due, so raise that here.
//   75 1F                 jne  undefined
//   41 49 39 C9           cmp  r9, rcx           In 32- and 16-bit code: inc ecx; dec ecx; cmp ecx, ecx, which is
//   74 16                 je   slow                always equal. A 64-bit caller with R9 = RCX merely goes slow.
//   48 81 F9 5D 00 01 00  cmp  rcx, 0x1005D      fast HvCallSignalEvent (TLFS 3.7 hypercall inputs, 11.10.4)
//   75 0D                 jne  slow
//   89 D0                 mov  eax, edx
//   48 39 D0              cmp  rax, rdx
//   75 06                 jne  slow
//   E7 E5                 out  0xE5, eax
//   48 29 D0              sub  rax, rdx          HV_STATUS_SUCCESS
//   C3                    ret
//   slow:
//   E6 E4                 out  0xE4, al
//   C3                    ret
//   undefined:
//   0F 0B                 ud2

#ifndef HVSDK_BACKEND_PORT_HYPERCALL_H_
#define HVSDK_BACKEND_PORT_HYPERCALL_H_

#include <cstdint>

namespace hvsdk::backend {

inline constexpr uint16_t kHypercallPort = 0xE4;  // 8-bit writes
inline constexpr uint16_t kSignalPort = 0xE5;     // 32-bit writes
// The bytes of either OUT instruction; a call that is repeated or faults goes back by as much.
inline constexpr uint64_t kPortHypercallOutBytes = 2;

inline constexpr uint8_t kPortHypercallCode[] = {
    0x50, 0x8C, 0xC8, 0xA8, 0x03, 0x58, 0x75, 0x1F,        // CPL
    0x41, 0x49, 0x39, 0xC9, 0x74, 0x16,                    // mode
    0x48, 0x81, 0xF9, 0x5D, 0x00, 0x01, 0x00, 0x75, 0x0D,  // control word
    0x89, 0xD0, 0x48, 0x39, 0xD0, 0x75, 0x06,              // parameter
    0xE7, 0xE5, 0x48, 0x29, 0xD0, 0xC3,                    // signal
    0xE6, 0xE4, 0xC3,                                      // slow
    0x0F, 0x0B,                                            // undefined
};
static_assert(sizeof(kPortHypercallCode) <= 64);
static_assert(kPortHypercallCode[0x08 + 0x1F] == 0x0F && kPortHypercallCode[0x0E + 0x16] == 0xE6 &&
              kPortHypercallCode[0x17 + 0x0D] == 0xE6 && kPortHypercallCode[0x1E + 0x06] == 0xE6);

}  // namespace hvsdk::backend

#endif  // HVSDK_BACKEND_PORT_HYPERCALL_H_
