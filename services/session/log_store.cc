#include "services/session/log_store.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>

#include "proto/support/id.h"
#include "proto/support/log.h"
#include "runbus/v1/agent.pb.h"
#include "services/log/stored_log.h"
#include "services/session/remove_tree.h"

namespace runbus::session {
namespace {

namespace agent_v1 = ::runbus::v1::agent;

// A folder with more than that was not written by an agent of ours.
constexpr std::size_t kMaxNames = 2 * log::StoredLog::kMaxSegments;
constexpr const char* kSessionFile = "/.session";
constexpr int kFolder = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;

struct CloseDirectory {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

std::vector<std::string> names_in(int folder) {
  std::vector<std::string> names;
  const int own = ::openat(folder, ".", kFolder);
  const std::unique_ptr<DIR, CloseDirectory> directory(own < 0 ? nullptr : ::fdopendir(own));
  while (directory && names.size() < kMaxNames) {
    const dirent* const entry = ::readdir(directory.get());
    if (entry == nullptr) {
      break;
    }
    if (entry->d_name[0] != '.') {
      names.emplace_back(entry->d_name);
    }
  }
  return names;
}

std::vector<std::string> names_in(const std::string& path) {
  const UniqueFd folder(::open(path.c_str(), kFolder));
  return folder ? names_in(folder.get()) : std::vector<std::string>();
}

std::int64_t milliseconds_of(const timespec& time) {
  return static_cast<std::int64_t>(time.tv_sec) * 1000 + time.tv_nsec / 1'000'000;
}

std::int64_t now_ms() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return milliseconds_of(now);
}

// Bytes of a folder's files; a sparse file counts as what it says.
std::uint64_t bytes_in(int folder) {
  std::uint64_t sum = 0;
  for (const std::string& name : names_in(folder)) {
    struct stat status {};
    if (::fstatat(folder, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0) {
      sum += static_cast<std::uint64_t>(std::max(status.st_size, status.st_blocks * 512));
    }
  }
  return sum;
}

// An execution's folder in the log folder of a sandbox that has gone.
struct Found {
  std::string name;
  UniqueFd folder;
  std::int64_t ended_ms = 0;
  std::uint64_t bytes = 0;
};

// Says of an execution that has no end that all of its sandbox was killed at this limit.
void note_end(log::StoredLog& stored, const std::string& name, const std::string& limit) {
  agent_v1::Listing::Entry entry;
  if (stored.end() || !entry.ParseFromString(stored.head())) {
    return;
  }
  agent_v1::Exited exited;
  exited.set_execution_id(name);
  exited.set_signal(SIGKILL);
  exited.set_limit(limit);
  exited.set_end_offset(stored.end_offset());
  exited.set_tag(entry.tag());
  exited.set_started_ms(entry.started_ms());
  exited.set_ended_ms(static_cast<std::uint64_t>(now_ms()));
  exited.set_wall_us((exited.ended_ms() - std::min(exited.ended_ms(), entry.started_ms())) * 1000);
  if (!stored.finish(exited.SerializeAsString())) {
    spdlog::warn("noting how an execution ended: {}", std::strerror(errno));
  }
}

std::optional<Found> look_at(int log_folder, const std::string& name, const std::string& ended_by) {
  Found found{name, UniqueFd(::openat(log_folder, name.c_str(), kFolder)), now_ms(), 0};
  if (!is_valid_id(name) || !found.folder) {
    return std::nullopt;
  }
  auto stored = log::StoredLog::open(UniqueFd(::openat(found.folder.get(), ".", kFolder)));
  if (stored && stored->end()) {
    found.ended_ms = std::clamp<std::int64_t>(stored->written_at().count(), 0, found.ended_ms);
  } else if (stored && !ended_by.empty()) {
    note_end(*stored, name, ended_by);
  }
  found.bytes = bytes_in(found.folder.get());
  return found;
}

// Without it nobody is told that the session's output is here; it is found when asked for.
void note_session(const std::string& target, const std::string& session_id) {
  const UniqueFd file(::open((target + kSessionFile).c_str(),
                             O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600));
  const auto size = static_cast<ssize_t>(session_id.size());
  if (!file || ::write(file.get(), session_id.data(), session_id.size()) != size) {
    spdlog::warn("noting a session whose output is kept: {}", std::strerror(errno));
  }
}

std::string noted_session(const std::string& target) {
  const UniqueFd file(::open((target + kSessionFile).c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  std::array<char, 256> id{};
  const ssize_t size = file ? ::read(file.get(), id.data(), id.size()) : 0;
  return {id.data(), static_cast<std::size_t>(std::max<ssize_t>(size, 0))};
}

}  // namespace

Result<void> LogStore::prepare() const {
  if (::mkdir(root_.c_str(), 0700) != 0 && errno != EEXIST) {
    return make_error(ErrorCode::kUnavailable, {}, "mkdir " + root_ + ": " + std::strerror(errno));
  }
  return {};
}

void LogStore::keep(const std::string& key, const std::string& session_id,
                    const std::string& log_folder, const std::string& ended_by) const {
  const UniqueFd from(::open(log_folder.c_str(), kFolder));
  std::vector<Found> all;
  for (const std::string& name : from ? names_in(from.get()) : std::vector<std::string>()) {
    if (all.size() >= 2 * kMaxPerSession) {
      break;
    }
    if (auto found = look_at(from.get(), name, ended_by)) {
      all.push_back(std::move(*found));
    }
  }
  if (all.empty()) {
    return;
  }
  std::sort(all.begin(), all.end(),
            [](const Found& a, const Found& b) { return a.ended_ms > b.ended_ms; });
  const std::string target = root_ + "/" + key;
  std::uint64_t sum = 0;
  std::size_t kept = 0;
  for (const Found& found : all) {
    sum += found.bytes;
    if (++kept > kMaxPerSession || sum > kMaxSessionBytes) {
      spdlog::warn("a session left more output than is kept of one");
      break;
    }
    const std::string path = target + "/" + found.name;
    const timespec time{found.ended_ms / 1000, found.ended_ms % 1000 * 1'000'000};
    const timespec times[] = {time, time};
    // A sweep may remove the folder while it is empty; an older execution may have the id.
    int moved = -1;
    for (int attempt = 0; attempt < 3 && moved != 0; ++attempt) {
      if (auto removed = remove_tree(path); !removed) {
        spdlog::warn("removing an old log: {}", to_string(removed.error()));
      }
      ::mkdir(root_.c_str(), 0700);
      ::mkdir(target.c_str(), 0700);
      note_session(target, session_id);
      moved = ::futimens(found.folder.get(), times) == 0
                  ? ::renameat(from.get(), found.name.c_str(), AT_FDCWD, path.c_str())
                  : -1;
    }
    if (moved != 0) {
      spdlog::warn("an execution's output is lost: rename: {}", std::strerror(errno));
    }
  }
}

std::vector<std::string> LogStore::sessions() const {
  std::vector<std::string> ids;
  for (const std::string& key : names_in(root_)) {
    std::string id = noted_session(root_ + "/" + key);
    if (is_valid_id(id) && !executions(key).empty()) {
      ids.push_back(std::move(id));
    }
  }
  return ids;
}

bool LogStore::has(const std::string& key) const {
  return ::access((root_ + "/" + key).c_str(), F_OK) == 0;
}

bool LogStore::has(const std::string& key, const std::string& execution_id) const {
  return is_valid_id(execution_id) &&
         ::access((root_ + "/" + key + "/" + execution_id).c_str(), F_OK) == 0;
}

UniqueFd LogStore::open(const std::string& key, const std::string& execution_id) const {
  return UniqueFd(is_valid_id(execution_id)
                      ? ::open((root_ + "/" + key + "/" + execution_id).c_str(), kFolder)
                      : -1);
}

std::vector<std::string> LogStore::executions(const std::string& key) const {
  return names_in(root_ + "/" + key);
}

std::vector<LogStore::Entry> LogStore::entries() const {
  std::vector<Entry> all;
  for (const std::string& key : names_in(root_)) {
    const std::string session = root_ + "/" + key;
    for (const std::string& name : names_in(session)) {
      const std::string path = session + "/" + name;
      const UniqueFd folder(::open(path.c_str(), kFolder));
      struct stat status {};
      if (folder && ::fstat(folder.get(), &status) == 0) {
        all.push_back({path, milliseconds_of(status.st_mtim), bytes_in(folder.get())});
      }
    }
    drop_if_empty(session);
  }
  return all;
}

// Another process may be moving something into it: then the folder stays, and its id is unknown.
void LogStore::drop_if_empty(const std::string& session) const {
  if (names_in(session).empty()) {
    ::unlink((session + kSessionFile).c_str());
    ::rmdir(session.c_str());
  }
}

void LogStore::sweep(const Bounds& bounds) const {
  std::vector<Entry> all = entries();
  std::sort(all.begin(), all.end(),
            [](const Entry& a, const Entry& b) { return a.ended_ms > b.ended_ms; });
  const std::int64_t expired = now_ms() - bounds.ttl.count();
  std::uint64_t sum = 0;
  std::size_t count = 0;
  for (const Entry& entry : all) {
    sum += entry.bytes;
    if (++count <= bounds.count && sum <= bounds.bytes && entry.ended_ms > expired) {
      continue;
    }
    if (auto removed = remove_tree(entry.path); !removed) {
      spdlog::warn("removing an old log: {}", to_string(removed.error()));
    }
    drop_if_empty(entry.path.substr(0, entry.path.rfind('/')));
  }
}

}  // namespace runbus::session
