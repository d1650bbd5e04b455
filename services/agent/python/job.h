#pragma once

#include "services/agent/python/interpreter.h"
#include "services/agent/python/module.h"

namespace runbus::agent {

// Waits on the socket `job` for a SpareJob and becomes what it says as far as the kernel is
// concerned. Returns what a run is called with (parent.py): of the usual one a tuple, for which
// hardly a page of the interpreter was touched, of any other the job's strings. Null with the
// interpreter's error set. Without a job the process ends.
PyObject* take_job(int job, const RunbusUsual& usual);

}  // namespace runbus::agent
