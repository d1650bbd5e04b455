#include "services/agent/warm_interpreter.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace runbus::agent {
namespace {

constexpr std::chrono::milliseconds kFirstDelay{100};
// A new session's first run goes before the start of its interpreters.
constexpr std::chrono::milliseconds kStartDelay{50};
// From a run without a parent to the start of one; a cold run has started by then.
constexpr std::chrono::milliseconds kMoment{500};
constexpr std::chrono::milliseconds kLongestDelay{300'000};
// From a start to "up": the interpreter's start and the imports.
constexpr std::chrono::seconds kParentPatience{60};
// From the request of a spare to READY.
constexpr std::chrono::seconds kSparePatience{5};
// A run that takes longer has another slot made.
constexpr std::chrono::milliseconds kLongRun{50};
// From the end of a run to the making of the next spare, while there is one.
constexpr std::chrono::milliseconds kSettling{20};
constexpr std::chrono::milliseconds kWorthWaiting{250};
constexpr std::chrono::seconds kRetry{1};
// Without a run for so long, one spare is enough.
constexpr std::chrono::seconds kIdle{10};

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

std::string make_job(const ProgramPlan& plan) {
  SpareJob head;
  std::string job(sizeof(head), '\0');
  head.limits = static_cast<std::uint32_t>(plan.limits.size());
  job.append(reinterpret_cast<const char*>(plan.limits.data()),
             plan.limits.size() * sizeof(ProcessLimit));
  const std::size_t arguments_at = job.size();
  append_list(job, plan.arguments);
  head.arguments = static_cast<std::uint32_t>(job.size() - arguments_at);
  append_list(job, plan.environment);
  head.size = static_cast<std::uint32_t>(job.size());
  std::memcpy(job.data(), &head, sizeof(head));
  return job;
}

}  // namespace

WarmInterpreter::WarmInterpreter(EventLoop& loop, Reaper& reaper, const v1::Warm& warm,
                                 std::unique_ptr<WarmKind> kind)
    : loop_(loop),
      reaper_(reaper),
      warm_(warm),
      kind_(std::move(kind)),
      restart_timer_(loop),
      patience_(loop),
      refill_timer_(loop),
      idle_timer_(loop),
      restart_delay_(kFirstDelay) {
  if (kind_->starts_ahead()) {
    restart_timer_.after(kStartDelay, [this] { start(); });
  }
}

WarmInterpreter::~WarmInterpreter() {
  wake_all();
  // The parent and the slots end with their sockets; whoever does not is a stranger to the reaper
  // from here on.
  for (Slot& slot : slots_) {
    if (slot.helper != 0) {
      reaper_.release(slot.helper);
    }
  }
  if (parent_ != 0) {
    reaper_.release(parent_);
  }
}

// ---- the parent -----------------------------------------------------------------------------

void WarmInterpreter::start() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    restart_later();
    return;
  }
  control_.reset(ends[0]);
  const UniqueFd control(ends[1]);
  const std::optional<WarmKind::Parent> parent = kind_->make_parent();
  parent_ = -1;
  if (parent) {
    std::vector<int> descriptors = {control.get()};
    for (const UniqueFd& fd : parent->descriptors) {
      descriptors.push_back(fd.get());
    }
    parent_ = start_service(parent->plan, descriptors);
  }
  if (parent_ < 0) {
    parent_ = 0;
    control_.reset();
    restart_later();
    return;
  }
  reaper_.add(parent_, *this);
  patience_.after(kParentPatience, [this] { fail(); });
  if (!control_watch_.open(loop_, control_.get(), EPOLLIN,
                           [this](std::uint32_t) { on_control(); })) {
    fail();
  }
}

// It says "up" once; more, or its end, is a failure.
void WarmInterpreter::on_control() {
  std::array<char, 16> word{};
  const ssize_t size = ::recv(control_.get(), word.data(), word.size(), MSG_DONTWAIT);
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) {
    return;
  }
  if (size <= 0 || up_) {
    fail();
    return;
  }
  up_ = true;
  patience_.cancel();
  refill();
}

// Ends the parent; it starts anew when it and what it was making are gone. Spares that are ready
// and runs that go on do not need it.
void WarmInterpreter::fail() {
  if (!control_) {
    return;  // failed already
  }
  control_watch_.clear();
  control_.reset();
  patience_.cancel();
  refill_timer_.cancel();
  up_ = false;
  wake_all();
  for (auto slot = slots_.begin(); slot != slots_.end();) {
    Slot& each = *slot++;
    each.orphan = true;
    if (each.state != State::kReady && each.state != State::kLost) {
      forget(each);
    }
  }
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

// ---- slots ----------------------------------------------------------------------------------

// Slots that have a spare or are about to.
std::size_t WarmInterpreter::available() const {
  const auto now = Clock::now();
  return static_cast<std::size_t>(
      std::count_if(slots_.begin(), slots_.end(), [now](const Slot& slot) {
        return slot.state == State::kMaking || slot.state == State::kReady ||
               slot.state == State::kIdle ||
               (slot.state == State::kBusy && now - slot.taken_at < kLongRun);
      }));
}

std::size_t WarmInterpreter::wanted() const { return idle_timer_.armed() ? kSpares : kIdleSpares; }

void WarmInterpreter::let_go() {
  for (auto slot = slots_.begin(); slot != slots_.end() && count(State::kReady) > kIdleSpares;) {
    Slot& each = *slot++;
    if (each.state == State::kReady) {
      drop(each);
    }
  }
}

void WarmInterpreter::refill() {
  while (up_ && available() < wanted()) {
    if (!add_slot()) {
      refill_timer_.after(kRetry, [this] { refill(); });
      return;
    }
  }
  const bool recent = std::any_of(slots_.begin(), slots_.end(), [](const Slot& slot) {
    return slot.state == State::kBusy && Clock::now() - slot.taken_at < kLongRun;
  });
  if (up_ && recent) {
    refill_timer_.after(kLongRun, [this] { refill(); });
  }
}

bool WarmInterpreter::add_slot() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    return false;
  }
  Slot& slot = slots_.emplace_back(*this);
  slot.control.reset(ends[0]);
  const UniqueFd theirs(ends[1]);
  const std::array<int, 1> descriptors = {theirs.get()};
  if (!slot.control_watch.open(loop_, ends[0], EPOLLIN,
                               [this, &slot](std::uint32_t) { on_slot_control(slot); }) ||
      !request_spare(slot) || !send_with_descriptors(control_.get(), "slot", descriptors)) {
    slots_.pop_back();
    return false;
  }
  return true;
}

bool WarmInterpreter::request_spare(Slot& slot) {
  int job[2];
  int reports[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, job) != 0) {
    return false;
  }
  slot.job.reset(job[0]);
  const UniqueFd their_job(job[1]);
  if (::pipe2(reports, O_CLOEXEC) != 0) {
    return false;
  }
  slot.reports.reset(reports[0]);
  const UniqueFd their_reports(reports[1]);
  const std::array<int, 2> descriptors = {their_job.get(), their_reports.get()};
  if (::fcntl(reports[0], F_SETFL, O_NONBLOCK) != 0 ||
      !slot.watch.open(loop_, reports[0], EPOLLIN,
                       [this, &slot](std::uint32_t) { on_report(slot); }) ||
      !send_with_descriptors(slot.control.get(), "spare", descriptors)) {
    return false;
  }
  slot.state = State::kMaking;
  slot.timer.after(kSparePatience, [this] { fail(); });
  return true;
}

// Its helper says "idle" when a run has ended; or it ended.
void WarmInterpreter::on_slot_control(Slot& slot) {
  std::array<char, 16> word{};
  const ssize_t size = ::recv(slot.control.get(), word.data(), word.size(), MSG_DONTWAIT);
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) {
    return;
  }
  if (slot.state == State::kMaking) {
    fail();
    return;
  }
  if (size > 0 && slot.state == State::kBusy) {
    slot.taken_at = {};
    if (available() < wanted()) {
      make_next(slot);
      return;
    }
  }
  drop(slot);
  refill();
}

// While there is another, the end of the run is on its way to whoever waits for it, and making a
// spare takes the processors from that.
void WarmInterpreter::make_next(Slot& slot) {
  if (slot.state == State::kBusy && has(State::kReady)) {
    slot.state = State::kIdle;
    slot.timer.after(kSettling, [this, &slot] { make_next(slot); });
  } else if (!request_spare(slot)) {
    drop(slot);
    refill();
  }
}

std::size_t WarmInterpreter::count(State state) const {
  return static_cast<std::size_t>(std::count_if(
      slots_.begin(), slots_.end(), [state](const Slot& slot) { return slot.state == state; }));
}

void WarmInterpreter::on_report(Slot& slot) {
  std::array<HelperReport, 2> records;
  const ssize_t size = ::read(slot.reports.get(), records.data(), sizeof(records));
  if (size < 0) {
    return;
  }
  if (slot.state != State::kMaking) {
    // It ended without a job: somebody killed it.
    drop(slot);
    return;
  }
  // A program that got hold of the parent could say anything.
  if (size != static_cast<ssize_t>(sizeof(records)) || records[0].kind != HelperReport::kReady ||
      records[1].kind != HelperReport::kStarted || records[1].value <= 1 ||
      !reaper_.adopt(records[0].value, slot)) {
    fail();
    return;
  }
  slot.state = State::kReady;
  slot.timer.cancel();
  slot.helper = records[0].value;
  slot.program = records[1].value;
  reaper_.set_program(slot.helper, slot.program);
  restart_delay_ = kFirstDelay;
  if (!waiting_.empty()) {
    waiting_.front()->wake();
  }
}

void WarmInterpreter::drop(Slot& slot) {
  if (slot.helper == 0) {
    forget(slot);
  } else if (slot.state != State::kLost) {
    slot.state = State::kLost;
    slot.watch.clear();
    slot.control_watch.clear();
    reaper_.lost(slot.helper);
  }
}

void WarmInterpreter::forget(Slot& slot) {
  const bool was_lost = slot.state == State::kLost;
  slots_.remove_if([&slot](const Slot& other) { return &other == &slot; });
  if (was_lost) {
    // Somebody kills them, or the sandbox has no room for one; not at once, and again and again.
    refill_timer_.after(kRetry, [this] { refill(); });
  }
}

bool WarmInterpreter::try_spawn(const ProgramPlan& plan, StartedRun& run) {
  if (!kind_->suits(plan)) {
    return false;
  }
  if (parent_ == 0 && !restart_timer_.armed()) {
    restart_timer_.after(kMoment, [this] { start(); });
  }
  const auto ready = std::find_if(slots_.begin(), slots_.end(),
                                  [](const Slot& slot) { return slot.state == State::kReady; });
  if (ready == slots_.end()) {
    return false;
  }
  const std::string job = make_job(plan);
  if (job.size() > kMaxSpareJob) {
    return false;
  }
  const std::array<int, 4> descriptors = {plan.standard_input.get(), plan.standard_output.get(),
                                          plan.standard_error.get(), plan.directory.get()};
  if (!send_with_descriptors(ready->job.get(), job, descriptors)) {
    drop(*ready);
    return false;
  }
  // Some run before may have stopped it.
  ::kill(ready->program, SIGCONT);
  ready->watch.clear();
  run.helper = std::exchange(ready->helper, 0);
  run.program = ready->program;
  run.reports = std::move(ready->reports);
  ready->job.reset();
  ready->state = State::kBusy;
  ready->taken_at = Clock::now();
  idle_timer_.after(kIdle, [this] { let_go(); });
  if (ready->orphan) {
    slots_.erase(ready);  // the helper ends after this run
  }
  if (up_) {
    if (!refill_timer_.armed()) {  // or run after run would put it off
      refill_timer_.after(kLongRun, [this] { refill(); });
    }
    make_one_at_rest();
  }
  return true;
}

// The last spare has been taken, so runs come one after the other: the next one is made while this
// one goes on.
void WarmInterpreter::make_one_at_rest() {
  const auto idle = std::find_if(slots_.begin(), slots_.end(),
                                 [](const Slot& slot) { return slot.state == State::kIdle; });
  if (idle != slots_.end() && !has(State::kReady) && !has(State::kMaking)) {
    make_next(*idle);
  }
}

bool WarmInterpreter::wait_for_spare(SpareWait& wait, std::function<void()> go) {
  if (!up_ || has(State::kReady)) {
    return false;
  }
  while (has(State::kIdle)) {
    make_next(*std::find_if(slots_.begin(), slots_.end(),
                            [](const Slot& slot) { return slot.state == State::kIdle; }));
  }
  // Runs that came at once: one more costs less than a cold start, and goes when its run has ended.
  if (waiting_.size() >= count(State::kMaking) && slots_.size() < kMostSlots) {
    add_slot();
  }
  if (!has(State::kMaking)) {
    return false;
  }
  wait.begin(waiting_, kWorthWaiting, std::move(go));
  return true;
}

void WarmInterpreter::wake_all() {
  while (!waiting_.empty()) {
    waiting_.front()->wake();
  }
}

}  // namespace runbus::agent
