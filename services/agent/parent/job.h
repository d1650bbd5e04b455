#pragma once

#include <cstddef>

#include "services/agent/helper_protocol.h"
#include "services/agent/parent/serve.h"

namespace runbus::agent {

// The strings of the job that this process has: SpareJob says what they are.
extern char job_strings[kMaxSpareJob];

struct Job {
  std::size_t size = 0;       // bytes in job_strings
  std::size_t arguments = 0;  // of them, of the arguments and their number
};

// Waits on the socket `job` for a SpareJob and becomes what it says as far as the kernel is
// concerned: descriptors, directory, limits. Without a job the process ends.
Job receive_job(int job, Descriptors which);

}  // namespace runbus::agent
