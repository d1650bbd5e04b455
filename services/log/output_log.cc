#include "services/log/output_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace runbus::log {
namespace {

UniqueFd make_file(int directory_fd, const std::string& path) {
  return UniqueFd(::openat(directory_fd, path.c_str(),
                           O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
}

bool write_all(int file, std::string_view bytes) {
  return ::write(file, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size());
}

constexpr const char* kFirstSegment = "/0";
constexpr const char* kHead = "/head";
constexpr const char* kFreshEnd = "/end.new";
constexpr const char* kEnd = "/end";

void remove_files(int directory_fd, const std::string& name) {
  for (const char* file : {kFirstSegment, kHead, kFreshEnd, kEnd}) {
    ::unlinkat(directory_fd, (name + file).c_str(), 0);
  }
  ::unlinkat(directory_fd, name.c_str(), AT_REMOVEDIR);
}

}  // namespace

bool PreparedLog::make(int directory_fd) {
  if (is_ready() || directory_fd < 0) {
    return is_ready();
  }
  const std::string name = kName;
  remove_files(directory_fd, name);  // what an earlier process left
  if (::mkdirat(directory_fd, kName, 0700) == 0) {
    head_ = make_file(directory_fd, name + kHead);
    segment_ = make_file(directory_fd, name + kFirstSegment);
    end_ = make_file(directory_fd, name + kFreshEnd);
  }
  if (!head_ || !segment_) {
    end_.reset();
  }
  return is_ready();
}

OutputLog::OutputLog(std::uint64_t size, LogSpace& space)
    : size_(std::max(size, kMinSize)), space_(space) {}

OutputLog::~OutputLog() { space_.used -= taken_; }

bool OutputLog::create(int directory_fd, const std::string& name, std::string_view head,
                       PreparedLog* prepared) {
  directory_fd_ = directory_fd;
  name_ = name;
  if (prepared != nullptr && prepared->is_ready() && take(*prepared, head)) {
    in_files_ = true;
    return true;
  }
  if (directory_fd < 0 || ::mkdirat(directory_fd, name.c_str(), 0700) != 0) {
    name_.clear();
    return false;
  }
  in_files_ = true;
  const UniqueFd file = make_file(directory_fd, name + kHead);
  if (!file || !write_all(file.get(), head)) {
    remove();
    return false;
  }
  return true;
}

// Its files are used up in any case.
bool OutputLog::take(PreparedLog& prepared, std::string_view head) {
  const UniqueFd head_file = std::move(prepared.head_);
  first_file_ = std::move(prepared.segment_);
  end_file_ = std::move(prepared.end_);
  if (write_all(head_file.get(), head) &&
      ::renameat(directory_fd_, PreparedLog::kName, directory_fd_, name_.c_str()) == 0) {
    return true;
  }
  first_file_.reset();
  end_file_.reset();
  return false;
}

// A log that is partly in memory goes by the smaller bound.
std::uint64_t OutputLog::limit() const { return in_files_ ? size_ : std::min(size_, kMaxMemory); }

std::uint64_t OutputLog::capacity() const { return (limit() - segment_size()) / (kRecordHead + 1); }

std::uint64_t OutputLog::first_offset() const {
  return segments_.empty() ? end_ : segments_.front().start;
}

std::string OutputLog::path(const Segment& segment) const {
  return name_ + "/" + std::to_string(segment.start);
}

void OutputLog::append(int stream, std::string_view bytes) {
  while (!bytes.empty()) {
    bytes.remove_prefix(add_record(stream, bytes));
    make_room();
  }
}

std::size_t OutputLog::add_record(int stream, std::string_view bytes) {
  for (;;) {
    Segment& segment = segment_with_room();
    const std::size_t size = std::min<std::uint64_t>(
        {bytes.size(), kMaxRecord, segment_size() - segment.taken - kRecordHead});
    const int error = write_record(segment, stream, bytes.substr(0, size));
    if (error == 0) {
      end_ += size;
      return size;
    }
    if (segment.taken > 0) {
      // The file may not grow (a limit of its size, or the disk is full): the next one perhaps.
      segments_.push_back(Segment{.start = end_, .taken = 0, .in_file = false, .memory = {}});
      file_.reset();
    } else if ((error == ENOSPC || error == EDQUOT) && segments_.size() > 1 &&
               segments_.front().in_file) {
      evict_first();
    } else {
      in_files_ = false;
    }
  }
}

// The last segment, or a new one.
OutputLog::Segment& OutputLog::segment_with_room() {
  if (segments_.empty() || segments_.back().taken + kRecordHead >= segment_size()) {
    segments_.push_back(Segment{.start = end_, .taken = 0, .in_file = false, .memory = {}});
    file_.reset();
  }
  Segment& last = segments_.back();
  if (last.taken == 0) {
    last.in_file = in_files_;
  }
  return last;
}

int OutputLog::write_record(Segment& segment, int stream, std::string_view bytes) {
  std::array<char, kRecordHead> head{};
  encode_record_head(stream, bytes.size(), head.data());
  if (segment.in_file) {
    if (const int error = write_to_file(segment, {head.data(), head.size()}, bytes)) {
      return error;
    }
  } else {
    segment.memory.append(head.data(), head.size());
    segment.memory.append(bytes);
  }
  const std::uint64_t size = head.size() + bytes.size();
  segment.taken += size;
  taken_ += size;
  space_.used += size;
  return 0;
}

int OutputLog::write_to_file(Segment& segment, std::string_view head, std::string_view bytes) {
  if (!file_ && segment.start == 0) {
    file_ = std::move(first_file_);
  }
  if (!file_) {
    file_.reset(::openat(directory_fd_, path(segment).c_str(),
                         O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!file_) {
      return errno;
    }
  }
  const std::array<iovec, 2> parts{{{const_cast<char*>(head.data()), head.size()},
                                    {const_cast<char*>(bytes.data()), bytes.size()}}};
  const ssize_t written = ::pwritev(file_.get(), parts.data(), static_cast<int>(parts.size()),
                                    static_cast<off_t>(segment.taken));
  if (written == static_cast<ssize_t>(head.size() + bytes.size())) {
    return 0;
  }
  int error = errno;
  if (written >= 0) {
    // Why there was no room for the rest, the next byte tells.
    const off_t next = static_cast<off_t>(segment.taken) + written;
    error = ::pwrite(file_.get(), head.data(), 1, next) < 0 ? errno : ENOSPC;
  }
  if (::ftruncate(file_.get(), static_cast<off_t>(segment.taken)) != 0 || segment.taken == 0) {
    // What is left of the record is cut off for readers by the next segment's offset.
    file_.reset();
  }
  if (segment.taken == 0) {
    ::unlinkat(directory_fd_, path(segment).c_str(), 0);
  }
  return error;
}

void OutputLog::make_room() {
  if (space_.used > space_.limit && space_.on_full) {
    space_.on_full();
  }
  while (segments_.size() > 1 &&
         (taken_ > limit() || (space_.used > space_.limit && taken_ > kShare))) {
    evict_first();
  }
}

void OutputLog::evict_first() {
  const Segment& first = segments_.front();
  if (first.in_file) {
    ::unlinkat(directory_fd_, path(first).c_str(), 0);
  }
  taken_ -= first.taken;
  space_.used -= first.taken;
  segments_.pop_front();
}

bool OutputLog::finish(std::string_view end) {
  file_.reset();
  if (name_.empty()) {
    return false;
  }
  // Whole or not at all, whenever this process is killed.
  const std::string fresh = name_ + kFreshEnd;
  const UniqueFd file = end_file_ ? std::move(end_file_) : make_file(directory_fd_, fresh);
  return file && write_all(file.get(), end) &&
         ::renameat(directory_fd_, fresh.c_str(), directory_fd_, (name_ + kEnd).c_str()) == 0;
}

void OutputLog::remove() {
  file_.reset();
  first_file_.reset();
  end_file_.reset();
  while (!segments_.empty()) {
    evict_first();
  }
  if (!name_.empty()) {
    remove_files(directory_fd_, name_);
  }
  name_.clear();
  in_files_ = false;
}

Piece OutputLog::read(RecordReader& reader, std::uint64_t offset, char* to, std::size_t room) {
  auto next = std::upper_bound(
      segments_.begin(), segments_.end(), offset,
      [](std::uint64_t value, const Segment& segment) { return value < segment.start; });
  const Segment& segment = *std::prev(next);
  if (!reader.is_at(segment.start)) {
    if (segment.in_file) {
      reader.open(segment.start, UniqueFd(::openat(directory_fd_, path(segment).c_str(),
                                                   O_RDONLY | O_NOFOLLOW | O_CLOEXEC)));
    } else {
      reader.open_memory(segment.start);
    }
  }
  const Piece piece = reader.read(offset, to, room, segment.memory);
  if (piece.size == 0) {
    // A file that does not give its bytes back; what comes after it may be there.
    reader.close();
    while (!segments_.empty() && segments_.front().start <= offset) {
      evict_first();
    }
  }
  return piece;
}

}  // namespace runbus::log
