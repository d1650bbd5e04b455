#include "services/agent/parent/job.h"

#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstring>

#include "services/agent/parent/messages.h"

namespace runbus::agent {
namespace {

constexpr int kDirectory = 3;  // of a job's descriptors

void apply_limits(const ProcessLimit* limits, std::uint32_t count) {
  for (std::uint32_t i = 0; i < count; ++i) {
    const auto resource = static_cast<__rlimit_resource_t>(limits[i].resource);
    rlimit limit{};
    if (::getrlimit(resource, &limit) != 0) {
      continue;
    }
    limit.rlim_max = limits[i].hard < limit.rlim_max ? limits[i].hard : limit.rlim_max;
    limit.rlim_cur = limits[i].soft < limit.rlim_max ? limits[i].soft : limit.rlim_max;
    ::setrlimit(resource, &limit);
  }
}

void take_descriptors(int job, const int* descriptors, Descriptors which) {
  for (int standard = 0; standard < kDirectory; ++standard) {
    ::dup2(descriptors[standard], standard);
  }
  if (::fchdir(descriptors[kDirectory]) != 0) {
    ::_exit(1);
  }
  if (which == Descriptors::kAll) {
    close_range(kDirectory, INT_MAX);
    return;
  }
  for (int i = 0; i <= kDirectory; ++i) {
    ::close(descriptors[i]);
  }
  ::close(job);
}

}  // namespace

char job_strings[kMaxSpareJob];

Job receive_job(int job, Descriptors which) {
  const Message message = receive(job, job_strings, kMaxSpareJob, kDirectory + 1);
  auto size = static_cast<std::size_t>(message.size);
  SpareJob head;
  while (size < sizeof(head) || (std::memcpy(&head, job_strings, sizeof(head)), size < head.size)) {
    const ssize_t more = ::recv(job, job_strings + size, kMaxSpareJob - size, 0);
    if (more <= 0 && errno != EINTR) {
      ::_exit(0);
    }
    size += more > 0 ? static_cast<std::size_t>(more) : 0;
  }
  ProcessLimit limits[RLIM_NLIMITS];
  const std::size_t strings_at = sizeof(head) + head.limits * sizeof(ProcessLimit);
  if (head.limits > RLIM_NLIMITS || strings_at > size || head.arguments > size - strings_at) {
    ::_exit(1);
  }
  take_descriptors(job, message.descriptors, which);
  std::memcpy(limits, job_strings + sizeof(head), head.limits * sizeof(ProcessLimit));
  apply_limits(limits, head.limits);
  // From here on there is nothing of ours in it but the interpreter.
  ::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
  std::memmove(job_strings, job_strings + strings_at, size - strings_at);
  return {size - strings_at, head.arguments};
}

}  // namespace runbus::agent
