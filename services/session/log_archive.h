#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runbus/v1/agent.pb.h"
#include "services/log/stored_log.h"
#include "services/session/agent_client.h"
#include "services/session/log_store.h"

namespace runbus::session {

// One execution whose sandbox has gone. What it says is its agent's word (hostile); its shape is
// checked.
struct KeptLog {
  agent_v1::Listing::Entry entry;  // `exited` is there when the execution ended before its sandbox
  std::uint64_t end_offset = 0;    // of what was printed, as far as it is known
  log::StoredLog stored;           // for the archive's thread
};
using KeptLogPtr = std::shared_ptr<KeptLog>;

struct ArchiveOptions {
  std::string state_dir;
  LogStore::Bounds bounds;
  std::chrono::milliseconds sweep_interval{30'000};
  // Told after each sweep: the sessions of which something is kept.
  std::function<void(const std::vector<std::string>& session_ids)> on_swept;
};

// The node's LogStore as one worker process reads it. All functions and callbacks on the
// io_context's thread; callbacks are called once, never from inside the function, and not after the
// archive is gone. Files are read on a thread of its own.
class LogArchive {
 public:
  LogArchive(boost::asio::io_context& io, ArchiveOptions options);
  ~LogArchive();
  LogArchive(const LogArchive&) = delete;
  LogArchive& operator=(const LogArchive&) = delete;

  // Expires with the archive: for whoever may outlive it.
  std::weak_ptr<void> alive() const { return alive_; }

  // Makes the directory. Blocking; before anything else.
  Result<void> prepare();
  // Removes what is past its time or over the bounds, now and every sweep_interval.
  void sweep();

  // Quick.
  bool has(const std::string& session_id) const;
  bool has(const std::string& session_id, const std::string& execution_id) const;
  // kNotFound when nothing is kept of it.
  void open(const std::string& session_id, const std::string& execution_id,
            std::function<void(Result<KeptLogPtr>)> callback);
  void list(const std::string& session_id,
            std::function<void(std::vector<agent_v1::Listing::Entry>)> callback);

  // Bytes of one stream from an offset on, or a gap.
  struct Part {
    int stream = 0;  // 0: a gap
    std::uint64_t offset = 0;
    std::uint64_t gap_end = 0;
    std::string bytes;
  };
  // What follows `offset` < end_offset, up to `room` bytes; at least one part.
  void read(const KeptLogPtr& log, std::uint64_t offset, std::size_t room,
            std::function<void(std::vector<Part>)> callback);

 private:
  template <class Work, class Then>
  void on_thread(Work work, Then then);

  boost::asio::io_context& io_;
  ArchiveOptions options_;
  LogStore store_;
  boost::asio::steady_timer sweep_timer_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  // Last: it uses what is above, and is joined first.
  boost::asio::thread_pool thread_{1};
};

// Gives a kept execution to a reader as its agent would: what there is from `offset` on, as credit
// allows, with gaps named; then on_exited, or on_lost with kWorkerLost when its sandbox ended
// before it. on_attached comes first.
class LogReplay : public std::enable_shared_from_this<LogReplay> {
 public:
  LogReplay(LogArchive& archive, KeptLogPtr log, std::uint64_t offset, std::uint64_t credit,
            std::shared_ptr<AgentClient::Reader> reader);

  void start();
  // Bytes in all since the start.
  void grant(std::uint64_t credit);
  // Nothing is called any more.
  void stop() { reader_ = nullptr; }

 private:
  void go_on();
  void give(const std::vector<LogArchive::Part>& parts);

  LogArchive& archive_;
  std::weak_ptr<void> archive_alive_;
  KeptLogPtr log_;
  std::uint64_t position_;
  std::uint64_t credit_;
  std::uint64_t given_ = 0;
  bool reading_ = false;
  std::shared_ptr<AgentClient::Reader> reader_;
};

}  // namespace runbus::session
