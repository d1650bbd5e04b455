#pragma once

#include <cstdint>

#include "services/agent/parent/large_pages.h"
#include "services/agent/python/interpreter.h"

// The native half of the warm Python interpreters (parent.py): a shared object that the interpreter
// of the parent loads at its start (LD_PRELOAD) and calls by ctypes. It brings no library and needs
// of the C library only what both glibc and musl have, so that it can be loaded by any Python of
// the agent's architecture.
//
// Single-threaded, as the parent is. Spares keep it loaded: nothing in it is secret or privileged.
extern "C" {

// Ends the collection of the interpreter's memory into blocks of 2 MiB, which began when the module
// was loaded; from here on the allocator takes its memory elsewhere. Before anything else.
void runbus_settle();

// own_blocks() of large_pages.h.
int runbus_own(const runbus::agent::MemoryRange* blocks, std::uint64_t count);

// What a spare shall have of its own before its job comes.
struct RunbusMemory {
  const runbus::agent::MemoryRange* blocks;  // as for runbus_own()
  std::uint64_t block_count;
  const runbus::agent::MemoryRange* pages;  // touched one by one
  std::uint64_t page_count;
};

// Gives it to the calling process.
void runbus_prepare(const RunbusMemory* memory);

// What most jobs say, for which the parent has made all ready.
struct RunbusUsual {
  const char* program;  // argv[0]
  // As in a job: the number of variables and each of them, ended by zero bytes.
  const char* environment;
  std::uint64_t environment_size;
  const char* site;  // a folder of modules; while it is there no run is usual
};

// Serves the agent (parent/serve.h). Returns in the spares alone, when
// the job has come: as take_job() of job.h. The interpreter's own work around fork(2) is done.
PyObject* runbus_serve(const RunbusMemory* memory, const RunbusUsual* usual);

// Forks a child that has a usual job with the source in the file `source_file`, without waiting for
// one: returns there as runbus_serve() does in a spare. In the parent it returns the child's pid.
// Standard output and error go into a pipe that nobody reads.
PyObject* runbus_rehearse(int source_file, const RunbusUsual* usual);
}
