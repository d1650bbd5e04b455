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

constexpr const char* kFirstSegment = "/0";

void remove_first(int directory_fd, const std::string& name) {
  ::unlinkat(directory_fd, (name + kFirstSegment).c_str(), 0);
  ::unlinkat(directory_fd, name.c_str(), AT_REMOVEDIR);
}

}  // namespace

bool PreparedLog::make(int directory_fd) {
  if (is_ready() || directory_fd < 0) {
    return is_ready();
  }
  const std::string name = kName;
  const auto make_folder = [directory_fd] { return ::mkdirat(directory_fd, kName, 0700) == 0; };
  bool made = make_folder();
  if (!made && errno == EEXIST) {  // an earlier process left it
    remove_first(directory_fd, name);
    made = make_folder();
  }
  if (made) {
    file_ = make_file(directory_fd, name + kFirstSegment);
  }
  return is_ready();
}

void PreparedLog::make_of(int directory_fd, const std::string& name) {
  if (is_ready() || ::renameat(directory_fd, name.c_str(), directory_fd, kName) != 0) {
    remove_first(directory_fd, name);
    return;
  }
  UniqueFd file(::openat(directory_fd, (kName + std::string(kFirstSegment)).c_str(),
                         O_WRONLY | O_NOFOLLOW | O_CLOEXEC));
  // Not to nothing: such a file ext4 writes to the disk when it is closed. A byte is no record.
  if (!file || ::ftruncate(file.get(), 1) != 0) {
    remove_first(directory_fd, kName);
    return;
  }
  file_ = std::move(file);
}

OutputLog::OutputLog(std::uint64_t size, LogSpace& space)
    : size_(std::max(size, kMinSize)), space_(space) {}

OutputLog::~OutputLog() { space_.used -= taken_; }

bool OutputLog::create(int directory_fd, const std::string& name, std::string_view head,
                       PreparedLog* prepared) {
  directory_fd_ = directory_fd;
  head_ = encode_record(kHead, head.substr(0, kMaxHead));
  if (prepared != nullptr && prepared->is_ready()) {  // it is used up in any case
    name_ = PreparedLog::kName;
    if (begin(std::move(prepared->file_)) &&
        ::renameat(directory_fd, PreparedLog::kName, directory_fd, name.c_str()) == 0) {
      name_ = name;
      return true;
    }
    remove();
  }
  if (directory_fd < 0 || ::mkdirat(directory_fd, name.c_str(), 0700) != 0) {
    return false;
  }
  name_ = name;
  if (!begin(make_file(directory_fd, name + kFirstSegment))) {
    remove();
    return false;
  }
  return true;
}

// The first segment, with the head in it.
bool OutputLog::begin(UniqueFd file) {
  const auto size = static_cast<ssize_t>(head_.size());
  if (!file || ::write(file.get(), head_.data(), head_.size()) != size) {
    return false;
  }
  file_ = std::move(file);
  in_files_ = true;
  segments_.push_back({.start = 0, .taken = head_.size(), .in_file = true, .memory = {}});
  taken_ += head_.size();
  space_.used += head_.size();
  return true;
}

// A log that is partly in memory goes by the smaller bound.
std::uint64_t OutputLog::limit() const { return in_files_ ? size_ : std::min(size_, kMaxMemory); }

std::uint64_t OutputLog::capacity() const {
  const std::uint64_t segments = limit() / segment_size();
  return (limit() - segment_size() - segments * head_.size()) / (kRecordHead + 1);
}

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
    const std::uint64_t before =
        segment.in_file ? std::max(segment.taken, head_.size()) : segment.taken;
    const std::size_t size =
        std::min<std::uint64_t>({bytes.size(), kMaxRecord, segment_size() - before - kRecordHead});
    const int error = write_record(segment, stream, bytes.substr(0, size));
    if (error == 0) {
      end_ += size;
      return size;
    }
    if (segment.start < end_) {
      // The file may not grow (a limit of its size, or the disk is full): the next one perhaps.
      add_segment(in_files_);
    } else if ((error == ENOSPC || error == EDQUOT) && segments_.size() > 1 &&
               segments_.front().in_file) {
      evict_first();
    } else {
      in_files_ = false;
      if (segment.taken > 0) {
        add_segment(in_files_);  // of the head alone it has a file
      }
    }
  }
}

// The last segment, or a new one.
OutputLog::Segment& OutputLog::segment_with_room() {
  if (segments_.empty() || segments_.back().taken + kRecordHead >= segment_size()) {
    add_segment(in_files_);
  }
  Segment& last = segments_.back();
  if (last.taken == 0) {
    last.in_file = in_files_;
  }
  return last;
}

void OutputLog::add_segment(bool in_file) {
  segments_.push_back({.start = end_, .taken = 0, .in_file = in_file, .memory = {}});
  file_.reset();
}

int OutputLog::write_record(Segment& segment, int stream, std::string_view bytes) {
  std::array<char, kRecordHead> head{};
  encode_record_head(stream, bytes.size(), head.data());
  const std::string_view record_head(head.data(), head.size());
  const std::string_view log_head =
      segment.in_file && segment.taken == 0 ? head_ : std::string_view();
  if (segment.in_file) {
    if (const int error = write_to_file(segment, {log_head, record_head, bytes})) {
      return error;
    }
  } else {
    segment.memory.append(record_head).append(bytes);
  }
  const std::uint64_t size = log_head.size() + record_head.size() + bytes.size();
  segment.taken += size;
  taken_ += size;
  space_.used += size;
  return 0;
}

int OutputLog::write_to_file(const Segment& segment, const std::array<std::string_view, 3>& parts) {
  if (!file_) {
    file_.reset(::openat(directory_fd_, path(segment).c_str(),
                         O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!file_) {
      return errno;
    }
  }
  std::array<iovec, 3> vectors{};
  std::size_t size = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    vectors[i] = {const_cast<char*>(parts[i].data()), parts[i].size()};
    size += parts[i].size();
  }
  const ssize_t written = ::pwritev(file_.get(), vectors.data(), static_cast<int>(vectors.size()),
                                    static_cast<off_t>(segment.taken));
  if (written == static_cast<ssize_t>(size)) {
    return 0;
  }
  int error = errno;
  if (written >= 0) {
    // Why there was no room for the rest, the next byte tells.
    const off_t next = static_cast<off_t>(segment.taken) + written;
    error = ::pwrite(file_.get(), "", 1, next) < 0 ? errno : ENOSPC;
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
  if (segments_.empty()) {
    file_.reset();
  }
}

bool OutputLog::finish(std::string_view end) {
  if (name_.empty()) {
    return false;
  }
  const auto write_end = [this, end] { return write_record(segments_.back(), kEnd, end) == 0; };
  bool written = file_ && write_end();
  if (!written && (segments_.empty() || segments_.back().start < end_)) {
    add_segment(true);
    written = write_end();
    if (!written) {
      segments_.pop_back();
    }
  }
  file_.reset();
  return written;
}

void OutputLog::remove(PreparedLog* reuse) {
  file_.reset();
  const bool one_file = segments_.size() == 1 && segments_.front().in_file && first_offset() == 0;
  if (reuse != nullptr && one_file && !name_.empty()) {
    taken_ -= segments_.front().taken;
    space_.used -= segments_.front().taken;
    segments_.clear();
    reuse->make_of(directory_fd_, name_);
    name_.clear();
  }
  while (!segments_.empty()) {
    evict_first();
  }
  if (!name_.empty()) {
    remove_first(directory_fd_, name_);
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
