// SPDX-License-Identifier: Apache-2.0
// From the PVH entry point (32-bit, paging off, EBX at the start info) to C++ in long mode, with the first 4 GiB mapped
// where they are; and what C++ cannot say: interrupt entry, faulting instructions that are meant to, and hypercalls.
//
// Source: Xen docs/misc/pvh.pandoc; System V ABI, "Note Section"; AMD APM volume 2, 14.6 "Enabling and Activating
// Long Mode".

.intel_syntax noprefix

.section .note.pvh, "a", @note
.balign 4
.long 4, 4, 18                  // XEN_ELFNOTE_PHYS32_ENTRY
.asciz "Xen"
.long entry32

.bss
.balign 4096
.global boot_pml4
boot_pml4: .skip 4096
pdpt: .skip 4096
page_directories: .skip 4 * 4096
.balign 16
.skip 65536
stack_top:

.data
.balign 8
.global boot_gdt
boot_gdt:
  .quad 0
  .quad 0x00AF9B000000FFFF      // 0x08: 64-bit code
  .quad 0x00CF93000000FFFF      // 0x10: data
gdt_pointer:
  .word gdt_pointer - boot_gdt - 1
  .quad boot_gdt

.text
.code32
.global entry32
entry32:
  cli
  cld
  mov [start_info], ebx
  mov esp, offset stack_top
  // Page directories: 2048 pages of 2 MiB, present, writable.
  mov edi, offset page_directories
  mov eax, 0x83
  xor ecx, ecx
1:
  mov [edi + ecx * 8], eax
  add eax, 0x200000
  inc ecx
  cmp ecx, 2048
  jne 1b
  mov eax, offset page_directories + 3
  mov edi, offset pdpt
  xor ecx, ecx
2:
  mov [edi + ecx * 8], eax
  add eax, 4096
  inc ecx
  cmp ecx, 4
  jne 2b
  mov eax, offset pdpt + 3
  mov [boot_pml4], eax
  mov eax, offset boot_pml4
  mov cr3, eax
  mov eax, 0x620                // PAE, OSFXSR, OSXMMEXCPT
  mov cr4, eax
  mov ecx, 0xC0000080           // EFER
  rdmsr
  or eax, 0x100                 // LME
  wrmsr
  mov eax, 0x80010033           // PG, WP, NE, ET, MP, PE
  mov cr0, eax
  lgdt [gdt_pointer]
  .att_syntax
  ljmp $0x08, $entry64
  .intel_syntax noprefix

.code64
entry64:
  mov eax, 0x10
  mov ds, eax
  mov es, eax
  mov ss, eax
  xor eax, eax
  mov fs, eax
  mov gs, eax
  mov esp, offset stack_top
  call KernelMain
3:
  cli
  hlt
  jmp 3b

// One stub a vector: an error code where the processor pushes none, and the vector.
.balign 16
.global interrupt_stubs
interrupt_stubs:
.set vector, 0
.rept 256
  .balign 16
  .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)
  push 0
  .endif
  push vector
  jmp interrupt_common
  .set vector, vector + 1
.endr

interrupt_common:
  push rax
  push rbx
  push rcx
  push rdx
  push rsi
  push rdi
  push rbp
  push r8
  push r9
  push r10
  push r11
  push r12
  push r13
  push r14
  push r15
  mov rdi, rsp
  mov rbx, rsp
  and rsp, -16
  cld
  call OnInterrupt
  mov rsp, rbx
  pop r15
  pop r14
  pop r13
  pop r12
  pop r11
  pop r10
  pop r9
  pop r8
  pop rbp
  pop rdi
  pop rsi
  pop rdx
  pop rcx
  pop rbx
  pop rax
  add rsp, 16
  iretq

// bool TryReadMsr(uint32_t msr, uint64_t* value); false: it faulted. OnInterrupt goes on at probe_resume.
.global TryReadMsr
TryReadMsr:
  mov ecx, edi
  lea rax, [rip + probe_faulted]
  mov [rip + probe_resume], rax
  rdmsr
  shl rdx, 32
  or rax, rdx
  mov [rsi], rax
  jmp probe_done

// bool TryWriteMsr(uint32_t msr, uint64_t value).
.global TryWriteMsr
TryWriteMsr:
  mov ecx, edi
  lea rax, [rip + probe_faulted]
  mov [rip + probe_resume], rax
  mov rax, rsi
  mov rdx, rsi
  shr rdx, 32
  wrmsr
probe_done:
  mov qword ptr [rip + probe_resume], 0
  mov eax, 1
  ret
probe_faulted:
  xor eax, eax
  ret

// uint64_t CallHypervisor(uint64_t control, uint64_t input, uint64_t output): TLFS, "Hypercall Inputs", x64.
.global CallHypervisor
CallHypervisor:
  mov rcx, rdi
  mov r8, rdx
  mov rdx, rsi
  call [rip + hypercall_entry]
  ret

// uint64_t CallHypervisorXmm(uint64_t control, uint64_t block[14]): RDX, R8 and XMM0 to XMM5, in and out.
.global CallHypervisorXmm
CallHypervisorXmm:
  push rbx
  mov rbx, rsi
  mov rcx, rdi
  mov rdx, [rbx]
  mov r8, [rbx + 8]
  movups xmm0, [rbx + 16]
  movups xmm1, [rbx + 32]
  movups xmm2, [rbx + 48]
  movups xmm3, [rbx + 64]
  movups xmm4, [rbx + 80]
  movups xmm5, [rbx + 96]
  call [rip + hypercall_entry]
  mov [rbx], rdx
  mov [rbx + 8], r8
  movups [rbx + 16], xmm0
  movups [rbx + 32], xmm1
  movups [rbx + 48], xmm2
  movups [rbx + 64], xmm3
  movups [rbx + 80], xmm4
  movups [rbx + 96], xmm5
  pop rbx
  ret

// Where a second processor begins: says so, and which one it is, and sleeps.
.global ApEntry
ApEntry:
  mov ecx, 0x40000002           // HV_X64_MSR_VP_INDEX
  rdmsr
  mov [rip + ap_vp_index], eax
  mov dword ptr [rip + ap_started], 1
4:
  cli
  hlt
  jmp 4b

.data
.balign 8
.global probe_resume, hypercall_entry, ap_started, ap_vp_index, start_info
probe_resume: .quad 0
hypercall_entry: .quad 0
ap_started: .quad 0
ap_vp_index: .quad -1
start_info: .quad 0

.section .note.GNU-stack, "", @progbits
