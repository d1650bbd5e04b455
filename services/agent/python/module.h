#pragma once

#include <cstdint>

// The native half of the warm Python interpreters (parent.py): a shared object that the interpreter
// of the parent loads at its start (LD_PRELOAD) and calls by ctypes. It brings no library and needs
// of the C library only what both glibc and musl have, so that it can be loaded by any Python of
// the agent's architecture.
//
// Single-threaded, as the parent is. Spares keep it loaded: nothing in it is secret or privileged.
extern "C" {

// Memory of a process: `size` bytes from the address `start`, both multiples of a page.
struct RunbusRange {
  std::uint64_t start;
  std::uint64_t size;
  std::uint64_t writable;  // 0: it is code and constants
};

// Ends the collection of the interpreter's memory into blocks of 2 MiB, which began when the module
// was loaded; from here on the allocator takes its memory elsewhere. Before anything else.
void runbus_settle();

// Replaces the memory of these ranges, all of them whole blocks, by copies of their contents in
// pages of 2 MiB: one fault and one copy, where there would be one of each for every page of 4 KiB
// that is touched after a fork. 0, or an errno.
int runbus_own(const RunbusRange* blocks, std::uint64_t count);

// What a spare shall have of its own before its job comes.
struct RunbusMemory {
  const RunbusRange* blocks;  // as for runbus_own()
  std::uint64_t block_count;
  const RunbusRange* pages;  // touched one by one
  std::uint64_t page_count;
};

// Gives it to the calling process.
void runbus_prepare(const RunbusMemory* memory);

// Serves the agent on the socket `control` (warm_interpreter.h). Returns in the spares alone, with
// the socket on which the job will come. The interpreter's own work around fork(2) is done.
int runbus_serve(int control, const RunbusMemory* memory);

// Waits for the job and becomes what it says as far as the kernel is concerned: descriptors,
// directory, limits. The strings of the job go to `strings`, which has room for kMaxSpareJob bytes.
// Returns their size. Without a job the process ends.
long runbus_take_job(int job, char* strings);
}
