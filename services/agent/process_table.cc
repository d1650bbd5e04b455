#include "services/agent/process_table.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace runbus::agent {
namespace {

bool read_entry(int directory, const char* name, ProcessEntry& entry) {
  const std::string path = std::string(name) + "/stat";
  const UniqueFd file(::openat(directory, path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) {
    return false;
  }
  std::array<char, 512> text{};
  const ssize_t size = ::read(file.get(), text.data(), text.size() - 1);
  if (size <= 0) {
    return false;
  }
  // The name in parentheses is the program's to choose: the last ")" ends it.
  const char* const after = std::strrchr(text.data(), ')');
  int parent = 0;
  int session = 0;
  if (after == nullptr ||
      std::sscanf(after + 1, " %c %d %*d %d", &entry.state, &parent, &session) != 3) {
    return false;
  }
  entry.pid = static_cast<pid_t>(std::strtol(name, nullptr, 10));
  entry.parent = parent;
  entry.session = session;
  return true;
}

}  // namespace

ProcessTable::ProcessTable()
    : reserve_(::open("/dev/null", O_RDONLY | O_CLOEXEC)),
      directory_(::open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {}

void ProcessTable::read() {
  entries_.clear();
  parents_.clear();
  if (!directory_) {
    return;
  }
  reserve_.reset();
  alignas(dirent64) std::array<char, 16384> buffer{};
  ::lseek(directory_.get(), 0, SEEK_SET);
  for (;;) {
    const ssize_t size = ::getdents64(directory_.get(), buffer.data(), buffer.size());
    if (size <= 0) {
      break;
    }
    for (ssize_t at = 0; at < size;) {
      const auto* item = reinterpret_cast<const dirent64*>(buffer.data() + at);
      at += item->d_reclen;
      ProcessEntry entry;
      if (item->d_name[0] >= '1' && item->d_name[0] <= '9' &&
          read_entry(directory_.get(), item->d_name, entry)) {
        entries_.push_back(entry);
        parents_[entry.pid] = entry.parent;
      }
    }
  }
  reserve_.reset(::open("/dev/null", O_RDONLY | O_CLOEXEC));
}

std::optional<ProcessEntry> ProcessTable::look_up(pid_t pid) {
  const UniqueFd directory(::open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ProcessEntry entry;
  if (!directory || !read_entry(directory.get(), std::to_string(pid).c_str(), entry)) {
    return std::nullopt;
  }
  return entry;
}

pid_t ProcessTable::parent_of(pid_t pid) const {
  const auto found = parents_.find(pid);
  return found == parents_.end() ? 0 : found->second;
}

}  // namespace runbus::agent
