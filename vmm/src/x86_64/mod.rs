//! What is particular to x86-64: the memory map and the state in which a vCPU starts.

pub mod layout;

pub mod acpi;

pub mod boot_params;

pub mod cpuid;

pub mod registers;

pub mod msrs;
