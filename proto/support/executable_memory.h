#pragma once

#include <sys/mman.h>

#include <cerrno>

#include "proto/support/unique_fd.h"

namespace runbus {

// A file in memory that may be executed and sealed, closed at exec; empty with errno where the
// machine has none (sysctl vm.memfd_noexec).
inline UniqueFd make_executable_memory(const char* name) {
  constexpr unsigned kExecutable = 0x10;  // MFD_EXEC, since Linux 6.3
  UniqueFd file(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | kExecutable));
  if (!file && errno == EINVAL) {
    file.reset(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  }
  return file;
}

}  // namespace runbus
