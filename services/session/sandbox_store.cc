#include "services/session/sandbox_store.h"

#include <dirent.h>
#include <fcntl.h>
#include <rapidjson/document.h>
#include <rapidjson/stringbuffer.h>
#include <rapidjson/writer.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>

#include "proto/support/log.h"
#include "services/session/digest.h"
#include "services/session/remove_tree.h"

namespace runbus::session {
namespace {

constexpr std::size_t kKeyLength = 32;
constexpr std::size_t kMaxMeta = 1U << 20U;
constexpr const char* kPoolLink = "../pool/";  // of a link in sandboxes/

Error disk_error(const std::string& what) {
  const int number = errno;
  return make_error(ErrorCode::kUnavailable, "this node cannot make a sandbox now",
                    what + ": " + std::strerror(number));
}

Result<void> make_directory(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    return disk_error("mkdir " + path);
  }
  return {};
}

std::vector<std::string> names_in(const std::string& path) {
  struct CloseDir {
    void operator()(DIR* directory) const { ::closedir(directory); }
  };
  std::vector<std::string> names;
  const std::unique_ptr<DIR, CloseDir> directory(::opendir(path.c_str()));
  while (directory) {
    const dirent* entry = ::readdir(directory.get());
    if (entry == nullptr) {
      break;
    }
    if (entry->d_name[0] != '.') {
      names.emplace_back(entry->d_name);
    }
  }
  return names;
}

std::string link_target(const std::string& path) {
  std::array<char, 256> target;
  const ssize_t size = ::readlink(path.c_str(), target.data(), target.size());
  return size > 0 ? std::string(target.data(), static_cast<std::size_t>(size)) : std::string();
}

std::optional<std::string> read_file(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!fd) {
    return std::nullopt;
  }
  std::string content;
  std::array<char, 16384> buffer;
  for (;;) {
    const ssize_t size = ::read(fd.get(), buffer.data(), buffer.size());
    if (size < 0 && errno == EINTR) {
      continue;
    }
    if (size < 0 || content.size() > kMaxMeta) {
      return std::nullopt;
    }
    if (size == 0) {
      return content;
    }
    content.append(buffer.data(), static_cast<std::size_t>(size));
  }
}

bool write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t size = ::write(fd, bytes.data(), bytes.size());
    if (size < 0 && errno != EINTR) {
      return false;
    }
    bytes.remove_prefix(size > 0 ? static_cast<std::size_t>(size) : 0);
  }
  return true;
}

// What the agent or the engine wrote to the sandbox's own log, which goes with it: the one trace of
// a crash. A sandbox that nothing befell says nothing. Bounded, and a line at a time: whoever took
// the agent over writes this.
void log_last_words(const std::string& key, const std::string& path) {
  constexpr std::size_t kMaxWords = 8192;
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  ::lseek(fd.get(), -static_cast<off_t>(kMaxWords), SEEK_END);  // fails where the file is shorter
  std::array<char, kMaxWords> buffer{};
  const ssize_t size = fd ? ::read(fd.get(), buffer.data(), buffer.size()) : 0;
  std::string_view words(buffer.data(), static_cast<std::size_t>(std::max<ssize_t>(size, 0)));
  while (!words.empty()) {
    const std::string_view line = words.substr(0, words.find('\n'));
    if (!line.empty()) {
      spdlog::warn("sandbox {}: {}", key, printable(line));
    }
    words.remove_prefix(std::min(line.size() + 1, words.size()));
  }
}

std::string to_json(const SandboxRecord& record) {
  rapidjson::StringBuffer buffer;
  rapidjson::Writer<rapidjson::StringBuffer> writer(buffer);
  writer.StartObject();
  writer.Key("session_id");
  writer.String(record.session_id);
  writer.Key("engine");
  writer.String(record.engine);
  writer.Key("created_ms");
  writer.Uint64(record.created_ms);
  writer.Key("network");
  writer.Bool(record.network);
  writer.Key("memory");
  writer.Uint64(record.limits.memory);
  writer.Key("cpus");
  writer.Double(record.limits.cpus);
  writer.Key("processes");
  writer.Uint(record.limits.processes);
  writer.Key("disk");
  writer.Uint64(record.limits.disk);
  writer.Key("environment");
  writer.StartObject();
  for (const auto& [name, value] : record.environment) {
    writer.Key(name.c_str());
    writer.String(value);
  }
  writer.EndObject();
  writer.EndObject();
  return buffer.GetString();
}

bool from_json(const std::string& text, SandboxRecord& record) {
  rapidjson::Document document;
  document.Parse<rapidjson::kParseIterativeFlag>(text.data(), text.size());
  const auto has = [&document](const char* name, bool (rapidjson::Value::*is)() const) {
    return document.HasMember(name) && (document[name].*is)();
  };
  using Value = rapidjson::Value;
  if (document.HasParseError() || !document.IsObject() || !has("session_id", &Value::IsString) ||
      !has("engine", &Value::IsString) || !has("created_ms", &Value::IsUint64) ||
      !has("network", &Value::IsBool) || !has("memory", &Value::IsUint64) ||
      !has("cpus", &Value::IsNumber) || !has("processes", &Value::IsUint) ||
      !has("disk", &Value::IsUint64) || !has("environment", &Value::IsObject)) {
    return false;
  }
  record.session_id = document["session_id"].GetString();
  record.engine = document["engine"].GetString();
  record.created_ms = document["created_ms"].GetUint64();
  record.network = document["network"].GetBool();
  record.limits.memory = document["memory"].GetUint64();
  record.limits.cpus = document["cpus"].GetDouble();
  record.limits.processes = document["processes"].GetUint();
  record.limits.disk = document["disk"].GetUint64();
  for (const auto& member : document["environment"].GetObject()) {
    if (!member.value.IsString()) {
      return false;
    }
    record.environment[member.name.GetString()] = member.value.GetString();
  }
  return true;
}

}  // namespace

std::string sandbox_key(const std::string& session_id) {
  return sha256_hex(session_id).substr(0, kKeyLength);
}

void SandboxLock::forget() const { ::unlink(path_.c_str()); }

Result<void> SandboxStore::prepare() const {
  for (const char* name : {"", "/sandboxes", "/pool", "/ready", "/locks"}) {
    if (auto made = make_directory(root_ + name); !made) {
      return made;
    }
  }
  struct stat status {};
  if (::stat(root_.c_str(), &status) != 0) {
    return disk_error("stat " + root_);
  }
  // Whoever can write here can name any process a sandbox.
  if (status.st_uid != ::geteuid() || (status.st_mode & 022U) != 0) {
    return make_error(ErrorCode::kUnavailable, {},
                      root_ + " must be owned by this user and not writable by others");
  }
  return {};
}

std::vector<std::string> SandboxStore::keys() const { return names_in(root_ + "/sandboxes"); }

bool SandboxStore::exists(const std::string& key) const {
  // Also a link to what a removal that was cut short has removed already.
  struct stat status {};
  return ::lstat(entry(key).c_str(), &status) == 0;
}

std::string SandboxStore::dir(const std::string& key) const {
  const std::string target = link_target(entry(key));
  return target.starts_with(kPoolLink) ? pool_dir(target.substr(std::strlen(kPoolLink)))
                                       : entry(key);
}

std::vector<std::string> SandboxStore::pool_ids() const { return names_in(root_ + "/pool"); }

std::set<std::string> SandboxStore::linked_ids() const {
  // What the sandbox says of itself may be half removed already; the link goes last.
  std::set<std::string> ids;
  for (const std::string& key : keys()) {
    const std::string target = link_target(entry(key));
    if (target.starts_with(kPoolLink)) {
      ids.insert(target.substr(std::strlen(kPoolLink)));
    }
  }
  return ids;
}

std::map<std::string, std::string> SandboxStore::ready_kinds() const {
  std::map<std::string, std::string> kinds;
  for (const std::string& name : names_in(root_ + "/ready")) {
    const std::size_t dash = name.find('-');
    if (dash != std::string::npos) {
      kinds.emplace(name.substr(dash + 1), name.substr(0, dash));
    }
  }
  return kinds;
}

Result<void> SandboxStore::mark_ready(const std::string& id, const std::string& kind) const {
  if (::symlink((kPoolLink + id).c_str(), ready_path(id, kind).c_str()) != 0) {
    return disk_error("symlink " + ready_path(id, kind));
  }
  return {};
}

bool SandboxStore::unmark_ready(const std::string& id, const std::string& kind) const {
  return ::unlink(ready_path(id, kind).c_str()) == 0;
}

bool SandboxStore::take_ready(const std::string& id, const std::string& kind,
                              const std::string& key) const {
  return ::rename(ready_path(id, kind).c_str(), entry(key).c_str()) == 0;
}

std::optional<SandboxLock> SandboxStore::lock_with(const std::string& key, int operation) const {
  const std::string path = root_ + "/locks/" + key;
  for (;;) {
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd) {
      return std::nullopt;
    }
    while (::flock(fd.get(), operation) != 0) {
      if (errno != EINTR) {
        return std::nullopt;
      }
    }
    struct stat held {};
    struct stat named {};
    if (::fstat(fd.get(), &held) == 0 && ::stat(path.c_str(), &named) == 0 &&
        held.st_ino == named.st_ino && held.st_dev == named.st_dev) {
      return SandboxLock(std::move(fd), path);
    }
  }
}

Result<SandboxLock> SandboxStore::lock(const std::string& key) const {
  auto lock = lock_with(key, LOCK_EX);
  if (!lock) {
    return disk_error("lock " + key);
  }
  return std::move(*lock);
}

std::optional<SandboxLock> SandboxStore::try_lock(const std::string& key) const {
  return lock_with(key, LOCK_EX | LOCK_NB);
}

std::optional<SandboxRecord> SandboxStore::load(const std::string& key) const {
  const std::optional<std::string> text = read_file(dir(key) + "/meta.json");
  SandboxRecord record;
  record.key = key;
  record.dir = dir(key);
  if (!text || !from_json(*text, record) || sandbox_key(record.session_id) != key) {
    return std::nullopt;
  }
  return record;
}

std::optional<SandboxRecord> SandboxStore::load_pooled(const std::string& id) const {
  const std::optional<std::string> text = read_file(pool_dir(id) + "/meta.json");
  SandboxRecord record;
  record.dir = pool_dir(id);
  if (!text || !from_json(*text, record)) {
    return std::nullopt;
  }
  record.key = record.session_id.empty() ? id : sandbox_key(record.session_id);
  return record;
}

Result<void> SandboxStore::save(const SandboxRecord& record) const {
  const std::string path = record.dir + "/meta.json";
  const std::string fresh = path + ".new";
  const UniqueFd fd(::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd || !write_all(fd.get(), to_json(record)) || ::rename(fresh.c_str(), path.c_str()) != 0) {
    return disk_error("write " + path);
  }
  return {};
}

Result<void> SandboxStore::make_directories(const SandboxRecord& record) const {
  for (const char* name : {"", "/log", "/workspace"}) {
    if (auto made = make_directory(record.dir + name); !made) {
      return made;
    }
  }
  return {};
}

Result<void> SandboxStore::remove(const std::string& key) const {
  log_last_words(key, dir(key) + "/sandbox.log");
  if (auto removed = remove_tree(dir(key)); !removed) {
    return removed;
  }
  // A link goes last: until then what is left of the sandbox is this session's.
  if (::unlink(entry(key).c_str()) != 0 && errno != ENOENT) {
    return disk_error("unlink " + entry(key));
  }
  return {};
}

Result<void> SandboxStore::remove_pooled(const std::string& id) const {
  return remove_tree(pool_dir(id));
}

}  // namespace runbus::session
