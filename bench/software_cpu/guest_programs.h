// SPDX-License-Identifier: Apache-2.0
// What the benchmark's guest runs, in 64-bit mode. Each program does its work, reports by a write to port 0xF4 and
// begins anew.

#ifndef HVSDK_BENCH_SOFTWARE_CPU_GUEST_PROGRAMS_H_
#define HVSDK_BENCH_SOFTWARE_CPU_GUEST_PROGRAMS_H_

#include "tests/backend/guest_code.h"

namespace hvsdk {

// Where programs keep their data, and how many bytes of it; addresses that appear in the assembly below.
inline constexpr uint64_t kSourceGpa = 0x200000;
inline constexpr uint64_t kTargetGpa = 0x300000;
inline constexpr uint64_t kDataBytes = 0x10000;

// A generator of pseudo-random numbers and what is summed up of them: registers alone.
HVSDK_GUEST(IntegerLoop, 64, R"(
    mov rax, 0x9E3779B97F4A7C15
1:  mov ecx, 20000
2:  mov rdx, rax
    shl rdx, 13
    xor rax, rdx
    mov rdx, rax
    shr rdx, 7
    xor rax, rdx
    lea rbx, [rbx + rax * 4 + 1]
    sub rsi, rbx
    and edx, 63
    add rdi, rdx
    dec ecx
    jnz 2b
    out 0xF4, al
    jmp 1b)")

// 64 KiB by loads and stores of 8 bytes.
HVSDK_GUEST(MemoryCopy, 64, R"(
1:  mov esi, 0x200000
    mov edi, 0x300000
    mov ecx, 4096
2:  mov rax, [rsi]
    mov rdx, [rsi + 8]
    mov [rdi], rax
    mov [rdi + 8], rdx
    add rsi, 16
    add rdi, 16
    dec ecx
    jnz 2b
    out 0xF4, al
    jmp 1b)")

// 64 KiB by one string instruction.
HVSDK_GUEST(StringCopy, 64, R"(
1:  mov esi, 0x200000
    mov edi, 0x300000
    mov ecx, 8192
    rep movsq
    out 0xF4, al
    jmp 1b)")

// Shell's sort of 4096 pseudo-random numbers of 32 bits, which are made anew each time.
HVSDK_GUEST(BranchySort, 64, R"(
1:  mov edi, 0x200000
    mov ecx, 4096
    mov eax, 0x12345678
2:  imul eax, eax, 1664525
    add eax, 1013904223
    mov [rdi], eax
    add rdi, 4
    dec ecx
    jnz 2b
    mov edi, 0x200000
    mov ebx, 2048
3:  mov esi, ebx
4:  mov eax, [rdi + rsi * 4]
    mov ecx, esi
5:  mov edx, ecx
    sub edx, ebx
    jb 6f
    mov r8d, [rdi + rdx * 4]
    cmp r8d, eax
    jbe 6f
    mov [rdi + rcx * 4], r8d
    mov ecx, edx
    jmp 5b
6:  mov [rdi + rcx * 4], eax
    inc esi
    cmp esi, 4096
    jb 4b
    shr ebx, 1
    jnz 3b
    out 0xF4, al
    jmp 1b)")

// y = a * x + y over 16384 numbers of single precision, four at a time.
HVSDK_GUEST(SseLoop, 64, R"(
1:  mov esi, 0x200000
    mov edi, 0x300000
    mov ecx, 4096
    mov eax, 0x3F000000
    movd xmm2, eax
    shufps xmm2, xmm2, 0
2:  movups xmm0, [rsi]
    mulps xmm0, xmm2
    addps xmm0, [rdi]
    minps xmm0, xmm3
    movups [rdi], xmm0
    add rsi, 16
    add rdi, 16
    dec ecx
    jnz 2b
    out 0xF4, al
    jmp 1b)")

// The same in double precision on the x87 unit, one at a time, 8192 numbers.
HVSDK_GUEST(X87Loop, 64, R"(
1:  mov esi, 0x200000
    mov edi, 0x300000
    mov ecx, 8192
    fninit
    fld1
    fadd st(0), st(0)
    fld1
    fdivrp st(1), st(0)
2:  fld qword ptr [rsi]
    fmul st(0), st(1)
    fadd qword ptr [rdi]
    fstp qword ptr [rdi]
    add rsi, 8
    add rdi, 8
    dec ecx
    jnz 2b
    out 0xF4, al
    jmp 1b)")

// 64 times OP in each of 100 rounds, so that the loop around it does not count.
#define HVSDK_BENCH_OPERATION(NAME, SETUP, OP) \
  HVSDK_GUEST(NAME, 64, "1: mov ebx, 100\n" SETUP "\n2: .rept 16\n" OP "\n.endr\ndec ebx\njnz 2b\nout 0xF4, al\njmp 1b")
inline constexpr int kOperations = 1600;  // in one run of such a program

// Four sums that do not wait for each other; one of these counts as four operations.
HVSDK_BENCH_OPERATION(RegisterAdd, "", "add rax, rsi\nadd rcx, rsi\nadd rdx, rsi\nadd rdi, rsi")
// HvCallSignalEvent through the hypercall page, as a guest makes it.
HVSDK_BENCH_OPERATION(Hypercall, "mov ebp, 0xF000\nmov ecx, 0x1005D\nmov edx, 0x10001\nxor r8d, r8d", "call rbp")
HVSDK_BENCH_OPERATION(MsrRead, "mov ecx, 0x40000002", "rdmsr")                               // HV_X64_MSR_VP_INDEX
HVSDK_BENCH_OPERATION(MsrWrite, "mov ecx, 0x40000084\nxor eax, eax\nxor edx, edx", "wrmsr")  // HV_X64_MSR_EOM
HVSDK_BENCH_OPERATION(PortRead, "mov edx, 0x3FD", "in al, dx")
HVSDK_BENCH_OPERATION(PortWrite, "mov edx, 0x3FD", "out dx, al")

}  // namespace hvsdk

#endif  // HVSDK_BENCH_SOFTWARE_CPU_GUEST_PROGRAMS_H_
