#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "services/log/stored_log.h"

namespace {

using runbus::UniqueFd;
using runbus::log::Piece;
using runbus::log::StoredLog;

constexpr std::size_t kMostFiles = 8;

void expect(bool what) {
  if (!what) {
    std::abort();
  }
}

// An empty folder of this process, in memory where there is that.
class Folder {
 public:
  Folder() {
    path_ = std::filesystem::exists("/dev/shm") ? "/dev/shm/" : "/tmp/";
    path_ += "stored_log_fuzz-XXXXXX";
    expect(::mkdtemp(path_.data()) != nullptr);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

const std::string& folder() {
  static const Folder folder;
  return folder.path();
}

// Files of what the input says, each: the kind of its name, and whether it begins with a head · u16
// size · u8 for a segment's offset · bytes.
std::vector<std::string> write_files(std::string_view input) {
  std::vector<std::string> names;
  while (input.size() >= 4 && names.size() < kMostFiles) {
    const auto byte = [&input](std::size_t at) { return static_cast<std::uint8_t>(input[at]); };
    const std::size_t size = std::min<std::size_t>(byte(1) * 256U + byte(2), input.size() - 4);
    std::string name;
    switch (byte(0) % 4) {
      case 0:
      case 1:
        name = std::to_string(byte(3));
        break;
      case 2:
        name = std::to_string(UINT64_MAX - byte(3));
        break;
      default:
        name = "0" + std::to_string(byte(3));
        break;
    }
    const std::string path = folder() + "/" + name;
    const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    expect(static_cast<bool>(file));
    if (byte(0) < 200) {
      expect(::write(file.get(), "\xfe\0\0\4head", 8) == 8);
    }
    expect(::write(file.get(), input.data() + 4, size) == static_cast<ssize_t>(size));
    names.push_back(path);
    input.remove_prefix(4 + size);
  }
  return names;
}

// One byte of output, or a byte that is not there (stream 0), run-length coded.
struct Run {
  int stream = 0;
  std::uint64_t size = 0;
  std::string bytes;
  bool operator==(const Run&) const = default;
};

std::vector<Run> read_all(std::size_t room) {
  auto log =
      StoredLog::open(UniqueFd(::open(folder().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)));
  std::vector<Run> runs;
  if (!log) {
    return runs;
  }
  expect(log->first_offset() <= log->end_offset());
  expect(!log->head().empty() && log->head().size() <= runbus::log::kMaxNote);
  expect(!log->end() || log->end()->size() <= runbus::log::kMaxNote);
  std::vector<char> buffer(room);
  for (std::uint64_t offset = log->first_offset(); offset < log->end_offset();) {
    const Piece piece = log->read(offset, buffer.data(), room);
    expect(piece.size <= room);
    std::uint64_t next = offset + piece.size;
    if (piece.size == 0) {
      next = log->after(offset);
      expect(next <= log->end_offset());
    }
    expect(next > offset);
    const int stream = piece.size == 0 ? 0 : piece.stream;
    if (runs.empty() || runs.back().stream != stream) {
      runs.push_back({stream, 0, {}});
    }
    runs.back().size += next - offset;
    runs.back().bytes.append(buffer.data(), piece.size);
    offset = next;
  }
  return runs;
}

}  // namespace

// Whatever an agent left, reading it ends, gives no more than there is, and gives the same bytes
// however much is asked for at once.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) {
    return 0;
  }
  const std::size_t room = data[0] % 64U + 1;
  const auto files = write_files({reinterpret_cast<const char*>(data) + 1, size - 1});
  expect(read_all(room) == read_all(1U << 16U));
  for (const std::string& file : files) {
    ::unlink(file.c_str());
  }
  return 0;
}
