#pragma once

#include <sys/types.h>

#include <optional>
#include <unordered_map>
#include <vector>

#include "proto/support/unique_fd.h"

// One look at /proc: who is whose child. A look is a moment: processes come and go meanwhile, so
// whoever acts on it looks again until nothing is left.
namespace runbus::agent {

struct ProcessEntry {
  pid_t pid = 0;
  pid_t parent = 0;
  pid_t session = 0;  // setsid(2)
  char state = '?';   // as in proc(5): R S D T t Z X

  bool gone() const { return state == 'Z' || state == 'X'; }
  bool frozen() const { return state == 'T' || state == 't'; }
};

class ProcessTable {
 public:
  ProcessTable();

  // Looks now. Keeps a descriptor in reserve for it, so that it works with a full descriptor table.
  void read();

  const std::vector<ProcessEntry>& all() const { return entries_; }

  // One process, now.
  static std::optional<ProcessEntry> look_up(pid_t pid);

  // 0 when it is not in the table.
  pid_t parent_of(pid_t pid) const;
  // A bound for climbing: the table is no snapshot and could hold a loop.
  std::size_t size() const { return parents_.size(); }

 private:
  std::vector<ProcessEntry> entries_;
  std::unordered_map<pid_t, pid_t> parents_;
  UniqueFd reserve_;
  UniqueFd directory_;
};

}  // namespace runbus::agent
