#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "proto/support/error.h"
#include "proto/support/unique_fd.h"

// The system calls a sandbox may make, as data: a default-deny list shared by the engines. A call
// that is not listed answers ENOSYS, so that libraries fall back to older calls; what sandboxes
// must never do (mount, new namespaces, keys, bpf …) answers EPERM; a call of a foreign
// architecture (i386, x32) kills the process. Debugging (ptrace, personality as gdb uses it) and
// FIFOs work. Any thread.
namespace runbus::session {

// (argument & mask) == value. Masks reach over the low 32 bits where the kernel looks at an int, so
// that garbage in the high half neither passes nor fails.
struct ArgumentTest {
  unsigned index = 0;
  std::uint64_t mask = 0;
  std::uint64_t value = 0;
};

struct SeccompRule {
  std::vector<std::string> calls;
  bool allow = false;               // else EPERM
  std::vector<ArgumentTest> tests;  // all must hold
};

const std::vector<SeccompRule>& seccomp_rules();

// The policy compiled for this machine, as the array of sock_filter that prctl(2) takes; made once.
Result<std::string> seccomp_program();

// The program in an anonymous file, at its start, for bwrap --seccomp.
Result<UniqueFd> seccomp_file();

}  // namespace runbus::session
