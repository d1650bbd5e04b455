#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "proto/support/error.h"
#include "proto/support/unique_fd.h"
#include "services/session/process_id.h"

// The cgroups of sandboxes, shared by the engines: one group per sandbox with memory, pids and cpu
// limits, a freezer and a way to kill all at once. Version 1 (also of hybrid machines) and version
// 2; as root, or as an ordinary user in a delegated group. What cannot be had is not an error here:
// the room says why.
namespace runbus::session {

struct CgroupLimits {
  std::uint64_t memory = 0;  // bytes; swap is not added to it
  std::uint32_t processes = 0;
  double cpus = 0;
};

// How often the kernel has killed for memory in a sandbox, by the group's own counter. Its file
// stays open: a look takes microseconds.
class OomCounter {
 public:
  OomCounter() = default;  // 0 for ever: not known
  explicit OomCounter(UniqueFd file) : file_(std::move(file)) {}
  // Since the sandbox was made; of one that has gone what it said last.
  std::uint64_t kills();

 private:
  UniqueFd file_;
  std::uint64_t last_ = 0;
};

// One sandbox's group: its folder in each hierarchy (one in version 2). Plain data, so that it can
// be written down and used by a later process.
struct Cgroup {
  int version = 0;  // 0: there is none
  std::vector<std::string> folders;

  // Files to write "0" into to join.
  Result<std::vector<UniqueFd>> join_files() const;
  // On an error it is thawed.
  Result<void> freeze(Deadline deadline) const;
  Result<void> thaw() const;
  // Sends SIGKILL to every member; members that fork meanwhile do not escape.
  void kill() const;
  OomCounter oom_counter() const;
  // Removes the emptied folders, killing again what still shows up; an error names what stayed.
  Result<void> remove(Deadline deadline) const;
};

// Where sandboxes' groups can be made on this machine.
struct CgroupRoom {
  int version = 0;
  std::map<std::string, std::string>
      bases;  // controller ("memory", "pids", "cpu", "freezer") → folder
  std::map<std::string, std::string> why;  // controller → why it cannot be had
  // Where an empty cgroup2 is mounted besides version 1, which crun refuses; else empty.
  std::string hybrid_mount;

  // Looks, and makes the "runbus" folder in each usable hierarchy. In a delegated version 2 group
  // it moves the group's processes (this worker and its siblings) into a leaf, as the kernel
  // demands.
  static CgroupRoom detect();

  bool has(const std::string& controller) const { return bases.contains(controller); }
  // Makes the group `key` and sets its limits; version 0 when the room is empty. On an error
  // nothing stays.
  Result<Cgroup> create(const std::string& key, const CgroupLimits& limits) const;
};

}  // namespace runbus::session
