#pragma once

#include <cstddef>
#include <cstdint>

// What the agent, the helpers of its runs and its spares (parent/) tell each other.
namespace runbus::agent {

// Fixed-size records in a pipe, from a helper to the agent.
struct HelperReport {
  enum Kind : std::uint32_t {
    kStarted = 1,     // value: the program's pid
    kForkFailed = 2,  // value: errno; nothing was started, the helper ends
    kExecFailed = 3,  // value: errno; after kStarted; kExited follows with 126 or 127
    kExited = 4,      // value: the wait status of the program
    kGone = 5,        // nothing is left below the helper; in one write with kExited when at once
    kReady = 6,  // of a warm helper, once: value is its pid; kStarted follows in the same write
  };
  std::uint32_t kind = 0;
  std::int32_t value = 0;
  std::uint64_t cpu_microseconds = 0;  // of all that was reaped so far
  std::uint64_t peak_memory = 0;       // bytes, of the largest process so far
};

// One limit of setrlimit(2); lowered to the hard limit that is already there.
struct ProcessLimit {
  std::uint64_t soft = 0;
  std::uint64_t hard = 0;
  int resource = 0;
  std::uint32_t unused = 0;  // no byte of it is left to chance
};

// The head of what a spare is told to become, in one message with four descriptors:
// standard input, output and error, and the working directory. The limits follow, then the strings:
// the number of arguments and each of them, the number of variables and each of them, all ended by
// a zero byte.
struct SpareJob {
  std::uint32_t size = 0;  // bytes, this head among them
  std::uint32_t limits = 0;
  std::uint32_t arguments = 0;  // bytes of their number and of them
  std::uint32_t unused = 0;     // the limits are aligned
};

// A job is sent in one go, into an empty socket buffer.
inline constexpr std::size_t kMaxSpareJob = 64 * 1024;

}  // namespace runbus::agent
