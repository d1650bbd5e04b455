#pragma once

#include <cstdint>
#include <string>

#include "proto/support/error.h"

namespace runbus::session {

// Files in a sandbox's directory whose time says when something last happened to it, whichever
// worker of the node it was, and one that says that it may be frozen. Quick enough for the loop.
// Of a sandbox that has gone nothing is noted. No state but the path; any thread.
class SandboxMarks {
 public:
  enum class Mark {
    kUsed,    // a call came for it
    kHeld,    // some worker works in it or reads from it
    kLooked,  // its agent was asked something that is no use of it, and has not answered
  };

  explicit SandboxMarks(std::string dir) : dir_(std::move(dir)) {}

  // Notes that it happens now, and when it happened (microseconds since 1970; 0: never).
  void touch(Mark mark = Mark::kUsed) const;
  std::uint64_t marked_us(Mark mark) const;
  std::uint64_t last_used_us() const { return marked_us(Mark::kUsed); }
  void clear(Mark mark) const;

  // Whether it may be frozen: noted before it is, and until it no longer is.
  bool is_paused() const;
  Result<void> note_paused() const;
  void note_resumed() const;

 private:
  std::string path_of(Mark mark) const;
  std::string paused_path() const { return dir_ + "/paused"; }

  std::string dir_;
};

}  // namespace runbus::session
