#include "services/session/workspace_image.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "proto/support/id.h"
#include "services/session/engine_uid.h"
#include "services/session/launch.h"

namespace runbus::session {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxTemplates = 8;  // sessions may ask for any size
constexpr int kMaxAttempts = 64;          // others take loop devices at the same time
constexpr std::chrono::seconds kMakeBound{20};

Error errno_error(const std::string& what) {
  return make_error(ErrorCode::kInternal, {}, what + ": " + std::strerror(errno));
}

Result<void> make_file_system(const std::string& file, std::uint64_t bytes) {
  const std::string mkfs = find_program("mkfs.ext4");
  if (mkfs.empty()) {
    return make_error(ErrorCode::kUnavailable, "mkfs.ext4 is not installed (package e2fsprogs)");
  }
  {
    const UniqueFd fd(
        ::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
      return errno_error("making " + file);
    }
  }
  Launch launch;
  // No journal: after a crash of the machine there is no such session any more.
  launch.argv = {mkfs,
                 "-q",
                 "-F",
                 "-m",
                 "0",
                 "-b",
                 "4096",
                 "-i",
                 "16384",
                 "-O",
                 "^has_journal",
                 "-E",
                 "nodiscard,lazy_itable_init=1",
                 file};
  launch.environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
  launch.descriptors = {-1, -1, -1};
  const Result<int> code = run_program(launch, std::chrono::steady_clock::now() + kMakeBound);
  if (!code) {
    return code.error();
  }
  if (*code != 0) {
    return make_error(ErrorCode::kUnavailable, {},
                      "mkfs.ext4 of " + std::to_string(bytes) + " bytes ended with status " +
                          std::to_string(*code));
  }
  return {};
}

// Copies the parts that hold data.
Result<void> copy_sparse(const std::string& from, const std::string& to) {
  const UniqueFd source(::open(from.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  const UniqueFd target(
      ::open(to.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  const off_t size = source ? ::lseek(source.get(), 0, SEEK_END) : -1;
  if (!source || !target || size < 0 || ::ftruncate(target.get(), size) != 0) {
    return errno_error("copying " + from);
  }
  std::array<char, 65536> buffer;
  for (off_t at = ::lseek(source.get(), 0, SEEK_DATA); at >= 0 && at < size;
       at = ::lseek(source.get(), at, SEEK_DATA)) {
    const off_t end = ::lseek(source.get(), at, SEEK_HOLE);
    while (at < end) {
      const auto want = std::min<off_t>(end - at, static_cast<off_t>(buffer.size()));
      const ssize_t got = ::pread(source.get(), buffer.data(), static_cast<std::size_t>(want), at);
      if (got <= 0 ||
          ::pwrite(target.get(), buffer.data(), static_cast<std::size_t>(got), at) != got) {
        return errno_error("copying " + from);
      }
      at += got;
    }
  }
  return {};
}

// The empty file system of this size; empty when there are too many sizes already.
Result<std::string> find_template(std::uint64_t bytes) {
  const std::string folder = std::string(kRuntimeDir) + "/workspaces";
  for (const char* path : {kRuntimeDir, folder.c_str()}) {
    if (::mkdir(path, path == folder.c_str() ? 0700 : 0755) != 0 && errno != EEXIST) {
      return errno_error(std::string("mkdir ") + path);
    }
  }
  const std::string file = folder + "/" + std::to_string(bytes) + ".ext4";
  if (::access(file.c_str(), R_OK) == 0) {
    return file;
  }
  std::error_code ignored;
  if (std::distance(fs::directory_iterator(folder, ignored), fs::directory_iterator()) >=
      static_cast<std::ptrdiff_t>(kMaxTemplates)) {
    return std::string();
  }
  const std::string fresh = file + "." + random_hex(4);
  Result<void> made = make_file_system(fresh, bytes);
  if (made && ::rename(fresh.c_str(), file.c_str()) != 0) {
    made = errno_error("rename " + fresh);
  }
  if (!made) {
    ::unlink(fresh.c_str());
    return made.error();
  }
  return file;
}

UniqueFd open_device(const std::string& path, int number) {
  UniqueFd device(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!device && errno == ENOENT) {
    // A /dev that the kernel does not fill.
    constexpr unsigned kLoopMajor = 7;
    if (::mknod(path.c_str(), S_IFBLK | 0600, makedev(kLoopMajor, static_cast<unsigned>(number))) ==
        0) {
      device.reset(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    }
  }
  return device;
}

Result<WorkspaceImage> attach(const std::string& file) {
  const UniqueFd backing(::open(file.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  const UniqueFd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (!backing || !control) {
    return errno_error(backing ? "opening /dev/loop-control" : "opening " + file);
  }
  for (int attempt = 0; attempt < kMaxAttempts; ++attempt) {
    const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) {
      return errno_error("a free loop device");
    }
    WorkspaceImage image;
    image.device = "/dev/loop" + std::to_string(number);
    image.loop = open_device(image.device, number);
    if (!image.loop) {
      return errno_error("opening " + image.device);
    }
    loop_config config{};
    config.fd = static_cast<std::uint32_t>(backing.get());
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
    if (::ioctl(image.loop.get(), LOOP_CONFIGURE, &config) == 0) {
      return image;
    }
    if (errno != EBUSY) {
      return errno_error("configuring " + image.device);
    }
  }
  return make_error(ErrorCode::kUnavailable, {}, "no loop device could be had");
}

}  // namespace

Result<WorkspaceImage> make_workspace_image(const std::string& file, std::uint64_t bytes) {
  const Result<std::string> empty = find_template(bytes);
  if (!empty) {
    return empty.error();
  }
  const Result<void> made =
      empty->empty() ? make_file_system(file, bytes) : copy_sparse(*empty, file);
  return made ? attach(file) : Result<WorkspaceImage>(made.error());
}

}  // namespace runbus::session
