#include "services/agent/output_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace runbus::agent {
namespace {

// An unnamed file; on file systems without O_TMPFILE one that is unlinked at once.
UniqueFd open_unnamed(int directory_fd) {
  UniqueFd file(::openat(directory_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (file || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT)) {
    return file;
  }
  static std::uint64_t counter = 0;
  const std::string name = ".log-" + std::to_string(::getpid()) + "-" + std::to_string(counter++);
  file.reset(::openat(directory_fd, name.c_str(),
                      O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (file && ::unlinkat(directory_fd, name.c_str(), 0) != 0) {
    file.reset();
  }
  return file;
}

}  // namespace

OutputLog::OutputLog(std::uint64_t size, int directory_fd)
    : size_(std::max(size, kMinSize)),
      directory_fd_(directory_fd),
      ring_(std::min(size_, directory_fd >= 0 ? kMemorySize : kMaxMemoryRing)),
      may_spill_(directory_fd >= 0 && size_ > kMemorySize) {}

std::uint64_t OutputLog::capacity() const { return may_spill_ && !file_ ? size_ : ring_; }

void OutputLog::append(int stream, std::string_view bytes) {
  if (may_spill_ && !file_ && end_ + bytes.size() > kMemorySize) {
    spill();
  }
  marks_.append(stream, bytes.size());
  if (bytes.size() > ring_) {
    const std::uint64_t skipped = bytes.size() - ring_;
    end_ += skipped;
    bytes.remove_prefix(skipped);
  }
  const std::uint64_t offset = end_;
  end_ += bytes.size();
  store(offset, bytes);
  evict();
}

void OutputLog::store(std::uint64_t offset, std::string_view bytes) {
  if (file_) {
    store_in_file(offset, bytes);
  } else {
    store_in_memory(offset, bytes);
  }
}

void OutputLog::store_in_memory(std::uint64_t offset, std::string_view bytes) {
  const std::uint64_t wanted = std::min(ring_, offset + bytes.size());
  if (memory_.size() < wanted) {
    memory_.resize(
        std::min<std::uint64_t>(ring_, std::max<std::uint64_t>(wanted, 2 * memory_.size())));
  }
  while (!bytes.empty()) {
    const std::uint64_t position = offset % ring_;
    const std::size_t size = std::min<std::uint64_t>(bytes.size(), ring_ - position);
    std::memcpy(memory_.data() + position, bytes.data(), size);
    bytes.remove_prefix(size);
    offset += size;
  }
}

void OutputLog::store_in_file(std::uint64_t offset, std::string_view bytes) {
  while (!bytes.empty()) {
    const std::uint64_t position = offset % ring_;
    const std::size_t size = std::min<std::uint64_t>(bytes.size(), ring_ - position);
    const ssize_t written = ::pwrite(file_.get(), bytes.data(), size, static_cast<off_t>(position));
    if (written < 0 && errno == EINTR) {
      continue;
    }
    if (written > 0) {
      bytes.remove_prefix(static_cast<std::size_t>(written));
      offset += static_cast<std::uint64_t>(written);
      continue;
    }
    if (position == offset && offset >= kMemorySize) {
      // The disk is full before the first turn of the ring: from now on the ring is what fitted.
      // Offsets below keep their places.
      ring_ = offset;
      continue;
    }
    lost_below_ = offset + bytes.size();
    return;
  }
}

void OutputLog::spill() {
  // Nothing has turned yet: offsets are positions.
  file_ = open_unnamed(directory_fd_);
  if (file_) {
    ring_ = size_;
    store_in_file(0, std::string_view(memory_).substr(0, end_));
    if (lost_below_ == 0) {
      std::string().swap(memory_);
      return;
    }
  }
  lost_below_ = 0;
  file_.reset();
  may_spill_ = false;
  ring_ = std::min(size_, kMaxMemoryRing);
}

void OutputLog::evict() {
  first_ = std::max(first_, lost_below_);
  if (end_ - first_ > ring_) {
    first_ = end_ - ring_;
  }
  marks_.drop_before(first_);
  // Marks count too, or a program that alternates streams would take twice its size.
  while (first_ < end_ && footprint() > ring_ + kMinSize) {
    first_ += std::min(footprint() - ring_, end_ - first_);
    marks_.drop_before(first_);
  }
}

OutputLog::Piece OutputLog::read(std::uint64_t offset, char* to, std::size_t room) {
  const StreamMarks::Run run = marks_.at(offset);
  const std::uint64_t position = offset % ring_;
  const std::size_t size =
      std::min({static_cast<std::uint64_t>(room), run.left, end_ - offset, ring_ - position});
  if (!file_) {
    std::memcpy(to, memory_.data() + position, size);
    return {run.stream, size};
  }
  std::size_t done = 0;
  while (done < size) {
    const ssize_t count =
        ::pread(file_.get(), to + done, size - done, static_cast<off_t>(position + done));
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count <= 0) {
      break;
    }
    done += static_cast<std::size_t>(count);
  }
  if (done == 0) {
    lost_below_ = end_;
    evict();
  }
  return {run.stream, done};
}

}  // namespace runbus::agent
