#include "services/log/stored_log.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>

namespace runbus::log {
namespace {

// Beyond this an offset is nonsense, and sums of offsets and sizes cannot overflow.
constexpr std::uint64_t kMaxOffset = 1ULL << 60U;

struct CloseDirectory {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

// The offset that a segment's name says.
std::optional<std::uint64_t> offset_of(const char* name) {
  const char* const end = name + std::strlen(name);
  std::uint64_t offset = 0;
  const auto [rest, error] = std::from_chars(name, end, offset);
  if (error != std::errc() || rest != end || offset > kMaxOffset ||
      std::to_string(offset) != name) {
    return std::nullopt;
  }
  return offset;
}

std::optional<std::string> read_note(int folder, const std::string& name) {
  const UniqueFd file = open_untrusted(folder, name);
  if (!file) {
    return std::nullopt;
  }
  std::string bytes(StoredLog::kMaxNote + 1, '\0');
  std::size_t size = 0;
  while (size < bytes.size()) {
    const ssize_t count = ::read(file.get(), bytes.data() + size, bytes.size() - size);
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count < 0) {
      return std::nullopt;
    }
    if (count == 0) {
      bytes.resize(size);
      return bytes;
    }
    size += static_cast<std::size_t>(count);
  }
  return std::nullopt;
}

}  // namespace

UniqueFd open_untrusted(int folder, const std::string& name) {
  UniqueFd file(
      ::openat(folder, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  struct stat status {};
  if (file && (::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode))) {
    file.reset();
  }
  return file;
}

std::optional<StoredLog> StoredLog::open(UniqueFd folder) {
  auto head = folder ? read_note(folder.get(), "head") : std::nullopt;
  if (!head) {
    return std::nullopt;
  }
  StoredLog log;
  log.folder_ = std::move(folder);
  log.head_ = std::move(*head);
  log.end_ = read_note(log.folder_.get(), "end");
  log.find_segments();
  return log;
}

void StoredLog::find_segments() {
  const int own = ::openat(folder_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const std::unique_ptr<DIR, CloseDirectory> directory(own < 0 ? nullptr : ::fdopendir(own));
  while (directory && starts_.size() < kMaxSegments) {
    const dirent* const entry = ::readdir(directory.get());
    if (entry == nullptr) {
      break;
    }
    if (const auto offset = offset_of(entry->d_name)) {
      starts_.push_back(*offset);
    }
  }
  std::sort(starts_.begin(), starts_.end());
  if (starts_.empty()) {
    return;
  }
  first_ = starts_.front();
  end_offset_ = starts_.back();
  if (UniqueFd file = open_segment(starts_.back())) {
    reader_.open(starts_.back(), std::move(file));
    end_offset_ = reader_.find_end();
  }
}

UniqueFd StoredLog::open_segment(std::uint64_t start) const {
  return open_untrusted(folder_.get(), std::to_string(start));
}

std::uint64_t StoredLog::after(std::uint64_t offset) const {
  const auto next = std::upper_bound(starts_.begin(), starts_.end(), offset);
  return next == starts_.end() ? end_offset_ : std::min(*next, end_offset_);
}

Piece StoredLog::read(std::uint64_t offset, char* to, std::size_t room) {
  const auto next = std::upper_bound(starts_.begin(), starts_.end(), offset);
  if (next == starts_.begin()) {
    return {};
  }
  const std::uint64_t start = *std::prev(next);
  if (!reader_.is_at(start)) {
    UniqueFd file = open_segment(start);
    if (!file) {
      return {};
    }
    reader_.open(start, std::move(file));
  }
  const std::uint64_t end = after(offset);
  return reader_.read(offset, to, std::min<std::uint64_t>(room, end - std::min(end, offset)));
}

}  // namespace runbus::log
