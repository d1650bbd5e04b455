#include "services/agent/warm_interpreter.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <span>
#include <string_view>

#include "services/agent/python_parent.h"

namespace runbus::agent {
namespace {

constexpr std::chrono::milliseconds kFirstDelay{100};
constexpr std::chrono::milliseconds kLongestDelay{300'000};
constexpr int kScriptFd = 4;

// One message with descriptors; true when all of it was taken at once.
bool send_with_descriptors(int socket, std::string_view bytes, std::span<const int> descriptors) {
  iovec part{const_cast<char*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(4 * sizeof(int))> space{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = space.data();
  message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
  cmsghdr* const control = CMSG_FIRSTHDR(&message);
  control->cmsg_level = SOL_SOCKET;
  control->cmsg_type = SCM_RIGHTS;
  control->cmsg_len = CMSG_LEN(descriptors.size_bytes());
  std::memcpy(CMSG_DATA(control), descriptors.data(), descriptors.size_bytes());
  return ::sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL) ==
         static_cast<ssize_t>(bytes.size());
}

void append_list(std::string& job, const std::vector<std::string>& strings) {
  job += std::to_string(strings.size()) + '\0';
  for (const std::string& text : strings) {
    job += text + '\0';
  }
}

// What read_job() of python_parent.py takes apart.
std::string make_job(const ProgramPlan& plan) {
  std::string job(4, '\0');
  append_list(job, plan.arguments);
  append_list(job, plan.environment);
  std::vector<std::string> limits;
  for (const ProcessLimit& limit : plan.limits) {
    limits.push_back(std::to_string(limit.resource) + " " + std::to_string(limit.soft) + " " +
                     std::to_string(limit.hard));
  }
  append_list(job, limits);
  const std::size_t size = job.size() - 4;
  for (std::size_t i = 0; i < 4; ++i) {
    job[i] = static_cast<char>((size >> (24 - 8 * i)) & 0xff);
  }
  return job;
}

UniqueFd make_script() {
  UniqueFd file(::memfd_create("runbus-python", MFD_CLOEXEC));
  const std::string_view script = kPythonParentScript;
  if (file &&
      ::write(file.get(), script.data(), script.size()) != static_cast<ssize_t>(script.size())) {
    file.reset();
  }
  return file;
}

}  // namespace

WarmInterpreter::WarmInterpreter(EventLoop& loop, Reaper& reaper, const v1::Warm& warm)
    : loop_(loop), reaper_(reaper), warm_(warm), restart_timer_(loop), restart_delay_(kFirstDelay) {
  start();
}

WarmInterpreter::~WarmInterpreter() {
  // The parent and the spares end with their sockets; whoever does not is a stranger to the reaper
  // from here on.
  for (Spare& spare : spares_) {
    if (spare.helper != 0) {
      reaper_.release(spare.helper);
    }
  }
  if (parent_ != 0) {
    reaper_.release(parent_);
  }
}

void WarmInterpreter::start() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    restart_later();
    return;
  }
  control_.reset(ends[0]);
  const UniqueFd control(ends[1]);
  const UniqueFd script = make_script();
  v1::Step step;
  *step.mutable_argv() = warm_.argv();
  step.add_argv("/proc/self/fd/" + std::to_string(kScriptFd));
  step.add_argv(warm_.argv(0));
  step.mutable_argv()->MergeFrom(warm_.preload());
  *step.mutable_environment() = warm_.environment();
  ProgramPlan plan = plan_of(step);
  parent_ = script ? start_service(plan, control.get(), script.get()) : -1;
  if (parent_ < 0) {
    parent_ = 0;
    restart_later();
    return;
  }
  reaper_.add(parent_, *this);
  if (!control_watch_.open(loop_, control_.get(), EPOLLIN,
                           [this](std::uint32_t) { on_parent_gone(); })) {
    on_parent_gone();
    return;
  }
  request_spares();
}

// It never writes: that it is readable means that it ended.
void WarmInterpreter::on_parent_gone() {
  control_watch_.clear();
  control_.reset();
  reaper_.lost(parent_);
}

void WarmInterpreter::on_swept() {
  parent_ = 0;
  restart_later();
}

void WarmInterpreter::restart_later() {
  restart_timer_.after(restart_delay_, [this] { start(); });
  restart_delay_ = std::min(kLongestDelay, 2 * restart_delay_);
}

void WarmInterpreter::request_spares() {
  while (control_ && spares_.size() < kSpares && request_spare()) {
  }
}

bool WarmInterpreter::request_spare() {
  int job[2];
  int reports[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, job) != 0) {
    return false;
  }
  Spare& spare = spares_.emplace_back(*this);
  spare.job.reset(job[0]);
  const UniqueFd their_job(job[1]);
  if (::pipe2(reports, O_CLOEXEC) != 0) {
    spares_.pop_back();
    return false;
  }
  spare.reports.reset(reports[0]);
  const UniqueFd their_reports(reports[1]);
  const std::array<int, 2> descriptors = {their_job.get(), their_reports.get()};
  if (::fcntl(reports[0], F_SETFL, O_NONBLOCK) != 0 ||
      !spare.watch.open(loop_, reports[0], EPOLLIN,
                        [this, &spare](std::uint32_t) { on_report(spare); }) ||
      !send_with_descriptors(control_.get(), "spare", descriptors)) {
    spares_.pop_back();
    return false;
  }
  return true;
}

void WarmInterpreter::on_report(Spare& spare) {
  std::array<HelperReport, 2> records;
  const ssize_t size = ::read(spare.reports.get(), records.data(), sizeof(records));
  if (size < 0) {
    return;
  }
  if (size == static_cast<ssize_t>(sizeof(records)) && spare.helper == 0 &&
      records[0].kind == HelperReport::kReady && records[1].kind == HelperReport::kStarted) {
    // A program that got hold of the parent could say anything.
    if (records[1].value <= 1 || !reaper_.adopt(records[0].value, spare)) {
      drop(spare);
      return;
    }
    spare.helper = records[0].value;
    spare.program = records[1].value;
    reaper_.set_program(spare.helper, spare.program);
    restart_delay_ = kFirstDelay;
    return;
  }
  // It ended without a job: somebody killed it.
  drop(spare);
}

void WarmInterpreter::drop(Spare& spare) {
  spare.watch.clear();
  if (spare.helper == 0) {
    forget(spare);
    return;
  }
  reaper_.lost(spare.helper);
}

void WarmInterpreter::forget(Spare& spare) {
  const bool had_helper = spare.helper != 0;
  spares_.remove_if([&spare](const Spare& other) { return &other == &spare; });
  if (had_helper) {
    request_spares();
  }
}

bool WarmInterpreter::try_spawn(const ProgramPlan& plan, StartedRun& run) {
  const auto ready = std::find_if(spares_.begin(), spares_.end(), [](const Spare& spare) {
    return spare.helper != 0 && spare.watch.active();
  });
  const std::string job = make_job(plan);
  if (ready == spares_.end() || job.size() > kMaxJob) {
    request_spares();
    return false;
  }
  const std::array<int, 4> descriptors = {plan.standard_input.get(), plan.standard_output.get(),
                                          plan.standard_error.get(), plan.directory.get()};
  if (!send_with_descriptors(ready->job.get(), job, descriptors)) {
    drop(*ready);
    return false;
  }
  run.helper = ready->helper;
  run.program = ready->program;
  run.reports = std::move(ready->reports);
  ready->watch.clear();
  spares_.erase(ready);
  request_spares();
  return true;
}

}  // namespace runbus::agent
