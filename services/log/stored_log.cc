#include "services/log/stored_log.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
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

constexpr const char* kFresh = "fresh";  // no segment's name

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
  StoredLog log;
  log.folder_ = std::move(folder);
  log.find_segments();
  if (log.starts_.empty() || !log.read_notes()) {
    return std::nullopt;
  }
  return log;
}

void StoredLog::find_segments() {
  const int own = folder_ ? ::openat(folder_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
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
}

bool StoredLog::read_notes() {
  first_ = starts_.front();
  end_offset_ = starts_.back();
  if (UniqueFd file = open_segment(starts_.front())) {
    reader_.open(starts_.front(), std::move(file));
    if (auto head = reader_.head()) {
      head_ = std::move(*head);
    }
  }
  if (head_.empty()) {
    return false;
  }
  if (UniqueFd file = open_segment(starts_.back())) {
    struct stat status {};
    ::fstat(file.get(), &status);
    written_at_ = std::chrono::seconds(status.st_mtim.tv_sec) +
                  std::chrono::milliseconds(status.st_mtim.tv_nsec / 1'000'000);
    reader_.open(starts_.back(), std::move(file));
    RecordReader::End end = reader_.find_end();
    end_offset_ = end.offset;
    end_ = std::move(end.note);
  }
  return true;
}

// As a segment that has no bytes; one that is there already had none either.
bool StoredLog::finish(const std::string& end) {
  if (end_ || end.empty() || end.size() > kMaxNote) {
    return false;
  }
  const std::string bytes = encode_record(kHead, head_) + encode_record(kEnd, end);
  ::unlinkat(folder_.get(), kFresh, 0);
  const UniqueFd file(
      ::openat(folder_.get(), kFresh, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  const std::string name = std::to_string(end_offset_);
  if (!file ||
      ::write(file.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()) ||
      ::renameat(folder_.get(), kFresh, folder_.get(), name.c_str()) != 0) {
    return false;
  }
  if (starts_.back() != end_offset_) {
    starts_.push_back(end_offset_);
  }
  end_ = end;
  return true;
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
