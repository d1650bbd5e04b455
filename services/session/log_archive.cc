#include "services/session/log_archive.h"

#include <algorithm>
#include <array>
#include <boost/asio/post.hpp>
#include <utility>

#include "services/session/sandbox_store.h"

namespace runbus::session {
namespace {

namespace asio = boost::asio;

constexpr std::size_t kPart = 64U << 10U;

std::optional<KeptLog> read_log(const LogStore& store, const std::string& key,
                                const std::string& execution_id) {
  auto stored = log::StoredLog::open(store.open(key, execution_id));
  agent_v1::Listing::Entry entry;
  if (!stored || !entry.ParseFromString(stored->head()) || entry.execution_id() != execution_id) {
    return std::nullopt;
  }
  entry.set_running(false);
  entry.clear_exited();
  std::uint64_t end = stored->end_offset();
  // An empty one would say "exited with 0".
  if (agent_v1::Exited exited; stored->end() && exited.ParseFromString(*stored->end()) &&
                               exited.execution_id() == execution_id && exited.ended_ms() != 0) {
    end = std::max(end, exited.end_offset());
    *entry.mutable_exited() = std::move(exited);
  }
  entry.set_first_offset(std::min(stored->first_offset(), end));
  entry.set_end_offset(end);
  return KeptLog{std::move(entry), end, std::move(*stored)};
}

std::vector<LogArchive::Part> read_parts(KeptLog& kept, std::uint64_t offset, std::size_t room) {
  std::vector<LogArchive::Part> parts;
  std::array<char, kPart> buffer;
  while (offset < kept.end_offset && room > 0) {
    log::Piece piece;
    if (offset < kept.stored.end_offset()) {
      piece = kept.stored.read(offset, buffer.data(), std::min(room, buffer.size()));
    }
    LogArchive::Part& part = parts.emplace_back();
    part.offset = offset;
    if (piece.stream == log::kStdout || piece.stream == log::kStderr) {
      part.stream = piece.stream;
      part.bytes.assign(buffer.data(), piece.size);
      room -= piece.size;
      offset += piece.size;
    } else {
      // Bytes of a stream that there is not are none.
      const std::uint64_t next = kept.stored.after(offset);
      part.gap_end = piece.size > 0 ? offset + piece.size : next > offset ? next : kept.end_offset;
      offset = part.gap_end;
    }
    if (parts.size() == 64) {
      break;
    }
  }
  return parts;
}

}  // namespace

LogArchive::LogArchive(asio::io_context& io, ArchiveOptions options)
    : io_(io), options_(std::move(options)), store_(options_.state_dir), sweep_timer_(io) {}

LogArchive::~LogArchive() {
  alive_.reset();
  thread_.join();
}

template <class Work, class Then>
void LogArchive::on_thread(Work work, Then then) {
  asio::post(thread_, [this, alive = std::weak_ptr(alive_), guard = asio::make_work_guard(io_),
                       work = std::move(work), then = std::move(then)]() mutable {
    auto result = work();
    asio::post(io_, [alive = std::move(alive), then = std::move(then),
                     result = std::move(result)]() mutable {
      if (!alive.expired()) {
        then(std::move(result));
      }
    });
  });
}

Result<void> LogArchive::prepare() { return store_.prepare(); }

void LogArchive::sweep() {
  on_thread(
      [this] {
        store_.sweep(options_.bounds);
        return store_.sessions();
      },
      [this](const std::vector<std::string>& kept) {
        if (options_.on_swept) {
          options_.on_swept(kept);
        }
        sweep_timer_.expires_after(options_.sweep_interval);
        sweep_timer_.async_wait(
            [this, alive = std::weak_ptr(alive_)](const boost::system::error_code& error) {
              if (!error && !alive.expired()) {
                sweep();
              }
            });
      });
}

bool LogArchive::has(const std::string& session_id) const {
  return store_.has(sandbox_key(session_id));
}

bool LogArchive::has(const std::string& session_id, const std::string& execution_id) const {
  return store_.has(sandbox_key(session_id), execution_id);
}

void LogArchive::open(const std::string& session_id, const std::string& execution_id,
                      std::function<void(Result<KeptLogPtr>)> callback) {
  on_thread(
      [this, session_id, execution_id] {
        auto log = read_log(store_, sandbox_key(session_id), execution_id);
        return log ? std::make_shared<KeptLog>(std::move(*log)) : nullptr;
      },
      [callback = std::move(callback)](KeptLogPtr log) {
        if (log) {
          callback(std::move(log));
        } else {
          callback(make_error(ErrorCode::kNotFound, "no such execution"));
        }
      });
}

void LogArchive::list(const std::string& session_id,
                      std::function<void(std::vector<agent_v1::Listing::Entry>)> callback) {
  on_thread(
      [this, session_id] {
        std::vector<agent_v1::Listing::Entry> entries;
        const std::string key = sandbox_key(session_id);
        for (const std::string& name : store_.executions(key)) {
          if (auto log = read_log(store_, key, name)) {
            entries.push_back(std::move(log->entry));
          }
        }
        return entries;
      },
      std::move(callback));
}

void LogArchive::read(const KeptLogPtr& log, std::uint64_t offset, std::size_t room,
                      std::function<void(std::vector<Part>)> callback) {
  on_thread([log, offset, room] { return read_parts(*log, offset, room); }, std::move(callback));
}

LogReplay::LogReplay(LogArchive& archive, KeptLogPtr log, std::uint64_t offset,
                     std::uint64_t credit, std::shared_ptr<AgentClient::Reader> reader)
    : archive_(archive),
      archive_alive_(archive.alive()),
      log_(std::move(log)),
      position_(std::min(offset, log_->end_offset)),
      credit_(credit),
      reader_(std::move(reader)) {}

void LogReplay::start() {
  agent_v1::Attached attached;
  attached.set_execution_id(log_->entry.execution_id());
  attached.set_first_offset(log_->entry.first_offset());
  attached.set_end_offset(log_->end_offset);
  attached.set_tag(log_->entry.tag());
  const auto self = shared_from_this();
  const auto reader = reader_;
  reader->on_attached(attached);
  go_on();
}

void LogReplay::grant(std::uint64_t credit) {
  credit_ = std::max(credit_, credit);
  go_on();
}

void LogReplay::go_on() {
  if (!reader_ || reading_ || archive_alive_.expired()) {
    return;
  }
  if (position_ == log_->end_offset) {
    const auto reader = std::exchange(reader_, nullptr);
    if (log_->entry.has_exited()) {
      reader->on_exited(log_->entry.exited());
    } else {
      reader->on_lost(
          make_error(ErrorCode::kWorkerLost, "the sandbox ended before the program did"));
    }
    return;
  }
  if (given_ >= credit_) {
    return;
  }
  reading_ = true;
  const std::size_t room = std::min<std::uint64_t>(credit_ - given_, 4 * kPart);
  archive_.read(log_, position_, room,
                [self = shared_from_this()](const std::vector<LogArchive::Part>& parts) {
                  self->reading_ = false;
                  self->give(parts);
                  self->go_on();
                });
}

void LogReplay::give(const std::vector<LogArchive::Part>& parts) {
  for (const LogArchive::Part& part : parts) {
    const auto reader = reader_;
    if (!reader) {
      return;
    }
    if (part.stream == 0) {
      position_ = part.gap_end;
      reader->on_gap(part.offset, part.gap_end);
    } else {
      position_ = part.offset + part.bytes.size();
      given_ += part.bytes.size();
      reader->on_output(part.stream, part.offset, part.bytes);
    }
  }
}

}  // namespace runbus::session
