#include "services/agent/execution.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "services/agent/attachment.h"

namespace runbus::agent {
namespace {

constexpr int kMaxSteps = 64;
constexpr std::size_t kMaxId = 128;
constexpr std::size_t kMaxTag = 1024;
constexpr std::size_t kMaxReason = 64;
constexpr std::uint64_t kDefaultLogSize = 64ULL << 20;
constexpr std::uint64_t kMaxLogSize = 4ULL << 30;
constexpr std::uint64_t kLongestTimeoutMs = 365ULL * 24 * 3600 * 1000;
constexpr int kCannotStart = 126;
constexpr std::chrono::seconds kReportPatience{2};

std::uint64_t wall_clock_ms() {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(
                                        std::chrono::system_clock::now().time_since_epoch())
                                        .count());
}

// It names the folder of the log. As proto/support/id.h has it.
bool is_id(const std::string& id) {
  const auto alphanumeric = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  };
  return !id.empty() && id.size() <= kMaxId && alphanumeric(id[0]) &&
         std::all_of(id.begin(), id.end(), [&alphanumeric](char c) {
           return alphanumeric(c) || c == '.' || c == '_' || c == ':' || c == '-';
         });
}

std::chrono::milliseconds timeout_of(std::uint64_t milliseconds) {
  return std::chrono::milliseconds(std::min(milliseconds, kLongestTimeoutMs));
}

}  // namespace

std::optional<Failure> Execution::check(const v1::Spawn& spawn) {
  if (!is_id(spawn.execution_id())) {
    return invalid("execution_id must be 1 to 128 letters, digits and . _ : -");
  }
  if (spawn.steps().empty() || spawn.steps_size() > kMaxSteps) {
    return invalid("an execution has 1 to 64 steps");
  }
  if (spawn.tag().size() > kMaxTag) {
    return invalid("tag is over 1 KiB");
  }
  if (spawn.log_size() > kMaxLogSize) {
    return invalid("log_size is over 4 GiB");
  }
  for (const v1::Step& step : spawn.steps()) {
    if (auto failure = check_step(step)) {
      return failure;
    }
  }
  return std::nullopt;
}

Execution::Execution(Services& services, v1::Spawn spawn, Callbacks callbacks)
    : services_(services),
      spawn_(std::move(spawn)),
      callbacks_(std::move(callbacks)),
      log_(spawn_.log_size() == 0 ? kDefaultLogSize : spawn_.log_size(), services.log_space),
      input_(services.loop),
      pipes_{
          {{.stream = kStdout, .fd = {}, .watch = {}}, {.stream = kStderr, .fd = {}, .watch = {}}}},
      spare_wait_(services.loop),
      spare_report_(services.loop),
      timeout_(services.loop),
      step_timeout_(services.loop) {}

Execution::~Execution() {
  for (Attachment* attachment : attachments_) {
    attachment->abandon();
  }
}

std::optional<Failure> Execution::start() {
  started_ms_ = wall_clock_ms();
  if (auto failure = start_step()) {
    return failure;
  }
  // The program starts meanwhile; nothing it prints is read before this turn ends.
  create_log();
  if (spawn_.timeout_ms() != 0) {
    timeout_.after(timeout_of(spawn_.timeout_ms()), [this] { kill("timeout", "time"); });
  }
  return std::nullopt;
}

// ---- a step's start -------------------------------------------------------------------------

std::optional<Failure> Execution::start_step() {
  const v1::Step& step = spawn_.steps(step_);
  state_ = State::kStarting;
  status_.reset();
  program_ = 0;
  step_cpu_us_ = 0;
  helper_ = 0;
  if (services_.spawner.wait_for_spare(step, spare_wait_, [this] {
        if (const auto failure = launch()) {
          on_start_failed(*failure);
        }
      })) {
    return std::nullopt;
  }
  return launch();
}

std::optional<Failure> Execution::launch() {
  const v1::Step& step = spawn_.steps(step_);
  step_started_ = Clock::now();
  auto started = services_.spawner.start(step);
  if (auto* failure = std::get_if<Failure>(&started)) {
    return std::move(*failure);
  }
  StartedRun& run = std::get<StartedRun>(started);
  helper_ = run.helper;
  const pid_t warm_program = run.program;
  warm_ = warm_program != 0;
  if (warm_) {
    services_.reaper.transfer(helper_, *this);
  } else {
    services_.reaper.add(helper_, *this);
  }
  if (!watch_run(std::move(run))) {
    // The kernel has no memory for a watch. The helper finds its pipe closed and ends; what it may
    // have started by then is swept as any stray.
    const int error = errno;
    services_.reaper.release(helper_);
    ::kill(helper_, SIGKILL);
    return system_failure("cannot watch the program's pipes", error);
  }
  if (step.timeout_ms() != 0) {
    step_timeout_.after(timeout_of(step.timeout_ms()), [this] { kill("timeout", "time"); });
  }
  if (warm_) {
    program_ = warm_program;
    state_ = State::kRunning;
    watch_spare();
    announce_started(std::nullopt);
  }
  update_reading();
  return std::nullopt;
}

// The helper of a spare may not be our child, so we are not told when a program stops it. The
// program's end is seen here, and then the helper has to say so.
void Execution::watch_spare() {
  spare_.reset(static_cast<int>(::syscall(SYS_pidfd_open, program_, 0)));
  if (!spare_ && errno == ESRCH) {
    on_spare_ended();  // already, and its helper may have been stopped before it could say so
    return;
  }
  if (spare_ && !spare_watch_.open(services_.loop, spare_.get(), EPOLLIN,
                                   [this](std::uint32_t) { on_spare_ended(); })) {
    spare_.reset();
  }
}

void Execution::on_spare_ended() {
  spare_watch_.clear();
  spare_.reset();
  if (state_ == State::kRunning) {
    services_.reaper.resume(helper_);
    spare_report_.after(kReportPatience, [this] { on_helper_lost(); });
  }
}

bool Execution::watch_run(StartedRun run) {
  reports_ = std::move(run.reports);
  pipes_[0].fd = std::move(run.output);
  pipes_[1].fd = std::move(run.error);
  if (run.input) {
    input_.open(std::move(run.input));
    if (input_.ended()) {
      input_.end();
    }
  }
  if (!reports_watch_.open(services_.loop, reports_.get(), EPOLLIN,
                           [this](std::uint32_t) { on_reports(); })) {
    return false;
  }
  return std::all_of(pipes_.begin(), pipes_.end(), [this](OutputPipe& pipe) {
    return pipe.watch.open(services_.loop, pipe.fd.get(), EPOLLIN,
                           [this, &pipe](std::uint32_t) { on_readable(pipe); });
  });
}

void Execution::announce_started(std::optional<Failure> failure) {
  if (!announced_) {
    announced_ = true;
    callbacks_.on_started(std::move(failure));
  }
}

// The step could not be started: the request's failure if it is the first, otherwise its output and
// outcome.
void Execution::on_start_failed(const Failure& failure) {
  step_timeout_.cancel();
  if (!announced_) {
    timeout_.cancel();
    state_ = State::kEnded;
    exited_.set_execution_id(id());
    exited_.set_code(kCannotStart);
    announce_started(failure);
    return;
  }
  append(kStderr,
         "runbus: cannot start " + spawn_.steps(step_).argv(0) + ": " + failure.detail + "\n");
  set_status(kCannotStart << 8);
  if (failure.error_number == EAGAIN && limit_.empty()) {
    limit_ = "processes";
  }
  finish_step();
}

// ---- what the helper and the reaper say --------------------------------------------------------

void Execution::on_reports() {
  std::array<HelperReport, 8> records;
  const ssize_t size = ::read(reports_.get(), records.data(), sizeof(records));
  if (size < 0) {
    return;
  }
  if (size == 0) {
    on_helper_lost();
    return;
  }
  const int helper = helper_;
  const std::size_t count = static_cast<std::size_t>(size) / sizeof(HelperReport);
  for (const HelperReport& record : std::span(records).first(count)) {
    on_report(record);
  }
  if (helper == helper_ && state_ == State::kCleaning) {
    services_.reaper.condemn(helper_);
  }
}

void Execution::on_report(const HelperReport& report) {
  step_cpu_us_ = std::max(step_cpu_us_, report.cpu_microseconds);
  peak_memory_ = std::max(peak_memory_, report.peak_memory);
  switch (report.kind) {
    case HelperReport::kStarted:
      program_ = report.value;
      services_.reaper.set_program(helper_, program_);
      state_ = State::kRunning;
      announce_started(std::nullopt);
      update_reading();
      break;
    case HelperReport::kExecFailed:
      append(kStderr, "runbus: cannot run " + spawn_.steps(step_).argv(0) + ": " +
                          std::strerror(report.value) + "\n");
      break;
    case HelperReport::kForkFailed:
      reports_watch_.clear();
      services_.reaper.release(helper_);
      on_start_failed(system_failure("cannot fork", report.value));
      break;
    case HelperReport::kExited:
      set_status(report.value);
      break;
    case HelperReport::kGone:
      reports_watch_.clear();
      services_.reaper.release(helper_);
      start_draining();
      break;
    default:
      break;
  }
}

void Execution::on_helper_lost() {
  reports_watch_.clear();
  spare_report_.cancel();
  if (state_ == State::kRunning) {
    // Killed by somebody; its program goes with it (and may have ended by itself just before: the
    // reaper tells).
    state_ = State::kCleaning;
  }
  services_.reaper.lost(helper_);
}

void Execution::on_program_reaped(int status, const rusage& usage) {
  const auto microseconds = [](const timeval& time) {
    return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000 +
           static_cast<std::uint64_t>(time.tv_usec);
  };
  step_cpu_us_ =
      std::max(step_cpu_us_, microseconds(usage.ru_utime) + microseconds(usage.ru_stime));
  peak_memory_ = std::max(peak_memory_, static_cast<std::uint64_t>(usage.ru_maxrss) * 1024);
  if (!status_) {
    set_status(status);
  }
}

void Execution::on_swept() {
  if (state_ == State::kStarting) {
    on_start_failed({v1::Failed::SYSTEM, "the run's helper ended before the program started", 0});
    return;
  }
  if (!status_) {
    set_status(SIGKILL);
  }
  start_draining();
}

void Execution::set_status(int status) {
  spare_watch_.clear();
  spare_.reset();
  spare_report_.cancel();
  status_ = status;
  program_ = 0;
  state_ = State::kCleaning;
  wall_us_ = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - step_started_).count());
  step_timeout_.cancel();
  if (!has_next_step()) {
    timeout_.cancel();
  }
  input_.close();
}

// ---- requests ----------------------------------------------------------------------------------

Outcome<std::size_t> Execution::input(std::string_view bytes, bool eof) {
  const bool will_read =
      !ended() && (status_ ? std::any_of(spawn_.steps().begin() + step_ + 1, spawn_.steps().end(),
                                         [](const v1::Step& step) { return step.takes_input(); })
                           : std::any_of(spawn_.steps().begin() + step_, spawn_.steps().end(),
                                         [](const v1::Step& step) { return step.takes_input(); }));
  if (!will_read) {
    return invalid("no program of this execution reads input any more");
  }
  if (input_.ended()) {
    return invalid("input has ended before");
  }
  if (input_.refused()) {
    return invalid("the program has closed its input");
  }
  const std::size_t taken = input_.take(bytes);
  if (eof && taken == bytes.size()) {
    input_.end();
  }
  return taken;
}

std::optional<Failure> Execution::signal(int number) {
  if (number < 1 || number >= NSIG) {
    return invalid("no such signal");
  }
  if (program_ == 0) {
    return Failure{v1::Failed::NOT_FOUND, "no program of this execution runs now", 0};
  }
  if (::kill(-program_, number) != 0 && errno != ESRCH) {
    return system_failure("cannot signal", errno);
  }
  return std::nullopt;
}

void Execution::kill(const std::string& reason, const std::string& limit) {
  if (spare_wait_.waiting()) {
    // There has to be a program to be killed.
    spare_wait_.cancel();
    if (const auto failure = launch()) {
      on_start_failed(*failure);
      return;
    }
  }
  if (ended()) {
    return;
  }
  // An outcome that is already there stays as it is.
  if (!stopped_ && (!status_ || has_next_step())) {
    stopped_ = true;
    reason_ = reason.substr(0, kMaxReason);
    limit_ = limit;
  }
  // Nobody need be granted anything for what is in the pipes to go to the log.
  drain_all_ = true;
  if (state_ == State::kDraining) {
    update_reading();
  } else {
    services_.reaper.condemn(helper_);
  }
}

// ---- the end -----------------------------------------------------------------------------------

bool Execution::has_next_step() const {
  return status_ == 0 && !stopped_ && step_ + 1 < spawn_.steps_size();
}

void Execution::finish_step() {
  cpu_us_ += step_cpu_us_;
  if (!has_next_step()) {
    end();
    return;
  }
  ++step_;
  if (const auto failure = start_step()) {
    on_start_failed(*failure);
  }
}

std::string Execution::limit_of_outcome() const {
  if (stopped_ || !limit_.empty() || *status_ == 0) {
    return limit_;
  }
  if (!WIFSIGNALED(*status_)) {
    return services_.spawner.workspace().is_full() ? "disk" : "";
  }
  const int signal = WTERMSIG(*status_);
  const std::uint64_t cpu_seconds = spawn_.steps(step_).limits().cpu_seconds();
  if (signal == SIGXCPU ||
      (signal == SIGKILL && cpu_seconds != 0 && step_cpu_us_ / 1'000'000 > cpu_seconds)) {
    return "cpu";
  }
  return signal == SIGXFSZ ? "file_size" : "";
}

void Execution::end() {
  state_ = State::kEnded;
  ended_at_ = Clock::now();
  timeout_.cancel();
  step_timeout_.cancel();
  input_.close();
  for (OutputPipe& pipe : pipes_) {
    pipe.watch.clear();
    pipe.fd.reset();
  }
  exited_.set_execution_id(id());
  exited_.set_code(WIFEXITED(*status_) ? WEXITSTATUS(*status_) : 0);
  exited_.set_signal(WIFSIGNALED(*status_) ? WTERMSIG(*status_) : 0);
  exited_.set_reason(reason_);
  exited_.set_limit(limit_of_outcome());
  exited_.set_end_offset(log_.end_offset());
  exited_.set_wall_us(wall_us_);
  exited_.set_cpu_us(cpu_us_);
  exited_.set_peak_memory(peak_memory_);
  exited_.set_step(static_cast<std::uint32_t>(step_));
  exited_.set_tag(tag());
  exited_.set_warm(warm_);
  exited_.set_started_ms(started_ms_);
  exited_.set_ended_ms(wall_clock_ms());
  finish_log();
  // Pumping ends attachments, which leave the list.
  const std::vector<Attachment*> attachments = attachments_;
  for (Attachment* attachment : attachments) {
    attachment->connection().pump();
  }
  callbacks_.on_ended();
}

}  // namespace runbus::agent
