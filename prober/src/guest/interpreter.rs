//! The one program that every hostile guest runs: it carries out a list of orders, each an access to memory, a port, a
//! register of the processor, many times if asked. So a guest is a table, and this is all of its machine code.
//!
//! It runs in 32-bit protected mode without paging, where the vmm enters a kernel. What the processor refuses
//! (a register that is not there) is skipped.
#![expect(
    unsafe_code,
    reason = "the guest's machine code lies between two labels of the assembler"
)]

use super::elf::LOAD_ADDRESS;

/// Bytes of one order.
pub(super) const ORDER_BYTES: usize = 32;

// Orders. Arguments: where (address, port, register), what, how often, step of where, step of what.
pub(super) const END: u32 = 0;
pub(super) const WRITE_8: u32 = 1;
pub(super) const WRITE_16: u32 = 2;
pub(super) const WRITE_32: u32 = 3;
pub(super) const WRITE_64: u32 = 4;
pub(super) const READ_8: u32 = 5;
pub(super) const READ_16: u32 = 6;
pub(super) const READ_32: u32 = 7;
pub(super) const READ_64: u32 = 8;
pub(super) const OUT_8: u32 = 9;
pub(super) const OUT_16: u32 = 10;
pub(super) const OUT_32: u32 = 11;
pub(super) const IN_8: u32 = 12;
pub(super) const IN_16: u32 = 13;
pub(super) const IN_32: u32 = 14;
pub(super) const READ_MODEL_REGISTER: u32 = 15;
pub(super) const WRITE_MODEL_REGISTER: u32 = 16;
pub(super) const PROCESSOR_ID: u32 = 17;
/// Back to the order with this number, until it has come by so often; 0: for ever.
pub(super) const AGAIN: u32 = 18;
/// Calls machine code at an address.
pub(super) const CALL: u32 = 19;
/// Text output of many bytes at once: `rep outsb` from an address.
pub(super) const OUT_STRING: u32 = 20;

std::arch::global_asm!(
    r#"
    .pushsection .rodata.cloister_guest, "a", @progbits
    .balign 16
    .code32
    .set base, 0x100000
cloister_guest_begin:
    cli
    movl $(base + cloister_guest_stack - cloister_guest_begin), %esp
    lgdtl (base + cloister_guest_gdtr - cloister_guest_begin)
    ljmpl $8, $(base + 1f - cloister_guest_begin)
1:  movw $16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    # Gates: faults without and with an error code, then interrupts.
    movl $(base + cloister_guest_idt - cloister_guest_begin), %edi
    xorl %ecx, %ecx
2:  movl $(base + cloister_guest_skip - cloister_guest_begin), %eax
    movl $0x27d00, %edx
    cmpl $32, %ecx
    jb 3f
    movl $(base + cloister_guest_return - cloister_guest_begin), %eax
    jmp 4f
3:  btl %ecx, %edx
    jnc 4f
    movl $(base + cloister_guest_skip_code - cloister_guest_begin), %eax
4:  movw %ax, (%edi)
    movw $8, 2(%edi)
    movw $0x8e00, 4(%edi)
    shrl $16, %eax
    movw %ax, 6(%edi)
    addl $8, %edi
    incl %ecx
    cmpl $256, %ecx
    jne 2b
    lidtl (base + cloister_guest_idtr - cloister_guest_begin)
    fninit
    movl $(base + cloister_guest_orders - cloister_guest_begin), %ebx
cloister_guest_next:
    movl (%ebx), %eax
    movl 4(%ebx), %esi
    movl 8(%ebx), %edi
    movl 12(%ebx), %ecx
    jmpl *(base + cloister_guest_table - cloister_guest_begin)(,%eax,4)
    .macro each
    addl 16(%ebx), %esi
    addl 20(%ebx), %edi
    decl %ecx
    jnz 1b
    .endm
    .macro over
    addl $32, %ebx
    jmp cloister_guest_next
    .endm
5:  # write 8
1:  movl %edi, %eax
    movb %al, (%esi)
    each
    over
6:
1:  movw %di, (%esi)
    each
    over
7:
1:  movl %edi, (%esi)
    each
    over
8:
1:  movd %edi, %mm0
    movq %mm0, (%esi)
    each
    over
9:
1:  movb (%esi), %al
    each
    over
10:
1:  movw (%esi), %ax
    each
    over
11:
1:  movl (%esi), %eax
    each
    over
12:
1:  movq (%esi), %mm0
    each
    over
13:
1:  movl %esi, %edx
    movl %edi, %eax
    outb %al, %dx
    each
    over
14:
1:  movl %esi, %edx
    movl %edi, %eax
    outw %ax, %dx
    each
    over
15:
1:  movl %esi, %edx
    movl %edi, %eax
    outl %eax, %dx
    each
    over
16:
1:  movl %esi, %edx
    inb %dx, %al
    each
    over
17:
1:  movl %esi, %edx
    inw %dx, %ax
    each
    over
18:
1:  movl %esi, %edx
    inl %dx, %eax
    each
    over
19:
1:  pushl %ecx
    movl %esi, %ecx
    rdmsr
    popl %ecx
    each
    over
20:
1:  pushl %ecx
    movl %esi, %ecx
    movl %edi, %eax
    movl %edi, %edx
    wrmsr
    popl %ecx
    each
    over
21:
1:  pushl %ecx
    pushl %ebx
    movl %esi, %eax
    movl %edi, %ecx
    cpuid
    popl %ebx
    popl %ecx
    each
    over
22: # again
    testl %ecx, %ecx
    jz 1f
    decl 12(%ebx)
    jz 2f
1:  shll $5, %esi
    leal (base + cloister_guest_orders - cloister_guest_begin)(%esi), %ebx
    jmp cloister_guest_next
2:  over
23: # call
    pushl %ebx
    call *%esi
    popl %ebx
    over
24: # string
    movl %edi, %edx
    rep outsb
    over
25: # end: power off
    movw $0x600, %dx
    movb $0x34, %al
    outb %al, %dx
1:  jmp 1b
cloister_guest_skip_code:
    addl $4, %esp
cloister_guest_skip:
    addl $2, (%esp)
cloister_guest_return:
    iretl
    .balign 8
cloister_guest_table:
    .irp label, 25b, 5b, 6b, 7b, 8b, 9b, 10b, 11b, 12b, 13b, 14b, 15b, 16b, 17b, 18b, 19b, 20b, 21b, 22b, 23b, 24b
    .long base + \label - cloister_guest_begin
    .endr
cloister_guest_gdt:
    .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
cloister_guest_gdtr:
    .word 23
    .long base + cloister_guest_gdt - cloister_guest_begin
cloister_guest_idtr:
    .word 2047
    .long base + cloister_guest_idt - cloister_guest_begin
    .balign 16
cloister_guest_idt:
    .zero 2048
    .zero 512
cloister_guest_stack:
    .balign 32
cloister_guest_orders:
    .code64
    .popsection
    "#,
    options(att_syntax)
);

unsafe extern "C" {
    #[link_name = "cloister_guest_begin"]
    static BEGIN: u8;
    #[link_name = "cloister_guest_orders"]
    static ORDERS: u8;
}

/// The machine code; orders follow it.
pub(super) fn code() -> Vec<u8> {
    let begin = &raw const BEGIN;
    let bytes = (&raw const ORDERS).addr() - begin.addr();
    // SAFETY: both labels lie in one read-only section, the second behind the first, and all between them is data.
    unsafe { std::slice::from_raw_parts(begin, bytes) }.to_vec()
}

/// Where orders begin in the guest.
pub(super) fn orders_address() -> u32 {
    LOAD_ADDRESS + u32::try_from(code().len()).unwrap_or(0)
}
