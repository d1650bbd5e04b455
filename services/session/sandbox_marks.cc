#include "services/session/sandbox_marks.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>

#include "proto/support/unique_fd.h"

namespace runbus::session {

std::string SandboxMarks::path_of(Mark mark) const {
  return dir_ + (mark == Mark::kUsed ? "/used" : (mark == Mark::kHeld ? "/held" : "/looked"));
}

void SandboxMarks::touch(Mark mark) const {
  // The time of the clock itself: the kernel's "now" of a file lags by up to a tick, and a use that
  // follows a release must come after it.
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  const timespec times[] = {now, now};
  const std::string path = path_of(mark);
  if (::utimensat(AT_FDCWD, path.c_str(), times, 0) != 0 && errno == ENOENT) {
    // Fails when the sandbox has gone meanwhile: then there is nothing to note.
    const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    if (fd) {
      ::futimens(fd.get(), times);
    }
  }
}

std::uint64_t SandboxMarks::marked_us(Mark mark) const {
  struct stat status {};
  if (::stat(path_of(mark).c_str(), &status) != 0) {
    return 0;
  }
  return static_cast<std::uint64_t>(status.st_mtim.tv_sec) * 1'000'000 +
         static_cast<std::uint64_t>(status.st_mtim.tv_nsec) / 1000;
}

void SandboxMarks::clear(Mark mark) const { ::unlink(path_of(mark).c_str()); }

bool SandboxMarks::is_paused() const { return ::access(paused_path().c_str(), F_OK) == 0; }

Result<void> SandboxMarks::note_paused() const {
  const std::string path = paused_path();
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) {
    return make_error(ErrorCode::kUnavailable, "this node cannot pause a sandbox now",
                      "open " + path + ": " + std::strerror(errno));
  }
  return {};
}

void SandboxMarks::note_resumed() const { ::unlink(paused_path().c_str()); }

}  // namespace runbus::session
