// SPDX-License-Identifier: Apache-2.0
// From 32-bit protected mode, paging off, EBX at the ACPI tables, to C++ in long mode with the first 4 GiB mapped where
// they are.
  .bss
  .balign 4096
pml4: .skip 4096
pdpt: .skip 4096
directories: .skip 4 * 4096
  .skip 16384
stack_top:

  .data
  .balign 8
gdt:
  .quad 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF  // 0x08: 64-bit code, 0x10: data
gdt_pointer:
  .word gdt_pointer - gdt - 1
  .long gdt

  .text
  .code32
  .globl entry32
entry32:
  movl $stack_top, %esp
  movl $0x83, %eax        // pages of 2 MiB, present and writable
  xorl %ecx, %ecx
1:
  movl %eax, directories(, %ecx, 8)
  addl $0x200000, %eax
  incl %ecx
  cmpl $2048, %ecx
  jne 1b
  movl $directories + 3, pdpt
  movl $directories + 0x1003, pdpt + 8
  movl $directories + 0x2003, pdpt + 16
  movl $directories + 0x3003, pdpt + 24
  movl $pdpt + 3, pml4
  movl $pml4, %eax
  movl %eax, %cr3
  movl $0x20, %eax        // PAE
  movl %eax, %cr4
  movl $0xC0000080, %ecx  // EFER: long mode
  movl $0x100, %eax
  xorl %edx, %edx
  wrmsr
  movl $0x80010033, %eax  // paging, write protection, protected mode
  movl %eax, %cr0
  lgdt gdt_pointer
  ljmp $0x08, $entry64
  .code64
entry64:
  movl $0x10, %eax
  movl %eax, %ds
  movl %eax, %es
  movl %eax, %ss
  movl %ebx, %edi
  call KernelMain

  // The doorbell's interrupt. Its line is high until the value is taken.
  .globl DoorbellEntry
DoorbellEntry:
  push %rax
  movl $0xF0000000, %eax
  movb (%rax), %al
  movb %al, doorbell_value
  movl $0xFEE000B0, %eax  // end of interrupt
  movl $0, (%rax)
  pop %rax
  iretq

  .data
  .globl doorbell_value
doorbell_value: .byte 0

  .section .note.GNU-stack, "", @progbits
