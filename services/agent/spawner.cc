#include "services/agent/spawner.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>

namespace runbus::agent {
namespace {

constexpr int kPipeSize = 1024 * 1024;

bool has_zero(const std::string& text) { return text.find('\0') != std::string::npos; }

std::vector<std::string> candidates_of(const v1::Step& step) {
  const std::string& name = step.argv(0);
  if (name.find('/') != std::string::npos) {
    return {name};
  }
  std::string_view path = "/usr/local/bin:/usr/bin:/bin";
  constexpr std::string_view kPrefix = "PATH=";
  for (const std::string& variable : step.environment()) {
    if (variable.starts_with(kPrefix)) {
      path = std::string_view(variable).substr(kPrefix.size());
      break;
    }
  }
  std::vector<std::string> result;
  for (std::size_t start = 0; start <= path.size();) {
    const std::size_t end = std::min(path.find(':', start), path.size());
    const std::string_view directory = path.substr(start, end - start);
    result.push_back(directory.empty() ? name : std::string(directory) + "/" + name);
    start = end + 1;
  }
  return result;
}

std::vector<ProcessLimit> limits_of(const v1::Limits& limits) {
  std::vector<ProcessLimit> result;
  const auto add = [&result](int resource, std::uint64_t value, std::uint64_t slack = 0) {
    if (value != 0) {
      const std::uint64_t bounded = std::min<std::uint64_t>(value, RLIM_INFINITY - slack);
      result.push_back({bounded, bounded + slack, resource});
    }
  };
  // A second between the two, so that SIGXCPU tells before SIGKILL comes.
  add(RLIMIT_CPU, limits.cpu_seconds(), 1);
  add(RLIMIT_AS, limits.address_space());
  add(RLIMIT_FSIZE, limits.file_size());
  add(RLIMIT_NOFILE, limits.open_files());
  add(RLIMIT_NPROC, limits.processes());
  result.push_back({0, 0, RLIMIT_CORE});
  return result;
}

// A pipe of which our end, ours[0] or ours[1], does not block; the other does, as programs expect.
bool make_pipe(UniqueFd& read_end, UniqueFd& write_end, bool we_read) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    return false;
  }
  read_end.reset(ends[0]);
  write_end.reset(ends[1]);
  return ::fcntl(we_read ? ends[0] : ends[1], F_SETFL, O_NONBLOCK) == 0;
}

}  // namespace

std::optional<Failure> check_step(const v1::Step& step) {
  if (step.argv().empty() || step.argv(0).empty()) {
    return invalid("a step has no argv[0]");
  }
  if (std::any_of(step.argv().begin(), step.argv().end(), has_zero) ||
      std::any_of(step.environment().begin(), step.environment().end(), has_zero)) {
    return invalid("a step has a zero byte in argv or environment");
  }
  return std::nullopt;
}

ProgramPlan plan_of(const v1::Step& step) {
  ProgramPlan plan;
  plan.candidates = candidates_of(step);
  plan.arguments.assign(step.argv().begin(), step.argv().end());
  plan.environment.assign(step.environment().begin(), step.environment().end());
  plan.limits = limits_of(step.limits());
  return plan;
}

Outcome<StartedRun> make_pipes(bool takes_input, ProgramPlan& plan) {
  StartedRun run;
  if (takes_input) {
    if (!make_pipe(plan.standard_input, run.input, false)) {
      return system_failure("cannot make a pipe", errno);
    }
  } else {
    plan.standard_input.reset(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (!plan.standard_input) {
      return system_failure("cannot open /dev/null", errno);
    }
  }
  if (!make_pipe(run.output, plan.standard_output, true) ||
      !make_pipe(run.error, plan.standard_error, true)) {
    return system_failure("cannot make a pipe", errno);
  }
  // Larger where the user's share allows it: fewer turns for the same bytes, and a program that
  // leaves without waiting for its last writes (Node.js) loses nothing.
  ::fcntl(run.output.get(), F_SETPIPE_SZ, kPipeSize);
  ::fcntl(run.error.get(), F_SETPIPE_SZ, kPipeSize);
  return run;
}

std::optional<Failure> start_helper(const ProgramPlan& plan, StartedRun& run) {
  UniqueFd reports;
  if (!make_pipe(run.reports, reports, true)) {
    return system_failure("cannot make a pipe", errno);
  }
  const pid_t agent = ::getpid();
  run.helper = ::fork();
  if (run.helper < 0) {
    return system_failure("cannot fork", errno);
  }
  if (run.helper == 0) {
    run_helper(plan, reports.get(), agent);
  }
  return std::nullopt;
}

Outcome<StartedRun> Spawner::start(const v1::Step& step) const {
  ProgramPlan plan = plan_of(step);
  auto directory = workspace_.open_directory(step.working_directory());
  if (auto* failure = std::get_if<Failure>(&directory)) {
    return std::move(*failure);
  }
  plan.directory = std::get<UniqueFd>(std::move(directory));
  auto pipes = make_pipes(step.takes_input(), plan);
  if (std::holds_alternative<Failure>(pipes)) {
    return pipes;
  }
  StartedRun run = std::get<StartedRun>(std::move(pipes));
  if (!step.warm().empty() && warm_.try_spawn(step.warm(), plan, run)) {
    return run;
  }
  if (auto failure = start_helper(plan, run)) {
    return std::move(*failure);
  }
  return run;
}

}  // namespace runbus::agent
