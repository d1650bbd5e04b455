#pragma once

#include <sys/stat.h>

#include <mutex>
#include <string>

#include "proto/support/unique_fd.h"

namespace runbus::session {

// A copy of a program in memory that nobody can write. An OCI runtime that finds itself in a file
// makes such a copy and starts again from there, so that no sandbox can reach the file through the
// runtime's process (CVE-2019-5736): half of a runtime's start, which one copy for all saves. Any
// thread.
class SealedProgram {
 public:
  explicit SealedProgram(std::string path) : path_(std::move(path)) {}

  // A descriptor of the copy, of what is at the path now; empty where there can be none.
  UniqueFd open();

 private:
  UniqueFd copy(int file) const;

  const std::string path_;
  std::mutex mutex_;
  UniqueFd sealed_;
  struct stat copied_ {};  // the file that sealed_ is a copy of
};

}  // namespace runbus::session
