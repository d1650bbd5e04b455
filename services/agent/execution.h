#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "services/agent/event_loop.h"
#include "services/agent/failure.h"
#include "services/agent/helper.h"
#include "services/agent/input_queue.h"
#include "services/agent/reaper.h"
#include "services/agent/spawner.h"
#include "services/log/output_log.h"

// One execution: its programs one after another, their pipes, limits of time and output, and its
// log, which stays when it has ended. It ends when its last program was reaped, everything that it
// left behind is dead, and what was in the pipes is in the log; the end of the pipes is never
// waited for, since a process elsewhere may hold them.
//
// While somebody is attached, no more than a window is read ahead of the fastest attachment:
// without credit the program blocks in write. With nobody attached it goes on, and the log evicts
// its oldest bytes.
namespace runbus::agent {

class Attachment;

using log::kStderr;
using log::kStdout;

class Execution final : public Reaper::Run {
 public:
  // How far the log may run ahead of the fastest attachment.
  static constexpr std::uint64_t kWindow = 1024 * 1024;

  // What executions share.
  struct Services {
    EventLoop& loop;
    Reaper& reaper;
    const Spawner& spawner;
    std::span<char> buffer;  // for one read
    log::LogSpace& log_space;
    int log_directory = -1;  // -1: logs are in memory
    log::PreparedLog& next_log;
  };
  struct Callbacks {
    // Once, if start() succeeded: the first program runs (or could not be found, which is its
    // output), or why nothing was started; then this execution is void and to be destroyed, later.
    std::function<void(std::optional<Failure>)> on_started;
    // Once, after on_started.
    std::function<void()> on_ended;
  };

  // `spawn` has passed check().
  Execution(Services& services, v1::Spawn spawn, Callbacks callbacks);
  ~Execution() override;

  static std::optional<Failure> check(const v1::Spawn& spawn);

  // A failure means that nothing was started.
  std::optional<Failure> start();

  const std::string& id() const { return spawn_.execution_id(); }
  const std::string& tag() const { return spawn_.tag(); }
  const log::OutputLog& log() const { return log_; }
  bool ended() const { return state_ == State::kEnded; }
  std::uint64_t started_ms() const { return started_ms_; }
  Clock::time_point ended_at() const { return ended_at_; }
  // Valid once it has ended.
  const v1::Exited& exited() const { return exited_; }

  Outcome<std::size_t> input(std::string_view bytes, bool eof);
  std::optional<Failure> signal(int number);
  // Ends it and all it started; the first reason stays.
  void kill(const std::string& reason, const std::string& limit);

  log::Piece read_log(log::RecordReader& reader, std::uint64_t offset, char* to, std::size_t room);
  // What was printed stays on disk when this is destroyed, unless it is removed before.
  void remove_log();
  void add(Attachment& attachment);
  void remove(Attachment& attachment);
  // An attachment sent something or was granted more.
  void on_reader_moved();

 private:
  enum class State {
    kStarting,  // waits for a spare, or forked
    kRunning,
    kCleaning,  // the program ended; what it left is being killed
    kDraining,  // the last bytes of the pipes
    kEnded,
  };
  struct OutputPipe {
    int stream;
    UniqueFd fd;
    Watch watch;
    std::uint64_t left = 0;  // while draining: bytes that are still to be read
  };

  std::optional<Failure> start_step();
  std::optional<Failure> launch();
  void create_log();
  void finish_log();
  bool watch_run(StartedRun run);
  void on_reports();
  void on_report(const HelperReport& report);
  void on_start_failed(const Failure& failure);
  void on_helper_lost();
  void watch_spare();
  void on_spare_ended();
  void announce_started(std::optional<Failure> failure);
  void set_status(int status);
  void on_program_reaped(int status, const rusage& usage) override;
  void on_swept() override;

  void on_readable(OutputPipe& pipe);
  void read_pipe(OutputPipe& pipe);
  void append(int stream, std::string_view bytes);
  std::uint64_t unread() const;
  bool may_read() const;
  void update_reading();
  void start_draining();
  void continue_draining();

  bool has_next_step() const;
  void finish_step();
  void end();
  std::string limit_of_outcome() const;

  Services& services_;
  const v1::Spawn spawn_;
  Callbacks callbacks_;
  log::OutputLog log_;
  InputQueue input_;
  std::vector<Attachment*> attachments_;

  State state_ = State::kStarting;
  int step_ = 0;
  pid_t helper_ = 0;
  pid_t program_ = 0;  // 0: not started yet, or reaped
  UniqueFd reports_;
  Watch reports_watch_;
  std::array<OutputPipe, 2> pipes_;
  SpareWait spare_wait_;
  UniqueFd spare_;  // pidfd of a warm program
  Watch spare_watch_;
  Timer spare_report_;  // from a warm program's end to its helper's report
  Timer timeout_;
  Timer step_timeout_;

  bool announced_ = false;
  bool warm_ = false;          // the step's program is a spare
  std::optional<int> status_;  // of the step's program
  bool stopped_ = false;       // killed by us: no next step
  bool drain_all_ = false;     // even if nobody has credit
  std::string reason_;
  std::string limit_;
  Clock::time_point step_started_;
  std::uint64_t wall_us_ = 0;
  std::uint64_t cpu_us_ = 0;  // of the steps before
  std::uint64_t step_cpu_us_ = 0;
  std::uint64_t peak_memory_ = 0;
  std::uint64_t started_ms_ = 0;
  Clock::time_point ended_at_;
  v1::Exited exited_;
};

}  // namespace runbus::agent
