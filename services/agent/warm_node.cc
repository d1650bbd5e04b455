#include "services/agent/warm_node.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "services/agent/node_spare.h"

namespace runbus::agent {
namespace {

constexpr std::chrono::milliseconds kFirstDelay{1'000};
constexpr std::chrono::milliseconds kLongestDelay{300'000};
// From a start to "ready".
constexpr std::chrono::seconds kPatience{60};
// A run that goes on has its successor's spare made after this; a cold one has started by then.
constexpr std::chrono::milliseconds kMoment{500};

std::string_view name_of(std::string_view variable) {
  return variable.substr(0, variable.find('='));
}

bool is_locale(std::string_view name) {
  return name == "LANG" || name == "LANGUAGE" || name.starts_with("LC_");
}

// Node.js, its libraries or the loader read it before a spare knows of it.
bool is_read_at_start(std::string_view name) {
  constexpr std::array<std::string_view, 8> kPrefixes = {"NODE_", "LD_",  "UV_",     "OPENSSL_",
                                                         "SSL_",  "ICU_", "MALLOC_", "GLIBC_"};
  return name != "NODE_ENV" &&
         std::any_of(kPrefixes.begin(), kPrefixes.end(),
                     [name](std::string_view prefix) { return name.starts_with(prefix); });
}

std::vector<std::string> locale_of(const std::vector<std::string>& environment) {
  std::vector<std::string> result;
  std::copy_if(environment.begin(), environment.end(), std::back_inserter(result),
               [](const std::string& variable) { return is_locale(name_of(variable)); });
  std::sort(result.begin(), result.end());
  return result;
}

std::string find_program(const ProgramPlan& plan) {
  const auto found =
      std::find_if(plan.candidates.begin(), plan.candidates.end(),
                   [](const std::string& path) { return ::access(path.c_str(), X_OK) == 0; });
  return found == plan.candidates.end() ? std::string() : *found;
}

// Where a directory is; empty when it is nowhere any more.
std::string path_of(int directory) {
  std::array<char, PATH_MAX> path{};
  const std::string link = "/proc/self/fd/" + std::to_string(directory);
  const ssize_t size = ::readlink(link.c_str(), path.data(), path.size());
  const std::string result(path.data(), static_cast<std::size_t>(std::max<ssize_t>(size, 0)));
  return result.ends_with(" (deleted)") || result.size() == path.size() ? std::string() : result;
}

// What waitForJob() of node_spare.js takes apart.
std::string make_job(const ProgramPlan& plan, const std::string& directory, bool takes_input) {
  std::string job(4, '\0');
  job += takes_input ? "pipe" : "null";
  job += '\0' + directory + '\0' + std::to_string(plan.arguments.size()) + '\0';
  for (const auto* strings : {&plan.arguments, &plan.environment}) {
    for (const std::string& text : *strings) {
      job += text + '\0';
    }
  }
  const std::size_t size = job.size() - 4;
  for (std::size_t i = 0; i < 4; ++i) {
    job[i] = static_cast<char>((size >> (24 - 8 * i)) & 0xff);
  }
  return job;
}

bool apply_limits(pid_t program, std::span<const ProcessLimit> limits) {
  return std::all_of(limits.begin(), limits.end(), [program](const ProcessLimit& limit) {
    const auto resource = static_cast<__rlimit_resource>(limit.resource);
    rlimit now{};
    if (::prlimit(program, resource, nullptr, &now) != 0) {
      return false;
    }
    rlimit wanted{};
    wanted.rlim_max = std::min<rlim_t>(limit.hard, now.rlim_max);
    wanted.rlim_cur = std::min<rlim_t>(limit.soft, wanted.rlim_max);
    return ::prlimit(program, resource, &wanted, nullptr) == 0;
  });
}

}  // namespace

WarmNode::WarmNode(EventLoop& loop, Reaper& reaper, const v1::Warm& warm)
    : loop_(loop),
      reaper_(reaper),
      warm_(warm),
      patience_(loop),
      start_timer_(loop),
      delay_(kFirstDelay) {}

WarmNode::~WarmNode() {
  // The spare ends with its socket.
  if (run_.helper != 0) {
    reaper_.release(run_.helper);
  }
}

// ---- a spare's start ------------------------------------------------------------------------

void WarmNode::start_after(std::chrono::milliseconds delay) {
  start_timer_.after(delay, [this] { start(); });
}

void WarmNode::start() {
  if (run_.helper != 0) {
    return;
  }
  v1::Step step;
  *step.mutable_argv() = warm_.argv();
  for (const char* argument : {"--require", "/proc/self/environ", "main.js"}) {
    step.add_argv(argument);
  }
  step.mutable_argv()->MergeFrom(warm_.preload());
  *step.mutable_environment() = warm_.environment();
  ProgramPlan plan = plan_of(step);
  // The first entry, and in its last line a comment: the kernel puts a zero byte behind it, and
  // then come the others.
  plan.environment.insert(plan.environment.begin(), std::string(kNodeSpareScript) + "//");
  plan.directory.reset(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
  auto pipes = make_pipes(true, plan);
  int job[2];
  if (!plan.directory || std::holds_alternative<Failure>(pipes) ||
      ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, job) != 0) {
    start_after(kFirstDelay);
    return;
  }
  job_.reset(job[0]);
  plan.job.reset(job[1]);
  program_path_ = find_program(plan);
  StartedRun run = std::get<StartedRun>(std::move(pipes));
  if (start_helper(plan, run)) {
    start_after(kFirstDelay);
    return;
  }
  run_ = std::move(run);
  reaper_.add(run_.helper, *this);
  patience_.after(kPatience, [this] { discard(); });
  if (!reports_watch_.open(loop_, run_.reports.get(), EPOLLIN,
                           [this](std::uint32_t) { on_reports(); }) ||
      !job_watch_.open(loop_, job_.get(), EPOLLIN, [this](std::uint32_t) { on_job_socket(); })) {
    discard();
  }
}

// It says that it has started; more before its job, or its end, means that somebody killed it or
// that it cannot start.
void WarmNode::on_reports() {
  std::array<HelperReport, 2> records;
  const ssize_t size = ::read(run_.reports.get(), records.data(), sizeof(records));
  if (size < 0) {
    return;
  }
  if (size != static_cast<ssize_t>(sizeof(HelperReport)) ||
      records[0].kind != HelperReport::kStarted || run_.program != 0) {
    discard();
    return;
  }
  run_.program = records[0].value;
  reaper_.set_program(run_.helper, run_.program);
}

void WarmNode::on_job_socket() {
  char word = 0;
  const ssize_t size = ::recv(job_.get(), &word, 1, MSG_DONTWAIT);
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) {
    return;
  }
  if (size <= 0 || word != 'r') {
    discard();
    return;
  }
  job_watch_.clear();
  patience_.cancel();
  proven_ = true;
  delay_ = kFirstDelay;
}

void WarmNode::discard() {
  if (lost_) {
    return;
  }
  lost_ = true;
  patience_.cancel();
  reports_watch_.clear();
  job_watch_.clear();
  job_.reset();
  reaper_.lost(run_.helper);
}

void WarmNode::on_swept() {
  lost_ = false;
  run_ = StartedRun();
  start_after(delay_);
  delay_ = std::min(kLongestDelay, 2 * delay_);
}

// ---- a run ----------------------------------------------------------------------------------

bool WarmNode::suits(const ProgramPlan& plan) const {
  const std::vector<std::string> own(warm_.environment().begin(), warm_.environment().end());
  return plan.arguments.size() > 1 && plan.arguments[0] == warm_.argv(0) &&
         !plan.arguments[1].empty() && plan.arguments[1][0] != '-' &&
         std::none_of(plan.environment.begin(), plan.environment.end(),
                      [](const std::string& variable) {
                        return is_read_at_start(name_of(variable)) || name_of(variable).empty();
                      }) &&
         locale_of(plan.environment) == locale_of(own);
}

bool WarmNode::hand_over(const ProgramPlan& plan, bool takes_input) {
  const std::string directory = path_of(plan.directory.get());
  if (directory.empty() || find_program(plan) != program_path_) {
    return false;
  }
  const std::string job = make_job(plan, directory, takes_input);
  if (job.size() > kMaxJob) {
    return false;
  }
  if (!apply_limits(run_.program, plan.limits) ||
      ::send(job_.get(), job.data(), job.size(), MSG_DONTWAIT | MSG_NOSIGNAL) !=
          static_cast<ssize_t>(job.size())) {
    discard();
    return false;
  }
  // Some run before may have stopped it; it has not read its job then.
  ::kill(run_.program, SIGCONT);
  return true;
}

bool WarmNode::try_spawn(const ProgramPlan& plan, StartedRun& run) {
  if (!suits(plan)) {
    return false;
  }
  if (run_.helper == 0) {
    if (!start_timer_.armed()) {
      start_after(kMoment);
    }
    return false;
  }
  const bool takes_input = static_cast<bool>(run.input);
  if (lost_ || run_.program == 0 || !proven_ || !hand_over(plan, takes_input)) {
    return false;
  }
  patience_.cancel();
  reports_watch_.clear();
  job_watch_.clear();
  job_.reset();
  run = std::exchange(run_, StartedRun());
  if (!takes_input) {
    run.input.reset();
  }
  taken_.reset(static_cast<int>(::syscall(SYS_pidfd_open, run.program, 0)));
  watch_end();
  return true;
}

void WarmNode::watch_end() {
  start_after(kMoment);
  taken_watch_.clear();
  // Without it, the timer does.
  if (taken_ && !taken_watch_.open(loop_, taken_.get(), EPOLLIN, [this](std::uint32_t) {
        taken_watch_.clear();
        taken_.reset();
        start_after(std::chrono::milliseconds(0));
      })) {
    taken_.reset();
  }
}

}  // namespace runbus::agent
