// QEMU TCG plugin: instructions per kernel function, own and with callees, from the kernel's entry to init.
//
//   -plugin plugin.so,start=ENTRY,map=System.map,out=FILE     (ENTRY: physical address of the PVH entry, hex)
//
// Counting stops at the first block executed at INIT_LOW..INIT_HIGH, where the probe init is linked. Calls are
// followed with a shadow stack: a block that ends in a call opens a frame, the block at its return address closes
// it. A task switch inside a call leaves the frame open until its task comes back, so a function that sleeps is
// charged with what ran meanwhile; on one CPU during boot that is mostly what it waited for.
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The interface of QEMU 7.2 (version 1), declared here because Debian ships no header for it.
typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
int qemu_plugin_version = 1;
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int, void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
extern size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
extern uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);

enum { INIT_LOW = 0x400000, INIT_HIGH = 0x402000, STACK = 1 << 14, EDGES = 1 << 18, RECURSION = 12, SEARCH = 400 };

struct block { uint64_t address, return_to, executed; uint32_t instructions; bool thunk; struct block *next; };
struct frame { uint64_t function, return_to, opened_at; bool through_thunk; };
struct edge { int callee, caller; uint64_t instructions, calls; };
struct symbol { uint64_t address, own, total; char name[64]; };

static struct block *blocks;
static struct frame stack[STACK];
static int depth;
static struct edge edges[EDGES];
static struct symbol *symbols;
static int symbol_count;
static uint64_t entry, thunks_low, thunks_high, total, pending_return;
static enum { BEFORE, COUNTING, AFTER } phase;
static FILE *out;

static int by_address(const void *a, const void *b) {
  uint64_t x = ((const struct symbol *)a)->address, y = ((const struct symbol *)b)->address;
  return (x > y) - (x < y);
}

// Index of the symbol that holds `address`; the first code runs at physical addresses.
static int symbol_at(uint64_t address) {
  if (address < 0x100000000) address += 0xffffffff80000000;
  int low = 0, high = symbol_count;
  while (low + 1 < high) {
    int middle = (low + high) / 2;
    if (symbols[middle].address <= address) low = middle; else high = middle;
  }
  return low;
}

static bool load_symbols(const char *path) {
  FILE *map = fopen(path, "r");
  char line[512], name[256], kind;
  uint64_t address;
  if (!map) return false;
  while (fgets(line, sizeof line, map)) {
    if (sscanf(line, "%lx %c %255s", &address, &kind, name) != 3 || !strchr("tTwW", kind)) continue;
    if (symbol_count % 4096 == 0) symbols = realloc(symbols, (symbol_count + 4096) * sizeof *symbols);
    struct symbol *symbol = &symbols[symbol_count++];
    *symbol = (struct symbol){.address = address};
    snprintf(symbol->name, sizeof symbol->name, "%.63s", name);
    if (!strcmp(name, "__x86_indirect_thunk_array")) thunks_low = address, thunks_high = address + 16 * 32;
  }
  fclose(map);
  qsort(symbols, symbol_count, sizeof *symbols, by_address);
  return symbol_count > 0;
}

static void charge(int callee, int caller, uint64_t instructions) {
  unsigned slot = ((unsigned)callee * 0x9e3779b1u ^ (unsigned)caller * 0x85ebca6bu) % EDGES;
  while (edges[slot].calls && (edges[slot].callee != callee || edges[slot].caller != caller)) slot = (slot + 1) % EDGES;
  edges[slot].callee = callee;
  edges[slot].caller = caller;
  edges[slot].instructions += instructions;
  edges[slot].calls++;
  symbols[callee].total += instructions;
}

static void close_frames(int until) {
  while (depth > until) {
    struct frame *frame = &stack[--depth];
    bool recursive = false;
    for (int i = depth - 1; i >= 0 && i > depth - RECURSION; i--) recursive |= stack[i].function == frame->function;
    if (!recursive)
      charge(symbol_at(frame->function), depth ? symbol_at(stack[depth - 1].function) : symbol_at(entry), total - frame->opened_at);
  }
}

static void executed(unsigned cpu, void *data) {
  struct block *block = data;
  (void)cpu;
  if (phase == BEFORE && block->address == entry) phase = COUNTING;
  if (phase != COUNTING) return;
  if (block->address >= INIT_LOW && block->address < INIT_HIGH) { phase = AFTER; close_frames(0); return; }
  if (pending_return) {
    if (depth < STACK) stack[depth++] = (struct frame){block->address, pending_return, total, block->thunk};
  } else if (depth && stack[depth - 1].through_thunk && !block->thunk) {
    stack[depth - 1].function = block->address;
    stack[depth - 1].through_thunk = false;
  } else {
    for (int i = depth - 1; i >= 0 && i > depth - SEARCH; i--)
      if (stack[i].return_to == block->address) { close_frames(i); break; }
  }
  block->executed += block->instructions;
  total += block->instructions;
  pending_return = block->return_to;
}

// The return address, if the instruction is a call: e8 rel32, or ff /2 after any prefixes.
static uint64_t return_address(struct qemu_plugin_insn *instruction) {
  const uint8_t *byte = qemu_plugin_insn_data(instruction);
  size_t size = qemu_plugin_insn_size(instruction), i = 0;
  while (i + 1 < size && (byte[i] == 0x2e || byte[i] == 0x3e || byte[i] == 0x66 || (byte[i] & 0xf0) == 0x40)) i++;
  bool call = byte[i] == 0xe8 || (byte[i] == 0xff && i + 1 < size && ((byte[i + 1] >> 3) & 7) == 2);
  return call ? qemu_plugin_insn_vaddr(instruction) + size : 0;
}

static void translated(plugin_id id, struct qemu_plugin_tb *tb) {
  struct block *block = calloc(1, sizeof *block);
  (void)id;
  block->address = qemu_plugin_tb_vaddr(tb);
  block->instructions = qemu_plugin_tb_n_insns(tb);
  block->return_to = return_address(qemu_plugin_tb_get_insn(tb, block->instructions - 1));
  block->thunk = block->address >= thunks_low && block->address < thunks_high;
  block->next = blocks;
  blocks = block;
  qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, 0, block);
}

static int by_cost(const void *a, const void *b) {
  uint64_t x = ((const struct edge *)a)->instructions, y = ((const struct edge *)b)->instructions;
  return (x < y) - (x > y);
}

static int by_own(const void *a, const void *b) {
  uint64_t x = ((const struct symbol *)a)->own, y = ((const struct symbol *)b)->own;
  return (x < y) - (x > y);
}

// One line a call edge: instructions with callees, calls, callee, caller; then each function's own instructions.
static void finished(plugin_id id, void *data) {
  (void)id, (void)data;
  fprintf(out, "total %lu%s\n", total, phase == AFTER ? "" : " (init was not reached)");
  for (struct block *block = blocks; block; block = block->next) symbols[symbol_at(block->address)].own += block->executed;
  qsort(edges, EDGES, sizeof *edges, by_cost);
  for (int i = 0; i < EDGES && edges[i].instructions > total / 2000; i++)
    fprintf(out, "with-callees %10lu %7lux %s <- %s\n", edges[i].instructions, edges[i].calls, symbols[edges[i].callee].name, symbols[edges[i].caller].name);
  qsort(symbols, symbol_count, sizeof *symbols, by_own);
  for (int i = 0; i < symbol_count && symbols[i].own > total / 2000; i++) fprintf(out, "own %10lu %s\n", symbols[i].own, symbols[i].name);
  fclose(out);
}

int qemu_plugin_install(plugin_id id, const void *info, int count, char **arguments) {
  const char *map = NULL;
  (void)info;
  for (int i = 0; i < count; i++) {
    if (!strncmp(arguments[i], "start=", 6)) entry = strtoull(arguments[i] + 6, NULL, 16);
    if (!strncmp(arguments[i], "map=", 4)) map = arguments[i] + 4;
    if (!strncmp(arguments[i], "out=", 4)) out = fopen(arguments[i] + 4, "w");
  }
  if (!entry || !map || !out || !load_symbols(map)) return 1;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, finished, NULL);
  return 0;
}
