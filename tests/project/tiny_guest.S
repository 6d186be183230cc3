// SPDX-License-Identifier: Apache-2.0
// The smallest guest: an ELF file with a PVH entry point (Xen's x86/hvm/start_info.h). It says a word on the first
// serial port and resets by the keyboard controller.
  .section .note.Xen, "a", @note
  .long 4, 4, 18  // XEN_ELFNOTE_PHYS32_ENTRY
  .asciz "Xen"
  .long _start

  .text
  .code32
  .globl _start
_start:
  movl $message, %esi
  movw $0x3f8, %dx
1:
  lodsb
  testb %al, %al
  jz 2f
  outb %al, %dx
  jmp 1b
2:
  movb $0xfe, %al
  outb %al, $0x64
  hlt

message:
  .asciz "hello from the guest\n"
  .section .note.GNU-stack, "", @progbits
