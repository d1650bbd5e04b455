#include "services/agent/python/module.h"

#include "services/agent/parent/serve.h"
#include "services/agent/python/interpreter.h"
#include "services/agent/python/job.h"
#include "services/agent/python/memory.h"

extern "C" {

__attribute__((visibility("default"))) void runbus_prepare(const RunbusMemory* memory) {
  // What cannot be had now comes page by page later.
  runbus_own(memory->blocks, memory->block_count);
  runbus::agent::touch(memory->pages, memory->page_count);
}

__attribute__((visibility("default"))) PyObject* runbus_serve(const RunbusMemory* memory,
                                                              const RunbusUsual* usual) {
  using namespace runbus::agent;
  PyOS_BeforeFork();
  const int job = serve(Descriptors::kAll);
  runbus_prepare(memory);
  PyOS_AfterFork_Child();
  return take_job(job, *usual);
}
}
