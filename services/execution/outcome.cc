#include "services/execution/outcome.h"

#include <signal.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <utility>

namespace runbus::execution {
namespace {

using Named = std::pair<std::string_view, int>;

// Those that clients may send come first.
constexpr std::size_t kSendable = 15;
constexpr std::array<Named, 30> kSignals = {{
    {"INT", SIGINT},     {"TERM", SIGTERM}, {"HUP", SIGHUP},       {"QUIT", SIGQUIT},
    {"KILL", SIGKILL},   {"USR1", SIGUSR1}, {"USR2", SIGUSR2},     {"CONT", SIGCONT},
    {"STOP", SIGSTOP},   {"TSTP", SIGTSTP}, {"TTIN", SIGTTIN},     {"TTOU", SIGTTOU},
    {"WINCH", SIGWINCH}, {"ALRM", SIGALRM}, {"ABRT", SIGABRT},     {"SEGV", SIGSEGV},
    {"BUS", SIGBUS},     {"FPE", SIGFPE},   {"ILL", SIGILL},       {"TRAP", SIGTRAP},
    {"PIPE", SIGPIPE},   {"CHLD", SIGCHLD}, {"URG", SIGURG},       {"XCPU", SIGXCPU},
    {"XFSZ", SIGXFSZ},   {"PROF", SIGPROF}, {"VTALRM", SIGVTALRM}, {"IO", SIGIO},
    {"SYS", SIGSYS},     {"PWR", SIGPWR},
}};

std::optional<std::string> limit_of(const std::string& name) {
  for (const std::string_view known :
       {"time", "memory", "processes", "output", "file_size", "disk"}) {
    if (name == known) {
      return name;
    }
  }
  if (name == "cpu") {
    return "time";
  }
  return std::nullopt;
}

}  // namespace

std::string signal_name(int signal) {
  const auto* found = std::find_if(kSignals.begin(), kSignals.end(),
                                   [signal](const Named& entry) { return entry.second == signal; });
  return "SIG" + (found != kSignals.end() ? std::string(found->first) : std::to_string(signal));
}

std::optional<int> signal_number(std::string_view name) {
  if (name.size() > 16) {
    return std::nullopt;
  }
  std::string upper(name);
  std::transform(upper.begin(), upper.end(), upper.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  if (upper.starts_with("SIG")) {
    upper.erase(0, 3);
  }
  for (std::size_t index = 0; index < kSendable; ++index) {
    if (kSignals[index].first == upper) {
      return kSignals[index].second;
    }
  }
  return std::nullopt;
}

Outcome outcome_of(const v1::agent::Exited& exited) {
  Outcome outcome;
  outcome.limit = limit_of(exited.limit());
  if (exited.reason() == "cancelled") {
    outcome.status = "cancelled";
  } else if (exited.reason() == "timeout" || outcome.limit == "time") {
    outcome.status = "timeout";
    outcome.limit = "time";
  } else if (exited.signal() > 0 && exited.signal() <= 64) {
    outcome.status = "failed";
    outcome.signal = signal_name(exited.signal());
  } else {
    outcome.status = exited.code() == 0 && exited.signal() == 0 ? "completed" : "failed";
    outcome.exit_code = exited.code();
  }
  outcome.bytes = exited.end_offset();
  outcome.execution_time = static_cast<double>(exited.wall_us()) / 1e6;
  outcome.cpu_time = static_cast<double>(exited.cpu_us()) / 1e6;
  outcome.peak_memory = exited.peak_memory();
  outcome.warm = exited.warm();
  // What a timestamp can hold: the year 9999.
  outcome.ended_ms = std::min<std::uint64_t>(exited.ended_ms(), 253'402'300'799'000);
  return outcome;
}

}  // namespace runbus::execution
